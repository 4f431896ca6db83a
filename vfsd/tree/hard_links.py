"""All names of a source file with hard links, found before it is changed for the first time.

A directory of the source is read when somebody looks into it, so a file may have names that the tree has not met. What is
written under one name must be seen under all: before the first change the source is searched, once, for files with several
names in it, and the directories of those names are read. Names that the source gets later are files of their own, and links
from outside the source do not count any more.

Touched only by the trio thread; the search is done in a thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import final

import trio

from vfsd.tree.layers import Layers
from vfsd.tree.node import Node
from vfsd.tree.source import MTIME_STEP_NS

log = logging.getLogger("vfsd.tree")


@final
class HardLinks:
    """See the module; `complete` is the way in."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._names: Mapping[int, list[bytes]] = {}
        self._searched = 0  # when the source was searched, ns; what changed later is searched for again
        self._complete: set[int] = set()
        self._searching = trio.Lock()

    def known(self, node: Node) -> bool:
        """Whether the tree knows all names of a node that it can know."""
        return node.places is None or len(node.places) >= node.record.nlink or node.ino in self._complete

    async def complete(self, node: Node) -> None:
        """Find the names that a node has; returns at once for all but source files with hard links."""
        if self.known(node):
            return
        async with self._searching:
            if node.record.ctime >= self._searched - MTIME_STEP_NS:
                await self._search()
        for path in self._names.get(node.ino, ()):
            directory = await self._showing(path.rpartition(b"/")[0])
            if directory is not None:
                await self._layers.children(directory)
        self._complete.add(node.ino)

    async def _showing(self, path: bytes) -> Node | None:
        """The directory of the tree that shows this directory of the source, wherever it was renamed to; None if none does."""
        parts = path.split(b"/") if path else []
        ways = [b"/".join(parts[:depth]) for depth in range(len(parts), -1, -1)]
        recorded = self._layers.directories_from(ways)
        for depth, origin in zip(range(len(parts), -1, -1), ways, strict=True):
            for ino in recorded.get(origin, ()):
                try:
                    start = await self._layers.resolve(self._layers.path_of(ino))
                    if start.ino == ino:
                        return await self._descend(start, parts[depth:])
                except OSError as error:
                    log.debug("not_shown origin=%r error=%s", origin, error.strerror)
        return None

    async def _descend(self, start: Node, names: list[bytes]) -> Node | None:
        """The directory below `start` that shows what the source has there under these names."""
        node = start
        for name in names:
            below = await self._layers.child(node, name)
            origin = node.record.origin
            if not below.is_directory or below.record.origin != (origin + b"/" + name if origin else name):
                return None
            node = below
        return node if self._layers.listens_to_source(node) else None

    async def _search(self) -> None:
        source = self._layers.source
        if source is None:
            return
        begun = time.time_ns()
        self._names = await trio.to_thread.run_sync(source.hard_links)
        self._searched = begun
        self._complete.clear()
        log.info("hard_links_found files=%d seconds=%.1f", len(self._names), (time.time_ns() - begun) / 1e9)
