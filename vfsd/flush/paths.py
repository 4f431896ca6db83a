"""Paths: those that lead to an inode at one moment, from the entries of journal and catalogue, and those that are wanted.

A directory that was removed takes its entries out of the journal, so that what the catalogue has below it may look as if
nothing had happened: a name counts only if its directory leads up to the root.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from vfsd.tree import Tree

NOWHERE = b"?"  # what `Tree.path_of` says of an inode without a name


@final
class PresentPaths:
    """Paths by inode; each directory is looked up once. For use between two awaits."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._folders: dict[int, bytes] = {}

    def of(self, ino: int) -> list[bytes]:
        """Every path of an inode, the journal's names first; none if no name leads to it."""
        places = self._tree.layers.names_of(ino)
        paths = [self.at(parent, name) for parent, name in places]
        return [path for path in paths if path is not None]

    def at(self, parent: int, name: bytes) -> bytes | None:
        """The path of a name in a directory; None if the directory is gone."""
        folder = self._folders.get(parent)
        if folder is None:
            folder = self._folders[parent] = self._tree.path_of(parent)
        if folder == NOWHERE:
            return None
        return folder + b"/" + name if folder else name


@final
class Wanted:
    """Paths that somebody named: they and all that lies below them are wanted. The empty path is everything."""

    def __init__(self, paths: Iterable[bytes]) -> None:
        self._paths = frozenset(paths)
        self._above = {above for path in self._paths for above in _folders_above(path)}

    def takes(self, path: bytes) -> bool:
        """Whether a path is wanted."""
        return path in self._paths or any(above in self._paths for above in _folders_above(path))

    def leads_to(self, folder: bytes) -> bool:
        """Whether something wanted may lie in a folder or below it."""
        return folder in self._above or self.takes(folder)


def _folders_above(path: bytes) -> Iterable[bytes]:
    while path:
        path = path.rpartition(b"/")[0]
        yield path
