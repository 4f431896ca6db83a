"""After the commit: the journal forgets what the catalogue knows, and tier files of stored bytes become clean.

What changed while the flush ran stays: a row that is not the snapshot's any more is kept, and a file whose bytes changed
stays dirty above its committed version.
"""

from __future__ import annotations

from dataclasses import replace

from vfsd.flush.assembly import Assembly
from vfsd.flush.items import Item
from vfsd.flush.selection import Selection, is_unchanged
from vfsd.store import InodeRecord
from vfsd.tree import Tree


def release(tree: Tree, selection: Selection, assembly: Assembly) -> None:
    """Bring journal and nodes in line with the catalogue that was just committed; one journal change, no awaits."""
    items = {item.ino: item for item in assembly.items}
    snapshot, journal = selection.snapshot, tree.journal
    with journal.change():
        for ino in assembly.merged_inodes:
            item = items.get(ino)
            if item is not None and item.stored is None and not item.ingested:
                _release_data(tree, selection, item)
            elif journal.inode(ino) == snapshot.inodes[ino]:
                journal.drop_inode(ino)
        for parent, name in assembly.merged_entries:
            if journal.entry(parent, name) == snapshot.entries[parent, name]:
                journal.drop_entry(parent, name)
    tree.layers.after_commit([*assembly.merged_inodes, *(entry.record.ino for entry in snapshot.ingested)])


def _release_data(tree: Tree, selection: Selection, item: Item) -> None:
    row = tree.journal.inode(item.ino)
    committed = tree.store.catalogue.inode(item.ino)
    if row is None or committed is None:
        return  # unlinked meanwhile: the next flush takes it out of the store
    node = tree.layers.nodes.get(item.ino)
    if node is None or node.data is None or not is_unchanged(tree, item):
        # newer bytes are in a tier; below them is now this committed version
        newer = _placed(row.record, committed)
        tree.journal.put_inode(newer, row.tier, row.own_xattrs)
        if node is not None:
            node.record = _placed(node.record, committed)
        return
    tree.tiers.mark_clean(node.data)
    if row == selection.snapshot.inodes[item.ino]:
        tree.journal.drop_inode(item.ino)
        return
    # attributes changed meanwhile: they stay in the journal, the bytes are the store's
    newer = replace(
        _placed(row.record, committed), size=committed.size, mtime=committed.mtime, version=committed.version
    )
    tree.journal.put_inode(newer, None, row.own_xattrs)
    node.record = newer


def _placed(record: InodeRecord, committed: InodeRecord) -> InodeRecord:
    """A record that knows where the committed version of its file lies."""
    return replace(
        record,
        kind=committed.kind,
        location=committed.location,
        skeleton=committed.skeleton,
        digest=committed.digest,
    )
