"""Levels of stored images: right from the first flush, through growth, renames and damage, and as readers see them."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from plate_bench import Bench, altered_catalogue, assert_sound, pixels, plate_files, plate_path, tiff, zarr_array

from vfsd.flush import flush_tree, verify_store
from vfsd.store import pyramid

SHAPE = (90, 70)
GROUP = b"images/pl.ome.zarr"
FIELD = "A/1/1"


@pytest.fixture(autouse=True)
def three_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "SMALLEST_SIDE", 9)  # 70, 35, 17, 8


def mean(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Half the size, by numpy."""
    height, width = array.shape[-2] // 2, array.shape[-1] // 2
    wide = array[..., : 2 * height, : 2 * width].astype(np.int64)
    sums = wide[..., ::2, ::2] + wide[..., ::2, 1::2] + wide[..., 1::2, ::2] + wide[..., 1::2, 1::2]
    return ((sums + 2) >> 2).astype(array.dtype)


def assert_levels(store: Path, location: bytes, image: str, count: int) -> None:
    """The levels, as zarr-python reads them, follow from each other."""
    above = zarr_array(store, location, image)[...]
    for level in range(1, count + 1):
        array = zarr_array(store, location, image, level)
        assert array.metadata.dimension_names == zarr_array(store, location, image).metadata.dimension_names
        found = array[...]
        assert np.array_equal(found, mean(above)), level
        above = found
    folder = store / os.fsdecode(location) / image
    assert not (folder / str(count + 1)).exists()
    (document,) = json.loads((folder / "zarr.json").read_text())["attributes"]["ome"]["multiscales"]
    assert [dataset["path"] for dataset in document["datasets"]] == [str(level) for level in range(count + 1)]
    assert document["type"] == ("mean" if count else "none")
    assert ("half up" in document["metadata"]["description"]) == bool(count)


def large(well: str, site: int = 1, channel: int = 1, *, seed: int = 0, **options: Any) -> dict[bytes, bytes]:
    path = b"pl/" + plate_path(well, site, channel, time=options.pop("time", 1))
    return {path: tiff(pixels(seed + 10 * site + channel, SHAPE), **options)}


def test_every_way_into_a_plate_gives_levels(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    files = large("A01", 1, 1) | large("A01", 1, 2, byteorder=">", rowsperstrip=7)
    files |= large("A01", 1, 3, compression="lzw", predictor=True) | large("A01", 1, 4, compression="zlib")
    files |= {b"rgb/%d.tif" % n: tiff(pixels(n, (*SHAPE, 3), "uint8"), photometric="rgb") for n in range(4)}
    files |= {b"p/pages.tif": tiff(np.stack([pixels(n, SHAPE) for n in range(5)]), photometric="minisblack")}
    files |= {b"f/%d.tif" % n: tiff(pixels(n, SHAPE, "float32")) for n in range(4)}

    async def fill() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()

    trio.run(fill)
    assert_sound(bench.store, files)
    assert_levels(bench.store, GROUP, FIELD, 3)
    assert_levels(bench.store, b"images/rgb.stacks/90x70x3_uint8.ome.zarr", "", 3)
    assert_levels(bench.store, b"images/p.stacks/pages.tif.ome.zarr", "", 3)


def test_levels_grow_with_the_plate_and_go_with_its_planes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    files = large("A01", 1, 1) | large("A01", 1, 2)

    async def act() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()
            for more in (large("A01", 1, 3), large("A01", 1, 1, time=2), large("B02"), large("A01", 1, 1, seed=9)):
                await session.write_all(more)
                files.update(more)
                await session.flush_all()
                assert_sound(bench.store, files)
                assert_levels(bench.store, GROUP, FIELD, 3)
            for path in list(files)[:2]:
                await session.unlink(path)
                del files[path]
            await session.rename(b"pl", b"moved")
            await session.flush_all()

    trio.run(act)
    moved = {path.replace(b"pl/", b"moved/", 1): data for path, data in files.items()}
    assert_sound(bench.store, moved)
    assert_levels(bench.store, b"images/moved.ome.zarr", FIELD, 3)
    assert bench.stored_alone()[0] == moved


@pytest.mark.parametrize("wanted", [0, 1, 30])
def test_as_many_as_were_asked_for_and_no_other_number_later(wanted: int, tmp_path: Path) -> None:
    bench, files = Bench(tmp_path), large("A01", 1, 1)
    count = min(wanted, 6)  # 70, 35, 17, 8, 4, 2, 1

    async def act() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await flush_tree(session.tree, levels=wanted)
            assert_levels(bench.store, GROUP, FIELD, count)
            await session.write_all(large("A01", 1, 2))
            await session.flush_all()

    trio.run(act)
    assert_sound(bench.store, files | large("A01", 1, 2))
    assert_levels(bench.store, GROUP, FIELD, count)


def level_shards(store: Path, level: int) -> list[Path]:
    return sorted((store / "images").rglob(f"{level}/c.*"))


def damage_shard(shard: Path, damage: str) -> None:
    content = bytearray(shard.read_bytes())
    if damage == "missing":
        shard.unlink()
    elif damage == "other pixels":
        content[500:600] = bytes(100)
        shard.write_bytes(content)
    else:
        content[len(content) - 20 if damage == "index" else 1000] ^= 1
        shard.write_bytes(content)


@pytest.mark.parametrize("damage", ["bit", "index", "missing", "other pixels"])
def test_damaged_levels_are_found_and_concern_no_file(damage: str, tmp_path: Path) -> None:
    bench, files = Bench(tmp_path), large("A01", 1, 1) | large("A01", 1, 2)

    async def fill() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()

    trio.run(fill)
    (first,) = level_shards(bench.store, 1)
    damage_shard(first, damage)
    report = verify_store(bench.store)
    (found,) = report.damaged
    assert found.path == os.fsencode(first.relative_to(bench.store))
    assert "no file is concerned" in found.told
    assert report.files == len(files)
    assert bench.stored_alone()[0] == files


def test_levels_that_cannot_be_read_are_made_again_when_their_shard_is_written(tmp_path: Path) -> None:
    bench, files = Bench(tmp_path), large("A01", 1, 1) | large("A01", 1, 2)

    async def act(more: dict[bytes, bytes]) -> None:
        async with bench.mounted() as session:
            await session.write_all(more)
            await session.flush_all()

    trio.run(act, files)
    damage_shard(level_shards(bench.store, 1)[0], "index")
    damage_shard(level_shards(bench.store, 2)[0], "missing")
    more = large("A01", 1, 1, seed=7)
    trio.run(act, more)
    assert_sound(bench.store, files | more)
    assert_levels(bench.store, GROUP, FIELD, 3)


def test_a_store_from_before_there_were_levels_goes_on_without(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def fill() -> None:
        async with bench.mounted() as session:
            await session.write_all(large("A01", 1, 1))
            await flush_tree(session.tree, levels=0)

    trio.run(fill)
    with altered_catalogue(bench.store) as db:
        ((text,),) = db.execute("SELECT document FROM image_group")
        document = json.loads(text)
        del document["levels"], document["downscaling"]
        db.execute("UPDATE image_group SET document = ?", (json.dumps(document),))
    files = large("A01", 1, 1) | large("A01", 1, 2)

    async def more() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()

    trio.run(more)
    assert_sound(bench.store, files)
    assert_levels(bench.store, GROUP, FIELD, 0)


def test_others_read_the_levels(tmp_path: Path) -> None:
    from napari_ome_zarr import napari_get_reader
    from ome_zarr_models.v05 import HCS

    bench = Bench(tmp_path)
    files = large("A01", 1, 1) | large("A01", 1, 2) | plate_files(b"small", wells=("A01",))

    async def fill() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()

    trio.run(fill)
    import zarr

    plate = bench.store / os.fsdecode(GROUP)
    HCS.from_zarr(zarr.open_group(plate, mode="r"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = napari_get_reader(str(plate / FIELD))
        assert reader is not None
        ((data, *_),) = reader(str(plate / FIELD))
    assert [level.shape[-2:] for level in data] == [(90, 70), (45, 35), (22, 17), (11, 8)]
    assert np.array_equal(np.asarray(data[2]), zarr_array(bench.store, GROUP, FIELD, 2)[...])
