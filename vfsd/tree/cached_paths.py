"""Objects of the source that the kernel has in mind already: looked at and opened on the event loop, never sleeping.

`openat2(2)` with RESOLVE_CACHED answers from the kernel's memory or refuses; a refusal, an error, and everything on a file
system that may ask a server at fstat or open, is None: the caller then does the same in a thread, which costs ten times as
much. Nothing here opens for writing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import final

# The number of openat2 is the same on every architecture (Linux 5.6; RESOLVE_CACHED since 5.12).
_OPENAT2 = 437
_RESOLVE_NO_XDEV, _RESOLVE_CACHED = 0x01, 0x20
# struct open_how: flags, mode, resolve.
_HOW = struct.Struct("=QQQ")
# statfs(2): what has a file's attributes in memory with its inode, and opens it there: ext2 to 4, XFS, Btrfs, tmpfs, F2FS.
_IN_MEMORY = (0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0xF2F52010)
# Enough for struct statfs of every architecture; f_type is its first word.
_STATFS_BYTES = 256

# Holds the GIL during a call: giving it up and taking it again costs more than these calls, which never sleep.
_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]


@final
class CachedPaths:
    """See the module. Paths are relative to the directory `fd`, and not empty."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._usable = _is_in_memory(fd)
        self._look = _how(os.O_PATH)
        self._read = _how(os.O_RDONLY | os.O_NONBLOCK | os.O_NOATIME)
        self._read_of_others = _how(os.O_RDONLY | os.O_NONBLOCK)

    def stat(self, path: bytes) -> os.stat_result | None:
        """`lstat` of an object, or None."""
        fd = self._open(path, self._look)
        if fd is None:
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def open(self, path: bytes) -> int | None:
        """A descriptor for reading what is no symbolic link, or None."""
        fd = self._open(path, self._read)
        if fd is None and ctypes.get_errno() == errno.EPERM:  # O_NOATIME is for owners only
            fd = self._open(path, self._read_of_others)
        return fd

    def _open(self, path: bytes, how: bytes) -> int | None:
        if not self._usable or b"\0" in path:
            return None
        fd = int(_syscall(_OPENAT2, self._fd, path, how, len(how)))
        if fd >= 0:
            return fd
        if ctypes.get_errno() in (errno.ENOSYS, errno.EINVAL, errno.E2BIG):
            self._usable = False  # an older kernel
        return None


def _how(flags: int) -> bytes:
    return _HOW.pack(flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0, _RESOLVE_NO_XDEV | _RESOLVE_CACHED)


def _is_in_memory(fd: int) -> bool:
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.fstatfs(ctypes.c_int(fd), found) != 0:
        return False
    return ctypes.c_ulong.from_buffer(found).value & 0xFFFFFFFF in _IN_MEMORY
