"""The paths that lead to an inode at one moment, from the entries of journal and catalogue.

A directory that was removed takes its entries out of the journal, so that what the catalogue has below it may look as if
nothing had happened: a name counts only if its directory leads up to the root.
"""

from __future__ import annotations

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
