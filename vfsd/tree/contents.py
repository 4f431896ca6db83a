"""What is in files: open handles, reads and writes, copy-up, hydration.

Where a read goes: to the tier file if there is one (dirty or hydrated); else to the source; else the stored file is
hydrated first, or, if it is large, only the blocks that the read touches are decoded. A file that the source makes while
it is read (`AnySource.made`) is read as a large stored one is. Where a write goes: to a dirty tier
file, which the first write makes (copy-up); opening, attributes and names never copy bytes.

What of it survives power loss is `durability`'s.

Touched only by the trio thread. Making or replacing a node's `data` happens under the node's gate, so that two first
writes copy up once.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, final

import trio

from vfsd.store import Kind
from vfsd.store.catalogue import Catalogue
from vfsd.store.stored import StoredFile
from vfsd.tiers import Need, TierFile, TierFiles, Warmth, copy_unchanged, is_companion, read_disk
from vfsd.tree.durability import Durability
from vfsd.tree.hard_links import HardLinks
from vfsd.tree.hydration import Hydration
from vfsd.tree.layers import Layers
from vfsd.tree.node import Node
from vfsd.tree.recording import Recording
from vfsd.tree.stamps import note_access, note_change

if TYPE_CHECKING:
    from vfsd.store.foreign import VirtualFile

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
    noticed : bool
        Its reads move the file's access time.
    accessed : bool
        Opening it has moved the access time: a kernel may answer all its reads from what it has cached.
    """

    __slots__ = ("accessed", "closed", "described", "keep_cache", "made", "node", "noticed", "opened", "writable")

    def __init__(self, node: Node, flags: int, *, writable: bool, keep_cache: bool, noticed: bool) -> None:
        self.node = node
        self.writable = writable
        self.keep_cache = keep_cache
        self.noticed = noticed
        self.accessed = noticed and flags & os.O_ACCMODE == os.O_RDONLY and note_access(node)
        self.opened = node.opened
        self.described: tuple[Catalogue, StoredFile] | None = None
        self.made: VirtualFile | None = None
        self.closed = False


@final
class Contents:
    """See the module."""

    def __init__(
        self,
        layers: Layers,
        recording: Recording,
        links: HardLinks,
        tiers: TierFiles,
        durability: Durability,
        *,
        read_only: bool,
    ) -> None:
        self._layers = layers
        self._recording = recording
        self._links = links
        self._tiers = tiers
        self.durability = durability
        self._read_only = read_only
        tiers.owner.moved = self._moved
        tiers.owner.dropped = self._dropped
        tiers.owner.spare = durability.give_back
        tiers.owner.warmth = self._warmth
        self.hydration = Hydration(layers, tiers)
        self.on_open: Callable[[Node], None] = lambda node: None
        """Told of each file that is opened for reading (prefetch)."""
        self.is_expected: Callable[[int], bool] = lambda ino: False
        """Whether a hydrated file was made for a reader that has not come yet."""
        self.on_dropped: Callable[[int], None] = lambda ino: None
        """Told of the inode of each clean file that went."""
        self.closing = False
        """Whether the daemon is about to end: nothing may be opened any more."""
        self.last_used = 0.0
        """When a program last asked for bytes (`time.monotonic`)."""

    # --- handles

    def check_open(self) -> None:
        """Raises ESHUTDOWN once the daemon was told to end."""
        if self.closing:
            raise OSError(errno.ESHUTDOWN, "the daemon is ending")

    async def open(self, ino: int, flags: int) -> OpenFile:
        """Open a regular file; `flags` as open(2) has them (access mode, O_TRUNC)."""
        self.check_open()
        node = self._layers.node(ino)
        if not node.record.kind.is_file:
            number = errno.EISDIR if node.is_directory else errno.EINVAL
            raise OSError(number, os.strerror(number))
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
        if not writable:
            self.on_open(node)
        noticed = not (self._read_only or flags & os.O_NOATIME)
        return OpenFile(node, flags, writable=writable, keep_cache=keep_cache, noticed=noticed)

    def release(self, handle: OpenFile) -> None:
        """The last reference to a handle is gone."""
        if not handle.closed:
            handle.closed = True
            self._close(handle.node, handle.writable)

    def _close(self, node: Node, writable: bool) -> None:
        node.opens -= 1
        node.writers -= writable
        if node.opens == 0:
            self._tiers.descriptors.forget(node)  # the source's file: the next open looks at it anew
            if node.record.nlink == 0:
                self._forget_unlinked(node)
        self.drop_if_unused(node)

    def _forget_unlinked(self, node: Node) -> None:
        if node.recorded:
            try:
                self._layers.journal.drop_inode(node.ino, has_xattrs=node.own_xattrs)
                node.recorded = False
            except OSError as error:  # recovery throws rows without a link away
                log.warning("row_of_unlinked_file_stays ino=%d error=%s", node.ino, error.strerror)
        self.durability.release(node)

    def drop_if_unused(self, node: Node) -> None:
        """Forget a node that nobody can reach any more, and its bytes."""
        if self._layers.drop_if_unused(node):
            self.durability.release(node)
            self._tiers.descriptors.forget(node)

    # --- reading

    async def read(
        self, handle: OpenFile, offset: int, size: int, into: memoryview | None = None
    ) -> bytes | memoryview:
        """Up to `size` bytes from `offset`; fewer only at the end of the file.

        They may lie in `into`, a buffer of the caller's, where that has room for `size`: new memory for each megabyte costs
        page faults.

        Raises
        ------
        OSError
            From the disk; ESTALE when a source file is gone.
        StoredDataDamaged
            The store's copy is missing or does not match its digest.
        """
        self.last_used = time.monotonic()
        node = handle.node
        if handle.noticed:
            note_access(node)
        while True:
            data = node.data
            if data is not None:
                return await self._tiers.read(data, offset, size, into)
            kind = node.record.kind
            if kind is Kind.SOURCE:
                if self._tiers.descriptors.known(node):
                    return await self._read_source(handle, offset, size, into)
                if handle.made is not None or self.makes_files:
                    found = await self._read_made(handle, offset, size)
                    if found is not None:
                        return found
                if node.data is None:
                    await self._open_source(node)
                continue
            if kind is Kind.FRESH:
                raise OSError(errno.EIO, "its bytes are lost", node.path())
            if node.record.size > LARGE_FILE:
                return await self._read_stored_range(handle, offset, size)
            if self.hydration.hydrate_at_once(node):
                continue
            try:
                await self.hydrate(node)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                return await self._read_stored_range(handle, offset, size)

    async def _read_source(
        self, handle: OpenFile, offset: int, size: int, into: memoryview | None
    ) -> bytes | memoryview:
        node = handle.node
        if handle.opened is None:
            handle.opened = node.opened
        elif node.opened is None or handle.opened[:2] != node.opened[:2]:
            # two files under one name: a handle must not see bytes of both
            raise OSError(errno.ESTALE, "was replaced in the source while it was open", node.path())
        with self._tiers.descriptors.pinned(node, self._source_opener(node)) as fd:
            return await read_disk(fd, offset, size, into)

    @property
    def makes_files(self) -> bool:
        return self._layers.source is not None and self._layers.source.makes_files

    async def _read_made(self, handle: OpenFile, offset: int, size: int) -> bytes | None:
        """As `read`, of a file that the source makes while it is read; None of any other."""
        made = handle.made
        if made is None:
            made = handle.made = await self._made(handle.node)
        if made is None:
            return None
        return await trio.to_thread.run_sync(made.read_range, offset, size)

    async def _made(self, node: Node) -> VirtualFile | None:
        """What reads a file that the source makes; its attributes are followed."""
        source, origin = self._layers.source, node.record.origin
        if source is None or origin is None or not source.makes_files:
            return None
        try:
            found = await trio.to_thread.run_sync(source.stat, origin)
            made = await trio.to_thread.run_sync(source.made, origin)
        except OSError as error:
            self._layers.doubt(node)
            if isinstance(error, FileNotFoundError):
                raise OSError(errno.ESTALE, "is no longer in the source", origin) from error
            raise
        if made is not None and node.data is None:
            self._layers.follow(node, found)
        return made

    async def _open_source(self, node: Node) -> bool:
        """Open the source's file and follow its attributes; whether it is as it was when it was last opened."""
        if self.makes_files and await self._made(node) is not None:
            return False  # nothing tells whether the pixels that it is made of are the same
        opener = self._source_opener(node)
        at_once = self._open_at_once(node)
        try:
            if at_once is None:
                fd, found = await trio.to_thread.run_sync(self._open_and_stat, opener)
            else:
                fd, found = at_once, os.fstat(at_once)
        except OSError:
            self._layers.doubt(node)
            raise
        if node.data is not None:  # copied up meanwhile
            os.close(fd)
            return True
        self._tiers.descriptors.forget(node)
        self._tiers.descriptors.adopt(node, fd)
        before, node.opened = node.opened, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        self._layers.follow(node, found)
        return before == node.opened

    def _open_at_once(self, node: Node) -> int | None:
        source, origin = self._layers.source, node.record.origin
        return None if source is None or origin is None else source.open_at_once(origin)

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
        store, record = self._layers.store, handle.node.record
        size = max(0, min(size, record.size - offset))
        while True:
            catalogue = store.catalogue
            if handle.described is None or handle.described[0] is not catalogue:
                handle.described = catalogue, store.files.describe(record)
            found = await trio.to_thread.run_sync(handle.described[1].read_range, offset, size)
            if store.catalogue is catalogue:
                return found
            record = handle.node.record  # a flush moved what was being read: other planes may lie in its place

    async def hydrate(self, node: Node) -> None:
        """Rebuild a stored file's bytes into a clean tier file."""
        await self.hydration.hydrate(node)

    # --- writing

    async def write(self, handle: OpenFile, offset: int, data: bytes | memoryview) -> int:
        """Write all of `data` at `offset`."""
        if not handle.writable:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self.last_used = time.monotonic()
        node = handle.node
        file = node.data if node.dirty and node.data is not None else await self.dirty_file(node)
        try:
            return await self._tiers.write(file, offset, data)
        finally:
            note_change(node)

    async def dirty_file(self, node: Node) -> TierFile:
        """The file with a node's own bytes, copied up if there is none yet; until the next `await` it stays that."""
        while not node.dirty:
            await self._copy_up(node, None)
        assert node.data is not None
        return node.data

    async def truncate(self, node: Node, size: int) -> None:
        """Cut or extend to `size` bytes; cutting to nothing copies nothing."""
        if self._read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if not node.record.kind.is_file:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        while True:
            if not node.dirty:
                await self._copy_up(node, size)
            elif size == 0 and self.durability.may_be_synced(node):
                await self._start_anew(node)
            else:
                break
        assert node.data is not None
        await self._tiers.truncate(node.data, size)
        note_change(node)

    def create_data(self, node: Node) -> None:
        """An empty tier file for a new node; the caller records the node."""
        node.record.version += 1
        node.data = self._tiers.create(node.ino, node.record.version)
        node.unsettled = True

    def needs_privacy(self, node: Node) -> bool:
        """Whether an open file without a name still needs the store, which forgets it with the next flush."""
        if node.record.nlink > 0 or node.opens == 0:
            return False
        in_store = node.record.kind in (Kind.PLANES, Kind.PLAIN) and not node.dirty
        return in_store or (not node.own_xattrs and bool(self._layers.store.catalogue.xattrs(node.ino)))

    async def make_private(self, node: Node) -> None:
        """Give an unlinked but open file bytes and extended attributes of its own, before the store forgets it."""
        if node.record.kind in (Kind.PLANES, Kind.PLAIN):
            await self._copy_up(node, None)
        attributes = {} if node.own_xattrs else self._layers.store.catalogue.xattrs(node.ino)
        if attributes:
            with self._recording.change():
                self._recording.put_xattrs(node, dict(attributes))
                self._recording.put(node, node.record)  # a row without a link: recovery throws it away

    async def _copy_up(self, node: Node, keep: int | None) -> None:
        """Give a node dirty bytes: those it has now, or at least the first `keep` of them."""
        await self._links.complete(node)
        async with self._layers.gate(node):
            await self.idle(node)
            if node.dirty:
                return
            self.durability.let_go_of_replaced(node)  # stored meanwhile, so that it counts no more
            version = node.record.version + 1
            if node.data is not None and keep != 0:
                file = node.data
                self._tiers.make_dirty(file, version)
            else:
                file = await self._copied(node, version, keep)
            self._own_data(node, file, version, keep_times=keep != 0)
        self._tiers.descriptors.forget(node)

    async def _copied(self, node: Node, version: int, keep: int | None) -> TierFile:
        """A new tier file with the node's committed bytes (nothing if `keep` is 0)."""
        if keep == 0:
            return self._tiers.create(node.ino, version)
        # the flush makes stored files that lost their name private, and must not wait for a flush to make room
        need = Need.PATIENT if node.record.nlink else Need.NOW
        if node.record.kind is not Kind.SOURCE:
            return await self.hydration.rebuild(node, version, need)
        made = await self._made(node)
        if made is not None:
            size = made.size if keep is None else min(keep, made.size)
            return await self._filled(node, version, size, lambda fd: made.copy_into(fd, size), need)
        await self._open_source(node)
        assert node.opened is not None
        seen = node.opened[2:]
        size = seen[0] if keep is None else min(keep, seen[0])
        with self._tiers.descriptors.pinned(node, self._source_opener(node)) as source:
            return await self._filled(node, version, size, lambda fd: copy_unchanged(source, fd, size, seen), need)

    async def _filled(self, node: Node, version: int, size: int, fill: Callable[[int], None], need: Need) -> TierFile:
        file = self._tiers.create(node.ino, version, expected_size=size)
        try:
            await self._tiers.fill(file, size, fill, need=need)
        except BaseException:
            self._tiers.discard(file)
            raise
        return file

    async def _start_anew(self, node: Node) -> None:
        """Give a dirty file a new, empty version; the one that may have been synced stays until the new one is."""
        async with self._layers.gate(node):
            older = node.data
            if older is None or older.clean or not self.durability.may_be_synced(node):
                return
            version = older.version + 1  # the row says of the older one only that it is the one before
            self._own_data(node, self._tiers.create(node.ino, version), version, keep_times=False, replaced=older)

    def _own_data(
        self, node: Node, file: TierFile, version: int, *, keep_times: bool, replaced: TierFile | None = None
    ) -> None:
        """From here on the node's bytes are in `file`; recorded before anybody may rely on it."""
        earlier, was_unsettled = node.data, node.unsettled
        try:
            if keep_times:
                self._tiers.set_times(file, node.record.atime, node.record.mtime)
            with self._recording.change():
                node.data, node.unsettled, node.replaced = file, True, replaced
                record = node.record.changed(version=version, ctime=time.time_ns())
                if node.record.nlink == 0:
                    node.record = record  # open but unlinked: no row, the file goes with the last handle
                else:
                    self._recording.put(node, record)
        except BaseException:
            node.data, node.unsettled, node.replaced = earlier, was_unsettled, None
            self._tiers.discard(file)
            if earlier is file:
                node.data = None
            raise
        self.durability.took_the_place(node)
        if earlier is not None and earlier.clean:
            self._tiers.discard(earlier)

    def drop_clean_data(self, node: Node) -> None:
        """Drop a hydrated copy; dirty bytes stay."""
        if node.data is not None and node.data.clean and node.data.busy is None:
            self.durability.release(node)

    async def idle(self, node: Node) -> None:
        """Return when no bytes of the node move; until the next `await` it then stays so."""
        while node.data is not None and node.data.busy is not None:
            await self._tiers.idle(node.data)

    # --- durability

    async def fsync(self, node: Node, *, data_only: bool = False) -> None:
        """The file's bytes and name survive power loss when this returns; `data_only`: as fdatasync(2)."""
        await self.durability.fsync(node, data_only=data_only)

    def look_for_survivors(self) -> None:
        """Close the handles of programs that outlived an earlier daemon (`durability`) and have let go since."""
        for node in self.durability.released_by_survivors():
            self._close(node, True)

    # --- what the tiers tell

    def _moved(self, file: TierFile) -> None:
        node = self._layers.nodes.get(file.ino)
        if node is not None and node.data is file and node.recorded and not file.clean:
            with self._recording.change():
                self._recording.record(node)

    def _dropped(self, file: TierFile) -> None:
        node = self._layers.nodes.get(file.ino)
        if node is not None and node.data is file:
            node.data = None
        self.on_dropped(file.ino)

    def _warmth(self, file: TierFile) -> Warmth | None:
        """What is known of a file beyond its use; asked for every file when one is to go."""
        node = self._layers.nodes.get(file.ino)
        if node is None or node.data is not file:
            return None
        if node.writers:
            return Warmth.BEING_WRITTEN
        if node.opens:
            return Warmth.IN_USE
        if self.is_expected(file.ino):
            return Warmth.WAITING
        return Warmth.COMPANION if is_companion(node.name, file.size) else None
