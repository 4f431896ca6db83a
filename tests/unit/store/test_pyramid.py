"""Levels of an image: how many, how large, where their pixels lie, and what is in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfsd.errors import StoredDataDamaged
from vfsd.store.catalogue import GroupRecord
from vfsd.store.geometry import ArrayGeometry, plate_geometry, stack_geometry
from vfsd.store.pyramid import MEAN, STRIDE, level_count, level_geometry, level_of, plane_levels
from vfsd.store.stored import group_levels


@pytest.mark.parametrize(
    ("side", "wanted", "count"),
    [
        *[(2160, None, 4), (2048, None, 3), (512, None, 1), (257, None, 1), (256, None, 0), (1, None, 0)],
        *[(1080, 2, 2), (1080, 0, 0), (5, 30, 2), (1, 3, 0)],
    ],
)
def test_how_many_levels(side: int, wanted: int | None, count: int) -> None:
    assert level_count(plate_geometry((1, 1, 1), (side, side + 100), "uint16"), wanted) == count


@given(st.integers(2, 6000), st.integers(2, 6000), st.sampled_from(["uint8", "uint16", "float32"]), st.booleans())
@settings(max_examples=100, deadline=None)
def test_levels_have_the_shards_of_the_full_size(height: int, width: int, dtype: str, rgb: bool) -> None:
    full = stack_geometry(70, (height, width), dtype, samples=3 if rgb else 1)
    for level in range(1, level_count(full, 12) + 1):
        found = level_geometry(full, level)
        assert (found.height, found.width) == (height >> level, width >> level)
        assert min(found.height, found.width) >= 1
        assert found.shard_grid_position((66,)) == full.shard_grid_position((66,))
        assert found.shard_key((1,)) == full.shard_key((1,))
        assert found.tile_bytes <= full.tile_bytes
        assert ArrayGeometry.from_document(found.document()) == found


def test_a_pixel_stands_for_the_middle_of_those_it_covers() -> None:
    levels = [level_of(number, (1.0, 2.0, 0.5, 0.25)) for number in range(4)]
    assert levels[0].translation is None
    for number, level in enumerate(levels):
        factor = 2**number
        assert list(level.scale) == [1.0, 2.0, 0.5 * factor, 0.25 * factor]
        covered = np.arange(factor)  # pixels 0 … 2^n - 1 of the full size, their centres at 0, 1, …
        y, x = (0.0, 0.0) if level.translation is None else level.translation[2:]
        assert (y, x) == (0.5 * covered.mean(), 0.25 * covered.mean())
    moved = level_of(2, (1.0, 0.5, 0.25), (0.0, 100.0, -7.5))
    assert moved.translation == [0.0, 100.75, -7.125]


@pytest.mark.parametrize(("samples", "planar"), [(1, False), (3, False), (3, True)])
def test_levels_of_every_order_of_samples(samples: int, planar: bool) -> None:
    full = stack_geometry(1, (37, 50), "uint16", samples=samples, planar=planar)
    shape = (samples, 37, 50) if planar else (37, 50, samples)
    plane = np.random.default_rng(1).integers(0, 65536, shape, np.uint16)
    order = plane if planar else np.moveaxis(plane, -1, 0)
    for method in (MEAN, STRIDE):
        expected = order.astype(np.int64)
        for level, found in enumerate(plane_levels(memoryview(plane).cast("B"), full, 3, method), 1):
            height, width = 37 >> level, 50 >> level
            quads = [expected[:, y : 2 * height : 2, x : 2 * width : 2] for y in (0, 1) for x in (0, 1)]
            expected = quads[0] if method == STRIDE else (sum(quads) + 2) >> 2
            pixels = np.frombuffer(found, "<u2")
            seen = (
                pixels.reshape(expected.shape) if planar else np.moveaxis(pixels.reshape(height, width, samples), -1, 0)
            )
            assert np.array_equal(seen, expected)


@pytest.mark.parametrize(
    "text", ['{"levels": -1}', '{"levels": "2"}', '{"levels": true}', '{"levels": 99}', '{"downscaling": "x"}']
)
def test_damaged_rows(text: str) -> None:
    with pytest.raises(StoredDataDamaged):
        group_levels(GroupRecord(1, b"images/a.ome.zarr", "plate", b"a", text))


def test_groups_made_before_there_were_levels_have_none() -> None:
    assert group_levels(GroupRecord(1, b"images/a.ome.zarr", "plate", b"a", "{}")) == (0, MEAN)
