"""The layers of the tree, merged: source below, the store's catalogue above it, the journal on top.

`Layers` owns the table of nodes. It answers "which node is under this name" and "what is in this directory" from memory,
after reading a directory's layers once; changes are `recording`'s.

A directory of the source is read when it is first looked into, and again when its mtime has changed: looked at on
every opendir, and on a lookup when the last look is older than `REVALIDATE_AFTER`. An opendir reads it anew even with the
same mtime when it was last read longer ago than that, since files that grow do not change their directory's mtime.

A source file with hard links is one node under all its names, as long as only the source knows it. When it is recorded,
the names known by then are recorded with it; a name that is found later is a file of its own.

Touched only by the trio thread.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from typing import final

import trio

from vfsd.store import InodeRecord, Kind, Store
from vfsd.store.catalogue import ROOT_INO, WHITEOUT, kind_of_mode
from vfsd.tree.journal import Journal
from vfsd.tree.node import Node
from vfsd.tree.source import (
    Source,
    SourceEntry,
    SourceListing,
    hard_link_ino,
    has_hard_links,
    path_ino,
    record_of_source,
)

log = logging.getLogger("vfsd.tree")

# Seconds for which a source directory is believed without looking again.
REVALIDATE_AFTER = 2.0

# Before the first instant of trio's clock.
NEVER = float("-inf")

# Deeper than any path that the kernel lets through (PATH_MAX is 4096 bytes).
MOST_LEVELS = 4096

# What the source answers when an object is not there any more; anything else is trouble with reading it.
GONE = (FileNotFoundError, NotADirectoryError)


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
        if directory.children is None or self._is_doubtful(directory, fresh):
            async with self.gate(directory):
                if directory.children is None:
                    await self._load_children(directory)
                elif self._is_doubtful(directory, fresh):
                    await self._revalidate(directory, fresh)
        assert directory.children is not None
        return directory.children

    def _is_doubtful(self, directory: Node, fresh: bool) -> bool:
        return self.listens_to_source(directory) and (
            fresh or trio.current_time() - directory.names_checked > REVALIDATE_AFTER
        )

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

    def names_of(self, ino: int) -> list[tuple[int, bytes]]:
        """(parent, name) of each entry that leads to an inode, those of the journal first; not what only the source has."""
        committed = self.store.catalogue.names_of(ino)
        return self.journal.names_of(ino) + [place for place in committed if self.journal.entry(*place) is None]

    def path_of(self, ino: int) -> bytes:
        """A path of an inode by its entries; b"?" when no name leads to it."""
        parts: list[bytes] = []
        for _ in range(MOST_LEVELS):
            if ino == ROOT_INO:
                return b"/".join(reversed(parts))
            names = self.names_of(ino)
            if not names:
                return b"?"
            ino, name = names[0]
            parts.append(name)
        return b"?"

    # --- the table

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
                node.record = replace(committed, atime=node.record.atime)  # reads move it in memory only
                node.recorded = node.own_xattrs = node.from_source = False
                node.places = None

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
            node.record = record_of_source(b"", self.source.stat(b""), None)
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
        try:
            listing = await trio.to_thread.run_sync(self.source.listing, directory.record.origin)
        except GONE:
            if directory.from_source:
                raise OSError(errno.ESTALE, "is no longer in the source", directory.record.origin) from None
            listing = None  # what the mount added is still there
        directory.names_checked = directory.names_read = trio.current_time()
        if listing is not None:
            self._follow_names(directory, listing.mtime)
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

    def _known_node(self, ino: int, elsewhere: dict[int, SourceEntry], *, expected: bool = True) -> Node | None:
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
                if expected:
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
            if present is not None and present.from_source and not self._refresh(present, entry):
                self._lose(directory, entry.name, present)
                present = None
            if present is None:
                children[entry.name] = self._source_node(directory, entry, _join(origin, entry.name))
        for name in directory.source_names - names:
            present = children.get(name)
            if present is not None and present.from_source:
                self._lose(directory, name, present)
        directory.source_names = frozenset(names)
        directory.source_mtime = listing.mtime

    def _refresh(self, node: Node, entry: SourceEntry) -> bool:
        """A node of the source is seen again: follow its attributes; False if it became something else."""
        assert node.record.origin is not None
        if kind_of_mode(entry.found.st_mode) is not node.record.kind:
            return False
        if node.places is not None and hard_link_ino(entry.found) != node.ino:
            return False  # this name leads to another file now
        self.follow(node, entry.found, entry.target)
        return True

    def _source_node(self, directory: Node, entry: SourceEntry, path: bytes) -> Node:
        """The node of an object that the source has under a name which no layer above it knows."""
        record = record_of_source(path, entry.found, entry.target)
        several = has_hard_links(entry.found)
        node = self.nodes.get(record.ino) or self._known_node(record.ino, {}, expected=False)
        same_name = node is not None and node.record.origin == path
        if node is not None and node.record.kind is record.kind:
            if node.from_source and (several or same_name):
                node.record = replace(record, origin=node.record.origin) if node.places else record
                self._place(node, directory, entry)
                return node
            if same_name and node.record.nlink > 0:
                if node.parent is None:
                    node.parent, node.name = directory, entry.name
                return node
        if node is not None:  # the number is taken: a hard link that was recorded, what was here before, or a collision
            record.ino = self._free_ino(path)
        node = Node(record)
        node.from_source = True
        node.places = set() if several else None
        self._place(node, directory, entry)
        self.nodes[node.ino] = node
        return node

    def _free_ino(self, path: bytes) -> int:
        ino = path_ino(path)
        if ino in self.nodes or self.journal.inode(ino) is not None or self.store.catalogue.inode(ino) is not None:
            return self.journal.new_ino()
        return ino

    @staticmethod
    def _place(node: Node, directory: Node, entry: SourceEntry) -> None:
        """A node of the source was seen under a name."""
        node.parent, node.name = directory, entry.name
        if node.places is not None:
            node.places.add((directory, entry.name))
        node.allocated = entry.found.st_blocks
        node.checked = trio.current_time()

    def _lose(self, directory: Node, name: bytes, node: Node) -> None:
        """A source object is gone: its name goes, and with the last one its node when nobody refers to it."""
        assert directory.children is not None
        del directory.children[name]
        if node.places is not None:
            node.places.discard((directory, name))
            if node.places:
                node.parent, node.name = next(iter(node.places))
                origin = _join(node.parent.record.origin or b"", node.name)
                node.record = replace(node.record, nlink=max(1, node.record.nlink - 1), origin=origin)
                return
        node.parent, node.name = None, b""
        node.record = replace(node.record, nlink=0)
        self.drop_if_unused(node)

    async def _revalidate(self, directory: Node, fresh: bool) -> None:
        assert self.source is not None
        assert directory.record.origin is not None
        listing = SourceListing((), 0)
        try:
            found = await self._stat_source(directory.record.origin)
            self._follow_names(directory, found.st_mtime_ns)
            old = fresh and trio.current_time() - directory.names_read > REVALIDATE_AFTER
            if found.st_mtime_ns == directory.source_mtime and not old:
                return
            listing = await self._read_source(directory) or listing
        except GONE:
            pass
        except OSError as error:
            if error.errno != errno.ESTALE:
                # a source that cannot be read has lost nothing: what is known stays, and reading files tells the trouble
                log.warning("source_directory_unreadable path=%r error=%s", directory.record.origin, error.strerror)
                return
        finally:
            directory.names_checked = trio.current_time()
        if not self.listens_to_source(directory):
            return  # removed meanwhile
        hidden = {name for name, ino in self._known_entries(directory).items() if ino == WHITEOUT}
        self._merge_source(directory, listing, hidden)

    async def revalidate_file(self, node: Node) -> None:
        """Look at a source object again, unless that was done lately; raises ESTALE when it is gone or another kind."""
        origin = node.record.origin
        if self.source is None or origin is None:
            return
        if node.is_directory and not node.from_source:
            await self._look_at_directory(node)
        if not self._follows(node):
            return
        if trio.current_time() - node.checked <= REVALIDATE_AFTER:
            return
        found = self.source.stat_at_once(origin)
        if found is not None and kind_of_mode(found.st_mode) is not Kind.SYMLINK:
            self.follow(node, found)
            return
        try:
            entry = await trio.to_thread.run_sync(self.source.entry, origin)
        except GONE as error:
            node.checked = trio.current_time()
            if node.from_source and node.opens == 0:
                raise OSError(errno.ESTALE, "is no longer in the source", origin) from error
            return  # whoever has it open, and what is recorded, keeps the attributes last seen
        self.follow(node, entry.found, entry.target)

    async def _stat_source(self, path: bytes) -> os.stat_result:
        assert self.source is not None
        found = self.source.stat_at_once(path)
        return found if found is not None else await trio.to_thread.run_sync(self.source.stat, path)

    async def _look_at_directory(self, directory: Node) -> None:
        """Look at the source's directory below a recorded one again, unless that was done lately."""
        origin = directory.record.origin
        if self.source is None or origin is None or directory.record.opaque:
            return
        if trio.current_time() - max(directory.checked, directory.names_checked) <= REVALIDATE_AFTER:
            return
        directory.checked = trio.current_time()
        try:
            found = await self._stat_source(origin)
        except OSError:
            return  # what is recorded of it counts
        self._follow_names(directory, found.st_mtime_ns)

    @staticmethod
    def _follow_names(directory: Node, mtime: int) -> None:
        """Names came or went in the source below a directory with times of its own: they are moved by that, too."""
        if not directory.from_source and mtime > directory.record.ctime:
            directory.record = replace(directory.record, mtime=mtime, ctime=mtime)

    def doubt(self, node: Node) -> None:
        """A source object was not as expected: look at it, and for its name, at the next lookup."""
        node.checked = NEVER
        if node.parent is not None:
            node.parent.names_checked = NEVER

    def _follows(self, node: Node) -> bool:
        """Whether what the source says of an object is part of what is seen."""
        if node.record.nlink == 0 or node is self.root:
            return False
        return node.from_source or (node.record.kind is Kind.SOURCE and node.data is None)

    def follow(self, node: Node, found: os.stat_result, target: bytes | None = None) -> None:
        """Take what was just seen in the source: all attributes, or only the size where others are recorded."""
        node.checked = trio.current_time()
        origin = node.record.origin
        if origin is None or not self._follows(node):
            return
        if kind_of_mode(found.st_mode) is not node.record.kind:
            if node.from_source:
                raise OSError(errno.ESTALE, "became something else in the source", origin)
            return
        if not node.from_source:
            node.record = replace(node.record, size=found.st_size)
            return
        before = node.record
        if (before.ctime, before.mtime, before.size) == (found.st_ctime_ns, found.st_mtime_ns, found.st_size):
            return  # its ctime would have moved with anything: nearly all of a large directory each time it is listed
        node.record = replace(record_of_source(origin, found, target), ino=node.ino)
        node.allocated = found.st_blocks
