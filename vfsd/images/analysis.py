"""What the directories of a TIFF say of its pixels: header, directories and strip tables become a `TiffLayout`.

Pixels of uncompressed files are never looked at, and nothing is read through a mapping. Strips compressed by LZW are
decoded and encoded once, since only that shows whether they can be rebuilt. What cannot is `NotRebuildable`, with a
reason for the receipt: other compressions, tiles narrower than the image, samples that are not whole bytes, subsampled
colour, absent strips (offset 0), planes that share bytes, files of which too much would be skeleton.

Whatever the file holds, memory and time are bounded: counts are compared with the file's size before anything is
allocated by them.
"""

from __future__ import annotations

import re
from math import prod
from typing import Final

import numpy as np

from vfsd.images.directory import (
    BEYOND_END,
    MAX_DIRECTORIES,
    Declaration,
    Directory,
    NotRebuildable,
    OpenTiff,
)
from vfsd.images.layout import MAX_SEGMENTS, MAX_SKELETON, PIXEL_TYPES, PageLayout, Segment, TiffLayout
from vfsd.images.strips import MAX_STRIP, PREDICTORS, StripCoding, examine_strip
from vfsd.images.tags import (
    COMPRESSION,
    FILL_ORDER,
    IMAGE_DEPTH,
    IMAGE_DESCRIPTION,
    LZW,
    PHOTOMETRIC,
    PREDICTOR,
    ROWS_PER_STRIP,
    STRIP_BYTE_COUNTS,
    STRIP_OFFSETS,
    SUBSAMPLING,
    TILE_BYTE_COUNTS,
    TILE_LENGTH,
    TILE_OFFSETS,
    TILE_WIDTH,
    UNCOMPRESSED,
    YCBCR,
    compression_name,
)

__all__ = ["MAX_STRIPS", "MAX_STRIPS_IN_FILE", "analyse_tiff"]

MAX_STRIPS: Final = 262_144
"""Most strips of one page: an image of as many rows in strips of one; bounds a table to 2 MiB."""

MAX_STRIPS_IN_FILE: Final = 4_194_304
"""Most strips in all: 1,900 planes of 2160 rows in strips of one; bounds what the tables cost to read."""

FREE_SKELETON: Final = 1024 * 1024
"""A skeleton up to this is always kept: the OME-XML of thousands of planes reaches several hundred KiB."""

SKELETON_SHARE: Final = 4
"""Above that at most the file's size divided by this: with more, keeping pixels apart gains nothing."""

FREE_DECODING: Final = 256 * 1024 * 1024
"""Compressed planes may always decode to this: some seconds' work."""

MOST_EXPANSION: Final = 64
"""Above that, at most so many times the file: only blank planes are compressed better, by LZW up to 2,500 times."""

IMAGEJ_HEAD: Final = 1024
"""Bytes of a description in which ImageJ's "images=" stands: it is the second line that ImageJ writes."""

IMAGEJ_IMAGES: Final = re.compile(rb"^images=([0-9]{1,9})[ \t\r]*$", re.MULTILINE)


def analyse_tiff(fd: int) -> TiffLayout:
    """Find the pixels of the TIFF behind a file descriptor.

    Parameters
    ----------
    fd : int
        Open for reading; its position is neither used nor moved.

    Returns
    -------
    TiffLayout
        With at least one page.

    Raises
    ------
    NotRebuildable
        The file has to be kept as it is; `reason` says why.
    OSError
        From the file itself.
    """
    file = OpenTiff(fd)
    pages: list[PageLayout] = []
    pixels = decoded = strips = pieces = 0
    lone: Directory | None = None
    for directory in file.directories():
        lone = directory if not pages else None
        try:
            page, page_strips = _analyse_page(directory, file, max(FREE_DECODING, MOST_EXPANSION * file.size) - decoded)
        except NotRebuildable as problem:
            if not pages:
                raise
            raise NotRebuildable(f"image {len(pages) + 1}: {problem.reason}") from None
        pixels += page.stored_bytes
        decoded += 0 if page.coding is None else page.nbytes
        strips += page_strips
        pieces += len(page.segments)
        # checked on the way, so that a short file of many directories that share their strips ends early
        if pixels > file.size:
            raise NotRebuildable("planes overlap")
        if strips > MAX_STRIPS_IN_FILE:
            raise NotRebuildable(f"more than {MAX_STRIPS_IN_FILE:,} strips")
        if pieces > MAX_SEGMENTS:
            raise NotRebuildable(f"pixels in more than {MAX_SEGMENTS:,} pieces")
        pages.append(page)
    if lone is not None:
        pages = _imagej_planes(lone, pages[0], file.size)
    layout = TiffLayout(file.size, file.big_endian, file.bigtiff, tuple(pages))
    if sum(len(gaps) for page in pages if page.coding is not None for gaps in page.coding.gaps) > MAX_SKELETON:
        raise NotRebuildable("too many Clear codes")
    rest = layout.size - layout.pixel_bytes
    if rest > min(max(FREE_SKELETON, file.size // SKELETON_SHARE), MAX_SKELETON):
        raise NotRebuildable(f"{rest:,} of {file.size:,} bytes are no pixels")
    return layout


def _analyse_page(directory: Directory, file: OpenTiff, decoding: int) -> tuple[PageLayout, int]:
    """One directory's plane, and the number of its strips; a compressed one decodes to at most `decoding` bytes."""
    compression, size = directory.integer(COMPRESSION, UNCOMPRESSED), file.size
    if compression == LZW:
        try:
            return _analyse_lzw(directory, file, decoding)
        except NotRebuildable as problem:
            raise NotRebuildable(f"compressed (LZW: {problem.reason})") from None
    if compression != UNCOMPRESSED:
        raise NotRebuildable(f"compressed ({compression_name(compression)})")
    declared = directory.declaration()
    dtype = _pixel_type(declared)
    if prod((declared.height, declared.width, declared.samples, dtype.itemsize)) > size:
        picture = f"{declared.width} \u00d7 {declared.height}"
        raise NotRebuildable(f"image of {picture} pixels does not fit the file")
    _refuse_unusual_samples(directory)
    if directory.integer(PREDICTOR, 1) != 1:
        raise NotRebuildable("a predictor without compression")
    tiled = TILE_WIDTH in directory or TILE_OFFSETS in directory
    if tiled:
        # tiles as wide as the image are strips of TileLength rows, the last one padded
        if directory.integer(TILE_WIDTH, 0) != declared.width:
            raise NotRebuildable("tiled")
        rows = directory.integer(TILE_LENGTH, 0)
        offsets_tag, counts_tag = TILE_OFFSETS, TILE_BYTE_COUNTS
    else:
        rows = directory.integer(ROWS_PER_STRIP, 0)
        offsets_tag, counts_tag = STRIP_OFFSETS, STRIP_BYTE_COUNTS
    if offsets_tag not in directory:
        raise NotRebuildable("an IFD without pixels")
    # RowsPerStrip missing, 0 or 2**32 - 1: one strip
    rows = min(rows, declared.height) or declared.height
    segments, strips = _find_segments(directory, offsets_tag, counts_tag, declared, dtype.itemsize, rows, size)
    page = PageLayout(declared.height, declared.width, declared.samples, dtype, segments, declared.planar)
    return page, strips


def _analyse_lzw(directory: Directory, file: OpenTiff, decoding: int) -> tuple[PageLayout, int]:
    """The same of a page whose strips are compressed by LZW: each is decoded, encoded, and compared."""
    declared = directory.declaration()
    dtype = _pixel_type(declared)
    _refuse_unusual_samples(directory)
    predictor = directory.integer(PREDICTOR, 1)
    if predictor not in PREDICTORS:
        raise NotRebuildable(f"predictor {predictor}")
    if TILE_WIDTH in directory or TILE_OFFSETS in directory:
        raise NotRebuildable("tiled")
    if STRIP_OFFSETS not in directory or STRIP_BYTE_COUNTS not in directory:
        raise NotRebuildable("an IFD without pixels")
    rows = min(directory.integer(ROWS_PER_STRIP, 0), declared.height) or declared.height
    row_bytes = declared.width * dtype.itemsize * (1 if declared.planar else declared.samples)
    bands = declared.samples if declared.planar else 1
    if row_bytes * declared.height * bands > decoding:
        raise NotRebuildable(f"{declared.width} \u00d7 {declared.height} pixels in a file of {file.size:,} bytes")
    if row_bytes * rows > MAX_STRIP:
        raise NotRebuildable(f"strips of {row_bytes * rows:,} bytes")
    a_band = -(-declared.height // rows)
    strips = a_band * bands
    if strips > MAX_SEGMENTS:
        raise NotRebuildable(f"{strips:,} strips")
    if directory.count(STRIP_OFFSETS) < strips or directory.count(STRIP_BYTE_COUNTS) < strips:
        raise NotRebuildable("fewer strips than the image needs")
    offsets, counts = directory.array(STRIP_OFFSETS, strips), directory.array(STRIP_BYTE_COUNTS, strips)
    # compared one by one first, so that the sum cannot wrap
    if offsets.max() > file.size or counts.max() > file.size or (offsets + counts).max() > file.size:
        raise NotRebuildable(BEYOND_END)
    if not offsets.all() or not counts.all():
        raise NotRebuildable("absent strips")
    if counts.sum() > file.size:
        raise NotRebuildable("strips that overlap")
    segments, gaps = [], []
    for number, (offset, count) in enumerate(zip(offsets.tolist(), counts.tolist(), strict=True)):
        height = min(rows, declared.height - number % a_band * rows)
        length, found = examine_strip(file.fd, offset, count, height * row_bytes)
        segments.append(Segment(offset, length))
        gaps.append(found)
    coding = StripCoding(predictor, rows, tuple(gaps))
    shape = (declared.height, declared.width, declared.samples)
    return PageLayout(*shape, dtype, tuple(segments), declared.planar, coding), strips


def _pixel_type(declared: Declaration) -> np.dtype[np.generic]:
    dtype = PIXEL_TYPES.get((declared.sample_format, declared.bits))
    if dtype is None:
        if declared.sample_format not in (1, 2, 3):
            raise NotRebuildable(f"sample format {declared.sample_format}")
        raise NotRebuildable(f"{declared.bits} bit{'s' if declared.bits > 1 else ''} a sample")
    return dtype


def _refuse_unusual_samples(directory: Directory) -> None:
    """Refuse what makes samples something else than an array of numbers."""
    if directory.integer(FILL_ORDER, 1) != 1:
        raise NotRebuildable("bits in reversed order")
    if directory.integer(IMAGE_DEPTH, 1) != 1:
        raise NotRebuildable("volumes instead of planes")
    # uncompressed YCbCr is subsampled 2 by 2 unless the tag says otherwise (TIFF 6.0, section 21)
    if directory.integer(PHOTOMETRIC, 1) == YCBCR and directory.integers(SUBSAMPLING, 2) != (1, 1):
        raise NotRebuildable("subsampled colour")


def _find_segments(
    directory: Directory,
    offsets_tag: int,
    counts_tag: int,
    declared: Declaration,
    itemsize: int,
    rows: int,
    size: int,
) -> tuple[tuple[Segment, ...], int]:
    """The strips of a page, neighbours merged, and their number.

    Strips normally have RowsPerStrip rows each; only the bytes that those rows need are pixels, what a strip
    has beyond them is skeleton. Where RowsPerStrip does not fit the tables, but the strips' own sizes add up
    to exactly the plane, those count.
    """
    row_bytes = declared.width * itemsize * (1 if declared.planar else declared.samples)
    layers = declared.samples if declared.planar else 1
    strips_a_layer = -(-declared.height // rows)
    expected = strips_a_layer * layers
    present = directory.count(offsets_tag)
    counts_present = directory.count(counts_tag)
    if max(expected, present) > MAX_STRIPS:
        raise NotRebuildable(f"{max(expected, present):,} strips")
    if expected == 1 and present == 1:
        return (_only_strip(directory, offsets_tag, counts_tag, row_bytes * declared.height, size),), 1

    lengths = np.full(expected, rows * row_bytes, np.int64)
    lengths[strips_a_layer - 1 :: strips_a_layer] = (declared.height - rows * (strips_a_layer - 1)) * row_bytes
    counts = directory.array(counts_tag, MAX_STRIPS)
    fitting = present >= expected and (
        counts_present == 0 or (counts_present >= expected and bool((counts[:expected] >= lengths).all()))
    )
    if not fitting:
        plane_bytes = row_bytes * declared.height * layers
        # compared before they are added, so that the sum cannot wrap
        if counts_present != present or counts.max() > plane_bytes or counts.sum() != plane_bytes:
            raise NotRebuildable("strips that are not the size of the image")
        lengths = counts[counts > 0].astype(np.int64)
    offsets = directory.array(offsets_tag, MAX_STRIPS if not fitting else expected)
    if not fitting:
        offsets = offsets[counts > 0]
    if offsets.max() > size:
        raise NotRebuildable(BEYOND_END)
    if offsets.min() == 0:
        raise NotRebuildable("absent strips")
    starts = offsets.astype(np.int64)
    ends = starts + lengths
    if ends.max() > size:
        raise NotRebuildable(BEYOND_END)
    firsts = np.flatnonzero(starts[1:] != ends[:-1]) + 1
    if firsts.size == 0:
        return (Segment(int(starts[0]), int(ends[-1] - starts[0])),), len(starts)
    run_starts = starts[np.concatenate(([0], firsts))]
    run_ends = ends[np.concatenate((firsts - 1, [-1]))]
    if len(run_starts) > MAX_SEGMENTS:
        raise NotRebuildable(f"pixels in {len(run_starts):,} pieces")
    runs = zip(run_starts.tolist(), (run_ends - run_starts).tolist(), strict=True)
    return tuple(Segment(offset, length) for offset, length in runs), len(starts)


def read_description(fd: int, limit: int) -> bytes:
    """The beginning of the first directory's ImageDescription; empty where there is none.

    Raises
    ------
    NotRebuildable
        It is no TIFF, or a damaged one.
    OSError
        From the file itself.
    """
    directory = next(OpenTiff(fd).directories(), None)
    return b"" if directory is None else directory.text(IMAGE_DESCRIPTION, limit)


def _only_strip(directory: Directory, offsets_tag: int, counts_tag: int, needed: int, size: int) -> Segment:
    """The usual case of modern writers, without arrays."""
    offset = directory.integer(offsets_tag, 0)
    if directory.integer(counts_tag, needed) < needed:
        raise NotRebuildable("strips that are not the size of the image")
    if offset == 0:
        raise NotRebuildable("absent strips")
    if offset + needed > size:
        raise NotRebuildable(BEYOND_END)
    return Segment(offset, needed)


def _imagej_planes(directory: Directory, first: PageLayout, size: int) -> list[PageLayout]:
    """The planes of a file with one directory: ImageJ's stacks have the others behind the first, undeclared.

    ImageJ does this for stacks over 4 GB. Where the planes that it claims are not all in the file, or would
    cover the directory, the claim is not believed.
    """
    if first.coding is not None or len(first.segments) > 1 or 2 * first.nbytes > size:
        return [first]
    head = directory.text(IMAGE_DESCRIPTION, IMAGEJ_HEAD)
    claim = IMAGEJ_IMAGES.search(head) if head.startswith(b"ImageJ=") else None
    count = int(claim[1]) if claim else 1
    start = first.segments[0].offset
    end = start + count * first.nbytes
    if not 1 < count <= MAX_DIRECTORIES or end > size or start <= directory.offset < end:
        return [first]
    return [
        PageLayout(
            first.height,
            first.width,
            first.samples,
            first.dtype,
            (Segment(start + number * first.nbytes, first.nbytes),),
            first.planar,
        )
        for number in range(count)
    ]
