"""Requests about open files."""

from __future__ import annotations

import os
from typing import final

from vfsd.fuse.handles import Handles
from vfsd.fuse.kernel.entries import Entries
from vfsd.fuse.kernel.node_ids import LookAgain, NodeIds, Opens
from vfsd.fuse.kernel.parsing import Request
from vfsd.fuse.kernel.passthrough import Passthrough
from vfsd.fuse.kernel.protocol import (
    FUSE_FSYNC_FDATASYNC,
    FUSE_OPEN_KILL_SUIDGID,
    FUSE_WRITE_KILL_SUIDGID,
    FOpen,
    fuse_lseek_out,
    fuse_open_out,
    fuse_write_out,
)
from vfsd.tree import Caller, OpenFile, Tree


def _changes(flags: int) -> bool:
    """Whether an open may change the file's bytes."""
    return flags & os.O_ACCMODE != os.O_RDONLY or bool(flags & os.O_TRUNC)


@final
class FileRequests:
    """See the module; each method answers one kind of request with what follows the header."""

    def __init__(self, tree: Tree, handles: Handles, ids: NodeIds, entries: Entries, passthrough: Passthrough) -> None:
        self._tree = tree
        self._names = tree.names
        self._contents = tree.contents
        self._handles = handles
        self._ids = ids
        self._entries = entries
        self._passthrough = passthrough
        self._opened: dict[int, tuple[int, Opens, bool]] = {}

    async def open(self, request: Request) -> bytes:
        nodeid, flags = request.nodeid, request.fields[0]
        ino = self._ids.ino(nodeid)
        if not self._ids.is_current(nodeid):
            raise LookAgain
        if _changes(flags):
            opens = self._ids.opens(nodeid)
            try:
                self._passthrough.writes(nodeid, opens, self._tree.layers.node(ino))
            except LookAgain:
                self._entries.outdated.append(nodeid)
                raise
            return await self._open_through_us(nodeid, opens, flags, request.fields[1])
        handle = await self._contents.open(ino, flags)
        try:
            backing = await self._passthrough.backing(handle)
            # from here to the answer nothing else happens
            if not self._ids.is_current(nodeid):
                if backing is not None:
                    backing.release()
                raise LookAgain
            opens = self._ids.opens(nodeid)
            try:
                registration = self._passthrough.choose(nodeid, opens, handle.node, backing)
            except LookAgain:
                self._entries.outdated.append(nodeid)
                raise
        except BaseException:
            self._contents.release(handle)
            raise
        if registration is None:
            opens.plain += 1
            return self._answer_open(nodeid, opens, handle)
        opens.direct += 1
        number = self._handles.keep(handle)
        self._opened[number] = (nodeid, opens, True)
        self._note(nodeid, handle)
        return fuse_open_out.pack(number, FOpen.PASSTHROUGH, registration.number)

    async def _open_through_us(self, nodeid: int, opens: Opens, flags: int, open_flags: int) -> bytes:
        opens.plain += 1  # before anything waits: no reader gets in between with a backing file
        try:
            handle = await self._contents.open(self._ids.ino(nodeid), flags)
        except BaseException:
            self._passthrough.close(nodeid, opens, direct=False)
            raise
        if open_flags & FUSE_OPEN_KILL_SUIDGID:
            self._tree.attributes.drop_privileges(handle.node)
        return self._answer_open(nodeid, opens, handle)

    def _answer_open(self, nodeid: int, opens: Opens, handle: OpenFile) -> bytes:
        number = self._handles.keep(handle)
        self._opened[number] = (nodeid, opens, False)
        self._note(nodeid, handle)
        # a read that we see makes the kernel ask for the access time at once; telling it comes a moment later
        keep = handle.keep_cache and not handle.accessed
        return fuse_open_out.pack(number, FOpen.KEEP_CACHE if keep else 0, 0)

    def _note(self, nodeid: int, handle: OpenFile) -> None:
        """The kernel asks for a file's attributes by itself after each read that it asks us for, but not where it has the
        bytes already."""
        if handle.accessed:
            self._entries.outdated.append(nodeid)

    async def create(self, request: Request) -> bytes:
        flags, mode, _, open_flags = request.fields
        parent, name = self._ids.ino(request.nodeid), request.names[0]
        try:
            found = await self._names.create(parent, name, mode, Caller(request.uid, request.gid))
            flags &= ~os.O_TRUNC
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            found = await self._names.lookup(parent, name)  # it came in the source since the kernel asked for it
        try:
            nodeid = self._ids.current(found.ino)
            opens = self._ids.opens(nodeid)
            if opens.direct:
                self._entries.outdated.append(self._ids.renew(self._tree.layers.node(found.ino), for_writer=True))
                nodeid = self._ids.current(found.ino)
                opens = self._ids.opens(nodeid)
            answer = await self._open_through_us(nodeid, opens, flags, open_flags)
        except BaseException:
            self._names.forget(found.ino, 1)
            raise
        return self._entries.entry(self._tree.layers.node(found.ino).attributes()) + answer

    async def read(self, request: Request) -> list[bytes | memoryview]:
        fh, offset, size = request.fields[:3]
        return [await self._contents.read(self._handles.files[fh], offset, size, request.room)]

    async def write(self, request: Request) -> bytes:
        fh, offset, _, write_flags = request.fields[:4]
        handle = self._handles.files[fh]
        written = await self._contents.write(handle, offset, request.data)
        if write_flags & FUSE_WRITE_KILL_SUIDGID:
            self._tree.attributes.drop_privileges(handle.node)
        return fuse_write_out.pack(written, 0)

    async def release(self, request: Request) -> bytes:
        self.close(request.fields[0])
        return b""

    def close(self, number: int) -> None:
        """The last reference of the kernel to a handle is gone."""
        try:
            self._handles.release(number)
        finally:
            nodeid, opens, direct = self._opened.pop(number)
            self._passthrough.close(nodeid, opens, direct=direct)

    def close_all(self) -> None:
        """The kernel is gone and releases nothing any more."""
        for number in list(self._opened):
            self.close(number)

    async def fsync(self, request: Request) -> bytes:
        fh, flags = request.fields[:2]
        await self._contents.fsync(self._handles.files[fh].node, data_only=bool(flags & FUSE_FSYNC_FDATASYNC))
        return b""

    async def fallocate(self, request: Request) -> bytes:
        fh, offset, length, mode = request.fields[:4]
        await self._tree.extents.allocate(self._handles.files[fh], mode, offset, length)
        return b""

    async def lseek(self, request: Request) -> bytes:
        fh, offset, whence = request.fields[:3]
        return fuse_lseek_out.pack(await self._tree.extents.seek(self._handles.files[fh], offset, whence))

    async def copy_file_range(self, request: Request) -> bytes:
        source, offset, _, target, target_offset, length, _ = request.fields
        files = self._handles.files
        copied = await self._tree.extents.copy(files[source], offset, files[target], target_offset, length)
        return fuse_write_out.pack(copied, 0)

    async def tmpfile(self, request: Request) -> bytes:
        """A file without a name, open."""
        flags, mode, _, open_flags = request.fields
        caller = Caller(request.uid, request.gid)
        found = await self._names.tmpfile(self._ids.ino(request.nodeid), mode, caller)
        try:
            answer = await self._open_through_us(found.ino, self._ids.opens(found.ino), flags, open_flags)
        except BaseException:
            self._names.forget(found.ino, 1)
            raise
        return self._entries.entry(found) + answer
