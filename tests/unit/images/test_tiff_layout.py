"""What the analysis finds, what it refuses and in which words, and that hostile files cost nothing."""

from __future__ import annotations

import os
import struct
import tracemalloc

import numpy as np
import pytest
import tifffile
from rebuild_check import check_rebuild
from tiff_writer import (
    ASCII,
    BYTE,
    LONG,
    LONG8,
    SHORT,
    SLONG,
    Tag,
    TiffWriter,
    as_file,
    plain_tags,
    simple_tiff,
)

from vfsd.images import NotRebuildable, PageLayout, Segment, TiffLayout, analyse_tiff
from vfsd.images.layout import MAX_SEGMENTS


def reason_of(data: bytes | bytearray) -> str:
    with as_file(data) as fd, pytest.raises(NotRebuildable) as caught:
        analyse_tiff(fd)
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


def test_a_plain_image_is_one_segment() -> None:
    data = simple_tiff(4, 5)
    with as_file(data) as fd:
        layout = analyse_tiff(fd)
        assert os.lseek(fd, 0, os.SEEK_CUR) == len(data)  # the position is not used
    assert layout == TiffLayout(len(data), False, False, (PageLayout(4, 5, 1, np.dtype("<u1"), (Segment(8, 20),)),))
    assert layout.plane_count == 1
    assert layout.uniform
    assert layout.pixel_bytes == 20
    assert layout.pages[0].shape == (4, 5)
    assert hash(layout) == hash(layout)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"II*", "not a TIFF"),
        (b"II*\0\x08\0\0", "not a TIFF"),
        (b"\x89PNG\r\n\x1a\n" * 4, "not a TIFF"),
        (b"II\0*" + bytes(20), "not a TIFF"),
        (b"II*\0" + bytes(20), "a TIFF without images"),
        (b"II*\0\x08\0\0\0", "offsets past the end of the file"),
        (b"II*\0\xff\xff\xff\xff" + bytes(20), "offsets past the end of the file"),
        (b"II+\0\x08\0\0\0\xff" + b"\xff" * 7 + bytes(20), "offsets past the end of the file"),
        (b"II+\0\x08\0\0\0", "offsets past the end of the file"),
        (b"II+\0\x04\0\0\0" + bytes(20), "a BigTIFF with offsets that are not 8 bytes"),
        (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "an IFD without image size"),
        (b"II*\0\x08\0\0\0\xff\xff" + bytes(20), "an IFD of 65,535 tags"),
        (b"MM\0*\0\0\0\x08\x01\0" + bytes(20), "offsets past the end of the file"),
    ],
)
def test_what_is_no_tiff_is_named(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


@pytest.mark.parametrize(
    ("tag", "reason"),
    [
        (Tag(259, SHORT, [5]), "compressed (LZW: the strip does not begin with a Clear code)"),
        (Tag(259, SHORT, [8]), "compressed (deflate)"),
        (Tag(259, SHORT, [7]), "compressed (JPEG)"),
        (Tag(259, SHORT, [12345]), "compressed (scheme 12345)"),
        (Tag(258, SHORT, [1]), "1 bit a sample"),
        (Tag(258, SHORT, [12]), "12 bits a sample"),
        (Tag(258, SHORT, [8], count=0), "tag 258 has no value"),
        (Tag(339, SHORT, [3]), "8 bits a sample"),
        (Tag(339, SHORT, [6]), "sample format 6"),
        (Tag(256, LONG, [0]), "an image of 0 \u00d7 4 pixels with 1 samples"),
        (Tag(277, SHORT, [0]), "an image of 5 \u00d7 4 pixels with 0 samples"),
        (Tag(277, LONG, [2**31]), "2147483648 samples a pixel"),
        (Tag(256, SLONG, [5]), "tag 256 is no whole number (type 9)"),
        (Tag(266, SHORT, [2]), "bits in reversed order"),
        (Tag(317, SHORT, [2]), "a predictor without compression"),
        (Tag(284, SHORT, [3]), "planar configuration 3"),
        (Tag(262, SHORT, [6]), "subsampled colour"),
        (Tag(32997, LONG, [2]), "volumes instead of planes"),
        (Tag(322, LONG, [16]), "tiled"),
        (Tag(273, LONG, [0]), "absent strips"),
        (Tag(273, LONG, [400]), "offsets past the end of the file"),
        (Tag(273, LONG8, [2**63], position=100), "offsets past the end of the file"),
        (Tag(273, LONG, [8], count=2**32 - 1), "4,294,967,295 strips"),
        (Tag(273, LONG, [8], count=200_000, position=8), "offsets past the end of the file"),
        (Tag(279, LONG, [19]), "strips that are not the size of the image"),
        (Tag(258, SHORT, [16]), "strips that are not the size of the image"),
    ],
)
def test_what_cannot_be_planes_is_named(tag: Tag, reason: str) -> None:
    assert reason_of(simple_tiff(4, 5, tag)) == reason


def test_an_image_larger_than_its_file_is_named() -> None:
    side = 2_000_000_000
    data = simple_tiff(4, 5, Tag(256, LONG, [side]), Tag(257, LONG, [side]))
    assert reason_of(data) == "image of 2000000000 \u00d7 2000000000 pixels does not fit the file"


@pytest.mark.parametrize("missing", [256, 257])
def test_an_image_without_size_is_named(missing: int) -> None:
    assert reason_of(simple_tiff(without=[missing])) == "an IFD without image size"


def test_an_image_without_strips_is_named() -> None:
    assert reason_of(simple_tiff(without=[273])) == "an IFD without pixels"


def test_a_loop_of_directories_is_named() -> None:
    writer = TiffWriter()
    first = None
    for _ in range(3):
        offset = writer.append(bytes(20))
        position = writer.add_directory(plain_tags(4, 5, [offset], [20]))
        first = position if first is None else first
    writer.set_link(first)
    assert reason_of(writer.data) == "IFD loop"


def test_the_directory_that_spoils_a_file_is_counted() -> None:
    writer = TiffWriter()
    for bits in (8, 8, 4):
        writer.add_directory(plain_tags(4, 5, [writer.append(bytes(20))], [20], bits=bits))
    assert reason_of(writer.data) == "image 3: 4 bits a sample"


def test_strips_that_overlap_are_refused() -> None:
    writer = TiffWriter()
    offset = writer.append(bytes(40))
    writer.add_directory(plain_tags(4, 5, [offset, offset + 9], [10, 10], rows=2))
    assert reason_of(writer.data) == "planes overlap"


def test_images_that_share_pixels_are_refused() -> None:
    writer = TiffWriter()
    offset = writer.append(bytes(4000))
    for shift in (0, 3990):
        writer.add_directory(plain_tags(4, 5, [offset + shift - shift % 10], [20]))
    writer.append(bytes(1000))
    check_rebuild(writer.data[:-1])
    writer.add_directory(plain_tags(4, 5, [offset + 10], [20]))
    assert reason_of(writer.data) == "planes overlap"


def test_pixels_that_cover_metadata_are_kept_as_pixels() -> None:
    writer = TiffWriter()
    # the strip is declared to lie over the directory itself
    position = len(writer.data)
    writer.add_directory(plain_tags(8, 10, [position], [80]))
    layout, planes = check_rebuild(writer.data)
    assert layout.pages[0].segments == (Segment(position, 80),)
    assert planes[0].tobytes() == writer.data[position : position + 80]


def test_a_big_skeleton_is_refused_and_a_small_one_never() -> None:
    data = simple_tiff(4, 5)
    check_rebuild(data + bytes(1024 * 1024 + 20 - len(data)))
    assert reason_of(data + bytes(1024 * 1024 + 21 - len(data))) == "1,048,577 of 1,048,597 bytes are no pixels"


def test_a_quarter_of_a_large_file_may_be_skeleton() -> None:
    writer = TiffWriter()
    offset = writer.append(bytes(3 * 2000 * 2000))
    writer.add_directory(plain_tags(3 * 2000, 2000, [offset], [3 * 2000 * 2000]))
    room = 2000 * 2000 - (len(writer.data) - 3 * 2000 * 2000)
    check_rebuild(writer.data + bytes(room))
    assert "are no pixels" in reason_of(writer.data + bytes(room + 4))


def test_surplus_bytes_of_strips_are_skeleton() -> None:
    writer = TiffWriter()
    first = writer.append(b"\x01" * 10 + b"xx")
    second = writer.append(b"\x02" * 10 + b"yyy")
    writer.add_directory(plain_tags(4, 5, [first, second], [12, 13], rows=2))
    layout, planes = check_rebuild(writer.data)
    assert layout.pages[0].segments == (Segment(first, 10), Segment(second, 10))
    assert planes[0].tolist() == [[1] * 5] * 2 + [[2] * 5] * 2


def test_neighbouring_strips_are_one_segment_also_in_parts() -> None:
    writer = TiffWriter()
    late = writer.append(bytes(range(10, 20)))
    early = writer.append(bytes(range(10)))
    writer.add_directory(plain_tags(4, 5, [early, early + 5, late, late + 5], [5] * 4, rows=1))
    layout, planes = check_rebuild(writer.data)
    assert layout.pages[0].segments == (Segment(early, 10), Segment(late, 10))
    assert planes[0].tobytes() == bytes(range(20))


@pytest.mark.parametrize("rows", [0, 4, 5, 2**32 - 1, None])
def test_rows_per_strip_may_be_huge_or_missing(rows: int | None) -> None:
    extra = [] if rows is None else [Tag(278, LONG, [rows])]
    layout, _ = check_rebuild(simple_tiff(4, 5, *extra, without=[278]))
    assert layout.pages[0].segments == (Segment(8, 20),)


def test_strip_byte_counts_may_be_missing() -> None:
    writer = TiffWriter()
    offset = writer.append(bytes(range(20)))
    writer.add_directory(plain_tags(4, 5, [offset + 10, offset], None, rows=2))
    _, planes = check_rebuild(writer.data)
    assert planes[0].tobytes() == bytes([*range(10, 20), *range(10)])


def test_strips_whose_own_sizes_make_the_plane_are_believed() -> None:
    writer = TiffWriter()
    offset = writer.append(bytes(range(21)))
    # one strip is announced, three of uneven size and an empty one are there
    writer.add_directory(plain_tags(4, 5, [offset + 8, offset, 9, offset + 7], [13, 6, 0, 1]))
    layout, planes = check_rebuild(writer.data)
    assert layout.pages[0].segments == (Segment(offset + 8, 13), Segment(offset, 6), Segment(offset + 7, 1))
    assert planes[0].tobytes() == bytes([*range(8, 21), *range(6), 7])


def test_strips_that_cut_through_samples_are_refused() -> None:
    writer = TiffWriter()
    offset = writer.append(bytes(60))
    writer.add_directory(plain_tags(4, 5, [offset + 30, offset], [19, 21], bits=16))
    assert reason_of(writer.data) == "strips that cut through samples"


@pytest.mark.parametrize("kind", [BYTE, SHORT, LONG, LONG8])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_tags_of_every_unsigned_type(kind: int, big_endian: bool, bigtiff: bool) -> None:
    writer = TiffWriter(big_endian=big_endian, bigtiff=bigtiff)
    offset = writer.append(bytes(range(20)))
    tags = plain_tags(4, 5, [offset, offset + 10], [10, 10], rows=2)
    writer.add_directory([Tag(tag.number, kind, tag.values) for tag in tags])
    layout, planes = check_rebuild(writer.data)
    assert (layout.big_endian, layout.bigtiff) == (big_endian, bigtiff)
    assert layout.pages[0].segments == (Segment(offset, 20),)
    assert planes[0].tobytes() == bytes(range(20))


def test_of_two_tags_of_one_number_the_first_counts() -> None:
    data = simple_tiff(4, 5, Tag(256, LONG, [5]), Tag(256, LONG, [3]))
    layout, _ = check_rebuild(data)
    assert layout.pages[0].shape == (4, 5)


@pytest.mark.parametrize(("length", "tiles"), [(4, 1), (16, 1), (2, 2), (3, 2)])
def test_tiles_as_wide_as_the_image_are_strips(length: int, tiles: int) -> None:
    writer = TiffWriter()
    offset = writer.append(bytes(range(200)))
    positions = [offset + i * length * 5 for i in range(tiles)]
    tags = [tag for tag in plain_tags(4, 5, [], None) if tag.number not in (273, 278)]
    tags += [Tag(322, SHORT, [5]), Tag(323, SHORT, [length]), Tag(324, LONG, positions)]
    writer.add_directory([*tags, Tag(325, LONG, [length * 5] * tiles)])
    _, planes = check_rebuild(writer.data)
    assert planes[0].tobytes() == bytes(range(20))


def test_uncompressed_colour_without_subsampling_is_kept() -> None:
    check_rebuild(simple_tiff(4, 5, Tag(262, SHORT, [6]), Tag(530, SHORT, [1, 1])))


def test_pages_of_differing_shape_are_a_layout() -> None:
    writer = TiffWriter()
    writer.add_directory(plain_tags(4, 5, [writer.append(bytes(20))], [20]))
    thumbnail = plain_tags(2, 2, [writer.append(bytes(4))], [4])
    writer.add_directory([*thumbnail, Tag(254, LONG, [1])])
    layout, planes = check_rebuild(writer.data)
    assert [plane.shape for plane in planes] == [(4, 5), (2, 2)]
    assert not layout.uniform


def test_sub_directories_stay_in_the_skeleton() -> None:
    writer = TiffWriter()
    pixels = writer.append(bytes(range(5)))
    sub = writer.add_directory(plain_tags(1, 5, [pixels], [5]))
    offset = writer.append(bytes(20))
    writer.link = 4
    writer.add_directory([*plain_tags(4, 5, [offset], [20]), Tag(330, LONG, [sub])])
    layout, _ = check_rebuild(writer.data)
    assert [page.segments for page in layout.pages] == [(Segment(offset, 20),)]


def imagej_stack(planes: int, claimed: int, *, before: bytes = b"", cut: int = 0) -> bytearray:
    writer = TiffWriter(big_endian=True)
    text = b"ImageJ=1.54f\nimages=%d\nslices=%d\nunit=pixel\n\0" % (claimed, claimed)
    text = before + text
    text_at = writer.append(text)
    offset = len(writer.data) + 2 + 9 * 12 + 4
    tags = [
        *plain_tags(3, 4, [offset], [24], bits=16),
        Tag(270, ASCII, [], count=len(text), position=text_at),
    ]
    writer.add_directory(tags)
    assert writer.append(struct.pack(f">{planes * 12}H", *range(planes * 12))[: planes * 24 - cut]) == offset
    return writer.data


def test_an_imagej_stack_of_one_directory_has_all_its_planes() -> None:
    layout, planes = check_rebuild(imagej_stack(5, 5))
    assert layout.uniform
    assert np.concatenate([plane.ravel() for plane in planes]).tolist() == list(range(60))


@pytest.mark.parametrize(
    "data",
    [
        imagej_stack(5, 6),
        imagej_stack(5, 5, cut=1),
        imagej_stack(5, 999_999_999),
        imagej_stack(5, 5, before=b" "),
        imagej_stack(5, 1),
        imagej_stack(5, 0),
    ],
    ids=["claims more", "cut", "absurd", "not at the start", "one", "none"],
)
def test_an_imagej_claim_that_does_not_hold_is_ignored(data: bytearray) -> None:
    layout, _ = check_rebuild(data)
    assert layout.plane_count == 1


def test_an_imagej_claim_over_the_directory_is_ignored() -> None:
    writer = TiffWriter()
    text = b"ImageJ=1.54f\nimages=4\n\0"
    text_at = writer.append(text)
    offset = writer.append(bytes(20))
    writer.add_directory([*plain_tags(4, 5, [offset], [20]), Tag(270, ASCII, [], len(text), text_at)])
    layout, _ = check_rebuild(writer.data)
    assert layout.plane_count == 1


def test_an_imagej_stack_with_all_directories_is_read_by_them(tmp_path) -> None:
    stack = np.arange(3 * 4 * 6, dtype=np.uint16).reshape(3, 4, 6)
    tifffile.imwrite(tmp_path / "stack.tif", stack, imagej=True)
    layout, planes = check_rebuild((tmp_path / "stack.tif").read_bytes())
    assert np.array_equal(np.stack(planes), stack)
    assert layout.plane_count == 3


def peak_memory(data: bytes | bytearray) -> int:
    with as_file(data) as fd:
        tracemalloc.start()
        try:
            with pytest.raises(NotRebuildable):
                analyse_tiff(fd)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("tag", [258, 259, 270, 273, 278, 279, 339])
@pytest.mark.parametrize("kind", [BYTE, SHORT, LONG, LONG8])
@pytest.mark.parametrize("count", [2**31, 2**63, 2**64 - 1])
def test_claimed_counts_allocate_nothing(tag: int, kind: int, count: int) -> None:
    writer = TiffWriter(bigtiff=True)
    tags = [each for each in plain_tags(2**31, 1, [16], [1], rows=1) if each.number != tag]
    writer.add_directory([*tags, Tag(tag, kind, [1], count=count, position=16)])
    assert peak_memory(writer.data) < 256 * 1024


def test_a_chain_of_directories_that_share_their_strips_ends_early() -> None:
    writer = TiffWriter()
    offset = writer.append(bytes(100_000))
    for _ in range(3):
        writer.add_directory(plain_tags(100_000, 1, [offset + i for i in range(100_000)], None, rows=1))
    assert reason_of(writer.data) == "planes overlap"


def test_a_chain_longer_than_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfsd.images.directory.MAX_DIRECTORIES", 3)
    writer = TiffWriter()
    for pages in range(1, 5):
        writer.add_directory(plain_tags(4, 5, [writer.append(bytes(20))], [20]))
        if pages == 3:
            check_rebuild(writer.data)
    assert reason_of(writer.data) == "more than 3 images"


def test_pixels_in_too_many_pieces_are_refused() -> None:
    pieces = MAX_SEGMENTS + 1
    writer = TiffWriter()
    offset = writer.append(bytes(2 * pieces))
    writer.add_directory(plain_tags(pieces, 1, [offset + 2 * i for i in range(pieces)], None, rows=1))
    assert reason_of(writer.data) == f"pixels in {pieces:,} pieces"


def test_a_directory_is_an_error_of_the_file_system(tmp_path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises((OSError, NotRebuildable)):
            analyse_tiff(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("segments", "reason"),
    [
        ((), "strips that are not the size of the image"),
        ((Segment(8, 19),), "strips that are not the size of the image"),
        ((Segment(8, 30), Segment(50, -10)), "strips that cut through samples"),
    ],
)
def test_no_page_layout_can_be_wrong(segments: tuple[Segment, ...], reason: str) -> None:
    with pytest.raises(NotRebuildable, match=reason):
        PageLayout(4, 5, 1, np.dtype("<u1"), segments)


@pytest.mark.parametrize("offset", [-1, 81, 2**70])
def test_no_layout_can_leave_its_file(offset: int) -> None:
    page = PageLayout(4, 5, 1, np.dtype("<u1"), (Segment(offset, 20),))
    with pytest.raises(NotRebuildable):
        TiffLayout(100, False, False, (page,))
