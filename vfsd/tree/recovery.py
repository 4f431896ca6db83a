"""Carrying on from what an earlier daemon left: which tier files the journal names, and what to show where one is gone.

After a daemon that was killed every file named is there, with every byte that was written. After a restart of the machine
the RAM tier is empty, and bytes of the cache tier that were never synced may be anything: a file then shows its durable
version again, an older tier file, the store's or the source's; one that has none is gone. Nothing is believed that the
journal does not name, and nothing is deleted before the journal that no longer names it is durable.

A flush that was stopped between its commit and its release is finished here: rows take their place from the catalogue. Files
of it that are still in a tier stay dirty and are stored once more, since nobody can tell whether they changed meanwhile.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field, replace
from typing import final

from vfsd.errors import shown_path
from vfsd.store import Kind
from vfsd.store.catalogue import WHITEOUT
from vfsd.tiers import TierFiles, TierName
from vfsd.tree.durability import Durability
from vfsd.tree.journal import JournalRecord, Unsettled
from vfsd.tree.layers import Layers
from vfsd.tree.node import Node
from vfsd.tree.rows import unusable
from vfsd.tree.source import source_ino

log = logging.getLogger("vfsd.tree")

STORED = (Kind.PLANES, Kind.PLAIN)


@final
@dataclass(slots=True)
class Losses:
    """What a restart of the machine took, by path.

    Attributes
    ----------
    lost : list of bytes
        Files whose newest bytes are gone.
    older : set of bytes
        Those of them that show an older version again.
    doubtful : list of bytes
        New files in the cache tier that were never synced: they may be incomplete.
    """

    lost: list[bytes] = field(default_factory=list)
    older: set[bytes] = field(default_factory=set)
    doubtful: list[bytes] = field(default_factory=list)

    def add_text(self, text: str) -> None:
        """Add what `to_text` made of others."""
        found = json.loads(text) if text else {}
        for name, known in (("lost", self.lost), ("doubtful", self.doubtful)):
            known += [path for path in map(os.fsencode, found.get(name, ())) if path not in known]
        self.older |= {os.fsencode(path) for path in found.get("older", ())}

    def to_text(self) -> str:
        """As JSON; "" if there are none."""
        if not self.lost and not self.doubtful:
            return ""
        lists = {"lost": self.lost, "older": sorted(self.older), "doubtful": self.doubtful}
        return json.dumps({name: [os.fsdecode(path) for path in paths] for name, paths in lists.items()})


@final
class Recovery:
    """See the module. `losses` is given what a restart of the machine took."""

    def __init__(self, layers: Layers, durability: Durability, tiers: TierFiles, losses: Losses) -> None:
        self._layers = layers
        self._journal = layers.journal
        self._durability = durability
        self._tiers = tiers
        self._losses = losses
        self._there: dict[TierName, dict[int, list[int]]] = {
            "ram": tiers.versions("ram"),
            "cache": tiers.versions("cache"),
        }
        self._restarted = self._journal.machine_restarted()

    async def run(self) -> None:
        """Bring journal, nodes and tiers in line; before anything else is done with the tree. Killed half-way, it is repeated.

        Raises
        ------
        UnfitError
            There are tier files, and no journal that could name them: somebody removed it.
        """
        if self._journal.is_new and (self._there["ram"] or self._there["cache"]):
            raise unusable(FileNotFoundError("it is gone, and files that it named are there"), self._journal.path)
        with self._journal.change():
            for row in self._journal.inodes():
                if row.record.nlink == 0:
                    self._journal.drop_inode(row.record.ino)
                    continue
                placed = self._placed(row)
                if placed.tier is not None:
                    self._recover(placed, row)
                elif placed != row:
                    self._put(placed)
            self._losses.add_text(self._journal.losses())  # of a recovery that nobody was told of
            self._journal.note_losses(self._losses.to_text())
            self._journal.note_boot()
        await self._journal.sync()
        for name in self._tiers.remove_strangers(self._known_files()):
            log.info("removed_unnamed_tier_file name=%s", name)

    def _placed(self, row: JournalRecord) -> JournalRecord:
        """A row with its committed bytes where the catalogue has them: a flush that was stopped before its release was
        durable has left rows that do not know yet."""
        committed = self._layers.store.catalogue.inode(row.record.ino)
        if committed is None or not row.record.kind.is_file:
            return row
        record = row.record.placed_as(committed)
        if row.tier is not None:  # they are the tier file's
            record = replace(record, size=row.record.size, version=row.record.version)
        return replace(row, record=record)

    def _put(self, row: JournalRecord) -> None:
        self._journal.put_inode(row.record, row.tier, row.own_xattrs, row.unsettled)

    def _known_files(self) -> set[tuple[int, int, str]]:
        files = [file for node in self._layers.nodes.values() for file in (node.data, node.replaced)]
        return {(file.ino, file.version, file.tier) for file in files if file is not None}

    def _recover(self, row: JournalRecord, before: JournalRecord) -> None:
        """Settle what a row with a tier shows; `before` is the row as the journal has it."""
        record = row.record
        assert row.tier is not None
        there = record.version in self._there[row.tier].get(record.ino, ())
        older = self._older_version(row)
        doubtful = row.unsettled and self._restarted
        if there and not (doubtful and self._has_durable_version(row, older)):
            unsettled = row.unsettled
            if unsettled is Unsettled.REPLACING and older is None:
                unsettled = Unsettled.YES
            self._adopt(row, before, record.version, row.tier, unsettled=unsettled, replaced=older)
            if doubtful:
                path = self._layers.path_of(record.ino)
                log.warning("was_never_synced path=%s (it may be incomplete)", shown_path(path))
                self._losses.doubtful.append(path)
            return
        path = self._layers.path_of(record.ino)
        committed = self._layers.store.catalogue.inode(record.ino)
        if committed is not None and committed.kind in STORED and committed.version >= record.version:
            if (
                committed.digest != before.record.digest
            ):  # else the row is the release's own: the file changed meanwhile
                log.info("was_stored path=%s", shown_path(path))
                self._show_committed(row)
                return
            older = None  # the store's is newer
        self._losses.lost.append(path)
        cause = "not_synced_before_the_machine_stopped" if there else "gone_with_the_memory_of_the_machine"
        if older is not None:
            log.error("newest_bytes_lost path=%s cause=%s now=older_version", shown_path(path), cause)
            self._adopt(row, before, older, "cache", unsettled=Unsettled.NO, replaced=None)
            self._losses.older.add(path)
        elif record.kind is Kind.FRESH:
            log.error("bytes_lost path=%s cause=%s", shown_path(path), cause)
            self._remove(row)
        else:
            log.error("newest_bytes_lost path=%s cause=%s now=committed_version", shown_path(path), cause)
            self._show_committed(row)
            self._losses.older.add(path)

    def _older_version(self, row: JournalRecord) -> int | None:
        """The version of the tier file that the row's bytes took the place of, kept until they are durable."""
        version = row.record.version - 1
        kept = row.unsettled is Unsettled.REPLACING and version in self._there["cache"].get(row.record.ino, ())
        return version if kept else None

    def _has_durable_version(self, row: JournalRecord, older: int | None) -> bool:
        if older is not None or row.record.kind in STORED:
            return True
        return row.record.kind is Kind.SOURCE and self._in_source(row) is not None

    def _in_source(self, row: JournalRecord) -> os.stat_result | None:
        """What the source has where a file was first seen."""
        origin = row.record.origin
        return None if origin is None else self._stat_source(origin)

    def _stat_source(self, path: bytes) -> os.stat_result | None:
        if self._layers.source is None:
            return None
        try:
            return self._layers.source.stat(path)
        except OSError as error:
            log.warning("source_object_gone path=%s error=%s", shown_path(path), error.strerror)
            return None

    def _adopt(
        self,
        row: JournalRecord,
        before: JournalRecord,
        version: int,
        tier: TierName,
        *,
        unsettled: Unsettled,
        replaced: int | None,
    ) -> None:
        """The node of a row whose bytes are in a tier file."""
        record = replace(row.record, version=version)
        node = Node(record)
        node.recorded, node.own_xattrs = True, row.own_xattrs
        node.data = self._tiers.find(record.ino, version, tier)
        older = None if replaced is None else self._tiers.find(record.ino, replaced, "cache")
        self._layers.nodes[node.ino] = node
        self._durability.adopt_recovered(node, unsettled=bool(unsettled), replaced=older)
        adopted = JournalRecord(record, tier, row.own_xattrs, unsettled)
        if adopted != before:
            self._put(adopted)

    def _show_committed(self, row: JournalRecord) -> None:
        """A file whose newest bytes are gone shows its committed version, or the source's, again."""
        committed = self._layers.store.catalogue.inode(row.record.ino)
        record = row.record
        found = None if committed is not None else self._in_source(row)
        if committed is not None:
            record = replace(record, size=committed.size, mtime=committed.mtime)
        elif found is not None:
            record = replace(record, size=found.st_size, mtime=found.st_mtime_ns)
        self._journal.put_inode(record, None, row.own_xattrs)

    def _remove(self, row: JournalRecord) -> None:
        """A file that was nowhere else: its names show again what they showed before it, unless that was moved away."""
        for parent, name in self._journal.names_of(row.record.ino):
            below = self._below(parent, name)
            if below is not None and self._journal.names_of(below):
                self._journal.put_entry(parent, name, WHITEOUT)
            else:
                self._journal.drop_entry(parent, name)
        self._journal.drop_inode(row.record.ino)

    def _below(self, parent: int, name: bytes) -> int | None:
        """The inode that the store, or else the source, has under a name."""
        committed = self._layers.store.catalogue.entry(parent, name)
        if committed is not None:
            return committed
        row = self._journal.inode(parent)
        record = row.record if row is not None else self._layers.store.catalogue.inode(parent)
        if record is None or record.origin is None or record.opaque:
            return None
        path = record.origin + b"/" + name if record.origin else name
        found = self._stat_source(path)
        return None if found is None else source_ino(path, found)
