"""The logical tree of one mount, put together: layers, names, contents, attributes, and its recovery at the start.

Transports call `tree.names`, `tree.contents` and `tree.attributes`; flush uses `tree.pending` (what is not in the store)
and `tree.adopt_commit`. Nothing here knows of FUSE: a test can drive a tree without a mount.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import trio

from vfsd.errors import shown_path
from vfsd.store import Kind, Store
from vfsd.store.catalogue import ROOT_INO
from vfsd.tiers import TierFiles
from vfsd.tree.attributes import AttributeOperations
from vfsd.tree.contents import Contents
from vfsd.tree.journal import Journal, JournalRecord
from vfsd.tree.layers import Layers
from vfsd.tree.names import Names
from vfsd.tree.node import Node
from vfsd.tree.source import Source

log = logging.getLogger("vfsd.tree")

JOURNAL_NAME = "journal.sqlite"
# Seconds between looks at what waits for a durability point, so that deleted files of the cache tier give their room back
# although nobody calls fsync.
SYNC_INTERVAL = 5.0


@dataclass(frozen=True, slots=True)
class DirtyTotals:
    """What is not in the store yet: files with dirty bytes, and those bytes."""

    files: int
    bytes: int


@final
class Tree:
    """See the module.

    Parameters
    ----------
    source : Path or None
        The plate; None mounts the store alone.
    store : Store
        Open for writing, unless `read_only`.
    state_directory : Path
        Where the journal lies.
    tiers : TierFiles
        Theirs alone.

    Example
    -------
    >>> tree = Tree(plate, store, state, tiers, read_only=False)       # doctest: +SKIP
    >>> await tree.start()                                             # doctest: +SKIP
    >>> found = await tree.names.lookup(ROOT_INO, b"TimePoint_1")      # doctest: +SKIP
    """

    def __init__(
        self, source: Path | None, store: Store, state_directory: Path, tiers: TierFiles, *, read_only: bool
    ) -> None:
        self.store = store
        self.tiers = tiers
        self.read_only = read_only
        self.journal = Journal(state_directory / JOURNAL_NAME, store.id)
        self.journal.raise_next_ino(int(store.catalogue.meta("next_ino")))
        self.source = None if source is None else Source(source)
        self.lost: list[bytes] = []
        self.flush_lock = trio.Lock()
        self.layers = Layers(self.source, store, self.journal)
        self.contents = Contents(self.layers, tiers, read_only=read_only)
        self.names = Names(self.layers, self.contents, read_only=read_only)
        self.attributes = AttributeOperations(self.layers, self.contents, tiers, read_only=read_only)

    async def start(self) -> None:
        """Carry on from what an earlier daemon left; `lost` then names files whose bytes are gone (RAM, after a reboot)."""
        known: set[tuple[int, int, str]] = set()
        with self.journal.change():
            for row in self.journal.inodes():
                if row.record.nlink == 0:
                    self.journal.drop_inode(row.record.ino)
                elif row.tier is not None:
                    self._recover_data(row)
        for node in self.layers.nodes.values():
            if node.data is not None:
                known.add((node.ino, node.data.version, node.data.tier))
        for name in self.tiers.remove_strangers(known):
            log.info("removed_unnamed_tier_file name=%s", name)

    def _recover_data(self, row: JournalRecord) -> None:
        assert row.tier is not None
        record = row.record
        data = self.tiers.find(record.ino, record.version, row.tier)
        other = "cache" if row.tier == "ram" else "ram"
        if data is None:  # killed between the copy of a move and its row, or between the row and the removal
            data = self.tiers.find(record.ino, record.version, other)  # type: ignore[arg-type]  # the other tier's name
        if data is not None:
            node = Node(record)
            node.recorded, node.own_xattrs, node.data = True, row.own_xattrs, data
            self.layers.nodes[record.ino] = node
            if data.tier != row.tier:
                self.journal.put_inode(record, data.tier, row.own_xattrs)
            return
        path = self.path_of(record.ino)
        self.lost.append(path)
        if record.kind is Kind.FRESH:
            log.error("bytes_lost path=%s cause=gone_with_the_memory_of_the_machine", shown_path(path))
            for parent, name in self.journal.names_of(record.ino):
                if self.store.catalogue.entry(parent, name):
                    self.journal.put_entry(parent, name, 0)
                else:
                    self.journal.drop_entry(parent, name)
            self.journal.drop_inode(record.ino)
            return
        log.error("newest_bytes_lost path=%s now=older_version", shown_path(path))
        self._restore_committed(row)

    def _restore_committed(self, row: JournalRecord) -> None:
        """A file whose newest bytes are gone shows its committed version, or the source's, again."""
        committed = self.store.catalogue.inode(row.record.ino)
        if committed is not None:
            older = replace(row.record, size=committed.size, mtime=committed.mtime)
        else:
            older = row.record
            if self.source is not None and older.origin is not None:
                found = self.source.stat(older.origin)
                older = replace(older, size=found.st_size, mtime=found.st_mtime_ns)
        self.journal.put_inode(older, None, row.own_xattrs)

    async def housekeep(self) -> None:
        """Runs for the life of the mount: durability points for what waits for one."""
        while True:
            await trio.sleep(SYNC_INTERVAL)
            if self.journal.waiting:
                try:
                    await self.journal.sync()
                except OSError as error:
                    log.error("journal_sync_failed error=%s", error)

    def close(self) -> None:
        """Let go of everything; what is dirty stays in its tier files and in the journal."""
        self.journal.close()
        if self.source is not None:
            self.source.close()

    # --- what is not in the store

    def dirty(self) -> DirtyTotals:
        """Files with bytes that are not in the store, and those bytes."""
        files = [node for node in self.layers.nodes.values() if node.dirty and node.record.nlink > 0]
        return DirtyTotals(len(files), sum(node.size() for node in files))

    def dirty_nodes(self) -> list[Node]:
        """The nodes with dirty bytes that still have a name."""
        return [node for node in self.layers.nodes.values() if node.dirty and node.record.nlink > 0]

    def open_handles(self) -> int:
        """Handles that programs hold on files."""
        return sum(node.opens for node in self.layers.nodes.values())

    def path_of(self, ino: int) -> bytes:
        """A path of an inode from the journal's and the catalogue's entries; b"?" when no name leads to it."""
        parts: list[bytes] = []
        for _ in range(4096):  # deeper than any path that the kernel lets through
            if ino == ROOT_INO:
                return b"/".join(reversed(parts))
            names = self.journal.names_of(ino)
            if not names:
                names = [
                    (parent, name)
                    for parent, name in self.store.catalogue.names_of(ino)
                    if self.journal.entry(parent, name) is None
                ]
            if not names:
                return b"?"
            ino, name = names[0]
            parts.append(name)
        return b"?"
