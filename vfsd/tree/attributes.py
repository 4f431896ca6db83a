"""Attributes: stat, chmod, chown, times, extended attributes, and the figures of the whole tree.

Extended attributes in `user.` are stored; `user.vfsd.tier` and `user.vfsd.location` are answered by the tree itself, say
where a file's bytes are, and moving a file is done by writing the first.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, final

import trio

from vfsd.store import InodeRecord, Kind
from vfsd.tiers import TierFiles
from vfsd.tree.contents import Contents
from vfsd.tree.hard_links import HardLinks
from vfsd.tree.layers import Layers
from vfsd.tree.node import Attributes, Node
from vfsd.tree.recording import Recording

# Linux's limits for one attribute, and for the list of names that it can hand out (include/uapi/linux/limits.h).
XATTR_NAME_MAX = 255
XATTR_SIZE_MAX = 65536
XATTR_LIST_MAX = 65536

TIER_XATTR = b"user.vfsd.tier"
LOCATION_XATTR = b"user.vfsd.location"
_OURS = (TIER_XATTR, LOCATION_XATTR)

# What fits into the signed 64 bits of a column of ns: the years 1677 to 2262. Times beyond are cut to it, as every Linux
# file system cuts them to its own range.
EARLIEST_NS, LATEST_NS = -(1 << 63), (1 << 63) - 1

XATTR_CREATE = 1  # setxattr(2)
XATTR_REPLACE = 2


def _recordable(time_ns: int) -> int:
    return min(max(time_ns, EARLIEST_NS), LATEST_NS)


def without_privileges(mode: int) -> int:
    """Permission bits without setuid, and without setgid where it makes a program run with the file's group (chown(2))."""
    return mode & ~(stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0))


@dataclass(frozen=True, slots=True)
class Changes:
    """What `setattr` is to change; None leaves as it is. Times in ns."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime: int | None = None
    mtime: int | None = None


@dataclass(frozen=True, slots=True)
class SpaceFigures:
    """What `statfs` shows, in bytes and files."""

    total: int
    free: int
    files: int


def _check_namespace(name: bytes) -> None:
    """Only `user.` is kept."""
    if not name.startswith(b"user."):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    if name == b"user.":
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


@final
class AttributeOperations:
    """See the module."""

    def __init__(
        self,
        layers: Layers,
        recording: Recording,
        links: HardLinks,
        contents: Contents,
        tiers: TierFiles,
        *,
        read_only: bool,
    ) -> None:
        self._layers = layers
        self._recording = recording
        self._links = links
        self._contents = contents
        self._tiers = tiers
        self._read_only = read_only
        # Flushes one file by its path, or ingests it when the flag is set; set by who can: flush stands above the tree.
        self.store_file: Callable[[bytes, bool], Awaitable[None]] | None = None

    async def getattr(self, ino: int) -> Attributes:
        """What `stat` shows."""
        node = self._layers.node(ino)
        await self._layers.revalidate_file(node)
        if node.data is not None and node.data.survivor:
            self._tiers.measure(node.data)
        return node.attributes()

    async def setattr(self, ino: int, changes: Changes) -> Attributes:
        """Change size, then mode, owner and times; answers what `stat` shows then. ctime moves whatever is asked for."""
        if self._read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        node = self._layers.node(ino)
        await self._links.complete(node)
        if changes.size is not None:
            if node.is_directory:
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            await self._contents.truncate(node, changes.size)
        if changes.atime is not None or changes.mtime is not None:
            await self._contents.idle(node)
        before = replace(node.record, size=node.size(), mtime=node.mtime())
        updated = replace(
            before,
            mode=before.mode if changes.mode is None else changes.mode & 0o7777,
            uid=before.uid if changes.uid is None else changes.uid,
            gid=before.gid if changes.gid is None else changes.gid,
            atime=before.atime if changes.atime is None else _recordable(changes.atime),
            mtime=before.mtime if changes.mtime is None else _recordable(changes.mtime),
        )
        self._put(node, before, replace(updated, ctime=time.time_ns()))
        return node.attributes()

    def drop_privileges(self, node: Node) -> None:
        """Somebody without the right to keep them writes to a file, or its owner changes: its setuid bit goes, and the setgid
        bit of a program. Those of a directory mean something else, and stay."""
        kept = node.record.mode if node.is_directory else without_privileges(node.record.mode)
        if kept != node.record.mode:
            before = replace(node.record, size=node.size(), mtime=node.mtime())
            self._put(node, before, replace(before, mode=kept, ctime=time.time_ns()))

    def _put(self, node: Node, before: InodeRecord, record: InodeRecord) -> None:
        """Record other attributes; the times of dirty bytes are their tier file's."""
        data = node.data if node.dirty and (before.atime, before.mtime) != (record.atime, record.mtime) else None
        if data is not None:
            self._tiers.set_times(data, record.atime, record.mtime)
        try:
            if node.record.nlink == 0:
                node.record = record
                return
            with self._recording.change():
                self._recording.put(node, record)
        except BaseException:
            if data is not None:
                self._tiers.set_times(data, before.atime, before.mtime)
            raise

    # --- extended attributes

    async def xattrs(self, ino: int) -> dict[bytes, bytes]:
        """All stored extended attributes."""
        return await self._stored_xattrs(self._layers.node(ino))

    async def getxattr(self, ino: int, name: bytes) -> bytes:
        """One extended attribute; raises ENODATA."""
        node = self._layers.node(ino)
        if name == TIER_XATTR and not node.is_directory:
            return self.tier(node).encode()
        if name == LOCATION_XATTR and not node.is_directory:
            return json.dumps(self.location(node) | await self._made_of(node), sort_keys=True).encode()
        if name.startswith(b"security."):  # what the kernel asks for before each write, and programs ask of any file
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        _check_namespace(name)
        if node.own_xattrs:
            value = self._layers.journal.xattr(node.ino, name)
        else:
            value = (await self._stored_xattrs(node)).get(name)
        if value is None:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return value

    async def listxattr(self, ino: int) -> list[bytes]:
        """Names of the stored extended attributes (ours are answered, but not listed, so that copies leave them)."""
        node = self._layers.node(ino)
        return self._layers.journal.xattr_names(ino) if node.own_xattrs else list(await self._stored_xattrs(node))

    async def setxattr(self, ino: int, name: bytes, value: bytes, flags: int = 0) -> None:
        """Set an extended attribute in `user.`; raises ENOSPC where `listxattr` could not answer all names any more."""
        node = self._writable_for_xattr(ino, name)
        if len(name) > XATTR_NAME_MAX:
            raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
        if len(value) > XATTR_SIZE_MAX:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        if name == TIER_XATTR:
            await self._move(node, value)
            return
        await self._links.complete(node)
        async with self._layers.gate(node):
            below = await self._xattrs_below(node)
            present = self._xattr_value(node, below, name)
            if flags & XATTR_CREATE and present is not None:
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
            if flags & XATTR_REPLACE and present is None:
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
            if present == value:
                return  # as on ext4 this is no change, and no time moves
            if present is None and self._xattr_list_size(node, below) + len(name) + 1 > XATTR_LIST_MAX:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._put_xattr(node, below, name, value)

    async def removexattr(self, ino: int, name: bytes) -> None:
        """Remove an extended attribute; raises ENODATA."""
        node = self._writable_for_xattr(ino, name)
        await self._links.complete(node)
        async with self._layers.gate(node):
            below = await self._xattrs_below(node)
            if self._xattr_value(node, below, name) is None:
                raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
            self._put_xattr(node, below, name, None)

    def _writable_for_xattr(self, ino: int, name: bytes) -> Node:
        if self._read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        _check_namespace(name)
        if name == LOCATION_XATTR:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        node = self._layers.node(ino)
        if not node.record.kind.is_file and not node.is_directory:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))  # user.* is for files and directories only: xattr(7)
        return node

    async def _stored_xattrs(self, node: Node) -> dict[bytes, bytes]:
        if node.own_xattrs:
            return self._layers.journal.xattrs(node.ino)
        source, origin = self._layers.source, node.record.origin
        committed = self._layers.store.catalogue.inode(node.ino)
        if committed is None:
            if source is None or origin is None:
                return {}
            return await trio.to_thread.run_sync(source.xattrs, origin)
        return self._layers.store.catalogue.xattrs(node.ino)

    async def _xattrs_below(self, node: Node) -> dict[bytes, bytes] | None:
        """What the journal must take over from a layer below before it changes one; None: it has them all already."""
        return None if node.own_xattrs else await self._stored_xattrs(node)

    def _xattr_value(self, node: Node, below: dict[bytes, bytes] | None, name: bytes) -> bytes | None:
        return self._layers.journal.xattr(node.ino, name) if below is None else below.get(name)

    def _xattr_list_size(self, node: Node, below: dict[bytes, bytes] | None) -> int:
        names = self._layers.journal.xattr_names(node.ino) if below is None else below
        return sum(len(name) + 1 for name in names)

    def _put_xattr(self, node: Node, below: dict[bytes, bytes] | None, name: bytes, value: bytes | None) -> None:
        with self._recording.change():
            if below is not None:
                self._recording.put_xattrs(node, below)
            self._recording.put_xattr(node, name, value)
            self._recording.put(node, replace(node.record, ctime=time.time_ns()))

    # --- where the bytes are

    def tier(self, node: Node) -> str:
        """`ram`, `cache`, `source` or `store`: where a read of the file gets its bytes now."""
        if node.data is not None:
            return node.data.tier
        return "source" if node.record.kind is Kind.SOURCE else "store"

    def location(self, node: Node) -> dict[str, Any]:
        """Where the bytes lie, for programs: the tier; for stored planes array, chunk, offset and codec."""
        answer: dict[str, Any] = {"tier": self.tier(node), "dirty": node.dirty, "size": node.size()}
        if node.record.kind in (Kind.PLANES, Kind.PLAIN) and not node.dirty:
            answer.update(self._layers.store.files.describe(node.record).location())
            answer["store"] = os.fsdecode(os.path.abspath(self._layers.store.root))
        elif node.record.kind is Kind.SOURCE and node.record.origin is not None:
            answer["origin"] = os.fsdecode(node.record.origin)
        return answer

    async def _made_of(self, node: Node) -> dict[str, Any]:
        """Of a file that the source makes while it is read: what it is made of."""
        source, origin = self._layers.source, node.record.origin
        if source is None or origin is None or not source.makes_files:
            return {}
        if node.record.kind is not Kind.SOURCE or node.data is not None:
            return {}
        made = await trio.to_thread.run_sync(source.made, origin)
        return {} if made is None else dict(made.describe())

    async def _move(self, node: Node, value: bytes) -> None:
        """`user.vfsd.tier` was written: move the file's bytes now; to be where it is already is no error.

        What is on a disk and nowhere else never moves to RAM, where power loss would take it: it is stored first, and RAM
        then holds a copy.
        """
        wanted = value.decode("ascii", "replace").strip()
        if wanted not in ("ram", "cache", "store"):
            raise OSError(errno.EINVAL, "no tier has this name", node.path())
        if wanted == self.tier(node):
            return
        if wanted == "store" or (wanted == "ram" and node.dirty):
            await self._move_to_store(node)
        if wanted == "store":
            return
        if node.record.kind is Kind.SOURCE and node.data is None:
            raise OSError(errno.EOPNOTSUPP, "a file of the source is read where it is", node.path())
        if node.data is None:
            await self._contents.hydrate(node)
        if wanted == "cache" and node.data is not None:
            await self._tiers.move_to_cache(node.data)

    async def _move_to_store(self, node: Node) -> None:
        """Flush one file, then drop the copy that a tier still has."""
        if node.dirty or node.record.kind is Kind.SOURCE:
            if not node.dirty and self._layers.source is not None and self._layers.source.makes_files:
                raise OSError(errno.EOPNOTSUPP, "is OME-Zarr already", node.path())
            if self.store_file is None:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            await self._links.complete(node)
            if node.places is not None:  # all names go into the store with it
                with self._recording.change():
                    self._recording.record(node)
            await self.store_file(node.path(), not node.dirty)
            if node.dirty or node.record.kind is Kind.SOURCE:
                raise OSError(errno.EBUSY, "could not be stored now", node.path())
        self._contents.drop_clean_data(node)

    # --- the whole

    def statfs(self) -> SpaceFigures:
        """Room for new data: what RAM and cache may still take; in all: that and what is held, store included."""
        usage = self._tiers.usage()
        free = self._tiers.ram_free_bytes() + self._tiers.cache_free_bytes()
        held = sum(tier.bytes for tier in usage.values())
        stored = self._layers.store.usage()
        files = stored.files + len(self._layers.nodes)
        return SpaceFigures(total=free + held + stored.bytes, free=free, files=files)
