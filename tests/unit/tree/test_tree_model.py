"""The tree against a real folder: the same random operations on both, with crashes, flushes and new mounts in between.

RAM is so short that files spill; after every step both show the same names, bytes, modes and link counts.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import trio
import trio.testing
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tree_bench import CALLER, Bench, Program, in_shared_memory

from vfsd.tree import OpenFile

NAMES = st.sampled_from([b"a", b"b", b"c\xff"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
DATA = st.binary(min_size=1, max_size=3).flatmap(lambda seed: st.sampled_from([1, 50, 9000]).map(lambda n: seed * n))
OFFSETS = st.sampled_from([0, 3, 4096, 20_000])
SIZES = st.sampled_from([0, 1, 4096, 10_000, 30_000])
HANDLES = st.integers(0, 2)
RAM, CACHE = 64 << 10, 64 << 20


def _source(root: bytes) -> None:
    """Files in folders, two names of one file, a link, and times of long ago."""
    os.makedirs(root + b"/a/b")
    os.makedirs(root + b"/b")
    for path, data in ((b"/a/a", b"first"), (b"/a/b/a", b"s" * 9000), (b"/b/b", b"third"), (b"/c\xff", b"")):
        with open(root + path, "wb") as file:
            file.write(data)
        os.chmod(root + path, 0o640)
    os.link(root + b"/b/b", root + b"/b/c\xff")
    os.symlink(b"../nowhere", root + b"/a/c\xff")
    for folder, _, files in os.walk(root, topdown=False):
        for name in (*files, b"."):
            os.utime(os.path.join(folder, name), ns=(10**18, 10**18), follow_symlinks=False)


class TreeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = trio.testing.MockClock()
        self.handles: dict[int, tuple[int, OpenFile]] = {}
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.bench = Bench(self.folder, self.stack.enter_context(in_shared_memory()))
        self.bench.ram_budget, self.bench.cache_budget = RAM, CACHE
        self.stack.callback(self.bench.unmount)
        self.stack.callback(self.close_all)
        self.model = os.fsencode(self.folder / "model")

    @initialize()
    def begin(self) -> None:
        _source(os.fsencode(self.bench.source))
        shutil.copytree(self.bench.source, os.fsdecode(self.model), symlinks=True)
        os.unlink(self.model + b"/b/c\xff")
        os.link(self.model + b"/b/b", self.model + b"/b/c\xff")
        self.mount()

    def teardown(self) -> None:
        self.stack.close()

    def run(self, act: Callable[[], Awaitable[Any]]) -> Any:
        async def go() -> Any:
            return await act()

        self.clock.jump(1.5)
        return trio.run(go, clock=self.clock)

    def mount(self) -> None:
        self.program: Program = self.run(self.bench.mount)

    def close_all(self) -> None:
        for fd, handle in self.handles.values():
            os.close(fd)
            if self.bench.tree is not None:
                self.bench.tree.contents.release(handle)
        self.handles.clear()

    def goes_through_a_link(self, path: bytes) -> bool:
        parts = path.split(b"/")
        return any(os.path.islink(b"/".join([self.model, *parts[:depth]])) for depth in range(1, len(parts)))

    def both(self, real: Callable[[], Any], act: Callable[[], Awaitable[Any]], *paths: bytes) -> tuple[Any, Any] | None:
        """Do it to both; None if both refused, for the same reason, or if the kernel would ask about other paths."""
        if any(self.goes_through_a_link(path) for path in paths):
            return None
        refused = answer = None
        try:
            answer = real()
        except OSError as error:
            refused = error.errno
        try:
            found = self.run(act)
        except OSError as error:
            assert refused is not None, f"refused with {errno.errorcode[error.errno or 0]}"
            assert errno.errorcode[error.errno or 0] == errno.errorcode[refused]
            return None
        assert refused is None, f"should be refused with {errno.errorcode[refused]}"
        return answer, found

    # --- names

    @rule(path=PATHS, data=DATA)
    def create(self, path: bytes, data: bytes) -> None:
        def real() -> None:
            fd = os.open(self.model + b"/" + path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(fd, data)
            os.close(fd)

        self.both(real, lambda: self.program.create(path, data), path)

    @rule(path=PATHS)
    def mkdir(self, path: bytes) -> None:
        self.both(lambda: os.mkdir(self.model + b"/" + path, 0o755), lambda: self.program.mkdir(path), path)

    @rule(path=PATHS, to=PATHS)
    def symlink(self, path: bytes, to: bytes) -> None:
        async def act() -> None:
            await self.program.tree.names.symlink(*await self.program.place(path), to, CALLER)

        self.both(lambda: os.symlink(to, self.model + b"/" + path), act, path)

    @rule(path=PATHS)
    def unlink(self, path: bytes) -> None:
        self.both(lambda: os.unlink(self.model + b"/" + path), lambda: self.program.unlink(path), path)

    @rule(path=PATHS)
    def rmdir(self, path: bytes) -> None:
        self.both(lambda: os.rmdir(self.model + b"/" + path), lambda: self.program.rmdir(path), path)

    @rule(old=PATHS, new=PATHS)
    def rename(self, old: bytes, new: bytes) -> None:
        if not (old + b"/").startswith(new + b"/") or old == new:  # the kernel refuses an ancestor before it asks us
            self.both(
                lambda: os.rename(self.model + b"/" + old, self.model + b"/" + new),
                lambda: self.program.rename(old, new),
                old,
                new,
            )

    @rule(old=PATHS, new=PATHS)
    def link(self, old: bytes, new: bytes) -> None:
        def real() -> None:
            if os.path.isdir(self.model + b"/" + old) and os.path.lexists(self.model + b"/" + new):
                raise OSError(errno.EEXIST, "the kernel says one of both errors first")
            os.link(self.model + b"/" + old, self.model + b"/" + new, follow_symlinks=False)

        self.both(real, lambda: self.program.link(old, new), old, new)

    # --- contents by path

    def is_file(self, path: bytes) -> bool:
        try:
            return stat.S_ISREG(os.lstat(self.model + b"/" + path).st_mode) and not self.goes_through_a_link(path)
        except OSError:
            return False

    @rule(path=PATHS, offset=OFFSETS, data=DATA, cut=st.booleans())
    def write(self, path: bytes, offset: int, data: bytes, cut: bool) -> None:
        if not self.is_file(path):
            return
        flags = os.O_TRUNC if cut else 0

        def real() -> None:
            fd = os.open(self.model + b"/" + path, os.O_WRONLY | flags)
            os.pwrite(fd, data, offset)
            os.close(fd)

        self.both(real, lambda: self.program.write(path, offset, data, flags))

    @rule(path=PATHS, size=SIZES)
    def truncate(self, path: bytes, size: int) -> None:
        if self.is_file(path):
            self.both(lambda: os.truncate(self.model + b"/" + path, size), lambda: self.program.truncate(path, size))

    @rule(path=PATHS, mode=st.sampled_from([0o600, 0o444, 0o755]))
    def chmod(self, path: bytes, mode: int) -> None:
        if not os.path.islink(self.model + b"/" + path):
            self.both(
                lambda: os.chmod(self.model + b"/" + path, mode), lambda: self.program.setattr(path, mode=mode), path
            )

    @rule(path=PATHS, time=st.sampled_from([0, 10**18, 10**18 + 1]))
    def set_times(self, path: bytes, time: int) -> None:
        done = self.both(
            lambda: os.utime(self.model + b"/" + path, ns=(time, time), follow_symlinks=False),
            lambda: self.program.setattr(path, atime=time, mtime=time),
            path,
        )
        if done is not None:
            found = self.run(lambda: self.program.stat(path))
            assert (found.atime, found.mtime) == (time, time)

    @rule(path=PATHS)
    def fsync(self, path: bytes) -> None:
        if self.is_file(path):
            self.run(lambda: self.program.fsync(path))

    @rule(path=PATHS)
    def spill(self, path: bytes) -> None:
        if self.is_file(path) and self.run(lambda: self.program.tier(path)) == "ram":
            node = self.run(lambda: self.program.node(path))
            if node.dirty:
                self.run(lambda: self.program.setxattr(path, b"user.vfsd.tier", b"cache"))

    @rule()
    def evict(self) -> None:
        self.program.tree.tiers.drop_clean()

    # --- contents by handle

    @rule(handle=HANDLES, path=PATHS, cut=st.booleans())
    def open(self, handle: int, path: bytes, cut: bool) -> None:
        if handle in self.handles or not self.is_file(path):
            return
        flags = os.O_RDWR | (os.O_TRUNC if cut else 0)
        opened = self.both(lambda: os.open(self.model + b"/" + path, flags), lambda: self.program.open(path, flags))
        assert opened is not None
        self.handles[handle] = opened

    @rule(handle=HANDLES, offset=OFFSETS, data=DATA)
    def write_by_handle(self, handle: int, offset: int, data: bytes) -> None:
        if handle in self.handles:
            fd, opened = self.handles[handle]
            self.both(
                lambda: os.pwrite(fd, data, offset), lambda: self.program.tree.contents.write(opened, offset, data)
            )

    @rule(handle=HANDLES)
    def read_by_handle(self, handle: int) -> None:
        if handle in self.handles:
            fd, opened = self.handles[handle]
            done = self.both(lambda: os.pread(fd, 1 << 20, 0), lambda: self.program.read_from(opened))
            assert done is not None
            assert done[0] == done[1]

    @rule(handle=HANDLES)
    def close(self, handle: int) -> None:
        if handle in self.handles:
            fd, opened = self.handles.pop(handle)
            os.close(fd)
            self.program.close(opened)

    # --- the life of the mount

    def attributes(self) -> dict[bytes, tuple[Any, ...]]:
        async def act() -> dict[bytes, tuple[Any, ...]]:
            found = {}
            for path in [b"", *await self.program.contents()]:
                seen = await self.program.stat(path)
                found[path] = (seen.ino, seen.mode, seen.nlink, seen.size, seen.atime, seen.mtime)
            return found

        return dict(self.run(act))

    @rule()
    def kill(self) -> None:
        before = self.attributes()
        self.close_all()
        self.bench.kill()
        self.mount()
        assert self.program.tree.lost == []
        assert self.attributes() == before

    @rule(again=st.booleans())
    def flush(self, again: bool) -> None:
        before = self.attributes()
        result = self.run(self.bench.flush)
        assert not result.kept, result.kept
        assert self.attributes() == before
        if again:
            self.close_all()
            self.bench.unmount()
            self.mount()
            assert self.attributes() == before

    # --- what must hold

    @invariant()
    @precondition(lambda self: self.bench.tree is not None)
    def both_show_the_same(self) -> None:
        seen = self.run(self.program.contents)
        expected: dict[bytes, bytes | None] = {}
        for folder, folders, files in os.walk(self.model):
            for name in folders + files:
                path = os.path.join(folder, name)
                key = path[len(self.model) + 1 :]
                status = os.lstat(path)
                if stat.S_ISLNK(status.st_mode):
                    expected[key] = os.readlink(path)
                elif stat.S_ISDIR(status.st_mode):
                    expected[key] = None
                else:
                    with open(path, "rb") as file:
                        expected[key] = file.read()
        assert seen == expected
        attributes = self.attributes()
        for path in expected:
            status = os.lstat(self.model + b"/" + path)
            assert attributes[path][1:3] == (status.st_mode, status.st_nlink), path

    @invariant()
    @precondition(lambda self: self.bench.tree is not None)
    def tiers_are_accounted(self) -> None:
        usage = self.program.tree.tiers.usage()
        for tier, folder in (("ram", self.bench.ram), ("cache", self.bench.cache)):
            files = [path.stat() for path in folder.iterdir()]
            assert usage[tier].bytes == sum(found.st_blocks * 512 for found in files)
            assert usage[tier].files == len(files)
            assert usage[tier].bytes <= usage[tier].budget


TestTree = TreeMachine.TestCase
TestTree.settings = settings(
    max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
