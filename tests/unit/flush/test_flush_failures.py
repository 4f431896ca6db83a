"""What fails costs the file concerned and no other, and never a byte: it stays where it was."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from plate_bench import (
    Bench,
    Contents,
    altered_catalogue,
    assert_sound,
    group_locations,
    pixels,
    plate_files,
    plate_path,
    tiff,
    zarr_array,
)

from vfsd.flush import flush as flush_module
from vfsd.flush import verify_store, writing
from vfsd.flush.items import Item
from vfsd.flush.writing import ObjectWriter
from vfsd.store import transaction as transaction_module
from vfsd.tree.journal import Journal

A01, A02 = plate_path("A01"), plate_path("A02")


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """Paths put in here can be looked at, but their pixels cannot be read any more: a disk with bad sectors."""
    paths: set[bytes] = set()
    opened = Item.opened

    @contextlib.contextmanager
    def failing(self: Item) -> Iterator[int]:
        with opened(self) as fd:
            if self.path in paths and self.layout is not None:
                raise OSError(errno.EIO, "Input/output error")
            yield fd

    monkeypatch.setattr(Item, "opened", failing)
    return paths


def test_failed_file_changes_nothing_for_the_others(tmp_path: Path, unreadable: set[bytes]) -> None:
    """The only plane of channel 2 fails: the array has another shape then, and every shard is another one."""
    bench = Bench(tmp_path)
    files = {plate_path("A01", site): tiff(pixels(site)) for site in range(1, 6)} | {b"text": b"text"}
    bad = plate_path("A01", 3, 2)
    unreadable.add(bad)

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all(files | {bad: tiff(pixels(9))})
            result = await session.flush()
            assert [(kept.path, kept.reason) for kept in result.kept] == [(bad, "Input/output error")]
            assert result.files == len(files)
            assert not result.complete
            assert session.tree.dirty().files == 1
            assert_sound(bench.store, files)
            assert group_locations(bench.store) == {b"images/plate.ome.zarr": 5}
            assert zarr_array(bench.store, b"images/plate.ome.zarr", "A/1/1").shape[1] == 1
            unreadable.clear()
            assert (await session.flush_all()).files == 1

    trio.run(run)
    assert_sound(bench.store, files | {bad: tiff(pixels(9))})


def test_failed_plate_does_not_give_its_numbers_to_the_next(tmp_path: Path, unreadable: set[bytes]) -> None:
    """All of plate a fails, so that plate b gets its number: brightness and keys must still be those of b."""
    bench = Bench(tmp_path)
    bad = {b"a/" + A01: tiff(pixels(1) * 100)}
    good = {b"b/" + A01: tiff(pixels(2)), b"c/" + A01: tiff(pixels(3) * 3)}
    unreadable.update(bad)

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all(bad | good)
            result = await session.flush()
            assert {kept.path for kept in result.kept} == bad.keys()

    trio.run(run)
    assert_sound(bench.store, good)
    for name, factor in (("b", 1), ("c", 3)):
        document = json.loads((bench.store / f"images/{name}.ome.zarr/A/1/1/zarr.json").read_text())
        window = document["attributes"]["ome"]["omero"]["channels"][0]["window"]
        assert 50 * factor < window["end"] <= 200 * factor


def test_brightness_is_taken_from_another_file_when_the_first_fails(tmp_path: Path, unreadable: set[bytes]) -> None:
    bench = Bench(tmp_path)
    files = {plate_path("A01", site): tiff(pixels(site)) for site in range(1, 4)}
    unreadable.add(plate_path("A01", 1))

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush()

    trio.run(run)
    document = json.loads((bench.store / "images/plate.ome.zarr/A/1/2/zarr.json").read_text())
    assert document["attributes"]["ome"]["omero"]["channels"][0]["window"]["end"] > 1


def test_planes_that_do_not_rebuild_are_stored_as_a_plain_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, files = Bench(tmp_path), plate_files(wells=("A01",))
    bad = tiff(pixels(10))
    encode = writing.encode_plane

    def wrong(plane: Any, geometry: Any) -> list[bytes]:
        spoiled = bytearray(plane)
        if bytes(plane) == pixels(10).tobytes():
            spoiled[5] ^= 1
        return encode(spoiled, geometry)

    monkeypatch.setattr(writing, "encode_plane", wrong)

    async def run() -> Path | None:
        async with bench.mounted() as session:
            await session.write_all(files | {A02: bad})
            return (await session.flush_all()).receipt

    receipt = trio.run(run)
    assert receipt is not None
    assert_sound(bench.store, files | {A02: bad})
    assert (bench.store / "files" / os.fsdecode(A02)).read_bytes() == bad
    (entry,) = [entry for entry in json.loads(receipt.read_text())["files"] if entry["path"] == A02.decode()]
    assert "verification failed" in entry["notes"][0]


def test_plain_file_that_does_not_read_back_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    write = writing.write_around_holes

    def wrong(fd: int, data: bytes | memoryview, offset: int) -> None:
        write(fd, memoryview(bytes(data).replace(b"good", b"evil")), offset)

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all({b"a": b"good", b"b": b"fine"})
            with monkeypatch.context() as patch:
                patch.setattr(writing, "write_around_holes", wrong)
                result = await session.flush()
            assert [kept.path for kept in result.kept] == [b"a"]
            assert await session.read(b"a") == b"good"
            assert_sound(bench.store, {b"b": b"fine"})
            await session.flush_all()

    trio.run(run)
    assert_sound(bench.store, {b"a": b"good", b"b": b"fine"})


def test_copied_chunks_are_compared_before_the_old_shard_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of an earlier flush lie in the shard that is written anew: nobody else has their bytes any more."""
    bench, files = Bench(tmp_path), {A01: tiff(pixels(1)), plate_path("A01", 1, 2): tiff(pixels(2))}
    kept_chunk = ObjectWriter._kept_chunk

    def wrong(self: ObjectWriter, *arguments: Any) -> bytes | None:
        chunk = kept_chunk(self, *arguments)
        return None if chunk is None else chunk[:-1] + bytes([chunk[-1] ^ 1])

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()
            await session.unlink(plate_path("A01", 1, 2))
            with monkeypatch.context() as patch:
                patch.setattr(ObjectWriter, "_kept_chunk", wrong)
                with pytest.raises(OSError, match="read back"):
                    await session.flush()
            assert_sound(bench.store, files)
            await session.flush_all()

    trio.run(run)
    assert_sound(bench.store, {A01: tiff(pixels(1))})


@pytest.mark.parametrize("damage", ["cut", "missing", "index"])
def test_damaged_shard_costs_only_what_it_holds(damage: str, tmp_path: Path) -> None:
    """What was to come into it is stored as plain files; deleting something from it works; nothing else is touched."""
    bench = Bench(tmp_path)
    files = plate_files(wells=("A01", "A02"), sites=1)
    lost = {A01, plate_path("A01", 1, 2)}
    fresh = {plate_path("A01", 1, 3): tiff(pixels(70)), plate_path("A02", 1, 3): tiff(pixels(71)), b"x": b"x"}

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all(
                files | {plate_path("A02", 1, channel): tiff(pixels(channel)) for channel in (3, 4)}
            )
            await session.flush_all()
        shard = bench.store / "images/plate.ome.zarr/A/1/1/0/c.0.0.0.0.0"
        content = shard.read_bytes()
        if damage == "missing":
            shard.unlink()
        else:
            shard.write_bytes(content[:-8] if damage == "cut" else content[:-8] + bytes(8))
        async with bench.mounted() as session:
            await session.write_all(fresh)
            await session.flush_all()
            session.tree.tiers.drop_clean()
            for path, data in fresh.items():
                assert await session.read(path) == data
            await session.unlink(A01)
            await session.flush_all()
            await session.unlink(plate_path("A01", 1, 2))
            await session.flush_all()

    trio.run(run)
    assert verify_store(bench.store).ok
    expected = {path: data for path, data in files.items() if path not in lost} | fresh
    expected[plate_path("A02", 1, 4)] = tiff(pixels(4))
    assert_sound(bench.store, expected)


def test_damaged_compressed_image_is_stored_without_its_pixels(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    damaged = bytearray(tiff(pixels(1), compression="zlib"))
    damaged[-600:-100] = bytes(500)
    files = {A01: bytes(damaged), A02: tiff(pixels(2), compression="zlib")}

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()

    trio.run(run)
    assert_sound(bench.store, files)
    assert group_locations(bench.store) == {b"images/plate.ome.zarr": 1}


def test_missing_plain_object_costs_only_its_file(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all({b"a": b"lost", b"b": b"here"})
            await session.flush_all()
            (bench.store / "files/a").unlink()
            await session.rename(b"a", b"moved")
            await session.rename(b"b", b"also moved")
            result = await session.flush()
            assert [kept.path for kept in result.kept] == [b"moved"]
            assert await session.read(b"also moved") == b"here"
            await session.unlink(b"moved")
            await session.flush_all()

    trio.run(run)
    assert_sound(bench.store, {b"also moved": b"here"})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "vfsd-test", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a tmpfs here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.root
def test_full_disk_leaves_the_store_as_it_was(tmp_path: Path, small_disk: Path) -> None:
    bench = Bench(tmp_path)
    bench.store = small_disk / "plate.vfs"
    noise = np.random.default_rng(1).integers(0, 1 << 16, (1 << 20,), np.uint16).tobytes()
    large: Contents = {b"large%d" % n: noise for n in range(4)}
    planes: Contents = {plate_path("A01", n): tiff(np.frombuffer(noise, "u2").reshape(1024, 1024)) for n in range(1, 5)}

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write(b"first", b"first")
            await session.flush_all()
            for too_much in (large, planes):
                await session.write_all(too_much)
                with pytest.raises(OSError, match="No space left"):
                    await session.flush()
                assert_sound(bench.store, {b"first": b"first"})
                assert session.tree.dirty().files == len(too_much)
                for path in [*too_much][1:]:
                    await session.unlink(path)
                await session.flush_all()
                await session.unlink(next(iter(too_much)))
                await session.flush_all()

    trio.run(run)
    assert_sound(bench.store, {b"first": b"first"})


def test_disk_that_fails_while_the_change_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever rename it is: the store is as it was, and the next flush does it."""
    bench, files = Bench(tmp_path), plate_files(wells=("A01",), sites=1) | {b"text": b"text"}
    rename = os.rename

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()
            for number in range(7):  # text, shard, three documents, receipt, catalogue
                await session.write(b"text", b"text %d" % number)
                await session.write(plate_path("A01", 1, 2 + number), tiff(pixels(number)))
                calls = 0

                def failing(*arguments: Any, number: int = number, **options: Any) -> None:
                    nonlocal calls
                    calls += 1
                    if calls == number + 1:
                        raise OSError(errno.EIO, "Input/output error")
                    rename(*arguments, **options)

                with monkeypatch.context() as patch:
                    patch.setattr(os, "rename", failing)
                    with pytest.raises(OSError, match="Input/output error"):
                        await session.flush()
                assert_sound(bench.store, files)
                await session.flush_all()
                files[b"text"] = b"text %d" % number
                files[plate_path("A01", 1, 2 + number)] = tiff(pixels(number))
                assert_sound(bench.store, files)

    trio.run(run)
    assert bench.stored_alone()[0] == files


def test_disk_that_fails_right_after_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new catalogue is there but may not survive power loss: nothing is released, and nothing is wrong either."""
    bench = Bench(tmp_path)
    stored: Contents = {**plate_files(b"p", wells=("A01",)), b"d/x": b"x", b"y": b"y", b"z": b"z"}

    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def run() -> Contents:
        async with bench.mounted() as session:
            await session.write_all(stored)
            await session.flush_all()
            session.tree.tiers.drop_clean()
            await session.write(b"a", b"1")
            await session.write(b"y", b"other")
            await session.rename(b"d", b"e")
            await session.rename(b"p", b"q")
            await session.rename(b"z", b"zz")
            seen = await session.contents()
            session.tree.tiers.drop_clean()
            with monkeypatch.context() as patch:
                patch.setattr(transaction_module, "sync_directory", broken)
                with pytest.raises(OSError, match="Input/output error"):
                    await session.flush()
            assert session.tree.dirty().files == 2
            assert await session.contents() == seen
            session.tree.tiers.drop_clean()
            await session.write(b"b", b"2")
            await session.flush_all()
            session.tree.tiers.drop_clean()
            assert await session.contents() == seen | {b"b": b"2"}
            return await session.contents()

    assert_sound(bench.store, trio.run(run))


def test_journal_that_fails_after_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that could not be dropped still name tier files: these must stay."""
    bench = Bench(tmp_path)
    change = Journal.change

    @contextlib.contextmanager
    def failing(self: Journal) -> Iterator[None]:
        with change(self):
            yield
            raise OSError(errno.ENOSPC, "No space left on device")

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all({b"b": b"2", b"d/c": b"3"})
            await session.flush_all()
            session.tree.tiers.drop_clean()
            await session.write(b"a", b"1")
            await session.rename(b"b", b"bb")
            await session.rename(b"d", b"dd")
            with monkeypatch.context() as patch:
                patch.setattr(Journal, "change", failing)
                with pytest.raises(OSError, match="No space left"):
                    await session.flush()
            assert session.tree.tiers.drop_clean() == 0
            assert await session.contents() == {b"a": b"1", b"bb": b"2", b"dd/c": b"3"}
        async with bench.mounted() as session:
            assert not session.tree.lost
            assert await session.read(b"a") == b"1"
            await session.flush_all()

    trio.run(run)
    assert_sound(bench.store, {b"a": b"1", b"bb": b"2", b"dd/c": b"3"})


def test_catalogue_that_cannot_be_built_is_an_error_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    from vfsd.store.builder import CatalogueBuilder

    bench = Bench(tmp_path)

    def full(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write(b"a", b"1")
            with monkeypatch.context() as patch:
                patch.setattr(CatalogueBuilder, "put_inode", full)
                with pytest.raises(OSError, match="disk is full"):
                    await session.flush()
            await session.flush_all()

    trio.run(run)
    assert_sound(bench.store, {b"a": b"1"})


def test_cancelled_flush_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all(plate_files())
            with trio.CancelScope() as scope, monkeypatch.context() as patch:

                async def cancelled(*_: Any) -> None:
                    scope.cancel()
                    await trio.sleep_forever()

                patch.setattr(flush_module, "each", cancelled)
                await session.flush()
            assert scope.cancelled_caught
            assert_sound(bench.store, {})
            await session.flush_all()

    trio.run(run)
    assert_sound(bench.store, plate_files())


DAMAGES = {
    "plane beyond the array": "UPDATE plane SET i1 = 99 WHERE ino = :ino",
    "no planes": "DELETE FROM plane WHERE ino = :ino",
    "no such group": "UPDATE plane SET grp = 99 WHERE ino = :ino",
    "damaged skeleton": "UPDATE skeleton SET data = zeroblob(100) WHERE id = (SELECT skeleton FROM inode WHERE ino = :ino)",
    "no skeleton": "UPDATE inode SET skeleton = 99 WHERE ino = :ino",
    "other digest": "UPDATE inode SET digest = zeroblob(16) WHERE ino = :ino",
    "other size": "UPDATE inode SET size = size + 1 WHERE ino = :ino",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_row_that_contradicts_itself_costs_only_its_file(damage: str, tmp_path: Path) -> None:
    """It is named by a verification, refused to readers, and stands in the way of no flush."""

    from vfsd.errors import StoredDataDamaged

    bench, files = Bench(tmp_path), {A01: tiff(pixels(1), software="one"), A02: tiff(pixels(2), software="other")}

    async def fill() -> int:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()
            return (await session.node(A01)).ino

    async def go_on() -> None:
        async with bench.mounted() as session:
            with pytest.raises(StoredDataDamaged):
                await session.read(A01)
            assert await session.read(A02) == files[A02]
            await session.rename(A01, b"renamed.tif")
            await session.rename(A02, plate_path("H12"))
            result = await session.flush()
            assert [kept.path for kept in result.kept] == [b"renamed.tif"]
            assert await session.read(plate_path("H12")) == files[A02]
            await session.unlink(b"renamed.tif")
            await session.flush_all()

    ino = trio.run(fill)
    with altered_catalogue(bench.store) as db:
        db.execute(DAMAGES[damage], {"ino": ino})
    assert [damaged.path for damaged in verify_store(bench.store).damaged] == [A01]
    trio.run(go_on)
    assert verify_store(bench.store).ok
