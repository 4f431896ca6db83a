"""Where a store's objects lie: the narrow interface, and the local folder that is its first implementation.

A key is the object's path in the store, raw bytes without a leading slash (`b"images/plate.ome.zarr/zarr.json"`).
Readers see whole objects; how objects change is `Transaction`'s business. Safe to call from any thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol, final

import numpy as np

from vfsd.errors import StoredDataDamaged

# Descriptors of objects kept open. A field is read plane by plane from one shard; a few hundred shards cover every
# walk over a plate, and the hard limit of descriptors can be as low as 20,000.
OPEN_OBJECTS = 256
# From this many files or folders on, one syncfs of the whole file system is cheaper than a sync of each (1-20 ms on a disk).
SYNC_EACH_UP_TO = 8
# From this size on a read is worth telling the kernel about in advance.
LARGE_READ = 256 << 10

_SYNC_FILE_RANGE_WRITE = 2  # sync_file_range(2): start writing, wait for nothing
_libc = ctypes.CDLL(None, use_errno=True)


class ObjectReader(Protocol):
    """Reads objects by key; what a store, and a transaction in the making, both offer."""

    def size(self, key: bytes) -> int:
        """Size in bytes; raises StoredDataDamaged when there is no such object."""

    def read_into(self, key: bytes, offset: int, out: memoryview) -> None:
        """Fill `out` from `offset`; raises StoredDataDamaged when the object is missing or shorter."""

    def read_range(self, key: bytes, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; raises StoredDataDamaged when the object is missing or shorter."""

    def read_at_once(self, key: bytes, offset: int, length: int) -> bytes | None:
        """The same where it needs no disk, nor anything else that sleeps; else None."""


@final
class _OpenObject:
    """A descriptor, and how many reads use it now: it is closed only when none does."""

    __slots__ = ("fd", "retired", "users")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.users = 0
        self.retired = False


@final
class LocalStorage:
    """Objects are files below one folder.

    The lock protects the table of open descriptors only and is never held during I/O. A descriptor that was opened before
    a `forget` and comes to the table after it is used once and not kept: it may be of the object that was replaced.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._root = os.fsencode(root)
        self._lock = threading.Lock()
        self._open: OrderedDict[bytes, _OpenObject] = OrderedDict()
        self._forgotten = 0  # how often `forget` was called

    def path(self, key: bytes) -> bytes:
        """Where an object lies on this machine; for `store/` itself only."""
        return self._root + b"/" + key

    def _acquire(self, key: bytes) -> _OpenObject:
        with self._lock:
            found = self._open.get(key)
            if found is not None:
                self._open.move_to_end(key)
                found.users += 1
                return found
            forgotten = self._forgotten
        fresh = _OpenObject(self.open_object(key))
        fresh.users = 1
        retired: list[_OpenObject] = []
        with self._lock:
            previous = self._open.get(key)
            if previous is not None:  # another thread opened it meanwhile
                previous.users += 1
                retired.append(fresh)
                fresh.users = 0
                fresh = previous
            elif forgotten != self._forgotten:
                fresh.retired = True
            else:
                self._open[key] = fresh
                while len(self._open) > OPEN_OBJECTS:
                    _, oldest = self._open.popitem(last=False)
                    oldest.retired = True
                    if oldest.users == 0:
                        retired.append(oldest)
        for item in retired:
            os.close(item.fd)
        return fresh

    def _release(self, item: _OpenObject) -> None:
        with self._lock:
            item.users -= 1
            close = item.retired and item.users == 0
        if close:
            os.close(item.fd)

    def open_object(self, key: bytes) -> int:
        """A descriptor for reading an object, the caller's own; raises StoredDataDamaged when there is no such object."""
        try:
            return os.open(self.path(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise StoredDataDamaged("is missing from the store", path=self.path(key)) from error
            raise

    def size(self, key: bytes) -> int:
        """See `ObjectReader`."""
        item = self._acquire(key)
        try:
            return os.fstat(item.fd).st_size
        finally:
            self._release(item)

    def read_into(self, key: bytes, offset: int, out: memoryview) -> None:
        """See `ObjectReader`."""
        item = self._acquire(key)
        try:
            _ask_ahead(item.fd, offset, len(out))
            done = 0
            while done < len(out):
                got = os.preadv(item.fd, [out[done:]], offset + done)
                if got == 0:
                    raise StoredDataDamaged(
                        f"is cut short ({offset + done} bytes, {offset + len(out)} needed)",
                        path=self.path(key),
                    )
                done += got
        finally:
            self._release(item)

    def read_range(self, key: bytes, offset: int, length: int) -> bytes:
        """See `ObjectReader`."""
        item = self._acquire(key)
        try:
            _ask_ahead(item.fd, offset, length)
            data = os.pread(item.fd, length, offset)  # not into a bytearray: that would be filled with zeros first
        finally:
            self._release(item)
        if len(data) == length:
            return data
        rest = bytearray(length - len(data))
        self.read_into(key, offset + len(data), memoryview(rest))
        return data + bytes(rest)

    def read_at_once(self, key: bytes, offset: int, length: int) -> bytes | None:
        """See `ObjectReader`."""
        with self._lock:
            item = self._open.get(key)
            if item is None:
                return None
            self._open.move_to_end(key)
            item.users += 1
        data = np.empty(length, np.uint8).data
        try:
            got = os.preadv(item.fd, [data], offset, os.RWF_NOWAIT)
        except OSError:
            return None
        finally:
            self._release(item)
        return bytes(data) if got == length else None

    def ask_ahead(self, key: bytes, offset: int, length: int) -> None:
        """Have the kernel read a part of an object that is soon wanted; waits for no disk but to open it."""
        item = self._acquire(key)
        try:
            with contextlib.suppress(OSError):
                os.posix_fadvise(item.fd, offset, length, os.POSIX_FADV_WILLNEED)
        finally:
            self._release(item)

    def forget(self, keys: list[bytes] | None = None) -> None:
        """Close cached descriptors (of these keys, or all), because the objects under the keys were replaced."""
        close: list[int] = []
        with self._lock:
            self._forgotten += 1
            for key in list(self._open) if keys is None else keys:
                item = self._open.pop(key, None)
                if item is None:
                    continue
                item.retired = True
                if item.users == 0:
                    close.append(item.fd)
        for fd in close:
            os.close(fd)

    def list_keys(self, prefix: bytes) -> Iterator[tuple[bytes, int]]:
        """(key, size) of every object below a folder key, in no order; nothing if the folder is missing."""
        pending = [prefix]
        while pending:
            folder = pending.pop()
            try:
                entries = list(os.scandir(self.path(folder)))
            except FileNotFoundError:
                continue
            for entry in entries:
                key = folder + b"/" + entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(key)
                else:
                    yield key, entry.stat(follow_symlinks=False).st_size

    def put_file(self, key: bytes, data: bytes) -> None:
        """Put a whole small object, durably: written beside, synced, renamed."""
        path = self.path(key)
        folder, name = os.path.split(path)
        Path(os.fsdecode(folder)).mkdir(parents=True, exist_ok=True)
        beside = folder + b"/." + name[:200] + b".part"
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(beside, path)
        sync_directory(folder)

    def is_free_path(self, key: bytes) -> bool:
        """Whether an object could be put under a key: it is no folder, and nothing above it is an object."""
        if os.path.isdir(self.path(key)):
            return False
        folder = os.path.dirname(key)
        while folder:
            if os.path.lexists(self.path(folder)):
                return os.path.isdir(self.path(folder))
            folder = os.path.dirname(folder)
        return True

    def free_bytes(self) -> int:
        """Room left for ordinary users on the store's disk, in bytes."""
        figures = os.statvfs(self._root)
        return figures.f_bavail * figures.f_frsize


def _ask_ahead(fd: int, offset: int, length: int) -> None:
    """Have the kernel read a large range in one go: left to itself it asks the disk for 128 KiB at a time."""
    if length >= LARGE_READ:
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)


def start_writeback(fd: int) -> None:
    """Let the disk begin to write what was written, so that a later sync finds little left; does not wait for it."""
    _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)


def forget_pages(path: bytes | str | Path) -> None:
    """Have the kernel drop what it remembers of a synced file, so that the next read is the disk's; a wish, not more."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte at the descriptor's position, however often the kernel takes less."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(fd, view) :]


def sync_file(path: bytes | str | Path) -> None:
    """Make a file's bytes durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(path: bytes | str | Path) -> None:
    """Make everything on the file system of a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(fd)


def sync_directories(paths: Collection[bytes]) -> None:
    """Make the names in directories of one file system durable."""
    if len(paths) > SYNC_EACH_UP_TO:
        sync_file_system(next(iter(paths)))
    else:
        for path in paths:
            sync_directory(path)


def sync_directory(path: bytes | str | Path) -> None:
    """Make the names in a directory durable; file systems that cannot sync a directory need no sync."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)
