"""The layers of the tree, merged: source below, the store's catalogue above it, the journal on top.

`Layers` owns the table of nodes. It answers "which node is under this name" and "what is in this directory" from memory,
after reading a directory's layers once; and it records changes of nodes and names, so that every node with a row in
the journal has a chain of entries up to the root (a mount of the store alone finds it by them).

A directory of the source is read when it is first looked into, and again when its mtime has changed: looked at on
every opendir, and on a lookup when the last look is older than `REVALIDATE_AFTER`.

Touched only by the trio thread.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import final

import trio

from vfsd.store import InodeRecord, Kind, Store
from vfsd.store.catalogue import ROOT_INO, WHITEOUT
from vfsd.tree.journal import Journal
from vfsd.tree.node import Node
from vfsd.tree.source import Source, SourceEntry, SourceListing, record_of_source

log = logging.getLogger("vfsd.tree")

# Seconds for which a source directory is believed without looking again.
REVALIDATE_AFTER = 2.0


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


@final
class Layers:
    """See the module."""

    def __init__(self, source: Source | None, store: Store, journal: Journal) -> None:
        self.source = source
        self.store = store
        self.journal = journal
        self.nodes: dict[int, Node] = {}
        self.root = self._load_root()

    # --- finding nodes

    def node(self, ino: int) -> Node:
        """A node that was handed out before.

        Raises
        ------
        OSError
            ESTALE when no such node is known any more.
        """
        found = self.nodes.get(ino)
        if found is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return found

    def directory(self, ino: int) -> Node:
        """A node that must be a directory; raises ENOTDIR otherwise."""
        found = self.node(ino)
        if not found.is_directory:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return found

    async def children(self, directory: Node, *, fresh: bool = False) -> dict[bytes, Node]:
        """The names in a directory; `fresh` looks at the source's directory again, however recent the last look."""
        if directory.children is None:
            async with self.gate(directory):
                if directory.children is None:
                    await self._load_children(directory)
        elif self.listens_to_source(directory) and (
            fresh or trio.current_time() - directory.checked > REVALIDATE_AFTER
        ):
            async with self.gate(directory):
                await self._revalidate(directory)
        assert directory.children is not None
        return directory.children

    async def child(self, directory: Node, name: bytes) -> Node:
        """The node under a name; raises ENOENT."""
        found = (await self.children(directory)).get(name)
        if found is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return found

    async def resolve(self, path: bytes) -> Node:
        """The node at a path from the root (no symbolic links are followed); raises ENOENT, ENOTDIR."""
        node = self.root
        for name in path.split(b"/") if path else []:
            node = await self.child(self.directory(node.ino), name)
        return node

    def shadowed(self, directory: Node, name: bytes) -> bool:
        """Whether a lower layer has this name, so that its absence must be recorded as a whiteout."""
        if name in directory.source_names and not directory.record.opaque:
            return True
        return bool(self.store.catalogue.entry(directory.ino, name))

    # --- recording changes

    def record(self, node: Node) -> None:
        """Write a node's row, and what its ancestors need to be found without the source."""
        tier = node.data.tier if node.dirty and node.data is not None else None
        if node.data is not None and node.dirty:
            node.record.size, node.record.mtime = node.data.size, node.data.mtime
        first = not node.recorded
        self.journal.put_inode(node.record, tier, node.own_xattrs)
        node.recorded = True
        if first and node.from_source:
            node.from_source = False
            self._record_way(node)

    def _record_way(self, node: Node) -> None:
        """Entries (and directories' rows) from a node that only the source had up to what is recorded already."""
        parent = node.parent
        while parent is not None:
            self.journal.put_entry(parent.ino, node.name, node.ino)
            if not parent.from_source:
                return
            parent.from_source = False
            self.journal.put_inode(parent.record, None, parent.own_xattrs)
            parent.recorded = True
            node, parent = parent, parent.parent

    def touch_directory(self, directory: Node, *, links: int = 0) -> None:
        """A name in a directory came or went: its times, and its link count."""
        now = time.time_ns()
        directory.record = replace(directory.record, mtime=now, ctime=now, nlink=max(2, directory.record.nlink + links))
        self.record(directory)

    def attach(self, directory: Node, name: bytes, node: Node) -> None:
        """A name now leads to a node."""
        self.journal.put_entry(directory.ino, name, node.ino)
        if directory.children is not None:
            directory.children[name] = node
        node.parent, node.name = directory, name

    def detach(self, directory: Node, name: bytes) -> None:
        """A name is gone."""
        if self.shadowed(directory, name):
            self.journal.put_entry(directory.ino, name, WHITEOUT)
        else:
            self.journal.drop_entry(directory.ino, name)
        if directory.children is not None:
            node = directory.children.pop(name, None)
            if node is not None and node.parent is directory and node.name == name:
                node.parent, node.name = None, b""

    def new_node(self, record: InodeRecord) -> Node:
        """A node that no layer has yet."""
        node = Node(record)
        if node.is_directory:
            node.children = {}
        self.nodes[node.ino] = node
        return node

    def drop_if_unused(self, node: Node) -> bool:
        """Forget a node that has no name, no reference of the kernel and no handle."""
        if node.record.nlink > 0 or node.lookups > 0 or node.opens > 0 or node is self.root:
            return False
        if self.nodes.get(node.ino) is node:
            del self.nodes[node.ino]
        return True

    def after_commit(self, inos: Iterable[int]) -> None:
        """The catalogue has a new generation: of these nodes, those without a row in the journal take what it says."""
        for ino in inos:
            node = self.nodes.get(ino)
            if node is None or node.record.nlink == 0 or self.journal.inode(ino) is not None:
                continue
            committed = self.store.catalogue.inode(ino)
            if committed is not None:
                node.record = committed
                node.recorded = node.own_xattrs = node.from_source = False

    # --- reading layers

    def _load_root(self) -> Node:
        row = self.journal.inode(ROOT_INO)
        committed = self.store.catalogue.inode(ROOT_INO)
        if row is None and committed is None:
            raise OSError(errno.EIO, "the catalogue has no root", os.fspath(self.store.root))
        record = row.record if row is not None else committed
        assert record is not None
        node = Node(record)
        if row is not None:
            node.recorded, node.own_xattrs = True, row.own_xattrs
        elif self.source is not None and self.store.catalogue.generation == 0:
            node.record = replace(record_of_source(b"", self.source.stat(b""), None), nlink=max(2, record.nlink))
        self.nodes[ROOT_INO] = node
        return node

    def listens_to_source(self, directory: Node) -> bool:
        """Whether what the source has in a directory is part of what it shows."""
        return self.source is not None and directory.record.origin is not None and not directory.record.opaque

    @staticmethod
    def gate(node: Node) -> trio.Lock:
        """The lock under which a directory's layers are read, or a file's `data` is made."""
        if node.gate is None:
            node.gate = trio.Lock()
        return node.gate

    async def _load_children(self, directory: Node) -> None:
        listing: SourceListing | None = None
        if self.listens_to_source(directory):
            listing = await self._read_source(directory)
        known = self._known_entries(directory)
        elsewhere = await self._source_of(known)
        # no await from here on: what is merged is one moment
        children: dict[bytes, Node] = {}
        hidden: set[bytes] = set()
        for name, ino in known.items():
            if ino == WHITEOUT:
                hidden.add(name)
                continue
            node = self._known_node(ino, elsewhere)
            if node is not None:
                children[name] = node
                if node.parent is None:
                    node.parent, node.name = directory, name
        directory.children = children
        if listing is not None:
            self._merge_source(directory, listing, hidden)

    async def _read_source(self, directory: Node) -> SourceListing | None:
        assert self.source is not None
        assert directory.record.origin is not None
        directory.checked = trio.current_time()
        try:
            listing = await trio.to_thread.run_sync(self.source.listing, directory.record.origin)
        except (FileNotFoundError, NotADirectoryError):
            if directory.from_source:
                raise OSError(errno.ESTALE, "is no longer in the source", directory.record.origin) from None
            return None  # what the mount added is still there
        directory.checked = trio.current_time()
        return listing

    def _known_entries(self, directory: Node) -> dict[bytes, int]:
        """What catalogue and journal say of a directory's names, whiteouts (0) included."""
        known = {name: ino for name, ino, _ in self.store.catalogue.entries(directory.ino)}
        known.update(self.journal.entries(directory.ino))
        return known

    async def _source_of(self, known: dict[bytes, int]) -> dict[int, SourceEntry]:
        """Where the bytes of recorded nodes are still the source's: what the source says of them now."""
        if self.source is None:
            return {}
        wanted: dict[int, bytes] = {}
        for ino in known.values():
            if ino == WHITEOUT or ino in self.nodes:
                continue
            row = self.journal.inode(ino)
            record = row.record if row is not None else self.store.catalogue.inode(ino)
            if record is not None and record.kind is Kind.SOURCE and record.origin is not None:
                wanted[ino] = record.origin
        if not wanted:
            return {}
        source = self.source

        def look() -> dict[int, SourceEntry]:
            found = {}
            for ino, origin in wanted.items():
                try:
                    found[ino] = source.entry(origin)
                except OSError as error:
                    log.warning("source_file_gone path=%r error=%s", origin, error.strerror)
            return found

        return await trio.to_thread.run_sync(look)

    def _known_node(self, ino: int, elsewhere: dict[int, SourceEntry]) -> Node | None:
        """The node of an inode that journal or catalogue know."""
        node = self.nodes.get(ino)
        if node is not None:
            return node
        row = self.journal.inode(ino)
        if row is not None:
            node = Node(row.record)
            node.recorded, node.own_xattrs = True, row.own_xattrs
        else:
            committed = self.store.catalogue.inode(ino)
            if committed is None:
                log.error("inode_without_row ino=%d", ino)
                return None
            node = Node(committed)
        seen = elsewhere.get(ino)
        if seen is not None:
            node.record.size = seen.found.st_size
        self.nodes[ino] = node
        return node

    def _merge_source(self, directory: Node, listing: SourceListing, hidden: set[bytes]) -> None:
        """Put what only the source has among a directory's children, and take away what it no longer has."""
        assert directory.children is not None
        assert directory.record.origin is not None
        children = directory.children
        origin = directory.record.origin
        names = set()
        for entry in listing.entries:
            names.add(entry.name)
            if entry.name in hidden:
                continue
            present = children.get(entry.name)
            if present is None:
                children[entry.name] = self._source_node(directory, entry, _join(origin, entry.name))
            elif present.from_source and present.parent is directory:
                self._refresh(directory, present, entry)
        if directory.source_names:
            for name in directory.source_names - names:
                present = children.get(name)
                if present is not None and present.from_source:
                    self._lose(directory, name, present)
        directory.source_names = frozenset(names)
        directory.source_mtime = listing.mtime

    def _source_node(self, directory: Node, entry: SourceEntry, path: bytes) -> Node:
        record = record_of_source(path, entry.found, entry.target)
        node = self.nodes.get(record.ino)
        if node is None:
            row = self.journal.inode(record.ino)
            committed = self.store.catalogue.inode(record.ino) if row is None else None
            if row is not None or committed is not None:
                node = self._known_node(record.ino, {})
        if node is not None and (node.record.origin == path or entry.found.st_nlink > 1):
            if node.parent is None:
                node.parent, node.name = directory, entry.name
            return node
        if node is not None:  # another object has this number: two paths with one hash
            record.ino = self.journal.new_ino()
        node = Node(record)
        node.from_source = True
        node.allocated = entry.found.st_blocks
        node.parent, node.name = directory, entry.name
        node.checked = trio.current_time()
        self.nodes[node.ino] = node
        return node

    def _refresh(self, directory: Node, node: Node, entry: SourceEntry) -> None:
        """A node of the source is seen again: follow its attributes, or replace it when it became something else."""
        assert directory.children is not None
        assert node.record.origin is not None
        fresh = record_of_source(node.record.origin, entry.found, entry.target)
        if fresh.kind is not node.record.kind:
            self._lose(directory, node.name, node)
            fresh.ino = self.journal.new_ino()
            replacement = Node(fresh)
            replacement.from_source = True
            replacement.allocated = entry.found.st_blocks
            replacement.parent, replacement.name = directory, entry.name
            self.nodes[fresh.ino] = replacement
            directory.children[entry.name] = replacement
            return
        fresh.ino = node.ino
        node.record = fresh
        node.allocated = entry.found.st_blocks
        node.checked = trio.current_time()

    def _lose(self, directory: Node, name: bytes, node: Node) -> None:
        """A source object is gone: its name goes, and its node when nobody refers to it."""
        assert directory.children is not None
        del directory.children[name]
        node.parent = None
        node.record = replace(node.record, nlink=0)
        self.drop_if_unused(node)

    async def _revalidate(self, directory: Node) -> None:
        if directory.record.origin is None or self.source is None:
            return
        source, origin = self.source, directory.record.origin
        try:
            found = await trio.to_thread.run_sync(source.stat, origin)
        except OSError:
            found = None
        directory.checked = trio.current_time()
        if found is not None and found.st_mtime_ns == directory.source_mtime:
            return
        listing = await self._read_source(directory) if found is not None else SourceListing((), 0)
        if listing is None:
            listing = SourceListing((), 0)
        hidden = {name for name, ino in self._known_entries(directory).items() if ino == WHITEOUT}
        self._merge_source(directory, listing, hidden)
        if directory.from_source and found is not None:
            directory.record.mtime = found.st_mtime_ns

    async def revalidate_file(self, node: Node) -> None:
        """Look at a source file again, unless that was done lately; raises ESTALE when it is gone or another kind."""
        if self.source is None or not node.from_source or node.record.origin is None or node is self.root:
            return
        if trio.current_time() - node.checked <= REVALIDATE_AFTER:
            return
        try:
            entry = await trio.to_thread.run_sync(self.source.entry, node.record.origin)
        except OSError as error:
            raise OSError(errno.ESTALE, "is no longer in the source", node.record.origin) from error
        self.follow(node, entry.found, entry.target)

    def follow(self, node: Node, found: os.stat_result, target: bytes | None = None) -> None:
        """A node that only the source knows takes the attributes that were just seen there."""
        if not node.from_source or node.record.origin is None:
            return
        fresh = record_of_source(node.record.origin, found, target)
        if fresh.kind is not node.record.kind:
            raise OSError(errno.ESTALE, "became something else in the source", node.record.origin)
        fresh.ino = node.ino
        if node.is_directory:
            fresh.nlink = node.record.nlink
        node.record = fresh
        node.allocated = found.st_blocks
        node.checked = trio.current_time()
