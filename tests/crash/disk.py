"""A disk that remembers every write and every flush, so that power can fail at any of them, again and again.

A FUSE file system with one file, which a loop device takes for its disk and a real ext4 lies on. What reaches the disk is kept in
order, with its time, on the clock that all processes of a machine share (CLOCK_MONOTONIC). `Recording.image_at` makes the
disk as power loss at one moment may have left it: whatever a flush that had ended covers is there; of what was written after it,
any part may be.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import stat
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blackbox.daemons import mounted_at, wait_until

DISK_NAME = b"disk"
DISK_INODE = 2
WRITE, FLUSH = 1, 2
_HEAD = struct.Struct("<BqqI")


def why_no_disk() -> str | None:
    """What this machine lacks for it, or None."""
    if os.geteuid() != 0:
        return "needs root"
    for program in ("losetup", "mkfs.ext4"):
        if shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
            return f"no {program}"
    found = _run("losetup", "--find", check=False)
    return None if found.returncode == 0 else f"no loop devices: {found.stderr.strip()}"


def _run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command], capture_output=True, text=True, timeout=60, check=check)


def make_file_system(image: Path, size: int) -> None:
    """An empty ext4, as mkfs makes it, in a file."""
    with image.open("wb") as file:
        file.truncate(size)
    _run("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", image)


@contextlib.contextmanager
def file_system_on(disk: Path, at: Path) -> Iterator[None]:
    """An ext4 in a file, mounted for the block."""
    device = _run("losetup", "--find", "--show", disk).stdout.strip()
    try:
        _run("mount", "-t", "ext4", device, at)
        try:
            yield
        finally:
            wait_until(lambda: _run("umount", at, check=False).returncode == 0, f"{at} is let go", 20)
    finally:
        _run("losetup", "--detach", device)


@dataclass(frozen=True, slots=True)
class Recording:
    """What reached a disk after it was `base`: (kind, time in ns, offset, data's place and length in `log`)."""

    base: Path
    log: Path
    entries: list[tuple[int, int, int, int, int]]

    @classmethod
    def read(cls, base: Path, log: Path) -> Recording:
        """From what `recorded_disk` left."""
        entries, position, size = [], 0, log.stat().st_size
        with log.open("rb") as file:
            while position + _HEAD.size <= size:
                file.seek(position)
                kind, moment, offset, length = _HEAD.unpack(file.read(_HEAD.size))
                position += _HEAD.size
                if position + length > size:
                    break
                entries.append((kind, moment, offset, position, length))
                position += length
        return cls(base, log, entries)

    def image_at(self, image: Path, last: int, chance: random.Random | None) -> None:
        """The disk when power fails right after entry `last`.

        Parameters
        ----------
        chance : random.Random, optional
            Of what no flush covers each write is there or not, as this has it; without it all of it is there.
        """
        flushed = max((number for number in range(last + 1) if self.entries[number][0] == FLUSH), default=-1)
        _run("cp", "--sparse=always", self.base, image)
        likely = None if chance is None else chance.choice((0.0, 0.3, 0.7, 0.95))
        with image.open("r+b") as disk, self.log.open("rb") as log:
            for number, (kind, _, offset, position, length) in enumerate(self.entries[: last + 1]):
                if kind == WRITE and (number < flushed or chance is None or chance.random() < likely):
                    log.seek(position)
                    disk.seek(offset)
                    disk.write(log.read(length))


@contextlib.contextmanager
def recorded_disk(base: Path, folder: Path) -> Iterator[Path]:
    """A disk that is `base` at first; its file, as long as the block lasts. The recording is in `folder/log`."""
    point, image, log = folder / "point", folder / "image", folder / "log"
    point.mkdir()
    _run("cp", "--sparse=always", base, image)
    pid = os.fork()
    if pid == 0:
        try:
            _serve(point, image, log)
        finally:
            os._exit(0)
    try:
        wait_until(lambda: mounted_at(point) is not None, "the disk is there", 20)
        yield point / os.fsdecode(DISK_NAME)
    finally:
        _run("fusermount3", "-u", point, check=False)
        os.waitpid(pid, 0)


def _serve(point: Path, image: Path, log: Path) -> None:
    import pyfuse3
    import trio

    class Disk(pyfuse3.Operations):
        """One file; everything at once, so that what was answered is in the log in its order."""

        def __init__(self) -> None:
            super().__init__()
            self._image = os.open(image, os.O_RDWR)
            self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

        async def getattr(self, inode: int, ctx: Any = None) -> pyfuse3.EntryAttributes:
            entry = pyfuse3.EntryAttributes()
            entry.st_ino = inode
            entry.st_mode = stat.S_IFDIR | 0o700 if inode == pyfuse3.ROOT_INODE else stat.S_IFREG | 0o600
            entry.st_size = os.fstat(self._image).st_size
            entry.st_nlink = 1
            return entry

        async def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> pyfuse3.EntryAttributes:
            return await self.getattr(inode)

        async def lookup(self, parent: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
            if name != DISK_NAME:
                raise pyfuse3.FUSEError(errno.ENOENT)
            return await self.getattr(DISK_INODE)

        async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
            return pyfuse3.FileInfo(fh=DISK_INODE, direct_io=False, keep_cache=False)

        async def read(self, fh: int, off: int, size: int) -> bytes:
            return os.pread(self._image, size, off)

        async def write(self, fh: int, off: int, buf: bytes) -> int:
            os.write(self._log, _HEAD.pack(WRITE, time.monotonic_ns(), off, len(buf)) + bytes(buf))
            return os.pwrite(self._image, buf, off)

        async def fsync(self, fh: int, datasync: bool) -> None:
            os.write(self._log, _HEAD.pack(FLUSH, time.monotonic_ns(), 0, 0))

        async def flush(self, fh: int) -> None:
            """A close syncs nothing."""

        async def release(self, fh: int) -> None:
            """Nothing to let go of."""

    pyfuse3.init(Disk(), os.fspath(point), {"fsname=recorded-disk", "default_permissions"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)
