"""The serialised skeleton: small, equal for equal files, and safe to read from anywhere."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rebuild_check import take_apart
from tiff_writer import Tag, TiffWriter, plain_tags, simple_tiff

from vfsd.images import PageLayout, Segment, Skeleton, SkeletonError, TiffLayout
from vfsd.images.skeleton import GROUP, HEAD


def stack(pages: int, *, junk: int = 0) -> Skeleton:
    writer = TiffWriter()
    writer.append(np.random.default_rng(1).bytes(junk))
    for _ in range(pages):
        writer.add_directory(plain_tags(4, 5, [writer.append(bytes(20))], [20]))
    return take_apart(writer.data)[0]


def signed(head: bytes, body: bytes) -> bytes:
    """What `to_bytes` would have written, had it these parts."""
    return head + body + struct.pack("<I", zlib.crc32(head + body))


def opened(skeleton: Skeleton) -> tuple[list[int], bytes]:
    """Fields of the head (after the magic) and the inflated body."""
    data = skeleton.to_bytes()
    _, *fields = HEAD.unpack_from(data)
    body = data[HEAD.size : -4]
    return fields, zlib.decompress(body) if fields[1] & 4 else body


def closed(fields: list[int], body: bytes, *, deflate: bool) -> bytes:
    version, flags, *others = fields
    flags = flags & ~4 | 4 * deflate
    return signed(HEAD.pack(b"vfsk", version, flags, *others), zlib.compress(body) if deflate else body)


def test_it_reads_back_deflated_or_not() -> None:
    for skeleton in (stack(1), stack(40), stack(1, junk=5000)):
        assert Skeleton.from_bytes(skeleton.to_bytes()) == skeleton
        assert Skeleton.from_bytes(memoryview(skeleton.to_bytes())) == skeleton
        fields, body = opened(skeleton)
        for deflate in (False, True):
            assert Skeleton.from_bytes(closed(fields, body, deflate=deflate)) == skeleton


def test_incompressible_skeletons_are_stored_as_they_are() -> None:
    assert not opened(stack(1, junk=500_000))[0][1] & 4
    assert opened(stack(40))[0][1] & 4


def test_alike_pages_cost_a_few_bytes_each() -> None:
    few, many = stack(10), stack(1010)
    gained = len(many.to_bytes()) - len(few.to_bytes())
    assert gained < 1000 * 20  # a page's directory alone is 98 bytes of skeleton


def test_files_that_differ_outside_the_pixels_differ_in_rest_only() -> None:
    first, _ = take_apart(simple_tiff(4, 5, Tag(305, 2, b"10:31:07\0")))
    second, _ = take_apart(simple_tiff(4, 5, Tag(305, 2, b"10:31:08\0")))
    assert first.layout == second.layout
    assert first != second


def test_skeleton_and_pixels_have_to_add_up() -> None:
    skeleton = stack(1)
    with pytest.raises(SkeletonError):
        Skeleton(skeleton.layout, skeleton.rest + b"x")
    with pytest.raises(SkeletonError):
        Skeleton(skeleton.layout, skeleton.rest[1:])


def test_gaps_are_what_the_pixels_leave() -> None:
    pages = tuple(PageLayout(1, 4, 1, np.dtype("<u1"), (Segment(at, 4),)) for at in (14, 2, 10))
    skeleton = Skeleton(TiffLayout(20, False, False, pages), b"abcdefgh")
    assert [(at, bytes(piece)) for at, piece in skeleton.gaps()] == [(0, b"ab"), (6, b"cdef"), (18, b"gh")]
    assert [(at, bytes(piece)) for at, piece in skeleton.gaps_between(1, 8)] == [(1, b"b"), (6, b"cd")]
    assert [(at, bytes(piece)) for at, piece in skeleton.read_rest(9, 100)] == [(9, b"f"), (18, b"gh")]
    assert list(skeleton.read_rest(10, 8)) == []
    assert list(skeleton.read_rest(20, 8)) == []
    runs = list(skeleton.layout.locate(3, 13))
    assert [tuple(run) for run in runs] == [(1, 1, 3, 3, 0), (2, 0, 10, 4, 0), (0, 0, 14, 2, 0)]


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_cut_bytes_are_refused(length: int) -> None:
    with pytest.raises(SkeletonError):
        Skeleton.from_bytes(stack(2).to_bytes()[:length])


def test_a_newer_version_is_named() -> None:
    fields, body = opened(stack(1))
    with pytest.raises(SkeletonError, match="version 3"):
        Skeleton.from_bytes(closed([3, *fields[1:]], body, deflate=True))


@given(st.integers(0), st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_a_changed_byte_is_noticed(position: int, change: int) -> None:
    data = bytearray(stack(3).to_bytes())
    data[position % len(data)] ^= change
    with pytest.raises(SkeletonError):
        Skeleton.from_bytes(bytes(data))


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_random_bytes_are_refused(data: bytes) -> None:
    for content in (data, b"vfsk\x01" + data, signed(b"vfsk\x01" + data[:27].ljust(27, b"\0"), data[27:])):
        with pytest.raises(SkeletonError):
            Skeleton.from_bytes(content)


NUMBERS = st.sampled_from([0, 1, 2, 255, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]) | st.integers(0, 300)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_well_signed_nonsense_is_refused_or_holds(data: st.DataObject) -> None:
    """The checksum keeps nobody from writing anything: numbers are changed behind it."""
    fields, original = opened(stack(3))
    body = bytearray(original)
    limits = [255, 255, 2**32 - 1, 2**32 - 1, 2**64 - 1, 2**64 - 1]
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.booleans()):
            field = data.draw(st.integers(1, 5))
            fields[field] = min(data.draw(NUMBERS), limits[field])
        elif data.draw(st.booleans()):
            position = GROUP.size + 8 * data.draw(st.integers(0, 5))
            struct.pack_into("<Q", body, position, data.draw(NUMBERS))
        else:
            body[data.draw(st.integers(0, GROUP.size - 1))] = data.draw(st.integers(0, 255))
    tracemalloc.start()
    try:
        skeleton = Skeleton.from_bytes(closed(fields, bytes(body), deflate=data.draw(st.booleans())))
    except SkeletonError:
        pass
    else:
        layout = skeleton.layout
        assert len(skeleton.rest) + layout.pixel_bytes == layout.size
        runs = list(layout.locate(0, layout.size))
        assert sum(run.length for run in runs) == sum(page.nbytes for page in layout.pages)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1024 * 1024


def test_a_bomb_is_not_inflated() -> None:
    fields, _ = opened(stack(1))
    bomb = zlib.compress(bytes(50_000_000), 9)
    tracemalloc.start()
    try:
        with pytest.raises(SkeletonError):
            Skeleton.from_bytes(signed(HEAD.pack(b"vfsk", 1, 4, *fields[2:]), bomb))
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()
