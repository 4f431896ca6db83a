"""Merging what the source has in a directory into what the layers above it show.

A directory is read some names at a time (`SourceScan`); each piece is merged without an await, and between two pieces
everything else goes on: a folder of a million names stalls nobody. The caller holds the directory's gate. A name is lost
only once the whole directory was read, so that a reading that fails half-way takes nothing away.

Touched only by the trio thread.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, final

import trio

from vfsd.store import InodeRecord
from vfsd.store.catalogue import kind_of_mode
from vfsd.tree.node import Node
from vfsd.tree.source import (
    Scan,
    SourceEntry,
    hard_link_ino,
    has_hard_links,
    path_ino,
    record_of_source,
)

if TYPE_CHECKING:
    from vfsd.tree.layers import Layers

# So few names are merged within a few milliseconds; a thread's hop for each piece costs a hundredth of that.
PIECE = 1024


def join(directory: bytes, name: bytes) -> bytes:
    """A path in the source."""
    return directory + b"/" + name if directory else name


@final
class Merge:
    """One reading of a source directory into `children`.

    Parameters
    ----------
    layers : Layers
        Whose nodes these are.
    directory : Node
        A directory of the source, its gate held.
    children : dict
        The names that it shows or will show.
    is_hidden : callable
        Whether a name that is not among `children` is hidden by a whiteout above the source.
    """

    def __init__(
        self, layers: Layers, directory: Node, children: dict[bytes, Node], is_hidden: Callable[[bytes], bool]
    ) -> None:
        assert directory.record.origin is not None
        self._layers = layers
        self._directory = directory
        self._origin = directory.record.origin
        self._children = children
        self._is_hidden = is_hidden
        self._begun = self._now = monotonic()
        self._below: set[bytes] = set()
        self._below_before = frozenset(directory.below or ())
        self._linked: set[bytes] = set()

    async def read(self, scan: Scan | None) -> None:
        """Merge all names; None is a directory that is not there any more."""
        if scan is not None:
            while entries := await trio.to_thread.run_sync(scan.read, PIECE):
                self._merge(entries)
        self._lose_unseen()
        came_meanwhile = (self._directory.below or set()) - self._below_before
        self._directory.below = self._below | came_meanwhile or None
        self._directory.source_mtime = 0 if scan is None else scan.mtime

    def _merge(self, entries: list[SourceEntry]) -> None:
        children = self._children
        now = self._now = monotonic()
        fresh: list[tuple[SourceEntry, InodeRecord]] = []
        for entry in entries:
            name, found, _ = entry
            present = children.get(name)
            if present is not None and present.from_source:
                record = present.record
                if (
                    present.places is None
                    and record.ctime == found.st_ctime_ns
                    and record.mtime == found.st_mtime_ns
                    and record.size == found.st_size
                    and record.kind is kind_of_mode(found.st_mode)
                ):
                    present.checked = now  # nearly all of a large directory, each time it is listed
                    continue
                if self._refresh(present, entry):
                    continue
                self._lose(name, present)
                present = None
            if present is not None or self._is_hidden(name):
                self._below.add(name)
            else:
                fresh.append((entry, record_of_source(join(self._origin, name), found, entry.target)))
        known = self._layers.recorded_inos([record.ino for _, record in fresh])
        for entry, record in fresh:
            children[entry.name] = self._source_node(entry, record, known)
        if len(fresh) == PIECE:
            gc.freeze()  # nodes live long: the collector need not look at each again for every few new ones

    def _refresh(self, node: Node, entry: SourceEntry) -> bool:
        """A node of the source is seen again: follow its attributes; False if it became something else."""
        if kind_of_mode(entry.found.st_mode) is not node.record.kind:
            return False
        if node.places is not None:
            if hard_link_ino(entry.found) != node.ino:
                return False  # this name leads to another file now
            self._linked.add(entry.name)
        self._layers.follow(node, entry.found, entry.target)
        return True

    def _source_node(self, entry: SourceEntry, record: InodeRecord, known: set[int]) -> Node:
        """The node of an object that the source has under a name which no layer above it knows."""
        layers, path = self._layers, record.origin
        several = has_hard_links(entry.found)
        node = layers.nodes.get(record.ino)
        if node is None and record.ino in known:
            node = layers.known_node(record.ino)
        if node is not None:
            same_name = node.record.origin == path
            if node.record.kind is record.kind:
                if node.from_source and (several or same_name):
                    node.record = record.changed(origin=node.record.origin) if node.places else record
                    self._place(node, entry)
                    return node
                if same_name and node.record.nlink > 0:
                    if node.parent is None:
                        node.parent, node.name = self._directory, entry.name
                    self._below.add(entry.name)
                    return node
            # the number is taken: a hard link that was recorded, what was here before, or a collision
            record.ino = self._free_ino(path or b"")
        node = Node(record)
        node.from_source = True
        node.places = set() if several else None
        self._place(node, entry)
        layers.nodes[record.ino] = node
        return node

    def _free_ino(self, path: bytes) -> int:
        ino = path_ino(path)
        if ino in self._layers.nodes or self._layers.recorded_inos([ino]):
            return self._layers.journal.new_ino()
        return ino

    def _place(self, node: Node, entry: SourceEntry) -> None:
        """A node of the source was seen under a name."""
        node.parent, node.name = self._directory, entry.name
        if node.places is not None:
            node.places.add((self._directory, entry.name))
            self._linked.add(entry.name)
        node.allocated = entry.found.st_blocks
        node.checked = self._now

    def _lose_unseen(self) -> None:
        """Names that were there before and were not read now are gone."""
        begun = self._begun
        gone = [
            (name, node)
            for name, node in self._children.items()
            if node.from_source and (node.checked < begun if node.places is None else name not in self._linked)
        ]
        for name, node in gone:
            self._lose(name, node)

    def _lose(self, name: bytes, node: Node) -> None:
        """A source object is gone: its name goes, and with the last one its node when nobody refers to it."""
        del self._children[name]
        if node.places is not None:
            node.places.discard((self._directory, name))
            if node.places:
                node.parent, node.name = next(iter(node.places))
                origin = join(node.parent.record.origin or b"", node.name)
                node.record = node.record.changed(nlink=max(1, node.record.nlink - 1), origin=origin)
                return
        node.parent, node.name = None, b""
        node.record = node.record.changed(nlink=0)
        self._layers.drop_if_unused(node)
