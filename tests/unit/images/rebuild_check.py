"""The one property of this room, as a function: what can be analysed is rebuilt byte for byte."""

from __future__ import annotations

import numpy as np
from tiff_writer import as_file

from vfsd.images import (
    Skeleton,
    TiffLayout,
    analyse_tiff,
    encode_strip,
    extract_skeleton,
    load_plane,
    rebuild_into,
    swap_in_place,
    take_plane,
)


def take_apart(data: bytes | bytearray) -> tuple[Skeleton, list[np.ndarray]]:
    """Skeleton and little-endian planes of a file; NotRebuildable passes."""
    with as_file(data) as fd:
        layout = analyse_tiff(fd)
        skeleton = extract_skeleton(fd, layout)
        planes = []
        for number, page in enumerate(layout.pages):
            plane = load_plane(fd, layout, number)
            assert take_plane(memoryview(bytearray(data)), layout, number) == plane
            planes.append(np.frombuffer(plane, page.dtype).reshape(page.shape))
    return skeleton, planes


def rebuild(skeleton: Skeleton, planes: list[np.ndarray]) -> bytes:
    """The file from its parts, over memory that held something else."""
    target = bytearray(b"\xa5" * skeleton.layout.size)
    rebuild_into(target, skeleton, (memoryview(plane) for plane in planes))
    return bytes(target)


def check_rebuild(data: bytes | bytearray) -> tuple[TiffLayout, list[np.ndarray]]:
    """Take apart, serialise, read back, rebuild, compare; layout and planes for further questions."""
    skeleton, planes = take_apart(data)
    stored = skeleton.to_bytes()
    again = Skeleton.from_bytes(stored)
    assert again == skeleton
    assert again.to_bytes() == stored
    assert rebuild(again, planes) == data
    return skeleton.layout, planes


def check_range(data: bytes | bytearray, skeleton: Skeleton, offset: int, length: int) -> None:
    """Put a range together from pixel runs and skeleton pieces, as a read of a large file does."""
    stop = min(offset + length, len(data))
    result = bytearray(max(stop - offset, 0))
    covered = 0
    layout = skeleton.layout
    for run in layout.locate(offset, length):
        page = layout.pages[run.page]
        with as_file(data) as fd:
            plane = load_plane(fd, layout, run.page)
        if page.coding is None:
            if layout.big_endian:
                swap_in_place(plane, page.dtype.itemsize)
            piece = plane[run.plane_offset : run.plane_offset + run.length]
        else:
            segment = page.segments[run.segment]
            start, size = page.strip_place(run.segment)
            assert start == run.plane_offset
            strip = memoryview(bytearray(segment.length))
            encode_strip(layout, page, run.segment, plane[start : start + size], strip)
            piece = strip[run.file_offset - segment.offset :][: run.length]
        result[run.file_offset - offset : run.file_offset - offset + run.length] = piece
        covered += run.length
    for position, piece in skeleton.read_rest(offset, length):
        result[position - offset : position - offset + len(piece)] = piece
        covered += len(piece)
    assert result == data[offset:stop]
    assert covered == len(result)
