"""Contents: copy-up, reads and writes from every tier, and what happens when several want the same file at once."""

from __future__ import annotations

import errno
import os
import random
import threading

import pytest
import trio
import trio.testing
from tree_bench import EARLY_NS, MIB, Bench, Program, run

from vfsd.tree import Changes


def some_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


async def stored(bench: Bench, files: dict[bytes, bytes]) -> Program:
    """A mount where these files come from the store."""
    program = await bench.mount()
    for path, data in files.items():
        await program.create(path, data)
    assert (await bench.flush()).complete
    bench.unmount()
    return await bench.mount()


def test_copy_up_keeps_bytes_mode_and_times_of_what_is_not_written(bench: Bench) -> None:
    async def act() -> None:
        data = some_bytes(3 * MIB)
        file = bench.put_source("one.tif", data)
        file.chmod(0o640)
        program = await bench.mount()
        before = await program.stat(b"one.tif")
        handle = await program.open(b"one.tif", os.O_RDWR)
        assert await program.tier(b"one.tif") == "source"
        await program.tree.contents.write(handle, MIB, b"written")
        program.close(handle)
        expected = data[:MIB] + b"written" + data[MIB + 7 :]
        assert await program.read(b"one.tif") == expected
        after = await program.stat(b"one.tif")
        assert (after.ino, after.mode, after.uid, after.atime) == (before.ino, before.mode, before.uid, before.atime)
        assert after.mtime > before.mtime == EARLY_NS
        bench.kill()
        program = await bench.mount()
        assert await program.read(b"one.tif") == expected
        again = await program.stat(b"one.tif")
        assert again.ctime <= after.ctime  # the file's own, by a clock that lags by a tick
        assert again._replace(ctime=after.ctime) == after
        assert file.read_bytes() == data

    run(act)


def test_nothing_but_a_write_copies(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("one.tif", some_bytes(MIB))
        program = await bench.mount()
        handle = await program.open(b"one.tif", os.O_RDWR)
        await program.setattr(b"one.tif", mode=0o600, mtime=5, atime=6)
        await program.rename(b"one.tif", b"two.tif")
        await program.link(b"two.tif", b"three.tif")
        await program.setxattr(b"two.tif", b"user.note", b"n")
        program.close(handle)
        assert bench.tier_files() == set()
        assert await program.tier(b"three.tif") == "source"
        await program.truncate(b"two.tif", 0)
        assert (await program.stat(b"two.tif")).blocks == 0

    run(act)


@pytest.mark.parametrize("keep", [0, 10, 5000, 20_000])
@pytest.mark.parametrize("kind", ["source", "stored", "hydrated", "dirty", "cache"])
def test_truncate(bench: Bench, kind: str, keep: int) -> None:
    async def act() -> None:
        data = some_bytes(9000)
        if kind in ("stored", "hydrated"):
            program = await stored(bench, {b"x": data})
        else:
            bench.put_source("x", data)
            program = await bench.mount()
        if kind == "hydrated":
            await program.read(b"x")
        if kind in ("dirty", "cache"):
            await program.write(b"x", 0, data[:1])
        if kind == "cache":
            await program.setxattr(b"x", b"user.vfsd.tier", b"cache")
        await program.truncate(b"x", keep)
        expected = data[:keep] + bytes(max(0, keep - len(data)))
        assert await program.read(b"x") == expected
        assert (await program.stat(b"x")).mtime > EARLY_NS
        await program.write(b"x", 3, b"abc")
        expected = expected[:3].ljust(3, b"\0") + b"abc" + expected[6:]
        bench.kill()
        program = await bench.mount()
        assert await program.read(b"x") == expected

    run(act)


def test_two_first_writes_copy_up_once(bench: Bench) -> None:
    async def act() -> None:
        data = some_bytes(4 * MIB)
        bench.put_source("x", data)
        program = await bench.mount()
        handles = [await program.open(b"x", os.O_RDWR) for _ in range(6)]
        async with trio.open_nursery() as nursery:
            for number, handle in enumerate(handles):
                nursery.start_soon(program.tree.contents.write, handle, number * 1000, bytes([number]) * 1000)
        expected = b"".join(bytes([number]) * 1000 for number in range(6)) + data[6000:]
        assert await program.read(b"x") == expected
        assert len(bench.tier_files()) == 1

    run(act)


def test_a_cancelled_copy_up_leaves_nothing(bench: Bench) -> None:
    async def act() -> None:
        data = some_bytes(MIB)
        bench.put_source("x", data)
        program = await bench.mount()
        node = await program.node(b"x")
        with trio.CancelScope() as scope:
            scope.cancel()
            await program.tree.contents.truncate(node, 1000)
        assert scope.cancelled_caught
        assert bench.tier_files() == set()
        assert program.tree.tiers.usage()["ram"].bytes == 0
        assert await program.read(b"x") == data
        await program.truncate(b"x", 1000)
        assert await program.read(b"x") == data[:1000]

    run(act)


# --- the source is not ours


def test_a_source_file_that_shrinks_while_it_is_copied_is_not_taken_for_whole(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act() -> None:
        file = bench.put_source("x", some_bytes(MIB))
        program = await bench.mount()
        handle = await program.open(b"x", os.O_RDWR)
        create = program.tree.tiers.create

        def create_late(*args: int, **more: int) -> object:
            os.truncate(file, 100)  # between the look at the file and its copy
            return create(*args, **more)

        monkeypatch.setattr(program.tree.tiers, "create", create_late)
        with pytest.raises(OSError, match="changed while it was copied") as caught:
            await program.tree.contents.write(handle, 0, b"new")
        assert caught.value.errno == errno.ESTALE
        monkeypatch.undo()
        program.close(handle)
        assert bench.tier_files() == set()
        assert program.tree.tiers.usage()["ram"].bytes == 0

    run(act)


def test_a_handle_never_sees_bytes_of_two_files(bench: Bench) -> None:
    """The source's file was replaced under an open handle: it may keep the old bytes, or fail, but not mix them."""

    async def act() -> None:
        file = bench.put_source("x", b"old" * 1000)
        program = await bench.mount()
        handle = await program.open(b"x")
        assert await program.read_from(handle) == b"old" * 1000
        other = bench.put_source("y", b"new" * 2000)
        other.rename(file)
        newer = await program.open(b"x")
        assert not newer.keep_cache
        assert await program.read_from(newer) == b"new" * 2000
        with pytest.raises(OSError, match="was replaced") as caught:
            await program.tree.contents.read(handle, 0, 10)
        assert caught.value.errno == errno.ESTALE
        for each in (handle, newer):
            program.close(each)

    run(act)


def test_the_kernels_pages_are_kept_only_for_a_file_that_is_as_it_was(bench: Bench) -> None:
    async def act() -> None:
        file = bench.put_source("x", b"first")
        program = await bench.mount()
        program.close(await program.open(b"x"))
        again = await program.open(b"x")
        assert again.keep_cache
        program.close(again)
        file.write_bytes(b"other")
        await program.names()  # the listing has seen the change, the pages have not
        program.tree.layers.root.names_read = -1000.0
        await program.names()
        after = await program.open(b"x")
        assert not after.keep_cache
        program.close(after)

    run(act)


def test_an_open_source_file_that_vanished_can_be_read_to_its_end(bench: Bench) -> None:
    async def act() -> None:
        file = bench.put_source("x", b"bytes")
        program = await bench.mount()
        handle = await program.open(b"x")
        file.unlink()
        assert await program.read_from(handle) == b"bytes"
        handle.node.checked = -1000.0
        assert (await program.tree.attributes.getattr(handle.node.ino)).size == 5
        assert (await bench.flush()).complete
        program.close(handle)
        assert len(program.tree.tiers.descriptors) == 0

    run(act)


# --- stored files


def test_a_stored_file_is_hydrated_once_and_can_be_dropped(bench: Bench) -> None:
    async def act() -> None:
        data = some_bytes(2 * MIB)
        program = await stored(bench, {b"x": data})
        assert await program.tier(b"x") == "store"
        handle = await program.open(b"x")
        async with trio.open_nursery() as nursery:
            for offset in range(0, 2 * MIB, MIB // 2):
                nursery.start_soon(program.tree.contents.read, handle, offset, MIB)
        assert await program.tier(b"x") == "ram"
        assert len(bench.tier_files()) == 1
        assert program.tree.dirty().files == 0
        program.tree.tiers.drop_clean()
        assert await program.tier(b"x") == "store"
        assert await program.read_from(handle) == data
        await program.write(b"x", 5, b"dirty")
        assert program.tree.tiers.drop_clean() == 0
        bench.kill()
        program = await bench.mount()
        assert await program.read(b"x") == data[:5] + b"dirty" + data[10:]

    run(act)


def test_stored_files_are_read_although_nothing_can_be_hydrated(bench: Bench) -> None:
    async def act() -> None:
        data = some_bytes(2 * MIB)
        program = await stored(bench, {b"x": data})
        bench.unmount()
        bench.ram_budget = bench.cache_budget = MIB
        program = await bench.mount()
        assert await program.read(b"x") == data
        assert await program.tier(b"x") == "store"

    run(act)


def test_clean_files_in_the_cache_give_way_to_new_ones(bench: Bench) -> None:
    async def act() -> None:
        bench.ram_budget, bench.cache_budget = 0, 4 * MIB
        program = await bench.mount()
        for number in range(6):
            path = b"%d" % number
            await program.create(path, some_bytes(MIB, number))
            assert (await bench.flush()).complete
        assert program.tree.tiers.usage()["cache"].bytes <= 4 * MIB
        for number in range(6):
            assert await program.read(b"%d" % number) == some_bytes(MIB, number)

    run(act)


def test_removed_files_in_the_cache_give_way_at_once(bench: Bench) -> None:
    """Their bytes wait for a durability point, which a full cache brings about."""

    async def act() -> None:
        bench.ram_budget, bench.cache_budget = 0, 4 * MIB
        program = await bench.mount()
        for number in range(10):
            ino = await program.create(b"x", some_bytes(3 * MIB, number))
            assert await program.read(b"x") == some_bytes(3 * MIB, number)
            await program.unlink(b"x")
            program.tree.names.forget(ino, 100)

    run(act)


def test_a_version_that_was_cut_away_gives_way_when_the_cache_is_full(bench: Bench) -> None:
    """It is kept for a power loss only, and what replaced it is synced first."""

    async def act() -> None:
        bench.ram_budget, bench.cache_budget = 0, 4 * MIB
        program = await bench.mount()
        await program.create(b"x")
        for number in range(5):
            await program.write(b"x", 0, some_bytes(3 * MIB, number), os.O_TRUNC)
            assert await program.read(b"x") == some_bytes(3 * MIB, number)
        bench.kill()
        assert await (await bench.mount()).read(b"x") == some_bytes(3 * MIB, 4)

    run(act)


# --- times


def test_times_can_be_set_to_anything_and_again(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("source", b"s")
        program = await stored(bench, {b"stored": b"st", b"hydrated": b"hy"})
        await program.read(b"hydrated")
        await program.create(b"dirty", b"d")
        for path in (b"source", b"stored", b"hydrated", b"dirty"):
            for time in (0, EARLY_NS, -5, 1 << 70, 0):
                await program.setattr(path, atime=time, mtime=time)
                found = await program.stat(path)
                assert (found.atime, found.mtime) == (min(time, (1 << 63) - 1),) * 2, path
        before = await program.contents()
        await program.setattr(b"dirty", mtime=EARLY_NS)
        await program.write(b"dirty", 0, b"D")
        await program.setattr(b"dirty", mtime=EARLY_NS)  # as tar and rsync do: the same time again
        assert (await program.stat(b"dirty")).mtime == EARLY_NS
        await program.setxattr(b"dirty", b"user.vfsd.tier", b"cache")
        bench.kill()
        program = await bench.mount()
        assert (await program.stat(b"dirty")).mtime == EARLY_NS
        assert await program.contents() == before | {b"dirty": b"D"}
        assert (await program.stat(b"source")).mtime == 0

    run(act)


def test_times_set_while_bytes_move_are_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        program = await bench.mount()
        await program.create(b"x", some_bytes(MIB))
        node = await program.node(b"x")
        assert node.data is not None
        copied, may_end = threading.Event(), threading.Event()
        copy = program.tree.tiers._folders.copy_to_cache

        def copy_slowly(name: str, fd: int, size: int) -> None:
            copy(name, fd, size)
            copied.set()
            may_end.wait(20)

        monkeypatch.setattr(program.tree.tiers._folders, "copy_to_cache", copy_slowly)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(program.tree.tiers.move_to_cache, node.data)
            await trio.to_thread.run_sync(copied.wait, 20)
            nursery.start_soon(program.tree.attributes.setattr, node.ino, Changes(mtime=EARLY_NS))
            await trio.testing.wait_all_tasks_blocked()
            may_end.set()
        assert node.data.tier == "cache"
        found = next(bench.cache.iterdir()).stat()
        assert (await program.stat(b"x")).mtime == found.st_mtime_ns == EARLY_NS

    run(act)


def test_a_directory_of_many_open_files_does_not_keep_their_descriptors(bench: Bench) -> None:
    async def act() -> None:
        for number in range(50):
            bench.put_source(f"{number}", b"%d" % number)
        program = await bench.mount()
        before = len(os.listdir("/proc/self/fd"))
        for number in range(50):
            assert await program.read(b"%d" % number) == b"%d" % number
        assert len(os.listdir("/proc/self/fd")) == before

    run(act)
