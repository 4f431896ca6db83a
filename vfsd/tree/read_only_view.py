"""A second view of a directory through which the kernel lets nobody write: a read-only mount that is mounted nowhere.

Only root can make one (`open_tree(2)`, `mount_setattr(2)`; Linux 5.12). It has what lies below the directory at that moment,
other file systems mounted there included; no access time moves through it. It ends with its descriptor.
"""

from __future__ import annotations

import ctypes
import os
import struct

# The numbers are the same on every architecture (Linux 5.2 and 5.12).
_OPEN_TREE, _MOUNT_SETATTR = 428, 442
_OPEN_TREE_CLONE, _AT_EMPTY_PATH, _AT_RECURSIVE = 1, 0x1000, 0x8000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOATIME, _MOUNT_ATTR__ATIME = 0x01, 0x10, 0x70
# struct mount_attr: attr_set, attr_clr, propagation, userns_fd. The kind of access times is one value of several bits.
_ATTRIBUTES = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOATIME, _MOUNT_ATTR__ATIME, 0, 0)

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


def read_only_view(directory: int) -> int | None:
    """A descriptor of the directory `directory` in such a mount, or None where that cannot be had."""
    flags = _OPEN_TREE_CLONE | _AT_EMPTY_PATH | _AT_RECURSIVE | os.O_CLOEXEC
    fd = int(_syscall(_OPEN_TREE, ctypes.c_int(directory), b"", ctypes.c_uint(flags)))
    if fd < 0:
        return None
    where = ctypes.c_uint(_AT_EMPTY_PATH | _AT_RECURSIVE)
    size = ctypes.c_size_t(len(_ATTRIBUTES))
    if _syscall(_MOUNT_SETATTR, ctypes.c_int(fd), b"", where, _ATTRIBUTES, size) != 0:
        os.close(fd)
        return None
    return fd
