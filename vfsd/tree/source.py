"""The source directory, read only: held by a descriptor, so that it may be moved or mounted over.

Every call may sleep on a slow disk or network, but for those `_at_once`: the tree calls them in threads. Nothing here
opens for writing, follows a symbolic link at the end of a path, or changes an access time where the kernel lets us avoid
it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from pathlib import Path
from stat import S_ISLNK
from typing import TYPE_CHECKING, NamedTuple, Protocol, final

from xxhash import xxh3_64_intdigest, xxh3_128

from vfsd.store.catalogue import ROOT_INO, SOURCE_INO_BASE, InodeRecord, Kind, kind_of_mode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vfsd.store.foreign import VirtualFile
from vfsd.tree.cached_paths import CachedPaths
from vfsd.tree.read_only_view import read_only_view

# What os.fsencode does, without a call for each name.
_CODEC, _CODEC_ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()

# A directory that changed less than this before it was read may change again without a new mtime: file systems count time
# in steps (10 ms on ext4 at HZ=100, 2 s on FAT).
MTIME_STEP_NS = 2_000_000_000
# A file is read for its digest in pieces of this size.
PIECE = 4 << 20
# Names that are in memory at once while the whole source is searched.
LISTED_AT_ONCE = 1024


class SourceEntry(NamedTuple):
    """One name in a source directory: its attributes, and where a symbolic link points."""

    name: bytes
    found: os.stat_result
    target: bytes | None


class Scan(Protocol):
    """A source's folder that is being read, some names at a time."""

    @property
    def mtime(self) -> int:
        """The folder's from before the first name was read (ns); 0 when the same mtime later would not mean the same names."""

    def read(self, count: int) -> list[SourceEntry]:
        """Up to `count` more entries, none at the end."""

    def close(self) -> None:
        """Let go of the folder."""


class AnySource(Protocol):
    """What the tree asks of what it lies upon: a folder (`Source`), or TIFFs made of OME-Zarr (`zarr_source.ZarrSource`).

    Each call says what `Source` says of it; `made` is the only other. `makes_files`: whether `made` may give anything.
    """

    root: Path
    makes_files: bool
    shielded: bool

    def close(self) -> None: ...
    def stat(self, path: bytes) -> os.stat_result: ...
    def stat_at_once(self, path: bytes) -> os.stat_result | None: ...
    def open_at_once(self, path: bytes) -> int | None: ...
    def entry(self, path: bytes) -> SourceEntry: ...
    def scan(self, path: bytes) -> Scan: ...
    def hard_links(self) -> Mapping[int, list[bytes]]: ...
    def open(self, path: bytes) -> int: ...
    def made(self, path: bytes) -> VirtualFile | None: ...
    def xattrs(self, path: bytes) -> dict[bytes, bytes]: ...


def digest_of(source: AnySource, path: bytes) -> bytes:
    """xxh3-128 of a regular file of a source as it is now."""
    hasher = xxh3_128()
    buffer = memoryview(bytearray(PIECE))
    fd = source.open(path)
    try:
        offset = 0
        while got := os.preadv(fd, [buffer], offset):
            hasher.update(buffer[:got])
            offset += got
    finally:
        os.close(fd)
    return hasher.digest()


def source_ino(path: bytes, found: os.stat_result) -> int:
    """The inode number of a source object: from its path, so that it stays when the plate is copied elsewhere.

    Objects with several hard links get it from device and inode instead, so that all their names are one node.
    """
    if path == b"":
        return ROOT_INO
    return hard_link_ino(found) if has_hard_links(found) else path_ino(path)


def has_hard_links(found: os.stat_result) -> bool:
    """Whether a source object may have other names."""
    return found.st_nlink > 1 and kind_of_mode(found.st_mode) is not Kind.DIRECTORY


def path_ino(path: bytes) -> int:
    """The inode number of whatever has this path in the source."""
    return SOURCE_INO_BASE | (xxh3_64_intdigest(path) & (SOURCE_INO_BASE - 1))


def hard_link_ino(found: os.stat_result) -> int:
    """The inode number of a source object under all its names."""
    return path_ino(b"\0%d:%d" % (found.st_dev, found.st_ino))  # no path has a NUL


def record_of_source(path: bytes, found: os.stat_result, target: bytes | None) -> InodeRecord:
    """The record of an object that only the source knows."""
    mode, mtime, ctime, links = found.st_mode, found.st_mtime_ns, found.st_ctime_ns, found.st_nlink
    bits, size, atime = mode & 0o7777, found.st_size, found.st_atime_ns
    if len(_SHARED) >= _MOST_SHARED:
        _SHARED.clear()
    return InodeRecord(
        path_ino(path) if links == 1 and path else source_ino(path, found),
        kind_of_mode(mode),
        _SHARED.setdefault(bits, bits),
        found.st_uid,
        found.st_gid,
        links,
        _SHARED.setdefault(size, size),
        mtime if mtime == atime else _SHARED.setdefault(atime, atime),
        mtime,
        mtime if mtime == ctime else ctime,
        found.st_rdev,
        path,
        False,
        target,
    )


# Numbers that many records of a plate have in common are one object each: a number of its own takes 32 bytes.
_SHARED: dict[int, int] = {}
_MOST_SHARED = 4096


@final
class Source:
    """See the module. Paths are relative to the root, without a leading slash; b"" is the root.

    Attributes
    ----------
    shielded : bool
        The kernel itself lets nobody write through what is opened here, whatever is done with the descriptors.
    """

    makes_files = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        shield = read_only_view(self._root)
        self.shielded = shield is not None
        self._fd = os.dup(self._root) if shield is None else shield
        self._cached = CachedPaths(self._fd)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._fd)
        os.close(self._root)

    def stat(self, path: bytes) -> os.stat_result:
        """`lstat` of an object."""
        if path == b"":
            return os.fstat(self._fd)
        return os.stat(path, dir_fd=self._fd, follow_symlinks=False)

    def stat_at_once(self, path: bytes) -> os.stat_result | None:
        """`lstat` of an object that the kernel has in memory; None where asking it in a thread may tell more."""
        return os.fstat(self._fd) if path == b"" else self._cached.stat(path)

    def open_at_once(self, path: bytes) -> int | None:
        """As `open`, where that cannot sleep; None where it may, or fails."""
        fd = self._cached.open(path)
        if fd is not None and kind_of_mode(os.fstat(fd).st_mode) is not Kind.SOURCE:
            os.close(fd)
            return None
        return fd

    def entry(self, path: bytes) -> SourceEntry:
        """One object with all that a listing would say of it."""
        found = self.stat(path)
        target = self._target(path) if kind_of_mode(found.st_mode) is Kind.SYMLINK else None
        return SourceEntry(path.rpartition(b"/")[2], found, target)

    def scan(self, path: bytes) -> SourceScan:
        """A reading of all names in a directory; the caller closes it."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return SourceScan(self._open_unnoticed(path or b".", flags))

    def hard_links(self) -> dict[int, list[bytes]]:
        """The paths of all objects that have several names in here, by their inode number; reads every directory."""
        names: dict[int, list[bytes]] = {}
        waiting = [b""]
        while waiting:
            path = waiting.pop()
            # what cannot be read is not shown either
            with contextlib.suppress(OSError), contextlib.closing(self.scan(path)) as scan:
                while entries := scan.read(LISTED_AT_ONCE):
                    for entry in entries:
                        below = path + b"/" + entry.name if path else entry.name
                        if kind_of_mode(entry.found.st_mode) is Kind.DIRECTORY:
                            waiting.append(below)
                        elif has_hard_links(entry.found):
                            names.setdefault(hard_link_ino(entry.found), []).append(below)
        return {ino: paths for ino, paths in names.items() if len(paths) > 1}

    def open(self, path: bytes) -> int:
        """A descriptor for reading a regular file; raises ESTALE when it is something else by now."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            fd = self._open_unnoticed(path, flags)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(errno.ESTALE, "became a symbolic link", path) from error
            raise
        if kind_of_mode(os.fstat(fd).st_mode) is not Kind.SOURCE:
            os.close(fd)
            raise OSError(errno.ESTALE, "is no regular file any more", path)
        return fd

    def _open_unnoticed(self, path: bytes, flags: int) -> int:
        """Open so that reading moves no access time, where the kernel lets us."""
        try:
            return os.open(path, flags | os.O_NOATIME, dir_fd=self._fd)
        except PermissionError:  # O_NOATIME is for owners only
            return os.open(path, flags, dir_fd=self._fd)

    def made(self, path: bytes) -> VirtualFile | None:
        """Files on a disk are not made while they are read."""
        return None

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """The `user.` attributes of a file or directory; none where they cannot be read."""
        attributes: dict[bytes, bytes] = {}
        try:
            fd = os.open(path or b".", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self._fd)
        except OSError:
            return attributes
        try:
            for name in os.listxattr(fd):
                if name.startswith("user."):
                    attributes[os.fsencode(name)] = os.getxattr(fd, name)
        except OSError:
            pass
        finally:
            os.close(fd)
        return attributes

    def _target(self, path: bytes) -> bytes:
        return os.readlink(path, dir_fd=self._fd)


@final
class SourceScan:
    """A source directory that is being read, some names at a time, so that a million need not be held at once.

    `mtime` is the directory's from before the first name was read (ns); 0 when it is so recent that the same mtime later
    would not mean the same names. `read` and `close` may sleep.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        try:
            mtime = os.fstat(fd).st_mtime_ns
            self.mtime = 0 if abs(time.time_ns() - mtime) < MTIME_STEP_NS else mtime
            self._names = os.scandir(fd)
        except BaseException:
            os.close(fd)
            raise

    def close(self) -> None:
        """Let go of the directory."""
        self._names.close()
        os.close(self._fd)

    def read(self, count: int) -> list[SourceEntry]:
        """Up to `count` more entries, none at the end; a name that vanishes meanwhile is left out."""
        entries: list[SourceEntry] = []
        for item in self._names:
            try:
                found = item.stat(follow_symlinks=False)
                target = os.fsencode(os.readlink(item.name, dir_fd=self._fd)) if S_ISLNK(found.st_mode) else None
            except FileNotFoundError:
                continue
            entries.append(SourceEntry(item.name.encode(_CODEC, _CODEC_ERRORS), found, target))
            if len(entries) == count:
                break
        return entries
