"""Between the bytes of a plane and the compressed chunks that a shard holds of it.

`encode_plane` makes one chunk a tile; `decode_plane` and `decode_plane_range` put bytes where they belong in
a buffer of the caller's, through a callable that reads a tile's chunk from wherever it lies. A plane of one
tile is neither copied nor staged on any of these ways. A missing chunk reads as zeros and is reported, never
passed over.

All of it may run in worker threads; what takes time releases the GIL. It never reads or writes a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vfsd.codec.blosc import FrameError, compress, decompress_into, decompress_range, parse_header
from vfsd.codec.remote import RemoteFrame
from vfsd.store.geometry import ArrayGeometry, GeometryError

Buffer = bytes | bytearray | memoryview
# The chunk of a tile of the plane in question, or None where the shard has none.
ReadChunk = Callable[[int], Buffer | None]
# The same for a part of it: a frame that lies elsewhere will do.
OpenChunk = Callable[[int], Buffer | RemoteFrame | None]
_Bytes = NDArray[np.uint8]


def encode_plane(plane: Buffer, geometry: ArrayGeometry) -> list[bytes]:
    """Compress a plane, one chunk a tile, in the order of `ArrayGeometry.positions_in_shard`.

    Parameters
    ----------
    plane : bytes-like
        The plane's `geometry.plane_bytes` bytes in the file's order, little-endian.
    geometry : ArrayGeometry
        Of the array that it belongs to.

    Raises
    ------
    GeometryError
        If the plane has another size.
    """
    return [encode_tile(plane, geometry, tile) for tile in range(geometry.tiles)]


def encode_tile(plane: Buffer, geometry: ArrayGeometry, tile: int) -> bytes:
    """Compress one tile of a plane, padded with zeros at its lower and right edge; else as `encode_plane`."""
    source = _checked(plane, geometry)
    if geometry.tiles == 1:
        return compress(source.data, geometry.blosc)
    padded = np.zeros(geometry.tile_bytes, np.uint8)
    _part_of_tile(padded, geometry, tile)[:] = _part_of_plane(source, geometry, tile)
    return compress(padded.data, geometry.blosc)


def decode_plane(read_chunk: ReadChunk, geometry: ArrayGeometry, out: memoryview) -> tuple[int, ...]:
    """Decode a plane into `out`, a writable buffer of `geometry.plane_bytes`; a plane of one tile directly.

    Returns
    -------
    tuple of int
        The tiles that have no chunk: their pixels are zero.

    Raises
    ------
    GeometryError
        If `out` has another size.
    FrameError
        If a chunk is damaged or decodes to another size than a tile's; it names the tile.
    """
    target = _checked(out, geometry)
    staged = target if geometry.tiles == 1 else np.empty(geometry.tile_bytes, np.uint8)
    absent: list[int] = []
    for tile in range(geometry.tiles):
        frame = read_chunk(tile)
        if frame is None:
            absent.append(tile)
            _part_of_plane(target, geometry, tile)[:] = 0
            continue
        _decode(frame, geometry, tile, None, staged)
        if geometry.tiles > 1:
            _part_of_plane(target, geometry, tile)[:] = _part_of_tile(staged, geometry, tile)
    return tuple(absent)


def decode_plane_range(read_chunk: OpenChunk, geometry: ArrayGeometry, offset: int, out: memoryview) -> tuple[int, ...]:
    """Decode as many bytes of a plane as `out` has, from `offset` on; only tiles and Blosc blocks touched.

    Each chunk that is touched is asked for once for each band (`ArrayGeometry.bands`).

    Returns
    -------
    tuple of int
        The tiles among those touched that have no chunk: their pixels are zero.

    Raises
    ------
    GeometryError
        If the range is not within the plane.
    FrameError
        As for `decode_plane`.
    """
    target = np.frombuffer(out, np.uint8)
    end = offset + target.size
    if not 0 <= offset <= end <= geometry.plane_bytes:
        raise GeometryError(f"bytes {offset} to {end} are not within a plane of {geometry.plane_bytes}")
    if not target.size:
        return ()
    if geometry.tiles == 1:
        frame = read_chunk(0)
        if frame is None:
            target[:] = 0
            return (0,)
        _decode(frame, geometry, 0, offset, target)
        return ()
    band_bytes = geometry.plane_bytes // geometry.bands
    absent: set[int] = set()
    for band in range(offset // band_bytes, -(-end // band_bytes)):
        start = max(offset - band * band_bytes, 0)
        stop = min(end - band * band_bytes, band_bytes)
        base = band * band_bytes + start - offset
        absent |= _decode_band(read_chunk, geometry, band, start, target[base : base + stop - start])
    return tuple(sorted(absent))


class _Rectangle(NamedTuple):
    """Rows, and bytes along a row, of a band that a range covers; `at` is where they begin in the range."""

    top: int
    bottom: int
    left: int
    right: int
    at: int


def _decode_band(read_chunk: OpenChunk, geometry: ArrayGeometry, band: int, start: int, target: _Bytes) -> set[int]:
    """Decode the part of a tiled band from its byte `start` on; returns the tiles that have no chunk."""
    row_bytes = geometry.width * geometry.pixel_bytes
    tile_row_bytes = geometry.tile_width * geometry.pixel_bytes
    rectangles = list(_rectangles(start, start + target.size, row_bytes))
    _, columns = geometry.tile_grid
    absent: set[int] = set()
    first, last = (r // geometry.tile_height for r in (rectangles[0].top, rectangles[-1].bottom - 1))
    for tile in range(first * columns, (last + 1) * columns):
        tile_top, tile_left, height, width = geometry.tile_place(tile)
        left, right = tile_left * geometry.pixel_bytes, (tile_left + width) * geometry.pixel_bytes
        pieces = [
            (piece, whole)
            for whole in rectangles
            if (piece := _clipped(whole, tile_top, tile_top + height, left, right)) is not None
        ]
        if not pieces:
            continue
        frame = read_chunk(tile)
        # one stretch of the tile, from the first byte wanted to the last, in whole rows of the staging buffer
        top, bottom = pieces[0][0].top, pieces[-1][0].bottom
        skip = min((p.top - top) * tile_row_bytes + p.left - left for p, _ in pieces)
        stop = max((p.bottom - 1 - top) * tile_row_bytes + p.right - left for p, _ in pieces)
        staged = np.zeros((bottom - top) * tile_row_bytes, np.uint8)
        if frame is None:
            absent.add(tile)
        else:
            tile_row = band * geometry.tile_height + top - tile_top
            _decode(frame, geometry, tile, tile_row * tile_row_bytes + skip, staged[skip:stop])
        staged_rows = staged.reshape(bottom - top, tile_row_bytes)
        for piece, whole in pieces:
            length = (whole.bottom - whole.top) * (whole.right - whole.left)
            place = target[whole.at : whole.at + length].reshape(whole.bottom - whole.top, -1)
            place[
                piece.top - whole.top : piece.bottom - whole.top,
                piece.left - whole.left : piece.right - whole.left,
            ] = staged_rows[piece.top - top : piece.bottom - top, piece.left - left : piece.right - left]
    return absent


def _rectangles(start: int, stop: int, row_bytes: int) -> Iterator[_Rectangle]:
    """What bytes `start` to `stop` of a band cover: the end of a row, whole rows, the beginning of a row."""
    at = start
    while at < stop:
        row, column = divmod(at, row_bytes)
        if column or stop - at < row_bytes:
            end = min(stop, (row + 1) * row_bytes)
            yield _Rectangle(row, row + 1, column, column + end - at, at - start)
        else:
            end = stop - stop % row_bytes
            yield _Rectangle(row, end // row_bytes, 0, row_bytes, at - start)
        at = end


def _clipped(whole: _Rectangle, top: int, bottom: int, left: int, right: int) -> _Rectangle | None:
    """What of a rectangle lies within other bounds; None if nothing does."""
    top, bottom = max(top, whole.top), min(bottom, whole.bottom)
    left, right = max(left, whole.left), min(right, whole.right)
    return _Rectangle(top, bottom, left, right, whole.at) if top < bottom and left < right else None


def _checked(plane: Buffer, geometry: ArrayGeometry) -> _Bytes:
    pixels = np.frombuffer(plane, np.uint8)
    if pixels.size != geometry.plane_bytes:
        raise GeometryError(f"{pixels.size} bytes are no plane of {geometry.plane_bytes}")
    return pixels


def _part_of_plane(plane: _Bytes, geometry: ArrayGeometry, tile: int) -> _Bytes:
    """View of what a tile covers of a plane: band, row, byte of the row."""
    top, left, height, width = geometry.tile_place(tile)
    rows = plane.reshape(geometry.bands, geometry.height, -1)
    return rows[:, top : top + height, left * geometry.pixel_bytes : (left + width) * geometry.pixel_bytes]


def _part_of_tile(decoded: _Bytes, geometry: ArrayGeometry, tile: int) -> _Bytes:
    """View of a decoded chunk without its padding: band, row, byte of the row."""
    _, _, height, width = geometry.tile_place(tile)
    rows = decoded.reshape(geometry.bands, geometry.tile_height, -1)
    return rows[:, :height, : width * geometry.pixel_bytes]


def _decode(frame: Buffer | RemoteFrame, geometry: ArrayGeometry, tile: int, offset: int | None, out: _Bytes) -> None:
    """Decode a chunk, whole if `offset` is None; its errors name the tile."""
    try:
        size = (frame.header if isinstance(frame, RemoteFrame) else parse_header(frame)).nbytes
        if size != geometry.tile_bytes:
            raise FrameError(f"it decodes to {size} bytes instead of {geometry.tile_bytes}")
        if isinstance(frame, RemoteFrame):
            frame.decode_range(offset or 0, out.data)
        elif offset is None:
            decompress_into(frame, out.data)
        else:
            decompress_range(frame, offset, out.size, out.data)
    except FrameError as error:
        raise FrameError(f"tile {tile} of {geometry.tiles}: {error}") from error
