"""Pixels of the TIFFs that are no skeleton and planes: compressed, tiled, odd bits; decoded by tifffile.

Such a file keeps its bytes as they are; what is decoded here goes into arrays beside it. tifffile and its
native decoders are never trusted: the directories are first read by our own `directory`, and what they
declare bounds memory and time before tifffile sees the file; it sees it in a process of its own (`decoder`),
since damaged data crash it; and what it returns is compared with the declaration. Only compressions whose
output size can be bounded in advance are decoded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vfsd.images.analysis import MAX_STRIPS, MAX_STRIPS_IN_FILE
from vfsd.images.decoder import DeclaredPlane, UndecodableImage, decode_planes
from vfsd.images.directory import BEYOND_END, Declaration, Directory, NotRebuildable, OpenTiff
from vfsd.images.layout import MAX_SKELETON
from vfsd.images.tags import (
    IMAGE_DEPTH,
    JPEG,
    ROWS_PER_STRIP,
    STRIP_BYTE_COUNTS,
    STRIP_OFFSETS,
    TILE_BYTE_COUNTS,
    TILE_LENGTH,
    TILE_OFFSETS,
    TILE_WIDTH,
    TYPE_SIZES,
    compression_name,
)

__all__ = ["DeclaredPlane", "UndecodableImage", "declared_planes", "decode_tiff"]

MAX_BYTES: Final = 2 * 1024**3
"""Default limit of what one file decodes to: larger ones are whole-slide scans, not planes of a plate."""

MAX_RATIO: Final = 10_000
"""Decoded to stored bytes: a blank 2000² plane deflates 680 times; deflate ends at 1,032, Zstandard not."""

DECODED_SCHEMES: Final = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946, 34925, 50000})
"""None, CCITT, LZW, JPEG, deflate, PackBits, LZMA, Zstandard: tifffile passes their decoders the size of the
output, or (JPEG) the size stands in a header that is checked here. The others decode to whatever the data
say."""

JPEG_HEAD: Final = 64 * 1024
"""Bytes searched for a JPEG's frame header: one marker segment is at most this long."""

REPEATED_READS: Final = 4
"""Strips may be shared, but all together are at most so many times the file, or `FREE_READ` bytes."""

FREE_READ: Final = 64 * 1024 * 1024
"""Reading this much again and again takes 20 ms and needs no excuse."""

TILE_EXCESS: Final = 16 * 1024 * 1024
"""A tile may be larger than its image (small images in 512² tiles), up to this."""


def decode_tiff(source: int | str | bytes | Path, *, max_bytes: int = MAX_BYTES) -> list[npt.NDArray[Any]]:
    """Decode every plane of a TIFF.

    Parameters
    ----------
    source : int, str, bytes or Path
        A file descriptor (borrowed; its position is neither used nor moved) or a path.
    max_bytes : int
        Refuse files whose planes are declared to be more than this in all. The planes are in memory once; in
        the decoder's process while it works also one of them, and its strips as they are stored and decoded.

    Returns
    -------
    list of numpy.ndarray
        One for each directory of the chain: (y, x), (y, x, sample), or (sample, y, x) where samples are
        stored apart. C-contiguous, little-endian; samples of odd bits in the next larger integer (single bits
        as uint8, 0 or 1). Values are as stored: palettes and "white is zero" are not applied; JPEG is decoded
        to RGB.

    Raises
    ------
    UndecodableImage
        For every reason that lies in the file's contents.
    OSError
        From the file itself.
    """
    fd = source if isinstance(source, int) else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return decode_planes(fd, declared_planes(fd, max_bytes))
    except NotRebuildable as problem:
        raise UndecodableImage(problem.reason) from None
    finally:
        if fd is not source:
            os.close(fd)


def declared_planes(fd: int, max_bytes: int) -> list[DeclaredPlane]:
    """What the directories declare, after everything that bounds memory and time was checked; decodes nothing.

    Raises
    ------
    NotRebuildable, UndecodableImage
        `decode_tiff` would refuse the file.
    """
    file = OpenTiff(fd)
    planes: list[DeclaredPlane] = []
    decoded = stored = strips = 0
    for directory in file.directories():
        declared = directory.declaration()
        plane = _declared_plane(declared)
        decoded += plane.nbytes
        if decoded > min(max_bytes, MAX_RATIO * file.size):
            raise UndecodableImage(f"more than {decoded:,} bytes of pixels in a file of {file.size:,}")
        page_strips, page_stored = _check_strips(directory, declared, plane, file)
        strips += page_strips
        stored += page_stored
        if strips > MAX_STRIPS_IN_FILE or stored > max(REPEATED_READS * file.size, FREE_READ):
            raise UndecodableImage("strips that are used too often")
        planes.append(plane)
    return planes


def _declared_plane(declared: Declaration) -> DeclaredPlane:
    if declared.compression not in DECODED_SCHEMES:
        raise UndecodableImage(f"compressed ({compression_name(declared.compression)}), which is not decoded")
    bits, kind = declared.bits, {1: "u", 2: "i", 3: "f"}.get(declared.sample_format)
    size = next((size for size in (1, 2, 4, 8) if bits <= 8 * size), None)
    if kind is None or size is None or bits == 0 or (kind == "f" and size == 1):
        raise UndecodableImage(f"{bits} bits a sample of format {declared.sample_format}")
    shape: tuple[int, ...] = (declared.height, declared.width)
    if declared.samples > 1:
        shape = (declared.samples, *shape) if declared.planar else (*shape, declared.samples)
    return DeclaredPlane(shape, np.dtype(f"<{kind}{size}"))


def _check_strips(directory: Directory, declared: Declaration, plane: DeclaredPlane, file: OpenTiff) -> tuple[int, int]:
    """Refuse tables that would cost tifffile more than the file is worth.

    Returns the number of strips, or tiles, and the bytes stored in them.
    """
    for tag in directory:
        kind, count = directory.kind(tag), directory.count(tag)
        if count > (MAX_SKELETON if TYPE_SIZES.get(kind) == 1 else MAX_STRIPS):
            raise UndecodableImage(f"tag {tag} has {count:,} values")
    if directory.integer(IMAGE_DEPTH, 1) != 1:
        raise UndecodableImage("volumes instead of planes")
    if TILE_WIDTH in directory:
        length, width = directory.integer(TILE_LENGTH, 0), directory.integer(TILE_WIDTH, 0)
        offsets_tag, counts_tag = TILE_OFFSETS, TILE_BYTE_COUNTS
        if length == 0 or width == 0:
            raise UndecodableImage("tiles without size")
    else:
        length = min(directory.integer(ROWS_PER_STRIP, 0), declared.height) or declared.height
        width = declared.width
        offsets_tag, counts_tag = STRIP_OFFSETS, STRIP_BYTE_COUNTS
    tile_bytes = length * width * plane.dtype.itemsize * (1 if declared.planar else declared.samples)
    if tile_bytes > plane.nbytes + TILE_EXCESS:
        raise UndecodableImage(f"tiles of {width} \u00d7 {length} pixels")
    needed = -(-declared.height // length) * -(-declared.width // width)
    needed *= declared.samples if declared.planar else 1
    if needed > MAX_STRIPS or directory.count(offsets_tag) < needed or directory.count(counts_tag) < needed:
        raise UndecodableImage("fewer strips than the image needs")
    offsets, counts = directory.array(offsets_tag, needed), directory.array(counts_tag, needed)
    # compared one by one first, so that neither sum can wrap
    if counts.max() > file.size or offsets.max() > file.size or (offsets + counts).max() > file.size:
        raise UndecodableImage(BEYOND_END)
    if not counts.all() or not offsets.all():
        # tifffile fills absent strips with zeros: nothing is to be invented here
        raise UndecodableImage("absent strips")
    if declared.compression == JPEG:
        for offset, count in zip(offsets.tolist(), counts.tolist(), strict=True):
            _check_jpeg(file.read(offset, min(count, JPEG_HEAD)), tile_bytes)
    return needed, int(counts.sum())


def _check_jpeg(data: bytes, tile_bytes: int) -> None:
    """Refuse a JPEG whose own frame header declares more than its strip has (ITU-T T.81, annex B.2)."""
    position = 2  # behind the start-of-image marker
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            # length (2), precision, height (2), width (2), samples; of data that end here the missing are 0
            frame = data[position + 2 : position + 10].ljust(8, b"\0")
            height, width = int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[5:7], "big")
            precision, samples = frame[2], frame[7]
            size = height * width * samples * (1 if precision <= 8 else 2)
            # JPEG works in blocks of up to 16 by 16 pixels: a low strip may well declare more rows
            if size == 0 or size > 4 * tile_bytes + 64 * 1024:
                raise UndecodableImage(f"a JPEG of {width} \u00d7 {height} pixels in a strip of {tile_bytes:,} bytes")
            return
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise UndecodableImage("damaged (a JPEG without frame header)")
