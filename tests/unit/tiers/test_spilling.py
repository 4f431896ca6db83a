"""Spilling: when it starts and ends, whom it takes, and that nobody is in anybody's way."""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
import trio
from tier_bench import MIB, Tiers, run, until

from vfsd.tiers import TierFile, Warmth
from vfsd.tiers.copying import Abandoned
from vfsd.tiers.room import HIGH, LOW

R = TypeVar("R")
PIECE = 1 << 16


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def spilling(tiers: Tiers, act: Callable[[], Awaitable[None]]) -> None:
    """Run an act with the spiller at work."""

    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tiers.files.spiller.run)
            await act()
            nursery.cancel_scope.cancel()

    run(both)


async def settled(tiers: Tiers) -> None:
    """Until the spiller has nothing left to do."""
    await until(lambda: not tiers.files.spiller.running and not tiers.files.room.must_spill())


def test_spilling_starts_high_and_goes_down_low(tiers: Tiers) -> None:
    async def act() -> None:
        limit = 4 * MIB
        files = []
        while tiers.files.room.budgets["ram"].dirty + PIECE <= HIGH * limit:
            files.append((await tiers.filled(some_bytes(PIECE, len(files))), len(files)))
            await trio.testing.wait_all_tasks_blocked()
        assert not list(tiers.cache.iterdir())
        files.append((await tiers.filled(some_bytes(PIECE, len(files))), len(files)))
        await settled(tiers)
        assert tiers.files.room.budgets["ram"].dirty <= LOW * limit
        assert tiers.files.room.budgets["ram"].dirty > LOW * limit - 2 * PIECE
        tiers.assert_accounted()
        spilled = [number for file, number in files if file.tier == "cache"]
        assert spilled == list(range(len(spilled)))  # the oldest that wait
        for file, number in files:
            assert await tiers.content(file) == some_bytes(PIECE, number)

    spilling(tiers, act)


def test_whom_it_takes(tiers: Tiers) -> None:
    """What was read through goes first; companions and files in use later; files being written stay."""

    async def act() -> None:
        files = [await tiers.filled(some_bytes(MIB // 4, n)) for n in range(12)]
        known = {files[0]: Warmth.BEING_WRITTEN, files[1]: Warmth.COMPANION, files[2]: Warmth.IN_USE}
        tiers.files.owner.warmth = known.get
        await tiers.content(files[7])
        await tiers.content(files[5])
        files.append(await tiers.filled(some_bytes(MIB // 2, 12)))
        await settled(tiers)
        gone = {files.index(file) for file in files if file.tier == "cache"}
        assert gone == {7, 5, 3, 4, 6}

    spilling(tiers, act)


def test_clean_files_go_before_dirty_ones_are_copied(tiers: Tiers) -> None:
    async def act() -> None:
        clean = await tiers.filled(some_bytes(2 * MIB), clean=True)
        for number in range(3):
            await tiers.filled(some_bytes(MIB, number))
        assert clean.discarded
        assert not list(tiers.cache.iterdir())

    spilling(tiers, act)


def test_what_is_dear_to_make_again_goes_to_the_cache_before_it_is_dropped(tiers: Tiers) -> None:
    """The store is far away: hydrated files move on to the disk, coldest first, and are read from there."""

    async def act() -> None:
        tiers.files.room.hydrate_rate.add(MIB, 1.0)
        files = []
        for number in range(12):
            files.append(await tiers.filled(some_bytes(MIB // 2, number), clean=True))
            await until(lambda: not tiers.files.spiller.running and not tiers.files.room.must_demote())
        tiers.assert_accounted()
        assert not any(file.discarded for file in files)
        assert [file.tier for file in files] == ["cache"] * 6 + ["ram"] * 6
        for number, file in enumerate(files):
            assert await tiers.content(file) == some_bytes(MIB // 2, number)
        assert tiers.files.drop_clean() == 12 * MIB // 2
        tiers.assert_accounted()

    spilling(tiers, act)


def test_what_is_quickly_made_again_is_dropped(tiers: Tiers) -> None:
    async def act() -> None:
        tiers.files.room.hydrate_rate.add(1000 * MIB, 1.0)
        files = [await tiers.filled(some_bytes(MIB // 2, n), clean=True) for n in range(12)]
        assert not list(tiers.cache.iterdir())
        assert [file.discarded for file in files] == [True] * 5 + [False] * 7

    spilling(tiers, act)


def test_pressure_from_outside_moves_even_what_is_being_written(tiers: Tiers) -> None:
    async def act() -> None:
        files = [await tiers.filled(some_bytes(MIB, n)) for n in range(2)]
        tiers.files.owner.warmth = lambda file: Warmth.BEING_WRITTEN
        tiers.files.room.press(MIB)
        await settled(tiers)
        assert tiers.allocated(tiers.ram) <= MIB
        for number, file in enumerate(files):
            assert await tiers.content(file) == some_bytes(MIB, number)
        tiers.files.room.press(4 * MIB)  # the other program ended
        assert (await tiers.filled(some_bytes(2 * MIB))).tier == "ram"

    spilling(tiers, act)


class Held:
    """The copy to the cache, stopped half-way until it may go on."""

    def __init__(self, tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started, self.go = threading.Event(), threading.Event()
        copy = tiers.files._folders.copy_to_cache

        def held(name: str, fd: int, size: int, unwanted: Callable[[], bool] = lambda: False) -> None:
            self.started.set()
            assert self.go.wait(20)
            copy(name, fd, size, unwanted)

        monkeypatch.setattr(tiers.files._folders, "copy_to_cache", held)

    async def begun(self) -> None:
        assert await trio.to_thread.run_sync(self.started.wait, 20)


@pytest.mark.parametrize("change", ["write", "truncate", "times", "discard", "clean and written"])
def test_what_changes_during_its_spill_stays_and_the_later_bytes_win(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    async def act() -> None:
        data = some_bytes(MIB)
        file = await tiers.filled(data)
        held = Held(tiers, monkeypatch)
        moved: list[bool] = []

        async def spill() -> None:
            moved.append(await tiers.files._moves.spill(file))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(spill)
            await held.begun()
            assert await tiers.content(file) == data
            expected = data
            if change == "write":
                with trio.fail_after(5):  # a writer does not wait for the copy
                    await tiers.files.write(file, 0, b"later")
                expected = b"later" + data[5:]
            elif change == "truncate":
                await tiers.files.truncate(file, 100)
                expected = data[:100]
            elif change == "times":
                tiers.files.set_times(file, 1_000_000_000, 2_000_000_000)
            elif change == "discard":
                tiers.files.discard(file)
            else:
                tiers.files.mark_clean(file)
                tiers.files.make_dirty(file, 2)
            held.go.set()
        assert moved == [False]
        assert not list(tiers.cache.iterdir())
        if change == "discard":
            assert not list(tiers.ram.iterdir())
        else:
            assert file.tier == "ram"
            assert await tiers.content(file) == expected
        if change == "times":
            assert next(tiers.ram.iterdir()).stat().st_mtime_ns == 2_000_000_000

    run(act)


def test_a_file_that_is_stored_during_its_spill_is_clean_in_the_cache(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act() -> None:
        data = some_bytes(MIB)
        file = await tiers.filled(data)
        held = Held(tiers, monkeypatch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tiers.files._moves.spill, file)
            await held.begun()
            tiers.files.mark_clean(file)
            held.go.set()
        assert file.tier == "cache"
        assert await tiers.content(file) == data
        tiers.assert_accounted()
        assert tiers.files.drop_clean("cache") >= MIB
        tiers.assert_accounted()

    run(act)


def test_an_fsync_during_a_spill_waits_for_it_and_syncs(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        file = await tiers.filled(some_bytes(MIB))
        held = Held(tiers, monkeypatch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tiers.files._moves.spill, file)
            await held.begun()
            nursery.start_soon(tiers.files.fsync, file)
            await trio.testing.wait_all_tasks_blocked()
            held.go.set()
        assert file.tier == "cache"
        tiers.assert_accounted()

    run(act)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.ENOENT])
def test_a_spill_that_fails_leaves_the_bytes_in_ram_and_is_tried_again(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    async def act() -> None:
        copy = tiers.files._folders.copy_to_cache
        failures = 3

        def fail(name: str, fd: int, size: int, unwanted: Callable[[], bool] = lambda: False) -> None:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise OSError(number, "planted")
            copy(name, fd, size, unwanted)

        monkeypatch.setattr(tiers.files._folders, "copy_to_cache", fail)
        files = [await tiers.filled(some_bytes(PIECE * 4, n)) for n in range(14)]
        await until(lambda: tiers.files.spiller.problem is not None)
        assert tiers.files.pressure()["problem"] == "planted"

        def is_over() -> bool:
            tiers.files.room.tell()  # as a file that goes would
            spiller = tiers.files.spiller
            return spiller.problem is None and not spiller.running and not tiers.files.room.must_spill()

        await until(is_over)
        for index, file in enumerate(files):
            assert await tiers.content(file) == some_bytes(PIECE * 4, index)
        tiers.assert_accounted()

    spilling(tiers, act)
    assert len([line for line in caplog.messages if "spill_failed" in line]) == 1


def test_a_copy_nobody_wants_ends_at_the_next_piece(tiers: Tiers) -> None:
    async def act() -> None:
        file = await tiers.filled(some_bytes(MIB))
        with tiers.files._moves.pinned(file) as fd, pytest.raises(Abandoned):
            tiers.files._folders.copy_to_cache(file.name, fd, file.size, lambda: True)
        assert not list(tiers.cache.iterdir())

    run(act)


def test_writers_wait_for_the_spiller_and_none_fails(tiers: Tiers) -> None:
    """Eight writers of a quarter of a megabyte at a time, four times what RAM holds: RAM is never over its limit."""

    async def act() -> None:
        written: dict[TierFile, bytes] = {}

        async def writer(number: int) -> None:
            for turn in range(8):
                data = some_bytes(MIB // 4, 100 * number + turn)
                file = tiers.create()
                for offset in range(0, len(data), PIECE):
                    await tiers.files.write(file, offset, data[offset : offset + PIECE])
                    assert tiers.allocated(tiers.ram) <= 4 * MIB
                written[file] = data

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(writer, number)
        assert tiers.files.spiller.files > 0
        for file, data in written.items():
            assert await tiers.content(file) == data

    spilling(tiers, act)


def test_writers_that_find_everything_full_wait_until_files_were_stored(crowded: Tiers) -> None:
    async def act() -> None:
        stored: list[TierFile] = []
        written: list[tuple[TierFile, bytes]] = []
        rounds = 0

        async def relieve() -> bool:
            nonlocal rounds
            rounds += 1
            await trio.sleep(0.01)
            for file, _ in written:
                if file not in stored and len(stored) < 10 * rounds:
                    crowded.files.mark_clean(file)
                    stored.append(file)
            return True

        crowded.files.owner.relieve = relieve
        for number in range(60):
            data = some_bytes(MIB, number)
            written.append((await crowded.filled(data), data))
            crowded.assert_accounted()
        assert rounds > 2
        for file, data in written:
            if not file.discarded:
                assert await crowded.content(file) == data
        assert all(file in stored for file, _ in written if file.discarded)

    spilling(crowded, act)


def test_a_writer_takes_the_room_that_somebody_elses_flush_has_made(crowded: Tiers) -> None:
    """`vfsd flush` stored everything while a writer waited for its own round, which then found nothing to do."""

    async def act() -> None:
        written = [await crowded.filled(some_bytes(MIB, number)) for number in range(18)]

        async def relieve() -> bool:
            for file in written:
                if not file.clean:
                    crowded.files.mark_clean(file)
            return False

        crowded.files.owner.relieve = relieve
        file = crowded.create()
        await crowded.files.write(file, 0, some_bytes(4 * MIB))
        assert await crowded.content(file) == some_bytes(4 * MIB)

    run(act)


def test_a_file_larger_than_everything_goes_on_in_the_cache_as_long_as_its_disk_has_room(tiers: Tiers) -> None:
    async def act() -> None:
        file = tiers.create()
        for number in range(24):
            await tiers.files.write(file, number * MIB, some_bytes(MIB, number))
        assert file.tier == "cache"
        assert tiers.files.pressure()["cache_overdrawn"] is True
        for number in range(24):
            assert bytes(await tiers.files.read(file, number * MIB, MIB)) == some_bytes(MIB, number)
        tiers.files.discard(file)
        tiers.files.settle_cache()
        assert tiers.files.pressure()["cache_overdrawn"] is False

    run(act)


def test_readers_and_writers_race_spills_for_a_thousand_rounds(tiers: Tiers) -> None:
    """Each round changes one file while the others are spilled under it; every read sees the newest bytes."""

    async def act() -> None:
        chance = random.Random(7)
        files = [tiers.create() for _ in range(6)]
        expected = [b""] * len(files)

        async def spill_all(stop: trio.Event) -> None:
            while not stop.is_set():
                for file in files:
                    if file.tier == "ram" and file.allocated and not file.discarded:
                        await tiers.files._moves.spill(file)
                await trio.lowlevel.checkpoint()

        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(spill_all, stop)
            nursery.start_soon(spill_all, stop)
            for turn in range(1000):
                index = chance.randrange(len(files))
                kind = chance.random()
                if kind < 0.2:  # a new version, in RAM again
                    tiers.files.discard(files[index])
                    files[index], expected[index] = tiers.create(), b""
                elif kind < 0.3:
                    size = chance.randrange(PIECE * 2)
                    await tiers.files.truncate(files[index], size)
                    expected[index] = expected[index][:size].ljust(size, b"\0")
                data, offset = some_bytes(chance.randrange(1, PIECE), turn), chance.randrange(PIECE)
                await tiers.files.write(files[index], offset, data)
                held = expected[index].ljust(offset, b"\0")
                expected[index] = held[:offset] + data + held[offset + len(data) :]
                other = chance.randrange(len(files))
                for which in (index, other):
                    assert await tiers.content(files[which]) == expected[which]
                    descriptor = tiers.files.open_for_reading(files[which])
                    try:
                        assert os.pread(descriptor, 10 * PIECE, 0) == expected[which]
                    finally:
                        os.close(descriptor)
                await trio.lowlevel.checkpoint()
            stop.set()
        assert {file.tier for file in files}
        for index, file in enumerate(files):
            assert await tiers.content(file) == expected[index]

    run(act)
