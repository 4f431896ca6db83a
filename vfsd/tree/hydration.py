"""Making stored files readable: rebuilt into clean tier files, at once, in a thread, or before anybody asks.

A stored file's bytes are made under the node's gate, so that two readers make them once; where no thread is needed nothing
else can come between, and the gate need only be free. Touched only by the trio thread.
"""

from __future__ import annotations

from typing import final

import trio

from vfsd.store import Kind
from vfsd.tiers import Need, TierFile, TierFiles, Warmth
from vfsd.tree.layers import Layers
from vfsd.tree.node import Node

# Stored files up to this size are rebuilt on the event loop where the store's bytes are in memory: a plane of 512 x 512
# takes half a millisecond, and a thread as long to begin when the machine is busy.
AT_ONCE = 640 << 10
# What a tier file takes beside its bytes: the page that its creation asks for, and the last one's rest.
BESIDE = 8192


@final
class Hydration:
    """See the module."""

    def __init__(self, layers: Layers, tiers: TierFiles) -> None:
        self._layers = layers
        self._tiers = tiers

    async def hydrate(self, node: Node) -> None:
        """Rebuild a stored file's bytes into a clean tier file."""
        async with self._layers.gate(node):
            if node.data is None:
                self._take(node, await self.rebuild(node, node.record.version, Need.OPTIONAL))

    async def hydrate_ahead(self, node: Node) -> bool:
        """The same for a file that may be wanted soon: whether it was made, which it is only where there is room in RAM, or
        where what was read through can go for it."""
        async with self._layers.gate(node):
            if node.data is not None or node.record.kind not in (Kind.PLANES, Kind.PLAIN):
                return False
            if not self._tiers.room.make("ram", node.record.size + BESIDE, only=Warmth.CONSUMED):
                return False
            self._take(node, await self.rebuild(node, node.record.version, Need.OPTIONAL))
            return True

    def hydrate_at_once(self, node: Node) -> bool:
        """The same without a thread, for a small file: whether all that it takes was in memory."""
        if node.record.size > AT_ONCE or node.data is not None or (node.gate is not None and node.gate.locked()):
            return False
        stored = self._layers.store.files.describe(node.record)
        file = self._tiers.create(node.ino, node.record.version, expected_size=node.record.size)
        done = False
        try:
            done = self._tiers.fill_at_once(file, node.record.size, stored.rebuild_at_once)
        finally:
            if not done:
                self._tiers.discard(file)
        if done:
            self._take(node, file)
        return done

    async def rebuild(self, node: Node, version: int, need: Need) -> TierFile:
        """A new tier file with a stored file's bytes; the caller makes it the node's."""
        stored = self._layers.store.files.describe(node.record)
        file = self._tiers.create(node.ino, version, expected_size=node.record.size)
        began = trio.current_time()
        try:
            await self._tiers.fill(file, node.record.size, stored.rebuild, need=need)
        except BaseException:
            self._tiers.discard(file)
            raise
        self._tiers.room.hydrate_rate.add(node.record.size, trio.current_time() - began)
        return file

    def _take(self, node: Node, file: TierFile) -> None:
        self._tiers.mark_clean(file)
        node.data = file
