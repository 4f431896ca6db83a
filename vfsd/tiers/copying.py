"""Copying bytes between tier files in a thread: sequential, in large pieces, holes kept, times kept.

Never touches a node; gets descriptors and numbers only.
"""

from __future__ import annotations

import errno
import os

# Large enough that a disk writes sequentially, small enough that a copy in each of trio's threads costs little memory.
PIECE = 4 << 20


def copy_bytes(source: int, target: int, size: int) -> int:
    """Copy the first `size` bytes of `source` to `target`; holes stay holes.

    Returns
    -------
    int
        Bytes of the file that exist now: less than `size` when the source is shorter than it was.

    Raises
    ------
    OSError
        From either file; the target is then incomplete.
    """
    available = min(size, os.fstat(source).st_size)
    os.ftruncate(target, available)
    position = 0
    while position < available:
        start, end = _next_data(source, position, available)
        if start >= available:
            break
        _copy_run(source, target, start, end)
        position = end
    return available


def copy_unchanged(source: int, target: int, size: int, seen: tuple[int, int]) -> None:
    """Copy the first `size` bytes of a file that others may write, and whose size and mtime (ns) were `seen` before.

    Raises
    ------
    OSError
        ESTALE when it is not as it was seen, or no longer once it is copied: what was copied may be neither the old
        nor the new bytes. Others from either file.
    """
    copied = copy_bytes(source, target, size)
    found = os.fstat(source)
    if copied < size or (found.st_size, found.st_mtime_ns) != seen:
        raise OSError(errno.ESTALE, "changed while it was copied")


def copy_times(source: int, target: int) -> None:
    """Give `target` the access and modification times of `source`."""
    found = os.fstat(source)
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _next_data(fd: int, position: int, size: int) -> tuple[int, int]:
    """The next run of data at or after `position`; (size, size) when only a hole is left."""
    try:
        start = os.lseek(fd, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size, size
        return position, size  # the file system knows no holes
    try:
        return start, min(size, os.lseek(fd, start, os.SEEK_HOLE))
    except OSError:
        return start, size


def _copy_run(source: int, target: int, start: int, end: int) -> None:
    buffer = bytearray(min(PIECE, end - start))
    view = memoryview(buffer)
    position = start
    while position < end:
        got = os.preadv(source, [view[: min(len(buffer), end - position)]], position)
        if got == 0:
            return
        done = 0
        while done < got:
            done += os.pwrite(target, view[done:got], position + done)
        position += got
