"""The layers of the tree, merged: source below, the store's catalogue above it, the journal on top.

`Layers` owns the table of nodes. It answers "which node is under this name" and "what is in this directory" from memory,
after reading a directory's layers once; changes are `recording`'s.

A directory of the source is read when it is first looked into, and again when its mtime has changed: looked at on
every opendir, and on a lookup when the last look is older than `REVALIDATE_AFTER`. An opendir reads it anew even with the
same mtime when it was last read longer ago than that, since files that grow do not change their directory's mtime.

A source file with hard links is one node under all its names, as long as only the source knows it. When it is recorded,
the names known by then are recorded with it (`hard_links` finds them all); a name that comes later is a file of its own.

Touched only by the trio thread.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from time import monotonic
from types import MappingProxyType
from typing import final

import trio

from vfsd.store import InodeRecord, Kind, Store
from vfsd.store.catalogue import ROOT_INO, WHITEOUT, kind_of_mode
from vfsd.tree.journal import Journal
from vfsd.tree.merging import Merge
from vfsd.tree.node import Node
from vfsd.tree.source import AnySource, Scan, SourceEntry, record_of_source

log = logging.getLogger("vfsd.tree")

# Seconds for which a source directory is believed without looking again.
REVALIDATE_AFTER = 2.0

# Before the first instant of the clock.
NEVER = float("-inf")

# Deeper than any path that the kernel lets through (PATH_MAX is 4096 bytes).
MOST_LEVELS = 4096

NOTHING: Mapping[int, SourceEntry] = MappingProxyType({})

# What the source answers when an object is not there any more; anything else is trouble with reading it.
GONE = (FileNotFoundError, NotADirectoryError)


def _warn_unreadable(directory: Node, error: OSError) -> None:
    """A source that cannot be read has lost nothing: what is known stays, and reading files tells the trouble."""
    log.warning("source_directory_unreadable path=%r error=%s", directory.record.origin, error.strerror)


@final
class Layers:
    """See the module."""

    def __init__(self, source: AnySource | None, store: Store, journal: Journal) -> None:
        self.source = source
        self.store = store
        self.journal = journal
        self.nodes: dict[int, Node] = {}
        # From a flush's snapshot to its release a name that goes leaves a whiteout: the catalogue that is being published may
        # have it, and a daemon that is killed before the release must not bring it back.
        self.flushing = False
        self.hidden_meanwhile: set[tuple[int, bytes]] = set()
        # Directories that have no entry in the catalogue of which it was asked: most that names are made in.
        self._bare: set[int] = set()
        self._bare_in = store.catalogue
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

    async def children(self, directory: Node, *, fresh: bool = False, strict: bool = False) -> dict[bytes, Node]:
        """The names in a directory; `fresh` looks at the source's directory again, however recent the last look.

        With `strict` a directory that cannot be read again is an error; else what is known of it stays.
        """
        if directory.children is None or self._is_doubtful(directory, fresh):
            async with self.gate(directory):
                if directory.children is None:
                    await self._load_children(directory)
                elif self._is_doubtful(directory, fresh):
                    await self._revalidate(directory, fresh, strict)
        assert directory.children is not None
        return directory.children

    def _is_doubtful(self, directory: Node, fresh: bool) -> bool:
        return self.listens_to_source(directory) and (fresh or monotonic() - directory.names_checked > REVALIDATE_AFTER)

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

    def directories_from(self, origins: list[bytes]) -> dict[bytes, list[int]]:
        """By origin, the recorded directories (the root among them) that began as one of these of the source."""
        found: dict[bytes, list[int]] = {b"": [ROOT_INO]}
        ours = self.journal.directories_from(origins)
        known = {ino for ino, _ in ours}
        for ino, origin in ours + [
            row for row in self.store.catalogue.directories_from(origins) if row[0] not in known
        ]:
            if ino != ROOT_INO:
                found.setdefault(origin, []).append(ino)
        return found

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

    def end_flush(self) -> None:
        """A flush is over: whiteouts that only it needed go, or they would hide what may come in the source later."""
        self.flushing = False
        names, self.hidden_meanwhile = self.hidden_meanwhile, set()
        try:
            with self.journal.change():
                for parent, name in names:
                    if self.journal.entry(parent, name) == WHITEOUT and not self.store.catalogue.entry(parent, name):
                        self.journal.drop_entry(parent, name)
        except OSError as error:
            log.warning("whiteouts_stay error=%s", error)

    def after_commit(self, inos: Iterable[int]) -> None:
        """The catalogue has a new generation: of these nodes, those without a row in the journal take what it says."""
        for ino in inos:
            node = self.nodes.get(ino)
            if node is None or self.journal.inode(ino) is not None:
                continue
            committed = self.store.catalogue.inode(ino)
            if committed is None:
                continue
            if node.record.nlink == 0:
                if node.record.kind in (Kind.PLANES, Kind.PLAIN) and not node.dirty:
                    node.record = node.record.placed_as(committed)  # still open, and its bytes may have moved
            else:
                node.leave_source()
                node.record = replace(committed, atime=node.record.atime)  # reads move it in memory only
                node.recorded = node.own_xattrs = False

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
        scan = await self._scan_source(directory) if self.listens_to_source(directory) else None
        try:
            known = self._known_entries(directory)
            elsewhere = await self._source_of(known)
            children: dict[bytes, Node] = {}
            hidden: set[bytes] = set()
            for name, ino in known.items():
                if ino == WHITEOUT:
                    hidden.add(name)
                    continue
                node = self.known_node(ino, elsewhere)
                if node is not None:
                    children[name] = node
                    if node.parent is None:
                        node.parent, node.name = directory, name
            if scan is not None:
                # nobody makes or removes names in a directory before it is loaded, so that `hidden` stays right
                await Merge(self, directory, children, hidden.__contains__).read(scan)
            directory.children = children
        finally:
            if scan is not None:
                await trio.to_thread.run_sync(scan.close)

    async def _scan_source(self, directory: Node) -> Scan | None:
        """A reading of the source's directory; None when that is gone, and what the mount added is still there."""
        assert self.source is not None
        assert directory.record.origin is not None
        try:
            scan = await trio.to_thread.run_sync(self.source.scan, directory.record.origin)
        except GONE:
            if directory.from_source:
                raise OSError(errno.ESTALE, "is no longer in the source", directory.record.origin) from None
            scan = None
        directory.names_checked = directory.names_read = monotonic()
        if scan is not None:
            self._follow_names(directory, scan.mtime)
        return scan

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

    def is_committed(self, directory: Node, name: bytes) -> bool:
        """Whether the catalogue has something under a name."""
        catalogue = self.store.catalogue
        if catalogue is not self._bare_in:
            self._bare_in, self._bare = catalogue, set()
        if directory.ino in self._bare:
            return False
        if catalogue.has_entries(directory.ino):
            return bool(catalogue.entry(directory.ino, name))
        self._bare.add(directory.ino)
        return False

    def recorded_inos(self, inos: list[int]) -> set[int]:
        """Those of some numbers that journal or catalogue have a row of."""
        return self.journal.known_inos(inos) | self.store.catalogue.known_inos(inos) if inos else set()

    def known_node(self, ino: int, elsewhere: Mapping[int, SourceEntry] = NOTHING) -> Node | None:
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

    async def _revalidate(self, directory: Node, fresh: bool, strict: bool) -> None:
        assert self.source is not None
        assert directory.record.origin is not None
        scan: Scan | None = None
        try:
            found = await self._stat_source(directory.record.origin)
            self._follow_names(directory, found.st_mtime_ns)
            old = fresh and monotonic() - directory.names_read > REVALIDATE_AFTER
            if found.st_mtime_ns == directory.source_mtime:
                directory.names_checked = monotonic()  # its names are right, whatever reading them again tells
                if not old:
                    return
            scan = await self._scan_source(directory)
        except GONE:
            pass
        except OSError as error:
            if error.errno != errno.ESTALE:
                _warn_unreadable(directory, error)
                if strict:
                    raise
                return
        finally:
            directory.names_checked = monotonic()
        try:
            await self._merge_again(directory, scan)
        except OSError as error:
            _warn_unreadable(directory, error)
            if strict:
                raise
        finally:
            directory.names_checked = monotonic()
            if scan is not None:
                await trio.to_thread.run_sync(scan.close)

    async def _merge_again(self, directory: Node, scan: Scan | None) -> None:
        if self.listens_to_source(directory) and directory.children is not None:  # else it was removed meanwhile
            await Merge(self, directory, directory.children, lambda name: self._is_hidden(directory, name)).read(scan)

    def _is_hidden(self, directory: Node, name: bytes) -> bool:
        """Whether journal or catalogue have a whiteout under a name."""
        above = self.journal.entry(directory.ino, name)
        if above is None:
            above = self.store.catalogue.entry(directory.ino, name)
        return above == WHITEOUT

    async def revalidate_file(self, node: Node) -> None:
        """Look at a source object again, unless that was done lately; raises ESTALE when it is gone or another kind."""
        origin = node.record.origin
        if self.source is None or origin is None:
            return
        if node.is_directory and not node.from_source:
            await self._look_at_directory(node)
        if not self._follows(node):
            return
        if monotonic() - node.checked <= REVALIDATE_AFTER:
            return
        found = self.source.stat_at_once(origin)
        if found is not None and kind_of_mode(found.st_mode) is not Kind.SYMLINK:
            self.follow(node, found)
            return
        try:
            entry = await trio.to_thread.run_sync(self.source.entry, origin)
        except GONE as error:
            if node.from_source and node.opens == 0:
                raise OSError(errno.ESTALE, "is no longer in the source", origin) from error
            node.checked = monotonic()
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
        if monotonic() - max(directory.checked, directory.names_checked) <= REVALIDATE_AFTER:
            return
        directory.checked = monotonic()
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
        node.checked = monotonic()
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
