"""The least that a file system on pyfuse3 can do: read one folder as it is, with nothing kept in mind. The ceiling for ours.

python -m benchmarks.ceiling FOLDER MOUNTPOINT       serves until it is unmounted
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyfuse3
import trio

READ_AHEAD_KB = 1024
FOREVER = 3600.0
START_SECONDS = 10


class Folder(pyfuse3.Operations):
    """Paths by inode number, descriptors as handles."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._paths = {pyfuse3.ROOT_INODE: os.fsencode(root)}
        self._numbers: dict[bytes, int] = {}

    def _entry(self, inode: int) -> pyfuse3.EntryAttributes:
        found = os.lstat(self._paths[inode])
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_mode, entry.st_nlink, entry.st_size = inode, found.st_mode, found.st_nlink, found.st_size
        entry.entry_timeout = entry.attr_timeout = FOREVER
        return entry

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any = None) -> pyfuse3.EntryAttributes:
        path = self._paths[parent_inode] + b"/" + name
        inode = self._numbers.setdefault(path, len(self._numbers) + 2)
        self._paths[inode] = path
        try:
            return self._entry(inode)
        except OSError as problem:
            raise pyfuse3.FUSEError(problem.errno or errno.EIO) from problem

    async def getattr(self, inode: int, ctx: Any = None) -> pyfuse3.EntryAttributes:
        return self._entry(inode)

    async def opendir(self, inode: int, ctx: Any) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        for place, name in enumerate(sorted(os.listdir(self._paths[fh]))):
            if place >= start_id and not pyfuse3.readdir_reply(token, name, await self.lookup(fh, name), place + 1):
                return

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=os.open(self._paths[inode], os.O_RDONLY))

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return os.pread(fh, size, off)

    async def release(self, fh: int) -> None:
        os.close(fh)


async def serve(mountpoint: Path) -> None:
    """Answer until unmounted, with the read-ahead that vfsd sets."""

    def raise_read_ahead() -> None:
        device = mountpoint.stat().st_dev
        with contextlib.suppress(OSError):
            knob = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
            knob.write_text(f"{READ_AHEAD_KB}\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, raise_read_ahead)
        await pyfuse3.main(min_tasks=16)


@contextlib.contextmanager
def ceiling_mounted(folder: Path, mountpoint: Path) -> Iterator[None]:
    """A mount of `folder` for the block."""
    mountpoint.mkdir(exist_ok=True)
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.ceiling", folder, mountpoint])
    try:
        deadline = time.monotonic() + START_SECONDS
        while not os.path.ismount(mountpoint):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the ceiling's file system did not start")
            time.sleep(0.02)
        yield
    finally:
        subprocess.run(["fusermount3", "-u", mountpoint], check=False)
        server.wait(START_SECONDS)


if __name__ == "__main__":
    pyfuse3.init(Folder(Path(sys.argv[1])), sys.argv[2], {*pyfuse3.default_options, "fsname=ceiling"})
    try:
        trio.run(serve, Path(sys.argv[2]))
    finally:
        pyfuse3.close(unmount=False)
