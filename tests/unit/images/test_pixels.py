"""Planes between files and buffers: gathered, scattered, swapped, and what happens when the file was cut."""

from __future__ import annotations

import os

import numpy as np
import pytest
from tiff_writer import TiffWriter, as_file, plain_tags, simple_tiff

from vfsd.images import (
    TruncatedImage,
    analyse_tiff,
    extract_skeleton,
    place_plane,
    place_rest,
    read_plane,
    rebuild_into,
    swap_in_place,
    write_plane,
)


def scattered_tiff(*, big_endian: bool = False) -> bytearray:
    """A 16-bit image of four strips, the last first in the file, at odd offsets."""
    writer = TiffWriter(big_endian=big_endian)
    pixels = np.arange(40, dtype=writer.order + "u2").reshape(4, 10)
    offsets = []
    for row in reversed(pixels):
        writer.append(b"-")
        offsets.insert(0, writer.append(row.tobytes()))
    writer.add_directory(plain_tags(4, 10, offsets, [20] * 4, bits=16, rows=1))
    return writer.data


def test_planes_are_written_to_files_and_buffers_where_they_were_read() -> None:
    data = scattered_tiff()
    with as_file(data) as fd, as_file(b"") as copy:
        page = analyse_tiff(fd).pages[0]
        plane = bytearray(page.nbytes)
        read_plane(fd, page, plane)
        buffer = bytearray(len(data))
        write_plane(buffer, page, plane)
        write_plane(copy, page, plane)
        for segment in page.segments:
            expected = data[segment.offset : segment.offset + segment.length]
            assert buffer[segment.offset : segment.offset + segment.length] == expected
            assert os.pread(copy, segment.length, segment.offset) == expected
    assert np.frombuffer(plane, "<u2").tolist() == list(range(40))


def test_arrays_are_taken_as_planes_and_as_targets() -> None:
    data = scattered_tiff()
    with as_file(data) as fd:
        layout = analyse_tiff(fd)
        skeleton = extract_skeleton(fd, layout)
        plane = np.empty((4, 10), np.uint16)
        read_plane(fd, layout.pages[0], memoryview(plane))
    target = np.full(len(data), 0xA5, np.uint8)
    rebuild_into(memoryview(target), skeleton, [memoryview(plane)])
    assert target.tobytes() == data


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
@pytest.mark.parametrize("shift", [0, 1])
def test_swap_in_place(dtype: str, shift: int) -> None:
    items = np.arange(1, 1001).astype("<" + dtype)
    buffer = bytearray(bytes(shift) + items.tobytes())
    swap_in_place(memoryview(buffer)[shift:], items.itemsize)
    assert buffer[shift:] == items.astype(">" + dtype).tobytes()
    swap_in_place(memoryview(buffer)[shift:], items.itemsize)
    assert buffer[shift:] == items.tobytes()


def test_swap_in_place_takes_whole_items_of_writable_memory() -> None:
    with pytest.raises(ValueError, match="multiple of element size"):
        swap_in_place(bytearray(7), 2)
    with pytest.raises(ValueError, match="read-only"):
        swap_in_place(memoryview(bytes(8)), 2)


def test_placing_swaps_for_big_endian_files_only() -> None:
    for big_endian in (False, True):
        data = scattered_tiff(big_endian=big_endian)
        with as_file(data) as fd:
            layout = analyse_tiff(fd)
            skeleton = extract_skeleton(fd, layout)
        target = bytearray(len(data))
        little = np.arange(40, dtype="<u2")
        place_plane(target, layout, 0, memoryview(little))
        place_rest(target, skeleton)
        assert target == data
        assert little.tolist() == list(range(40))


def test_a_file_that_was_cut_is_named_so() -> None:
    data = simple_tiff(4, 5)
    with as_file(data) as fd:
        layout = analyse_tiff(fd)
        os.ftruncate(fd, 20)
        with pytest.raises(TruncatedImage, match="20"):
            read_plane(fd, layout.pages[0], bytearray(20))
        with pytest.raises(TruncatedImage):
            extract_skeleton(fd, layout)


def test_buffers_have_to_be_of_the_right_size() -> None:
    data = simple_tiff(4, 5)
    with as_file(data) as fd:
        layout = analyse_tiff(fd)
        skeleton = extract_skeleton(fd, layout)
        with pytest.raises(ValueError, match="20 bytes is given 19"):
            read_plane(fd, layout.pages[0], bytearray(19))
        with pytest.raises(ValueError, match="20 bytes is given 21"):
            write_plane(fd, layout.pages[0], bytes(21))
    with pytest.raises(ValueError, match="ends before the plane"):
        write_plane(bytearray(25), layout.pages[0], bytes(20))
    for size in (len(data) - 1, len(data) + 1):
        with pytest.raises(ValueError, match=f"is given room for {size}"):
            place_rest(bytearray(size), skeleton)
        with pytest.raises(ValueError, match=f"is given room for {size}"):
            place_plane(bytearray(size), layout, 0, bytes(20))
