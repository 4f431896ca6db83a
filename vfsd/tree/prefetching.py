"""Prefetch: what a program will open next is made ready before it asks.

Each opening of a file tells where on the plate, or among the names, a program is (`places`); in which order it walks is found by
`tiers.orders`. What comes next is then made in the background by a few tasks:

- a stored file is hydrated into RAM, where there is room without dropping anything that is in use, dirty or waiting to be read;
- of small stored files the kernel is asked to read their shard, once: the rest takes no longer than a thread would;
- a file of the source that is not in memory the kernel is asked to read whole.

Nothing is made for an order that was not found, or while most guesses are wrong (`tiers.ahead`). A failure is the reader's
to see: here it only ends the guess. Touched only by the trio thread.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, final

import trio

from vfsd.errors import VfsdError, shown_path
from vfsd.store import Kind
from vfsd.tiers import TierFiles
from vfsd.tiers.ahead import Ahead
from vfsd.tiers.orders import Place
from vfsd.tree.contents import LARGE_FILE, Contents
from vfsd.tree.hydration import AT_ONCE
from vfsd.tree.layers import Layers
from vfsd.tree.node import Node
from vfsd.tree.places import Places, PlaneTable, Shard, Table

log = logging.getLogger("vfsd.tree")

# Tasks that make files ready: programs compute on the other cores, and one core is enough to be ahead of most.
WORKERS = max(1, min(4, (os.cpu_count() or 1) - 1))
# Of one file the kernel is asked to read so much: a shard of small images, or the planes of a source.
MOST_READ_AHEAD = 64 << 20
# Shards that were asked for are not asked for again while so many others were.
SHARDS_REMEMBERED = 64


@final
class Prefetcher:
    """See the module.

    Attributes
    ----------
    enabled : bool
        Whether openings are followed; `run` must run as well.
    resting : bool
        The mount ends: nothing is begun any more.
    ahead : Ahead
        What is ready, and what came of it.
    """

    def __init__(self, layers: Layers, contents: Contents, tiers: TierFiles) -> None:
        self._layers = layers
        self._contents = contents
        self._tiers = tiers
        self._places = Places(layers)
        self._plans: OrderedDict[Table, Iterator[Place]] = OrderedDict()
        self._shards: OrderedDict[tuple[PlaneTable, Shard], None] = OrderedDict()
        self._changed = trio.Event()
        self._running = 0
        self._busy = 0
        self.enabled = True
        self.resting = False
        self.ahead = Ahead()
        contents.on_open = self._opened
        contents.is_expected = self.ahead.expects
        contents.on_dropped = self._dropped

    def status(self) -> dict[str, Any]:
        """For `vfsd status`."""
        return {"enabled": self.enabled, **self.ahead.status()}

    # --- what programs do

    def _opened(self, node: Node) -> None:
        """A program opens a file for reading. Whatever goes wrong here must not be the program's matter."""
        if self.ahead.opened(node.ino):
            self._tell()
        if not self.enabled or not self._running:
            return
        try:
            self._follow(node)
        except Exception:
            log.exception("prefetch_ends path=%s", shown_path(node.path()))
            self.enabled = False

    def _follow(self, node: Node) -> None:
        located = self._places.locate(node)
        if located is None:
            return
        table, place = located
        expected = table.walks.note(place)
        if self.ahead.paused:
            table.walks.discourage()
            self._plans.clear()
            return
        if expected is not None and isinstance(table, PlaneTable) and table.plane_bytes <= AT_ONCE:
            expected = self._in_new_shards(table, expected)
        if expected is None:
            self._plans.pop(table, None)  # it went elsewhere, or all is asked for
            return
        self._plans[table] = expected
        self._plans.move_to_end(table, last=False)
        self._tell()

    def _in_new_shards(self, table: PlaneTable, places: Iterator[Place]) -> Iterator[Place] | None:
        """Of the places of small images those in shards that were not asked for; None if there is none."""
        fresh = (place for place in places if (table, table.shard(place)) not in self._shards)
        first = next(fresh, None)
        return None if first is None else itertools.chain([first], fresh)

    def _dropped(self, ino: int) -> None:
        self.ahead.lost(ino)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- what is made of it

    async def run(self) -> None:
        """Make ready what is expected, until cancelled: for the life of the mount."""
        async with trio.open_nursery() as nursery:
            for _ in range(WORKERS):
                nursery.start_soon(self._work)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Something is made ready in this block: `rest` waits for its end."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._tell()

    async def rest(self) -> None:
        """Nobody reads any more: begin nothing, and return when what had begun is over."""
        self.resting, self.enabled = True, False
        self._plans.clear()
        self._tell()
        while self._busy:
            await self._changed.wait()

    async def _work(self) -> None:
        self._running += 1
        try:
            while True:
                planned = self._next()
                if planned is None:
                    await self._changed.wait()
                    continue
                table, place = planned
                try:
                    with self.busy():
                        node = await self._places.node_at(table, place)
                        if node is not None and not await self._make(node, table, place):
                            self._plans.pop(table, None)
                except (OSError, VfsdError, ValueError, IndexError) as problem:  # the last two: damaged rows
                    log.debug("not_made_ahead error=%s", problem)
                await trio.lowlevel.checkpoint()
        finally:
            self._running -= 1

    def _next(self) -> tuple[Table, Place] | None:
        while self._plans:
            table, plan = next(iter(self._plans.items()))
            place = next(plan, None)
            if place is not None:
                return table, place
            del self._plans[table]
        return None

    async def _make(self, node: Node, table: Table, place: Place) -> bool:
        """Make a file ready; whether to go on with its table."""
        record = node.record
        if node.data is not None or node.opens or record.nlink == 0 or self.ahead.expects(node.ino):
            return True
        if record.kind is Kind.SOURCE:
            return await self.read_source_ahead(node)
        if record.kind not in (Kind.PLANES, Kind.PLAIN) or record.size > LARGE_FILE:
            return True
        if isinstance(table, PlaneTable) and table.plane_bytes <= AT_ONCE:
            return await self._read_shard_ahead(node, table, place)
        while not self.ahead.may(record.size, self._tiers.room.budgets["ram"].limit):
            await self._changed.wait()
            if self.resting or (table not in self._plans and self.ahead.bytes):
                return False
        if node.data is None and not await self._contents.hydration.hydrate_ahead(node):
            return node.data is not None
        self.ahead.made(node.ino, record.size, in_use=node.opens > 0)
        return True

    async def _read_shard_ahead(self, node: Node, table: PlaneTable, place: Place) -> bool:
        shard = table, table.shard(place)
        if shard not in self._shards:
            self._shards[shard] = None
            while len(self._shards) > SHARDS_REMEMBERED:
                self._shards.popitem(last=False)
            self.ahead.shards += 1
            await trio.to_thread.run_sync(self._layers.store.files.describe(node.record).ask_ahead, MOST_READ_AHEAD)
        return True

    async def read_source_ahead(self, node: Node) -> bool:
        """Have the kernel read a file of the source, unless it has it in memory; whether that was possible."""
        source, origin = self._layers.source, node.record.origin
        if source is None or origin is None or self._contents.makes_files:
            return False
        fd = source.open_at_once(origin)
        if fd is not None:
            try:
                if _is_in_memory(fd, node.record.size):
                    return True
            finally:
                os.close(fd)
        if not self.ahead.may(0, self._tiers.room.budgets["ram"].limit):
            return True
        await trio.to_thread.run_sync(_ask_for, source.open, origin)
        self.ahead.made(node.ino, 0)
        return True


def _ask_for(open_: Any, origin: bytes) -> None:
    fd = open_(origin)
    try:
        os.posix_fadvise(fd, 0, MOST_READ_AHEAD, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(fd)


def _is_in_memory(fd: int, size: int) -> bool:
    """Whether a file's first and last bytes are in the page cache: then most likely all of it is."""
    byte = bytearray(1)
    try:
        return all(os.preadv(fd, [byte], at, os.RWF_NOWAIT) == 1 for at in (0, max(0, size - 1)))
    except OSError:
        return False
