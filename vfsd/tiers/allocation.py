"""Room for bytes in advance, and holes: fallocate(2) on a tier's file, within the budgets.

As a write: room is reserved first, a file that RAM has no room for goes to the cache, and what takes long goes to a thread, which
holds the file.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Awaitable, Callable
from typing import final

import trio

from vfsd.tiers.moves import Moves
from vfsd.tiers.room import Room
from vfsd.tiers.tierfile import TierFile

# fallocate(2); what tmpfs can do, so that a file's tier makes no difference
KEEP_SIZE, PUNCH_HOLE = 0x01, 0x02
SUPPORTED = (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE)

_PAGE = 4096
# More than this takes a tmpfs milliseconds, since it clears every page.
_IN_THREAD = 4 << 20

_libc = ctypes.CDLL(None, use_errno=True)


@final
class Allocation:
    """See the module.

    Parameters
    ----------
    leave_ram : async callable
        Moves a file that RAM has no room for to the cache.
    """

    def __init__(self, room: Room, moves: Moves, leave_ram: Callable[[TierFile], Awaitable[None]]) -> None:
        self._room = room
        self._moves = moves
        self._leave_ram = leave_ram

    async def allocate(self, file: TierFile, mode: int, offset: int, length: int) -> None:
        """`fallocate` with one of the `SUPPORTED` modes; raises ENOSPC, or EOPNOTSUPP where the file system has none."""
        growth = 0
        if not mode & PUNCH_HOLE:
            growth = -(-(offset + length) // _PAGE) * _PAGE - offset // _PAGE * _PAGE
        while True:
            await self._moves.idle(file)
            tier = file.tier
            if tier == "cache":
                await self._moves.room_in_cache(growth)
                if file.busy is not None:
                    continue  # while room was made for it somebody else began with it
            elif not self._room.make("ram", growth):
                await self._leave_ram(file)
                continue
            self._room.take(tier, growth)
            try:
                with self._moves.pinned(file) as fd:
                    await self._carry_out(file, fd, mode, offset, length)
                return
            except OSError as error:
                if tier != "ram" or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
            finally:
                self._room.take(tier, -growth)
            await self._leave_ram(file)

    async def _carry_out(self, file: TierFile, fd: int, mode: int, offset: int, length: int) -> None:
        if file.tier == "ram" and length <= _IN_THREAD:
            try:
                _fallocate(fd, mode, offset, length)
            finally:
                self._moves.measure(file)
        else:
            with self._moves.held(file):
                await trio.to_thread.run_sync(_fallocate, fd, mode, offset, length)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if _libc.fallocate64(ctypes.c_int(fd), ctypes.c_int(mode), ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
