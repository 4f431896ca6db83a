"""After the commit: the journal forgets what the catalogue knows, and tier files of stored bytes become clean.

What changed while the flush ran stays: a row that is not the snapshot's any more is kept, above the committed version;
a file whose bytes changed stays dirty; and a name that went meanwhile hides the one that was just committed.
"""

from __future__ import annotations

from dataclasses import replace

from vfsd.flush.assembly import Assembly
from vfsd.flush.items import Item
from vfsd.flush.selection import Selection, is_unchanged
from vfsd.flush.snapshot import Snapshot
from vfsd.store.catalogue import WHITEOUT
from vfsd.tiers import TierFile
from vfsd.tree import Tree
from vfsd.tree.journal import Unsettled


def release(tree: Tree, selection: Selection, assembly: Assembly, *, durable: bool) -> None:
    """Bring journal and nodes in line with the catalogue that was just committed; one journal change, no awaits.

    Unless the commit is `durable`, nothing is given up for it: rows and names stay, dirty files stay dirty; only where
    committed bytes lie is the new catalogue's.
    """
    snapshot = selection.snapshot
    stored = {item.ino for item in assembly.items}
    ingested = {entry.record.ino for entry in snapshot.ingested}
    clean: list[TierFile] = []
    try:
        with tree.journal.change():
            for item in assembly.items:
                clean += _release_item(tree, snapshot, item, durable=durable)
            if durable:
                _drop_rows(tree, snapshot, assembly, stored)
    except BaseException:
        for item in assembly.items:
            _point_node(tree, item)  # its row could not be dropped, and knows only where the bytes were
        raise
    finally:
        tree.layers.after_commit(assembly.merged_inodes | stored | ingested)
    for data in clean:  # only now: whoever drops a clean file must not leave a row that needs it
        tree.tiers.mark_clean(data)


def _point_node(tree: Tree, item: Item) -> None:
    node, committed = tree.layers.nodes.get(item.ino), tree.store.catalogue.inode(item.ino)
    if node is not None and committed is not None:
        placed = node.record.placed_as(committed)
        node.record = replace(placed, size=node.record.size, version=node.record.version) if node.dirty else placed


def _drop_rows(tree: Tree, snapshot: Snapshot, assembly: Assembly, stored: set[int]) -> None:
    journal = tree.journal
    for ino in assembly.merged_inodes - stored:
        if journal.inode(ino) == snapshot.inodes[ino]:
            journal.drop_inode(ino)
    for parent, name in assembly.merged_entries:
        before, now = snapshot.entries[parent, name], journal.entry(parent, name)
        if now == before:
            journal.drop_entry(parent, name)
        elif now is None and before != WHITEOUT:
            journal.put_entry(parent, name, WHITEOUT)  # it went when nothing lower had it yet


def _release_item(tree: Tree, snapshot: Snapshot, item: Item, *, durable: bool) -> list[TierFile]:
    """Bring a stored file's row in line; returns the tier file that holds nothing but what is stored now."""
    row, committed = tree.journal.inode(item.ino), tree.store.catalogue.inode(item.ino)
    node = tree.layers.nodes.get(item.ino)
    if row is None or committed is None:
        return []  # no row, or unlinked meanwhile: its entry says so
    was_dirty = item.stored is None and not item.ingested
    data = None if node is None else node.data
    released = [data] if durable and was_dirty and data is not None and is_unchanged(tree, item) else []
    if durable and row == snapshot.inodes.get(item.ino) and (released or row.tier is None):
        tree.journal.drop_inode(item.ino)
        return released
    # something changed meanwhile: it stays in the journal, above the committed version
    newer, tier = row.record.placed_as(committed), row.tier
    if released:
        ctime = newer.ctime if node is None else node.ctime()
        newer, tier = replace(newer, mtime=released[0].mtime, ctime=ctime), None
    elif tier is not None:
        newer = replace(newer, size=row.record.size, version=row.record.version)  # they name the tier file
    tree.journal.put_inode(newer, tier, row.own_xattrs, Unsettled.NO if tier is None else row.unsettled)
    if node is not None:
        node.record = newer
    return released
