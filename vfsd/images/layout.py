"""Where the pixels of a TIFF lie: each plane as runs of bytes in the file.

A layout promises: its segments lie in the file and do not overlap. The segments of an uncompressed page, joined, are
exactly its plane in C order; those of a compressed page are its strips, each exactly what `strips` makes of its rows. So
the bytes outside the segments (the skeleton) and the planes together are the file, whatever the tags mean;
nothing here can spoil a byte. That holds as well where pixels cover metadata (a strip over a directory or a
tag's values): those bytes are then kept as pixels, and since rebuilding follows the layout and never parses
the rebuilt tags, such files are accepted.

Layouts come from `analysis`, or out of a stored skeleton; here is only what must hold of any of them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from vfsd.images.directory import BEYOND_END, NotRebuildable
from vfsd.images.strips import MAX_STRIP, StripCoding

__all__ = [
    "NotRebuildable",
    "PageLayout",
    "PixelRun",
    "Segment",
    "TiffLayout",
]

PIXEL_TYPES: Final = {
    (kind, 8 * size): np.dtype(f"<{letter}{size}")
    for kind, letter, sizes in ((1, "u", (1, 2, 4, 8)), (2, "i", (1, 2, 4, 8)), (3, "f", (2, 4, 8)))
    for size in sizes
}
"""(SampleFormat, BitsPerSample) to the little-endian dtype of what can be kept as planes."""

MAX_SEGMENTS: Final = 131_072
"""Most runs after neighbouring strips were merged: two a page in the longest chain, 30 MB of layout."""

MAX_SKELETON: Final = 64 * 1024 * 1024
"""No skeleton is larger than this, since it is held in memory whole."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of pixel bytes in the file."""

    offset: int
    length: int


class PixelRun(NamedTuple):
    """A piece of a plane in the file; a tuple, since readers of ranges take it apart at once.

    `page` and its `segment` count from 0, `plane_offset` is in bytes of the plane, `file_offset` in bytes of the file.
    Of a compressed page `plane_offset` is where the strip's rows begin, and the run's bytes are some of the strip's
    codes: those from `file_offset` less the segment's offset on.
    """

    page: int
    plane_offset: int
    file_offset: int
    length: int
    segment: int


@dataclass(frozen=True, slots=True)
class PageLayout:
    """One plane: its shape and the segments that hold it.

    The segments joined, in their order, are the plane's bytes in C order: (y, x), (y, x, sample), or
    (sample, y, x) when `planar`. In a big-endian file those bytes are big-endian; `dtype` is the
    little-endian equivalent, in which planes are stored. With a `coding` each segment is a strip's codes instead, and
    the strips decoded, joined, are the plane.

    Raises
    ------
    NotRebuildable
        The segments do not add up to the plane, or cut through a sample; or they are not the coding's strips.
    """

    height: int
    width: int
    samples: int
    dtype: np.dtype[np.generic]
    segments: tuple[Segment, ...]
    planar: bool = False
    coding: StripCoding | None = None

    def __post_init__(self) -> None:
        if self.coding is not None:
            self._check_strips(self.coding)
            return
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

    @property
    def stored_bytes(self) -> int:
        """Bytes of the file that are this page's pixels; less than `nbytes` where they are compressed."""
        return self.nbytes if self.coding is None else sum(segment.length for segment in self.segments)

    @property
    def row_samples(self) -> int:
        """Samples that lie side by side in a row: those of a pixel, or one when `planar`."""
        return 1 if self.planar else self.samples

    def strip_place(self, number: int) -> tuple[int, int]:
        """Offset and length in bytes, within the plane, of the rows of a strip of a compressed page."""
        assert self.coding is not None
        row_bytes = self.width * self.row_samples * self.dtype.itemsize
        band, within = divmod(number, -(-self.height // self.coding.rows))
        top = within * self.coding.rows
        rows = min(self.coding.rows, self.height - top)
        return (band * self.height + top) * row_bytes, rows * row_bytes

    def _check_strips(self, coding: StripCoding) -> None:
        if not 1 <= coding.rows <= self.height or self.nbytes == 0:
            raise NotRebuildable("strips that are not the size of the image")
        # bounds what a read of a strip takes, and with the number of strips the plane
        if coding.rows * self.width * self.row_samples * self.dtype.itemsize > MAX_STRIP:
            raise NotRebuildable("strips that are too large")
        bands = self.samples if self.planar else 1
        strips = bands * -(-self.height // coding.rows)
        if not len(self.segments) == len(coding.gaps) == strips or any(s.length <= 0 for s in self.segments):
            raise NotRebuildable("strips that are not the size of the image")


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """Where every plane of a TIFF of `size` bytes lies, and so which bytes are no pixels.

    Examples
    --------
    >>> layout = analyse_tiff(fd)
    >>> layout.plane_count, layout.pages[0].shape, layout.pages[0].dtype
    (1, (2160, 2160), dtype('uint16'))
    >>> list(layout.locate(0, 4096))  # which pixels are in the first block of the file?
    [PixelRun(page=0, plane_offset=0, file_offset=8, length=4088, segment=0)]

    Raises
    ------
    NotRebuildable
        Segments outside the file, or planes that overlap.
    """

    size: int
    big_endian: bool
    bigtiff: bool
    pages: tuple[PageLayout, ...]
    # The segments in file order, as columns: starts, ends, page, number in page, offset in plane, pixel bytes of the file
    # before it.
    _starts: array[int] = field(init=False, repr=False, compare=False)
    _ends: array[int] = field(init=False, repr=False, compare=False)
    _pages: array[int] = field(init=False, repr=False, compare=False)
    _segments: array[int] = field(init=False, repr=False, compare=False)
    _plane_offsets: array[int] = field(init=False, repr=False, compare=False)
    _pixels_before: array[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        runs = []
        for number, page in enumerate(self.pages):
            plane_offset = 0
            for place, segment in enumerate(page.segments):
                if page.coding is not None:
                    plane_offset, _ = page.strip_place(place)
                runs.append((segment.offset, segment.length, number, plane_offset, place))
                plane_offset += segment.length
        if len(runs) > MAX_SEGMENTS:
            raise NotRebuildable(f"pixels in {len(runs):,} pieces")
        runs.sort()
        starts, ends, before = array("q"), array("q"), array("q")
        end = pixels = 0
        for offset, length, *_ in runs:
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
        object.__setattr__(self, "_segments", array("q", [run[4] for run in runs]))
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
    def compressed(self) -> bool:
        """Whether any plane is compressed in the file."""
        return any(page.coding is not None for page in self.pages)

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
                plane_offset = self._plane_offsets[i]
                if self.pages[self._pages[i]].coding is None:
                    plane_offset += first - self._starts[i]
                yield PixelRun(self._pages[i], plane_offset, first, last - first, self._segments[i])

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
