"""What survives power loss: fsync, what a new version took the place of, and files whose writers outlived a daemon.

Synced or stored bytes are not given up for bytes that are neither. A copy-up, and a cut to nothing, leave the durable bytes
where they are, in the source, the store, or an older tier file (`Node.replaced`), and the row says so (`unsettled`) until the
new bytes are synced or stored; after a restart of the machine the durable ones count (`recovery`).

The first fsync of a file moves it to the cache tier for good. What an fsync then costs: one sync of the file, one of the
cache's folder for a name that is new there, one of the journal's write-ahead log if anything was recorded since the last;
the last two are shared by all who wait for them.

Touched only by the trio thread.
"""

from __future__ import annotations

import logging
from typing import final

import trio

from vfsd.errors import shown_path
from vfsd.store import Kind
from vfsd.tiers import TierFile, TierFiles
from vfsd.tree.layers import Layers
from vfsd.tree.node import Node
from vfsd.tree.recording import Recording

log = logging.getLogger("vfsd.tree")

# Files that are copied to the cache at once when the daemon is told to stop: enough to keep a disk's queue filled.
SECURED_AT_ONCE = 4


@final
class Durability:
    """See the module."""

    def __init__(self, layers: Layers, recording: Recording, tiers: TierFiles) -> None:
        self._layers = layers
        self._recording = recording
        self._tiers = tiers
        # Nodes whose bytes took the place of durable ones and are not synced yet.
        self._unsettled: set[Node] = set()
        self._survivors: dict[Node, TierFile] = {}

    # --- syncing

    async def fsync(self, node: Node, *, data_only: bool = False) -> None:
        """The file's bytes and name survive power loss when this returns; `data_only`: as fdatasync(2)."""
        await self._sync_bytes(node, data_only=data_only)
        await self._layers.journal.sync()

    async def _sync_bytes(self, node: Node, *, data_only: bool = False) -> None:
        data = node.data
        if data is None or data.clean or (node.record.nlink == 0 and node.recorded):
            return  # an unlinked file never has a name again; one that was made without a name may get one
        await self._tiers.fsync(data, data_only=data_only)
        self._settle(node, data)

    def _settle(self, node: Node, data: TierFile) -> None:
        """These bytes are durable: what they took the place of may go, once the journal says so."""
        if node.data is data and node.unsettled:
            if node.record.nlink > 0:  # else the row that names it will say so
                with self._recording.change():
                    self._recording.settle(node)
            self.let_go_of_replaced(node)

    async def sync_before_replacing(self, node: Node, victim: Node, directory: Node, name: bytes) -> None:
        """Before a rename puts `node` in the place of `victim`: bytes that may be durable only go for durable ones.

        Nothing is to be done while the new bytes are in RAM and source or store have the old ones under this very name: after
        a power loss the new file is missing, and recovery shows the old one again. Under another name it could not.
        """
        data = node.data
        if data is None or data.clean:
            return
        durable = victim.data if victim.replaced is None else victim.replaced
        in_cache = durable is not None and durable.tier == "cache" and not durable.clean
        moved = victim.record.kind is not Kind.FRESH and self._layers.journal.entry(directory.ino, name) is not None
        if data.tier == "cache" or in_cache or moved:
            await self.fsync(node)

    async def settle(self) -> None:
        """Sync what took the place of durable bytes and lies in the cache, and let go of what it replaced.

        What it replaced goes with the journal's next sync.
        """
        for node in list(self._unsettled):
            if not node.dirty or node.record.nlink == 0:
                self.let_go_of_replaced(node)
            elif node.data is not None and node.data.tier == "cache":
                try:
                    await self._sync_bytes(node)
                except OSError as error:
                    log.error("cannot_be_synced path=%s error=%s", shown_path(node.path()), error)

    async def secure(self) -> int:
        """Copy to disk what is only in RAM, and sync all that is not in the store: the machine may stop in seconds.

        Returns
        -------
        int
            Files that stay in RAM, or may not be on the disk, for want of room or because it failed; logged by name.
        """
        files = [(node, node.data) for node in self._layers.nodes.values() if node.dirty and node.record.nlink > 0]
        free = trio.CapacityLimiter(SECURED_AT_ONCE)
        failed = 0

        async def move(node: Node, data: TierFile) -> None:
            nonlocal failed
            async with free:
                try:
                    await self._tiers.move_to_cache(data)
                except OSError as error:
                    failed += 1
                    log.error("stays_in_ram path=%s error=%s", shown_path(node.path()), error.strerror)

        async with trio.open_nursery() as nursery:
            for node, data in files:
                if data is not None and data.tier == "ram":
                    nursery.start_soon(move, node, data)
        moved = [(node, data) for node, data in files if data is not None and data.tier == "cache" and not data.clean]
        synced = set(await self._tiers.sync_all([data for _, data in moved]))
        for node, data in moved:
            if data in synced:
                self._settle(node, data)
            else:
                failed += 1
                log.error("not_synced path=%s", shown_path(node.path()))
        await self._layers.journal.sync()
        return failed

    # --- what is replaced

    def may_be_synced(self, node: Node) -> bool:
        """Whether a cut to nothing would take away bytes that may be durable."""
        data = node.data
        if data is None or data.tier != "cache" or data.size == 0 or data.survivor:
            return False
        return not node.unsettled and node.record.nlink > 0

    def took_the_place(self, node: Node) -> None:
        """The node's new bytes are not synced, and what they replaced may be."""
        self._unsettled.add(node)

    def let_go_of_replaced(self, node: Node) -> None:
        """What the node's bytes replaced is needed no more."""
        self._unsettled.discard(node)
        node.unsettled = False
        older, node.replaced = node.replaced, None
        if older is not None:
            self._discard(older)

    def release(self, node: Node) -> None:
        """The node's tier files are not needed any more.

        A dirty file of the cache tier may hold bytes that were synced: it goes once the journal rows that no longer name
        it are durable.
        """
        self.let_go_of_replaced(node)
        file, node.data = node.data, None
        if file is not None:
            self._discard(file)

    def _discard(self, file: TierFile) -> None:
        if file.tier == "cache" and not file.clean:
            self._layers.journal.after_sync(lambda: self._tiers.discard(file))
        else:
            self._tiers.discard(file)

    async def give_back(self) -> bool:
        """The cache is full: what only waits for a durability point goes now."""
        await self.settle()
        if not self._layers.journal.waiting:
            return False
        await self._layers.journal.sync()
        return True

    # --- what an earlier daemon left

    def adopt_recovered(self, node: Node, *, unsettled: bool, replaced: TierFile | None) -> None:
        """A node whose tier file an earlier daemon left, and perhaps a program that still writes to it.

        Such a program counts as an open handle: the file is not flushed, and not released when it is unlinked.
        """
        node.unsettled, node.replaced = unsettled, replaced
        if unsettled and (node.record.kind is not Kind.FRESH or replaced is not None):
            self._unsettled.add(node)
        if node.data is not None and node.data.survivor:
            log.warning("is_still_written path=%s (by a program that outlived its daemon)", shown_path(node.path()))
            self._survivors[node] = node.data
            node.opens += 1
            node.writers += 1

    def released_by_survivors(self) -> list[Node]:
        """Nodes whose writers from before the last daemon died have let go by now; each has a handle less to close."""
        freed = [node for node, file in self._survivors.items() if not self._tiers.has_survivor(file)]
        for node in freed:
            del self._survivors[node]
        return freed
