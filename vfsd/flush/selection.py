"""What a flush takes up: the journal's rows at one moment, and the files whose bytes are to be stored.

Three kinds of files: dirty ones; with `ingest` the source's own; and stored ones whose place in the store must follow a
rename. Files that are open for writing are left for a later flush.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import final

import trio

from vfsd.errors import StoredDataDamaged, shown_path
from vfsd.flush.ingest import IngestedNode, changed_in_source, walk_source
from vfsd.flush.items import Item
from vfsd.flush.order import FlushOrder, Repair
from vfsd.flush.paths import PresentPaths, Wanted
from vfsd.flush.progress import KeptFile
from vfsd.flush.renames import Renames, find_renames
from vfsd.flush.snapshot import Snapshot
from vfsd.store import InodeRecord, Kind
from vfsd.tiers import TierFile, TierFiles
from vfsd.tree import Node, Tree

log = logging.getLogger("vfsd.flush")


@final
@dataclass(slots=True)
class Selection:
    """See the module.

    Attributes
    ----------
    waiting : list of KeptFile
        Files that are open for writing, or changed meanwhile: not stored now, and no failure.
    kept, obstacles : list of KeptFile
        Files that cannot be stored; what stands against replacing the source.
    """

    snapshot: Snapshot
    items: list[Item] = field(default_factory=list)
    renames: Renames = field(default_factory=Renames)
    waiting: list[KeptFile] = field(default_factory=list)
    kept: list[KeptFile] = field(default_factory=list)
    obstacles: list[KeptFile] = field(default_factory=list)


async def select(tree: Tree, order: FlushOrder) -> Selection:
    """Decide what a flush takes up; see the module."""
    if order.repair is not None:
        return await _select_repair(tree, order.repair)
    paths, only = order.paths, order.only
    wanted = None if paths is None else Wanted(paths)
    ingested: list[IngestedNode] = []
    obstacles: list[KeptFile] = []
    if order.ingest and tree.source is not None:
        ingested = await walk_source(tree, obstacles, wanted)
    await _keep_open_unlinked(tree)
    tree.contents.look_for_survivors()
    # no await from here on: rows, nodes and tier files are those of one moment
    selection = Selection(Snapshot.take(tree), obstacles=obstacles)
    taken: set[int] = set()
    present = PresentPaths(tree)
    for node in tree.dirty_nodes():
        path = next(iter(present.of(node.ino)), None)
        if path is None or not (wanted is None or wanted.takes(path)) or (only is not None and node.ino not in only):
            continue
        if node.writers > 0:
            selection.waiting.append(KeptFile(path, "open for writing"))
            continue
        selection.items.append(_dirty_item(tree, node, path))
        taken.add(node.ino)
    for found in ingested:
        _select_ingested(tree, selection, found, taken, wanted)
    selection.renames = find_renames(tree, selection.snapshot, present, taken, order.formats)
    for path, problem in selection.renames.damaged:
        selection.kept.append(KeptFile(path, str(problem)))
    for record, path in selection.renames.files:
        _select_renamed(tree, selection, record, path)
    return selection


async def _select_repair(tree: Tree, repair: Repair) -> Selection:
    """The damaged files that are to be stored again, as the source has them; of the journal nothing."""
    selection = Selection(replace(Snapshot.take(tree), inodes={}, entries={}, xattrs={}))
    catalogue = tree.store.catalogue
    for ino, origin in repair.files.items():
        record = catalogue.inode(ino)
        assert record is not None
        path = catalogue.path_of(ino)
        if origin is None:
            _select_renamed(tree, selection, record, path)
            continue
        assert tree.source is not None
        try:
            found = await trio.to_thread.run_sync(tree.source.stat, origin)
        except OSError as problem:
            selection.kept.append(KeptFile(path, problem.strerror or str(problem)))
            continue
        item = Item(ino, path, record.size, record, expected=record.digest, version=record.version)
        item.seen, item.open_bytes = (found.st_size, found.st_mtime_ns), partial(tree.source.open, origin)
        selection.items.append(item)
    return selection


async def _keep_open_unlinked(tree: Tree) -> None:
    """Stored files that are open but have no name any more get what they need of the store: it goes with this flush.

    When this returns there is none left, and nothing was awaited since that was seen.
    """
    hopeless: set[int] = set()
    while True:
        nodes = [node for node in tree.layers.nodes.values() if tree.contents.needs_privacy(node)]
        nodes = [node for node in nodes if node.ino not in hopeless]
        if not nodes:
            return
        try:
            await tree.contents.make_private(nodes[0])
        except StoredDataDamaged as problem:
            log.error("open_unlinked_file_damaged ino=%d reason=%s", nodes[0].ino, shown_path(str(problem)))
            hopeless.add(nodes[0].ino)


def _dirty_item(tree: Tree, node: Node, path: bytes) -> Item:
    data = node.data
    assert data is not None
    record = replace(node.record, size=data.size, mtime=data.mtime, ctime=node.ctime())
    return Item(
        node.ino,
        path,
        data.size,
        record,
        open_bytes=lambda: _open_tier_file(tree.tiers, data),
        version=data.version,
        changes=data.changes,
    )


def _open_tier_file(tiers: TierFiles, data: TierFile) -> int:
    """A tier file's descriptor, also when it moves to the other tier just now (in a thread)."""
    try:
        return tiers.open_for_reading(data)
    except FileNotFoundError:
        return tiers.open_for_reading(data)


def _select_ingested(
    tree: Tree, selection: Selection, found: IngestedNode, taken: set[int], wanted: Wanted | None
) -> None:
    node, name = found.node, found.name
    if selection.snapshot.entries.get((name.parent, name.name), node.ino) != node.ino:
        return  # its name went since it was looked at
    selection.snapshot.ingested.append(name)
    if found.seen is None or node.record.kind is not Kind.SOURCE or node.dirty or node.ino in taken:
        return
    path = node.path()
    if wanted is None or wanted.takes(path):
        selection.items.append(_source_item(tree, node, path, found.seen))
        taken.add(node.ino)


def _source_item(tree: Tree, node: Node, path: bytes, seen: tuple[int, int]) -> Item:
    source, origin = tree.source, node.record.origin
    assert source is not None
    assert origin is not None
    record = replace(node.record, size=seen[0], version=node.record.version + 1)
    return Item(
        node.ino, path, record.size, record, open_bytes=lambda: source.open(origin), seen=seen, version=record.version
    )


def _select_renamed(tree: Tree, selection: Selection, record: InodeRecord, path: bytes) -> None:
    """Take up a stored file that is to be placed anew."""
    storage, location = tree.store.storage, record.location
    try:
        stored = tree.store.files.describe(record)
    except StoredDataDamaged as problem:
        selection.kept.append(KeptFile(path, str(problem)))
        return
    row = selection.snapshot.inodes.get(record.ino)
    attributes = replace(record if row is None else row.record, size=record.size)
    selection.items.append(
        Item(
            record.ino,
            path,
            record.size,
            attributes,
            open_bytes=None if location is None else lambda: storage.open_object(location),
            stored=stored,
            version=record.version,
        )
    )


async def changed_items(tree: Tree, items: Sequence[Item]) -> dict[int, str]:
    """Items whose bytes are no longer those that the flush began with, and why."""
    changed = {
        item.ino: "changed while it was being stored"
        for item in items
        if item.stored is None and not item.ingested and (is_gone(tree, item) or not is_unchanged(tree, item))
    }
    sources = [(item.ino, item.record.origin or b"", item.seen) for item in items if item.seen is not None]
    if sources and tree.source is not None:
        changed.update(await trio.to_thread.run_sync(changed_in_source, tree.source, sources))
    return changed


def is_unchanged(tree: Tree, item: Item) -> bool:
    """Whether a dirty file's tier file is still the one, with the same contents, that was stored."""
    node = tree.layers.nodes.get(item.ino)
    data = None if node is None else node.data
    return data is not None and data.version == item.version and data.changes == item.changes


def is_gone(tree: Tree, item: Item) -> bool:
    """Whether a file has no name any more."""
    node = tree.layers.nodes.get(item.ino)
    return node is None or node.record.nlink == 0
