"""A plate that is being acquired: each state on the way is whole and valid, and nothing is compressed twice."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from blackbox.stores import validate_groups
from plate_bench import Bench, Contents, Session, assert_sound, pixels, plate_path, tiff, zarr_array

from vfsd.flush import convert_plate, flush_tree, levels, streaming, writing
from vfsd.flush.items import QUIET_IN_SOURCE
from vfsd.flush.streaming import choose_of_source

LONG_AGO = 3600


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path, source=True)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How often each plane was compressed, of the full size and of the levels, by its pixels."""
    count: Counter[bytes] = Counter()
    original = writing.encode_plane

    def counting(plane: memoryview, geometry: Any) -> Any:
        count[bytes(plane)] += 1
        return original(plane, geometry)

    monkeypatch.setattr(writing, "encode_plane", counting)
    monkeypatch.setattr(levels, "encode_plane", counting)
    return count


def put(bench: Bench, files: Contents, *, age_s: float = LONG_AGO) -> None:
    """Files that the instrument wrote some time ago."""
    assert bench.source is not None
    for path, data in files.items():
        target = bench.source / os.fsdecode(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        os.utime(target, (time.time() - age_s,) * 2)


def images(seed: int, *places: dict[str, Any]) -> Contents:
    return {plate_path(**place): tiff(pixels(seed + number)) for number, place in enumerate(places)}


def acquisition() -> Iterator[tuple[str, Contents]]:
    """What comes after each other: the way that instruments go over a plate, and people go back to it."""
    fields = [{"well": well, "site": site} for well in ("B02", "B03") for site in (1, 2)]
    yield "first channel", images(100, *({**at, "channel": 1} for at in fields))
    yield "second channel, of one field not yet", images(200, *({**at, "channel": 2} for at in fields[:3]))
    yield "the last of it", images(300, {**fields[3], "channel": 2})
    yield "a time point", images(400, *({**at, "channel": c, "time": 2} for at in fields for c in (1, 2)))
    yield "half of another", images(500, *({**at, "channel": 1, "time": 3} for at in fields[:2]))
    yield "more slices", images(600, *({**at, "channel": 1, "z": z} for at in fields for z in (2, 3)))
    yield "another field, another well", images(700, {"well": "B02", "site": 3}, {"well": "H12", "site": 1})
    yield "a channel that comes before", images(800, {"well": "B02", "site": 1, "channel": 0})


def assert_valid(bench: Bench, files: Contents) -> None:
    assert_sound(bench.store, files)
    validate_groups(bench.store)


def test_every_state_of_a_growing_plate_is_whole(bench: Bench, encoded: Counter[bytes]) -> None:
    """The plate is taken in while the mount goes on; new files appear in the source and through the mount."""
    files: Contents = {}

    async def grow() -> None:
        async with bench.mounted() as session:
            for number, (what, more) in enumerate(acquisition()):
                if number % 2:
                    await session.write_all(more)
                    await session.flush_all()
                else:
                    put(bench, more)
                    result = await session.flush(ingest=True)
                    assert result.source_replaceable is True, what
                assert result_is_small(bench), what
                files.update(more)
                await trio.to_thread.run_sync(assert_valid, bench, dict(files))
                assert await session.contents() == files, what

    trio.run(grow)
    assert set(encoded.values()) == {1}, "nothing is compressed twice"
    document = json.loads((bench.store / "images/plate.ome.zarr/zarr.json").read_text())["attributes"]
    assert document["vfsd"]["numbers"] == {"t": [1, 2, 3], "c": [1, 2, 0], "z": [1, 2, 3]}
    assert document["ome"]["plate"]["field_count"] == 3
    assert [well["path"] for well in document["ome"]["plate"]["wells"]] == ["B/2", "B/3", "H/12"]
    field = json.loads((bench.store / "images/plate.ome.zarr/B/2/1/zarr.json").read_text())["attributes"]
    present = sum(b"P_B02_s1" in path for path in files)
    assert field["vfsd"]["missing_planes"] == 3 * 3 * 3 - present
    assert zarr_array(bench.store, b"images/plate.ome.zarr", "H/12/1").shape == (3, 3, 3, 40, 50)


def result_is_small(bench: Bench) -> bool:
    """Whether nothing of a flush is left behind."""
    return not (bench.store / "work").exists()


def test_converting_a_plate_again_while_it_grows(bench: Bench, encoded: Counter[bytes]) -> None:
    files: Contents = {}
    source = bench.source
    assert source is not None
    for _, more in acquisition():
        put(bench, more)
        files.update(more)
        result = trio.run(convert_plate, source, bench.store)
        assert (result.files, result.complete) == (len(more), True)
        assert_sound(bench.store, files)
    validate_groups(bench.store)
    assert set(encoded.values()) == {1}


def test_another_acquisition_of_the_same_plate(bench: Bench, encoded: Counter[bytes]) -> None:
    """CellVoyager's timelines are acquisitions: the second comes when the first is stored."""
    files: Contents = {}

    async def grow(session: Session) -> None:
        for timeline in (1, 2, 3):
            more = {
                b"P_B02_T0001F%03dL%02dA01Z01C0%d.tif" % (field, timeline, channel): tiff(
                    pixels(100 * timeline + 10 * field + channel)
                )
                for field in (1, 2)
                for channel in (1, 2)
            }
            put(bench, more)
            files.update(more)
            await session.flush(ingest=True)
            await trio.to_thread.run_sync(validate_groups, bench.store)

    async def mounted() -> None:
        async with bench.mounted() as session:
            await grow(session)

    trio.run(mounted)
    assert bench.stored_alone()[0] == files
    plate = json.loads((bench.store / "images/plate.ome.zarr/zarr.json").read_text())["attributes"]["ome"]["plate"]
    assert [one["id"] for one in plate["acquisitions"]] == [0, 1, 2]
    assert plate["field_count"] == 6
    assert set(encoded.values()) == {1}


def test_a_damaged_level_is_made_again_and_nothing_else(bench: Bench, encoded: Counter[bytes]) -> None:
    """The full size is copied all the same: only what cannot be read is compressed once more."""
    files = images(1, {"well": "B02"}, *({"well": "B03", "channel": channel} for channel in (1, 2)))
    put(bench, files)
    assert bench.source is not None
    trio.run(convert_plate, bench.source, bench.store)
    encoded.clear()
    (shard,) = (bench.store / "images/plate.ome.zarr/B/2/1/1").glob("c.*")
    shard.unlink()
    more = images(9, {"well": "B02", "channel": 2})
    put(bench, more)
    trio.run(convert_plate, bench.source, bench.store)
    assert_sound(bench.store, {**files, **more})
    sizes = Counter(len(plane) for plane in encoded.elements())
    assert sizes == {40 * 50 * 2: 1, 20 * 25 * 2: 2}


# --- files that are being written


def choose(bench: Bench) -> set[bytes]:
    """What the rounds during a mount would take in now."""

    async def look() -> set[bytes]:
        async with bench.mounted() as session:
            groups = await choose_of_source(session.tree)
            return {file.path for one in groups for file in one.members}

    return trio.run(look)


def test_what_changed_lately_is_not_taken_in_during_the_mount(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    resting = images(1, {"well": "B02"})
    put(bench, resting)
    # a change of the source's metadata counts as well, and that cannot be set back: time goes on instead
    now = time.time()
    monkeypatch.setattr(streaming.time, "time", lambda: now + LONG_AGO)
    put(bench, images(2, {"well": "B03"}), age_s=1)
    put(bench, images(3, {"well": "B04"}), age_s=QUIET_IN_SOURCE + 5)
    assert choose(bench) == {*resting, *images(3, {"well": "B04"})}


@pytest.mark.parametrize("cut", ["empty", "no length yet", "header", "half", "all but a byte"])
def test_a_tiff_that_is_not_complete_is_not_taken_in_yet(bench: Bench, cut: str) -> None:
    whole = tiff(pixels(1))  # its pixels come last, as in an instrument's file that is being written front to back
    length = {"empty": 0, "header": 8, "half": len(whole) // 2, "all but a byte": len(whole) - 1}
    part = bytes(len(whole)) if cut == "no length yet" else whole[: length[cut]]
    (path,) = images(1, {"well": "B02"})
    (other,) = images(2, {"well": "B03"})
    put(bench, {path: part, b"broken.tif": whole[:1000]}, age_s=0)
    put(bench, {other: tiff(pixels(2)), b"old.tif": whole[:1000], b"notes.tif": b"no picture at all"})
    assert bench.source is not None
    os.utime(bench.source / "notes.tif")

    async def rounds() -> None:
        async with bench.mounted() as session:
            background = await flush_tree(session.tree, only=(), ingest=True)
            assert {kept.path for kept in background.waiting} == {path, b"broken.tif", b"old.tif"}
            last = await flush_tree(session.tree, ingest=True)
            assert {kept.path: kept.reason for kept in last.waiting} == {
                path: "is a TIFF that is not complete yet",
                b"broken.tif": "is a TIFF that is not complete yet",
            }
            assert last.complete, "nothing failed"
            assert last.source_replaceable is False
            assert {kept.path for kept in last.obstacles} == {path, b"broken.tif"}
            assert await session.read(path) == part
            put(bench, {path: whole}, age_s=0)
            put(bench, {b"broken.tif": whole[:1000]})
            done = await flush_tree(session.tree, ingest=True)
            assert (done.files, done.complete, done.source_replaceable) == (2, True, True)

    trio.run(rounds)
    expected = {
        path: whole,
        other: tiff(pixels(2)),
        b"broken.tif": whole[:1000],
        b"old.tif": whole[:1000],
        b"notes.tif": b"no picture at all",
    }
    assert_sound(bench.store, expected)
