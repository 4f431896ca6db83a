"""Tiers in two folders of a test: the RAM one on a tmpfs, as large as a test wants it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from vfsd.tiers import TierFile, TierFiles

R = TypeVar("R")

MIB = 1 << 20
SHARED_MEMORY = Path("/dev/shm")


class Tiers:
    """`TierFiles`, its folders, and what is really in them."""

    def __init__(self, ram: Path, cache: Path, ram_budget: int, cache_budget: int) -> None:
        self.ram, self.cache = ram, cache
        self.files = TierFiles(ram, cache, ram_budget, cache_budget)
        self._next = 10

    def create(self, expected_size: int = 0) -> TierFile:
        self._next += 1
        return self.files.create(self._next, 1, expected_size=expected_size)

    async def filled(self, data: bytes, *, clean: bool = False) -> TierFile:
        file = self.create(len(data))
        await self.files.write(file, 0, data)
        if clean:
            self.files.mark_clean(file)
        return file

    async def content(self, file: TierFile) -> bytes:
        return bytes(await self.files.read(file, 0, file.size + 10))

    def allocated(self, folder: Path) -> int:
        return sum(path.stat().st_blocks * 512 for path in folder.iterdir())

    def assert_accounted(self) -> None:
        """The figures are what the file systems say, and within the budgets."""
        for tier, folder in (("ram", self.ram), ("cache", self.cache)):
            usage = self.files.usage()[tier]
            assert usage.bytes == self.allocated(folder), tier
            assert usage.files == len(list(folder.iterdir())), tier
            assert usage.bytes <= usage.budget, tier


@contextmanager
def shared_memory() -> Iterator[Path]:
    """A folder on a tmpfs; skips where there is none."""
    if not os.access(SHARED_MEMORY, os.W_OK):
        pytest.skip("no /dev/shm to write to")
    folder = Path(tempfile.mkdtemp(prefix="vfsd-test-", dir=SHARED_MEMORY))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def tmpfs_of(folder: Path, size: int) -> Iterator[Path]:
    """A tmpfs of its own that is full at `size` bytes; skips where it may not be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no tmpfs may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def run(act: Callable[[], Awaitable[R]]) -> R:
    """Run a test's act; one that hangs fails."""

    async def guarded() -> R:
        with trio.fail_after(60):
            return await act()

    return trio.run(guarded)


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; a test whose condition never does fails."""
    for _ in range(10_000):
        if condition():
            return
        await trio.sleep(0.005)
    raise AssertionError("this never came to be")
