"""The least that a file system on pyfuse3 can do with bytes: every file is a file of a tmpfs folder, written and read as asked.

Nothing is recorded, spilled or checked, and fsync of a tmpfs file costs nothing: the ceiling for ours, which has to bring
the same bytes to a disk. With a trace file it notes each read and write: what `benchmarks.policy` replays.

    python -m benchmarks.ceiling_writes FOLDER MOUNTPOINT [TRACE]       serves until it is unmounted
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import pyfuse3
import trio

from benchmarks.ceiling_server import served

FOREVER = 3600.0
MIN_TASKS = 16


class Bytes(pyfuse3.Operations):
    """Inode numbers are places in a table of paths below the folder."""

    def __init__(self, root: Path, trace: TextIO | None) -> None:
        super().__init__()
        self._paths: list[bytes] = [b"", os.fsencode(root)]
        self._inodes: dict[bytes, int] = {os.fsencode(root): 1}
        self._names: dict[int, bytes] = {}
        self._trace = trace

    def _entry(self, path: bytes) -> pyfuse3.EntryAttributes:
        try:
            found = os.lstat(path)
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from error
        entry = pyfuse3.EntryAttributes()
        inode = self._inodes.get(path)
        if inode is None:
            inode = self._inodes[path] = len(self._paths)
            self._paths.append(path)
        entry.st_ino, entry.st_mode, entry.st_size = inode, found.st_mode, found.st_size
        entry.st_uid, entry.st_gid, entry.st_mtime_ns = found.st_uid, found.st_gid, found.st_mtime_ns
        entry.entry_timeout = entry.attr_timeout = FOREVER
        return entry

    def _note(self, kind: str, fh: int, offset: int, length: int) -> None:
        if self._trace is not None:
            path = self._names[fh]
            size = os.fstat(fh).st_size
            print(kind, self._inodes[path], offset, length, size, os.path.basename(path).decode(), file=self._trace)

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._entry(os.path.join(self._paths[parent_inode], name))

    async def getattr(self, inode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._entry(self._paths[inode])

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> pyfuse3.EntryAttributes:
        if fields.update_size:
            os.truncate(self._paths[inode], attr.st_size)
        return self._entry(self._paths[inode])

    async def opendir(self, inode: int, ctx: Any) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        names = sorted(os.listdir(self._paths[fh]))
        for place in range(start_id, len(names)):
            if not pyfuse3.readdir_reply(
                token, names[place], self._entry(os.path.join(self._paths[fh], names[place])), place + 1
            ):
                return

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        path = os.path.join(self._paths[parent_inode], name)
        os.mkdir(path, mode)
        return self._entry(path)

    def _opened(self, path: bytes, flags: int) -> pyfuse3.FileInfo:
        fh = os.open(path, flags & ~os.O_APPEND, 0o644)
        self._names[fh] = path
        return pyfuse3.FileInfo(fh=fh)

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        path = os.path.join(self._paths[parent_inode], name)
        opened = self._opened(path, flags | os.O_CREAT)
        return opened, self._entry(path)

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        return self._opened(self._paths[inode], flags)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        self._note("read", fh, off, size)
        return os.pread(fh, size, off)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        self._note("write", fh, off, len(buf))
        return os.pwrite(fh, buf, off)

    async def fsync(self, fh: int, datasync: bool) -> None:
        os.fsync(fh)

    async def flush(self, fh: int) -> None:
        pass

    async def release(self, fh: int) -> None:
        os.close(fh)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        pass

    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        raise pyfuse3.FUSEError(errno.ENODATA)


@contextlib.contextmanager
def writes_ceiling_mounted(folder: Path, mountpoint: Path, trace: Path | None = None) -> Iterator[int]:
    """A mount over `folder` for the block; gives the server's process id."""
    traced = () if trace is None else (trace,)
    with served("benchmarks.ceiling_writes", mountpoint, folder, mountpoint, *traced) as pid:
        yield pid


async def _serve() -> None:
    await pyfuse3.main(min_tasks=MIN_TASKS)


if __name__ == "__main__":
    with contextlib.ExitStack() as stack:
        traced = stack.enter_context(Path(sys.argv[3]).open("w")) if len(sys.argv) > 3 else None
        pyfuse3.init(
            Bytes(Path(sys.argv[1]), traced), sys.argv[2], {*pyfuse3.default_options, "fsname=ceiling", "allow_other"}
        )
        try:
            trio.run(_serve)
        finally:
            pyfuse3.close(unmount=False)
