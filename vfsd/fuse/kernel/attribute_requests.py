"""Requests about attributes, extended attributes, and the whole file system."""

from __future__ import annotations

import errno
import os
import time
from typing import final

from vfsd.fuse.kernel.entries import Entries
from vfsd.fuse.kernel.node_ids import LookAgain, NodeIds
from vfsd.fuse.kernel.parsing import Request
from vfsd.fuse.kernel.protocol import FAttr, fuse_getxattr_out, fuse_kstatfs
from vfsd.tree import Changes, Tree

# A change of owner or group alone, to what they were included (the kernel then names nothing), takes privileges away.
_BUT_OWNERS = FAttr.MODE | FAttr.SIZE | FAttr.ATIME | FAttr.MTIME
_SECOND = 10**9
_BLOCK = 4096
# Inode numbers do not run out.
_FREE_INODES = 1 << 40
_NAME_MAX = 255


@final
class AttributeRequests:
    """See the module; each method answers one kind of request with the bytes that follow the header."""

    def __init__(self, tree: Tree, ids: NodeIds, entries: Entries) -> None:
        self._tree = tree
        self._attributes = tree.attributes
        self._ids = ids
        self._entries = entries

    async def getattr(self, request: Request) -> bytes:
        nodeid = request.nodeid
        return self._entries.attributes(nodeid, await self._attributes.getattr(self._ids.ino(nodeid)))

    async def setattr(self, request: Request) -> bytes:
        nodeid = request.nodeid
        valid, _, _, size, _, atime, mtime, _, atimensec, mtimensec, _, mode, _, uid, gid, _ = request.fields
        if valid & FAttr.SIZE and not valid & FAttr.FH and not self._ids.is_current(nodeid):
            raise LookAgain  # the pages that the kernel has to cut are the current node's
        changes = Changes(
            mode=mode if valid & FAttr.MODE else None,
            uid=uid if valid & FAttr.UID else None,
            gid=gid if valid & FAttr.GID else None,
            size=size if valid & FAttr.SIZE else None,
            atime=_time(valid & FAttr.ATIME, valid & FAttr.ATIME_NOW, atime, atimensec),
            mtime=_time(valid & FAttr.MTIME, valid & FAttr.MTIME_NOW, mtime, mtimensec),
        )
        ino = self._ids.ino(nodeid)
        if valid & FAttr.KILL_SUIDGID or not valid & _BUT_OWNERS:
            self._attributes.drop_privileges(self._tree.layers.node(ino))
        found = await self._attributes.setattr(ino, changes)
        if not self._ids.is_current(nodeid):
            self._entries.outdated.append(self._ids.current(found.ino))
        return self._entries.attributes(nodeid, found)

    async def statfs(self, request: Request) -> bytes:
        figures = self._attributes.statfs()
        free = figures.free // _BLOCK
        # all inodes there are: `df -i` takes the free ones from these
        return fuse_kstatfs.pack(
            figures.total // _BLOCK,
            free,
            free,
            figures.files + _FREE_INODES,
            _FREE_INODES,
            _BLOCK,
            _NAME_MAX,
            _BLOCK,
            0,
        )

    async def getxattr(self, request: Request) -> bytes:
        value = await self._attributes.getxattr(self._ids.ino(request.nodeid), request.names[0])
        return _sized(value, request.fields[0])

    async def listxattr(self, request: Request) -> bytes:
        names = await self._attributes.listxattr(self._ids.ino(request.nodeid))
        return _sized(b"".join(name + b"\0" for name in names), request.fields[0])

    async def setxattr(self, request: Request) -> bytes:
        flags = request.fields[1]
        ino = self._ids.ino(request.nodeid)
        await self._attributes.setxattr(ino, request.names[0], bytes(request.data), flags)
        return b""

    async def removexattr(self, request: Request) -> bytes:
        await self._attributes.removexattr(self._ids.ino(request.nodeid), request.names[0])
        return b""


def _time(given: int, now: int, seconds: int, nanoseconds: int) -> int | None:
    """A time that is to be set, in ns; None leaves as it is."""
    if not given:
        return None
    return time.time_ns() if now else seconds * _SECOND + nanoseconds


def _sized(value: bytes, room: int) -> bytes:
    """A value that fits, or without any room its size."""
    if room == 0:
        return fuse_getxattr_out.pack(len(value), 0)
    if len(value) > room:
        raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
    return value
