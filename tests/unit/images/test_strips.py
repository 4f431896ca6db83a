"""LZW files of every shape: rebuilt byte for byte, and decoded as tifffile decodes them, or refused by name."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from rebuild_check import check_range, check_rebuild, rebuild, take_apart
from tiff_writer import LONG, SHORT, Tag, TiffWriter, as_file, plain_tags

from vfsd.images import (
    NotRebuildable,
    PageLayout,
    Segment,
    Skeleton,
    SkeletonError,
    StripCoding,
    StripError,
    TiffLayout,
    analyse_tiff,
    load_plane,
)
from vfsd.images.strips import MAX_STRIP


def lzw_tiff(planes: np.ndarray, **options: Any) -> bytes:
    """Written by tifffile and its encoder, as imagecodecs has it."""
    file = io.BytesIO()
    tifffile.imwrite(file, planes, compression="lzw", metadata=None, **options)
    return file.getvalue()


def picture(shape: tuple[int, ...], dtype: str, *, seed: int = 1) -> np.ndarray:
    """Something with noise, runs and steps."""
    draw = np.random.default_rng(seed)
    rows = np.arange(np.prod(shape)).reshape(shape) // 7
    noise = draw.poisson(3, shape)
    noise[..., ::5] = 0
    return (rows + noise).astype(dtype)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i2"])
@pytest.mark.parametrize("shape", [(37, 41), (37, 41, 3)])
def test_files_of_another_encoder_are_rebuilt(
    shape: tuple[int, ...], dtype: str, predictor: bool, big_endian: bool
) -> None:
    planes = picture(shape, dtype)
    data = lzw_tiff(
        planes,
        predictor=predictor,
        rowsperstrip=8,
        photometric="rgb" if len(shape) == 3 else "minisblack",
        byteorder=">" if big_endian else "<",
    )
    layout, found = check_rebuild(data)
    assert layout.compressed
    assert layout.big_endian == big_endian
    assert np.array_equal(found[0], planes)
    skeleton, _ = take_apart(data)
    for offset in range(0, len(data), 211):
        check_range(data, skeleton, offset, 500)


def test_planar_colour_many_pages_and_float_are_rebuilt() -> None:
    planar = picture((3, 30, 20), "u2")
    _, found = check_rebuild(
        lzw_tiff(planar, photometric="rgb", planarconfig="separate", rowsperstrip=7, predictor=True)
    )
    assert np.array_equal(found[0], planar)
    pages = picture((5, 30, 20), "u2")
    layout, found = check_rebuild(lzw_tiff(pages, photometric="minisblack", bigtiff=True))
    assert layout.plane_count == 5
    assert np.array_equal(np.stack(found), pages)
    floats = picture((30, 20), "f4")
    _, found = check_rebuild(lzw_tiff(floats))
    assert np.array_equal(found[0], floats)


def test_a_blank_plane_costs_next_to_nothing() -> None:
    data = lzw_tiff(np.zeros((2160, 2160), np.uint16))
    skeleton, planes = take_apart(data)
    assert rebuild(skeleton, planes) == data
    assert len(skeleton.to_bytes()) < 1000


def mixed_file() -> tuple[bytes, np.ndarray, np.ndarray]:
    """An uncompressed page, and behind it a compressed one."""
    file = io.BytesIO()
    first, second = picture((20, 30), "u1"), picture((25, 30), "u2", seed=2)
    with tifffile.TiffWriter(file) as writer:
        writer.write(first, metadata=None)
        writer.write(second, compression="lzw", rowsperstrip=6, metadata=None)
    return file.getvalue(), first, second


def test_compressed_pages_among_others() -> None:
    data, first, second = mixed_file()
    layout, found = check_rebuild(data)
    assert [page.coding is not None for page in layout.pages] == [False, True]
    assert np.array_equal(found[0], first)
    assert np.array_equal(found[1], second)


def test_a_plane_of_other_pixels_is_not_passed_off_as_the_file() -> None:
    skeleton, planes = take_apart(lzw_tiff(picture((40, 40), "u2")))
    noise = np.random.default_rng(3).integers(0, 65535, (40, 40), np.uint16)
    with pytest.raises(StripError):
        rebuild(skeleton, [noise])
    with pytest.raises(StripError):
        rebuild(skeleton, [np.zeros_like(planes[0])])


def test_a_file_that_changed_since_is_noticed() -> None:
    data = lzw_tiff(picture((40, 40), "u2"), rowsperstrip=40)
    with as_file(data) as fd:
        layout = analyse_tiff(fd)
    segment = layout.pages[0].segments[0]
    for content in (bytes(len(data)), data[: segment.offset] + lzw_tiff(picture((90, 40), "u1"))):
        with as_file(content.ljust(len(data), b"\1")) as fd, pytest.raises(StripError):
            load_plane(fd, layout, 0)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ([Tag(317, SHORT, [3])], "predictor 3"),
        ([Tag(322, LONG, [5]), Tag(323, LONG, [4])], "tiled"),
        ([Tag(258, SHORT, [12])], "12 bits a sample"),
        ([Tag(266, SHORT, [2])], "bits in reversed order"),
        ([Tag(256, LONG, [MAX_STRIP // 4 + 1])], f"strips of {MAX_STRIP + 4:,} bytes"),
        ([Tag(256, LONG, [100_000]), Tag(257, LONG, [100_000])], "100000 \u00d7 100000 pixels in a file of 359 bytes"),
        ([Tag(279, LONG, [0])], "absent strips"),
        ([Tag(279, LONG, [5000])], "offsets past the end of the file"),
        ([Tag(279, LONG, [190])], "a strip of 190 bytes for 20 bytes of pixels"),
        ([Tag(278, LONG, [1])], "fewer strips than the image needs"),
        ([Tag(256, LONG, [6])], "the strip does not end where the pixels do"),
        ([Tag(279, LONG, [10])], "the strip ends too early"),
    ],
)
def test_what_is_not_rebuilt_is_named(tags: list[Tag], reason: str) -> None:
    writer = TiffWriter()
    codes = imagecodecs.lzw_encode(bytes(range(20)))
    offset = writer.append(codes)
    writer.append(bytes(200))
    replaced = {tag.number for tag in tags}
    usual = [*plain_tags(4, 5, [offset], [len(codes)]), Tag(259, SHORT, [5]), Tag(317, SHORT, [1])]
    writer.add_directory([*(tag for tag in usual if tag.number not in replaced), *tags])
    with as_file(writer.data) as fd, pytest.raises(NotRebuildable) as caught:
        analyse_tiff(fd)
    assert caught.value.reason == f"compressed (LZW: {reason})"


def test_codes_that_are_not_greedy_stay_as_they_are() -> None:
    codes = [256, 7, 7, 7, 7, 257]  # greedy: 7, 258, 7
    bits = "".join(f"{code:09b}" for code in codes)
    strip = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    writer = TiffWriter()
    offset = writer.append(strip)
    writer.add_directory([*plain_tags(2, 2, [offset], [len(strip)]), Tag(259, SHORT, [5])])
    with as_file(writer.data) as fd, pytest.raises(NotRebuildable, match="codes of another encoder"):
        analyse_tiff(fd)


SEEDS = [
    lzw_tiff(picture((20, 17), "u2"), rowsperstrip=6),
    lzw_tiff(picture((20, 17, 3), "u1"), rowsperstrip=9, predictor=True, photometric="rgb"),
    lzw_tiff(picture((90, 70), "u2"), predictor=True, byteorder=">"),
    mixed_file()[0],
]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_broken_files_are_refused_or_rebuilt(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(NotRebuildable):
        check_rebuild(content)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_broken_skeletons_are_refused_or_fill_their_file(data: st.DataObject) -> None:
    """Past the checksum: whatever the tables say, nothing but SkeletonError and StripError comes of it."""
    import zlib

    skeleton, planes = take_apart(data.draw(st.sampled_from(SEEDS)))
    stored = skeleton.to_bytes()
    head, body = bytearray(stored[:40]), bytearray(stored[40:-4])
    if head[5] & 4:
        body = bytearray(zlib.decompress(body))
        head[5] &= ~4
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, min(len(body), 300) - 1))
        body[at] = data.draw(st.integers(0, 255))
    changed = bytes(head + body)
    with suppress(SkeletonError, StripError):
        again = Skeleton.from_bytes(changed + zlib.crc32(changed).to_bytes(4, "little"))
        with suppress(ValueError):  # planes of another size
            rebuild(again, planes)


def test_layouts_that_do_not_hold() -> None:
    coding = StripCoding(1, 4, (b"\0\0",))
    for height, gaps, segments in (
        (5, (b"\0\0",), [Segment(8, 10)]),
        (4, (b"\0\0",) * 2, [Segment(8, 10)]),
        (4, (b"\0\0",), [Segment(8, 0)]),
        (0, (b"\0\0",), [Segment(8, 10)]),
    ):
        with pytest.raises(NotRebuildable):
            PageLayout(height, 4, 1, np.dtype("<u2"), tuple(segments), False, StripCoding(1, 4, gaps))
    with pytest.raises(NotRebuildable, match="too large"):
        PageLayout(2**60, 2**61, 1, np.dtype("<u2"), (Segment(8, 10),), False, StripCoding(1, 2**60, (b"\0\0",)))
    with pytest.raises(NotRebuildable, match="too large"):
        PageLayout(25, 2**31, 2**31, np.dtype("<f8"), (Segment(8, 10),) * 25, False, StripCoding(1, 1, (b"\0\0",) * 25))
    for bad in ((3, 4, (b"\0\0",)), (1, 0, (b"\0\0",)), (1, 4, (b"\0",)), (1, 4, (b"",))):
        with pytest.raises(NotRebuildable):
            StripCoding(*bad)
    page = PageLayout(4, 4, 1, np.dtype("<u2"), (Segment(8, 10),), False, coding)
    with pytest.raises(NotRebuildable, match="past the end"):
        TiffLayout(17, False, False, (page,))
