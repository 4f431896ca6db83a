"""What is in files: open handles, reads and writes, copy-up, hydration.

Where a read goes: to the tier file if there is one (dirty or hydrated); else to the source; else the stored file is
hydrated first, or, if it is large, only the blocks that the read touches are decoded. Where a write goes: to a dirty tier
file, which the first write makes (copy-up); opening, attributes and names never copy bytes.

Touched only by the trio thread. Making or replacing a node's `data` happens under the node's gate, so that two first
writes copy up once.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import final

import trio

from vfsd.store import Kind
from vfsd.store.stored import StoredFile
from vfsd.tiers import TierFile, TierFiles, read_disk
from vfsd.tree.layers import Layers
from vfsd.tree.node import Node

log = logging.getLogger("vfsd.tree")

# Stored files over this size are never rebuilt as a whole for reading: a 4 GB stack would push everything else out of
# RAM to answer a read of its header.
LARGE_FILE = 256 << 20


@final
class OpenFile:
    """A handle: the node, and whether it may write.

    Attributes
    ----------
    keep_cache : bool
        What the kernel cached of earlier opens is still right.
    """

    __slots__ = ("closed", "keep_cache", "node", "stored", "writable")

    def __init__(self, node: Node, *, writable: bool, keep_cache: bool) -> None:
        self.node = node
        self.writable = writable
        self.keep_cache = keep_cache
        self.stored: StoredFile | None = None
        self.closed = False


@final
class Contents:
    """See the module."""

    def __init__(self, layers: Layers, tiers: TierFiles, *, read_only: bool) -> None:
        self._layers = layers
        self._tiers = tiers
        self._read_only = read_only
        tiers.on_moved = self._moved
        tiers.on_dropped = self._dropped

    # --- handles

    async def open(self, ino: int, flags: int) -> OpenFile:
        """Open a regular file; `flags` as open(2) has them (access mode, O_TRUNC)."""
        node = self._layers.node(ino)
        if node.is_directory:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if (writable or flags & os.O_TRUNC) and self._read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        keep_cache = True
        node.opens += 1
        node.writers += writable
        try:
            if node.data is None and node.record.kind is Kind.SOURCE and not flags & os.O_TRUNC:
                keep_cache = await self._open_source(node)
            if flags & os.O_TRUNC:
                await self.truncate(node, 0)
        except BaseException:
            self._close(node, writable)
            raise
        return OpenFile(node, writable=writable, keep_cache=keep_cache)

    def release(self, handle: OpenFile) -> None:
        """The last reference to a handle is gone."""
        if not handle.closed:
            handle.closed = True
            self._close(handle.node, handle.writable)

    def _close(self, node: Node, writable: bool) -> None:
        node.opens -= 1
        node.writers -= writable
        if node.record.nlink == 0 and node.opens == 0:
            if node.recorded:
                self._layers.journal.drop_inode(node.ino)
                node.recorded = False
            self.release_data(node)
        self.drop_if_unused(node)

    def drop_if_unused(self, node: Node) -> None:
        """Forget a node that nobody can reach any more, and its bytes."""
        if self._layers.drop_if_unused(node):
            self.release_data(node)
            self._tiers.descriptors.forget(node)

    # --- reading

    async def read(self, handle: OpenFile, offset: int, size: int) -> bytes | memoryview:
        """Up to `size` bytes from `offset`; fewer only at the end of the file.

        Raises
        ------
        OSError
            From the disk; ESTALE when a source file is gone.
        StoredDataDamaged
            The store's copy is missing or does not match its digest.
        """
        node = handle.node
        while True:
            data = node.data
            if data is not None:
                return await self._tiers.read(data, offset, size)
            kind = node.record.kind
            if kind is Kind.SOURCE:
                return await self._read_source(node, offset, size)
            if kind is Kind.FRESH:
                raise OSError(errno.EIO, "its bytes are lost", node.path())
            if node.record.size > LARGE_FILE:
                return await self._read_stored_range(handle, offset, size)
            await self.hydrate(node)

    async def _read_source(self, node: Node, offset: int, size: int) -> bytes | memoryview:
        if not self._tiers.descriptors.known(node):
            await self._open_source(node)
        with self._tiers.descriptors.pinned(node, self._source_opener(node)) as fd:
            return await read_disk(fd, offset, size)

    async def _open_source(self, node: Node) -> bool:
        """Open the source's file and follow its attributes; whether they are what they were."""
        fd, found = await trio.to_thread.run_sync(self._open_and_stat, self._source_opener(node))
        if node.data is not None:  # copied up meanwhile
            os.close(fd)
            return True
        before = (node.record.size, node.record.mtime)
        self._tiers.descriptors.forget(node)
        self._tiers.descriptors.adopt(node, fd)
        if node.from_source:
            self._layers.follow(node, found)
        else:
            node.record.size = found.st_size
        return before == (node.record.size, node.record.mtime)

    def _source_opener(self, node: Node) -> Callable[[], int]:
        source, origin = self._layers.source, node.record.origin
        if source is None or origin is None:
            raise OSError(errno.ENODATA, "its bytes are in the source, which is not mounted", node.path())

        def open_() -> int:
            try:
                return source.open(origin)
            except FileNotFoundError as error:
                raise OSError(errno.ESTALE, "is no longer in the source", origin) from error

        return open_

    @staticmethod
    def _open_and_stat(open_: Callable[[], int]) -> tuple[int, os.stat_result]:
        fd = open_()
        return fd, os.fstat(fd)

    async def _read_stored_range(self, handle: OpenFile, offset: int, size: int) -> bytes:
        if handle.stored is None:
            handle.stored = self._layers.store.files.describe(handle.node.record)
        size = max(0, min(size, handle.node.record.size - offset))
        return await trio.to_thread.run_sync(handle.stored.read_range, offset, size)

    async def hydrate(self, node: Node) -> None:
        """Rebuild a stored file's bytes into a clean tier file."""
        async with self._layers.gate(node):
            if node.data is None:
                file = await self._rebuild(node, node.record.version)
                self._tiers.mark_clean(file)
                node.data = file

    async def _rebuild(self, node: Node, version: int) -> TierFile:
        stored = self._layers.store.files.describe(node.record)
        file = self._tiers.create(node.ino, version, expected_size=node.record.size)
        try:
            await self._tiers.fill_with(file, node.record.size, stored.rebuild)
        except BaseException:
            self._tiers.discard(file)
            raise
        return file

    # --- writing

    async def write(self, handle: OpenFile, offset: int, data: bytes) -> int:
        """Write all of `data` at `offset`."""
        if not handle.writable:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        node = handle.node
        if not node.dirty:
            await self._copy_up(node, None)
        assert node.data is not None
        return await self._tiers.write(node.data, offset, data)

    async def truncate(self, node: Node, size: int) -> None:
        """Cut or extend to `size` bytes; cutting to nothing copies nothing."""
        if self._read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if not node.record.kind.is_file:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if not node.dirty:
            await self._copy_up(node, size)
        assert node.data is not None
        await self._tiers.truncate(node.data, size)

    def create_data(self, node: Node) -> None:
        """An empty tier file for a new node; the caller records the node."""
        node.record.version += 1
        node.data = self._tiers.create(node.ino, node.record.version)

    async def make_private(self, node: Node) -> None:
        """Give an unlinked but open file bytes of its own, before the store forgets it."""
        await self._copy_up(node, None)

    async def _copy_up(self, node: Node, keep: int | None) -> None:
        """Give a node dirty bytes: those it has now, or at least the first `keep` of them."""
        async with self._layers.gate(node):
            if node.dirty:
                return
            version = node.record.version + 1
            if node.data is not None and keep != 0:
                file = node.data
                self._tiers.make_dirty(file, version)
            else:
                if node.data is not None:
                    self.release_data(node)
                file = await self._copied(node, version, keep)
            self._own_data(node, file, version)
        self._tiers.descriptors.forget(node)

    async def _copied(self, node: Node, version: int, keep: int | None) -> TierFile:
        """A new tier file with the node's committed bytes (nothing if `keep` is 0)."""
        if keep == 0:
            return self._tiers.create(node.ino, version)
        if node.record.kind is not Kind.SOURCE:
            return await self._rebuild(node, version)
        await self._open_source(node)
        size = node.record.size if keep is None else min(keep, node.record.size)
        file = self._tiers.create(node.ino, version, expected_size=size)
        try:
            with self._tiers.descriptors.pinned(node, self._source_opener(node)) as fd:
                await self._tiers.fill_from(file, fd, size)
        except BaseException:
            self._tiers.discard(file)
            raise
        return file

    def _own_data(self, node: Node, file: TierFile, version: int) -> None:
        """From here on the node's bytes are in `file`; recorded before anybody may rely on it."""
        previous, earlier = node.record, node.data
        node.record = replace(previous, version=version, ctime=time.time_ns())
        node.data = file
        if node.record.nlink == 0:
            return  # open but unlinked: no row, the file goes with the last handle
        try:
            with self._layers.journal.change():
                self._layers.record(node)
        except BaseException:
            node.record, node.data = previous, earlier
            self._tiers.discard(file)
            if earlier is file:
                node.data = None
            raise

    def release_data(self, node: Node) -> None:
        """The node's tier file is not needed any more.

        A dirty file of the cache tier may hold bytes that were synced: it goes once the journal rows that no longer name
        it are durable.
        """
        file, node.data = node.data, None
        if file is None:
            return
        if file.tier == "cache" and not file.clean:
            self._layers.journal.after_sync(lambda: self._tiers.discard(file))
        else:
            self._tiers.discard(file)

    # --- durability

    async def fsync(self, node: Node) -> None:
        """The file's bytes and name survive power loss when this returns."""
        if node.dirty and node.data is not None and node.record.nlink > 0:
            await self._tiers.fsync(node.data)
        await self._layers.journal.sync()

    # --- what the tiers tell

    def _moved(self, file: TierFile) -> None:
        node = self._layers.nodes.get(file.ino)
        if node is not None and node.data is file and node.recorded and not file.clean:
            self._layers.record(node)

    def _dropped(self, file: TierFile) -> None:
        node = self._layers.nodes.get(file.ino)
        if node is not None and node.data is file:
            node.data = None
