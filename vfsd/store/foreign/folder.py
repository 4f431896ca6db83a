"""Somebody else's Zarr folder, read only: nothing outside it is ever looked at, whatever its names and links say.

Every path is resolved by the kernel beneath one directory (`openat2(2)`, RESOLVE_BENEATH); where that is missing, no
symbolic link is followed at all. Documents are read whole, up to a limit, and are what JSON calls objects. Callable from
any thread; every call may sleep on a slow disk.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import stat
import struct
from pathlib import Path
from typing import Any, Final, final

from vfsd.errors import shown_path
from vfsd.store.recent import Recent

# The number of openat2 is the same on every architecture (Linux 5.6).
_OPENAT2: Final = 437
_RESOLVE_NO_MAGICLINKS, _RESOLVE_BENEATH = 0x02, 0x08
_HOW: Final = struct.Struct("=QQQ")  # struct open_how: flags, mode, resolve
_libc: Final = ctypes.CDLL(None, use_errno=True)

# A plate of 1,536 wells has 0.2 MB of metadata, an image that lists a million missing planes 30 MB. Parsed, JSON takes up
# to ten times its size.
MOST_DOCUMENT_BYTES: Final = 48 << 20
# Documents that were parsed last are kept as long as their files are the same; by the size of their text.
KEPT_DOCUMENT_BYTES: Final = 8 << 20
# Errors that mean: there is nothing under this name.
ABSENT: Final = (errno.ENOENT, errno.ENOTDIR)

Json = dict[str, Any]
Identity = tuple[int, int, int, int]


class ForeignError(ValueError):
    """What lies there is no OME-Zarr that can be shown; the message says where and why."""

    def __init__(self, reason: str, path: bytes | None = None) -> None:
        self.reason = reason
        self.path = path
        super().__init__(reason if path is None else f"{shown_path(path) or '.'}: {reason}")


@final
class ForeignFolder:
    """See the module. Paths are relative to the folder, raw bytes; b"" is the folder itself."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._beneath = True
        self._documents: Recent[tuple[Json, int]] = Recent(lambda found: found[1], KEPT_DOCUMENT_BYTES)

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._fd)

    def open(self, path: bytes, flags: int = 0) -> int:
        """A descriptor for reading; raises OSError, EXDEV or ELOOP for what leads out of the folder."""
        flags |= os.O_CLOEXEC | (0 if flags & os.O_PATH else os.O_NONBLOCK)  # openat2 refuses both together
        if b"\0" in path:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
        if self._beneath:
            how = _HOW.pack(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
            fd = int(_libc.syscall(_OPENAT2, self._fd, path or b".", how, len(how)))
            if fd >= 0:
                return fd
            number = ctypes.get_errno()
            if number != errno.ENOSYS:
                raise OSError(number, os.strerror(number), path)
            self._beneath = False
        return self._open_by_steps(path, flags)

    def _open_by_steps(self, path: bytes, flags: int) -> int:
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        if b".." in parts or path.startswith(b"/"):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
        fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        for number, part in enumerate(parts, 1):
            wanted = flags if number == len(parts) else os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            try:
                below = os.open(part, wanted | os.O_NOFOLLOW, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below
        return fd

    def stat(self, path: bytes) -> os.stat_result:
        """What `fstat` says of an object; raises OSError."""
        fd = self.open(path, os.O_PATH)
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def version(self, path: bytes) -> Identity | None:
        """What tells this version of a document from the next; None where there is none."""
        try:
            return identity(self.stat(path))
        except OSError:
            return None

    def names(self, path: bytes) -> list[bytes]:
        """The names in a directory, sorted; raises OSError."""
        fd = self.open(path, os.O_DIRECTORY)
        try:
            return sorted(os.fsencode(name) for name in os.listdir(fd))
        finally:
            os.close(fd)

    def document(self, path: bytes) -> tuple[Json, os.stat_result] | None:
        """A JSON object and its file's attributes; None where there is no such file.

        Raises
        ------
        ForeignError
            It cannot be read, is too large, or is no JSON object.
        """
        try:
            fd = self.open(path)
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise ForeignError(_why_closed(error), path) from error
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise ForeignError("is no file", path)
            if found.st_size > MOST_DOCUMENT_BYTES:
                raise ForeignError(
                    f"has {found.st_size} bytes of metadata; more than {MOST_DOCUMENT_BYTES} are not read", path
                )
            parsed, _ = self._documents.get((path, identity(found)), lambda: _parse(fd, path))
            return parsed, found
        except OSError as error:
            raise ForeignError(f"cannot be read: {error.strerror}", path) from error
        finally:
            os.close(fd)


def identity(found: os.stat_result) -> Identity:
    """What tells a version of a file from the next."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def read_all(fd: int, limit: int) -> bytes:
    """A file's bytes, one more than `limit` at most."""
    pieces, offset = [], 0
    while offset <= limit and (piece := os.pread(fd, min(limit + 1 - offset, 16 << 20), offset)):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)


def _parse(fd: int, path: bytes) -> tuple[Json, int]:
    data = read_all(fd, MOST_DOCUMENT_BYTES)
    try:
        parsed = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ForeignError(f"is not UTF-8: byte {error.start}", path) from error
    except RecursionError as error:
        raise ForeignError("is nested too deep", path) from error
    except ValueError as error:
        raise ForeignError(f"is no JSON: {error}", path) from error
    if not isinstance(parsed, dict):
        raise ForeignError("is no JSON object", path)
    return parsed, len(data)


def _why_closed(error: OSError) -> str:
    if error.errno in (errno.EXDEV, errno.ELOOP):
        return "leads out of the folder, and is not followed"
    return f"cannot be read: {error.strerror}"
