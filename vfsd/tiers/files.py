"""The RAM and the cache tier: files in two folders, a budget for each, and the moves between them.

What callers may rely on: a write that returned is in a file that survives the daemon; the RAM tier never holds more than
its budget; a file may be read, and its handles stay valid, while its bytes move; the tree is told of a move (`on_moved`)
after the new copy is complete and before the old one goes, so that the journal always names a file that is there.

Clean files are dropped, least recently read first, where their tier needs room. What may change a file's bytes in a
thread holds it (`TierFile.busy`) or is a write to the cache tier, from which nothing moves.

Touched only by the trio thread. Methods without `async` do not sleep on a disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
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


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


async def _nothing_to_give() -> bool:
    return False


@final
class TierFiles:
    """See the module.

    Parameters
    ----------
    ram_directory, cache_directory : Path
        Folders that are there and belong to this mount alone; the first on a tmpfs.
    ram_budget, cache_budget : int
        The most that each may hold, in bytes of allocation.

    Attributes
    ----------
    on_moved, on_dropped : callable
        Told of a file that is in the cache now (an exception undoes the move), and of a clean file that is gone.
    on_full : async callable
        The cache is full: discards what it can do without and says whether it did.
    """

    def __init__(self, ram_directory: Path, cache_directory: Path, ram_budget: int, cache_budget: int) -> None:
        self.descriptors = DescriptorCache()
        self._folders: dict[TierName, int] = {}
        self._budgets: dict[TierName, Budget] = {"ram": Budget(ram_budget), "cache": Budget(cache_budget)}
        self._clean: OrderedDict[TierFile, None] = OrderedDict()
        self.on_moved: Callable[[TierFile], None] = lambda file: None
        self.on_dropped: Callable[[TierFile], None] = lambda file: None
        self.on_full: Callable[[], Awaitable[bool]] = _nothing_to_give
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
        """What the cache tier may still take on its disk, clean files counted as free."""
        figures = os.fstatvfs(self._folders["cache"])
        return max(0, min(figures.f_bavail * figures.f_frsize + self._clean_bytes("cache"), self._left("cache")))

    def ram_free_bytes(self) -> int:
        """What the RAM tier may still take, clean files counted as free."""
        return max(0, self._left("ram"))

    def _clean_bytes(self, tier: TierName) -> int:
        return sum(file.allocated for file in self._clean if file.tier == tier)

    def _left(self, tier: TierName) -> int:
        budget = self._budgets[tier]
        return budget.limit - budget.used + self._clean_bytes(tier)

    # --- the life of a file

    def create(self, ino: int, version: int, *, expected_size: int = 0) -> TierFile:
        """A new, empty file: in RAM if `expected_size` more bytes have room there, else in the cache.

        Raises
        ------
        OSError
            Neither folder can take a file.
        """
        room = self._make_room("ram", _pages(expected_size) + PAGE)
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
                if tier == "cache" or not _is_full(error):
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
            fd = os.open(file.name, os.O_RDWR | os.O_CLOEXEC, dir_fd=self._folders[tier])
        except FileNotFoundError:
            return None
        self._budgets[tier].files += 1
        self.descriptors.adopt(file, fd)
        self._measure(file, fd)
        return file

    def versions(self, tier: TierName) -> dict[int, list[int]]:
        """The data versions of each inode that an earlier daemon left in a tier."""
        found: dict[int, list[int]] = {}
        for name in os.listdir(self._folders[tier]):
            parsed = parse_tier_file_name(name)
            if parsed is not None:
                found.setdefault(parsed[0], []).append(parsed[1])
        return found

    def discard(self, file: TierFile) -> None:
        """The bytes are no longer needed: the file goes now, or once it is no longer busy."""
        if file.discarded:
            return
        file.discarded = True
        self._clean.pop(file, None)
        self.descriptors.forget(file)
        if file.busy is None:
            self._unlink(file)

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
        """A clean file that is not busy becomes the only copy of a new data version, under that version's name."""
        assert file.busy is None
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

    def drop_clean(self, tier: TierName | None = None) -> int:
        """Drop every clean file (of one tier); returns the bytes freed."""
        dropped = [file for file in self._clean if file.busy is None and tier in (None, file.tier)]
        freed = sum(file.allocated for file in dropped)
        for file in dropped:
            self._drop(file)
        return freed

    def _drop(self, file: TierFile) -> None:
        self.discard(file)
        self.on_dropped(file)

    # --- bytes

    async def idle(self, file: TierFile) -> None:
        """Return when the file is not busy; until the next `await` it then stays so."""
        while file.busy is not None:
            await file.busy.wait()

    async def read(self, file: TierFile, offset: int, size: int) -> bytes | memoryview:
        """Up to `size` bytes; fewer only at the end of the file."""
        if file in self._clean:
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
        with self._changing(file):
            while True:
                await self.idle(file)
                if file.tier == "cache":
                    return await self._write_cache(file, offset, data)
                growth = self._growth(file, offset, len(data))
                if self._make_room("ram", growth):
                    try:
                        self._write_ram(file, offset, data, growth)
                        return len(data)
                    except OSError as error:
                        if not _is_full(error):  # the tmpfs may be smaller than the budget, or somebody else fills it
                            raise
                await self.move_to_cache(file)

    async def truncate(self, file: TierFile, size: int) -> None:
        """Cut or extend (with a hole) to `size` bytes."""
        with self._changing(file):
            await self.idle(file)
            with self.descriptors.pinned(file, lambda: self._open(file)) as fd:
                if file.tier == "ram" and file.size - size < UNLINK_IN_THREAD:
                    os.ftruncate(fd, size)
                    self._measure(file, fd)
                else:
                    with self._held(file):
                        await trio.to_thread.run_sync(os.ftruncate, fd, size)

    def set_times(self, file: TierFile, atime: int, mtime: int) -> None:
        """Set access and modification time, in ns, of a file that is not busy; a move keeps them."""
        assert file.busy is None
        fd = self.descriptors.descriptor(file, lambda: self._open(file))
        os.utime(fd, ns=(atime, mtime))
        file.mtime = mtime

    async def fsync(self, file: TierFile) -> None:
        """The bytes survive power loss when this returns: a RAM file moves to the cache first, for good.

        Nothing is to be done for a file that became clean meanwhile: the store has synced its bytes.
        """
        await self.move_to_cache(file)
        if file.clean or file.discarded:
            return
        with self.descriptors.pinned(file, lambda: self._open(file)) as fd:
            await trio.to_thread.run_sync(os.fsync, fd)
        await trio.to_thread.run_sync(os.fsync, self._folders["cache"])

    async def fill(self, file: TierFile, size: int, work: Callable[[int], None]) -> None:
        """Let `work(fd)` write the `size` bytes of a new file in a thread (copy-up, hydrate), within the budget.

        Where RAM has no room after all, the file goes to the cache and `work` starts again, in an empty file.

        Raises
        ------
        OSError
            ENOSPC when neither tier has room.
        Exception
            Whatever `work` raises; the file is then incomplete and the caller discards it.
        """
        amount = _pages(size)
        while True:
            if file.tier == "ram" and not self._make_room("ram", amount):
                await self.move_to_cache(file)
            if file.tier == "cache":
                await self._room_in_cache(amount)
            budget = self._budgets[file.tier]
            budget.used += amount
            try:
                with self.descriptors.pinned(file, lambda: self._open(file)) as fd:
                    await trio.to_thread.run_sync(work, fd)
                return
            except OSError as error:
                if file.tier != "ram" or not _is_full(error):
                    raise
            finally:
                budget.correct(-amount)
                self._measure_now(file)
            await self.truncate(file, 0)
            await self.move_to_cache(file)

    async def move_to_cache(self, file: TierFile) -> None:
        """Move a RAM file's bytes to the cache tier; nothing to do for a file that is there.

        Raises
        ------
        OSError
            The file is as it was, in RAM.
        """
        while True:
            await self.idle(file)
            if file.tier == "cache" or file.discarded:
                return
            if self._make_room("cache", file.allocated):
                break
            await self._give_room()
        budget, reserved = self._budgets["cache"], file.allocated
        budget.used += reserved
        try:
            with self._held(file):
                with self.descriptors.pinned(file, lambda: self._open(file)) as fd:
                    await trio.to_thread.run_sync(self._copy_to_cache, file.name, fd, file.size)
                self._switch_to_cache(file)
        finally:
            budget.correct(-reserved)

    def open_for_reading(self, file: TierFile) -> int:
        """A descriptor of its own for a reader outside (flush); the caller closes it. May be called in any thread."""
        while True:
            tier, name = file.tier, file.name
            try:
                return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folders[tier])
            except FileNotFoundError:
                if (tier, name) == (file.tier, file.name):
                    raise  # else it moved between the look and the open

    # --- inner parts

    def _open(self, file: TierFile) -> int:
        try:
            return os.open(file.name, os.O_RDWR | os.O_CLOEXEC, dir_fd=self._folders[file.tier])
        except FileNotFoundError as error:
            raise OSError(errno.EIO, f"its bytes are gone from the {file.tier} tier", file.name) from error

    @contextlib.contextmanager
    def _changing(self, file: TierFile) -> Iterator[None]:
        """A flush must see that contents change: when it starts, and that it was under way, when it ends."""
        file.changes += 1
        try:
            yield
        finally:
            file.changes += 1

    @contextlib.contextmanager
    def _held(self, file: TierFile) -> Iterator[None]:
        """The file is busy for the length of the block; then it is measured, or goes if it was discarded meanwhile."""
        file.busy = trio.Event()
        try:
            yield
        finally:
            file.busy.set()
            file.busy = None
            if file.discarded:
                self._unlink(file)
            else:
                self._measure_now(file)

    def _growth(self, file: TierFile, offset: int, length: int) -> int:
        """The most that a write can add to the allocation."""
        end = _pages(offset + length)
        start = offset // PAGE * PAGE
        if file.allocated >= _pages(file.size):  # no holes: only what lies behind the end is new
            start = max(start, min(end, _pages(file.size)))
        return end - start

    def _make_room(self, tier: TierName, amount: int) -> bool:
        """Whether `amount` more bytes fit into a tier, after dropping clean files where that helps."""
        budget = self._budgets[tier]
        missing = budget.used + amount - budget.limit
        dropped = []
        for file in self._clean:  # least recently read first
            if missing <= 0:
                break
            if file.tier == tier and file.busy is None:
                dropped.append(file)
                missing -= file.allocated
        if missing > 0:
            return False
        for file in dropped:
            self._drop(file)
        return True

    async def _room_in_cache(self, amount: int) -> None:
        """Return when the cache may take `amount` more bytes; raises ENOSPC if it cannot."""
        while not self._make_room("cache", amount):
            await self._give_room()

    async def _give_room(self) -> None:
        if not await self.on_full():
            raise OSError(errno.ENOSPC, "the cache tier is full")

    def _write_ram(self, file: TierFile, offset: int, data: bytes, growth: int) -> None:
        budget = self._budgets["ram"]
        budget.used += growth
        fd = self.descriptors.descriptor(file, lambda: self._open(file))
        try:
            _write_at(fd, data, offset)
        finally:
            budget.correct(-growth)
            self._measure(file, fd)

    async def _write_cache(self, file: TierFile, offset: int, data: bytes) -> int:
        budget = self._budgets["cache"]
        while True:
            growth = self._growth(file, offset, len(data))
            await self._room_in_cache(growth)
            budget.used += growth
            try:
                with self.descriptors.pinned(file, lambda: self._open(file)) as fd:
                    await trio.to_thread.run_sync(_write_at, fd, data, offset)
                return len(data)
            except OSError as error:
                # the disk is fuller than the budget: what can be spared goes, and the write is tried again
                if not _is_full(error) or not (self.drop_clean("cache") or await self.on_full()):
                    raise
            finally:
                budget.correct(-growth)
                if not file.discarded:
                    self._measure_now(file)

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
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file.name, dir_fd=self._folders["ram"])
        ram.correct(-file.allocated)
        ram.files -= 1
        cache.files += 1
        file.allocated = 0

    def _unlink(self, file: TierFile) -> None:
        budget = self._budgets[file.tier]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(file.name, dir_fd=self._folders[file.tier])
        budget.correct(-file.allocated)
        budget.files -= 1
        file.allocated = 0


def _write_at(fd: int, data: bytes, offset: int) -> None:
    done = os.pwrite(fd, data, offset)
    if done < len(data):
        view = memoryview(data)
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)
