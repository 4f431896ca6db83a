"""System calls that Python's `os` does not offer: renameat2, fallocate, and directory streams with positions."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import TracebackType

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2

_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.opendir.restype = ctypes.c_void_p
_libc.readdir.argtypes = [ctypes.c_void_p]
_libc.telldir.argtypes = [ctypes.c_void_p]
_libc.telldir.restype = ctypes.c_long
_libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
_libc.rewinddir.argtypes = [ctypes.c_void_p]
_libc.closedir.argtypes = [ctypes.c_void_p]


class _DirectoryEntry(ctypes.Structure):
    _fields_ = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_uint16),
        ("d_type", ctypes.c_uint8),
        ("d_name", ctypes.c_char * 256),
    )


_libc.readdir.restype = ctypes.POINTER(_DirectoryEntry)


def _check(result: int, path: str | os.PathLike[str] | None = None) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def rename2(old: Path, new: Path, flags: int) -> None:
    """renameat2(2)."""
    _check(_libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags), new)


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2): the system call alone, without the C library's replacement for file systems that lack it."""
    _check(_libc.fallocate(descriptor, mode, offset, length))


class DirectoryStream:
    """opendir(3) and its relatives; positions are those of telldir(3)."""

    def __init__(self, path: Path) -> None:
        self._stream = _libc.opendir(os.fsencode(path))
        if not self._stream:
            _check(-1, path)

    def __enter__(self) -> DirectoryStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _libc.closedir(self._stream)

    def next(self) -> str | None:
        """The next name, or None at the end."""
        ctypes.set_errno(0)
        found = _libc.readdir(self._stream)
        if not found:
            _check(ctypes.get_errno() and -1)
            return None
        return os.fsdecode(found.contents.d_name)

    def rest(self) -> list[str]:
        """All names from here to the end, without "." and ".."."""
        names = []
        while (name := self.next()) is not None:
            if name not in (".", ".."):
                names.append(name)
        return names

    def tell(self) -> int:
        return int(_libc.telldir(self._stream))

    def seek(self, position: int) -> None:
        _libc.seekdir(self._stream, position)

    def rewind(self) -> None:
        _libc.rewinddir(self._stream)
