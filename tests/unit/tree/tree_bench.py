"""A tree without a mount: a source, a store and tiers in a test's folder, crashes and restarts of the machine included.

`Program` does by path what a program does on a mount; every step of a path is a lookup, as the kernel makes it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from vfsd.flush import flush_tree
from vfsd.store import Store
from vfsd.store.catalogue import ROOT_INO
from vfsd.tiers import TierFiles
from vfsd.tree import Caller, Changes, OpenFile, Tree
from vfsd.tree.node import Node

R = TypeVar("R")

CALLER = Caller(os.getuid(), os.getgid())
MIB = 1 << 20
SHARED_MEMORY = Path("/dev/shm")
# A time that no file of a test gets by itself.
EARLY_NS = 1_111_111_111_123_456_789


class Program:
    """What a program does on a mount, by path."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    async def ino(self, path: bytes) -> int:
        ino = ROOT_INO
        for name in path.split(b"/") if path else []:
            ino = (await self.tree.names.lookup(ino, name)).ino
        return ino

    async def node(self, path: bytes) -> Node:
        return self.tree.layers.node(await self.ino(path))

    async def place(self, path: bytes) -> tuple[int, bytes]:
        directory, _, name = path.rpartition(b"/")
        return self.tree.layers.directory(await self.ino(directory)).ino, name

    async def open(self, path: bytes, flags: int = os.O_RDONLY) -> OpenFile:
        return await self.tree.contents.open(await self.ino(path), flags)

    def close(self, handle: OpenFile) -> None:
        self.tree.contents.release(handle)

    async def create(self, path: bytes, data: bytes = b"", mode: int = 0o644) -> int:
        found = await self.tree.names.create(*await self.place(path), mode, CALLER)
        await self.write(path, 0, data)
        return found.ino

    async def write(self, path: bytes, offset: int, data: bytes, flags: int = 0) -> None:
        handle = await self.open(path, os.O_WRONLY | flags)
        try:
            assert await self.tree.contents.write(handle, offset, data) == len(data)
        finally:
            self.close(handle)

    async def read(self, path: bytes) -> bytes:
        handle = await self.open(path, os.O_RDONLY | os.O_NOATIME)  # a look leaves things as they are
        try:
            return await self.read_from(handle)
        finally:
            self.close(handle)

    async def read_from(self, handle: OpenFile) -> bytes:
        found = b""
        while piece := bytes(await self.tree.contents.read(handle, len(found), MIB)):
            found += piece
        return found

    async def fsync(self, path: bytes) -> None:
        await self.tree.contents.fsync(await self.node(path))

    async def truncate(self, path: bytes, size: int) -> None:
        await self.setattr(path, size=size)

    async def setattr(self, path: bytes, **changes: int) -> None:
        await self.tree.attributes.setattr(await self.ino(path), Changes(**changes))

    async def stat(self, path: bytes) -> Any:
        return await self.tree.attributes.getattr(await self.ino(path))

    async def mkdir(self, path: bytes) -> int:
        return (await self.tree.names.mkdir(*await self.place(path), 0o755, CALLER)).ino

    async def unlink(self, path: bytes) -> None:
        await self.tree.names.unlink(*await self.place(path))

    async def rmdir(self, path: bytes) -> None:
        await self.tree.names.rmdir(*await self.place(path))

    async def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        await self.tree.names.rename(*await self.place(old), *await self.place(new), flags)

    async def link(self, old: bytes, new: bytes) -> None:
        await self.tree.names.link(await self.ino(old), *await self.place(new))

    async def names(self, path: bytes = b"") -> set[bytes]:
        return set(await self.tree.names.listing(await self.ino(path)))

    async def setxattr(self, path: bytes, name: bytes, value: bytes, flags: int = 0) -> None:
        await self.tree.attributes.setxattr(await self.ino(path), name, value, flags)

    async def tier(self, path: bytes) -> str:
        return (await self.tree.attributes.getxattr(await self.ino(path), b"user.vfsd.tier")).decode()

    async def contents(self, directory: bytes = b"") -> dict[bytes, bytes | None]:
        """Every file's bytes, where every symbolic link points, and None for every directory, by path."""
        found: dict[bytes, bytes | None] = {}
        for name in sorted(await self.names(directory)):
            path = directory + b"/" + name if directory else name
            node = await self.node(path)
            if node.is_directory:
                found[path] = None
                found |= await self.contents(path)
            else:
                found[path] = await self.read(path) if node.record.kind.is_file else node.record.target
        return found


class Bench:
    """One mount after another over the same source, store, state and tiers."""

    def __init__(self, folder: Path, ram: Path) -> None:
        self.folder = folder
        self.source = folder / "plate"
        self.store = folder / "plate.vfs"
        self.state = folder / "state"
        self.ram = ram
        self.cache = folder / "cache"
        for path in (self.source, self.state, self.cache):
            path.mkdir()
        self.ram_budget = 16 * MIB
        self.cache_budget = 256 * MIB
        self.tree: Tree | None = None

    def put_source(self, path: str, data: bytes) -> Path:
        """A file of the source, as old as an acquisition that ended long ago, its folder too."""
        file = self.source / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        for made in (file, file.parent):
            os.utime(made, ns=(EARLY_NS, EARLY_NS))
        return file

    async def mount(self, *, with_source: bool = True) -> Program:
        """Open everything anew; what an earlier mount left is recovered."""
        assert self.tree is None
        if self.store.exists():
            store = Store.open(self.store, writable=True)
        else:
            store = Store.create(self.store, source=self.source)
        tiers = TierFiles(self.ram, self.cache, self.ram_budget, self.cache_budget)
        self.tree = Tree(self.source if with_source else None, store, self.state, tiers, read_only=False)
        await self.tree.start()
        return Program(self.tree)

    def unmount(self) -> None:
        """An orderly end; what is dirty stays dirty."""
        tree, self.tree = self.tree, None
        if tree is not None:
            tree.close()
            tree.tiers.close()
            tree.store.close()

    def kill(self) -> None:
        """kill -9: what the kernel has of the journal and of the tiers stays, and nothing else happens."""
        journal = self.tree.journal.path if self.tree is not None else self.state
        files = [journal.with_name(journal.name + end) for end in ("", "-wal", "-changes")]
        kept = {path: path.read_bytes() for path in files}
        self.unmount()
        for path, data in kept.items():
            path.write_bytes(data)

    def restart_machine(self) -> None:
        """Power off, with the journal synced as it is: RAM is empty, and a new boot id is seen."""
        self.kill()
        for path in self.ram.iterdir():
            path.unlink()
        journal = sqlite3.connect(self.state / "journal.sqlite")
        with journal:
            journal.execute("UPDATE meta SET value = 'an earlier start' WHERE key = 'boot'")
        journal.close()

    async def flush(self) -> Any:
        assert self.tree is not None
        return await flush_tree(self.tree)

    def tier_files(self) -> set[str]:
        return {f"{folder.name}/{path.name}" for folder in (self.ram, self.cache) for path in folder.iterdir()}


@contextmanager
def in_shared_memory() -> Iterator[Path]:
    """A folder on a tmpfs; skips where there is none."""
    if not os.access(SHARED_MEMORY, os.W_OK):
        pytest.skip("no /dev/shm to write to")
    folder = Path(tempfile.mkdtemp(prefix="vfsd-test-", dir=SHARED_MEMORY))
    try:
        ram = folder / "ram"
        ram.mkdir()
        yield ram
    finally:
        shutil.rmtree(folder)


def run(act: Callable[[], Awaitable[R]]) -> R:
    """Run a test's act; one that hangs fails."""

    async def guarded() -> R:
        with trio.fail_after(60):
            return await act()

    return trio.run(guarded)
