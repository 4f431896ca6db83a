"""A plane comes back from its chunks as it went in: whole, in parts, with gaps; damaged chunks are errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.codec.blosc import BloscParameters, FrameError, compress, decompress_into
from vfsd.store.geometry import ITEM_SIZES, ArrayGeometry, GeometryError, image_geometry, stack_geometry
from vfsd.store.planes import decode_plane, decode_plane_range, encode_plane, encode_tile


def noise(geometry: ArrayGeometry, seed: int = 0) -> bytes:
    """Pixel bytes that differ everywhere; small values, so that they compress like an image."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 40, geometry.plane_bytes, np.uint8).tobytes()


def decoded(chunks: dict[int, bytes], geometry: ArrayGeometry) -> tuple[bytes, tuple[int, ...]]:
    out = bytearray(b"\xaa" * geometry.plane_bytes)
    absent = decode_plane(chunks.get, geometry, memoryview(out))
    return bytes(out), absent


def decoded_range(
    chunks: dict[int, bytes], geometry: ArrayGeometry, offset: int, length: int
) -> tuple[bytes, tuple[int, ...]]:
    out = bytearray(b"\xaa" * length)
    absent = decode_plane_range(chunks.get, geometry, offset, memoryview(out))
    return bytes(out), absent


def without_tiles(plane: bytes, geometry: ArrayGeometry, tiles: set[int]) -> bytes:
    """The plane with zeros where tiles are missing, found pixel by pixel."""
    pixels = np.frombuffer(plane, geometry.pixel_type).copy()
    shape = (geometry.height, geometry.width)
    image = pixels.reshape((geometry.samples, *shape) if geometry.planar else (*shape, geometry.samples))
    for y in range(geometry.height):
        for x in range(geometry.width):
            tile = y // geometry.tile_height * geometry.tile_grid[1] + x // geometry.tile_width
            if tile in tiles:
                image[(slice(None), y, x) if geometry.planar else (y, x)] = 0
    return pixels.tobytes()


@st.composite
def tiled_geometries(draw: st.DrawFn) -> ArrayGeometry:
    height, width = draw(st.integers(1, 33)), draw(st.integers(1, 33))
    samples = draw(st.sampled_from([1, 1, 3]))
    dtype = draw(st.sampled_from(sorted(ITEM_SIZES)))
    geometry = stack_geometry(1, (height, width), dtype, samples=samples, planar=draw(st.booleans()))
    tile = draw(st.integers(1, height)), draw(st.integers(1, width))
    return replace(geometry, tile_height=tile[0], tile_width=tile[1])


@given(tiled_geometries(), st.data())
def test_a_plane_comes_back_whole_and_in_any_part(geometry: ArrayGeometry, data: st.DataObject) -> None:
    plane = noise(geometry)
    chunks = dict(enumerate(encode_plane(plane, geometry)))
    assert len(chunks) == geometry.tiles
    missing = data.draw(st.sets(st.integers(0, geometry.tiles - 1), max_size=3))
    for tile in missing:
        del chunks[tile]
    expected = without_tiles(plane, geometry, missing)
    assert decoded(chunks, geometry) == (expected, tuple(sorted(missing)))
    offset = data.draw(st.integers(0, geometry.plane_bytes))
    length = data.draw(st.integers(0, geometry.plane_bytes - offset))
    part, absent = decoded_range(chunks, geometry, offset, length)
    assert part == expected[offset : offset + length]
    assert set(absent) <= missing
    assert absent == tuple(sorted(absent))
    # whoever asks for everything hears of all gaps
    assert decoded_range(chunks, geometry, 0, geometry.plane_bytes) == (expected, tuple(sorted(missing)))


@given(st.integers(0, 300_000), st.integers(0, 70_000))
def test_parts_of_a_plane_that_spans_many_blosc_blocks(offset: int, length: int) -> None:
    geometry = stack_geometry(1, (500, 300), "uint16")
    offset = min(offset, geometry.plane_bytes)
    length = min(length, geometry.plane_bytes - offset)
    assert decoded_range(MANY_BLOCKS, geometry, offset, length) == (
        MANY_BLOCKS_PLANE[offset : offset + length],
        (),
    )


MANY_BLOCKS_PLANE = noise(stack_geometry(1, (500, 300), "uint16"))
MANY_BLOCKS = {0: encode_tile(MANY_BLOCKS_PLANE, stack_geometry(1, (500, 300), "uint16"), 0)}


def test_a_range_reads_only_the_tiles_it_touches() -> None:
    geometry = stack_geometry(1, (64, 64), "uint8", tile_limit=256)
    assert geometry.tile_grid == (4, 4)
    plane = noise(geometry)
    chunks = encode_plane(plane, geometry)
    asked: list[int] = []

    def read_chunk(tile: int) -> bytes:
        asked.append(tile)
        return chunks[tile]

    out = bytearray(40)
    decode_plane_range(read_chunk, geometry, 64 * 17 + 10, memoryview(out))
    assert bytes(out) == plane[64 * 17 + 10 :][:40]
    assert asked == [4, 5, 6, 7][: len(asked)]
    assert len(asked) == 4
    asked.clear()
    decode_plane_range(read_chunk, geometry, 64 * 15 + 50, memoryview(bytearray(20)))
    assert asked == [3, 4]  # the end of one row of tiles and the beginning of the next
    asked.clear()
    assert decode_plane_range(read_chunk, geometry, 5, memoryview(b"")) == ()
    assert asked == []


def test_a_plane_of_one_tile_is_decoded_where_it_belongs() -> None:
    geometry = stack_geometry(1, (20, 30), "uint16")
    plane = noise(geometry)
    frame = encode_plane(plane, geometry)[0]
    assert frame == compress(plane, BloscParameters(typesize=2))
    target = np.zeros((3, 20, 30), np.uint16)  # a slot of something larger, as when a file is hydrated
    assert decode_plane({0: frame}.get, geometry, target[1].data) == ()
    assert target[1].tobytes() == plane
    assert not target[0].any()
    assert not target[2].any()


def test_a_missing_plane_is_zero_and_reported() -> None:
    for geometry in (
        stack_geometry(1, (20, 30), "uint16"),
        stack_geometry(1, (20, 30), "uint16", tile_limit=99),
    ):
        tiles = tuple(range(geometry.tiles))
        assert decoded({}, geometry) == (bytes(geometry.plane_bytes), tiles)
        assert decoded_range({}, geometry, 3, 77)[0] == bytes(77)
        assert set(decoded_range({}, geometry, 3, 77)[1]) <= set(tiles)
        assert decoded_range({}, geometry, 3, 77)[1]


def test_interleaved_and_planar_pixels_keep_their_order_in_the_chunk() -> None:
    """What makes hydration a plain copy: a chunk of a plane of one tile is the file's bytes."""
    for planar in (False, True):
        geometry = image_geometry([("page", 1)], (6, 5), "uint16", samples=3, planar=planar)
        plane = noise(geometry)
        content = bytearray(len(plane))
        decompress_into(encode_plane(plane, geometry)[0], content)
        assert bytes(content) == plane


def test_tiles_at_the_edge_are_padded_with_zeros() -> None:
    """Not with whatever lay in memory: one plane gives one chunk, and nothing leaks into a store."""
    geometry = stack_geometry(1, (20, 30), "uint16", tile_limit=512)
    assert (geometry.tile_height, geometry.tile_width, geometry.tile_grid) == (16, 16, (2, 2))
    plane = b"\xff" * geometry.plane_bytes
    tile = np.empty((16, 16), "<u2")
    for _ in range(3):
        decompress_into(encode_tile(plane, geometry, 3), tile)
        assert (tile[:4, :14] == 0xFFFF).all()
        assert not tile[4:].any()
        assert not tile[:, 14:].any()


@pytest.mark.parametrize("tile_limit", [1 << 20, 128])
def test_damaged_chunks_name_their_tile(tile_limit: int) -> None:
    geometry = stack_geometry(1, (20, 30), "uint16", tile_limit=tile_limit)
    chunks = dict(enumerate(encode_plane(noise(geometry), geometry)))
    last = geometry.tiles - 1
    good = chunks[last]
    wrong_size = compress(bytes(geometry.tile_bytes + 2), geometry.blosc)
    for damaged in (b"", good[:10], good[:-1], wrong_size, b"\x05" + good[1:], bytes(len(good))):
        chunks[last] = damaged
        with pytest.raises(FrameError, match=f"tile {last} of {geometry.tiles}"):
            decoded(chunks, geometry)
        with pytest.raises(FrameError, match=f"tile {last} of {geometry.tiles}"):
            decoded_range(chunks, geometry, geometry.plane_bytes - 1, 1)


@given(st.binary(max_size=300), st.integers(0, 599), st.integers(0, 255))
def test_no_bytes_in_a_chunk_do_more_than_fail(junk: bytes, position: int, value: int) -> None:
    geometry = stack_geometry(1, (20, 30), "uint8")
    good = encode_plane(noise(geometry), geometry)[0]
    mutated = bytearray(good)
    mutated[position % len(mutated)] = value
    for frame in (junk, bytes(mutated)):
        for offset, length in ((0, 600), (599, 1), (100, 50)):
            try:
                part, _ = decoded_range({0: frame}, geometry, offset, length)
            except FrameError:
                continue
            assert len(part) == length


@pytest.mark.parametrize("size", [0, 1199, 1201])
def test_buffers_of_another_size_are_refused(size: int) -> None:
    geometry = stack_geometry(1, (20, 30), "uint16")
    with pytest.raises(GeometryError):
        encode_plane(bytes(size), geometry)
    with pytest.raises(GeometryError):
        decode_plane({}.get, geometry, memoryview(bytearray(size)))


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (1200, 1), (0, 1201), (1201, 0)])
def test_ranges_outside_the_plane_are_refused(offset: int, length: int) -> None:
    for limit in (1 << 20, 128):
        geometry = stack_geometry(1, (20, 30), "uint16", tile_limit=limit)
        with pytest.raises(GeometryError):
            decode_plane_range({}.get, geometry, offset, memoryview(bytearray(length)))


def test_a_real_plane_over_32_mib() -> None:
    geometry = stack_geometry(1, (4100, 4200), "uint16")
    assert geometry.tile_grid == (3, 3)
    plane = np.arange(4100 * 4200, dtype=np.uint32).astype("<u2").reshape(4100, 4200)
    plane[::7] //= 3
    content = plane.tobytes()
    chunks = dict(enumerate(encode_plane(content, geometry)))
    assert decoded(chunks, geometry) == (content, ())
    for offset, length in ((0, 100), (8400 * 2047 + 4000, 20_000), (len(content) - 131_072, 131_072)):
        assert decoded_range(chunks, geometry, offset, length)[0] == content[offset : offset + length]
