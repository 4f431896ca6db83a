"""Ranges of files: room in advance, holes, and copies from one file to another.

Only a transport that has such requests calls this; what is not here a kernel or a C library does by reading and writing.
Touched only by the trio thread.
"""

from __future__ import annotations

import errno
import os
from typing import final

import trio

from vfsd.store import Kind
from vfsd.tiers import ALLOCATION_MODES, TierFiles
from vfsd.tree.contents import Contents, OpenFile
from vfsd.tree.stamps import note_change

# Bytes that are copied between two turns of the event loop, and at most for one request: a program that copies more asks again.
COPIED_AT_ONCE, COPIED_AT_MOST = 1 << 20, 64 << 20


def _fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@final
class Extents:
    """See the module."""

    def __init__(self, contents: Contents, tiers: TierFiles) -> None:
        self._contents = contents
        self._tiers = tiers

    async def allocate(self, handle: OpenFile, mode: int, offset: int, length: int) -> None:
        """`fallocate(2)`: room in advance, or a hole.

        Raises
        ------
        OSError
            EOPNOTSUPP for other modes, and where the cache's file system has none; ENOSPC when both tiers are full.
        """
        if not handle.writable:
            raise _fail(errno.EBADF)
        if mode not in ALLOCATION_MODES:
            raise _fail(errno.EOPNOTSUPP)
        file = await self._contents.dirty_file(handle.node)
        try:
            await self._tiers.allocate(file, mode, offset, length)
        finally:
            note_change(handle.node)

    async def seek(self, handle: OpenFile, offset: int, whence: int) -> int:
        """Where data (os.SEEK_DATA) or a hole (os.SEEK_HOLE) begins at or after `offset`; raises ENXIO.

        All of a file that somebody may write is data, which is always right: what lies in a mapping of it and was not
        handed over yet is no hole.
        """
        node = handle.node
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise _fail(errno.EINVAL)
        size = node.size()
        if offset >= size:
            raise _fail(errno.ENXIO)
        if node.data is not None and not node.writers:
            return self._tiers.seek(node.data, offset, whence)
        if node.data is None and node.record.kind is Kind.SOURCE:
            fd = self._tiers.descriptors.known_descriptor(node)
            if fd is not None:
                return os.lseek(fd, offset, whence)
        return offset if whence == os.SEEK_DATA else size

    async def copy(self, source: OpenFile, offset: int, target: OpenFile, target_offset: int, length: int) -> int:
        """Copy a range; returns how many bytes, fewer at the end of the source or after `COPIED_AT_MOST`.

        Raises
        ------
        OSError
            EOPNOTSUPP where somebody may write the source through a mapping that we know nothing of: the kernel copies.
        """
        if source.node.writers:
            raise _fail(errno.EOPNOTSUPP)
        length = min(length, COPIED_AT_MOST)
        done = 0
        while done < length:
            piece = await self._contents.read(source, offset + done, min(COPIED_AT_ONCE, length - done))
            if not piece:
                break
            done += await self._contents.write(target, target_offset + done, piece)
            await trio.lowlevel.checkpoint()
        return done
