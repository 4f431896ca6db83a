"""The RAM and the cache tier: files in two folders, and every operation on their bytes.

What callers may rely on: a write that returned is in a file that survives the daemon; the RAM tier never holds more than
its limit; a file may be read, and its handles stay valid, while its bytes move; the tree is told of a move (`on_moved`)
after the new copy is complete and before the old one goes, so that the journal always names a file that is there.

Who makes place for whom is `tiers.room`'s; what moves in the background `tiers.spilling`'s. What may change a file's bytes in
a thread holds it (`TierFile.busy`) or is a write to the cache tier, from which nothing moves.

Touched only by the trio thread. Methods without `async` do not sleep on a disk.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

import trio

from vfsd.tiers.allocation import Allocation
from vfsd.tiers.budget import TierUsage
from vfsd.tiers.descriptors import DescriptorCache
from vfsd.tiers.folders import TierFolders
from vfsd.tiers.holds import Holds
from vfsd.tiers.moves import Moves, Need, Owner
from vfsd.tiers.policy import Policy
from vfsd.tiers.pressure import Limit, Reading, limit_of, measure, open_stalls, watch
from vfsd.tiers.reading import read_disk, read_memory
from vfsd.tiers.room import KEEP_IN_RAM, Room
from vfsd.tiers.spilling import Spiller
from vfsd.tiers.syncing import Syncing
from vfsd.tiers.tierfile import TierFile, TierName, tier_file_name

log = logging.getLogger("vfsd.tiers")

# tmpfs and the usual disks allocate in pages.
PAGE = 4096
# Below this size an unlink is cheap enough for the event loop; freeing a large file takes milliseconds.
UNLINK_IN_THREAD = 16 << 20
# A file that takes more than this part of RAM goes to the cache as soon as RAM is full: its writer streams through the disk
# instead of waiting while everything else is spilled for it.
STREAMS_FROM = 1 / 4


def _pages(size: int) -> int:
    return -(-size // PAGE) * PAGE


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


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
    owner : Owner
        Whom the files belong to.
    room : Room
        Budgets, and who goes first.
    holds : Holds
        Who reads files from outside.
    """

    def __init__(
        self,
        ram_directory: Path,
        cache_directory: Path,
        ram_budget: int,
        cache_budget: int,
        *,
        keep_in_ram: int = KEEP_IN_RAM,
        policy: Policy | None = None,
    ) -> None:
        self.descriptors = DescriptorCache()
        self._folders = TierFolders(ram_directory, cache_directory)
        self.room = Room(ram_budget, cache_budget, keep_in_ram=keep_in_ram, policy=policy)
        self.owner = Owner()
        self.room.drop = self._drop
        self.room.warmth_of = lambda file: self.owner.warmth(file)
        self._moves = Moves(self._folders, self.descriptors, self.room, self.owner)
        self._syncing = Syncing(self._folders, self._moves)
        self._allocation = Allocation(self.room, self._moves, self._leave_ram)
        self.holds = Holds(self.room)
        self.spiller = Spiller(self.room, self._moves)
        self.limit = Limit(ram_budget, "budget")

    def close(self) -> None:
        """Close every descriptor; the files stay."""
        self.descriptors.close()
        self._folders.close()

    async def run(self) -> None:
        """Watch the machine's memory and spill, until cancelled: for the life of the mount."""
        stalls = open_stalls()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.spiller.run)
                ram = self.room.budgets["ram"]
                await watch(self._folders.descriptor("ram"), lambda: ram.used, self.feel, stalls=stalls)
        finally:
            if stalls is not None:
                stalls.close()

    def look(self) -> None:
        """Look at memory now, before the first byte comes; later `run` does."""
        self.feel(measure(self._folders.descriptor("ram"), self.room.budgets["ram"].used, False))

    def feel(self, reading: Reading) -> None:
        """Memory was looked at: what the RAM tier may hold follows."""
        ram = self.room.budgets["ram"]
        limit = limit_of(reading, ram.configured)
        if (limit.cause, limit.bytes < ram.used) != (self.limit.cause, self.limit.bytes < ram.used):
            log.info("ram_limit bytes=%d cause=%s used=%d", limit.bytes, limit.cause, ram.used)
        self.limit = limit
        self.room.press(limit.bytes)

    def usage(self) -> dict[str, TierUsage]:
        """What each tier holds."""
        return self.room.usage()

    def pressure(self) -> dict[str, Any]:
        """What presses, and what is done about it, for `vfsd status`."""
        ram, spiller = self.room.budgets["ram"], self.spiller
        if self.room.writers_waiting:
            state = "writers wait"
        elif self.room.delay(PAGE) > 0:
            state = "writers are slowed"
        elif spiller.running:
            state = "spilling"
        else:
            state = "calm"
        return {
            "state": state,
            "ram_limit": ram.limit,
            "cause": self.limit.cause,
            "ram_dirty": ram.dirty,
            "spills_from": self.room.spills_from(),
            "spilled_files": spiller.files,
            "spilled_bytes": spiller.bytes,
            "spilling": spiller.running,
            "writers_waiting": self.room.writers_waiting,
            "problem": spiller.problem,
            "cache_at_limit": spiller.blocked,
            "cache_overdrawn": self._moves.overdrawn,
        }

    def cache_free_bytes(self) -> int:
        """What the cache tier may still take on its disk, clean files counted as free."""
        cache = self.room.budgets["cache"]
        return max(0, min(self._folders.free_bytes("cache") + cache.clean, cache.free))

    def ram_free_bytes(self) -> int:
        """What the RAM tier may still take, clean files counted as free."""
        return self.room.budgets["ram"].free

    # --- the life of a file

    def create(self, ino: int, version: int, *, expected_size: int = 0) -> TierFile:
        """A new, empty file: in RAM if `expected_size` more bytes have room there, else in the cache.

        Raises
        ------
        OSError
            Neither folder can take a file.
        """
        room = self.room.make("ram", _pages(expected_size) + PAGE)
        tiers: tuple[TierName, ...] = ("ram", "cache") if room else ("cache", "ram")
        for tier in tiers:
            file = TierFile(ino, version, tier)
            try:
                fd = self._folders.make(file)
            except OSError as error:
                if tier == tiers[1] or not (tier == "cache" or _is_full(error)):
                    raise
                continue  # an empty file takes no room: what is wrong with one folder, the other may still take it
            self.room.enter(file)
            self.descriptors.adopt(file, fd)
            self._moves.measure(file)
            return file
        raise AssertionError("unreachable")

    def find(self, ino: int, version: int, tier: TierName) -> TierFile | None:
        """A file that an earlier daemon left, or None if it is not there."""
        file = TierFile(ino, version, tier)
        file.survivor = self._folders.is_being_written(file)
        try:
            fd = self._folders.open(file)
        except OSError as error:
            if error.errno == errno.EIO and isinstance(error.__cause__, FileNotFoundError):
                return None
            raise
        self.room.enter(file)
        self.descriptors.adopt(file, fd)
        self._moves.measure(file)
        return file

    def has_survivor(self, file: TierFile) -> bool:
        """Whether a program that outlived an earlier daemon still writes to a file; looks again, at its size too."""
        if file.survivor and not file.discarded:
            self.descriptors.forget(file)  # ours would count as a writer
            file.survivor = self._folders.is_being_written(file)
            self.measure(file)
            if not file.survivor:
                file.changes += 1
        return file.survivor

    def measure(self, file: TierFile) -> None:
        """Look at the size of a file that others write."""
        self._moves.measure(file)

    def versions(self, tier: TierName) -> dict[int, list[int]]:
        """The data versions of each inode that an earlier daemon left in a tier."""
        found: dict[int, list[int]] = {}
        for _, ino, version in self._folders.files(tier):
            found.setdefault(ino, []).append(version)
        return found

    def discard(self, file: TierFile) -> None:
        """The bytes are no longer needed: the file goes now, or once it is no longer busy."""
        if file.discarded:
            return
        file.discarded = True
        file.void_spill()
        self.room.unmark(file)
        self.descriptors.forget(file)
        if file.busy is None:
            self._moves.give_up(file)

    def remove_strangers(self, known: set[tuple[int, int, str]]) -> list[str]:
        """Delete tier files that no row names (made just before a crash, or clean); returns their names."""
        removed = []
        tiers: tuple[TierName, ...] = ("ram", "cache")
        for tier in tiers:
            for name, ino, version in list(self._folders.files(tier)):
                if (ino, version, tier) not in known:
                    self._folders.remove(tier, name)
                    removed.append(f"{tier}/{name}")
        return removed

    # --- clean files

    def mark_clean(self, file: TierFile) -> None:
        """The store has these bytes too: the file may be dropped when room is needed."""
        file.clean = True
        if not file.discarded:
            self.room.mark(file)

    def make_dirty(self, file: TierFile, version: int) -> None:
        """A clean file that is not busy becomes the only copy of a new data version, under that version's name."""
        assert file.busy is None
        file.void_spill()
        self._folders.rename(file.tier, file.name, tier_file_name(file.ino, version))
        self.room.unmark(file)
        file.version = version
        file.clean = file.named = False

    def drop_clean(self, tier: TierName | None = None) -> int:
        """Drop every clean file (of one tier); returns the bytes freed."""
        dropped = [file for name, files in self.room.clean.items() if tier in (None, name) for file in files]
        dropped = [file for file in dropped if file.settled]
        freed = sum(file.allocated for file in dropped)
        for file in dropped:
            self._drop(file)
        return freed

    def _drop(self, file: TierFile) -> None:
        self.discard(file)
        self.owner.dropped(file)

    # --- bytes

    async def idle(self, file: TierFile) -> None:
        """Return when the file is not busy; until the next `await` it then stays so."""
        await self._moves.idle(file)

    async def read(self, file: TierFile, offset: int, size: int, into: memoryview | None = None) -> bytes | memoryview:
        """Up to `size` bytes, in `into` where that has room for them; fewer only at the end of the file."""
        self.room.policy.on_read(file.ino, offset, size, file.size)
        if file.tier == "ram":
            return read_memory(self._moves.descriptor(file), offset, size, into)
        with self._moves.pinned(file) as fd:
            return await read_disk(fd, offset, size, into)

    async def write(self, file: TierFile, offset: int, data: bytes | memoryview) -> int:
        """Write all of `data`; moves the file to the cache when RAM has no room for it.

        Slowed, and made to wait, while RAM and cache are full and room is being made.

        Raises
        ------
        OSError
            ENOSPC when both tiers are full and nothing can be stored; what fitted before is written.
        """
        self.room.policy.on_written(file.ino, len(data))
        delay = 0.0
        with self._changing(file):
            while True:
                await self._moves.idle(file)
                if file.tier == "cache":
                    return await self._write_cache(file, offset, data)
                growth = self._growth(file, offset, len(data))
                if self.room.make("ram", growth) and self._write_ram(file, offset, data, growth):
                    delay = self.room.delay(growth)
                    break
                if not await self._wait_for_ram(file, growth):
                    await self._leave_ram(file)
        if delay:
            await trio.sleep(delay)
        return len(data)

    async def truncate(self, file: TierFile, size: int) -> None:
        """Cut or extend (with a hole) to `size` bytes."""
        with self._changing(file):
            await self._moves.idle(file)
            with self._moves.pinned(file) as fd:
                if file.tier == "ram" and file.size - size < UNLINK_IN_THREAD:
                    os.ftruncate(fd, size)
                    self._moves.measure(file)
                else:
                    with self._moves.held(file):
                        await trio.to_thread.run_sync(os.ftruncate, fd, size)

    async def allocate(self, file: TierFile, mode: int, offset: int, length: int) -> None:
        """`fallocate` (`tiers.allocation`): room in advance, or a hole."""
        with self._changing(file):
            await self._allocation.allocate(file, mode, offset, length)

    def seek(self, file: TierFile, offset: int, whence: int) -> int:
        """Where data or a hole begins at or after `offset` (os.SEEK_DATA, os.SEEK_HOLE); raises ENXIO behind the end."""
        return os.lseek(self._moves.descriptor(file), offset, whence)

    def set_times(self, file: TierFile, atime: int, mtime: int) -> None:
        """Set access and modification time, in ns, of a file that is not busy; a move keeps them."""
        assert file.busy is None
        file.void_spill()
        fd = self._moves.descriptor(file)
        os.utime(fd, ns=(atime, mtime))
        file.mtime = mtime

    async def fsync(self, file: TierFile, *, data_only: bool = False) -> None:
        """The bytes survive power loss when this returns: a RAM file moves to the cache first, for good."""
        await self._syncing.sync(file, data_only=data_only)

    async def sync_all(self, files: Sequence[TierFile]) -> list[TierFile]:
        """The same for many files, all in the cache; returns those that survive. One that fails keeps no other back."""
        return await self._syncing.sync_all(files)

    async def fill(self, file: TierFile, size: int, work: Callable[[int], None], *, need: Need = Need.PATIENT) -> None:
        """Let `work(fd)` write the `size` bytes of a new file in a thread (copy-up, hydrate), within the budget.

        Where RAM has no room after all, the file goes to the cache and `work` starts again, in an empty file. `need` says
        what room is worth waiting for.

        Raises
        ------
        OSError
            ENOSPC when neither tier has room.
        Exception
            Whatever `work` raises; the file is then incomplete and the caller discards it.
        """
        amount = _pages(size)
        while True:
            if file.tier == "ram" and not self.room.make("ram", amount):
                await self._moves.to_cache(file, need=need)
            if file.tier == "cache":
                await self._moves.room_in_cache(amount, need=need)
            tier = file.tier
            self.room.take(tier, amount)
            try:
                with self._moves.held(file), self._moves.pinned(file) as fd:
                    await trio.to_thread.run_sync(work, fd)
                return
            except OSError as error:
                if tier != "ram" or not _is_full(error):
                    raise
            finally:
                self.room.take(tier, -amount)
            await self.truncate(file, 0)
            await self._moves.to_cache(file, need=need)

    def fill_at_once(self, file: TierFile, size: int, work: Callable[[int], bool]) -> bool:
        """Let `work(fd)` write the `size` bytes of a new file here and now, if RAM has room: whether it did.

        `work` must not sleep; it says whether it wrote everything. If not, the file is empty again.
        """
        amount = _pages(size)
        if file.tier != "ram" or not self.room.make("ram", amount):
            return False
        fd = self._moves.descriptor(file)
        self.room.take("ram", amount)
        done = False
        try:
            done = work(fd)
        except OSError as error:
            if not _is_full(error):
                raise
        finally:
            self.room.take("ram", -amount)
            if not done:
                os.ftruncate(fd, 0)
            self._moves.measure(file)
        return done

    async def move_to_cache(self, file: TierFile) -> None:
        """Move a RAM file's bytes to the cache tier; nothing to do for a file that is there. Writers of it wait.

        Raises
        ------
        OSError
            The file is as it was, in RAM.
        """
        await self._moves.to_cache(file)

    def yield_disk(self, amount: int) -> None:
        """Somebody is to write `amount` bytes to a disk that may be the cache's: clean files there make room for it."""
        self._moves.yield_disk(amount)

    def settle_cache(self) -> None:
        """After files were stored: a cache limit that gave way returns to what was asked for."""
        self._moves.settle_cache()

    def open_for_reading(self, file: TierFile) -> int:
        """A descriptor of its own for a reader outside (flush); the caller closes it. May be called in any thread."""
        return self._folders.open_for_reading(file)

    # --- inner parts

    @contextlib.contextmanager
    def _changing(self, file: TierFile) -> Iterator[None]:
        """A flush must see that contents change: when it starts, and that it was under way, when it ends."""
        file.changes += 1
        file.void_spill()
        try:
            yield
        finally:
            file.changes += 1
            file.changed_at = trio.current_time()

    def _growth(self, file: TierFile, offset: int, length: int) -> int:
        """The most that a write can add to the allocation."""
        end = _pages(offset + length)
        start = offset // PAGE * PAGE
        if file.allocated >= _pages(file.size):  # no holes: only what lies behind the end is new
            start = max(start, min(end, _pages(file.size)))
        return end - start

    async def _wait_for_ram(self, file: TierFile, growth: int) -> bool:
        """Wait until spilling has made some room; False where it will not, or where the file is better off in the cache."""
        ram = self.room.budgets["ram"]
        if file.allocated + growth > STREAMS_FROM * ram.limit or self.spiller.stuck:
            return False
        self.room.writers_waiting += 1
        try:
            await self.room.changed()
        finally:
            self.room.writers_waiting -= 1
        return True

    async def _leave_ram(self, file: TierFile) -> None:
        """A file that RAM has no room for goes to the cache; where that fails, storing files may make room in RAM."""
        try:
            await self._moves.to_cache(file)
        except OSError as error:
            if file.discarded or not await self.owner.relieve():
                raise
            log.warning("stays_in_ram error=%s (files were stored to make room)", error.strerror)

    def _write_ram(self, file: TierFile, offset: int, data: bytes | memoryview, growth: int) -> bool:
        """Write into RAM, with room for `growth` more bytes; False where the tmpfs has less room than we were given."""
        self.room.take("ram", growth)
        fd = self._moves.descriptor(file)
        try:
            _write_at(fd, data, offset)
        except OSError as error:
            if not _is_full(error):
                raise
            return False
        finally:
            self.room.take("ram", -growth)
            self._moves.measure(file)
        return True

    async def _write_cache(self, file: TierFile, offset: int, data: bytes | memoryview) -> int:
        while True:
            growth = self._growth(file, offset, len(data))
            await self._moves.room_in_cache(growth)
            self.room.take("cache", growth)
            try:
                with self._moves.pinned(file) as fd:
                    await trio.to_thread.run_sync(_write_at, fd, data, offset)
                return len(data)
            except OSError as error:
                # the disk is fuller than the budget: what can be spared goes, and the write is tried again
                if not _is_full(error) or not (
                    self.drop_clean("cache") or await self.owner.spare() or await self.owner.relieve()
                ):
                    raise
            finally:
                self.room.take("cache", -growth)
                if not file.discarded:
                    self._moves.measure(file)


def _write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    done = os.pwrite(fd, data, offset)
    if done < len(data):
        view = memoryview(data)
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)
