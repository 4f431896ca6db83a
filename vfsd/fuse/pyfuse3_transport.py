"""The transport on pyfuse3: for every user and kernel; each byte goes through this process.

Node ids are the tree's inode numbers. One session a process (libfuse's state is global).

What the kernel may keep: attributes and names that only this mount can change for an hour; what the source may change for
as long as the tree believes it; "no such file" for a second where the source could make one. pyfuse3 holds the GIL from a
request to its answer, so handlers do little themselves.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, final

import pyfuse3
import trio

from vfsd.errors import UnfitError
from vfsd.fuse.errno_of import log_and_answer
from vfsd.fuse.handles import Handles
from vfsd.fuse.mount_point import ABSENT_TIMEOUT, STABLE_TIMEOUT, MountPoint, as_option
from vfsd.fuse.pyfuse3_guard import answers
from vfsd.tree import Attributes, Caller, Changes, Node, Tree
from vfsd.tree.layers import REVALIDATE_AFTER

# Requests taken up at the same time at least; fewer costs twice as much in bursts.
MIN_TASKS = 16


def _caller(context: Any) -> Caller:
    return Caller(context.uid, context.gid)


@final
class _Operations(pyfuse3.Operations):
    """pyfuse3's handlers, each a few lines of translation."""

    enable_writeback_cache = False  # it loses acknowledged writes when the daemon is killed
    supports_dot_lookup = True

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self._tree = tree
        self._names = tree.names
        self._contents = tree.contents
        self._attributes = tree.attributes
        self._handles = Handles(tree)
        self._files = self._handles.files
        self._listings = self._handles.listings
        self._accessed: set[int] = set()
        self._access_noted = trio.Event()

    def path_for_log(self, operation: str, subject: int, name: bytes) -> bytes:
        """The path that a request was about, as far as it is known."""
        return self._handles.path_for_log(operation, subject, name)

    def _entry(self, found: Attributes) -> pyfuse3.EntryAttributes:
        ino, mode, nlink, uid, gid, rdev, size, blocks, atime, mtime, ctime, stable = found
        entry = pyfuse3.EntryAttributes()  # block size 4096
        entry.entry_timeout = entry.attr_timeout = STABLE_TIMEOUT if stable else REVALIDATE_AFTER
        entry.st_ino = ino
        entry.st_mode = mode
        entry.st_nlink = nlink
        entry.st_uid = uid
        entry.st_gid = gid
        entry.st_rdev = rdev
        entry.st_size = size
        entry.st_blocks = blocks
        entry.st_atime_ns = atime
        entry.st_mtime_ns = mtime
        entry.st_ctime_ns = ctime
        return entry

    def _entry_of(self, node: Node) -> pyfuse3.EntryAttributes:
        """What the kernel is told of a node; kept for what only the source has, which is most of a listing."""
        if not node.from_source:
            return self._entry(node.attributes())
        if node.shown_of is not node.record:
            node.shown, node.shown_of = self._entry(node.attributes()), node.record
        return cast(pyfuse3.EntryAttributes, node.shown)

    def release_all(self) -> None:
        """The kernel is gone and releases nothing any more: give back every handle."""
        self._handles.release_all()

    async def tell_access_times(self) -> None:
        """Runs while the mount is served: have the kernel ask anew for attributes of files whose access time was moved
        by an open. It does so by itself after each read that it asks us for, but not where it has the bytes already."""
        while True:
            await self._access_noted.wait()
            self._access_noted = trio.Event()
            while self._accessed:
                with contextlib.suppress(OSError):  # the kernel has forgotten the file already
                    pyfuse3.invalidate_inode(self._accessed.pop(), attr_only=True)

    # --- names

    @answers("lookup")
    async def lookup(self, parent: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        try:
            return self._entry_of(await self._names.lookup_node(parent, name))
        except OSError as problem:
            if problem.errno != errno.ENOENT:
                raise
        absent = pyfuse3.EntryAttributes()  # inode 0: the kernel keeps that there is none
        absent.st_ino = 0
        stable = self._names.is_stable(parent)
        absent.entry_timeout = STABLE_TIMEOUT if stable else ABSENT_TIMEOUT
        return absent

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for ino, count in inode_list:
            try:
                self._names.forget(ino, count)
            except Exception as problem:  # nobody waits for an answer
                log_and_answer(self, "forget", ino, problem)

    @answers("readlink")
    async def readlink(self, inode: int, ctx: Any) -> bytes:
        return await self._names.readlink(inode)

    @answers("mknod")
    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._entry(await self._names.mknod(parent, name, mode, rdev, _caller(ctx)))

    @answers("mkdir")
    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._entry(await self._names.mkdir(parent, name, mode, _caller(ctx)))

    @answers("unlink")
    async def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
        await self._names.unlink(parent, name)

    @answers("rmdir")
    async def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
        await self._names.rmdir(parent, name)

    @answers("symlink")
    async def symlink(self, parent: int, name: bytes, target: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._entry(await self._names.symlink(parent, name, target, _caller(ctx)))

    @answers("rename")
    async def rename(
        self, parent_old: int, name_old: bytes, parent_new: int, name_new: bytes, flags: int, ctx: Any
    ) -> None:
        await self._names.rename(parent_old, name_old, parent_new, name_new, flags)

    @answers("link")
    async def link(self, inode: int, new_parent: int, new_name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._entry(await self._names.link(inode, new_parent, new_name))

    # --- directories

    @answers("opendir")
    async def opendir(self, inode: int, ctx: Any) -> int:
        self._tree.layers.directory(inode)
        return self._handles.keep_listing(inode)

    @answers("readdir")
    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        inode, names = self._listings[fh]
        if start_id == 0:
            # one moment's names for the whole listing: positions stay right while entries come and go
            names = [b".", b"..", *await self._names.listing(inode)]
            self._listings[fh] = (inode, names)
            self._names.note_access(inode)
        reply, node_of, entry_of = pyfuse3.readdir_reply, self._names.entry, self._entry_of
        for place in range(start_id, len(names)):
            name = names[place]
            node = node_of(inode, name)
            if node is None:
                continue
            if not reply(token, name, entry_of(node), place + 1):
                return
            if place > 1:  # the kernel counts no reference for "." and ".."
                node.lookups += 1

    @answers("releasedir")
    async def releasedir(self, fh: int) -> None:
        self._listings.pop(fh, None)

    @answers("fsyncdir")
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._tree.journal.sync()

    # --- files

    @answers("open")
    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        handle = await self._contents.open(inode, flags)
        if handle.accessed:
            self._accessed.add(inode)
            self._access_noted.set()
        # a read that we see makes the kernel ask for the access time at once; telling it comes a moment later
        keep_cache = handle.keep_cache and not handle.accessed
        return pyfuse3.FileInfo(fh=self._handles.keep(handle), keep_cache=keep_cache)

    @answers("create")
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        try:
            found = await self._names.create(parent, name, mode, _caller(ctx))
            flags &= ~os.O_TRUNC
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            found = await self._names.lookup(parent, name)  # it came in the source since the kernel asked for it
        try:
            handle = await self._contents.open(found.ino, flags)
        except BaseException:
            self._names.forget(found.ino, 1)
            raise
        entry = self._entry(handle.node.attributes())
        return pyfuse3.FileInfo(fh=self._handles.keep(handle), keep_cache=handle.keep_cache), entry

    @answers("read")
    async def read(self, fh: int, off: int, size: int) -> bytes:
        # pyfuse3 takes any buffer, its annotation only knows bytes: a copy of each megabyte is not worth that
        return cast(bytes, await self._contents.read(self._files[fh], off, size))

    @answers("write")
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self._contents.write(self._files[fh], off, buf)

    async def flush(self, fh: int) -> None:
        """Every close: what was written is in a tier file already. The kernel takes this answer as success, and for an
        order never to ask again (fs/fuse/file.c, fuse_flush): a request less for each file that is opened."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    @answers("release")
    async def release(self, fh: int) -> None:
        self._handles.release(fh)

    @answers("fsync")
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._contents.fsync(self._files[fh].node, data_only=datasync)

    # --- attributes

    @answers("getattr")
    async def getattr(self, inode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._entry(await self._attributes.getattr(inode))

    @answers("setattr")
    async def setattr(self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any) -> pyfuse3.EntryAttributes:
        changes = Changes(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime=attr.st_atime_ns if fields.update_atime else None,
            mtime=attr.st_mtime_ns if fields.update_mtime else None,
        )
        return self._entry(await self._attributes.setattr(inode, changes))

    @answers("statfs")
    async def _statfs(self, inode: int) -> pyfuse3.StatvfsData:
        figures = self._attributes.statfs()
        answer = pyfuse3.StatvfsData()
        answer.f_bsize = answer.f_frsize = 4096
        answer.f_blocks = figures.total // 4096
        answer.f_bfree = answer.f_bavail = figures.free // 4096
        answer.f_ffree = answer.f_favail = 1 << 40  # inode numbers do not run out
        answer.f_files = figures.files + answer.f_ffree  # all there are: `df -i` takes the free ones from these
        answer.f_namemax = 255
        return answer

    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        return await self._statfs(pyfuse3.ROOT_INODE)

    @answers("getxattr")
    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        return await self._attributes.getxattr(inode, name)

    @answers("listxattr")
    async def listxattr(self, inode: int, ctx: Any) -> Sequence[bytes]:
        return await self._attributes.listxattr(inode)

    @answers("setxattr")
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        await self._attributes.setxattr(inode, name, value)

    @answers("removexattr")
    async def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        await self._attributes.removexattr(inode, name)


@final
class Pyfuse3Transport:
    """Mounts a tree and serves it; see the module.

    Parameters
    ----------
    filesystem_name : str
        What `df` and /proc/self/mountinfo show as the source of the mount.
    options : sequence of str
        Mount options for libfuse ("allow_other", "ro", …).

    Example
    -------
    >>> transport = Pyfuse3Transport(tree, mountpoint, filesystem_name="/data/plate1", options=[])  # doctest: +SKIP
    >>> transport.mount()                                                                           # doctest: +SKIP
    >>> await transport.serve()                                                                     # doctest: +SKIP
    """

    name = "pyfuse3"

    def __init__(self, tree: Tree, mountpoint: Path, *, filesystem_name: str, options: Sequence[str]) -> None:
        self._mount_point = MountPoint(mountpoint)
        self._filesystem_name = filesystem_name
        self._options = options
        self._operations = _Operations(tree)
        self._mounted = False

    def mount(self) -> None:
        """Mount; requests wait until `serve` runs.

        Raises
        ------
        UnfitError
            The kernel or fusermount3 refused.
        """
        options = set(pyfuse3.default_options)
        options |= {f"fsname={as_option(self._filesystem_name)}", "subtype=vfsd", *self._options}
        try:
            pyfuse3.init(self._operations, os.fspath(self._mount_point.path), options)
        except (RuntimeError, OSError) as problem:
            raise UnfitError(
                f"cannot be mounted ({problem})", path=self._mount_point.path, remedy="vfsd doctor says what is missing"
            ) from problem
        self._mounted = True

    async def serve(self) -> None:
        """Answer the kernel until the mount is gone, whoever unmounted it."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    trio.to_thread.run_sync, self._mount_point.raise_read_ahead
                )  # its lstat is answered by us
                nursery.start_soon(self._operations.tell_access_times)
                await pyfuse3.main(min_tasks=MIN_TASKS)
                nursery.cancel_scope.cancel()
        finally:
            self._mounted = False
            pyfuse3.close(unmount=False)
            self._operations.release_all()

    async def request_unmount(self) -> None:
        """Unmount; `serve` returns once the kernel has let go.

        Raises
        ------
        BusyError
            Programs use the mount.
        UnfitError
            The kernel or fusermount3 refused for another reason.
        """
        if self._mounted:
            await trio.to_thread.run_sync(self._mount_point.unmount)

    @staticmethod
    def passthrough() -> str:
        """The kernel reads nothing by itself: libfuse's part that pyfuse3 uses has no words for it."""
        return 'only the transport "kernel" has it'

    def unmount_lazily(self) -> None:
        """Take the mount out of the tree at once; open files go on until they are closed."""
        self._mount_point.detach()
