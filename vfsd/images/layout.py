"""Where the pixels of an uncompressed TIFF lie: each plane as runs of bytes in the file.

`analyse_tiff` reads header, directories and strip tables (never pixels, never through a mapping) and either
gives a `TiffLayout` or raises `NotRebuildable` with a reason for the receipt. A layout promises: its segments
lie in the file and do not overlap, and the segments of one page, joined, are exactly its plane in C order. So
the bytes outside the segments (the skeleton) and the planes together are the file, whatever the tags mean;
nothing here can spoil a byte. That holds as well where pixels cover metadata (a strip over a directory or a
tag's values): those bytes are then kept as pixels, and since rebuilding follows the layout and never parses
the rebuilt tags, such files are accepted.

What is refused: compression, tiles narrower than the image, samples that are not whole bytes, subsampled
colour, absent strips (offset 0), planes that share bytes, and files of which too much would be skeleton.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Final, NamedTuple

import numpy as np

from vfsd.images.directory import (
    BEYOND_END,
    MAX_DIRECTORIES,
    Declaration,
    Directory,
    NotRebuildable,
    OpenTiff,
)
from vfsd.images.tags import (
    COMPRESSION,
    FILL_ORDER,
    IMAGE_DEPTH,
    IMAGE_DESCRIPTION,
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

__all__ = [
    "NotRebuildable",
    "PageLayout",
    "PixelRun",
    "Segment",
    "TiffLayout",
    "analyse_tiff",
]

PIXEL_TYPES: Final = {
    (kind, 8 * size): np.dtype(f"<{letter}{size}")
    for kind, letter, sizes in ((1, "u", (1, 2, 4, 8)), (2, "i", (1, 2, 4, 8)), (3, "f", (2, 4, 8)))
    for size in sizes
}
"""(SampleFormat, BitsPerSample) to the little-endian dtype of what can be kept as planes."""

MAX_STRIPS: Final = 262_144
"""Most strips of one page: an image of as many rows in strips of one; bounds a table to 2 MiB."""

MAX_STRIPS_IN_FILE: Final = 4_194_304
"""Most strips in all: 1,900 planes of 2160 rows in strips of one; bounds what the tables cost to read."""

MAX_SEGMENTS: Final = 131_072
"""Most runs after neighbouring strips were merged: two a page in the longest chain, 30 MB of layout."""

FREE_SKELETON: Final = 1024 * 1024
"""A skeleton up to this is always kept: the OME-XML of thousands of planes reaches several hundred KiB."""

SKELETON_SHARE: Final = 4
"""Above that at most the file's size divided by this: with more, keeping pixels apart gains nothing."""

MAX_SKELETON: Final = 64 * 1024 * 1024
"""No skeleton is larger than this, since it is held in memory whole."""

IMAGEJ_HEAD: Final = 1024
"""Bytes of a description in which ImageJ's "images=" stands: it is the second line that ImageJ writes."""

IMAGEJ_IMAGES: Final = re.compile(rb"^images=([0-9]{1,9})[ \t\r]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of pixel bytes in the file."""

    offset: int
    length: int


class PixelRun(NamedTuple):
    """A piece of a plane in the file; a tuple, since readers of ranges take it apart at once.

    `page` counts from 0, `plane_offset` is in bytes of the plane, `file_offset` in bytes of the file.
    """

    page: int
    plane_offset: int
    file_offset: int
    length: int


@dataclass(frozen=True, slots=True)
class PageLayout:
    """One plane: its shape and the segments that hold it.

    The segments joined, in their order, are the plane's bytes in C order: (y, x), (y, x, sample), or
    (sample, y, x) when `planar`. In a big-endian file those bytes are big-endian; `dtype` is the
    little-endian equivalent, in which planes are stored.

    Raises
    ------
    NotRebuildable
        The segments do not add up to the plane, or cut through a sample.
    """

    height: int
    width: int
    samples: int
    dtype: np.dtype[np.generic]
    segments: tuple[Segment, ...]
    planar: bool = False

    def __post_init__(self) -> None:
        itemsize = self.dtype.itemsize
        total = 0
        for segment in self.segments:
            if segment.length <= 0 or segment.length % itemsize:
                raise NotRebuildable("strips that cut through samples")
            total += segment.length
        if total != self.nbytes or total == 0:
            raise NotRebuildable("strips that are not the size of the image")

    @property
    def shape(self) -> tuple[int, ...]:
        """The plane's shape in C order; no sample axis for a single sample."""
        if self.samples == 1:
            return (self.height, self.width)
        if self.planar:
            return (self.samples, self.height, self.width)
        return (self.height, self.width, self.samples)

    @property
    def nbytes(self) -> int:
        """Bytes of the plane."""
        return self.height * self.width * self.samples * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """Where every plane of a TIFF of `size` bytes lies, and so which bytes are no pixels.

    Examples
    --------
    >>> layout = analyse_tiff(fd)
    >>> layout.plane_count, layout.pages[0].shape, layout.pages[0].dtype
    (1, (2160, 2160), dtype('uint16'))
    >>> list(layout.locate(0, 4096))  # which pixels are in the first block of the file?
    [PixelRun(page=0, plane_offset=0, file_offset=8, length=4088)]

    Raises
    ------
    NotRebuildable
        Segments outside the file, or planes that overlap.
    """

    size: int
    big_endian: bool
    bigtiff: bool
    pages: tuple[PageLayout, ...]
    # The segments in file order, as columns: starts, ends, page, offset in plane, pixel bytes of the file
    # before it.
    _starts: array[int] = field(init=False, repr=False, compare=False)
    _ends: array[int] = field(init=False, repr=False, compare=False)
    _pages: array[int] = field(init=False, repr=False, compare=False)
    _plane_offsets: array[int] = field(init=False, repr=False, compare=False)
    _pixels_before: array[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        runs = []
        for number, page in enumerate(self.pages):
            plane_offset = 0
            for segment in page.segments:
                runs.append((segment.offset, segment.length, number, plane_offset))
                plane_offset += segment.length
        if len(runs) > MAX_SEGMENTS:
            raise NotRebuildable(f"pixels in {len(runs):,} pieces")
        runs.sort()
        starts, ends, before = array("q"), array("q"), array("q")
        end = pixels = 0
        for offset, length, _, _ in runs:
            if offset < end:
                raise NotRebuildable("planes overlap")
            end = offset + length
            if end > self.size:
                raise NotRebuildable(BEYOND_END)
            starts.append(offset)
            ends.append(end)
            before.append(pixels)
            pixels += length
        before.append(pixels)
        object.__setattr__(self, "_starts", starts)
        object.__setattr__(self, "_ends", ends)
        object.__setattr__(self, "_pages", array("q", [run[2] for run in runs]))
        object.__setattr__(self, "_plane_offsets", array("q", [run[3] for run in runs]))
        object.__setattr__(self, "_pixels_before", before)

    @property
    def plane_count(self) -> int:
        """Number of planes."""
        return len(self.pages)

    @property
    def uniform(self) -> bool:
        """Whether all planes have one shape and dtype, so that they fit into one array."""
        first = self.pages[0]
        kind = (first.height, first.width, first.samples, first.planar, first.dtype)
        return all((p.height, p.width, p.samples, p.planar, p.dtype) == kind for p in self.pages)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the file that are pixels; the others are its skeleton."""
        return self._pixels_before[-1]

    def locate(self, offset: int, length: int) -> Iterator[PixelRun]:
        """The pixels among the file's bytes [offset, offset + length), in file order.

        What of the range no run covers is skeleton (`gaps`). A run begins and ends where the range does, so
        in a big-endian file it may cut through samples: swap whole samples around it, then cut.
        """
        stop = min(offset + length, self.size)
        for i in range(max(bisect_right(self._starts, offset) - 1, 0), len(self._starts)):
            first = max(self._starts[i], offset)
            last = min(self._ends[i], stop)
            if self._starts[i] >= stop:
                return
            if first < last:
                plane_offset = self._plane_offsets[i] + first - self._starts[i]
                yield PixelRun(self._pages[i], plane_offset, first, last - first)

    def gaps(self, offset: int = 0, length: int | None = None) -> Iterator[tuple[int, int, int]]:
        """The runs of skeleton bytes in [offset, offset + length), in file order.

        Yields
        ------
        tuple of (int, int, int)
            Offset in the file, length, and offset among all skeleton bytes of the file.
        """
        stop = self.size if length is None else min(offset + length, self.size)
        i = bisect_right(self._starts, offset)
        position = max(offset, 0 if i == 0 else self._ends[i - 1])
        while position < stop:
            end = min(self._starts[i] if i < len(self._starts) else self.size, stop)
            if position < end:
                yield position, end - position, position - self._pixels_before[i]
            if i == len(self._starts):
                return
            position = self._ends[i]
            i += 1


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
    pixels = strips = pieces = 0
    lone: Directory | None = None
    for directory in file.directories():
        lone = directory if not pages else None
        try:
            page, page_strips = _analyse_page(directory, file.size)
        except NotRebuildable as problem:
            if not pages:
                raise
            raise NotRebuildable(f"image {len(pages) + 1}: {problem.reason}") from None
        pixels += page.nbytes
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
    rest = layout.size - layout.pixel_bytes
    if rest > min(max(FREE_SKELETON, file.size // SKELETON_SHARE), MAX_SKELETON):
        raise NotRebuildable(f"{rest:,} of {file.size:,} bytes are no pixels")
    return layout


def _analyse_page(directory: Directory, size: int) -> tuple[PageLayout, int]:
    """One directory's plane, and the number of its strips."""
    compression = directory.integer(COMPRESSION, UNCOMPRESSED)
    if compression != UNCOMPRESSED:
        raise NotRebuildable(f"compressed ({compression_name(compression)})")
    declared = directory.declaration()
    dtype = PIXEL_TYPES.get((declared.sample_format, declared.bits))
    if dtype is None:
        if declared.sample_format not in (1, 2, 3):
            raise NotRebuildable(f"sample format {declared.sample_format}")
        raise NotRebuildable(f"{declared.bits} bit{'s' if declared.bits > 1 else ''} a sample")
    if prod((declared.height, declared.width, declared.samples, dtype.itemsize)) > size:
        picture = f"{declared.width} \u00d7 {declared.height}"
        raise NotRebuildable(f"image of {picture} pixels does not fit the file")
    _refuse_unusual_samples(directory)
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


def _refuse_unusual_samples(directory: Directory) -> None:
    """Refuse what makes uncompressed samples something else than an array of numbers."""
    if directory.integer(FILL_ORDER, 1) != 1:
        raise NotRebuildable("bits in reversed order")
    if directory.integer(PREDICTOR, 1) != 1:
        raise NotRebuildable("a predictor without compression")
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
    if len(first.segments) > 1 or 2 * first.nbytes > size:
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
