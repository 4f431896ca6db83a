"""The directories (IFDs) of a TIFF: header, chain, and the values of their tags.

Everything is read with `os.pread` in blocks of a few KiB around the directories; pixels are never asked for
and nothing is mapped. Whatever the file holds, the outcome is a bounded list of directories or
`NotRebuildable` with a short reason: every count is compared with the size of the file, and with a limit,
before anything is allocated. What the tags mean for the pixels is the matter of `layout`.

Format: TIFF 6.0 (Adobe, 1992), sections 2 and 7; BigTIFF as libtiff describes it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from vfsd.images.tags import (
    BITS_PER_SAMPLE,
    COMPRESSION,
    HEIGHT,
    PLANAR_CONFIGURATION,
    SAMPLE_FORMAT,
    SAMPLES_PER_PIXEL,
    TYPE_SIZES,
    UNCOMPRESSED,
    UNSIGNED_CODES,
    WIDTH,
)

__all__ = ["Declaration", "Directory", "NotRebuildable", "OpenTiff"]

BLOCK: Final = 16 * 1024
"""Bytes read at once, in 3 µs from cache: a directory and its values usually lie together within this."""

BLOCK_ALIGNMENT: Final = 4096
"""Blocks begin on a page, so that values written shortly before their directory are in the same block."""

KEPT_BLOCKS: Final = 4
"""The head, the directory and its tables: more blocks than this are never alternated between."""

MAX_DIRECTORIES: Final = 65_536
"""Longest chain followed: ten times the longest series seen in one file, and a second's work."""

MAX_TAGS: Final = 4_096
"""Most tags in one directory; real ones have 10 to 40, vendors' own (Zeiss, FEI) below 200."""

MAX_TAGS_IN_FILE: Final = 2_097_152
"""Most tags in all: 32 for each of the longest chain."""

MAX_SAMPLES: Final = 65_535
"""Most samples a pixel: SamplesPerPixel is a SHORT in TIFF 6.0."""

BEYOND_END: Final = "offsets past the end of the file"

UNFINISHED: Final = (
    *("empty file", "not a TIFF", "a TIFF without images", "an IFD without image size", "an IFD without pixels"),
    *(BEYOND_END, "does not fit the file", "absent strips", "fewer strips than the image needs"),
)
"""What a TIFF looks like before its last byte is written: the header, its pixels or its directory are not there yet."""


class NotRebuildable(ValueError):
    """This file cannot be kept as skeleton and planes; it stays a plain file.

    Parameters
    ----------
    reason : str
        A few words for the receipt, without the file's name: "compressed (LZW)", "tiled", "empty file".
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)

    @property
    def unfinished(self) -> bool:
        """Whether a file may be like this because somebody still writes it."""
        return any(what in self.reason for what in UNFINISHED)


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the tags of one directory say about its image, not yet compared with the file.

    Sizes are in pixels. `sample_format` is 1 unsigned, 2 signed, 3 float (TIFF 6.0, section 19); bits and
    format are the same for all samples. `planar` is False for a single sample, whatever the tag says.
    """

    height: int
    width: int
    samples: int
    bits: int
    sample_format: int
    planar: bool
    compression: int


class OpenTiff:
    """A TIFF behind a file descriptor: its kind and its chain of directories.

    The descriptor is borrowed: never closed, its position never used nor moved.

    Attributes
    ----------
    size : int
        Bytes in the file when it was opened here; nothing is read beyond it.
    big_endian, bigtiff : bool
        The kind, from the header.

    Raises
    ------
    NotRebuildable
        Empty, not a TIFF, or a header that is cut short.
    OSError
        From the file itself.
    """

    __slots__ = ("_blocks", "_first", "_order", "big_endian", "bigtiff", "fd", "size")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = os.fstat(fd).st_size
        if self.size == 0:
            raise NotRebuildable("empty file")
        self._blocks: list[tuple[int, bytes]] = []
        if self.size < 8:
            raise NotRebuildable("not a TIFF")
        head = self.read(0, 8)
        if head[:2] == b"II":
            self._order = "<"
        elif head[:2] == b"MM":
            self._order = ">"
        else:
            raise NotRebuildable("not a TIFF")
        self.big_endian = self._order == ">"
        version, short, first = struct.unpack(self._order + "2xHHH", head)
        if version == 42:
            self.bigtiff = False
            (first,) = struct.unpack(self._order + "4xI", head)
        elif version == 43:
            self.bigtiff = True
            if (short, first) != (8, 0):
                raise NotRebuildable("a BigTIFF with offsets that are not 8 bytes")
            (first,) = struct.unpack(self._order + "Q", self.read(8, 8))
        else:
            raise NotRebuildable("not a TIFF")
        self._first = int(first)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file, from a block that was read before where possible.

        Raises
        ------
        NotRebuildable
            The range does not lie in the file.
        """
        end = offset + length
        if end > self.size:
            raise NotRebuildable(BEYOND_END)
        for start, block in self._blocks:
            if start <= offset and end <= start + len(block):
                return block[offset - start : end - start]
        if length > BLOCK:
            return _pread_all(self.fd, length, offset)
        start = offset - offset % BLOCK_ALIGNMENT
        block = _pread_all(self.fd, min(max(BLOCK, end - start), self.size - start), start)
        if len(self._blocks) == KEPT_BLOCKS:
            del self._blocks[1]  # not the head: small files and files of many directories come back to it
        self._blocks.append((start, block))
        return block[offset - start : end - start]

    def directories(self) -> Iterator[Directory]:
        """The chain of directories, in its order; sub-directories (tag 330) are not followed.

        Raises
        ------
        NotRebuildable
            A loop, an offset outside the file, or more directories or tags than the limits.
        """
        if self.bigtiff:
            count_code, count_size, entry_code, entry_size, link_code = "Q", 8, "HHQ8s", 20, "Q"
        else:
            count_code, count_size, entry_code, entry_size, link_code = "H", 2, "HHI4s", 12, "I"
        link_size = struct.calcsize(self._order + link_code)
        offset = self._first
        seen: set[int] = set()
        all_tags = 0
        if offset == 0:
            raise NotRebuildable("a TIFF without images")
        while offset != 0:
            if offset in seen:
                raise NotRebuildable("IFD loop")
            if len(seen) == MAX_DIRECTORIES:
                raise NotRebuildable(f"more than {MAX_DIRECTORIES:,} images")
            seen.add(offset)
            (count,) = struct.unpack(self._order + count_code, self.read(offset, count_size))
            all_tags += count
            if count > MAX_TAGS or all_tags > MAX_TAGS_IN_FILE:
                raise NotRebuildable(f"an IFD of {count:,} tags")
            data = self.read(offset + count_size, count * entry_size + link_size)
            entries = list(struct.iter_unpack(self._order + entry_code, data[:-link_size]))
            # of a tag that is there twice the first counts, as for libtiff and tifffile
            tags = {tag: (kind, values, field) for tag, kind, values, field in reversed(entries)}
            yield Directory(self, offset, self._order, tags)
            (offset,) = struct.unpack(self._order + link_code, data[-link_size:])


class Directory:
    """One IFD: its tags' values, read when asked for.

    Every method raises `NotRebuildable` for a value of an unfit type or outside the file.
    """

    __slots__ = ("_file", "_order", "_tags", "offset")

    def __init__(self, file: OpenTiff, offset: int, order: str, tags: dict[int, tuple[int, int, bytes]]) -> None:
        self._file = file
        self._order = order
        self._tags = tags
        self.offset = offset

    def __contains__(self, tag: int) -> bool:
        return tag in self._tags

    def __iter__(self) -> Iterator[int]:
        return iter(self._tags)

    def kind(self, tag: int) -> int:
        """The TIFF type of a tag that is there; not necessarily one that exists."""
        return self._tags[tag][0]

    def count(self, tag: int) -> int:
        """Number of values that the tag claims to have; 0 when it is absent."""
        entry = self._tags.get(tag)
        return 0 if entry is None else entry[1]

    def integer(self, tag: int, default: int) -> int:
        """The first value of an unsigned tag."""
        entry = self._tags.get(tag)
        if entry is None:
            return default
        kind, count, field = entry
        if count == 1 and kind == 3:  # nine of ten tags asked for
            return int(struct.unpack_from(self._order + "H", field)[0])
        return self.integers(tag, 1)[0]

    def integers(self, tag: int, limit: int) -> tuple[int, ...]:
        """The first values of an unsigned tag, `limit` at most; empty when it is absent."""
        entry = self._tags.get(tag)
        if entry is None:
            return ()
        code = self._integer_code(tag, entry)
        count = min(entry[1], limit)
        return struct.unpack(f"{self._order}{count}{code}", self._value_bytes(entry, count))

    def array(self, tag: int, limit: int) -> npt.NDArray[np.uint64]:
        """The first values of an unsigned tag, `limit` at most, as a fresh array (values,) of uint64."""
        entry = self._tags.get(tag)
        if entry is None:
            return np.empty(0, np.uint64)
        code = self._integer_code(tag, entry)
        data = self._value_bytes(entry, min(entry[1], limit))
        return np.frombuffer(data, f"{self._order}u{struct.calcsize('=' + code)}").astype(np.uint64)

    def text(self, tag: int, limit: int) -> bytes:
        """The first bytes of a text tag, `limit` at most; empty when it is absent or no text."""
        entry = self._tags.get(tag)
        if entry is None or TYPE_SIZES.get(entry[0]) != 1:
            return b""
        return self._value_bytes(entry, min(entry[1], limit))

    def declaration(self) -> Declaration:
        """Size and kind of the directory's image.

        Raises
        ------
        NotRebuildable
            No size, no pixels, samples of differing kinds, or values that TIFF does not know.
        """
        if WIDTH not in self._tags or HEIGHT not in self._tags:
            raise NotRebuildable("an IFD without image size")
        width, height = self.integer(WIDTH, 0), self.integer(HEIGHT, 0)
        samples = self.integer(SAMPLES_PER_PIXEL, 1)
        if width == 0 or height == 0 or samples == 0:
            raise NotRebuildable(f"an image of {width} \u00d7 {height} pixels with {samples} samples")
        if samples > MAX_SAMPLES:
            raise NotRebuildable(f"{samples} samples a pixel")
        bits = self._common(BITS_PER_SAMPLE, samples, 1, "bits a sample")
        sample_format = self._common(SAMPLE_FORMAT, samples, 1, "sample formats")
        planar_configuration = self.integer(PLANAR_CONFIGURATION, 1)
        if planar_configuration not in (1, 2):
            raise NotRebuildable(f"planar configuration {planar_configuration}")
        return Declaration(
            height=height,
            width=width,
            samples=samples,
            bits=bits,
            # 4 is "undefined": bytes to be taken as they are
            sample_format=1 if sample_format == 4 else sample_format,
            planar=samples > 1 and planar_configuration == 2,
            compression=self.integer(COMPRESSION, UNCOMPRESSED),
        )

    def _common(self, tag: int, samples: int, default: int, what: str) -> int:
        """The one value that a tag with a value a sample has for all of them."""
        values = self.integers(tag, samples) or (default,)
        if len(values) > 1 and values.count(values[0]) != len(values):
            raise NotRebuildable(f"differing {what}")
        return values[0]

    @staticmethod
    def _integer_code(tag: int, entry: tuple[int, int, bytes]) -> str:
        code = UNSIGNED_CODES.get(entry[0])
        if code is None:
            raise NotRebuildable(f"tag {tag} is no whole number (type {entry[0]})")
        if entry[1] == 0:
            raise NotRebuildable(f"tag {tag} has no value")
        return code

    def _value_bytes(self, entry: tuple[int, int, bytes], count: int) -> bytes:
        """Bytes of the first `count` values; the whole claimed range has to lie in the file."""
        kind, claimed, field = entry
        size = TYPE_SIZES[kind]
        if claimed * size <= len(field):
            return field[: count * size]
        (offset,) = struct.unpack(self._order + ("I" if len(field) == 4 else "Q"), field)
        if offset + claimed * size > self._file.size:
            raise NotRebuildable(BEYOND_END)
        return self._file.read(offset, count * size)


def _pread_all(fd: int, length: int, offset: int) -> bytes:
    """Exactly `length` bytes from `offset`; the file had them when its size was asked."""
    data = os.pread(fd, length, offset)
    if len(data) == length:
        return data
    parts = [data]
    missing = length - len(data)
    while missing:
        data = os.pread(fd, missing, offset + length - missing)
        if not data:
            raise NotRebuildable("the file became shorter while it was read")
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)
