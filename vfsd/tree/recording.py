"""Changes of nodes and names, in the journal and in memory at once.

All that happens within one `Recording.change` happens together, or, after an exception (a full disk, above all), not at all:
memory then is what it was, as the journal is. Every node with a row in the journal has a chain of entries up to the root,
so that a mount of the store alone finds it.

Touched only by the trio thread; no awaits within a change.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import final

from vfsd.store import InodeRecord
from vfsd.store.catalogue import WHITEOUT
from vfsd.tree.journal import Unsettled
from vfsd.tree.layers import Layers
from vfsd.tree.node import Node


@final
class _Change:
    """The block of `Recording.change`; the outermost one counts."""

    __slots__ = ("_depth", "_recording")

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._depth = 0

    def __enter__(self) -> None:
        if not self._depth:
            self._recording.begin()
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth:
            self._recording.end(problem)


def _undo_all(undo: list[Callable[[], None]]) -> None:
    for restore in reversed(undo):
        restore()


@final
class Recording:
    """See the module.

    Example
    -------
    >>> with recording.change():                                                  # doctest: +SKIP
    ...     recording.put(node, node.record.changed(nlink=2))
    ...     recording.attach(directory, b"another name", node)
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self.journal = layers.journal
        self._undo: list[Callable[[], None]] | None = None
        self._remembered: set[Node] = set()
        self._change = _Change(self)
        self._change_of_rows = self.journal.change()

    def change(self) -> _Change:
        """All that is recorded within happens together, in journal and memory; after an exception nothing has happened.

        May be nested; no awaits within. Nodes are changed by the methods below and by `put`, which remember what was.
        """
        return self._change

    def begin(self) -> None:
        """The outermost `change` begins."""
        self._change_of_rows = self.journal.change()
        self._change_of_rows.__enter__()
        self._undo, self._remembered = [], set()

    def end(self, problem: BaseException | None) -> None:
        """The outermost `change` ends: memory is what it was if there was, or now is, trouble."""
        undo, self._undo = self._undo, None
        assert undo is not None
        try:
            self._change_of_rows.__exit__(None if problem is None else type(problem), problem, None)
        except BaseException:
            _undo_all(undo)
            raise
        if problem is not None:
            _undo_all(undo)

    def _remember(self, node: Node) -> None:
        assert self._undo is not None, "nodes change within change() only"
        if node not in self._remembered:  # what it was at first is what it gets back
            self._remembered.add(node)
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

    def put_xattr(self, node: Node, name: bytes, value: bytes | None) -> None:
        """Set or, with None, remove one attribute of a node whose attributes are all in the journal (`put_xattrs`)."""
        assert node.own_xattrs
        if value is None:
            self.journal.drop_xattr(node.ino, name)
        else:
            self.journal.put_xattr(node.ino, name, value)

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
            node.record = node.record.changed(size=data.size, ctime=node.ctime(), mtime=data.mtime)
        places = self._leave_source(node)
        unsettled = Unsettled.NO
        if data is not None and node.unsettled:
            unsettled = Unsettled.YES if node.replaced is None else Unsettled.REPLACING
        self.journal.put_inode(node.record, None if data is None else data.tier, node.own_xattrs, unsettled)
        node.recorded = True
        for directory, name in places:
            self._record_way(directory, name, node)

    def _leave_source(self, node: Node) -> list[tuple[Node, bytes]]:
        """From its first row on a node no longer follows the source; returns the names that this row needs."""
        if node.recorded:
            return []
        linked = node.places is not None
        places = node.leave_source()
        if linked and node.record.nlink > 0:
            node.record = node.record.changed(nlink=len(places))
        return places

    def _record_way(self, directory: Node, name: bytes, node: Node) -> None:
        """Entries (and directories' rows) from a node that only the source had up to what is recorded already."""
        while True:
            self.journal.put_entry(directory.ino, name, node.ino)
            if not directory.from_source:
                return
            self._remember(directory)
            directory.leave_source()
            self.journal.put_inode(directory.record, None, directory.own_xattrs)
            directory.recorded = True
            if directory.parent is None:
                return
            node, name, directory = directory, directory.name, directory.parent

    def touch_directory(self, directory: Node, *, links: int = 0) -> None:
        """A name in a directory came or went: its times, and its link count."""
        now = time.time_ns()
        nlink = max(2, directory.record.nlink + links)
        self.put(directory, directory.record.changed(mtime=now, ctime=now, nlink=nlink))

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
            directory.add_below(name)
        elif self._layers.flushing:
            self.journal.put_entry(directory.ino, name, WHITEOUT)
            self._layers.hidden_meanwhile.add((directory.ino, name))
        else:
            self.journal.drop_entry(directory.ino, name)
        node = None if directory.children is None else directory.children.get(name)
        self._set_child(directory, name, None)
        if node is not None and node.parent is directory and node.name == name:
            self._remember(node)
            node.parent, node.name = self._other_place(node)

    def _other_place(self, node: Node) -> tuple[Node | None, bytes]:
        """A name that is left of a node that lost the one it was last found under."""
        if node.record.nlink <= 1 or node.is_directory:
            return None, b""
        for parent, name in self._layers.names_of(node.ino):
            if parent in self._layers.nodes:
                return self._layers.nodes[parent], name
        return None, b""

    def forget_row(self, node: Node) -> None:
        """The journal has nothing to say of a node any more: it was removed."""
        self._remember(node)
        self.journal.drop_inode(node.ino, has_xattrs=node.own_xattrs)
        node.recorded = node.from_source = False

    def remove_directory(self, directory: Node, name: bytes, node: Node) -> None:
        """An empty directory is gone; whoever has it open sees nothing in it."""
        self.detach(directory, name)
        if not self._layers.flushing:
            self.journal.drop_entries_of(node.ino)
        self.forget_row(node)
        node.record = node.record.changed(nlink=0, opaque=True, ctime=time.time_ns())
        node.children = {}

    def shadowed(self, directory: Node, name: bytes) -> bool:
        """Whether a lower layer has this name, so that its absence must be recorded as a whiteout."""
        if not directory.record.opaque:
            if directory.below is not None and name in directory.below:
                return True
            found = None if directory.children is None else directory.children.get(name)
            if found is not None and found.from_source:
                return True
        return self._layers.is_committed(directory, name)
