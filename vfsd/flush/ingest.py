"""What `--ingest` takes in: every visible node that came from the source, with its name, attributes as they are now.

Walks the tree on the trio thread; looks at the source's files in threads, a directory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from vfsd.flush.paths import Wanted
from vfsd.flush.progress import KeptFile
from vfsd.flush.snapshot import IngestedName
from vfsd.store import Kind
from vfsd.tree import Node, Tree
from vfsd.tree.source import AnySource, SourceEntry


@dataclass(frozen=True, slots=True)
class IngestedNode:
    """A node, its name and record for the catalogue, and size and mtime of its file in the source (None: no file)."""

    node: Node
    name: IngestedName
    seen: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class _Look:
    """What the source says of one object: what a listing would, or why it cannot."""

    found: SourceEntry | OSError
    xattrs: dict[bytes, bytes]


async def walk_source(tree: Tree, obstacles: list[KeptFile], wanted: Wanted | None = None) -> list[IngestedNode]:
    """Every visible node that came from the source; parents before their children.

    Parameters
    ----------
    wanted : Wanted, optional
        Only files that are wanted, and all folders that lead to them.
    obstacles : list of KeptFile
        Gets what could not be looked at, and stored files that are newer in the source than in the store.
    """
    assert tree.source is not None
    root = tree.layers.root
    found = [IngestedNode(root, IngestedName(0, b"", root.record, {}), None)]
    pending = [root]
    while pending:
        directory = pending.pop()
        try:
            children = dict(await tree.layers.children(directory, fresh=True, strict=True))
        except OSError as problem:
            obstacles.append(KeptFile(directory.path(), problem.strerror or str(problem)))
            continue
        if wanted is not None:
            above = directory.path()
            children = {name: child for name, child in children.items() if _may_lead_to(wanted, above, name, child)}
        origins = [child.record.origin for child in children.values() if child.record.origin is not None]
        looks = await trio.to_thread.run_sync(_look_at, tree.source, origins)
        for name, child in children.items():
            if child.is_directory:
                pending.append(child)
            look = None if child.record.origin is None else looks.get(child.record.origin)
            if look is not None:
                found += _take_up(tree, directory, name, child, look, obstacles)
    return found


def _may_lead_to(wanted: Wanted, above: bytes, name: bytes, child: Node) -> bool:
    path = above + b"/" + name if above else name
    return wanted.leads_to(path) if child.is_directory else wanted.takes(path)


def _look_at(source: AnySource, origins: Sequence[bytes]) -> dict[bytes, _Look]:
    looks: dict[bytes, _Look] = {}
    for origin in origins:
        try:
            looks[origin] = _Look(source.entry(origin), source.xattrs(origin))
        except OSError as problem:
            looks[origin] = _Look(problem, {})
    return looks


def _take_up(
    tree: Tree, directory: Node, name: bytes, child: Node, look: _Look, obstacles: list[KeptFile]
) -> list[IngestedNode]:
    path = child.path()
    try:
        if isinstance(look.found, OSError):
            raise look.found
        tree.layers.follow(child, look.found.found, look.found.target)
    except OSError as problem:
        if child.from_source or child.record.kind is Kind.SOURCE:
            obstacles.append(KeptFile(path, problem.strerror or str(problem)))
        return []
    status = look.found.found
    if child.record.kind in (Kind.PLANES, Kind.PLAIN) and not child.dirty and status.st_mtime_ns > child.record.mtime:
        obstacles.append(KeptFile(path, "is newer in the source than in the store"))
    seen = (status.st_size, status.st_mtime_ns) if child.record.kind is Kind.SOURCE else None
    return [IngestedNode(child, IngestedName(directory.ino, name, child.record, look.xattrs), seen)]


def changed_in_source(source: AnySource, files: Sequence[tuple[int, bytes, tuple[int, int]]]) -> dict[int, str]:
    """Of (inode, origin, size and mtime when selected) those that the source no longer has like that, and why."""
    changed = {}
    for ino, origin, seen in files:
        try:
            found = source.stat(origin)
        except OSError as problem:
            changed[ino] = problem.strerror or os.strerror(problem.errno or 0)
            continue
        if (found.st_size, found.st_mtime_ns) != seen:
            changed[ino] = "changed in the source while it was being stored"
    return changed
