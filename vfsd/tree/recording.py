"""Changes of nodes and names, in the journal and in memory at once.

All that happens within one `Recording.change` happens together, or, after an exception (a full disk, above all), not at all:
memory then is what it was, as the journal is. Every node with a row in the journal has a chain of entries up to the root,
so that a mount of the store alone finds it.

Touched only by the trio thread; no awaits within a change.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import final

from vfsd.store import InodeRecord
from vfsd.store.catalogue import WHITEOUT
from vfsd.tree.layers import Layers
from vfsd.tree.node import Node


@final
class Recording:
    """See the module.

    Example
    -------
    >>> with recording.change():                                                  # doctest: +SKIP
    ...     recording.put(node, replace(node.record, nlink=2))
    ...     recording.attach(directory, b"another name", node)
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self.journal = layers.journal
        self._undo: list[Callable[[], None]] | None = None

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """All that is recorded within happens together, in journal and memory; after an exception nothing has happened.

        May be nested; no awaits within. Nodes are changed by the methods below and by `put`, which remember what was.
        """
        if self._undo is not None:
            yield
            return
        undo = self._undo = []
        try:
            with self.journal.change():
                yield
        except BaseException:
            for restore in reversed(undo):
                restore()
            raise
        finally:
            self._undo = None

    def _remember(self, node: Node) -> None:
        assert self._undo is not None, "nodes change within change() only"
        self._undo.append(node.restorer())

    def _set_child(self, directory: Node, name: bytes, node: Node | None) -> None:
        """Change what a name in memory leads to, so that `change` can put it back."""
        assert self._undo is not None
        children = directory.children
        if children is None:
            return
        before = children.get(name)

        def put(found: Node | None) -> None:
            if found is None:
                children.pop(name, None)
            else:
                children[name] = found

        self._undo.append(lambda: put(before))
        put(node)

    def put(self, node: Node, record: InodeRecord) -> None:
        """Give a node another record and write its row."""
        self._remember(node)
        node.record = record
        self.record(node)

    def put_xattrs(self, node: Node, attributes: dict[bytes, bytes]) -> None:
        """From here on these are all extended attributes of a node; the caller records the node."""
        self._remember(node)
        node.own_xattrs = True
        self.journal.set_xattrs(node.ino, attributes)

    def settle(self, node: Node) -> None:
        """A node's bytes are durable now."""
        self._remember(node)
        node.unsettled = False
        self.record(node)

    def record(self, node: Node) -> None:
        """Write a node's row, and what its ancestors need to be found without the source."""
        self._remember(node)
        data = node.data if node.dirty else None
        if data is not None:
            node.record = replace(node.record, size=data.size, mtime=data.mtime)
        places = self._leave_source(node)
        self.journal.put_inode(
            node.record, None if data is None else data.tier, node.own_xattrs, data is not None and node.unsettled
        )
        node.recorded = True
        for directory, name in places:
            self._record_way(directory, name, node)

    def _leave_source(self, node: Node) -> list[tuple[Node, bytes]]:
        """From its first row on a node no longer follows the source; returns the names that this row needs."""
        if node.recorded or not node.from_source:
            return []
        node.from_source = False
        if node.places is not None:
            places, node.places = list(node.places), None
            if node.record.nlink > 0:
                node.record = replace(node.record, nlink=len(places))
            return places
        return [] if node.parent is None else [(node.parent, node.name)]

    def _record_way(self, directory: Node, name: bytes, node: Node) -> None:
        """Entries (and directories' rows) from a node that only the source had up to what is recorded already."""
        while True:
            self.journal.put_entry(directory.ino, name, node.ino)
            if not directory.from_source:
                return
            self._remember(directory)
            directory.from_source = False
            self.journal.put_inode(directory.record, None, directory.own_xattrs)
            directory.recorded = True
            if directory.parent is None:
                return
            node, name, directory = directory, directory.name, directory.parent

    def touch_directory(self, directory: Node, *, links: int = 0) -> None:
        """A name in a directory came or went: its times, and its link count."""
        now = time.time_ns()
        nlink = max(2, directory.record.nlink + links)
        self.put(directory, replace(directory.record, mtime=now, ctime=now, nlink=nlink))

    def attach(self, directory: Node, name: bytes, node: Node) -> None:
        """A name now leads to a node."""
        self.journal.put_entry(directory.ino, name, node.ino)
        self._remember(node)
        self._set_child(directory, name, node)
        node.parent, node.name = directory, name

    def detach(self, directory: Node, name: bytes) -> None:
        """A name is gone."""
        if self.shadowed(directory, name):
            self.journal.put_entry(directory.ino, name, WHITEOUT)
        else:
            self.journal.drop_entry(directory.ino, name)
        node = None if directory.children is None else directory.children.get(name)
        self._set_child(directory, name, None)
        if node is not None and node.parent is directory and node.name == name:
            self._remember(node)
            node.parent, node.name = self._other_place(node)

    def _other_place(self, node: Node) -> tuple[Node | None, bytes]:
        """A name that is left of a node that lost the one it was last found under."""
        for parent, name in self._layers.names_of(node.ino):
            if parent in self._layers.nodes:
                return self._layers.nodes[parent], name
        return None, b""

    def forget_row(self, node: Node) -> None:
        """The journal has nothing to say of a node any more: it was removed."""
        self._remember(node)
        self.journal.drop_inode(node.ino)
        node.recorded = node.from_source = False

    def remove_directory(self, directory: Node, name: bytes, node: Node) -> None:
        """An empty directory is gone; whoever has it open sees nothing in it."""
        self.detach(directory, name)
        self.journal.drop_entries_of(node.ino)
        self.forget_row(node)
        node.record = replace(node.record, nlink=0, opaque=True)
        node.children = {}

    def shadowed(self, directory: Node, name: bytes) -> bool:
        """Whether a lower layer has this name, so that its absence must be recorded as a whiteout."""
        if name in directory.source_names and not directory.record.opaque:
            return True
        return bool(self._layers.store.catalogue.entry(directory.ino, name))
