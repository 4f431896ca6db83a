"""Requests about names and directories."""

from __future__ import annotations

import errno
from typing import final

from vfsd.fuse.handles import Handles
from vfsd.fuse.kernel.entries import Entries
from vfsd.fuse.kernel.node_ids import NodeIds
from vfsd.fuse.kernel.parsing import Request
from vfsd.fuse.kernel.protocol import fuse_dirent, fuse_forget_one, fuse_open_out
from vfsd.tree import Caller, Node, Tree

# What a listing says of "." and "..": the kernel looks at neither, and counts no reference.
_NO_ENTRY = bytes(128)
_PADDING = tuple(bytes(-length % 8) for length in range(8))


@final
class NameRequests:
    """See the module; each method answers one kind of request with the bytes that follow the header."""

    def __init__(self, tree: Tree, handles: Handles, ids: NodeIds, entries: Entries) -> None:
        self._tree = tree
        self._names = tree.names
        self._handles = handles
        self._ids = ids
        self._entries = entries

    async def lookup(self, request: Request) -> bytes:
        parent = self._ids.ino(request.nodeid)
        try:
            return self._entries.entry_of(await self._names.lookup_node(parent, request.names[0]))
        except OSError as problem:
            if problem.errno != errno.ENOENT:
                raise
        return self._entries.absent(stable=self._names.is_stable(parent))

    def forget(self, nodeid: int, count: int) -> None:
        """Nobody waits for an answer."""
        self._names.forget(self._ids.forget(nodeid, count), count)

    @staticmethod
    def forgotten(request: Request) -> list[tuple[int, int]]:
        """The node ids of FORGET and BATCH_FORGET, with the references that are given back."""
        if len(request.fields) == 1:
            return [(request.nodeid, request.fields[0])]
        data = request.data[: min(request.fields[0], len(request.data) // fuse_forget_one.size) * fuse_forget_one.size]
        return list(fuse_forget_one.iter_unpack(data))

    async def readlink(self, request: Request) -> bytes:
        return await self._names.readlink(self._ids.ino(request.nodeid))

    async def mknod(self, request: Request) -> bytes:
        mode, rdev = request.fields[:2]
        parent, name = self._ids.ino(request.nodeid), request.names[0]
        return self._entries.entry(await self._names.mknod(parent, name, mode, rdev, Caller(request.uid, request.gid)))

    async def mkdir(self, request: Request) -> bytes:
        parent, name = self._ids.ino(request.nodeid), request.names[0]
        caller = Caller(request.uid, request.gid)
        return self._entries.entry(await self._names.mkdir(parent, name, request.fields[0], caller))

    async def unlink(self, request: Request) -> bytes:
        await self._names.unlink(self._ids.ino(request.nodeid), request.names[0])
        return b""

    async def rmdir(self, request: Request) -> bytes:
        await self._names.rmdir(self._ids.ino(request.nodeid), request.names[0])
        return b""

    async def symlink(self, request: Request) -> bytes:
        name, target = request.names
        parent = self._ids.ino(request.nodeid)
        return self._entries.entry(await self._names.symlink(parent, name, target, Caller(request.uid, request.gid)))

    async def rename(self, request: Request) -> bytes:
        """RENAME, and RENAME2 with the flags of renameat2(2)."""
        flags = request.fields[1] if len(request.fields) > 1 else 0
        old, new = request.names
        await self._names.rename(self._ids.ino(request.nodeid), old, self._ids.ino(request.fields[0]), new, flags)
        return b""

    async def link(self, request: Request) -> bytes:
        ino = self._ids.ino(request.fields[0])
        return self._entries.entry(await self._names.link(ino, self._ids.ino(request.nodeid), request.names[0]))

    # --- directories

    async def opendir(self, request: Request) -> bytes:
        ino = self._ids.ino(request.nodeid)
        self._tree.layers.directory(ino)
        return fuse_open_out.pack(self._handles.keep_listing(ino), 0, 0)

    async def readdir(self, request: Request) -> bytes:
        """Names with inode numbers and types."""
        return await self._listed(request, with_entries=False)

    async def readdirplus(self, request: Request) -> bytes:
        """Names with all that a lookup would tell, each counted as a reference."""
        return await self._listed(request, with_entries=True)

    async def _listed(self, request: Request, *, with_entries: bool) -> bytes:
        fh, place, room = request.fields[:3]
        ino, names = self._handles.listings[fh]
        if place == 0:
            # one moment's names for the whole listing: positions stay right while entries come and go
            names = [b".", b"..", *await self._names.listing(ino)]
            self._handles.listings[fh] = (ino, names)
            self._names.note_access(ino)
        parts: list[bytes] = []
        node_of, pack = self._names.entry, fuse_dirent.pack
        fixed = fuse_dirent.size + (len(_NO_ENTRY) if with_entries else 0)
        for position in range(place, len(names)):
            name = names[position]
            node = node_of(ino, name)
            if node is None:
                continue
            length = len(name)
            room -= fixed + (length + 7 & ~7)
            if room < 0:
                break
            if with_entries:
                parts.append(self._listed_entry(node, position))
            parts += pack(node.ino, position + 1, length, node.mode >> 12), name, _PADDING[length & 7]
        return b"".join(parts)

    def _listed_entry(self, node: Node, position: int) -> bytes:
        if position < 2:
            return _NO_ENTRY
        node.lookups += 1
        return self._entries.entry_of(node)

    async def releasedir(self, request: Request) -> bytes:
        self._handles.listings.pop(request.fields[0], None)
        return b""

    async def fsyncdir(self, request: Request) -> bytes:
        await self._tree.journal.sync()
        return b""
