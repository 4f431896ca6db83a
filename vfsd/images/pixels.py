"""Planes between a TIFF and memory: gathered from their segments, scattered back, the whole file rebuilt.

Reads with `os.preadv` (never a mapping: others may truncate the file meanwhile) and accepts short reads and
writes of the kernel. Rebuilding sets every byte of the target once, by the skeleton or by exactly one plane,
and allocates nothing. Copies and swaps of planes run with the GIL released.

Who swaps: planes are stored little-endian. `take_plane`, `load_plane`, `place_plane` and `rebuild_into` deal in such
planes and swap, or decode and encode compressed strips, on the way. `read_plane` and `write_plane` move the bytes of
uncompressed pages as they are in the file. Whoever decodes a chunk directly into its place in the target
(`is_direct`) calls `swap_in_place` on that place afterwards instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np

from vfsd.images.layout import PageLayout, TiffLayout
from vfsd.images.reading import TruncatedImage, read_into
from vfsd.images.skeleton import Skeleton
from vfsd.images.strips import RowKind, decode_strip_rows, encode_strip_rows

__all__ = [
    "TruncatedImage",
    "WritableBuffer",
    "encode_strip",
    "is_direct",
    "load_plane",
    "place_plane",
    "place_rest",
    "read_plane",
    "rebuild_into",
    "swap_in_place",
    "take_plane",
    "write_plane",
]

WritableBuffer: TypeAlias = memoryview | bytearray


def is_direct(page: PageLayout) -> bool:
    """Whether the plane lies in the file in one piece, uncompressed."""
    return page.coding is None and len(page.segments) == 1


def load_plane(fd: int, layout: TiffLayout, number: int) -> memoryview:
    """Read one plane of a file: little-endian, decoded, in a buffer of its own.

    Raises
    ------
    TruncatedImage
        The file ends before the plane does.
    StripError
        A compressed strip is not what it was when the file was analysed.
    """
    page = layout.pages[number]
    out = np.empty(page.nbytes, np.uint8).data
    if page.coding is None:
        read_plane(fd, page, out)
        if layout.big_endian:
            swap_in_place(out, page.dtype.itemsize)
        return out
    for strip, segment in enumerate(page.segments):
        data = np.empty(min(segment.length + 1, layout.size - segment.offset), np.uint8).data
        read_into(fd, data, segment.offset)
        _decode_strip(layout, page, strip, data, out)
    return out


def take_plane(content: memoryview, layout: TiffLayout, number: int) -> memoryview:
    """The same from the whole file's bytes, which the caller gives up: a plane in one piece is swapped where it is.

    Raises
    ------
    StripError
        As `load_plane`.
    """
    page = layout.pages[number]
    if is_direct(page):
        segment = page.segments[0]
        pixels = content[segment.offset : segment.offset + segment.length]
        if layout.big_endian:
            swap_in_place(pixels, page.dtype.itemsize)
        return pixels
    out = np.empty(page.nbytes, np.uint8).data
    done = 0
    for strip, segment in enumerate(page.segments):
        if page.coding is None:
            out[done : done + segment.length] = content[segment.offset : segment.offset + segment.length]
            done += segment.length
        else:
            data = content[segment.offset : segment.offset + segment.length + 1]
            _decode_strip(layout, page, strip, data, out)
    if page.coding is None and layout.big_endian:
        swap_in_place(out, page.dtype.itemsize)
    return out


def read_plane(fd: int, page: PageLayout, out: WritableBuffer) -> None:
    """Gather an uncompressed plane from the file, in the file's byte order.

    Parameters
    ----------
    fd : int
        The TIFF, open for reading; its position is neither used nor moved.
    page : PageLayout
        Where its pixels are.
    out : memoryview or bytearray
        Writable, C-contiguous, exactly `page.nbytes` bytes.

    Raises
    ------
    TruncatedImage
        The file ends before the plane does.
    ValueError
        `out` has another size.
    """
    if page.coding is not None:
        raise ValueError("a compressed plane has no bytes of its own in the file")
    view = memoryview(out).cast("B")
    _check_plane(page, len(view))
    done = 0
    for segment in page.segments:
        read_into(fd, view[done : done + segment.length], segment.offset)
        done += segment.length


def write_plane(target: int | WritableBuffer, page: PageLayout, plane: bytes | WritableBuffer) -> None:
    """Scatter an uncompressed plane, in the file's byte order, to its segments.

    Parameters
    ----------
    target : int, memoryview or bytearray
        A file open for writing, or the whole file's bytes.
    page : PageLayout
        Where its pixels go.
    plane : bytes-like
        Exactly `page.nbytes` bytes, C-contiguous.

    Raises
    ------
    ValueError
        `plane` has another size, or the buffer ends before the plane does.
    OSError
        From writing.
    """
    if page.coding is not None:
        raise ValueError("a compressed plane has no bytes of its own in the file")
    view = memoryview(plane).cast("B")
    _check_plane(page, len(view))
    if isinstance(target, int):
        done = 0
        for segment in page.segments:
            _write_from(target, view[done : done + segment.length], segment.offset)
            done += segment.length
    else:
        _scatter(target, page, view, itemsize=1)


def swap_in_place(buffer: WritableBuffer, itemsize: int) -> None:
    """Reverse the bytes of every item of `itemsize` bytes.

    Raises
    ------
    ValueError
        The buffer is read-only, or not a whole number of items.
    """
    if itemsize == 1:
        return
    items = np.frombuffer(buffer, f"<u{itemsize}")
    # equal memory and equal strides: numpy swaps item by item, without a temporary, six times as fast as
    # byteswap
    np.copyto(items.view(f">u{itemsize}"), items)


def place_rest(target: WritableBuffer, skeleton: Skeleton) -> None:
    """Put every byte that is no pixel into the target, a buffer of the whole file.

    Raises
    ------
    ValueError
        The target is not the size of the file.
    """
    view = memoryview(target).cast("B")
    _check_target(view, skeleton.layout)
    for offset, data in skeleton.gaps():
        view[offset : offset + len(data)] = data


def place_plane(target: WritableBuffer, layout: TiffLayout, page: int, plane: bytes | WritableBuffer) -> None:
    """Put one plane into the target, a buffer of the whole file.

    Parameters
    ----------
    target : memoryview or bytearray
        Writable, of `layout.size` bytes.
    layout : TiffLayout
        The file's layout.
    page : int
        Which plane, from 0.
    plane : bytes-like
        The plane's bytes, little-endian, C-contiguous.

    Raises
    ------
    ValueError
        Target or plane are of another size.
    StripError
        The plane does not give the strips that the file had.
    """
    page_layout = layout.pages[page]
    view = memoryview(target).cast("B")
    _check_target(view, layout)
    pixels = memoryview(plane).cast("B")
    _check_plane(page_layout, len(pixels))
    if page_layout.coding is not None:
        for strip, segment in enumerate(page_layout.segments):
            start, length = page_layout.strip_place(strip)
            room = view[segment.offset : segment.offset + segment.length]
            encode_strip(layout, page_layout, strip, pixels[start : start + length], room)
        return
    _scatter(view, page_layout, pixels, itemsize=page_layout.dtype.itemsize if layout.big_endian else 1)


def rebuild_into(target: WritableBuffer, skeleton: Skeleton, planes: Iterable[bytes | WritableBuffer]) -> None:
    """Rebuild the whole file in `target`.

    Parameters
    ----------
    target : memoryview or bytearray
        Writable, of `skeleton.layout.size` bytes; what it held before does not matter.
    skeleton : Skeleton
        The bytes that are no pixels.
    planes : iterable of bytes-like
        All planes in the order of the pages, little-endian; each is used up before the next is asked for, so
        one buffer may serve for all.

    Raises
    ------
    ValueError
        Target or a plane are of another size, or there are more or fewer planes than pages.
    """
    layout = skeleton.layout
    place_rest(target, skeleton)
    placed = 0
    for plane in planes:
        if placed == layout.plane_count:
            raise ValueError(f"more than the {layout.plane_count} planes of the file")
        place_plane(target, layout, placed, plane)
        placed += 1
    if placed != layout.plane_count:
        raise ValueError(f"{placed} of the {layout.plane_count} planes of the file")


def encode_strip(layout: TiffLayout, page: PageLayout, strip: int, rows: memoryview, out: memoryview) -> None:
    """Make a compressed strip's bytes, exactly as many as its segment has, from its little-endian rows.

    Raises
    ------
    StripError
        The rows do not give that strip.
    """
    assert page.coding is not None
    encode_strip_rows(rows, page.coding, strip, _row_kind(layout, page), out)


def _decode_strip(layout: TiffLayout, page: PageLayout, strip: int, data: memoryview, plane: memoryview) -> None:
    assert page.coding is not None
    start, length = page.strip_place(strip)
    decode_strip_rows(data, page.coding, strip, _row_kind(layout, page), plane[start : start + length])


def _row_kind(layout: TiffLayout, page: PageLayout) -> RowKind:
    return RowKind(page.dtype.itemsize, page.row_samples, page.width, layout.big_endian)


def _check_target(view: memoryview, layout: TiffLayout) -> None:
    if len(view) != layout.size:
        raise ValueError(f"a file of {layout.size:,} bytes is given room for {len(view):,}")


def _scatter(target: WritableBuffer, page: PageLayout, plane: memoryview, *, itemsize: int) -> None:
    """Copy a plane to its segments, the bytes of each item of `itemsize` in reverse; 1 copies plainly.

    One pass with numpy's casting copy: 0.3 ms for 2160² of 16 bits, where copying and `byteswap` take 1.8.
    """
    whole = np.frombuffer(target, np.uint8)
    source = np.frombuffer(plane, np.uint8)
    done = 0
    for segment in page.segments:
        destination = whole[segment.offset : segment.offset + segment.length]
        if len(destination) != segment.length:
            raise ValueError("the buffer ends before the plane does")
        piece = source[done : done + segment.length]
        np.copyto(destination.view(f">u{itemsize}"), piece.view(f"<u{itemsize}"))
        done += segment.length


def _write_from(fd: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwritev(fd, [data[done:]], offset + done)


def _check_plane(page: PageLayout, nbytes: int) -> None:
    if nbytes != page.nbytes:
        raise ValueError(f"a plane of {page.nbytes:,} bytes is given {nbytes:,}")
