"""libmount's own table of mounts (/run/mount/utab): without a line in it, umount(8) never looks for our helper.

For a mount point that is not in the table umount(8) asks statfs(2) for the type, which says "fuse" for every FUSE
file system, and so finds no `umount.fuse.vfsd`. A line with any option makes it read the full type. (Seen with
util-linux 2.38.) Only root may write the table; without it a plain `umount` still loses nothing, but returns before
the flush. The library does the locking and the writing.
"""

from __future__ import annotations

import ctypes
import logging
import os
from contextlib import suppress
from pathlib import Path

from vfsd.daemon.log_file import fields

log = logging.getLogger("vfsd.daemon")

LIBRARY = "libmount.so.1"
# Options that begin with x- mean nothing to mount(8) and are kept.
OPTION = b"x-vfsd.umount-waits"


def enter(source: str, mountpoint: Path) -> None:
    """Put a mount of this machine into the table; does nothing where that is not possible."""
    library = _library()
    if library is None:
        return
    entry, update = library.mnt_new_fs(), library.mnt_new_update()
    try:
        done = [
            library.mnt_fs_set_source(entry, os.fsencode(source)),
            library.mnt_fs_set_target(entry, os.fsencode(mountpoint)),
            library.mnt_fs_set_root(entry, b"/"),
            library.mnt_fs_set_options(entry, OPTION),
            library.mnt_update_set_fs(update, 0, None, entry),
        ]
        _write(library, update, min(done), mountpoint)
    finally:
        library.mnt_free_update(update)
        library.mnt_unref_fs(entry)


def leave(mountpoint: Path) -> None:
    """Take it out again, if it is there."""
    library = _library()
    if library is None:
        return
    update = library.mnt_new_update()
    try:
        _write(library, update, library.mnt_update_set_fs(update, 0, os.fsencode(mountpoint), None), mountpoint)
    finally:
        library.mnt_free_update(update)


def _write(library: ctypes.CDLL, update: int, so_far: int, mountpoint: Path) -> None:
    code = so_far if so_far < 0 else library.mnt_update_table(update, None)
    if code < 0:
        log.warning("event=mount-table-not-written %s", fields(mountpoint=mountpoint, error=os.strerror(-code)))


def _library() -> ctypes.CDLL | None:
    if os.geteuid() != 0:
        return None
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(LIBRARY)
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        for name, result, arguments in (
            ("mnt_new_fs", pointer, []),
            ("mnt_new_update", pointer, []),
            ("mnt_unref_fs", None, [pointer]),
            ("mnt_free_update", None, [pointer]),
            ("mnt_fs_set_source", ctypes.c_int, [pointer, text]),
            ("mnt_fs_set_target", ctypes.c_int, [pointer, text]),
            ("mnt_fs_set_root", ctypes.c_int, [pointer, text]),
            ("mnt_fs_set_options", ctypes.c_int, [pointer, text]),
            ("mnt_update_set_fs", ctypes.c_int, [pointer, ctypes.c_ulong, text, pointer]),
            ("mnt_update_table", ctypes.c_int, [pointer, pointer]),
        ):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        return library
    return None
