"""The skeleton of a TIFF: every byte that is not a pixel, and where the pixels go.

Skeleton and planes together are the file, exactly. `to_bytes` is what the catalogue keeps of a file: equal
skeletons give equal bytes, pages of one kind cost nothing each, and a checksum guards the whole. `from_bytes`
takes anything: it gives a skeleton whose layout holds, or SkeletonError, and never allocates more than the
limits of `layout` allow.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np

from vfsd.images.layout import (
    MAX_SEGMENTS,
    MAX_SKELETON,
    PIXEL_TYPES,
    NotRebuildable,
    PageLayout,
    Segment,
    TiffLayout,
)
from vfsd.images.reading import read_into
from vfsd.images.strips import StripCoding

__all__ = ["Skeleton", "SkeletonError", "extract_skeleton"]

# The serialised form, little-endian: HEAD, body, CRC-32 of both. Body, deflated where that makes it smaller:
# a GROUP for each run of alike pages, then for all segments the int64 distances from the end of the one
# before (0 before the first), then their int64 lengths, then the skeleton bytes.
# Version 2, written where pages are compressed, and only there, so that other skeletons are what they always were: HEAD
# is followed by GAP_COUNT; behind the GROUPs stands a CODING for each of them; behind the lengths stand, for all
# segments, the int32 numbers of their gaps, then all gaps (uint16).
MAGIC: Final = b"vfsk"
VERSION: Final = 1
CODED_VERSION: Final = 2
HEAD: Final = struct.Struct("<4sBBxxIIQQ")
"""Magic, version, flags, number of groups, number of segments, size of the file, number of skeleton bytes."""
GROUP: Final = struct.Struct("<IQQIIcBB")
"""Number of pages; height, width, samples, segments of each; dtype's kind and bytes; planar."""
CODING: Final = struct.Struct("<BI")
"""Predictor, rows of a strip; predictor 0: not compressed."""
GAP_COUNT: Final = struct.Struct("<Q")
"""Number of gaps in all."""
CHECKSUM: Final = struct.Struct("<I")
BIG_ENDIAN: Final = 1
BIGTIFF: Final = 2
DEFLATED: Final = 4

DEFLATE_LEVEL: Final = 1
"""Real skeletons (2 to 8 KiB, mostly XML) shrink 3.4 times in 40 µs; level 6 takes 57 µs for 8 % less."""

MOST_KNOWN: Final = 1024
KNOWN_LAYOUTS: Final = 512
"""Layouts whose tables take at most so many bytes are kept: half a megabyte, for files of some ten strips."""

MAX_GAPS: Final = MAX_SKELETON // 2
"""Gaps are bounded as the skeleton's bytes are; a file of 100 GB that clears every 3,837 codes has 20 million."""

STORED_TYPES: Final = {(dtype.kind.encode(), dtype.itemsize): dtype for dtype in PIXEL_TYPES.values()}


class SkeletonError(ValueError):
    """These bytes are no skeleton, or a damaged one."""


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A TIFF without its pixels.

    Attributes
    ----------
    layout : TiffLayout
        Where the pixels go.
    rest : bytes
        All bytes outside the layout's segments, in file order.

    Raises
    ------
    SkeletonError
        `rest` is not as long as what the layout leaves free.
    """

    layout: TiffLayout
    rest: bytes

    def __post_init__(self) -> None:
        if len(self.rest) + self.layout.pixel_bytes != self.layout.size:
            raise SkeletonError("skeleton and pixels do not add up to the file")

    def gaps(self) -> Iterator[tuple[int, memoryview]]:
        """The runs of bytes between the pixels: offset in the file, and the bytes."""
        return self.gaps_between(0, self.layout.size)

    def gaps_between(self, start: int, stop: int) -> Iterator[tuple[int, memoryview]]:
        """The runs of bytes between the pixels, cut to the file's bytes [start, stop)."""
        rest = memoryview(self.rest)
        for offset, length, position in self.layout.gaps(start, stop - start):
            yield offset, rest[position : position + length]

    def read_rest(self, offset: int, length: int) -> Iterator[tuple[int, memoryview]]:
        """What a read of `length` bytes at `offset` gets from here; `layout.locate` has the remainder."""
        return self.gaps_between(offset, offset + length)

    def to_bytes(self) -> bytes:
        """The compact form; equal skeletons give equal bytes with the same zlib."""
        layout = self.layout
        groups = [(kind, len(list(alike))) for kind, alike in groupby(layout.pages, _kind_of_page)]
        segments = [segment for page in layout.pages for segment in page.segments]
        offsets = np.array([segment.offset for segment in segments], "<i8")
        lengths = np.array([segment.length for segment in segments], "<i8")
        distances = offsets.copy()
        distances[1:] -= offsets[:-1] + lengths[:-1]
        version, gap_count, codings, gaps = VERSION, b"", b"", b""
        if layout.compressed:
            version = CODED_VERSION
            codings = b"".join(CODING.pack(*coding) for (_, coding), _ in groups)
            gaps_of = [gaps for page in layout.pages for gaps in _gaps_of_segments(page)]
            gaps = np.array([len(gaps) // 2 for gaps in gaps_of], "<i4").tobytes() + b"".join(gaps_of)
            gap_count = GAP_COUNT.pack((len(gaps) - 4 * len(segments)) // 2)
        body = b"".join(
            (
                *(GROUP.pack(count, *kind) for (kind, _), count in groups),
                codings,
                distances.tobytes(),
                lengths.tobytes(),
                gaps,
                self.rest,
            )
        )
        flags = BIG_ENDIAN * layout.big_endian | BIGTIFF * layout.bigtiff
        deflated = zlib.compress(body, DEFLATE_LEVEL)
        if len(deflated) < len(body):
            body = deflated
            flags |= DEFLATED
        head = HEAD.pack(MAGIC, version, flags, len(groups), len(segments), layout.size, len(self.rest)) + gap_count
        return b"".join((head, body, CHECKSUM.pack(zlib.crc32(body, zlib.crc32(head)))))

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Skeleton:
        """The skeleton that `to_bytes` wrote.

        Raises
        ------
        SkeletonError
            Anything else: cut, changed, of a newer version, or with segments that overlap or leave the file.
        """
        view = memoryview(data).cast("B")
        if len(view) < HEAD.size + CHECKSUM.size or bytes(view[: len(MAGIC)]) != MAGIC:
            raise SkeletonError("not a skeleton")
        _, version, flags, group_count, segment_count, size, rest_length = HEAD.unpack_from(view)
        if version not in (VERSION, CODED_VERSION):
            raise SkeletonError(f"a skeleton of version {version}, this program knows {VERSION} and {CODED_VERSION}")
        if zlib.crc32(view[: -CHECKSUM.size]) != CHECKSUM.unpack_from(view, len(view) - CHECKSUM.size)[0]:
            raise SkeletonError("a damaged skeleton: its checksum differs")
        if (
            flags & ~(BIG_ENDIAN | BIGTIFF | DEFLATED)
            or not 1 <= group_count <= segment_count <= MAX_SEGMENTS
            or rest_length > MAX_SKELETON
            or size >= 2**63
        ):
            raise SkeletonError("a skeleton beyond the limits")
        start, tables, columns, gaps_length = HEAD.size, group_count * GROUP.size, segment_count * 8, 0
        if version == CODED_VERSION:
            if len(view) < HEAD.size + GAP_COUNT.size + CHECKSUM.size:
                raise SkeletonError("not a skeleton")
            (gap_count,) = GAP_COUNT.unpack_from(view, start)
            if gap_count > MAX_GAPS:
                raise SkeletonError("a skeleton beyond the limits")
            start += GAP_COUNT.size
            tables += group_count * CODING.size
            gaps_length = 4 * segment_count + 2 * gap_count
        length = tables + 2 * columns + gaps_length + rest_length
        body = _inflate(view[start : -CHECKSUM.size], length, bool(flags & DEFLATED))
        end = tables + 2 * columns + gaps_length
        described = _Described(size, flags & ~DEFLATED, version, group_count, segment_count, bytes(body[:end]))
        # the images of a plate differ in what they say of themselves, not in where their pixels are
        layout = _known_layout(described) if end <= MOST_KNOWN else _layout_of(described)
        return cls(layout, bytes(body[end:]))


def extract_skeleton(fd: int, layout: TiffLayout) -> Skeleton:
    """Read every byte of the file that is no pixel.

    Parameters
    ----------
    fd : int
        The TIFF, open for reading; its position is neither used nor moved.
    layout : TiffLayout
        What `analyse_tiff` found in it.

    Raises
    ------
    TruncatedImage
        The file has become shorter since.
    OSError
        From reading.
    """
    rest = bytearray(layout.size - layout.pixel_bytes)
    with memoryview(rest) as view:
        for offset, length, position in layout.gaps():
            read_into(fd, view[position : position + length], offset)
    return Skeleton(layout, bytes(rest))


class _Described(NamedTuple):
    """What a stored skeleton says of a layout: numbers of its head, and the tables before the bytes."""

    size: int
    flags: int
    version: int
    groups: int
    segments: int
    tables: bytes


def _layout_of(described: _Described) -> TiffLayout:
    """The layout; raises SkeletonError where it does not hold."""
    tables, columns = memoryview(described.tables), described.segments * 8
    start = described.groups * (GROUP.size + (CODING.size if described.version == CODED_VERSION else 0))
    distances = np.frombuffer(tables, "<i8", described.segments, start)
    lengths = np.frombuffer(tables, "<i8", described.segments, start + columns)
    # sums of hostile numbers may wrap; whatever comes out is then checked by TiffLayout
    offsets = np.cumsum(distances + lengths) - lengths
    segments = [Segment(*pair) for pair in zip(offsets.tolist(), lengths.tolist(), strict=True)]
    try:
        codings = [(0, 0)] * described.groups
        if described.version == CODED_VERSION:
            codings = list(CODING.iter_unpack(tables[described.groups * GROUP.size : start]))
        groups = list(GROUP.iter_unpack(tables[: described.groups * GROUP.size]))
        gaps = _split_gaps(tables[start + 2 * columns :], described.segments)
        pages = _pages(groups, codings, segments, gaps)
        return TiffLayout(described.size, bool(described.flags & BIG_ENDIAN), bool(described.flags & BIGTIFF), pages)
    except NotRebuildable as problem:
        raise SkeletonError(f"a skeleton whose layout does not hold: {problem.reason}") from None


_known_layout = functools.lru_cache(maxsize=KNOWN_LAYOUTS)(_layout_of)

_Kind = tuple[int, int, int, int, bytes, int, bool]


def _kind_of_page(page: PageLayout) -> tuple[_Kind, tuple[int, int]]:
    """What a GROUP and a CODING say of a page."""
    dtype = page.dtype
    kind = (
        page.height,
        page.width,
        page.samples,
        len(page.segments),
        dtype.kind.encode(),
        dtype.itemsize,
        page.planar,
    )
    return kind, (0, 0) if page.coding is None else (page.coding.predictor, page.coding.rows)


def _gaps_of_segments(page: PageLayout) -> Sequence[bytes]:
    return [b""] * len(page.segments) if page.coding is None else page.coding.gaps


def _split_gaps(data: memoryview, segment_count: int) -> list[bytes]:
    """The gaps of each segment; of a skeleton without any, nothing each."""
    if not data:
        return [b""] * segment_count
    counts = np.frombuffer(data, "<i4", segment_count)
    gaps = data[4 * segment_count :]
    if counts.min() < 0 or int(counts.sum(dtype=np.int64)) * 2 != len(gaps):
        raise SkeletonError("a skeleton whose gaps are not as many as it says")
    ends = (2 * np.cumsum(counts, dtype=np.int64)).tolist()
    return [bytes(gaps[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def _pages(
    groups: Sequence[tuple[int, int, int, int, int, bytes, int, int]],
    codings: Sequence[tuple[int, int]],
    segments: list[Segment],
    gaps: list[bytes],
) -> tuple[PageLayout, ...]:
    """Deal segments and gaps out to the pages of the groups; PageLayout checks that they fit."""
    pages = []
    taken = 0
    for group, (predictor, rows) in zip(groups, codings, strict=True):
        count, height, width, samples, segments_each, kind, itemsize, planar = group
        dtype = STORED_TYPES.get((kind, itemsize))
        if dtype is None or planar > 1 or count == 0 or segments_each == 0:
            raise SkeletonError("a skeleton with a page of no known kind")
        if taken + count * segments_each > len(segments):
            raise SkeletonError("a skeleton with fewer segments than its pages need")
        for _ in range(count):
            own = tuple(segments[taken : taken + segments_each])
            clears = tuple(gaps[taken : taken + segments_each])
            coding = None if predictor == 0 else StripCoding(predictor, rows, clears)
            if coding is None and (rows != 0 or any(clears)):
                raise SkeletonError("a skeleton with gaps where nothing is compressed")
            pages.append(PageLayout(height, width, samples, dtype, own, bool(planar), coding))
            taken += segments_each
    if taken != len(segments):
        raise SkeletonError("a skeleton with more segments than its pages need")
    return tuple(pages)


def _inflate(data: memoryview, length: int, deflated: bool) -> bytes | memoryview:
    """The body of exactly `length` bytes; never makes more of them."""
    if not deflated:
        if len(data) != length:
            raise SkeletonError("a skeleton of another length than it says")
        return data
    inflater = zlib.decompressobj()
    try:
        body = inflater.decompress(data, length + 1)
    except zlib.error as problem:
        raise SkeletonError(f"a damaged skeleton: {problem}") from None
    if len(body) != length or not inflater.eof or inflater.unused_data:
        raise SkeletonError("a skeleton of another length than it says")
    return body
