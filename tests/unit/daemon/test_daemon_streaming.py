"""Rounds of flushing during a mount: when they begin, who is told, and what an error does."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from vfsd.daemon.streaming import Streaming
from vfsd.errors import StoredDataDamaged
from vfsd.flush import FlushResult, flush_tree
from vfsd.store import Store
from vfsd.tiers import TierFiles
from vfsd.tree import Caller, Tree
from vfsd.tree.node import Node

MIB = 1 << 20
CALLER = Caller(os.getuid(), os.getgid())


class Written:
    """A tree with small tiers, and a program that writes files into it."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.rounds = 0

    async def store(self, inodes: Collection[int]) -> FlushResult:
        self.rounds += 1
        return await flush_tree(self.tree, only=inodes)

    async def write(self, name: bytes, data: bytes) -> Node:
        made = await self.tree.names.create(1, name, 0o644, CALLER)
        handle = await self.tree.contents.open(made.ino, os.O_WRONLY)
        try:
            for offset in range(0, len(data), MIB):
                await self.tree.contents.write(handle, offset, data[offset : offset + MIB])
        finally:
            self.tree.contents.release(handle)
        return self.tree.layers.node(made.ino)

    async def read(self, name: bytes) -> bytes:
        node = await self.tree.layers.resolve(name)
        handle = await self.tree.contents.open(node.ino, os.O_RDONLY)
        try:
            return bytes(await self.tree.contents.read(handle, 0, 64 * MIB))
        finally:
            self.tree.contents.release(handle)


@asynccontextmanager
async def written(folder: Path, ram: int = 4 * MIB, cache: int = 8 * MIB) -> AsyncIterator[Written]:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm to write to")
    for name in ("state", "cache"):
        (folder / name).mkdir()
    store = Store.create(folder / "plate.vfs", source=None)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        tiers = TierFiles(Path(memory), folder / "cache", ram, cache)
        tree = Tree(None, store, folder / "state", tiers, read_only=False)
        try:
            await tree.start()
            yield Written(tree)
        finally:
            tree.close()
            tiers.close()
            store.close()


async def bounded(act: object) -> None:
    with trio.fail_after(60):
        await act()  # type: ignore[operator]  # an async function of the test


def test_more_than_both_tiers_hold_is_written_without_an_error(tmp_path: Path) -> None:
    """Writers wait for rounds that store what came to rest; every byte is there, and the tiers kept their limits."""

    async def act() -> None:
        async with written(tmp_path) as program, trio.open_nursery() as nursery:
            streaming = Streaming(program.tree, program.store)
            program.tree.tiers.owner.relieve = streaming.relieve
            nursery.start_soon(program.tree.tiers.spiller.run)
            nursery.start_soon(streaming.run)
            files = {f"file{n}.dat".encode(): os.urandom(MIB + n) for n in range(48)}
            for name, data in files.items():
                await program.write(name, data)
                usage = program.tree.tiers.usage()
                assert usage["ram"].bytes <= 4 * MIB
                assert usage["cache"].bytes <= 8 * MIB
            assert program.rounds > 1
            assert streaming.status()["files"] > 20
            for name, data in files.items():
                assert await program.read(name) == data
            nursery.cancel_scope.cancel()

    trio.run(bounded, act)


def test_a_file_larger_than_both_tiers(tmp_path: Path) -> None:
    async def act() -> None:
        async with written(tmp_path) as program, trio.open_nursery() as nursery:
            streaming = Streaming(program.tree, program.store)
            program.tree.tiers.owner.relieve = streaming.relieve
            nursery.start_soon(program.tree.tiers.spiller.run)
            nursery.start_soon(streaming.run)
            data = os.urandom(30 * MIB)
            await program.write(b"large.dat", data)
            assert await program.read(b"large.dat") == data
            assert program.tree.tiers.pressure()["cache_overdrawn"] is True
            await flush_tree(program.tree)
            program.tree.tiers.settle_cache()
            program.tree.tiers.drop_clean()
            program.tree.tiers.settle_cache()
            assert program.tree.tiers.pressure()["cache_overdrawn"] is False
            assert await program.read(b"large.dat") == data
            nursery.cancel_scope.cancel()

    trio.run(bounded, act)


def test_beyond_its_threshold_data_is_stored_without_being_asked_for(tmp_path: Path) -> None:
    async def act() -> None:
        async with written(tmp_path, ram=64 * MIB) as program, trio.open_nursery() as nursery:
            streaming = Streaming(program.tree, program.store, stream_above=3 * MIB)
            nodes = [await program.write(f"{n}.dat".encode(), os.urandom(MIB)) for n in range(6)]
            for node in nodes:
                assert node.data is not None
                node.data.changed_at -= 100  # it has rested
            nursery.start_soon(streaming.run)
            for _ in range(1000):
                if streaming.rounds and not streaming.status()["streaming"]:
                    break
                await trio.sleep(0.02)
            assert program.tree.dirty().bytes <= 3 * MIB
            assert program.tree.dirty().files < 6
            nursery.cancel_scope.cancel()

    trio.run(bounded, act)


@pytest.mark.parametrize(
    "problem", [OSError(28, "No space left on device"), StoredDataDamaged("does not match")], ids=["disk", "damage"]
)
def test_when_storing_fails_a_writer_is_told_and_the_bytes_stay(problem: Exception, tmp_path: Path) -> None:
    async def act() -> None:
        async with written(tmp_path) as program, trio.open_nursery() as nursery:

            async def fail(inodes: Collection[int]) -> FlushResult:
                raise problem

            streaming = Streaming(program.tree, fail)
            nursery.start_soon(streaming.run)
            data = os.urandom(MIB)
            await program.write(b"a.dat", data)
            await trio.testing.wait_all_tasks_blocked()
            assert await streaming.relieve() is False
            assert str(streaming.status()["problem"]) in str(problem)
            assert await streaming.relieve() is False, "the next round is tried"
            assert await program.read(b"a.dat") == data
            nursery.cancel_scope.cancel()

    trio.run(bounded, act)


def test_nobody_waits_for_rounds_that_do_not_run(tmp_path: Path) -> None:
    async def act() -> None:
        async with written(tmp_path) as program:
            assert await Streaming(program.tree, program.store).relieve() is False

    trio.run(bounded, act)
