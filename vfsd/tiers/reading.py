"""Reading a range of a real file without ever blocking the event loop on a disk.

tmpfs answers at once (and refuses RWF_NOWAIT). Elsewhere the page cache is asked first with RWF_NOWAIT; a short count
there may only say that the rest is not cached, and FUSE would take it for the end of the file, so the rest is asked for
again, and read in a thread unless the file ends there.
"""

from __future__ import annotations

import errno
import os

import numpy as np
import trio


def read_memory(fd: int, offset: int, size: int, into: memoryview | None = None) -> bytes | memoryview:
    """Up to `size` bytes of a tmpfs file, in `into` where that has room for them; fewer only at its end."""
    if into is None or len(into) < size:
        return os.pread(fd, size, offset)
    return into[: os.preadv(fd, [into[:size]], offset)]


async def read_disk(fd: int, offset: int, size: int, into: memoryview | None = None) -> bytes | memoryview:
    """Up to `size` bytes of a file on a disk, in `into` where that has room for them; fewer only at its end.

    `fd` must stay open meanwhile (pin it).
    """
    if into is not None and len(into) >= size:
        view = into[:size]
    else:
        view = np.empty(size, np.uint8).data  # a bytearray would be filled with zeros first: a tenth of the whole read
    try:
        got = os.preadv(fd, [view], offset, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        got = 0
    if 0 < got < size and _is_end(fd, view[got:], offset + got):
        return view[:got]
    if got < size:
        got += await trio.to_thread.run_sync(_read_rest, fd, view[got:], offset + got)
    return view if got == size else view[:got]


def _is_end(fd: int, out: memoryview, offset: int) -> bool:
    """Whether the file ends here, as far as can be said at once: that a page is not cached is EAGAIN, not a count of 0."""
    try:
        return os.preadv(fd, [out], offset, os.RWF_NOWAIT) == 0
    except OSError:
        return False


def _read_rest(fd: int, out: memoryview, offset: int) -> int:
    done = 0
    while done < len(out):
        got = os.preadv(fd, [out[done:]], offset + done)
        if got == 0:
            break
        done += got
    return done
