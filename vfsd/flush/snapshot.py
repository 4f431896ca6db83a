"""What the tree has that the catalogue does not, at one moment; and the next catalogue with it merged in.

A flush works on a snapshot: what changes after it stays in the journal for the next one. The snapshot holds rows, not
nodes, so that merging runs in a thread.

Which rows are merged: all, except those of files whose dirty bytes are not being stored now. Such a file keeps its
committed version in the catalogue if it has one; otherwise neither its row nor the names that lead to it are merged.
A row gives a file's attributes; where its committed bytes lie, the catalogue itself knows best.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import final

from vfsd.store import InodeRecord, Kind
from vfsd.store.builder import CatalogueBuilder
from vfsd.store.catalogue import ROOT_INO, WHITEOUT, Catalogue
from vfsd.tree import Tree
from vfsd.tree.journal import JournalRecord


@dataclass(frozen=True, slots=True)
class IngestedName:
    """A name of the source that is to be in the catalogue: directory, name, and the record it leads to."""

    parent: int
    name: bytes
    record: InodeRecord
    xattrs: Mapping[bytes, bytes]


@final
@dataclass(slots=True)
class Snapshot:
    """See the module.

    Attributes
    ----------
    inodes, entries, xattrs :
        The journal's rows.
    root : InodeRecord
        The root as it is seen now: until the first commit its attributes are the source's.
    ingested : list of IngestedName
        What `--ingest` adds from the source, parents before their children.
    """

    inodes: dict[int, JournalRecord]
    entries: dict[tuple[int, bytes], int]
    xattrs: dict[int, dict[bytes, bytes]]
    next_ino: int
    root: InodeRecord
    ingested: list[IngestedName] = field(default_factory=list)

    @classmethod
    def take(cls, tree: Tree) -> Snapshot:
        """The journal's rows as they are now."""
        journal = tree.journal
        inodes = {row.record.ino: row for row in journal.inodes()}
        return cls(
            inodes=inodes,
            entries={(parent, name): ino for parent, name, ino in journal.all_entries()},
            xattrs={ino: journal.xattrs(ino) for ino, row in inodes.items() if row.own_xattrs},
            next_ino=journal.next_ino,
            root=replace(tree.layers.root.record),
        )

    @property
    def empty(self) -> bool:
        """Whether there is nothing to merge."""
        return not (self.inodes or self.entries or self.ingested)


def merge(
    snapshot: Snapshot,
    builder: CatalogueBuilder,
    base: Catalogue,
    storing: Collection[int],
    read_xattrs: Callable[[bytes], Mapping[bytes, bytes]],
) -> tuple[set[int], set[tuple[int, bytes]]]:
    """Put the snapshot's rows into a builder that starts from `base`.

    Parameters
    ----------
    storing : collection of int
        The inodes whose bytes are being stored in this flush; their rows get kind and place later.
    read_xattrs : callable
        Extended attributes of an object of the source, by its path there: the catalogue takes over what it has not yet.

    Returns
    -------
    inodes, entries
        What was merged, and may be deleted from the journal once the catalogue is committed.
    """
    withheld = {
        ino
        for ino, row in snapshot.inodes.items()
        if ino not in storing and (row.tier is not None or row.record.kind is Kind.FRESH or row.record.nlink == 0)
    }
    unknown = {ino for ino in withheld if base.inode(ino) is None}
    inodes = snapshot.inodes.keys() - withheld
    for ino in inodes:
        row, committed = snapshot.inodes[ino], base.inode(ino)
        builder.put_inode(row.record if committed is None else row.record.placed_as(committed))
        if row.own_xattrs:
            builder.set_xattrs(ino, snapshot.xattrs[ino])
        elif committed is None and row.record.origin is not None:
            builder.set_xattrs(ino, dict(read_xattrs(row.record.origin)))
    _merge_root(snapshot, builder, base, read_xattrs)
    entries: set[tuple[int, bytes]] = set()
    for (parent, name), ino in snapshot.entries.items():
        if ino in unknown:
            continue
        if ino == WHITEOUT and not _source_shows_through(builder.read(), parent):
            builder.remove_entry(parent, name)
        else:
            builder.put_entry(parent, name, ino)
        entries.add((parent, name))
    _merge_ingested(snapshot.ingested, builder, storing)
    builder.set_meta("next_ino", max(snapshot.next_ino, int(base.meta("next_ino"))))
    return inodes, entries


def _merge_root(
    snapshot: Snapshot,
    builder: CatalogueBuilder,
    base: Catalogue,
    read_xattrs: Callable[[bytes], Mapping[bytes, bytes]],
) -> None:
    """With the first commit the root stops following the source: what it shows now is kept."""
    if base.generation > 0:
        return
    row = snapshot.inodes.get(ROOT_INO)
    builder.put_inode(snapshot.root if row is None else row.record)
    if snapshot.root.origin is not None and (row is None or not row.own_xattrs):
        builder.set_xattrs(ROOT_INO, dict(read_xattrs(snapshot.root.origin)))


def _merge_ingested(names: Iterable[IngestedName], builder: CatalogueBuilder, storing: Collection[int]) -> None:
    catalogue = builder.read()
    for entry in names:
        if entry.record.kind.is_file and entry.record.ino not in storing:
            continue  # could not be stored: it stays the source's
        if entry.record.ino != ROOT_INO:
            builder.put_entry(entry.parent, entry.name, entry.record.ino)
        if catalogue.inode(entry.record.ino) is None:
            builder.put_inode(replace(entry.record))
            builder.set_xattrs(entry.record.ino, dict(entry.xattrs))


def _source_shows_through(catalogue: Catalogue, directory: int) -> bool:
    """Whether a source could show a name in this directory, so that its absence must be remembered."""
    record = catalogue.inode(directory)
    return record is not None and record.origin is not None and not record.opaque
