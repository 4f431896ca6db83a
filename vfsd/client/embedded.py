"""A tree in this process: no mount, no root, no FUSE. The same layers, journal and tiers; closing it flushes, verified.

A view maps the tier's own file, which the tier then keeps where it is until the view is gone. Files of the source, and stored
ones that are too large to be rebuilt whole, are read into memory instead. Permissions of the tree are not looked at: there is
one user.
"""

from __future__ import annotations

import errno
import functools
import logging
import mmap
import os
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack, final

from vfsd.client.files import LOCATION, MARK, TIER, Entry, Files, Part, Target
from vfsd.client.opening import open_parts
from vfsd.client.paths import TEMPORARY_PREFIX, failure, not_found, split_path
from vfsd.client.tree_thread import TreeThread
from vfsd.errors import FlushIncomplete, shown_path
from vfsd.flush import flush_tree
from vfsd.store import Kind
from vfsd.tree import RENAME_NOREPLACE, Attributes, Caller, Node, Tree

log = logging.getLogger("vfsd.client")

# Pieces in which bytes go through the thread: small enough that others get their turn within a few milliseconds.
_PIECE: Final = 4 << 20
# Symbolic links followed in one path, as Linux has it (path_resolution(7)).
_MOST_LINKS: Final = 40
_DIRECTORY_MODE: Final = 0o755
_FILE_MODE: Final = 0o644

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


@final
class TreeFiles(Files):
    """See the module.

    Raises
    ------
    UnfitError, BusyError
        As `opening.open_parts`.
    """

    def __init__(self, source: Path, store: Path | None, *, ram: int | None, cache: int | None) -> None:
        self._thread = TreeThread(functools.partial(open_parts, source, store, ram=ram, cache=cache))
        assert self._thread.parts is not None
        self._parts = self._thread.parts
        self._tree: Tree = self._parts.tree
        self._tree.attributes.store_file = self._store_file
        self._caller = Caller(os.geteuid(), os.getegid())
        self._thread.run(self._remove_unfinished)
        self._unclosed = weakref.finalize(self, _tell_unclosed, os.getpid(), shown_path(self._parts.state.root))

    @property
    def lost(self) -> list[bytes]:
        """Files of an earlier process whose newest bytes a restart of the machine took."""
        return self._tree.lost

    def flush(self) -> None:
        self._thread.run(self._flush)

    def close(self) -> None:
        if self._thread.begin_closing():
            self._unclosed.detach()
            self._thread.finish(self._flush)

    # --- bytes

    def write(self, path: bytes, parts: Sequence[Part], *, overwrite: bool, mark: str | None) -> None:
        self._ask(path, self._write, path, parts, overwrite, mark)

    def view(self, path: bytes) -> memoryview:
        found, release = self._ask(path, self._view, path)
        if isinstance(found, mmap.mmap):
            kept = weakref.finalize(found, self._thread.soon, release)
            kept.atexit = False  # a process that ends holds nothing
        return memoryview(found).toreadonly()

    def mark(self, path: bytes) -> str | None:
        try:
            return self._ask(path, self._xattr, path, MARK).decode("utf-8", "replace")
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                return None
            raise

    def tier(self, path: bytes) -> str:
        return self._ask(path, self._xattr, path, TIER).decode("ascii")

    def location(self, path: bytes) -> dict[str, Any]:
        import json

        found: dict[str, Any] = json.loads(self._ask(path, self._xattr, path, LOCATION))
        return found

    def move(self, path: bytes, tier: Target) -> None:
        self._ask(path, self._move, path, tier)

    def store_together(self, paths: Sequence[bytes]) -> None:
        self._thread.run(self._flush_some, paths)
        super().store_together(paths)

    # --- names

    def stat(self, path: bytes) -> os.stat_result:
        return _stat_result(self._ask(path, self._attributes, path))

    def entries(self, path: bytes) -> list[Entry]:
        return self._ask(path, self._entries, path)

    def make_directory(self, path: bytes) -> None:
        self._ask(path, self._make_directory, path)

    def remove(self, path: bytes) -> None:
        self._ask(path, self._remove, path)

    def rename(self, old: bytes, new: bytes, *, overwrite: bool) -> None:
        self._ask(new, self._rename, old, new, overwrite)

    def symlink(self, target: bytes, path: bytes) -> None:
        self._ask(path, self._symlink, target, path)

    def _ask(self, path: bytes, act: Callable[[Unpack[Arguments]], Awaitable[T]], *arguments: *Arguments) -> T:
        """Run something on the tree's thread; its errors name the path as the caller knows it."""
        try:
            return self._thread.run(act, *arguments)
        except OSError as error:
            if error.filename is not None and os.fsdecode(error.filename) == os.fsdecode(path):
                raise
            named = (
                path
                if error.filename is None or b"/" not in os.fsencode(error.filename)
                else os.fsencode(error.filename)
            )
            raise failure(error.errno or errno.EIO, named, error.strerror) from error

    # --- on the tree's thread

    async def _remove_unfinished(self) -> None:
        """What a process that was killed while it saved left half-written: nobody else can be at it."""
        for parent, name, ino in self._tree.journal.all_entries():
            if ino and name.startswith(TEMPORARY_PREFIX):
                try:
                    await self._tree.names.unlink(parent, name)
                except OSError as error:
                    log.warning("unfinished_file_stays name=%s error=%s", shown_path(name), error)

    async def _walk(self, path: bytes, *, follow: bool = True) -> Node:
        """The node that a path leads to; symbolic links within the tree are followed."""
        trail = [self._tree.layers.root]
        ahead = deque(path.split(b"/"))
        links = 0
        while ahead:
            name = ahead.popleft()
            if name in (b"", b"."):
                continue
            if name == b"..":
                if len(trail) == 1:
                    raise failure(errno.EXDEV, path, "a symbolic link leads out of the tree")
                trail.pop()
                continue
            if not trail[-1].is_directory:
                raise failure(errno.ENOTDIR, path)
            found = await self._tree.names.lookup_node(trail[-1].ino, name)
            self._tree.names.forget(found.ino, 1)
            if found.record.kind is Kind.SYMLINK and (ahead or follow):
                target = await self._tree.names.readlink(found.ino)
                links += 1
                if links > _MOST_LINKS:
                    raise failure(errno.ELOOP, path)
                if target.startswith(b"/"):
                    raise failure(errno.EXDEV, path, "a symbolic link leads out of the tree")
                ahead.extendleft(reversed(target.split(b"/")))
                continue
            trail.append(found)
        return trail[-1]

    async def _place(self, path: bytes) -> tuple[int, bytes]:
        """The folder of a path, which must be there, and the last name."""
        folder, name = split_path(path)
        try:
            node = await self._walk(folder)
        except FileNotFoundError:
            raise not_found(path, f"its folder {shown_path(folder)} does not exist") from None
        if not node.is_directory:
            raise failure(errno.ENOTDIR, path)
        return node.ino, name

    async def _write(self, path: bytes, parts: Sequence[Part], overwrite: bool, mark: str | None) -> None:
        parent, name = await self._place(path)
        directory = self._tree.layers.directory(parent)
        there = (await self._tree.layers.children(directory)).get(name)
        if there is not None and not overwrite:
            raise failure(errno.EEXIST, path)
        if there is not None and there.is_directory:
            raise failure(errno.EISDIR, path)
        beside = TEMPORARY_PREFIX + os.urandom(8).hex().encode()
        made = (await self._tree.names.create(parent, beside, _FILE_MODE, self._caller)).ino
        try:
            handle = await self._tree.contents.open(made, os.O_WRONLY)
            try:
                offset = 0
                for part in parts:
                    left = memoryview(part).cast("B")
                    while left.nbytes:
                        offset += await self._tree.contents.write(handle, offset, left[:_PIECE])
                        left = left[_PIECE:]
            finally:
                self._tree.contents.release(handle)
            if mark is not None:
                await self._tree.attributes.setxattr(made, MARK.encode(), mark.encode())
            await self._tree.names.rename(parent, beside, parent, name, 0 if overwrite else RENAME_NOREPLACE)
        except BaseException:
            await self._tree.names.unlink(parent, beside)
            raise
        finally:
            self._tree.names.forget(made, 1)

    async def _view(self, path: bytes) -> tuple[mmap.mmap | bytes, Callable[[], None]]:
        node = await self._walk(path)
        if node.is_directory:
            raise failure(errno.EISDIR, path)
        handle = await self._tree.contents.open(node.ino, os.O_RDONLY)
        try:
            backing = await self._tree.backings.of(handle)
            if backing is None:
                return await self._read_whole(handle), lambda: None
            try:
                with backing.opened() as fd:
                    size = os.fstat(fd).st_size
                    if size:
                        return mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ), backing.release
            except BaseException:
                backing.release()
                raise
            backing.release()
            return b"", lambda: None
        finally:
            self._tree.contents.release(handle)

    async def _read_whole(self, handle: Any) -> bytes:
        pieces = []
        offset = 0
        while piece := await self._tree.contents.read(handle, offset, _PIECE):
            pieces.append(piece)
            offset += len(piece)
        return b"".join(pieces)

    async def _xattr(self, path: bytes, name: str) -> bytes:
        node = await self._walk(path)
        return await self._tree.attributes.getxattr(node.ino, name.encode())

    async def _move(self, path: bytes, tier: Target) -> None:
        node = await self._walk(path)
        await self._tree.attributes.setxattr(node.ino, TIER.encode(), tier.encode())

    async def _attributes(self, path: bytes) -> Attributes:
        node = await self._walk(path)
        return await self._tree.attributes.getattr(node.ino)

    async def _entries(self, path: bytes) -> list[Entry]:
        directory = await self._walk(path)
        if not directory.is_directory:
            raise failure(errno.ENOTDIR, path)
        found = []
        for name in await self._tree.names.listing(directory.ino):
            node = self._tree.names.entry(directory.ino, name)
            if node is None:
                continue
            is_link = node.record.kind is Kind.SYMLINK
            target: Node | None = node
            if is_link:
                try:
                    target = await self._walk(path + b"/" + name)
                except OSError:
                    target = None
            is_file = target is not None and target.record.kind.is_file
            found.append(Entry(name, is_file, target is not None and target.is_directory, is_link))
        return found

    async def _make_directory(self, path: bytes) -> None:
        made = await self._tree.names.mkdir(*await self._place(path), _DIRECTORY_MODE, self._caller)
        self._tree.names.forget(made.ino, 1)

    async def _remove(self, path: bytes) -> None:
        parent, name = await self._place(path)
        node = await self._tree.layers.child(self._tree.layers.directory(parent), name)
        if node.is_directory:
            await self._tree.names.rmdir(parent, name)
        else:
            await self._tree.names.unlink(parent, name)

    async def _rename(self, old: bytes, new: bytes, overwrite: bool) -> None:
        await self._walk(old, follow=False)
        from_, to = await self._place(old), await self._place(new)
        await self._tree.names.rename(*from_, *to, 0 if overwrite else RENAME_NOREPLACE)

    async def _symlink(self, target: bytes, path: bytes) -> None:
        parent, name = await self._place(path)
        made = await self._tree.names.symlink(parent, name, target, self._caller)
        self._tree.names.forget(made.ino, 1)

    # --- flushing

    async def _store_file(self, path: bytes, ingest: bool) -> None:
        await flush_tree(self._tree, paths=[path], ingest=ingest)

    async def _flush_some(self, paths: Sequence[bytes]) -> None:
        await flush_tree(self._tree, paths=list(paths))

    async def _flush(self) -> bool:
        """Everything into the store, verified; True, or `FlushIncomplete`."""
        result = await flush_tree(self._tree)
        left = [*result.kept, *result.waiting]
        if left:
            raise FlushIncomplete(
                f"{len(left)} files could not be stored, the first because {left[0].reason}",
                path=left[0].path,
                remedy=f"They are kept in {shown_path(self._parts.state.root)}: open the tree again, or run: vfsd recover",
            )
        return self._tree.dirty().files == 0


def _tell_unclosed(process: int, state: str) -> None:
    """A program ends without closing its tree: nothing is lost, but nothing was stored either."""
    if os.getpid() == process:
        log.warning("a tree was not closed: what is new in it stays in %s until it is opened again", state)


def _stat_result(found: Attributes) -> os.stat_result:
    times = {"atime": found.atime, "mtime": found.mtime, "ctime": found.ctime}
    seconds = tuple(time // 1_000_000_000 for time in times.values())
    more: dict[str, Any] = {f"st_{name}": time / 1e9 for name, time in times.items()}
    more |= {f"st_{name}_ns": time for name, time in times.items()}
    more |= {"st_blocks": found.blocks, "st_blksize": 4096, "st_rdev": found.rdev}
    return os.stat_result((found.mode, found.ino, 0, found.nlink, found.uid, found.gid, found.size, *seconds), more)
