"""What can be done to a tree: each act is a function on one side, and what it returns must be the same on both.

A side is a root and the handles that are open on it. Errors are raised, and compared by their errno.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

NOREPLACE, EXCHANGE = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Side:
    """One of the two trees, and its open handles by slot."""

    root: bytes
    files: dict[int, int] = field(default_factory=dict)

    def at(self, path: bytes) -> bytes:
        return self.root + b"/" + path

    def close_all(self) -> None:
        while self.files:
            os.close(self.files.popitem()[1])


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _open(path: bytes, flags: int, mode: int) -> int:
    if stat.S_IFMT(_mode_of(path)) in (stat.S_IFCHR, stat.S_IFBLK):
        raise OSError(errno.EACCES, "FUSE mounts have no devices (nodev)")
    # A FIFO without a partner must not hang the model.
    return os.open(path, flags | os.O_NONBLOCK, mode)


def _mode_of(path: bytes) -> int:
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0


@contextlib.contextmanager
def _opened(path: bytes, flags: int, mode: int = 0o644) -> Iterator[int]:
    fd = _open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes, offset: int | None = None) -> None:
    """Every byte, though a write may take fewer."""
    view = memoryview(data)
    while view:
        done = os.write(fd, view) if offset is None else os.pwrite(fd, view, offset)
        view = view[done:]
        if offset is not None:
            offset += done


def read_all(fd: int, size: int, offset: int) -> bytes:
    """Up to `size` bytes, fewer only at the end."""
    found = bytearray()
    while len(found) < size and (piece := os.pread(fd, size - len(found), offset + len(found))):
        found += piece
    return bytes(found)


# --- names


def mkdir(side: Side, path: bytes, mode: int, mask: int) -> None:
    with _umask(mask):
        os.mkdir(side.at(path), mode)


def rmdir(side: Side, path: bytes) -> None:
    os.rmdir(side.at(path))


def unlink(side: Side, path: bytes) -> None:
    os.unlink(side.at(path))


def rename(side: Side, old: bytes, new: bytes, flags: int) -> None:
    if _libc.renameat2(-100, side.at(old), -100, side.at(new), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def link(side: Side, old: bytes, new: bytes, follow: bool) -> None:
    os.link(side.at(old), side.at(new), follow_symlinks=follow)


def symlink(side: Side, target: bytes, path: bytes) -> None:
    os.symlink(target, side.at(path))


def readlink(side: Side, path: bytes) -> bytes:
    return os.readlink(side.at(path))


def mknod(side: Side, path: bytes, kind: int, mode: int, mask: int) -> None:
    with _umask(mask):
        os.mknod(side.at(path), kind | mode, os.makedev(1, 3) if kind == stat.S_IFCHR else 0)


def rmtree(side: Side, path: bytes) -> None:
    if path.rstrip(b"/.") == b"":
        raise OSError(errno.EBUSY, "the root stays")
    if not stat.S_ISDIR(os.lstat(side.at(path)).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "would be opened, which waits where it is a FIFO")
    shutil.rmtree(side.at(path))


def listdir(side: Side, path: bytes) -> list[tuple[bytes, str]]:
    found = []
    with os.scandir(side.at(path)) as listing:
        for entry in listing:
            kind = "link" if entry.is_symlink() else "folder" if entry.is_dir() else "file" if entry.is_file() else "-"
            assert entry.inode() == os.lstat(entry.path).st_ino, f"{entry.path!r} is listed with another inode number"
            found.append((entry.name, kind))
    return sorted(found)


# --- whole files


def create(side: Side, path: bytes, data: bytes, mode: int, mask: int) -> None:
    with _umask(mask), _opened(side.at(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode) as fd:
        write_all(fd, data)


def save(side: Side, path: bytes, data: bytes) -> None:
    with _opened(side.at(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
        write_all(fd, data)


def save_beside_and_rename(side: Side, path: bytes, data: bytes, sync: bool) -> None:
    """As editors do."""
    beside = side.at(os.path.dirname(path)) + b"/.beside~"
    try:
        with _opened(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
            write_all(fd, data)
            if sync:
                os.fsync(fd)
        os.rename(beside, side.at(path))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def overwrite(side: Side, path: bytes, offset: int, data: bytes) -> None:
    with _opened(side.at(path), os.O_WRONLY) as fd:
        write_all(fd, data, offset)


def append(side: Side, path: bytes, data: bytes) -> None:
    with _opened(side.at(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT) as fd:
        write_all(fd, data)


def truncate(side: Side, path: bytes, size: int) -> None:
    """Only to another size: to the same ext4 moves the times, and tmpfs only those of files that take room."""
    if stat.S_ISREG(_mode_of(side.at(path))) and os.stat(side.at(path)).st_size == size:
        return
    os.truncate(side.at(path), size)


def copy(side: Side, old: bytes, new: bytes) -> None:
    if not stat.S_ISREG(os.stat(side.at(old)).st_mode):
        raise OSError(errno.EINVAL, "only files are copied")
    with _opened(side.at(new), os.O_WRONLY | os.O_CREAT) as to, _opened(side.at(old), os.O_RDONLY) as fd:
        _copy_range(fd, to, 1 << 30, 0, 0)
        shutil.copystat(side.at(old), side.at(new))


# --- attributes


def chmod(side: Side, path: bytes, mode: int) -> None:
    os.chmod(side.at(path), mode)


def chown(side: Side, path: bytes, uid: int, gid: int, follow: bool) -> None:
    os.chown(side.at(path), uid, gid, follow_symlinks=follow)


def utime(side: Side, path: bytes, atime: int, mtime: int, follow: bool) -> tuple[int, int]:
    os.utime(side.at(path), ns=(atime, mtime), follow_symlinks=follow)
    found = os.stat(side.at(path), follow_symlinks=follow)
    return found.st_atime_ns, found.st_mtime_ns


def utime_now(side: Side, path: bytes) -> None:
    os.utime(side.at(path))


def setxattr(side: Side, path: bytes, name: bytes, value: bytes, flags: int, follow: bool) -> None:
    """Only to another value: to the same ext4 moves no time, and tmpfs does."""
    if not flags and _has_value(lambda: os.getxattr(side.at(path), name, follow_symlinks=follow), value):
        return
    os.setxattr(side.at(path), name, value, flags, follow_symlinks=follow)


def _has_value(get: Callable[[], bytes], value: bytes) -> bool:
    try:
        return get() == value
    except OSError:
        return False


def getxattr(side: Side, path: bytes, name: bytes, follow: bool) -> bytes:
    return os.getxattr(side.at(path), name, follow_symlinks=follow)


def removexattr(side: Side, path: bytes, name: bytes, follow: bool) -> None:
    os.removexattr(side.at(path), name, follow_symlinks=follow)


# --- handles


def open_(side: Side, slot: int, path: bytes, flags: int, mode: int) -> None:
    if slot in side.files:
        os.close(side.files.pop(slot))
    side.files[slot] = _open(side.at(path), flags, mode)


def close(side: Side, slot: int) -> None:
    os.close(side.files.pop(slot))


def pread(side: Side, slot: int, size: int, offset: int) -> bytes:
    return read_all(side.files[slot], size, offset)


def read(side: Side, slot: int, size: int) -> bytes:
    fd = side.files[slot]
    found = bytearray()
    while len(found) < size and (piece := os.read(fd, size - len(found))):
        found += piece
    return bytes(found)


def pwrite(side: Side, slot: int, data: bytes, offset: int) -> None:
    write_all(side.files[slot], data, offset)


def write(side: Side, slot: int, data: bytes) -> int:
    """Not into FIFOs: the kernel keeps those of a FUSE mount to itself, and their times stand still."""
    if stat.S_ISFIFO(os.fstat(side.files[slot]).st_mode):
        return 0
    write_all(side.files[slot], data)
    return os.lseek(side.files[slot], 0, os.SEEK_CUR)


def lseek(side: Side, slot: int, offset: int, whence: int) -> int:
    """In files: what a position in a directory means is the file system's own business."""
    if stat.S_ISDIR(os.fstat(side.files[slot]).st_mode):
        return 0
    return os.lseek(side.files[slot], offset, whence)


def skips_only_zeros(side: Side, slot: int, offset: int) -> bool:
    """What SEEK_DATA leaps over holds nothing; how much it leaps over is the file system's own business."""
    fd = side.files[slot]
    if not stat.S_ISREG(os.fstat(fd).st_mode) or _how_opened(fd) & os.O_ACCMODE == os.O_WRONLY:
        return True
    size, here = os.fstat(fd).st_size, os.lseek(fd, 0, os.SEEK_CUR)
    try:
        data = os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        data = size
    finally:
        os.lseek(fd, here, os.SEEK_SET)
    return data >= min(offset, size) and not any(read_all(fd, max(0, data - offset), offset))


def _how_opened(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_APPEND)


def ftruncate(side: Side, slot: int, size: int) -> None:
    os.ftruncate(side.files[slot], size)


def fallocate(side: Side, slot: int, offset: int, size: int) -> None:
    """Where it makes a file longer: pyfuse3 has no fallocate, the C library writes zeros instead and, within a file, nothing.

    For that it reads, and refuses what appends.
    """
    fd = side.files[slot]
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and offset + size > found.st_size and _how_opened(fd) == os.O_RDWR:
        os.posix_fallocate(fd, offset, size)


def fsync(side: Side, slot: int, data_only: bool) -> None:
    (os.fdatasync if data_only else os.fsync)(side.files[slot])


def fchmod(side: Side, slot: int, mode: int) -> None:
    os.fchmod(side.files[slot], mode)


def futimens(side: Side, slot: int, atime: int, mtime: int) -> tuple[int, int]:
    os.utime(side.files[slot], ns=(atime, mtime))
    found = os.fstat(side.files[slot])
    return found.st_atime_ns, found.st_mtime_ns


def fsetxattr(side: Side, slot: int, name: bytes, value: bytes) -> None:
    """Only to another value: see `setxattr`."""
    if not _has_value(lambda: os.getxattr(side.files[slot], name), value):
        os.setxattr(side.files[slot], name, value)


def flock(side: Side, slot: int, how: int) -> None:
    fcntl.flock(side.files[slot], how | fcntl.LOCK_NB)


def map_and_write(side: Side, slot: int, offset: int, data: bytes, private: bool) -> bytes:
    """Write through a mapping and sync it; what lies around it then, as a read sees it."""
    fd = side.files[slot]
    if (size := os.fstat(fd).st_size) == 0 or not stat.S_ISREG(os.fstat(fd).st_mode):
        return b""
    offset %= size
    data = data[: size - offset]
    kind = mmap.MAP_PRIVATE if private else mmap.MAP_SHARED
    with mmap.mmap(fd, size, kind, mmap.PROT_READ | mmap.PROT_WRITE) as mapping:
        mapping[offset : offset + len(data)] = data
        if not private:
            mapping.flush()
        return mapping[max(0, offset - 16) : offset + len(data) + 16]


def copy_range(side: Side, slot: int, to: int, size: int, offset: int, to_offset: int) -> int:
    return _copy_range(side.files[slot], side.files[to], size, offset, to_offset)


def _copy_range(fd: int, to: int, size: int, offset: int, to_offset: int) -> int:
    copied = 0
    while copied < size:
        done = os.copy_file_range(fd, to, size - copied, offset + copied, to_offset + copied)
        if done == 0:
            break
        copied += done
    return copied


def listdir_of(side: Side, slot: int) -> list[str]:
    return sorted(os.listdir(side.files[slot]))


def in_folder_of(side: Side, slot: int, name: bytes) -> None:
    """A file made by a handle on its directory, which may be anywhere by now, or gone."""
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o644, dir_fd=side.files[slot]))


Act = Callable[..., Any]
