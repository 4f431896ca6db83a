"""Where planes lie in an array, and that its document says so and nothing else passes for one."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.codec.blosc import BloscParameters
from vfsd.store.geometry import (
    ITEM_SIZES,
    MAX_CHUNKS_PER_SHARD,
    STACK_SHARD_BYTES,
    TILE_LIMIT,
    ArrayGeometry,
    GeometryError,
    dtype_name,
    image_geometry,
    plate_geometry,
    stack_geometry,
)

LEADING = [("t", "c", "z"), ("t", "z"), ("c", "z"), ("z",), ("t",), ("c",), ("file",), ("page",)]


@st.composite
def geometries(draw: st.DrawFn) -> ArrayGeometry:
    leading = draw(st.sampled_from(LEADING))
    samples = 1 if "c" in leading else draw(st.sampled_from([1, 1, 2, 3, 4]))
    extent = st.integers(1, 7)
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    dtype = draw(st.sampled_from(sorted(ITEM_SIZES)))
    return ArrayGeometry(
        leading=leading,
        extents=tuple(draw(extent) for _ in leading),
        shard_extents=tuple(draw(extent) for _ in leading),
        height=height,
        width=width,
        tile_height=draw(st.integers(1, height)),
        tile_width=draw(st.integers(1, width)),
        dtype=dtype,
        blosc=BloscParameters(typesize=ITEM_SIZES[dtype]),
        samples=samples,
        planar=samples > 1 and draw(st.booleans()),
    )


def changed(document: dict[str, Any], path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    result = copy.deepcopy(document)
    inner: Any = result
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return result


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield path
    for key, inner in items:
        yield from leaves(inner, (*path, key))


@given(geometries())
def test_every_plane_has_places_of_its_own_and_they_lead_back_to_it(geometry: ArrayGeometry) -> None:
    taken = set()
    for index in np.ndindex(*geometry.extents):
        grid = geometry.shard_grid_position(index)
        assert geometry.parse_shard_key(geometry.shard_key(grid)) == grid
        positions = geometry.positions_in_shard(index)
        assert len(positions) == geometry.tiles
        for tile, position in enumerate(positions):
            assert 0 <= position < geometry.chunks_per_shard
            assert geometry.plane_at(grid, position) == (index, tile)
            taken.add((grid, position))
    assert len(taken) == math.prod(geometry.extents) * geometry.tiles


@given(geometries(), st.data())
def test_positions_are_the_c_order_of_the_inner_chunks(geometry: ArrayGeometry, data: st.DataObject) -> None:
    """Computed independently: the place of the plane's element in the array, as Zarr counts it."""
    index = tuple(data.draw(st.integers(0, extent - 1)) for extent in geometry.extents)
    tile = data.draw(st.integers(0, geometry.tiles - 1))
    top, left, _, _ = geometry.tile_place(tile)
    by_name = dict(zip(geometry.leading, index, strict=True)) | {"y": top, "x": left}
    element = [by_name.get(axis, 0) for axis in geometry.axes]
    chunks = [s // c for s, c in zip(geometry.shard_shape, geometry.chunk_shape, strict=True)]
    assert [s % c for s, c in zip(geometry.shard_shape, geometry.chunk_shape, strict=True)] == [0] * len(chunks)
    within = [e % s // c for e, s, c in zip(element, geometry.shard_shape, geometry.chunk_shape, strict=True)]
    assert geometry.positions_in_shard(index)[tile] == np.ravel_multi_index(within, chunks)
    shard = [e // s for e, s in zip(element, geometry.shard_shape, strict=True)]
    assert geometry.shard_key(geometry.shard_grid_position(index)) == "c." + ".".join(map(str, shard))


@given(geometries())
def test_tiles_cover_a_plane_once(geometry: ArrayGeometry) -> None:
    covered = np.zeros((geometry.height, geometry.width), int)
    for tile in range(geometry.tiles):
        top, left, height, width = geometry.tile_place(tile)
        assert 0 < height <= geometry.tile_height
        assert 0 < width <= geometry.tile_width
        covered[top : top + height, left : left + width] += 1
    assert (covered == 1).all()


@given(geometries())
def test_its_document_leads_back_to_it(geometry: ArrayGeometry) -> None:
    document = json.loads(json.dumps(geometry.document()))
    assert ArrayGeometry.from_document(document) == geometry
    assert ArrayGeometry.from_document(document | {"attributes": {"anything": [1]}}) == geometry


@given(geometries(), st.data())
def test_a_grown_array_keeps_its_shards(geometry: ArrayGeometry, data: st.DataObject) -> None:
    grown = geometry.grown_to([extent + data.draw(st.integers(0, 5)) for extent in geometry.extents])
    for index in np.ndindex(*geometry.extents):
        grid = geometry.shard_grid_position(index)
        assert grown.shard_grid_position(index) == grid
        assert grown.shard_key(grid) == geometry.shard_key(grid)
        assert grown.positions_in_shard(index) == geometry.positions_in_shard(index)
    assert grown.shard_shape == geometry.shard_shape
    if grown.extents != geometry.extents:
        with pytest.raises(GeometryError):
            grown.grown_to(geometry.extents)


HOSTILE_VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    2**70,
    "",
    "uint13",
    [],
    [1],
    {},
    {"name": "x"},
    [[]],
    "z" * 40,
]


@pytest.mark.parametrize(
    "geometry",
    [plate_geometry((2, 3, 4), (9, 7), "uint16"), stack_geometry(3, (9, 7), "float32", samples=3)],
)
def test_a_document_with_any_value_changed_is_refused_or_means_what_it_says(geometry: ArrayGeometry) -> None:
    document = geometry.document()
    tried = 0
    for path in leaves(document):
        if not path or path[0] == "attributes":
            continue
        for value in HOSTILE_VALUES:
            try:
                other = ArrayGeometry.from_document(changed(document, path, value))
            except GeometryError:
                tried += 1
                continue
            assert other.document() == changed(document, path, value)
    assert tried > 500


@pytest.mark.parametrize("document", [{}, [], None, 7, "zarr", {"shape": 1}, {"codecs": [[[[[]]]]]}])
def test_what_is_no_array_document_is_refused(document: Any) -> None:
    with pytest.raises(GeometryError):
        ArrayGeometry.from_document(document)


def test_documents_of_other_writers_are_refused() -> None:
    document = plate_geometry((1, 1, 1), (9, 7), "uint16").document()
    others = [
        changed(document, ("chunk_key_encoding", "configuration", "separator"), "/"),
        changed(document, ("codecs", 0, "configuration", "index_location"), "start"),
        changed(document, ("codecs", 0, "configuration", "codecs", 0, "configuration", "endian"), "big"),
        changed(document, ("fill_value",), 1),
        changed(document, ("zarr_format",), 2),
        changed(document, ("node_type",), "group"),
        document | {"storage_transformers": [{"name": "x"}]},
        {key: value for key, value in document.items() if key != "dimension_names"},
    ]
    for other in others:
        with pytest.raises(GeometryError):
            ArrayGeometry.from_document(other)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "c",
        "zarr.json",
        "c.0.0.0",
        "c.0.0.0.0.00",
        "c.0.0.0.0.1",
        "c.0.0.0.0.0.0",
        "c.9.0.0.0.0",
        "d.0.0.0.0.0",
        "c.-1.0.0.0.0",
        "c.0.0.0.0.",
        "c.²0.0.0.0.0",
        f"c.{'9' * 5000}.0.0.0.0",
        ".c.0.0.0.0.0",
    ],
)
def test_what_is_no_shard_of_the_array_has_no_grid_position(key: str) -> None:
    geometry = plate_geometry((2, 3, 4), (9, 7), "uint16")
    with pytest.raises(GeometryError):
        geometry.parse_shard_key(key)


def test_a_plate_has_one_shard_a_time_point() -> None:
    geometry = plate_geometry((3, 4, 5), (2160, 2160), np.dtype(">u2"))
    assert geometry.axes == ("t", "c", "z", "y", "x")
    assert geometry.shape == (3, 4, 5, 2160, 2160)
    assert geometry.shard_shape == (1, 4, 5, 2160, 2160)
    assert geometry.chunk_shape == (1, 1, 1, 2160, 2160)
    assert geometry.dtype == "uint16"
    assert geometry.shard_key(geometry.shard_grid_position((2, 3, 4))) == "c.2.0.0.0.0"
    later = geometry.grown_to((4, 5, 5))
    assert later.shard_key(later.shard_grid_position((3, 4, 0))) == "c.3.1.0.0.0"


def test_a_stack_has_64_planes_or_256_mib_a_shard() -> None:
    assert stack_geometry(3, (100, 100), "uint8").shard_extents == (64,)
    assert stack_geometry(1000, (100, 100), "uint8").shard_extents == (64,)
    camera = stack_geometry(1000, (4096, 4096), "uint16")
    assert camera.shard_extents == (8,)
    assert camera.shard_extents[0] * camera.plane_bytes == STACK_SHARD_BYTES
    assert stack_geometry(2, (40000, 40000), "uint16").shard_extents == (1,)


def test_samples_are_the_channel_axis() -> None:
    assert stack_geometry(5, (10, 20), "uint8", samples=3).shape == (5, 3, 10, 20)
    assert stack_geometry(5, (10, 20), "uint8", samples=3).axes == ("file", "c", "y", "x")
    assert image_geometry([("t", 2), ("z", 3)], (4, 5), "uint8", samples=3).axes == ("t", "c", "z", "y", "x")
    assert image_geometry([("z", 3)], (4, 5), "uint8", samples=3).axes == ("c", "z", "y", "x")
    assert image_geometry([("page", 3)], (4, 5), "uint8", planar=True).planar is False


def test_a_multi_page_file_fills_its_shards_from_the_last_axis() -> None:
    assert image_geometry([("t", 2), ("c", 3), ("z", 4)], (4, 5), "uint8").shard_extents == (2, 3, 4)
    assert image_geometry([("t", 20), ("c", 3), ("z", 10)], (4, 5), "uint8").shard_extents == (2, 3, 10)
    assert image_geometry([("t", 20), ("c", 3), ("z", 100)], (4, 5), "uint8").shard_extents == (1, 1, 64)
    assert image_geometry([("page", 1000)], (4, 5), "uint8").shard_extents == (64,)


@given(
    st.integers(1, 70_000),
    st.integers(1, 70_000),
    st.sampled_from(sorted(ITEM_SIZES)),
    st.sampled_from([1, 3, 4, 200]),
)
def test_only_planes_over_the_limit_are_tiled_and_no_tile_is_over_it(
    height: int, width: int, dtype: str, samples: int
) -> None:
    geometry = stack_geometry(1, (height, width), dtype, samples=samples)
    assert (geometry.tiles == 1) == (geometry.plane_bytes <= TILE_LIMIT)
    assert geometry.tile_bytes <= TILE_LIMIT
    # padding and tiny tiles are bounded: a tile is at least an eighth of the limit where there are several
    if geometry.tiles > 1:
        assert geometry.tile_bytes >= TILE_LIMIT // 16


def test_big_planes_have_tiles_of_2048() -> None:
    geometry = stack_geometry(1, (5000, 7000), "uint16")
    assert (geometry.tile_height, geometry.tile_width, geometry.tile_grid) == (2048, 2048, (3, 4))
    assert geometry.shard_shape == (3, 6144, 8192)
    assert stack_geometry(1, (4096, 4096), "uint16").tiles == 1
    assert stack_geometry(1, (1, 20_000_000), "uint16").tile_grid == (1, 5)
    assert stack_geometry(1, (40_000_000, 1), "uint8").tile_grid == (10, 1)
    over_2_gib = stack_geometry(1, (50_000, 50_000), "float64")
    assert over_2_gib.tile_bytes == TILE_LIMIT


@pytest.mark.parametrize("dtype", sorted(ITEM_SIZES))
def test_single_pixels_of_each_type(dtype: str) -> None:
    geometry = plate_geometry((1, 1, 1), (1, 1), dtype)
    assert geometry.tiles == 1
    assert geometry.plane_bytes == geometry.itemsize == geometry.pixel_type.itemsize
    assert geometry.pixel_type.str.startswith(("<", "|"))
    assert dtype_name(geometry.pixel_type) == dtype


@pytest.mark.parametrize(
    ("leading", "plane", "dtype", "samples"),
    [
        ([("t", 1), ("c", 1), ("z", 1)], (0, 5), "uint8", 1),
        ([("t", 1), ("c", 1), ("z", 1)], (5, -5), "uint8", 1),
        ([("t", 1), ("c", 0), ("z", 1)], (5, 5), "uint8", 1),
        ([("t", 1), ("c", 1), ("z", 1)], (5, 5), "complex64", 1),
        ([("t", 1), ("c", 1), ("z", 1)], (5, 5), "bool", 1),
        ([("t", 1), ("c", 1), ("z", 1)], (5, 5), "uint8", 3),
        ([("page", 1)], (5, 5), "uint8", 0),
        ([("page", 1)], (5, 5), "uint8", 70_000),
        ([("page", 1)], (2_000_000_000, 2_000_000_000), "uint8", 1),
        ([("page", 1)], (2**31, 1), "uint8", 1),
        ([("page", 2**40)], (5, 5), "uint8", 1),
        ([("z", 1), ("t", 1)], (5, 5), "uint8", 1),
        ([("t", 1), ("t", 1)], (5, 5), "uint8", 1),
        ([("file", 1), ("z", 1)], (5, 5), "uint8", 1),
        ([("q", 1)], (5, 5), "uint8", 1),
        ([], (5, 5), "uint8", 1),
        ([("page", 2**31 - 1)], (70_000, 70_000), "float64", 1),
    ],
)
def test_what_cannot_be_stored_is_refused(
    leading: list[tuple[str, int]], plane: tuple[int, int], dtype: str, samples: int
) -> None:
    with pytest.raises(GeometryError):
        image_geometry(leading, plane, dtype, samples=samples)


def test_a_shard_of_absurdly_many_chunks_is_refused() -> None:
    assert plate_geometry((1, 4, 2000), (64, 64), "uint16").chunks_per_shard == 8000
    plate_geometry((1, 1, MAX_CHUNKS_PER_SHARD), (1, 1), "uint8")
    with pytest.raises(GeometryError):
        plate_geometry((1, 2, MAX_CHUNKS_PER_SHARD), (1, 1), "uint8")


@pytest.mark.parametrize("index", [(0, 0), (0, 0, 0, 0), (0, 0, 4), (-1, 0, 0), (2, 0, 0)])
def test_a_plane_that_is_not_there_has_no_place(index: tuple[int, ...]) -> None:
    geometry = plate_geometry((2, 3, 4), (9, 7), "uint16")
    with pytest.raises(GeometryError):
        geometry.shard_grid_position(index)
    with pytest.raises(GeometryError):
        geometry.positions_in_shard(index)


@pytest.mark.parametrize(("grid", "position"), [((0, 0, 0), 12), ((0, 0, 0), -1), ((2, 0, 0), 0), ((0, 0), 0)])
def test_a_position_that_is_not_there_has_no_plane(grid: tuple[int, ...], position: int) -> None:
    with pytest.raises(GeometryError):
        plate_geometry((2, 3, 4), (9, 7), "uint16").plane_at(grid, position)
