"""Spilling: dirty bytes move from RAM to the cache in the background, coldest first, several files at once. So do clean
ones before they are dropped, where making them again from the store is slower than the cache's disk.

Never in anybody's way: a file is read, reopened and written while it is copied; a write makes the copy worthless, it is thrown
away and the file stays in RAM (`Moves.spill`). Whatever goes wrong leaves the bytes in RAM: it is logged once a minute,
shown by `vfsd status`, and tried again.
"""

from __future__ import annotations

import logging
from typing import final

import trio

from vfsd.tiers.moves import CacheAtLimit, Moves
from vfsd.tiers.room import Room
from vfsd.tiers.tierfile import TierFile

log = logging.getLogger("vfsd.tiers")

# Copies at once: enough to keep a disk's queue filled, few enough that each file is written in one piece.
AT_ONCE = 4
# Seconds before a spill that failed is tried again, doubled each time up to the second.
RETRY, RETRY_AT_MOST = 1.0, 30.0
# Seconds between two lines about the same trouble.
LOG_INTERVAL = 60.0
# Seconds until files that could not be spilled, because they are being written, are looked at again.
NOTHING_TO_DO = 0.1


@final
class Spiller:
    """See the module.

    Attributes
    ----------
    problem : str or None
        Why the last spill failed, until one succeeds.
    blocked : bool
        The last spill found the cache at its limit.
    running : int
        Files that are being copied now.
    files, bytes : int
        What was spilled since the mount.
    """

    def __init__(self, room: Room, moves: Moves) -> None:
        self._room = room
        self._moves = moves
        self.problem: str | None = None
        self.blocked = False
        self.running = 0
        self.files = 0
        self.bytes = 0
        self._alive = False
        self._said = -LOG_INTERVAL

    @property
    def stuck(self) -> bool:
        """Whether waiting for it is in vain: it does not run, it failed, or it has nothing that it may move."""
        if not self._alive or self.problem is not None or self.blocked:
            return True
        return self.running == 0 and not self._room.wanted.is_set()

    async def run(self) -> None:
        """Spill whenever the room asks for it, until cancelled."""
        self._alive = True
        try:
            await self._run()
        finally:
            self._alive = False
            self._room.tell()

    async def _run(self) -> None:
        pause = RETRY
        while True:
            await self._room.wanted.wait()
            moved = await self._round()
            if self.problem is not None or self.blocked:
                self._room.tell()  # writers must not wait for us now
                with trio.move_on_after(pause):
                    await self._room.changed()
                pause = min(2 * pause, RETRY_AT_MOST)
            else:
                pause = RETRY
                if not moved and self._has_work():
                    self._room.wanted = trio.Event()  # nothing can move: whoever waits finds another way
                    self._room.tell()
                    await trio.sleep(NOTHING_TO_DO)
            if not self._has_work():
                self._room.wanted = trio.Event()
                self._room.tell()
            else:
                self._room.wanted.set()

    def _has_work(self) -> bool:
        return self._room.must_spill() or self._room.must_demote()

    def _victims(self) -> list[TierFile]:
        """Dirty files that are to leave RAM; if there is no need, clean ones that are dear to make again."""
        room = self._room
        if not room.must_spill():
            return room.coldest(room.demotable(), room.crowding())
        ram, excess = room.budgets["ram"], room.excess()
        victims = room.coldest(room.spillable(being_written=False), excess)
        if not victims and ram.used > ram.limit:
            victims = room.coldest(room.spillable(being_written=True), excess)
        return victims

    async def _round(self) -> int:
        """Move what is to go now; returns the files that moved."""
        victims = self._victims()
        moved = 0
        self.problem, self.blocked = None, False
        free = trio.Semaphore(AT_ONCE)

        async def one(file: TierFile) -> None:
            nonlocal moved
            try:
                moved += await self._one(file)
            finally:
                free.release()

        async with trio.open_nursery() as nursery:
            for file in victims:
                await free.acquire()
                if self.problem is not None or self.blocked or not (self._room.excess() or self._room.must_demote()):
                    break
                nursery.start_soon(one, file)
        return moved

    async def _one(self, file: TierFile) -> bool:
        size, began = file.allocated, trio.current_time()
        self.running += 1
        try:
            if not await self._moves.spill(file):
                return False
        except CacheAtLimit:
            self.blocked = True
            return False
        except OSError as error:
            self._failed(error)
            return False
        finally:
            self.running -= 1
        self._room.spill_rate.add(size * max(1, self.running + 1), trio.current_time() - began)
        self.files += 1
        self.bytes += size
        return True

    def _failed(self, error: OSError) -> None:
        self.problem = error.strerror or str(error)
        now = trio.current_time()
        if now - self._said >= LOG_INTERVAL:
            self._said = now
            log.error("spill_failed error=%s (the bytes stay in RAM; it is tried again)", self.problem)
