"""The RAM and the cache tier: files in two folders, a budget for each, and the moves between them.

What callers may rely on: a write that returned is in a file that survives the daemon; the RAM tier never holds more than
its budget; a file may be read, and its handles stay valid, while its bytes move; the tree is told of a move (`on_moved`)
after the new copy is complete and before the old one goes, so that the journal always names a file that is there.

Touched only by the trio thread. Methods without `async` do not sleep on a disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import final

import trio

from vfsd.tiers.budget import Budget, TierUsage
from vfsd.tiers.copying import copy_bytes, copy_times
from vfsd.tiers.descriptors import DescriptorCache
from vfsd.tiers.reading import read_disk, read_memory
from vfsd.tiers.tierfile import TierFile, TierName, parse_tier_file_name, tier_file_name

# tmpfs and the usual disks allocate in pages.
PAGE = 4096
# fstat counts allocation in units of 512 bytes everywhere on Linux (stat(2)).
STAT_BLOCK = 512
# Below this size an unlink is cheap enough for the event loop; freeing a large file takes milliseconds.
UNLINK_IN_THREAD = 16 << 20


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


@final
class TierFiles:
    """See the module.

    Parameters
    ----------
    ram_directory, cache_directory : Path
        Folders that are there and belong to this mount alone; the first on a tmpfs.
    ram_budget, cache_budget : int
        The most that each may hold, in bytes of allocation.
    """

    def __init__(self, ram_directory: Path, cache_directory: Path, ram_budget: int, cache_budget: int) -> None:
        self.descriptors = DescriptorCache()
        self._folders: dict[TierName, int] = {}
        self._budgets: dict[TierName, Budget] = {"ram": Budget(ram_budget), "cache": Budget(cache_budget)}
        self._clean: OrderedDict[TierFile, None] = OrderedDict()
        self.on_moved: Callable[[TierFile], None] = lambda file: None
        self.on_dropped: Callable[[TierFile], None] = lambda file: None
        for tier, folder in (("ram", ram_directory), ("cache", cache_directory)):
            self._folders[tier] = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # type: ignore[index]  # the literals are tier names

    def close(self) -> None:
        """Close every descriptor; the files stay."""
        self.descriptors.close()
        for folder in self._folders.values():
            os.close(folder)
        self._folders.clear()

    def usage(self) -> dict[str, TierUsage]:
        """What each tier holds."""
        return {tier: budget.usage() for tier, budget in self._budgets.items()}

    def cache_free_bytes(self) -> int:
        """Room on the cache's disk for ordinary users, at most what the cache tier may still take."""
        figures = os.fstatvfs(self._folders["cache"])
        budget = self._budgets["cache"]
        return max(0, min(figures.f_bavail * figures.f_frsize, budget.limit - budget.used))

    def ram_free_bytes(self) -> int:
        """What the RAM tier may still take, clean files counted as free."""
        budget = self._budgets["ram"]
        clean = sum(file.allocated for file in self._clean if file.tier == "ram")
        return max(0, budget.limit - budget.used + clean)

    # --- the life of a file

    def create(self, ino: int, version: int, *, expected_size: int = 0) -> TierFile:
        """A new, empty file: in RAM if `expected_size` more bytes have room there, else in the cache.

        Raises
        ------
        OSError
            Neither folder can take a file.
        """
        room = self._make_room(_pages(expected_size) + PAGE)
        tiers: tuple[TierName, ...] = ("ram", "cache") if room else ("cache",)
        for tier in tiers:
            file = TierFile(ino, version, tier)
            try:
                fd = os.open(
                    file.name,
                    os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                    0o600,
                    dir_fd=self._folders[tier],
                )
            except OSError as error:
                if tier == "cache" or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                continue
            self._budgets[tier].files += 1
            self.descriptors.adopt(file, fd)
            self._measure(file, fd)
            return file
        raise OSError(errno.ENOSPC, "no tier can take a new file")

    def find(self, ino: int, version: int, tier: TierName) -> TierFile | None:
        """A file that an earlier daemon left, or None if it is not there."""
        file = TierFile(ino, version, tier)
        try:
            fd = self._open(file)
        except FileNotFoundError:
            return None
        self._budgets[tier].files += 1
        self.descriptors.adopt(file, fd)
        self._measure(file, fd)
        return file

    def discard(self, file: TierFile) -> None:
        """The bytes are no longer needed: the file goes now, or when the move that is under way has ended."""
        if file.discarded:
            return
        file.discarded = True
        self._clean.pop(file, None)
        self.descriptors.forget(file)
        if file.moving is None:
            self._unlink(file.tier, file)

    def remove_strangers(self, known: set[tuple[int, int, str]]) -> list[str]:
        """Delete tier files that no row names (made just before a crash, or clean); returns their names."""
        removed = []
        for tier, folder in self._folders.items():
            for name in os.listdir(folder):
                parsed = parse_tier_file_name(name)
                if parsed is not None and (*parsed, tier) not in known:
                    os.unlink(name, dir_fd=folder)
                    removed.append(f"{tier}/{name}")
        return removed

    # --- clean files

    def mark_clean(self, file: TierFile) -> None:
        """The store has these bytes too: the file may be dropped when room is needed."""
        file.clean = True
        self._clean[file] = None

    def make_dirty(self, file: TierFile, version: int) -> None:
        """A clean file becomes the only copy of a new data version, under that version's name."""
        name = file.name
        os.rename(
            name,
            tier_file_name(file.ino, version),
            src_dir_fd=self._folders[file.tier],
            dst_dir_fd=self._folders[file.tier],
        )
        file.version = version
        file.clean = False
        self._clean.pop(file, None)

    def drop_clean(self) -> int:
        """Drop every clean file; returns the bytes freed."""
        freed = sum(file.allocated for file in self._clean)
        for file in list(self._clean):
            self._drop(file)
        return freed

    def _drop(self, file: TierFile) -> None:
        self.discard(file)
        self.on_dropped(file)

    # --- bytes

    async def read(self, file: TierFile, offset: int, size: int) -> bytes | memoryview:
        """Up to `size` bytes; fewer only at the end of the file."""
        if file.clean:
            self._clean.move_to_end(file)
        if file.tier == "ram":
            return read_memory(self.descriptors.descriptor(file, lambda: self._open(file)), offset, size)
        with self.descriptors.pinned(file, lambda: self._open(file)) as fd:
            return await read_disk(fd, offset, size)

    async def write(self, file: TierFile, offset: int, data: bytes) -> int:
        """Write all of `data`; moves the file to the cache when RAM has no room for it.

        Raises
        ------
        OSError
            ENOSPC when both tiers are full; what fitted before is written.
        """
        while True:
            await self._settled(file)
            if file.tier == "cache":
                return await self._write_cache(file, offset, data)
            growth = self._growth(file, offset, len(data))
            if self._make_room(growth):
                try:
                    self._write_ram(file, offset, data, growth)
                    return len(data)
                except OSError as error:
                    # the tmpfs is smaller than the budget, or somebody else fills it
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
            await self.move_to_cache(file)

    async def truncate(self, file: TierFile, size: int) -> None:
        """Cut or extend (with a hole) to `size` bytes."""
        await self._settled(file)
        with self.descriptors.pinned(file, lambda: self._open(file)) as fd:
            if file.tier == "ram" and file.size - size < UNLINK_IN_THREAD:
                os.ftruncate(fd, size)
            else:
                await trio.to_thread.run_sync(os.ftruncate, fd, size)
            self._measure(file, fd)
        file.changes += 1

    def set_times(self, file: TierFile, atime: int, mtime: int) -> None:
        """Set access and modification time, in ns; a move keeps them."""
        fd = self.descriptors.descriptor(file, lambda: self._open(file))
        os.utime(fd, ns=(atime, mtime))
        file.mtime = mtime

    async def fsync(self, file: TierFile) -> None:
        """The bytes survive power loss when this returns: a RAM file moves to the cache first, for good."""
        await self.move_to_cache(file)
        with self.descriptors.pinned(file, lambda: self._open(file)) as fd:
            await trio.to_thread.run_sync(os.fsync, fd)
        await trio.to_thread.run_sync(os.fsync, self._folders["cache"])

    async def fill_from(self, file: TierFile, source_fd: int, size: int) -> None:
        """Copy the first `size` bytes of another file in (copy-up); room is found or the file goes to the cache."""
        if file.tier == "ram" and not self._make_room(_pages(size)):
            await self.move_to_cache(file)
        budget = self._budgets[file.tier]
        if not budget.reserve(_pages(size)):
            raise OSError(errno.ENOSPC, "the cache tier is full")
        try:
            with self.descriptors.pinned(file, lambda: self._open(file)) as fd:
                await trio.to_thread.run_sync(copy_bytes, source_fd, fd, size)
        except OSError as error:
            budget.correct(-_pages(size))
            if file.tier == "ram" and error.errno in (errno.ENOSPC, errno.EDQUOT):
                await self.move_to_cache(file)
                await self.fill_from(file, source_fd, size)
                return
            raise
        budget.correct(-_pages(size))
        self._measure_now(file)

    async def fill_with(self, file: TierFile, size: int, fill: Callable[[int], None]) -> None:
        """Let `fill(fd)` write the file's `size` bytes in a thread (hydrate), within the budget.

        Raises
        ------
        OSError
            ENOSPC when neither tier has room.
        Exception
            Whatever `fill` raises; the file is then incomplete and the caller discards it.
        """
        if file.tier == "ram" and not self._make_room(_pages(size)):
            await self.move_to_cache(file)
        budget = self._budgets[file.tier]
        if not budget.reserve(_pages(size)):
            raise OSError(errno.ENOSPC, "the cache tier is full")
        try:
            with self.descriptors.pinned(file, lambda: self._open(file)) as fd:
                await trio.to_thread.run_sync(fill, fd)
        except OSError as error:
            budget.correct(-_pages(size))
            if file.tier == "ram" and error.errno in (errno.ENOSPC, errno.EDQUOT):
                await self.truncate(file, 0)
                await self.move_to_cache(file)
                await self.fill_with(file, size, fill)
                return
            raise
        except BaseException:
            budget.correct(-_pages(size))
            raise
        budget.correct(-_pages(size))
        self._measure_now(file)

    async def move_to_cache(self, file: TierFile) -> None:
        """Move a RAM file's bytes to the cache tier; nothing to do for a file that is there.

        Raises
        ------
        OSError
            The file is as it was, in RAM.
        """
        await self._settled(file)
        if file.tier == "cache":
            return
        budget = self._budgets["cache"]
        reserved = _pages(file.size)
        if not budget.reserve(reserved):
            raise OSError(errno.ENOSPC, "the cache tier is full")
        file.moving = trio.Event()
        try:
            with self.descriptors.pinned(file, lambda: self._open(file)) as fd:
                await trio.to_thread.run_sync(self._copy_to_cache, file.name, fd, file.size)
            self._switch_to_cache(file)
        finally:
            budget.correct(-reserved)
            file.moving.set()
            file.moving = None
            if file.discarded:
                self._unlink(file.tier, file)
            else:
                self._measure_now(file)

    def open_for_reading(self, file: TierFile) -> int:
        """A descriptor of its own for a reader outside (flush); the caller closes it."""
        return os.open(file.name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folders[file.tier])

    # --- inner parts

    def _open(self, file: TierFile) -> int:
        return os.open(file.name, os.O_RDWR | os.O_CLOEXEC, dir_fd=self._folders[file.tier])

    async def _settled(self, file: TierFile) -> None:
        while file.moving is not None:
            await file.moving.wait()

    def _growth(self, file: TierFile, offset: int, length: int) -> int:
        """The most that a write can add to the allocation."""
        end = _pages(offset + length)
        start = offset // PAGE * PAGE
        if file.allocated >= _pages(file.size):  # no holes: only what lies behind the end is new
            start = max(start, min(end, _pages(file.size)))
        return end - start

    def _make_room(self, amount: int) -> bool:
        """Whether `amount` more bytes fit into RAM, after dropping clean files where that helps."""
        budget = self._budgets["ram"]
        if budget.used + amount <= budget.limit:
            return True
        if budget.used - sum(f.allocated for f in self._clean if f.tier == "ram") + amount > budget.limit:
            return False
        for file in [file for file in self._clean if file.tier == "ram"]:  # least recently read first
            self._drop(file)
            if budget.used + amount <= budget.limit:
                return True
        return False

    def _write_ram(self, file: TierFile, offset: int, data: bytes, growth: int) -> None:
        budget = self._budgets["ram"]
        budget.used += growth
        fd = self.descriptors.descriptor(file, lambda: self._open(file))
        try:
            _write_at(fd, data, offset)
        finally:
            budget.correct(-growth)
            self._measure(file, fd)
            file.changes += 1

    async def _write_cache(self, file: TierFile, offset: int, data: bytes) -> int:
        budget = self._budgets["cache"]
        growth = self._growth(file, offset, len(data))
        if not budget.reserve(growth):
            raise OSError(errno.ENOSPC, "the cache tier is full")
        try:
            with self.descriptors.pinned(file, lambda: self._open(file)) as fd:
                await trio.to_thread.run_sync(_write_at, fd, data, offset)
        finally:
            budget.correct(-growth)
            file.changes += 1
            if not file.discarded:
                self._measure_now(file)
        return len(data)

    def _measure_now(self, file: TierFile) -> None:
        self._measure(file, self.descriptors.descriptor(file, lambda: self._open(file)))

    def _measure(self, file: TierFile, fd: int) -> None:
        found = os.fstat(fd)
        allocated = found.st_blocks * STAT_BLOCK
        self._budgets[file.tier].correct(allocated - file.allocated)
        file.size = found.st_size
        file.mtime = found.st_mtime_ns
        file.allocated = allocated

    def _copy_to_cache(self, name: str, fd: int, size: int) -> None:
        """In a thread: the whole file under its name in the cache folder, or nothing there."""
        folder = self._folders["cache"]
        target = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            copy_bytes(fd, target, size)
            copy_times(fd, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            raise
        finally:
            os.close(target)

    def _switch_to_cache(self, file: TierFile) -> None:
        """The copy is complete: from here on the cache file is the file."""
        if file.discarded:
            os.unlink(file.name, dir_fd=self._folders["cache"])
            return
        file.tier = "cache"
        try:
            self.on_moved(file)
        except BaseException:
            file.tier = "ram"
            os.unlink(file.name, dir_fd=self._folders["cache"])
            raise
        self.descriptors.forget(file)
        ram, cache = self._budgets["ram"], self._budgets["cache"]
        os.unlink(file.name, dir_fd=self._folders["ram"])
        ram.correct(-file.allocated)
        ram.files -= 1
        cache.files += 1
        file.allocated = 0

    def _unlink(self, tier: TierName, file: TierFile) -> None:
        budget = self._budgets[tier]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(tier_file_name(file.ino, file.version), dir_fd=self._folders[tier])
        budget.correct(-file.allocated)
        budget.files -= 1
        file.allocated = 0


def _write_at(fd: int, data: bytes, offset: int) -> None:
    done = os.pwrite(fd, data, offset)
    if done < len(data):
        view = memoryview(data)
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)
