"""`--ingest` during the mount: the source's own files go into the store while nobody needs the machine.

Whole fields, those that programs look at first; in rounds, each a flush of its own. While programs use the mount the rounds are
small, with long pauses between them. What is missed here (files that are still changing, files that could not be read) is
the last flush's, which looks at everything and says what stands against replacing the source.

Touched only by the trio thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, final

import trio

from vfsd.daemon.log_file import fields
from vfsd.daemon.reporter import describe_error
from vfsd.errors import VfsdError

if TYPE_CHECKING:
    from vfsd.flush import FlushResult
    from vfsd.flush.streaming import Group
    from vfsd.plates import PlateFormats
    from vfsd.tree import Tree

log = logging.getLogger("vfsd.daemon")

# What a round takes in while the mount rests, and while it is used.
ROUND, BUSY_ROUND = 512 << 20, 64 << 20
# The mount rests when it was not asked for bytes this long, seconds.
REST = 2.0
# While it is used, pauses are this many times as long as the rounds: a fifth of the machine's time at most.
PAUSE = 4.0
# Seconds until the source is looked through again for files that came or came to rest.
LOOK_AGAIN = 60.0

StoreOfSource = Callable[[Sequence[bytes]], Awaitable["FlushResult"]]


@final
class Ingesting:
    """See the module.

    Parameters
    ----------
    store : callable
        `await store(paths)`: takes these files of the source into the store.
    last_used : callable
        When a program last asked the mount for bytes (monotonic time).
    """

    def __init__(
        self, tree: Tree, store: StoreOfSource, last_used: Callable[[], float], *, formats: PlateFormats | None = None
    ) -> None:
        self._tree = tree
        self._store = store
        self._last_used = last_used
        self._formats = formats
        self.files = 0
        self.bytes = 0
        self.left = 0
        self.problem: str | None = None

    def status(self) -> dict[str, Any]:
        """For `vfsd status`."""
        return {"files": self.files, "bytes": self.bytes, "left": self.left, "problem": self.problem}

    async def run(self) -> None:
        """Take the source in, until cancelled."""
        from vfsd.flush.streaming import choose_of_source

        while True:
            groups = await choose_of_source(self._tree, formats=self._formats)
            self.left = sum(len(one.members) for one in groups)
            waiting = iter(groups)
            while batch := self._batch(waiting):
                if not await self._round(batch):
                    break
            await trio.sleep(LOOK_AGAIN)

    def _rests(self) -> bool:
        return time.monotonic() - self._last_used() >= REST

    def _batch(self, groups: Iterator[Group]) -> list[Group]:
        most, taken = ROUND if self._rests() else BUSY_ROUND, 0
        batch: list[Group] = []
        for one in groups:
            batch.append(one)
            taken += one.bytes
            if taken >= most:
                break
        return batch

    async def _round(self, batch: list[Group]) -> bool:
        began = trio.current_time()
        paths = [file.path for one in batch for file in one.members]
        try:
            result = await self._store(paths)
        except (OSError, VfsdError) as error:
            self.problem = (error.strerror if isinstance(error, OSError) else None) or str(error)
            log.error("event=ingesting-failed %s", fields(error=describe_error(error)[1]))
            return False
        self.problem = None
        self.files += result.files
        self.bytes += result.bytes
        self.left = max(0, self.left - len(paths))
        if not self._rests():
            await trio.sleep(PAUSE * (trio.current_time() - began))
        return True
