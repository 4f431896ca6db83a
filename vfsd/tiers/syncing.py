"""Making tier files durable: their bytes, and their names in the cache's folder.

A sync of a file is its own; a sync of the folder, which only a name that is new there needs, is shared by all who wait for one
at the same moment. A sync that failed is never followed by one that claims success: the kernel reports a failure once, and
may then forget the bytes.

Touched only by the trio thread; syncs run in threads.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Sequence
from typing import final

import trio

from vfsd.tiers.folders import TierFolders
from vfsd.tiers.moves import Moves
from vfsd.tiers.tierfile import TierFile

log = logging.getLogger("vfsd.tiers")

# From this many files on, one syncfs of the whole file system is cheaper than a sync of each (1-20 ms on a disk).
SYNC_EACH_UP_TO = 64
_libc = ctypes.CDLL(None, use_errno=True)


@final
class SharedSync:
    """Some sync that many may want at once: each is covered by one that began after it asked.

    Example
    -------
    >>> names = SharedSync(lambda: os.fsync(folder))       # doctest: +SKIP
    >>> await names.run()                                  # doctest: +SKIP
    """

    __slots__ = ("_asked", "_covered", "_failure", "_lock", "_work")

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._lock = trio.Lock()
        self._asked = 0
        self._covered = 0
        self._failure: OSError | None = None

    async def run(self) -> None:
        """Return when a sync that began after this call has succeeded; raises OSError when one failed, now or earlier."""
        self._asked += 1
        mine = self._asked
        async with self._lock:
            if self._covered >= mine:
                return
            if self._failure is not None:
                raise OSError(self._failure.errno, "could not be synced earlier")
            covered = self._asked
            try:
                await trio.to_thread.run_sync(self._work)
            except OSError as error:
                self._failure = error
                raise
            self._covered = covered


@final
class Syncing:
    """See the module."""

    def __init__(self, folders: TierFolders, moves: Moves) -> None:
        self._folders = folders
        self._moves = moves
        self._names = SharedSync(lambda: os.fsync(folders.descriptor("cache")))

    async def sync(self, file: TierFile, *, data_only: bool) -> None:
        """The bytes survive power loss when this returns: a RAM file moves to the cache first, for good.

        Nothing is to be done for a file that became clean meanwhile: the store has synced its bytes.
        """
        await self._moves.to_cache(file)
        if file.clean or file.discarded:
            return
        if file.sync_failure is not None:
            raise OSError(file.sync_failure, "could not be synced earlier", file.name)
        named = file.named
        try:
            with self._moves.pinned(file) as fd:
                await trio.to_thread.run_sync(os.fdatasync if data_only and named else os.fsync, fd)
        except OSError as error:
            file.sync_failure = error.errno
            raise
        if not named:
            name = file.name
            await self._names.run()
            file.named = file.name == name

    async def sync_all(self, files: Sequence[TierFile]) -> list[TierFile]:
        """The same for many files, all in the cache; returns those that survive. One that fails keeps no other back."""
        if len(files) > SYNC_EACH_UP_TO:
            try:
                await trio.to_thread.run_sync(self._sync_file_system)
            except OSError as error:
                log.error("file_system_not_synced error=%s (each file is synced by itself)", error.strerror)
            else:
                return [file for file in files if file.sync_failure is None]
        synced = []
        for file in files:
            try:
                await self.sync(file, data_only=False)
            except OSError as error:
                log.error("not_synced file=%s error=%s", file.name, error.strerror)
            else:
                synced.append(file)
        return synced

    def _sync_file_system(self) -> None:
        if _libc.syncfs(self._folders.descriptor("cache")) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
