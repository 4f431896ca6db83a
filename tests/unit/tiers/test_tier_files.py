"""Tier files: writes, cuts and moves at the same time, within budgets that are never exceeded."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from tier_bench import MIB, Tiers, run, tmpfs_of

from vfsd.tiers import TierFile, copy_unchanged
from vfsd.tiers.tierfile import parse_tier_file_name


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


class Slow:
    """A function that runs in a thread and returns only when it may; says when its work is done."""

    def __init__(self, work: Callable[..., object]) -> None:
        self._work = work
        self._done, self._may_return = threading.Event(), threading.Event()

    def __call__(self, *args: object) -> object:
        result = self._work(*args)
        self._done.set()
        assert self._may_return.wait(20)
        return result

    async def done(self) -> None:
        assert await trio.to_thread.run_sync(self._done.wait, 20)

    def let_go(self) -> None:
        self._may_return.set()


# --- where bytes go


def test_a_file_is_in_ram_until_it_has_no_room_there(tiers: Tiers) -> None:
    async def act() -> None:
        data = some_bytes(6 * MIB)
        file = tiers.create()
        for offset in range(0, len(data), MIB // 2):
            await tiers.files.write(file, offset, data[offset : offset + MIB // 2])
            tiers.assert_accounted()
            assert file.tier == ("ram" if offset < 4 * MIB else "cache")
        assert await tiers.content(file) == data
        small = await tiers.filled(b"small")
        assert small.tier == "ram"
        tiers.files.discard(file)
        tiers.files.discard(small)
        assert tiers.files.usage()["ram"].bytes == tiers.files.usage()["cache"].bytes == 0

    run(act)


def test_both_tiers_full_is_enospc_and_what_was_written_stays(crowded: Tiers) -> None:
    tiers = crowded

    async def act() -> None:
        kept: list[tuple[TierFile, bytes]] = []
        with pytest.raises(OSError, match="full") as caught:
            for number in range(40):
                data = some_bytes(MIB, number)
                file = await tiers.filled(data)
                kept.append((file, data))
        assert caught.value.errno == errno.ENOSPC
        assert len(kept) >= 19
        for file, data in kept:
            assert await tiers.content(file) == data
        for folder in (tiers.ram, tiers.cache):
            for path in folder.iterdir():
                assert path.stat().st_size in (0, MIB)

    run(act)


def test_sparse_files_take_what_is_written(tiers: Tiers) -> None:
    async def act() -> None:
        file = tiers.create()
        await tiers.files.truncate(file, 1 << 40)
        await tiers.files.write(file, 1 << 39, b"middle")
        await tiers.files.write(file, 100, b"start")
        tiers.assert_accounted()
        assert file.allocated == 2 * 4096
        await tiers.files.move_to_cache(file)
        assert file.tier == "cache"
        assert file.size == 1 << 40
        assert bytes(await tiers.files.read(file, (1 << 39) - 1, 8)) == b"\0middle\0"
        tiers.assert_accounted()
        await tiers.files.truncate(file, 3)
        assert await tiers.content(file) == bytes(3)

    run(act)


def test_many_writers_at_once_stay_within_the_budget(tiers: Tiers) -> None:
    async def act() -> None:
        data = some_bytes(MIB)
        files = [tiers.create() for _ in range(14)]

        async def write(file: TierFile) -> None:
            for offset in range(0, MIB, 1 << 16):
                await tiers.files.write(file, offset, data[offset : offset + (1 << 16)])
                usage = tiers.files.usage()["ram"]
                assert tiers.allocated(tiers.ram) <= usage.budget
                assert usage.bytes <= usage.budget
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for file in files:
                nursery.start_soon(write, file)
        for file in files:
            assert await tiers.content(file) == data

    run(act)


def test_a_tmpfs_smaller_than_the_budget_sends_files_to_the_cache(tmp_path: Path) -> None:
    async def act() -> None:
        data = some_bytes(3 * MIB)
        whole = await tiers.filled(data)
        for offset in range(3 * MIB, 6 * MIB, MIB):
            await tiers.files.write(whole, offset, data[:MIB])
        assert whole.tier == "cache"
        assert await tiers.content(whole) == data + data[:MIB] * 3
        held = await tiers.filled(data)
        assert held.tier == "ram"
        file = tiers.create(2 * MIB)
        assert file.tier == "ram"
        await tiers.files.fill(
            file, 2 * MIB, lambda fd: os.pwrite(fd, data[:MIB], 0) and os.posix_fallocate(fd, 0, 2 * MIB)
        )
        assert file.tier == "cache"
        assert await tiers.content(file) == data[:MIB] + bytes(MIB)
        tiers.assert_accounted()
        tiers.files.close()

    (tmp_path / "cache").mkdir()
    with tmpfs_of(tmp_path / "ram", 4 * MIB) as ram:
        tiers = Tiers(ram, tmp_path / "cache", 64 * MIB, 64 * MIB)
        run(act)


# --- clean files


def test_clean_files_give_way_those_that_were_read_through_first(tiers: Tiers) -> None:
    """Then those that wait to be read, least recently used first."""

    async def act() -> None:
        dropped: list[TierFile] = []
        tiers.files.owner.dropped = dropped.append
        clean = [await tiers.filled(some_bytes(MIB, n), clean=True) for n in range(3)]
        await tiers.content(clean[1])
        dirty = await tiers.filled(some_bytes(2 * MIB - 4096))
        assert dirty.tier == "ram"
        assert dropped == [clean[1]]
        await tiers.filled(some_bytes(2 * MIB))
        assert dropped == [clean[1], clean[0], clean[2]]
        assert tiers.files.drop_clean() == 0

    run(act)


def test_nothing_is_dropped_for_what_does_not_fit_anyway(tiers: Tiers) -> None:
    async def act() -> None:
        clean = await tiers.filled(some_bytes(MIB), clean=True)
        large = tiers.create(8 * MIB)
        assert large.tier == "cache"
        assert not clean.discarded

    run(act)


def test_a_clean_file_that_is_written_is_the_only_copy(tiers: Tiers) -> None:
    async def act() -> None:
        file = await tiers.filled(b"bytes", clean=True)
        tiers.files.make_dirty(file, 2)
        await tiers.files.write(file, 0, b"B")
        assert tiers.files.drop_clean() == 0
        assert [path.name for path in tiers.ram.iterdir()] == [f"{file.ino:x}.2"]
        assert await tiers.content(file) == b"Bytes"

    run(act)


def test_a_file_that_became_clean_while_it_moves_is_neither_dropped_nor_renamed(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush released it in the middle of its move to the cache."""

    async def act() -> None:
        file = await tiers.filled(b"bytes")
        slow = Slow(tiers.files._folders.copy_to_cache)
        monkeypatch.setattr(tiers.files._folders, "copy_to_cache", slow)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tiers.files.move_to_cache, file)
            await slow.done()
            tiers.files.mark_clean(file)
            assert tiers.files.drop_clean() == 0
            slow.let_go()
        assert file.tier == "cache"
        tiers.files.make_dirty(file, 2)
        assert [path.name for path in tiers.cache.iterdir()] == [f"{file.ino:x}.2"]
        assert await tiers.content(file) == b"bytes"

    run(act)


# --- at the same time


def test_a_file_is_read_while_its_bytes_move_and_written_after(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        data = some_bytes(MIB)
        file = await tiers.filled(data)
        slow = Slow(tiers.files._folders.copy_to_cache)
        monkeypatch.setattr(tiers.files._folders, "copy_to_cache", slow)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tiers.files.move_to_cache, file)
            await slow.done()
            assert await tiers.content(file) == data
            reader = tiers.files.open_for_reading(file)
            nursery.start_soon(tiers.files.write, file, 0, b"written")
            nursery.start_soon(tiers.files.truncate, file, 2 * MIB)
            await trio.testing.wait_all_tasks_blocked()
            assert await tiers.content(file) == data
            slow.let_go()
        assert await tiers.content(file) == b"written" + data[7:] + bytes(MIB)
        assert os.pread(reader, 100, 0) == data[:100]
        os.close(reader)

    run(act)


def test_a_long_cut_is_not_lost_in_a_move(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        monkeypatch.setattr("vfsd.tiers.files.UNLINK_IN_THREAD", 4096)
        data = some_bytes(MIB)
        file = await tiers.filled(data)
        slow = Slow(os.ftruncate)
        monkeypatch.setattr("vfsd.tiers.files.os.ftruncate", slow)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tiers.files.truncate, file, 10)
            await slow.done()
            monkeypatch.undo()
            nursery.start_soon(tiers.files.move_to_cache, file)
            await trio.testing.wait_all_tasks_blocked()
            slow.let_go()
        assert file.tier == "cache"
        assert await tiers.content(file) == data[:10]

    run(act)


def test_a_flush_sees_a_change_from_its_beginning_to_its_end(tiers: Tiers) -> None:
    """What waits for a move to end counts already: a file with a write under way is not what was stored."""

    async def act() -> None:
        file = await tiers.filled(b"stored")
        stored = file.changes
        file.busy = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tiers.files.write, file, 0, b"late")
            await trio.testing.wait_all_tasks_blocked()
            during = file.changes
            assert during != stored
            busy, file.busy = file.busy, None
            busy.set()
        assert file.changes not in (stored, during)

    run(act)


def test_a_file_discarded_while_it_moves_is_gone_after(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        file = await tiers.filled(b"bytes")
        slow = Slow(tiers.files._folders.copy_to_cache)
        monkeypatch.setattr(tiers.files._folders, "copy_to_cache", slow)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tiers.files.move_to_cache, file)
            await slow.done()
            tiers.files.discard(file)
            slow.let_go()
        assert not list(tiers.ram.iterdir()) + list(tiers.cache.iterdir())

    run(act)


def test_a_discarded_file_that_somebody_reads_gives_its_name_back_at_once_and_its_room_later(tiers: Tiers) -> None:
    async def act() -> None:
        before = tiers.files.usage()["ram"].bytes
        file = await tiers.filled(some_bytes(MIB))
        tiers.files.mark_clean(file)
        hold = tiers.files.holds.take(file)
        tiers.files.discard(file)
        assert tiers.files.usage()["ram"].bytes == before + MIB
        again = tiers.files.create(file.ino, file.version)  # hydrated once more
        await tiers.files.write(again, 0, b"the same version")
        tiers.files.holds.let_go(hold)
        assert await tiers.content(again) == b"the same version"
        tiers.files.discard(again)
        assert tiers.files.usage()["ram"].bytes == before

    run(act)


def test_a_move_that_cannot_be_recorded_has_not_happened(tiers: Tiers) -> None:
    async def act() -> None:
        def refuse(file: TierFile) -> None:
            raise OSError(errno.ENOSPC, "the journal is full")

        file = await tiers.filled(b"bytes")
        tiers.files.owner.moved = refuse
        with pytest.raises(OSError, match="journal"):
            await tiers.files.move_to_cache(file)
        assert file.tier == "ram"
        assert not list(tiers.cache.iterdir())
        assert await tiers.content(file) == b"bytes"
        await tiers.files.write(file, 0, b"B")

    run(act)


def test_two_who_move_a_file_move_it_once(tiers: Tiers) -> None:
    async def act() -> None:
        moved: list[TierFile] = []
        tiers.files.owner.moved = moved.append
        file = await tiers.filled(some_bytes(MIB))
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(tiers.files.fsync, file)
        assert moved == [file]

    run(act)


# --- filling


@pytest.mark.parametrize("problem", [OSError(errno.EIO, "bad disk"), ValueError("damaged"), None])
def test_a_fill_that_fails_or_is_cancelled_keeps_no_room(tiers: Tiers, problem: Exception | None) -> None:
    async def act() -> None:
        def work(fd: int) -> None:
            os.pwrite(fd, bytes(MIB), 0)
            if problem is not None:
                raise problem

        for _ in range(3):
            file = tiers.create(2 * MIB)
            with trio.CancelScope() as scope:
                if problem is None:
                    scope.cancel()
                    await tiers.files.fill(file, 2 * MIB, work)
                else:
                    with pytest.raises(type(problem)):
                        await tiers.files.fill(file, 2 * MIB, work)
            tiers.assert_accounted()
            tiers.files.discard(file)
        assert tiers.files.usage()["ram"].bytes == 0

    run(act)


def test_a_full_cache_asks_for_what_can_be_spared(crowded: Tiers) -> None:
    tiers = crowded

    async def act() -> None:
        spared = [await tiers.filled(some_bytes(MIB)) for _ in range(15)]
        for file in spared:
            await tiers.files.move_to_cache(file)

        async def give_back() -> bool:
            if not spared:
                return False
            tiers.files.discard(spared.pop())
            return True

        tiers.files.owner.spare = give_back
        file = tiers.create(8 * MIB)
        await tiers.files.write(file, 0, some_bytes(3 * MIB))
        assert len(spared) == 13
        with pytest.raises(OSError, match="full"):
            await tiers.files.write(file, 0, bytes(17 * MIB))

    run(act)


def test_a_tier_file_that_somebody_removed_is_an_io_error(tiers: Tiers) -> None:
    """As logind does at the last logout; ENOENT would tell a reader that its own path is wrong."""

    async def act() -> None:
        file = await tiers.filled(b"bytes")
        tiers.files.descriptors.forget(file)
        (tiers.ram / file.name).unlink()
        with pytest.raises(OSError, match="gone") as caught:
            await tiers.content(file)
        assert caught.value.errno == errno.EIO
        tiers.files.discard(file)

    run(act)


# --- copying


def test_a_copy_of_a_file_that_is_not_as_it_was_seen_fails(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"b" * 5000)
    found = source.stat()
    seen = (found.st_size, found.st_mtime_ns)
    with source.open("rb") as reading, target.open("w+b") as writing:
        copy_unchanged(reading.fileno(), writing.fileno(), 5000, seen)
        assert target.read_bytes() == b"b" * 5000
        for other in ((6000, seen[1]), (5000, seen[1] + 1)):
            with pytest.raises(OSError, match="changed") as caught:
                copy_unchanged(reading.fileno(), writing.fileno(), 5000, other)
            assert caught.value.errno == errno.ESTALE


def test_names_of_tier_files() -> None:
    assert parse_tier_file_name(TierFile(0x4000000000000001, 10, "ram").name) == (0x4000000000000001, 10)
    for foreign in ("", "x", "1", "1.", ".1", "1.2.3", "1.2 ", "G.1", "journal.sqlite"):
        assert parse_tier_file_name(foreign) is None
