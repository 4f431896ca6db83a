"""Whether the store alone can replace the source: before a receipt says so, every file of the source is looked at once more.

What was taken in must still be there as it was when it was read: size, mtime, and digest, for which it is read again. Nothing
may have come meanwhile; and nothing that the store has of it may be unverified. What stands against it is said by file.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import trio

from vfsd.flush.ingest import walk_source
from vfsd.flush.parallel import each
from vfsd.flush.progress import KeptFile, Tally
from vfsd.flush.snapshot import IngestedName
from vfsd.flush.writing import reason_of
from vfsd.store import Catalogue, Kind
from vfsd.tree import Tree
from vfsd.tree.source import AnySource, digest_of


@dataclass(frozen=True, slots=True)
class _Expected:
    """A file of the source, and what it was when it was taken in."""

    path: bytes
    origin: bytes
    size: int
    mtime: int
    digest: bytes
    taken: (
        bool  # else nobody recorded what it was: it may be what the stored file is, or have been replaced on the mount
    )


async def find_obstacles(
    tree: Tree, after: Catalogue, ingested: Sequence[IngestedName], known: Collection[KeptFile], tally: Tally
) -> list[KeptFile]:
    """What, besides what is `known` already, stands against replacing the source by what `after` says the store has."""
    assert tree.source is not None
    said = {obstacle.path for obstacle in known}
    obstacles: list[KeptFile] = []
    for found in await walk_source(tree, obstacles):
        record = after.inode(found.node.ino)
        if found.seen is not None and (record is None or record.kind is Kind.SOURCE):
            obstacles.append(KeptFile(found.node.path(), "came while the others were being stored"))
    expected = await trio.to_thread.run_sync(_expected, after, [_placed(tree, name) for name in ingested])
    expected, changed = await trio.to_thread.run_sync(_look_again, tree.source, expected)
    obstacles += changed
    obstacles = [obstacle for obstacle in obstacles if obstacle.path not in said]
    if not obstacles and not known:
        obstacles = await _read_again(tree.source, expected, tally)
    return obstacles


def unverified_files(after: Catalogue) -> list[KeptFile]:
    """What stands against it when files were stored without being verified: the first of them stands for all."""
    inos = after.taken.unverified()
    if not inos:
        return []
    more = f", as were {len(inos) - 1:,} others" if len(inos) > 1 else ""
    return [KeptFile(after.path_of(inos[0]), f"was stored without being verified{more}")]


def _placed(tree: Tree, name: IngestedName) -> tuple[int, bytes, bytes]:
    """Inode, path and origin."""
    node = tree.layers.nodes.get(name.record.ino)
    return name.record.ino, name.name if node is None else node.path(), name.record.origin or b""


def _expected(after: Catalogue, names: Sequence[tuple[int, bytes, bytes]]) -> list[_Expected]:
    found: dict[int, _Expected] = {}
    for ino, path, origin in names:
        record = after.inode(ino)
        if record is None or record.kind not in (Kind.PLANES, Kind.PLAIN) or record.digest is None:
            continue
        taken = after.taken.get(ino)
        if taken is not None:
            found[ino] = _Expected(path, origin, taken.size, taken.mtime, taken.digest, taken=True)
        elif record.origin is not None:  # taken in by an older vfsd, or changed before it was ever stored
            found[ino] = _Expected(path, origin, record.size, record.mtime, record.digest, taken=False)
    return list(found.values())


def _look_again(source: AnySource, files: list[_Expected]) -> tuple[list[_Expected], list[KeptFile]]:
    """The files that are as they were, as far as size and time tell, and what is the matter with the others."""
    same: list[_Expected] = []
    obstacles: list[KeptFile] = []
    for file in files:
        problem = _difference(source, file)
        if problem is None:
            same.append(file)
        elif file.taken:
            obstacles.append(KeptFile(file.path, problem))
    return same, obstacles


def _difference(source: AnySource, file: _Expected) -> str | None:
    try:
        found = source.stat(file.origin)
    except OSError as problem:
        return reason_of(problem)
    if (found.st_size, found.st_mtime_ns) != (file.size, file.mtime):
        return "changed in the source since it was stored"
    return None


async def _read_again(source: AnySource, files: list[_Expected], tally: Tally) -> list[KeptFile]:
    obstacles: list[KeptFile] = []

    def read(file: _Expected) -> None:
        if digest_of(source, file.origin) != file.digest:
            raise ValueError(
                "is read from the source with other bytes than when it was stored, at the same size and time"
            )

    tally.recheck(sum(file.size for file in files))
    for file, problem in await each(files, read, lambda file: tally.rechecked(file.size)):
        if not isinstance(problem, OSError | ValueError):
            raise problem
        obstacles.append(KeptFile(file.path, reason_of(problem)))
    return obstacles
