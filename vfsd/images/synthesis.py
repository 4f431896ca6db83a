"""TIFFs that nobody wrote: the header of a stack of planes, of which any range can be read without making the rest.

`synthesize_ome_tiff` and `synthesize_hyperstack` say how large such a file is, which bytes of it are header
(`SynthesizedTiff.read_head`) and which are pixels of which plane (`SynthesizedTiff.locate`). All pixels lie
behind the header, little-endian, plane after plane, one strip each. The directories of an OME-TIFF are made when
they are read: a stack of a million planes costs no more than one. Nothing here reads a file or knows where pixels are.

The same arguments give the same bytes, in every version that keeps this format: programs that map a file while it
is mounted anew must not see it move.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

if TYPE_CHECKING:
    import numpy as np

from vfsd.images import tags

SHORT, LONG, ASCII, RATIONAL, LONG8, BYTE = 3, 4, 2, 5, 16, 1
X_RESOLUTION: Final = 282
Y_RESOLUTION: Final = 283
RESOLUTION_UNIT: Final = 296
SOFTWARE: Final = 305
IMAGEJ_BYTE_COUNTS: Final = 50838
IMAGEJ_METADATA: Final = 50839

# Offsets of a classic TIFF are 32 bit: what is larger is a BigTIFF.
CLASSIC_LIMIT: Final = 1 << 32
# File sizes are signed 64 bit numbers; the margin keeps sums in here within them too.
LARGEST_FILE: Final = 1 << 62
# Where pixels begin is a multiple of this, so that a mapping of the file has every element type aligned.
PIXEL_ALIGNMENT: Final = 4096
# TIFF's widths and heights are 32 bit.
LARGEST_SIDE: Final = (1 << 32) - 1
# A numerator and a denominator of 32 bit: what is far from one keeps six digits.
RATIONAL_BASE: Final = 1_000_000

# TIFF's SampleFormat by numpy's kind: unsigned, signed, floating point.
SAMPLE_FORMATS: Final[Mapping[str, int]] = {"u": 1, "i": 2, "f": 3}

# What ImageJ 1 opens (tried with Debian's 1.53t): it takes signed bytes for unsigned ones, and no 64-bit numbers.
IMAGEJ_TYPES: Final = frozenset({"u1", "u2", "i2", "u4", "i4", "f4"})


class SynthesisError(ValueError):
    """No TIFF can be made of this; the message says why."""


@final
@dataclass(frozen=True, slots=True)
class Stack:
    """A stack of planes: element type, sizes along time, channel and z, and the planes' own."""

    dtype: np.dtype[Any]
    times: int
    channels: int
    slices: int
    height: int
    width: int

    @property
    def planes(self) -> int:
        """How many planes there are."""
        return self.times * self.channels * self.slices

    @property
    def plane_bytes(self) -> int:
        """Bytes of one plane."""
        return self.height * self.width * self.dtype.itemsize


class PlaneRun(NamedTuple):
    """A stretch of one plane in a file: where, of which plane (by time, channel, z), from which of its bytes on."""

    file_offset: int
    time: int
    channel: int
    slice: int
    plane_offset: int
    length: int


class _Value(NamedTuple):
    """A directory's entry: tag, type, count, and its bytes, or the number of a later strip's offset."""

    tag: int
    kind: int
    values: int
    data: bytes


@final
@dataclass(frozen=True, slots=True)
class SynthesizedTiff:
    """See the module.

    Attributes
    ----------
    stack : Stack
        What is in it.
    big : bool
        Whether it is a BigTIFF.
    first : bytes
        The header, the first directory and its values.
    later : callable
        Makes the directory of a plane after the first, each of `later_bytes` bytes, one behind the other.
    pixels : int
        Where the first plane begins.
    channels_first : bool
        Whether the channels of a slice lie side by side (ImageJ: XYCZT), not the slices of a channel (XYZCT).
    """

    stack: Stack
    big: bool
    first: bytes
    later: Callable[[int], bytes]
    later_bytes: int
    later_count: int
    pixels: int
    channels_first: bool

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return self.pixels + self.stack.planes * self.stack.plane_bytes

    def read_head(self, offset: int, size: int) -> bytes:
        """The bytes [offset, offset + size) as far as they lie before the pixels."""
        end = min(offset + size, self.pixels)
        if end <= offset:
            return b""
        out = bytearray(end - offset)
        _overlay(out, offset, 0, self.first)
        start = len(self.first)
        if self.later_count and end > start:
            low = max(0, (offset - start) // self.later_bytes)
            high = min(self.later_count, -(-(end - start) // self.later_bytes))
            for number in range(low, high):
                _overlay(out, offset, start + number * self.later_bytes, self.later(number + 1))
        return bytes(out)

    def locate(self, offset: int, size: int) -> Iterator[PlaneRun]:
        """The stretches of planes that the bytes [offset, offset + size) have, in their order."""
        plane_bytes = self.stack.plane_bytes
        at, end = max(offset, self.pixels), min(offset + size, self.size)
        while at < end:
            number, skip = divmod(at - self.pixels, plane_bytes)
            length = min(plane_bytes - skip, end - at)
            yield PlaneRun(at, *self._place(number), skip, length)
            at += length

    def _place(self, number: int) -> tuple[int, int, int]:
        stack = self.stack
        if self.channels_first:
            rest, channel = divmod(number, stack.channels)
            time, slice_ = divmod(rest, stack.slices)
        else:
            rest, slice_ = divmod(number, stack.slices)
            time, channel = divmod(rest, stack.channels)
        return time, channel, slice_


def _overlay(out: bytearray, offset: int, place: int, data: bytes) -> None:
    """Copy into `out`, the file's bytes from `offset` on, as much of `data`, which begins at `place`, as falls there."""
    low, high = max(offset, place), min(offset + len(out), place + len(data))
    if low < high:
        out[low - offset : high - offset] = data[low - place : high - place]


def synthesize_ome_tiff(
    stack: Stack, description: bytes, *, pixel_size_um: tuple[float, float] | None = None, software: str
) -> SynthesizedTiff:
    """An OME-TIFF: one directory a plane, in the order XYZCT, the XML in the first.

    Parameters
    ----------
    stack : Stack
        Little-endian elements.
    description : bytes
        The OME-XML, ASCII.
    pixel_size_um : (float, float), optional
        Height and width of a pixel in µm.

    Raises
    ------
    SynthesisError
        If TIFF has no such elements, or cannot be so large.
    """
    _check(stack)
    density = None if pixel_size_um is None else tuple(1e4 / size for size in pixel_size_um)
    for big in (False, True):
        made = _ome_tiff(stack, description, density, software, big)
        if made.size < CLASSIC_LIMIT or big:
            return made
    raise AssertionError("a BigTIFF has room for all that was checked")


def synthesize_hyperstack(
    stack: Stack,
    description: bytes,
    *,
    pixels_per_unit: tuple[float, float] | None = None,
    metadata: tuple[Sequence[int], bytes] | None = None,
) -> SynthesizedTiff:
    """A TIFF as ImageJ writes hyperstacks: one directory, all planes behind it in the order XYCZT, however large.

    Parameters
    ----------
    stack : Stack
        Little-endian elements.
    description : bytes
        ImageJ's description (`imagej_description`), ASCII.
    pixels_per_unit : (float, float), optional
        Along y and x, per unit of length that the description names.
    metadata : (sequence of int, bytes), optional
        The byte counts and bytes of ImageJ's own two tags (`imagej_metadata`).

    Raises
    ------
    SynthesisError
        If a plane is too large, or ImageJ has no such elements.
    """
    _check(stack)
    if stack.dtype.str[1:] not in IMAGEJ_TYPES:
        raise SynthesisError(f"ImageJ knows no pixels of type {stack.dtype.name}")
    if stack.plane_bytes >= CLASSIC_LIMIT or stack.height * stack.width >= 1 << 31:
        raise SynthesisError("ImageJ opens no planes of 2^31 pixels or 4 GiB")
    extra = []
    if metadata is not None:
        counts, data = metadata
        extra.append(_Value(IMAGEJ_BYTE_COUNTS, LONG, len(counts), struct.pack(f"<{len(counts)}I", *counts)))
        extra.append(_Value(IMAGEJ_METADATA, BYTE, len(data), data))
    extra.append(_text(tags.IMAGE_DESCRIPTION, description))
    head = _header(big=False)
    values = _values(stack, big=False, offset=0, density=pixels_per_unit, unit=1)
    end = len(head) + _directory_bytes(values + extra, len(head), big=False)
    pixels = -(-end // PIXEL_ALIGNMENT) * PIXEL_ALIGNMENT
    values = _values(stack, big=False, offset=pixels, density=pixels_per_unit, unit=1)
    first = head + _directory(values + extra, len(head), big=False, following=0)
    return SynthesizedTiff(stack, False, first, lambda number: b"", 0, 0, pixels, channels_first=True)


def _check(stack: Stack) -> None:
    dtype = stack.dtype
    if dtype.kind not in SAMPLE_FORMATS or dtype.itemsize > 8 or dtype.byteorder == ">":
        raise SynthesisError(f"TIFF knows no pixels of type {dtype.name}")
    if min(stack.times, stack.channels, stack.slices, stack.height, stack.width) < 1:
        raise SynthesisError("a stack without pixels")
    if max(stack.height, stack.width) > LARGEST_SIDE:
        raise SynthesisError(f"a plane of {stack.height} x {stack.width} pixels is more than TIFF can say")
    if stack.planes * (stack.plane_bytes + 512) >= LARGEST_FILE:  # 512: more than a directory has
        raise SynthesisError(f"{stack.planes} planes of {stack.plane_bytes} bytes are more than a file can hold")


def _ome_tiff(
    stack: Stack, description: bytes, density: tuple[float, ...] | None, software: str, big: bool
) -> SynthesizedTiff:
    head = _header(big=big)
    count = stack.planes - 1

    def at(number: int, pixels: int) -> list[_Value]:
        offset = pixels + number * stack.plane_bytes
        return _values(stack, big=big, offset=offset, density=density, unit=3)

    texts = [_text(tags.IMAGE_DESCRIPTION, description), _text(SOFTWARE, software.encode("ascii", "replace"))]
    usual = at(0, 0)
    first_bytes = len(head) + _directory_bytes(usual + texts, len(head), big=big)
    later_bytes = _directory_bytes(usual, 0, big=big)
    pixels = -(-(first_bytes + count * later_bytes) // PIXEL_ALIGNMENT) * PIXEL_ALIGNMENT
    if not big and pixels + stack.planes * stack.plane_bytes >= CLASSIC_LIMIT:
        return SynthesizedTiff(stack, big, b"", lambda number: b"", 0, 0, pixels, channels_first=False)

    def later(number: int) -> bytes:
        place = first_bytes + (number - 1) * later_bytes
        following = place + later_bytes if number < count else 0
        return _directory(at(number, pixels), place, big=big, following=following)

    following = first_bytes if count else 0
    first = head + _directory(at(0, pixels) + texts, len(head), big=big, following=following)
    return SynthesizedTiff(stack, big, first, later, later_bytes, count, pixels, channels_first=False)


def _header(*, big: bool) -> bytes:
    """Of a little-endian file whose first directory follows at once."""
    return struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) if big else struct.pack("<2sHI", b"II", 42, 8)


def _text(tag: int, text: bytes) -> _Value:
    return _Value(tag, ASCII, len(text) + 1, text + b"\0")


def _values(stack: Stack, *, big: bool, offset: int, density: tuple[float, ...] | None, unit: int) -> list[_Value]:
    """The entries that every plane's directory has."""
    pointer, code = (LONG8, "<Q") if big else (LONG, "<I")
    height, width = stack.height, stack.width
    values = [
        _Value(tags.WIDTH, LONG, 1, struct.pack("<I", width)),
        _Value(tags.HEIGHT, LONG, 1, struct.pack("<I", height)),
        _Value(tags.BITS_PER_SAMPLE, SHORT, 1, struct.pack("<H", 8 * stack.dtype.itemsize)),
        _Value(tags.COMPRESSION, SHORT, 1, struct.pack("<H", tags.UNCOMPRESSED)),
        _Value(tags.PHOTOMETRIC, SHORT, 1, struct.pack("<H", 1)),  # zero is black
        _Value(tags.STRIP_OFFSETS, pointer, 1, struct.pack(code, offset)),
        _Value(tags.SAMPLES_PER_PIXEL, SHORT, 1, struct.pack("<H", 1)),
        _Value(tags.ROWS_PER_STRIP, LONG, 1, struct.pack("<I", height)),
        _Value(tags.STRIP_BYTE_COUNTS, pointer, 1, struct.pack(code, stack.plane_bytes)),
        _Value(tags.SAMPLE_FORMAT, SHORT, 1, struct.pack("<H", SAMPLE_FORMATS[stack.dtype.kind])),
    ]
    if density is not None:
        values += [
            _Value(X_RESOLUTION, RATIONAL, 1, _rational(density[1])),
            _Value(Y_RESOLUTION, RATIONAL, 1, _rational(density[0])),
            _Value(RESOLUTION_UNIT, SHORT, 1, struct.pack("<H", unit)),
        ]
    return values


def _rational(value: float) -> bytes:
    """A positive number as TIFF's two 32-bit ones, with six digits or as many as there is room for."""
    if not math.isfinite(value) or value <= 0:
        return struct.pack("<II", 1, 1)
    base = RATIONAL_BASE
    while base > 1 and value * base >= 1 << 32:
        base //= 10
    while base < 10**9 and value * base < RATIONAL_BASE:
        base *= 10
    return struct.pack("<II", max(1, min(round(value * base), (1 << 32) - 1)), base)


def _directory_bytes(values: Sequence[_Value], place: int, *, big: bool) -> int:
    """How many bytes `_directory` makes."""
    head, entry, room = (8, 20, 8) if big else (2, 12, 4)
    size = head + len(values) * entry + room
    for value in sorted(values):
        if len(value.data) > room:
            size += -(place + size) % 8 + len(value.data)
    return size + -(place + size) % 8


def _directory(values: Sequence[_Value], place: int, *, big: bool, following: int) -> bytes:
    """An image file directory at `place`, and behind it the values that do not fit into its entries."""
    entry, count, pointer, room = ("<HHQ", "<Q", "<Q", 8) if big else ("<HHI", "<H", "<I", 4)
    ordered = sorted(values)
    table = struct.calcsize(count) + len(ordered) * (struct.calcsize(entry) + room) + room
    out, behind = [struct.pack(count, len(ordered))], bytearray()
    for value in ordered:
        data = value.data
        if len(data) > room:
            behind += bytes(-(place + table + len(behind)) % 8)
            position = place + table + len(behind)
            behind += data
            data = struct.pack(pointer, position)
        out.append(struct.pack(entry, value.tag, value.kind, value.values) + data.ljust(room, b"\0"))
    out.append(struct.pack(pointer, following))
    behind += bytes(-(place + table + len(behind)) % 8)
    return b"".join(out) + bytes(behind)
