"""What a flush takes up: the journal's rows at one moment, and the files whose bytes are to be stored.

Three kinds of files: dirty ones; with `ingest` the source's own; and stored ones whose place in the store must follow a
rename. Files that are open for writing are left for a later flush.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import trio

from vfsd.flush.items import Item
from vfsd.flush.progress import KeptFile
from vfsd.flush.snapshot import IngestedName, Snapshot
from vfsd.store import InodeRecord, Kind
from vfsd.store.catalogue import WHITEOUT, Catalogue
from vfsd.tree import Node, Tree


@dataclass(frozen=True, slots=True)
class MovedFolder:
    """A directory with stored files that was renamed: image groups below the old path move along."""

    old: bytes
    new: bytes


@final
@dataclass(slots=True)
class Selection:
    """See the module.

    Attributes
    ----------
    waiting : list of KeptFile
        Files that are open for writing: not stored now, and no failure.
    kept, obstacles : list of KeptFile
        Files that cannot be stored; what stands against replacing the source.
    """

    snapshot: Snapshot
    items: list[Item] = field(default_factory=list)
    moved: list[MovedFolder] = field(default_factory=list)
    waiting: list[KeptFile] = field(default_factory=list)
    kept: list[KeptFile] = field(default_factory=list)
    obstacles: list[KeptFile] = field(default_factory=list)


async def select(tree: Tree, paths: Sequence[bytes] | None, *, ingest: bool) -> Selection:
    """Decide what a flush takes up; see the module."""
    ingested: list[tuple[Node, IngestedName]] = []
    obstacles: list[KeptFile] = []
    if ingest and tree.source is not None:
        ingested = await _walk_source(tree, obstacles)
    # no await from here on: rows, nodes and tier files are those of one moment
    selection = Selection(Snapshot.take(tree.journal), obstacles=obstacles)
    taken: set[int] = set()
    for node in tree.dirty_nodes():
        path = tree.path_of(node.ino)
        if paths is not None and not any(_is_below(path, above) for above in paths):
            continue
        if node.writers > 0:
            selection.waiting.append(KeptFile(path, "open for writing"))
            continue
        selection.items.append(_dirty_item(tree, node, path))
        taken.add(node.ino)
    for node, name in ingested:
        selection.snapshot.ingested.append(name)
        wanted = node.record.kind is Kind.SOURCE and not node.dirty and node.ino not in taken
        if wanted and (paths is None or any(_is_below(node.path(), above) for above in paths)):
            selection.items.append(_source_item(tree, node))
            taken.add(node.ino)
    _select_moved(tree, selection, taken)
    return selection


def _is_below(path: bytes, above: bytes) -> bool:
    return not above or path == above or path.startswith(above + b"/")


def _dirty_item(tree: Tree, node: Node, path: bytes) -> Item:
    data = node.data
    assert data is not None
    record = replace(node.record, size=data.size, mtime=data.mtime, ctime=max(node.record.ctime, data.mtime))
    return Item(
        node.ino,
        path,
        data.size,
        record,
        open_bytes=lambda: tree.tiers.open_for_reading(data),
        version=data.version,
        changes=data.changes,
    )


def _source_item(tree: Tree, node: Node) -> Item:
    source, origin = tree.source, node.record.origin
    assert source is not None
    assert origin is not None
    record = replace(node.record, version=node.record.version + 1)
    return Item(
        node.ino,
        node.path(),
        record.size,
        record,
        open_bytes=lambda: source.open(origin),
        ingested=True,
        version=record.version,
    )


async def _walk_source(tree: Tree, obstacles: list[KeptFile]) -> list[tuple[Node, IngestedName]]:
    """Every visible node that came from the source, with its name; parents before their children."""
    source = tree.source
    assert source is not None
    found: list[tuple[Node, IngestedName]] = []
    root = tree.layers.root
    found.append((root, IngestedName(0, b"", root.record, {})))
    pending = [root]
    while pending:
        directory = pending.pop()
        try:
            children = dict(await tree.layers.children(directory, fresh=True))
        except OSError as problem:
            obstacles.append(KeptFile(directory.path(), problem.strerror or str(problem)))
            continue
        origins = [child.record.origin for child in children.values() if child.from_source]
        attributes = await trio.to_thread.run_sync(_read_xattrs, source.xattrs, origins)
        for name, child in children.items():
            if child.record.origin is None:
                if child.is_directory:
                    pending.append(child)
                continue
            xattrs = attributes.get(child.record.origin, {})
            found.append((child, IngestedName(directory.ino, name, child.record, xattrs)))
            if child.is_directory:
                pending.append(child)
    return found


def _read_xattrs(
    read: Callable[[bytes], dict[bytes, bytes]], origins: Sequence[bytes | None]
) -> dict[bytes, dict[bytes, bytes]]:
    return {origin: read(origin) for origin in origins if origin is not None}


# --- stored files that were renamed


def _select_moved(tree: Tree, selection: Selection, taken: set[int]) -> None:
    base = tree.store.catalogue
    for (parent, name), ino in selection.snapshot.entries.items():
        if ino == WHITEOUT or base.entry(parent, name) == ino:
            continue
        record = base.inode(ino)
        if record is None or _still_named(selection.snapshot, base, ino):
            continue
        if record.kind is Kind.DIRECTORY:
            _select_moved_folder(tree, selection, taken, record)
        elif ino not in taken:
            _select_moved_file(tree, selection, taken, record, None)


def _still_named(snapshot: Snapshot, base: Catalogue, ino: int) -> bool:
    """Whether a name that the catalogue has for an inode still leads to it."""
    return any(snapshot.entries.get(place, ino) == ino for place in base.names_of(ino))


def _select_moved_folder(tree: Tree, selection: Selection, taken: set[int], folder: InodeRecord) -> None:
    base = tree.store.catalogue
    old, new = _catalogue_path(base, folder.ino), tree.path_of(folder.ino)
    if old is None or new == b"?":
        return
    selection.moved.append(MovedFolder(old, new))
    pending = [folder.ino]
    while pending:
        directory = pending.pop()
        for name, ino, record in base.entries(directory):
            if record is None or selection.snapshot.entries.get((directory, name), ino) != ino or ino in taken:
                continue
            if record.kind is Kind.DIRECTORY:
                pending.append(ino)
            else:
                _select_moved_file(tree, selection, taken, record, old)


def _select_moved_file(
    tree: Tree, selection: Selection, taken: set[int], record: InodeRecord, moved_folder: bytes | None
) -> None:
    """Take up a stored file whose place follows its name, unless its image group moves with it as a whole."""
    base = tree.store.catalogue
    if record.kind not in (Kind.PLANES, Kind.PLAIN):
        return
    path = tree.path_of(record.ino)
    if path == b"?":
        return
    row = selection.snapshot.inodes.get(record.ino)
    if row is not None and row.tier is not None:
        return  # dirty: stored anew anyway
    planes = base.planes(record.ino)
    if record.kind is Kind.PLANES:
        group = base.group(planes[0].group)
        if moved_folder is not None and _is_below(group.directory, moved_folder):
            return
        if group.form != "plate" and group.directory == path.rpartition(b"/")[0]:
            return  # a stack's names are for display only
    taken.add(record.ino)
    stored = tree.store.files.describe(record)
    attributes = record if row is None else row.record
    selection.items.append(
        Item(record.ino, path, record.size, replace(attributes), stored=stored, version=record.version)
    )


def _catalogue_path(base: Catalogue, ino: int) -> bytes | None:
    parts: list[bytes] = []
    while ino != 1:
        names = base.names_of(ino)
        if not names:
            return None
        ino, name = names[0]
        parts.append(name)
    return b"/".join(reversed(parts))


async def changed_items(tree: Tree, items: Sequence[Item]) -> dict[int, str]:
    """Items whose bytes are no longer those that the flush began with, and why."""
    changed: dict[int, str] = {}
    sources: list[Item] = []
    for item in items:
        if item.ingested:
            sources.append(item)
        elif item.stored is None and not is_unchanged(tree, item):
            changed[item.ino] = "changed while it was being stored"
    source = tree.source
    if sources and source is not None:
        changed.update(await trio.to_thread.run_sync(_changed_sources, source.stat, sources))
    return changed


def is_unchanged(tree: Tree, item: Item) -> bool:
    """Whether a dirty file's tier file is still the one, with the same contents, that was stored."""
    node = tree.layers.nodes.get(item.ino)
    data = None if node is None else node.data
    return data is not None and data.version == item.version and data.changes == item.changes


def _changed_sources(stat: Callable[[bytes], os.stat_result], items: Sequence[Item]) -> dict[int, str]:
    changed = {}
    for item in items:
        try:
            found = stat(item.record.origin or b"")
        except OSError as problem:
            changed[item.ino] = problem.strerror or str(problem)
            continue
        if (found.st_size, found.st_mtime_ns) != (item.record.size, item.record.mtime):
            changed[item.ino] = "changed in the source while it was being stored"
    return changed
