"""The FUSE device: requests in, answers and notices out, backing files registered.

One descriptor, never blocking. `read` takes one whole request; an answer is one `writev` of the buffers it is made of, which
the kernel copies from where they lie. An answer that the kernel wants no more is dropped without a word.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import select
import sys
from collections.abc import Sequence
from typing import final

from vfsd.fuse.kernel.protocol import (
    FUSE_DEV_IOC_BACKING_CLOSE,
    FUSE_DEV_IOC_BACKING_OPEN,
    Notify,
    fuse_backing_map,
    fuse_notify_inval_inode_out,
    fuse_out_header,
)

log = logging.getLogger("vfsd.fuse")

DEVICE = "/dev/fuse"

# select(2) knows no descriptors above this; one that is higher is waited for by the event loop alone.
_SELECTABLE = 1024
# What the kernel says to a reader when the mount is gone: unmounted, or aborted (fs/fuse/dev.c).
_GONE = (errno.ENODEV, errno.ECONNABORTED)
# ... and when there is another try: nothing there, a signal, a request that was withdrawn as it was read.
_AGAIN = (errno.EINTR, errno.ENOENT)

Buffers = bytes | Sequence[bytes | memoryview]


class MountGone(Exception):
    """Nobody can ask any more: the mount was taken away."""


@final
class Device:
    """See the module; owns the descriptor."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._selectable = [fd] if fd < _SELECTABLE else []

    def close(self) -> None:
        """Let go of the mount; the kernel ends what is still asked with an error."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def read(self, buffer: memoryview) -> int:
        """Take one request into `buffer`; 0 when there is none now.

        Raises
        ------
        MountGone
            There will be none any more.
        """
        while True:
            try:
                return os.readv(self.fd, [buffer])
            except BlockingIOError:
                return 0
            except OSError as error:
                if error.errno in _GONE:
                    raise MountGone from None
                if error.errno not in _AGAIN:
                    raise

    def wait(self, seconds: float) -> bool:
        """Whether a request comes within so many seconds, which are to be very few: nothing else runs meanwhile."""
        return bool(self._selectable and select.select(self._selectable, (), (), seconds)[0])

    def answer(self, unique: int, parts: Buffers) -> None:
        """Answer a request; `parts` are what follows the header."""
        if isinstance(parts, bytes):
            self._send([fuse_out_header.pack(16 + len(parts), 0, unique), parts] if parts else [_done(unique)])
        else:
            size = 16 + sum(map(len, parts))
            self._send([fuse_out_header.pack(size, 0, unique), *parts])

    def fail(self, unique: int, number: int) -> None:
        """Answer a request with an errno."""
        self._send([fuse_out_header.pack(16, -number, unique)])

    def forget_attributes(self, nodeid: int) -> None:
        """The kernel is to ask for a node's attributes anew. Waits for nobody, and may be called between two requests."""
        notice = fuse_notify_inval_inode_out.pack(nodeid, -1, 0)
        self._send([fuse_out_header.pack(16 + len(notice), Notify.INVAL_INODE, 0), notice])

    def register(self, fd: int) -> int:
        """Register an open file as one that the kernel may read by itself; returns its number.

        Raises
        ------
        OSError
            EPERM without the right to; ELOOP for a file system that is stacked too deep; or too many.
        """
        request = bytearray(fuse_backing_map.pack(fd, 0, 0))  # only with what can be changed the answer is a number
        return int(fcntl.ioctl(self.fd, FUSE_DEV_IOC_BACKING_OPEN, request))

    def unregister(self, backing_id: int) -> None:
        """Take a registration back; opens that use it go on."""
        try:
            fcntl.ioctl(self.fd, FUSE_DEV_IOC_BACKING_CLOSE, backing_id.to_bytes(4, sys.byteorder))
        except OSError as error:
            log.warning("backing_not_released id=%d error=%s", backing_id, error.strerror)

    def _send(self, parts: Sequence[bytes | memoryview]) -> None:
        try:
            os.writev(self.fd, parts)
        except OSError as error:
            # ENOENT: withdrawn, or for a notice: the kernel does not know the node; the others: the mount is gone
            if error.errno not in (errno.ENOENT, errno.EINTR, *_GONE):
                log.error("answer_refused error=%s header=%s", error.strerror, bytes(parts[0]).hex())


def _done(unique: int) -> bytes:
    return fuse_out_header.pack(16, 0, unique)
