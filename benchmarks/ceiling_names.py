"""The least that a file system on pyfuse3 can do with names: a folder's tree, read once, then nothing but dictionaries.

Looks up, lists, makes, writes, reads, renames and removes in memory; the names and attributes are those of the folder it
was started with, contents of its files are read from there. Nothing is recorded or checked: the ceiling for ours.

    python -m benchmarks.ceiling_names FOLDER MOUNTPOINT       serves until it is unmounted
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyfuse3
import trio

from benchmarks.ceiling_server import served

# What vfsd tells the kernel of names that only the mount can change; here nobody else changes any.
FOREVER = 3600.0
MIN_TASKS = 16


class Item:
    """A file or folder: its attributes as the kernel gets them, and its bytes or names."""

    __slots__ = ("data", "entry", "names", "path")

    def __init__(self, ino: int, mode: int, path: bytes | None) -> None:
        self.entry = pyfuse3.EntryAttributes()
        self.entry.st_ino, self.entry.st_mode = ino, mode
        self.entry.entry_timeout = self.entry.attr_timeout = FOREVER
        self.entry.st_uid, self.entry.st_gid = os.getuid(), os.getgid()
        self.path = path
        self.data = b""
        self.names: dict[bytes, Item] | None = {} if stat.S_ISDIR(mode) else None


class Names(pyfuse3.Operations):
    """Items by inode number; an open file's handle is its descriptor, or its inode number where it is in memory."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._items: dict[int, Item] = {}
        self._listings: dict[int, list[tuple[bytes, Item]]] = {}
        self._next = pyfuse3.ROOT_INODE
        top = self._item(stat.S_IFDIR | 0o755, os.fsencode(root))
        pending = [top]
        while pending:
            above = pending.pop()
            assert above.path is not None
            assert above.names is not None
            with os.scandir(above.path) as scan:
                for found in scan:
                    seen = found.stat(follow_symlinks=False)
                    item = self._item(seen.st_mode, os.fsencode(found.path))
                    item.entry.st_size, item.entry.st_mtime_ns = seen.st_size, seen.st_mtime_ns
                    above.names[os.fsencode(found.name)] = item
                    if item.names is not None:
                        pending.append(item)

    def _item(self, mode: int, path: bytes | None) -> Item:
        item = self._items[self._next] = Item(self._next, mode, path)
        self._next += 1
        return item

    def _names(self, inode: int) -> dict[bytes, Item]:
        names = self._items[inode].names
        assert names is not None
        return names

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        found = self._names(parent_inode).get(name)
        if found is not None:
            return found.entry
        absent = pyfuse3.EntryAttributes()
        absent.st_ino = 0
        absent.entry_timeout = FOREVER
        return absent

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        pass

    async def getattr(self, inode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._items[inode].entry

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._items[inode].entry

    async def opendir(self, inode: int, ctx: Any) -> int:
        self._next += 1
        self._listings[self._next] = list(self._names(inode).items())
        return self._next

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        names = self._listings[fh]
        for place in range(start_id, len(names)):
            name, item = names[place]
            if not pyfuse3.readdir_reply(token, name, item.entry, place + 1):
                return

    async def releasedir(self, fh: int) -> None:
        del self._listings[fh]

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        item = self._names(parent_inode)[name] = self._item(stat.S_IFDIR | mode, None)
        return item.entry

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        item = self._names(parent_inode)[name] = self._item(stat.S_IFREG | mode, None)
        return pyfuse3.FileInfo(fh=item.entry.st_ino << 32), item.entry

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        path = self._items[inode].path
        return pyfuse3.FileInfo(fh=inode << 32 if path is None else os.open(path, os.O_RDONLY))

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return self._items[fh >> 32].data[off : off + size] if fh >> 32 else os.pread(fh, size, off)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        item = self._items[fh >> 32]
        item.data = item.data[:off] + buf
        item.entry.st_size = len(item.data)
        return len(buf)

    async def flush(self, fh: int) -> None:
        pass

    async def release(self, fh: int) -> None:
        if not fh >> 32:
            os.close(fh)

    async def rename(
        self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes, flags: int, ctx: Any
    ) -> None:
        self._names(parent_inode_new)[name_new] = self._names(parent_inode_old).pop(name_old)

    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        item = self._names(parent_inode).pop(name)
        del self._items[item.entry.st_ino]

    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        await self.unlink(parent_inode, name, ctx)

    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        raise pyfuse3.FUSEError(errno.ENODATA)  # a file system that has extended attributes is asked for some


@contextlib.contextmanager
def names_ceiling_mounted(folder: Path, mountpoint: Path) -> Iterator[int]:
    """A mount of `folder` for the block; gives the server's process id."""
    with served("benchmarks.ceiling_names", mountpoint, folder, mountpoint) as pid:
        yield pid


async def _serve() -> None:
    await pyfuse3.main(min_tasks=MIN_TASKS)


if __name__ == "__main__":
    operations = Names(Path(sys.argv[1]))
    pyfuse3.init(operations, sys.argv[2], {*pyfuse3.default_options, "fsname=ceiling"})
    try:
        trio.run(_serve)
    finally:
        pyfuse3.close(unmount=False)
