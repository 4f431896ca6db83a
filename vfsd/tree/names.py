"""Operations on names: look up, make, link, rename, remove, list.

All follow one pattern: load the directories concerned (which may sleep), then check and change without an await in
between, journal and memory together in one `Recording.change`, so that a failed journal leaves the tree as it was.

Errors are `OSError` with the errno that ext4 would give. Permission checks are the caller's business (the kernel makes
them for a mount with `default_permissions`).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import NamedTuple, final

from vfsd.store import InodeRecord, Kind
from vfsd.store.catalogue import kind_of_mode
from vfsd.tree.contents import Contents
from vfsd.tree.hard_links import HardLinks
from vfsd.tree.layers import Layers
from vfsd.tree.node import Attributes, Node
from vfsd.tree.recording import Recording
from vfsd.tree.stamps import note_access

# ext4's limits (include/uapi/linux/limits.h, fs/ext4); the kernel's FUSE would let names of 1024 bytes through.
NAME_MAX = 255
SYMLINK_MAX = 4095
LINK_MAX = 65000

# renameat2(2)
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


class Caller(NamedTuple):
    """Who asks: the owner of what is made."""

    uid: int
    gid: int


def _fail(number: int, name: bytes = b"") -> OSError:
    return OSError(number, os.strerror(number), name)


@final
class Names:
    """See the module."""

    def __init__(
        self, layers: Layers, recording: Recording, links: HardLinks, contents: Contents, *, read_only: bool
    ) -> None:
        self._layers = layers
        self._recording = recording
        self._links = links
        self._contents = contents
        self._read_only = read_only
        self._linkable: set[int] = set()

    # --- looking

    async def lookup(self, parent: int, name: bytes) -> Attributes:
        """The attributes of the node under a name, counted as one more reference of the transport (see `forget`)."""
        return (await self.lookup_node(parent, name)).attributes()

    async def lookup_node(self, parent: int, name: bytes) -> Node:
        """The node under a name, counted as one more reference of the transport (see `forget`)."""
        directory = self._layers.directory(parent)
        if name == b".":
            found = directory
        elif name == b"..":
            found = directory.parent or directory
        else:
            if len(name) > NAME_MAX:
                raise _fail(errno.ENAMETOOLONG, name)
            found = await self._seen_now(directory, name)
            if not found.is_directory:
                found.parent, found.name = directory, name
        found.lookups += 1
        return found

    async def _seen_now(self, directory: Node, name: bytes) -> Node:
        """The node under a name, as the source shows it now if it is the source's."""
        found = await self._layers.child(directory, name)
        try:
            await self._layers.revalidate_file(found)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            await self._layers.children(directory, fresh=True)
        return await self._layers.child(directory, name)

    def forget(self, ino: int, count: int) -> None:
        """The transport gives back `count` references."""
        node = self._layers.nodes.get(ino)
        if node is not None:
            node.lookups = max(0, node.lookups - count)
            self._contents.drop_if_unused(node)
        if ino in self._linkable and ino not in self._layers.nodes:
            self._linkable.discard(ino)

    async def readlink(self, ino: int) -> bytes:
        """Where a symbolic link points."""
        node = self._layers.node(ino)
        target = node.record.target
        if target is None:
            raise _fail(errno.EINVAL)
        self.note_access(ino)
        return target

    def note_access(self, ino: int) -> None:
        """A program read a directory or a symbolic link: its access time moves."""
        if not self._read_only:
            note_access(self._layers.node(ino))

    async def listing(self, ino: int) -> list[bytes]:
        """The names in a directory now, without "." and ".."; a transport lists them by `entry`."""
        return list(await self._layers.children(self._layers.directory(ino), fresh=True))

    def entry(self, ino: int, name: bytes) -> Node | None:
        """The node under a name that `listing` gave, without counting a reference; None when it is gone by now."""
        directory = self._layers.nodes.get(ino)
        if directory is None or directory.children is None:
            return None
        if name == b".":
            return directory
        if name == b"..":
            return directory.parent or directory
        return directory.children.get(name)

    def is_stable(self, ino: int) -> bool:
        """Whether only this mount can make names in a directory."""
        directory = self._layers.nodes.get(ino)
        return directory is None or not self._layers.listens_to_source(directory)

    # --- making

    async def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attributes:
        """A new directory."""
        directory = await self._place_for(parent, name)
        record = self._new_record(Kind.DIRECTORY, mode, caller, directory)
        record.nlink = 2
        # what lower layers have under this name stays hidden: the new directory has no origin
        return self._make(directory, name, record)

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Attributes:
        """A new regular file, FIFO, socket or device."""
        directory = await self._place_for(parent, name)
        kind = kind_of_mode(mode)
        if kind is Kind.SOURCE:
            record = self._new_record(Kind.FRESH, mode, caller, directory)
            return self._make(directory, name, record)
        if kind in (Kind.DIRECTORY, Kind.SYMLINK):
            raise _fail(errno.EINVAL, name)
        record = self._new_record(kind, mode, caller, directory)
        record.rdev = rdev
        return self._make(directory, name, record)

    async def create(self, parent: int, name: bytes, mode: int, caller: Caller) -> Attributes:
        """A new, empty regular file; raises EEXIST."""
        return await self.mknod(parent, name, stat.S_IFREG | mode, 0, caller)

    async def tmpfile(self, parent: int, mode: int, caller: Caller) -> Attributes:
        """A new, empty regular file without a name (O_TMPFILE), to which `link` may give one; counted as a lookup does."""
        self._check_writable()
        directory = self._layers.directory(parent)
        if directory.record.nlink == 0:
            raise _fail(errno.ENOENT)
        record = self._new_record(Kind.FRESH, mode, caller, directory)
        record.nlink = 0
        node = self._layers.new_node(record)
        try:
            self._contents.create_data(node)  # no row names it: a crash leaves nothing of it
        except BaseException:
            self._layers.nodes.pop(node.ino, None)
            raise
        self._linkable.add(node.ino)
        node.lookups += 1
        return node.attributes()

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attributes:
        """A new symbolic link."""
        if not target:
            raise _fail(errno.ENOENT, name)
        if len(target) > SYMLINK_MAX:
            raise _fail(errno.ENAMETOOLONG, name)
        directory = await self._place_for(parent, name)
        record = self._new_record(Kind.SYMLINK, 0o777, caller, directory)
        record.target, record.size = target, len(target)
        return self._make(directory, name, record)

    async def link(self, ino: int, parent: int, name: bytes) -> Attributes:
        """One more name for a file."""
        node = self._layers.node(ino)
        await self._links.complete(node)
        directory = await self._place_for(parent, name)
        if node.is_directory:
            raise _fail(errno.EPERM, name)
        if node.record.nlink == 0 and ino not in self._linkable:
            raise _fail(errno.ENOENT, name)
        if node.record.nlink >= LINK_MAX:
            raise _fail(errno.EMLINK, name)
        with self._recording.change():
            self._own(node)
            self._recording.put(node, node.record.changed(nlink=node.record.nlink + 1, ctime=time.time_ns()))
            self._recording.touch_directory(directory)
            self._recording.attach(directory, name, node)
        self._linkable.discard(ino)
        node.lookups += 1
        return node.attributes()

    def _new_record(self, kind: Kind, mode: int, caller: Caller, directory: Node) -> InodeRecord:
        now = time.time_ns()
        bits = mode & 0o7777
        gid = caller.gid
        if directory.record.mode & stat.S_ISGID:
            gid = directory.record.gid
            if kind is Kind.DIRECTORY:
                bits |= stat.S_ISGID
        return InodeRecord(
            ino=self._layers.journal.new_ino(),
            kind=kind,
            mode=bits,
            uid=caller.uid,
            gid=gid,
            nlink=1,
            size=0,
            atime=now,
            mtime=now,
            ctime=now,
        )

    async def _place_for(self, parent: int, name: bytes) -> Node:
        """The directory, loaded, in which `name` may be made."""
        self._check_writable()
        _check_name(name)
        directory = self._layers.directory(parent)
        children = await self._layers.children(directory)
        if name in children:
            raise _fail(errno.EEXIST, name)
        if directory.record.nlink == 0:
            raise _fail(errno.ENOENT, name)
        return directory

    def _make(self, directory: Node, name: bytes, record: InodeRecord) -> Attributes:
        if record.kind is Kind.FRESH:
            self._contents.check_open()
        node = self._layers.new_node(record)
        try:
            if record.kind is Kind.FRESH:
                self._contents.create_data(node)
            with self._recording.change():
                self._recording.record(node)
                self._recording.touch_directory(directory, links=1 if node.is_directory else 0)
                self._recording.attach(directory, name, node)
        except BaseException:
            self._contents.durability.release(node)
            self._layers.nodes.pop(node.ino, None)
            raise
        node.lookups += 1
        return node.attributes()

    # --- removing

    async def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name of anything but a directory; the bytes live on while somebody has them open."""
        self._check_writable()
        directory = self._layers.directory(parent)
        while not self._links.known(node := await self._layers.child(directory, name)):
            await self._links.complete(node)
        if node.is_directory:
            raise _fail(errno.EISDIR, name)
        with self._recording.change():
            self._remove_link(directory, name, node)
            self._recording.touch_directory(directory)
        self._contents.drop_if_unused(node)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        self._check_writable()
        if name == b".":
            raise _fail(errno.EINVAL, name)
        directory = self._layers.directory(parent)
        node = await self._layers.child(directory, name)
        if not node.is_directory:
            raise _fail(errno.ENOTDIR, name)
        if await self._layers.children(node, fresh=True):
            raise _fail(errno.ENOTEMPTY, name)
        if directory.children is None or directory.children.get(name) is not node:
            raise _fail(errno.ENOENT, name)
        with self._recording.change():
            self._recording.remove_directory(directory, name, node)
            self._recording.touch_directory(directory, links=-1)
        self._contents.drop_if_unused(node)

    def _remove_link(self, directory: Node, name: bytes, node: Node) -> None:
        if node.places is not None:
            self._own(node)  # so that its link count is that of names in this tree
        self._recording.detach(directory, name)
        record = node.record.changed(nlink=max(0, node.record.nlink - 1), ctime=time.time_ns())
        if record.nlink > 0 or (node.recorded and node.opens > 0):
            self._recording.put(node, record)  # with nlink 0: recovery throws it away
        else:
            self._recording.forget_row(node)
            node.record = record

    # --- moving

    async def rename(self, old_parent: int, old_name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None:
        """`renameat2`: move a name, over another unless RENAME_NOREPLACE; or exchange two with RENAME_EXCHANGE."""
        self._check_writable()
        _check_name(new_name)
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == RENAME_NOREPLACE | RENAME_EXCHANGE:
            raise _fail(errno.EINVAL, new_name)
        source = self._layers.directory(old_parent)
        target = self._layers.directory(new_parent)
        prepared: tuple[Node, Node] | None = None
        while True:
            old_children = await self._layers.children(source)
            new_children = await self._layers.children(target)
            node, victim = old_children.get(old_name), new_children.get(new_name)
            if unknown := [one for one in (node, victim) if one is not None and not self._links.known(one)]:
                await self._links.complete(unknown[0])
                continue
            if node is None or victim is None or (node, victim) == prepared or flags & RENAME_EXCHANGE:
                break
            await self._prepare_replacing(node, victim, target, new_name)
            prepared = node, victim
        if node is None or target.record.nlink == 0:
            raise _fail(errno.ENOENT, old_name)
        if flags & RENAME_EXCHANGE:
            self._exchange(source, old_name, node, target, new_name, victim)
            return
        if victim is node:
            return
        if victim is not None and flags & RENAME_NOREPLACE:
            raise _fail(errno.EEXIST, new_name)
        self._check_move(node, target, new_name)
        if victim is not None:
            _check_replace(node, victim, new_name)
        with self._recording.change():
            links = 0
            if victim is not None and victim.is_directory:
                self._recording.remove_directory(target, new_name, victim)
                links -= 1
            elif victim is not None:
                self._remove_link(target, new_name, victim)
            # a node that only the source has must be recorded before its name goes: its bytes stay where they are
            self._own(node)
            self._recording.detach(source, old_name)
            self._recording.attach(target, new_name, node)
            self._stamp(node)
            moved = 1 if node.is_directory else 0
            if source is target:
                self._recording.touch_directory(target, links=links)
            else:
                self._recording.touch_directory(source, links=-moved)
                self._recording.touch_directory(target, links=links + moved)
        if victim is not None:
            self._contents.drop_if_unused(victim)

    async def _prepare_replacing(self, node: Node, victim: Node, directory: Node, name: bytes) -> None:
        """What must be known or durable before `node` takes the place of `victim`."""
        if victim.is_directory:
            await self._layers.children(victim, fresh=True)
        elif victim is not node:
            await self._contents.durability.sync_before_replacing(node, victim, directory, name)

    def _exchange(
        self, source: Node, old_name: bytes, node: Node, target: Node, new_name: bytes, other: Node | None
    ) -> None:
        if other is None:
            raise _fail(errno.ENOENT, new_name)
        if other is node:
            return
        self._check_move(node, target, new_name)
        self._check_move(other, source, old_name)
        difference = int(other.is_directory) - int(node.is_directory)
        with self._recording.change():
            self._own(node)
            self._own(other)
            self._recording.attach(source, old_name, other)
            self._recording.attach(target, new_name, node)
            self._stamp(node)
            self._stamp(other)
            self._recording.touch_directory(source, links=difference if source is not target else 0)
            if source is not target:
                self._recording.touch_directory(target, links=-difference)

    def _own(self, node: Node) -> None:
        """A node that only the source knew gets a row of its own under its present name."""
        if node.from_source:
            self._recording.record(node)

    def _stamp(self, node: Node) -> None:
        self._recording.put(node, node.record.changed(ctime=time.time_ns()))

    def _check_move(self, node: Node, target: Node, name: bytes) -> None:
        """A directory cannot move below itself."""
        if not node.is_directory:
            return
        above: Node | None = target
        while above is not None:
            if above is node:
                raise _fail(errno.EINVAL, name)
            above = above.parent

    def _check_writable(self) -> None:
        if self._read_only:
            raise _fail(errno.EROFS)


def _check_name(name: bytes) -> None:
    if len(name) > NAME_MAX:
        raise _fail(errno.ENAMETOOLONG, name)
    if not name or b"/" in name or b"\0" in name:
        raise _fail(errno.EINVAL, name)
    if name in (b".", b".."):
        raise _fail(errno.EEXIST, name)


def _check_replace(node: Node, victim: Node, name: bytes) -> None:
    if victim.is_directory:
        if not node.is_directory:
            raise _fail(errno.EISDIR, name)
        if victim.children:
            raise _fail(errno.ENOTEMPTY, name)
    elif node.is_directory:
        raise _fail(errno.ENOTDIR, name)
