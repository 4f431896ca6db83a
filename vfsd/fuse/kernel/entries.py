"""What the kernel is told of nodes: attributes and entries, in its own structures, and for how long they hold.

Every entry that is told counts as a reference of the kernel, until it forgets it. Touched only by the trio thread.
"""

from __future__ import annotations

from typing import cast, final

from vfsd.fuse.kernel.node_ids import NodeIds
from vfsd.fuse.kernel.protocol import fuse_attr_out, fuse_entry_out
from vfsd.fuse.mount_point import ABSENT_TIMEOUT, STABLE_TIMEOUT
from vfsd.tree import Attributes, Node
from vfsd.tree.layers import REVALIDATE_AFTER

_STABLE, _FOLLOWED, _ABSENT = int(STABLE_TIMEOUT), int(REVALIDATE_AFTER), int(ABSENT_TIMEOUT)
_SECOND = 10**9
_BLOCK_SIZE = 4096


@final
class Entries:
    """See the module.

    Attributes
    ----------
    outdated : list of int
        Node ids of which the kernel must ask for the attributes anew; to be told once the request is answered.
    """

    def __init__(self, ids: NodeIds) -> None:
        self._ids = ids
        self.outdated: list[int] = []

    def attributes(self, nodeid: int, found: Attributes) -> bytes:
        """struct fuse_attr_out. What is known under an old node id changes without the kernel's knowing of it."""
        valid = 0 if not self._ids.is_current(nodeid) else _STABLE if found.stable else _FOLLOWED
        return fuse_attr_out.pack(valid, 0, 0, *_attr(found))

    def entry(self, found: Attributes) -> bytes:
        """struct fuse_entry_out, counted as one more reference."""
        self._ids.refer(found.ino)
        return self._pack(found)

    def _pack(self, found: Attributes) -> bytes:
        valid = _STABLE if found.stable else _FOLLOWED
        return fuse_entry_out.pack(self._ids.current(found.ino), 0, valid, valid, 0, 0, *_attr(found))

    def entry_of(self, node: Node) -> bytes:
        """The same of a node; kept for what only the source has, which is most of a listing."""
        self._ids.refer(node.ino)
        if not node.from_source or self._ids.current(node.ino) != node.ino:
            return self._pack(node.attributes())
        if node.shown_of is not node.record:
            node.shown, node.shown_of = self._pack(node.attributes()), node.record
        return cast(bytes, node.shown)

    @staticmethod
    def absent(*, stable: bool) -> bytes:
        """That there is no such name, which the kernel may keep."""
        return fuse_entry_out.pack(0, 0, _STABLE if stable else _ABSENT, *(0,) * 19)


def _attr(found: Attributes) -> tuple[int, ...]:
    """struct fuse_attr"""
    ino, mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime, _ = found
    atime, atimensec = divmod(atime, _SECOND)
    mtime, mtimensec = divmod(mtime, _SECOND)
    ctime, ctimensec = divmod(ctime, _SECOND)
    return (
        ino,
        size,
        blocks,
        atime,
        mtime,
        ctime,
        atimensec,
        mtimensec,
        ctimensec,
        mode,
        nlink,
        uid,
        gid,
        rdev & 0xFFFFFFFF,
        _BLOCK_SIZE,
        0,
    )
