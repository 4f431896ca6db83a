"""A tree that is mounted: its files, extended attributes and descriptors, by ordinary system calls.

A view is a mapping of the file on the mount. Files are written beside their place and renamed; a program that writes into a
mapped file in place changes what the view shows, and one that cuts it makes reads behind its end fail with SIGBUS, as
everywhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import json
import mmap
import os
import secrets
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, final

from vfsd.client.files import LOCATION, MARK, TIER, Entry, Files, Part, Target
from vfsd.client.paths import TEMPORARY_PREFIX, failure, join_path, not_found, split_path
from vfsd.errors import FlushIncomplete, UnfitError, shown_path

_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
_FILE_SYSTEM: Final = "fuse.vfsd"
# A flush of several files in a process of its own takes half a second to begin, one file's own flush some milliseconds.
_WORTH_A_PROCESS: Final = 16
# Paths given to one command: each has at most 4096 bytes, and a command line some 2 MiB (ARG_MAX).
_MOST_PATHS: Final = 400


def mount_point_of(path: Path) -> Path | None:
    """The vfsd mount that holds a path, or None; nothing on the mount is asked."""
    import psutil

    resolved = Path(os.path.abspath(path))
    mounts = [(Path(part.mountpoint), part.fstype) for part in psutil.disk_partitions(all=True)]
    holding = [mount for mount in mounts if resolved.is_relative_to(mount[0])]
    if not holding:
        return None
    longest = max(range(len(holding)), key=lambda number: (len(holding[number][0].parts), number))
    point, kind = holding[longest]
    return point if kind == _FILE_SYSTEM else None


@final
class MountFiles(Files):
    """See the module. `root` is the mount point, or a folder of the mount.

    Raises
    ------
    UnfitError
        Nothing of vfsd's is mounted there.
    """

    def __init__(self, root: Path) -> None:
        # absolute, and not resolved: symbolic links above a mount point are the kernel's business
        self.root = Path(os.path.abspath(root))
        point = mount_point_of(self.root) or mount_point_of(Path(os.path.realpath(self.root.parent)) / self.root.name)
        if point is None:
            raise UnfitError(
                "is no vfsd mount",
                path=self.root,
                remedy=f"Mount it first (vfsd mount SOURCE {shown_path(self.root)}), or use FileManager.open",
            )
        self._mount_point = point
        self._fsencoded = os.fsencode(self.root)

    def _at(self, path: bytes) -> bytes:
        return join_path(self._fsencoded, path) if path else self._fsencoded

    def write(self, path: bytes, parts: Sequence[Part], *, overwrite: bool, mark: str | None) -> None:
        if not overwrite and os.path.lexists(self._at(path)):
            raise failure(errno.EEXIST, path)
        folder, _ = split_path(path)
        beside = self._at(join_path(folder, TEMPORARY_PREFIX + secrets.token_hex(8).encode()))
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            raise not_found(path, f"its folder {shown_path(folder)} does not exist") from None
        except OSError as error:
            raise failure(error.errno or errno.EIO, path) from error
        try:
            try:
                for part in parts:
                    _write_all(fd, part)
                if mark is not None:
                    os.setxattr(fd, MARK, mark.encode())
            finally:
                os.close(fd)
            if overwrite:
                os.rename(beside, self._at(path))
            else:
                _rename_to_new(beside, self._at(path))
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            if isinstance(error, OSError):
                raise failure(error.errno or errno.EIO, path) from error
            raise

    def view(self, path: bytes) -> memoryview:
        with self._naming(path):
            fd = os.open(self._at(path), os.O_RDONLY | os.O_CLOEXEC)
            try:
                found = os.fstat(fd)
                if stat.S_ISDIR(found.st_mode):
                    raise failure(errno.EISDIR, path)
                if found.st_size == 0:
                    return memoryview(b"")
                return memoryview(mmap.mmap(fd, found.st_size, mmap.MAP_SHARED, mmap.PROT_READ))
            finally:
                os.close(fd)

    def mark(self, path: bytes) -> str | None:
        try:
            return os.getxattr(self._at(path), MARK).decode("utf-8", "replace")
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
                return None
            raise failure(error.errno or errno.EIO, path) from error

    def tier(self, path: bytes) -> str:
        with self._naming(path):
            return os.getxattr(self._at(path), TIER).decode("ascii", "replace")

    def location(self, path: bytes) -> dict[str, Any]:
        with self._naming(path):
            found: dict[str, Any] = json.loads(os.getxattr(self._at(path), LOCATION))
            return found

    def move(self, path: bytes, tier: Target) -> None:
        with self._naming(path):
            os.setxattr(self._at(path), TIER, tier.encode())

    def store_together(self, paths: Sequence[bytes]) -> None:
        if len(paths) >= _WORTH_A_PROCESS:
            for first in range(0, len(paths), _MOST_PATHS):
                named = [os.fsdecode(self._at(path)) for path in paths[first : first + _MOST_PATHS]]
                command = [sys.executable, "-m", "vfsd", "flush", os.fsdecode(self._mount_point), *named]
                # what it could not store is said below, for each file by itself
                subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        super().store_together(paths)

    def flush(self) -> None:
        command = [sys.executable, "-m", "vfsd", "flush", os.fsdecode(self._mount_point)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode != 0:
            raise FlushIncomplete(
                done.stderr.strip() or f"vfsd flush ended with {done.returncode}", path=self._mount_point
            )

    def stat(self, path: bytes) -> os.stat_result:
        with self._naming(path):
            return os.stat(self._at(path))

    def entries(self, path: bytes) -> list[Entry]:
        with self._naming(path), os.scandir(self._at(path)) as found:
            return [Entry(one.name, one.is_file(), one.is_dir(), one.is_symlink()) for one in found]

    def make_directory(self, path: bytes) -> None:
        with self._naming(path):
            os.mkdir(self._at(path))

    def remove(self, path: bytes) -> None:
        with self._naming(path):
            if stat.S_ISDIR(os.lstat(self._at(path)).st_mode):
                os.rmdir(self._at(path))
            else:
                os.unlink(self._at(path))

    def rename(self, old: bytes, new: bytes, *, overwrite: bool) -> None:
        with self._naming(old if not os.path.lexists(self._at(old)) else new):
            if overwrite:
                os.rename(self._at(old), self._at(new))
            else:
                _rename_to_new(self._at(old), self._at(new))

    def symlink(self, target: bytes, path: bytes) -> None:
        with self._naming(path):
            os.symlink(target, self._at(path))

    @staticmethod
    @contextlib.contextmanager
    def _naming(path: bytes) -> Any:
        """An error names the path as the caller knows it."""
        try:
            yield
        except OSError as error:
            if error.filename == os.fsdecode(path):
                raise
            raise failure(error.errno or errno.EIO, path) from error


def _write_all(fd: int, part: Part) -> None:
    """All of it: one write(2) takes at most 2 GiB."""
    left = memoryview(part).cast("B")
    while left.nbytes:
        left = left[os.write(fd, left) :]


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """Of the C library: Python has no rename that refuses to replace."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    renameat2: Callable[..., int] = function
    return renameat2


def _rename_to_new(old: bytes, new: bytes) -> None:
    """Rename; FileExistsError where there is something, whoever made it a moment ago."""
    renameat2 = _renameat2()
    if renameat2 is None:  # musl before 1.2.6: a link refuses as well, and the file has two names for an instant
        os.link(old, new)
        os.unlink(old)
        return
    if renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), new)
