"""What the kernel holds of files and directories: handles by number, the same for every transport.

A number is never used twice. Touched only by the trio thread.
"""

from __future__ import annotations

from typing import final

from vfsd.tree import OpenFile, Tree

# What the subject of a request is, where it is no inode: a file's handle, a listing's; or the directory of a name.
_ON_HANDLES = ("read", "write", "release", "fsync", "fallocate", "lseek", "copy_file_range")
_ON_LISTINGS = ("readdir", "releasedir", "fsyncdir")
_ON_NAMES = ("lookup", "mknod", "mkdir", "unlink", "rmdir", "symlink", "rename", "create")


@final
class Handles:
    """See the module.

    Attributes
    ----------
    files : dict
        Open files by number.
    listings : dict
        Open directories by number: the inode, and the names of the listing that is under way.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._next = 1
        self.files: dict[int, OpenFile] = {}
        self.listings: dict[int, tuple[int, list[bytes]]] = {}

    def keep(self, handle: OpenFile) -> int:
        """A number for an open file."""
        number = self._next
        self._next += 1
        self.files[number] = handle
        return number

    def keep_listing(self, ino: int) -> int:
        """A number for an open directory."""
        number = self._next
        self._next += 1
        self.listings[number] = (ino, [])
        return number

    def release(self, number: int) -> None:
        """The kernel gives a file back."""
        try:
            self._tree.contents.release(self.files[number])
        finally:
            del self.files[number]

    def release_all(self) -> None:
        """The kernel is gone and releases nothing any more: give back every handle."""
        while self.files:
            _, handle = self.files.popitem()
            self._tree.contents.release(handle)
        self.listings.clear()

    def path_for_log(self, operation: str, subject: int, name: bytes) -> bytes:
        """The path that a request was about, as far as it is known."""
        if operation in _ON_LISTINGS:
            subject = self.listings[subject][0]
        node = self.files[subject].node if operation in _ON_HANDLES else self._tree.layers.nodes.get(subject)
        if node is None:
            return b"?"
        path = node.path()
        if not path and node is not self._tree.layers.root:  # it lost its name: say where it came from
            path = node.record.origin or b"?"
        if operation in _ON_NAMES:
            return path + b"/" + name if path else name
        return path
