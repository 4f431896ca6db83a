"""Writing a new file front to back in large aligned pieces, past the page cache where the file system lets us.

What a flush writes is read back from the disk once and then not for a long time: in the page cache it would only push out what is
needed, and writing it there and from there costs a processor three to ten times as much as handing it to the disk at once. Where
direct writing is refused (tmpfs, some network file systems), and for the end of the file, writes are ordinary ones.

A durability point is still the caller's: direct writing is no sync.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Iterable
from typing import Final, final

import numpy as np

# Large enough for full speed with a writer or two (1.0 to 1.5 GB/s where buffered writes reached 0.3 to 1.3), small enough to
# have several.
PIECE: Final = 4 << 20
# What every disk and file system that writes directly accepts as alignment of memory, offset and length.
ALIGNMENT: Final = 4096


@final
class DirectFile:
    """See the module. Belongs to one thread at a time.

    Parameters
    ----------
    fd : int
        An empty file, open for writing. It stays the caller's; its file offset is neither used nor moved.
    piece : int
        Bytes of a write, a multiple of `ALIGNMENT`.
    """

    __slots__ = ("_at", "_direct", "_fd", "_filled", "_memory")

    def __init__(self, fd: int, piece: int = PIECE) -> None:
        self._fd = fd
        self._memory = np.frombuffer(mmap.mmap(-1, piece), np.uint8)
        self._filled = 0
        self._at = 0
        self._direct = _write_directly(fd, True)

    def write(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Append; the bytes are copied, with the GIL released.

        Raises
        ------
        OSError
            From a write.
        """
        for piece in pieces:
            data = np.frombuffer(piece, np.uint8)
            while len(data):
                room = min(len(data), len(self._memory) - self._filled)
                self._memory[self._filled : self._filled + room] = data[:room]
                self._filled += room
                data = data[room:]
                if self._filled == len(self._memory):
                    self._put()

    def finish(self) -> None:
        """Write what is left; the file is complete, and written to as any other from now on."""
        whole = self._filled // ALIGNMENT * ALIGNMENT
        rest = self._memory[whole : self._filled].copy()
        self._filled = whole
        self._put()
        self._stop()
        self._memory[: len(rest)] = rest
        self._filled = len(rest)
        self._put()

    def _put(self) -> None:
        left = self._memory[: self._filled].data
        while len(left):
            try:
                count = os.pwrite(self._fd, left, self._at)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._stop()  # an alignment that this file system does not accept
                continue
            if count == 0:
                raise OSError(errno.EIO, "the file takes no more bytes")
            self._at += count
            left = left[count:]
            if len(left) and count % ALIGNMENT:
                self._stop()
        self._filled = 0

    def _stop(self) -> None:
        if self._direct:
            _write_directly(self._fd, False)
            self._direct = False


def _write_directly(fd: int, wanted: bool) -> bool:
    """Switch direct writing on or off; whether it is on."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT)
        return wanted
    return False
