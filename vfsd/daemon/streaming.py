"""Flushing while the mount is written to: what has come to rest goes to the store before the tiers are full.

Starts when there is more dirty data than `stream_above`, or when the cache's dirty part comes near its limit; goes on in rounds,
each a flush of its own, until there is clearly less. Writers that find both tiers full wait for the next round
(`relieve`), which then takes up whatever it can.

Touched only by the trio thread. An error of a round is logged, shown by `vfsd status`, and the next one tried later.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, final

import trio

from vfsd.daemon.log_file import fields
from vfsd.daemon.reporter import describe_error
from vfsd.errors import VfsdError

if TYPE_CHECKING:
    from vfsd.flush import FlushResult
    from vfsd.plates import PlateFormats
    from vfsd.tree import Tree

log = logging.getLogger("vfsd.daemon")

# Dirty data beyond this is stored during the mount, so that neither the cache nor the unmount has to hold a whole plate.
STREAM_ABOVE = 10 << 30
# Dirty parts of the cache's limit at which rounds begin and end.
BEGIN, END = 0.70, 0.50
# A round stores about this much: large enough that its fixed cost (a new catalogue) is small, small enough that the room
# comes back soon and an unmount does not wait long for it.
ROUND = 1 << 30
# ... and never more than this part of what the tiers may hold, so that writers go on while it runs.
ROUND_PART = 1 / 3
# Seconds between looks; writers that need room wake it at once.
INTERVAL = 1.0
# Seconds before a round is tried again after one failed.
AFTER_FAILURE = 10.0

Store = Callable[[Collection[int]], Awaitable["FlushResult"]]


@final
class Streaming:
    """See the module.

    Parameters
    ----------
    store : callable
        `await store(inodes)`: flushes these files.
    stream_above : int, optional
        In bytes; see `STREAM_ABOVE`.
    formats : PlateFormats, optional
        What the names of plates may mean; all that is known.
    """

    def __init__(
        self, tree: Tree, store: Store, *, stream_above: int | None = None, formats: PlateFormats | None = None
    ) -> None:
        self._formats = formats
        self._tree = tree
        self._store = store
        self._stream_above = STREAM_ABOVE if stream_above is None else stream_above
        self._wake = trio.Event()
        self._over = trio.Event()
        self._freed = False
        self._waiting = 0
        self._alive = False
        self._active = False
        self.problem: str | None = None
        self.rounds = 0
        self.files = 0
        self.bytes = 0

    def status(self) -> dict[str, Any]:
        """For `vfsd status`."""
        return {
            "stream_above": self._stream_above,
            "streaming": self._active,
            "rounds": self.rounds,
            "files": self.files,
            "bytes": self.bytes,
            "problem": self.problem,
        }

    async def relieve(self) -> bool:
        """Both tiers are full: wait for a round; whether it stored anything. A part of a flush gets no for an answer."""
        from vfsd.flush import is_flushing

        if is_flushing() or not self._alive:
            return False
        self._waiting += 1
        try:
            over = self._over
            self._wake.set()
            await over.wait()
            return self._freed
        finally:
            self._waiting -= 1

    async def run(self) -> None:
        """Store in the background, until cancelled."""
        self._alive = True
        try:
            while True:
                with trio.move_on_after(INTERVAL):
                    await self._wake.wait()
                self._wake = trio.Event()
                while self._waiting or self._has_too_much():
                    self._active = True
                    if not await self._round():
                        break
                self._active = False
                if self.problem is not None and not self._waiting:
                    with trio.move_on_after(AFTER_FAILURE):
                        await self._wake.wait()
        finally:
            self._alive = False
            self._tell(False)

    def _has_too_much(self) -> bool:
        ram, cache = (self._tree.tiers.room.budgets[tier] for tier in ("ram", "cache"))
        enough = self._stream_above - (self._round_bytes() if self._active else 0)
        if self._tree.tiers.spiller.blocked:
            return True
        return ram.dirty + cache.dirty > enough or cache.dirty > cache.configured * (END if self._active else BEGIN)

    def _round_bytes(self) -> int:
        budgets = self._tree.tiers.room.budgets
        return int(min(ROUND, ROUND_PART * (budgets["ram"].limit + budgets["cache"].limit)))

    async def _round(self) -> bool:
        """One flush of what has come to rest; whether it stored anything."""
        from vfsd.flush.streaming import choose

        urgent = self._waiting > 0
        stored = False
        try:
            inodes = await choose(self._tree, self._round_bytes(), urgent=urgent, formats=self._formats)
            if inodes:
                result = await self._store(inodes)
                stored = result.files > 0
                self.rounds += stored
                self.files += result.files
                self.bytes += result.bytes
            self.problem = None
        except (OSError, VfsdError) as error:
            self.problem = (error.strerror if isinstance(error, OSError) else None) or str(error)
            log.error("event=streaming-failed %s", fields(error=describe_error(error)[1]))
        if stored:
            self._tree.tiers.settle_cache()
        self._tell(stored)
        return stored

    def _tell(self, freed: bool) -> None:
        self._freed = freed
        self._over.set()
        self._over = trio.Event()
