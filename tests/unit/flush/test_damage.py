"""Every file of a store, damaged in every way: verification names exactly what is affected, and repair makes it again."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from plate_bench import Bench, Contents, altered_catalogue, assert_sound, keys_below, pixels, plate_path, tiff

from vfsd.errors import StoredDataDamaged
from vfsd.flush import Damage, Damaged, Sample, convert_plate, repair_store, verify, verify_store
from vfsd.store import Store, intents, transaction
from vfsd.store.storage import LocalStorage

RAW = [plate_path(well, 1, channel) for well in ("A01", "B02") for channel in (1, 2)]
LZW, DEFLATE = plate_path("C03", 1, 1), plate_path("D04", 1, 1)
STACK = [b"s/%d.tif" % number for number in range(4)]
FILES: Contents = {path: tiff(pixels(number)) for number, path in enumerate([*RAW, *STACK])}
FILES |= {
    LZW: tiff(pixels(20), compression="lzw", predictor=True, rowsperstrip=11),
    DEFLATE: tiff(pixels(21), compression="zlib"),
    RAW[0].replace(b".TIF", b"_mask.tif"): tiff(pixels(22)),
    b"notes \xff.txt": b"some text, " * 20,
    b"empty": b"",
    RAW[0][:-4] + b"_mask.tif": tiff((np.indices((40, 50))[0] // 7 * 3 % 251).astype("uint16")),
}
WAYS = ("missing", "empty", "cut", "first", "middle", "last")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A plate in its store, with a source that still stands."""
    from vfsd.flush import placing
    from vfsd.store import pyramid

    bench = Bench(tmp_path_factory.mktemp("damage"), source=True)
    assert bench.source is not None
    for path, data in FILES.items():
        place = Path(os.fsdecode(os.fsencode(bench.source) + b"/" + path))
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data)
    (bench.source / "link").symlink_to("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(placing, "FEWEST_PLANES", 4)
        patch.setattr(placing, "FEWEST_BYTES", 1)
        patch.setattr(pyramid, "SMALLEST_SIDE", 24)
        result = trio.run(convert_plate, bench.source, bench.store)
    assert result.source_replaceable is True, result.obstacles
    assert_sound(bench.store, FILES)
    return bench


def damage(path: Path, way: str) -> bool:
    """Whether it is another file now."""
    whole = path.read_bytes()
    content = bytearray(whole)
    if way == "missing":
        path.unlink()
        return True
    if way == "cut":
        del content[len(content) // 2 :]
    elif way == "empty":
        content.clear()
    elif content:
        content[{"first": 0, "middle": len(content) // 2, "last": len(content) - 1}[way]] ^= 1 << len(content) % 8
    path.write_bytes(content)
    return content != whole


@contextlib.contextmanager
def damaged(path: Path, way: str) -> Iterator[bool]:
    """A file damaged for the block; gives whether it is another one now."""
    whole = path.read_bytes()
    try:
        yield damage(path, way)
    finally:
        path.write_bytes(whole)


def unreadable(store: Path) -> set[bytes]:
    """The judge: what cannot be read from the store as it was."""
    lost = set()
    with contextlib.closing(Store.open(store, writable=False)) as opened:
        for path, record in opened.catalogue.walk():
            if not record.kind.is_file:
                continue
            fd = os.memfd_create("rebuilt")
            try:
                opened.files.describe(record).rebuild(fd)
                assert os.pread(fd, record.size + 1, 0) == FILES[path]
            except StoredDataDamaged:
                lost.add(path)
            finally:
                os.close(fd)
    return lost


def named(report: list[Damaged] | tuple[Damaged, ...], kind: Damage) -> set[bytes]:
    return {one.path for one in report if one.kind is kind}


def objects(store: Path) -> list[bytes]:
    keys = keys_below(store, "images") | keys_below(store, "files") | keys_below(store, "receipts")
    return sorted(keys)


@pytest.mark.parametrize("way", WAYS)
def test_damaged_object_is_named_with_what_it_costs(way: str, converted: Bench) -> None:
    kinds = set()
    for key in objects(converted.store):
        path = converted.store / os.fsdecode(key)
        with damaged(path, way) as changed:
            lost = unreadable(converted.store)
            if key == b"files/empty" and changed:  # nothing of it is lost, but others do not find it
                lost.add(b"empty")
            by_rebuilding, by_digests = verify_store(converted.store), verify_store(converted.store, digests=True)
            if not changed:
                assert by_rebuilding.ok, key
                assert by_digests.ok, key
                continue
            for report in (by_rebuilding, by_digests):
                assert named(report.damaged, Damage.FILE) == lost, key
                assert {one.path for one in report.damaged if one.kind is not Damage.FILE} <= {key}, key
            # by digests each change of a byte is found; by rebuilding each that changes a file, metadata or a receipt
            assert not by_digests.ok, key
            assert not by_rebuilding.ok or not key.endswith(b".json"), key
            kinds |= {one.kind for one in by_digests.damaged}
    assert verify_store(converted.store).ok
    assert kinds >= {Damage.FILE, Damage.LEVEL, Damage.METADATA, Damage.COPY, Damage.RECEIPT}


def test_every_page_of_the_catalogue_counts(converted: Bench) -> None:
    """One bit in each page of database, copy and seal: it is named, and every file is still there."""
    for name in ("catalog.sqlite", "catalog.copy.sqlite", "catalog.xxh3", "vfs.json"):
        path = converted.store / name
        whole = path.read_bytes()
        for place in range(0, len(whole), 4096):
            at = min(place + 1000, len(whole) - 1) if place else 20
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :])
            try:
                report = verify_store(converted.store, digests=True)
                assert named(report.damaged, Damage.STORE) == {os.fsencode(name)}
                assert len(report.damaged) == 1
                if place == 0 and name != "vfs.json":
                    assert not unreadable(converted.store)
            finally:
                path.write_bytes(whole)
    assert verify_store(converted.store).ok


def test_a_catalogue_that_is_damaged_under_a_mount_is_not_carried_on(tmp_path: Path) -> None:
    """What SQLite does not notice must neither come into the next catalogue nor be sealed with it."""
    bench, first, names = Bench(tmp_path), tiff(pixels(1)), [b"n%d" % number for number in range(40)]

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all({RAW[0]: first} | dict.fromkeys(names, b"text"))
            await session.flush_all()
            path = bench.store / "catalog.sqlite"
            content = path.read_bytes()
            at = content.rindex(names[20])
            with path.open("r+b") as file:
                file.seek(at)
                file.write(b"N")
            await session.write(b"later", b"later")
            await session.flush_all()

    trio.run(run)
    assert_sound(bench.store, {RAW[0]: first, b"later": b"later"} | dict.fromkeys(names, b"text"))
    assert verify_store(bench.store).ok


def broken_copy(bench: Bench, folder: Path, way: str, keys: list[bytes]) -> Path:
    store = folder / "broken.vfs"
    shutil.copytree(bench.store, store)
    for key in keys:
        damage(store / os.fsdecode(key), way)
    return store


@pytest.mark.parametrize("way", ["missing", "cut", "middle"])
@pytest.mark.parametrize("digests", [False, True], ids=["by rebuilding", "by digests"])
def test_everything_is_made_again_from_the_source(way: str, digests: bool, converted: Bench, tmp_path: Path) -> None:
    keys = [key for key in objects(converted.store) if not key.startswith(b"receipts/")]
    keys += [b"catalog.sqlite", b"vfs.json"]
    store = broken_copy(converted, tmp_path, way, keys)
    assert not verify_store(store, digests=digests).ok
    report = trio.run(lambda: repair_store(store, digests=digests))
    assert not report.left, report.left
    assert named(report.repaired, Damage.FILE)
    assert verify_store(store).ok
    assert verify_store(store, digests=True).ok or not digests
    assert not unreadable(store)
    if digests:
        assert_sound(store, FILES)
    assert trio.run(lambda: repair_store(store)).before.ok


def test_what_cannot_be_made_again_is_named(converted: Bench, tmp_path: Path) -> None:
    """The source is gone, or has other bytes; what needs no source is repaired all the same."""
    keys = objects(converted.store)
    notes = next(key for key in keys if b"notes" in key)
    level = next(key for key in keys if key.startswith(b"images/") and b"/1/c." in key)
    receipt = next(key for key in keys if key.startswith(b"receipts/"))
    shard = level.replace(b"/1/c.", b"/0/c.")
    store = broken_copy(converted, tmp_path, "middle", [notes, level, receipt, keys[1]])
    other = tmp_path / "other"
    assert converted.source is not None
    shutil.copytree(converted.source, other)
    Path(os.fsdecode(os.fsencode(other) + b"/notes \xff.txt")).write_bytes(b"other text, " * 20)
    report = trio.run(lambda: repair_store(store, source=tmp_path / "gone"))
    assert named(report.left, Damage.FILE) == {b"notes \xff.txt"}
    assert "the source is not there" in next(one.reason for one in report.left if one.kind is Damage.FILE)
    assert named(report.left, Damage.RECEIPT) == {receipt}
    assert level in named(report.repaired, Damage.LEVEL)
    report = trio.run(lambda: repair_store(store, source=other))
    assert "has other bytes by now" in next(one.reason for one in report.left if one.kind is Damage.FILE)
    assert not report.repaired
    report = trio.run(lambda: repair_store(store))
    assert named(report.repaired, Damage.FILE) == {b"notes \xff.txt"}
    assert {one.kind for one in report.left} == {Damage.RECEIPT}
    # of a shard that is cut short what is not repaired stays, what is repaired is stored beside
    store = broken_copy(converted, tmp_path / "second", "cut", [shard])
    lost = sorted(unreadable(store))
    Path(os.fsdecode(os.fsencode(other) + b"/" + lost[0])).unlink()
    report = trio.run(lambda: repair_store(store, source=other))
    assert named(report.left, Damage.FILE) == {lost[0]}
    assert named(report.repaired, Damage.FILE) == set(lost[1:])
    assert unreadable(store) == {lost[0]}


@pytest.mark.parametrize("digests", [False, True], ids=["by rebuilding", "by digests"])
def test_a_flush_that_publishes_meanwhile_is_no_damage(digests: bool, tmp_path: Path) -> None:
    """The catalogue was read before, the objects after: it is looked again, once the writer is done."""
    bench, reached, go_on = Bench(tmp_path), threading.Event(), threading.Event()
    carried_out = transaction.seal_next

    def wait_then_seal(*arguments: Any) -> None:
        reached.set()
        assert go_on.wait(30)
        carried_out(*arguments)

    async def act() -> None:
        async with bench.mounted() as session:
            await session.write_all({RAW[0]: tiff(pixels(1)), b"plain": b"old"})
            await session.flush_all()
            await session.write_all({RAW[0]: tiff(pixels(2)), b"plain": b"new"})
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(transaction, "seal_next", wait_then_seal)
                patch.setattr(verify, "is_publishing", tell_and_go_on)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(session.flush_all)
                    assert await trio.to_thread.run_sync(reached.wait, 30)
                    report = await trio.to_thread.run_sync(lambda: verify_store(bench.store, digests=digests))
                    go_on.set()
            assert report.ok, report.damaged

    def tell_and_go_on(storage: LocalStorage) -> bool:
        there = intents.is_publishing(storage)
        assert there or go_on.is_set()
        go_on.set()
        return there

    trio.run(act)


def test_store_of_an_older_version_gets_what_it_lacks(converted: Bench, tmp_path: Path) -> None:
    """Its catalogue has no digests of objects, and does not say what was taken in: it opens, and is as good as it was."""
    store = broken_copy(converted, tmp_path, "middle", [])
    with altered_catalogue(store) as db:
        for table in ("object", "taken", "unverified"):
            db.execute(f"DROP TABLE {table}")
    assert verify_store(store).ok
    report = verify_store(store, digests=True)
    assert (report.ok, report.files, report.without_digest) == (True, 0, len(FILES))
    assert not unreadable(store)
    assert converted.source is not None
    result = trio.run(convert_plate, converted.source, store)
    assert result.source_replaceable is True, result.obstacles
    assert (store / "catalog.copy.sqlite").exists()
    with damaged(store / os.fsdecode(b"files/notes \xff.txt"), "middle"):
        assert named(verify_store(store).damaged, Damage.FILE) == {b"notes \xff.txt"}


def test_sample_says_what_it_looked_at(converted: Bench) -> None:
    whole = verify_store(converted.store)
    assert whole.files == whole.of == len(FILES)
    report = verify_store(converted.store, sample=Sample(3, None, 7))
    assert (report.files, report.of) == (3, len(FILES))
    assert verify_store(converted.store, sample=Sample(None, 0.5, 7)).files == len(FILES) // 2
    assert verify_store(converted.store, sample=Sample(1000, None, 7)).files == len(FILES)
    with damaged(converted.store / os.fsdecode(b"files/notes \xff.txt"), "middle"):
        found = [verify_store(converted.store, sample=Sample(3, None, seed)).ok for seed in range(30)]
        assert found == [verify_store(converted.store, sample=Sample(3, None, seed)).ok for seed in range(30)]
        assert True in found
        assert False in found
    by_digests = verify_store(converted.store, digests=True, sample=Sample(None, 0.2, 1))
    assert 0 < by_digests.files < by_digests.of
