"""Moving a file's bytes from RAM to the cache, and finding room for them there.

Two ways: `to_cache` holds the file (its writers wait) and ends with it moved; `spill` holds nobody and gives up when the file
changes. Readers go on in both. The owner is told of a move after the new copy is complete and before the old one goes, so that
the journal always names a file that is there.

Touched only by the trio thread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import final

import trio

from vfsd.tiers.copying import PIECE, Abandoned
from vfsd.tiers.descriptors import DescriptorCache
from vfsd.tiers.folders import TierFolders
from vfsd.tiers.policy import Warmth
from vfsd.tiers.room import Room
from vfsd.tiers.tierfile import Spill, TierFile

log = logging.getLogger("vfsd.tiers")

# fstat counts allocation in units of 512 bytes everywhere on Linux (stat(2)).
STAT_BLOCK = 512
# What spills leave free on the cache's disk, which is often the store's and the system's as well: a part of it, and the most.
RESERVE, RESERVE_AT_MOST = 0.05, 2 << 30


async def _nothing_to_give() -> bool:
    return False


class CacheAtLimit(OSError):
    """The cache tier holds what it was given: no failure of a disk."""

    def __init__(self) -> None:
        super().__init__(errno.ENOSPC, "the cache tier is full")


class Need(Enum):
    """How much somebody needs room: not at all if there is none (a copy for faster reading), now (who stores files must not
    wait for itself), or whenever storing files has made some."""

    OPTIONAL = "optional"
    NOW = "now"
    PATIENT = "patient"


@final
@dataclass(slots=True)
class Owner:
    """What the tiers ask and tell those to whom the files belong; the tree and the daemon put theirs in.

    Attributes
    ----------
    moved, dropped : callable
        Told of a file that is in the cache now (an exception undoes the move), and of a clean file that is gone.
    warmth : callable
        What the policy cannot see of a file: that it is a companion, open, or open for writing; else None.
    spare : async callable
        The cache is full: discards what can be done without and says whether there was anything.
    relieve : async callable
        Both tiers are full: stores files to make room, and says whether it did. Writers wait for it.
    """

    moved: Callable[[TierFile], None] = lambda file: None
    dropped: Callable[[TierFile], None] = lambda file: None
    warmth: Callable[[TierFile], Warmth | None] = lambda file: None
    spare: Callable[[], Awaitable[bool]] = _nothing_to_give
    relieve: Callable[[], Awaitable[bool]] = _nothing_to_give


@final
class Moves:
    """See the module.

    Attributes
    ----------
    overdrawn : bool
        The cache holds more than it was given, for want of another way (`room_in_cache`).
    """

    def __init__(self, folders: TierFolders, descriptors: DescriptorCache, room: Room, owner: Owner) -> None:
        self._folders = folders
        self._descriptors = descriptors
        self._room = room
        self._owner = owner
        self.overdrawn = False

    async def idle(self, file: TierFile) -> None:
        """Return when the file is not busy; until the next `await` it then stays so."""
        while file.busy is not None:
            await file.busy.wait()

    def pinned(self, file: TierFile) -> contextlib.AbstractContextManager[int]:
        """A file's descriptor, safe across awaits and in threads."""
        return self._descriptors.pinned(file, lambda: self._folders.open(file))

    def descriptor(self, file: TierFile) -> int:
        """A file's descriptor, safe until the next `await`."""
        return self._descriptors.descriptor(file, lambda: self._folders.open(file))

    @contextlib.contextmanager
    def held(self, file: TierFile) -> Iterator[None]:
        """The file is busy for the length of the block; then it is measured, or goes if it was discarded meanwhile."""
        file.busy = trio.Event()
        try:
            yield
        finally:
            file.busy.set()
            file.busy = None
            if not file.discarded:
                self.measure(file)
            else:
                self.give_up(file)

    def measure(self, file: TierFile) -> None:
        """Take size, mtime and allocation from the file itself."""
        found = os.fstat(self.descriptor(file))
        file.size = found.st_size
        file.mtime = found.st_mtime_ns
        self._room.measured(file, found.st_blocks * STAT_BLOCK)

    def give_up(self, file: TierFile) -> None:
        """A discarded file loses its name, which the same version may need again; its room comes back once nobody reads it."""
        self._folders.remove(file.tier, file.name)
        if file.hold is None:
            self._room.leave(file)

    async def to_cache(self, file: TierFile, *, need: Need = Need.PATIENT) -> None:
        """Move a RAM file's bytes to the cache tier; nothing to do for a file that is there. Writers of it wait.

        Raises
        ------
        OSError
            The file is as it was, in RAM.
        """
        while True:
            await self.idle(file)
            if file.spill is not None:
                await file.spill.over.wait()
                continue
            if file.tier == "cache" or file.discarded:
                return
            if file.survivor:
                raise OSError(errno.EBUSY, "a program that outlived an earlier daemon still writes to it", file.name)
            if self._room.make("cache", file.allocated):
                break
            await self._give_room(file.allocated, need=need)
        reserved = file.allocated
        self._room.take("cache", reserved)
        try:
            with self.held(file):
                with self.pinned(file) as fd:
                    await trio.to_thread.run_sync(self._folders.copy_to_cache, file.name, fd, file.size)
                self._switch_to_cache(file)
        finally:
            self._room.take("cache", -reserved)

    async def spill(self, file: TierFile) -> bool:
        """Copy a RAM file's bytes to the cache and switch to the copy, unless the file changes meanwhile; nobody waits.

        Returns
        -------
        bool
            Whether the bytes are in the cache now; if not, they are in RAM as before.

        Raises
        ------
        CacheAtLimit
            Likewise: the cache holds what it was given.
        OSError
            Likewise: its disk failed or is nearly full.
        """
        reserved = file.allocated
        while not self._room.make("cache", reserved):
            if not await self._owner.spare():
                raise CacheAtLimit
        if not self.yield_disk(reserved):
            raise OSError(errno.ENOSPC, "the disk of the cache tier is nearly full")
        if file.tier != "ram" or not file.settled or file.discarded or file.spill is not None:
            return False
        spill = file.spill = Spill()
        name = file.name
        self._room.take("cache", reserved)
        self._room.take("ram", PIECE)
        try:
            with self.pinned(file) as fd:
                await trio.to_thread.run_sync(self._folders.copy_to_cache, name, fd, file.size, spill.void.is_set)
            if spill.void.is_set():
                self._folders.remove("cache", name)
                return False
            self._switch_to_cache(file)
            self.measure(file)
            return True
        except Abandoned:
            return False
        finally:
            self._room.take("ram", -PIECE)
            self._room.take("cache", -reserved)
            file.spill = None
            spill.over.set()

    def _switch_to_cache(self, file: TierFile) -> None:
        """The copy is complete: from here on the cache file is the file."""
        if file.discarded:
            self._folders.remove("cache", file.name)
            return
        file.tier = "cache"
        try:
            self._owner.moved(file)
        except BaseException:
            file.tier = "ram"
            self._folders.remove("cache", file.name)
            raise
        file.tier = "ram"  # for the accounts, which leave one tier and enter the other
        self._descriptors.forget(file)
        self._folders.remove("ram", file.name)
        kept = file.allocated
        self._room.leave(file)
        if file.hold is not None:  # it lives on without a name, as long as somebody reads it
            file.hold.kept = kept
            self._room.take("ram", kept)
            file.hold = None
        file.tier = "cache"
        file.named = False
        self._room.enter(file)
        if file.clean:
            self._room.mark(file)

    def yield_disk(self, amount: int) -> bool:
        """Whether the cache's disk keeps its reserve when `amount` bytes are written there; clean files go for it."""
        reserve = min(int(RESERVE * self._folders.total_bytes("cache")), RESERVE_AT_MOST)
        missing = amount + reserve - self._folders.free_bytes("cache")
        if missing > 0:
            clean = [file for file in self._room.clean["cache"] if file.settled]
            for file in self._room.coldest(clean, missing):
                missing -= file.allocated
                self._room.drop(file)
        return missing <= 0

    async def room_in_cache(self, amount: int, *, need: Need = Need.PATIENT) -> None:
        """Return when the cache may take `amount` more bytes; raises ENOSPC if it cannot."""
        while not self._room.make("cache", amount):
            await self._give_room(amount, need=need)

    async def _give_room(self, amount: int, *, need: Need) -> None:
        """The cache is at its limit: what can be spared goes, files are stored, and at last the limit gives way.

        A writer whose file can neither be stored yet nor fit is better served by the free space of the disk than by ENOSPC.
        """
        if await self._owner.spare() or (need is Need.PATIENT and await self._owner.relieve()):
            return
        if self._room.make("cache", amount):
            return  # while we waited, somebody else's flush has stored what was here
        cache = self._room.budgets["cache"]
        if need is Need.OPTIONAL or self._folders.free_bytes("cache") < amount:
            raise OSError(errno.ENOSPC, "the cache tier is full")
        if not self.overdrawn:
            log.warning("cache_overdrawn limit=%d (nothing can be stored now, and its disk has room)", cache.configured)
        self.overdrawn = True
        cache.limit = max(cache.limit, cache.used + amount)

    def settle_cache(self) -> None:
        """After files were stored: a cache limit that gave way returns to what was asked for."""
        cache = self._room.budgets["cache"]
        if self.overdrawn and cache.used <= cache.configured:
            cache.limit, self.overdrawn = cache.configured, False
