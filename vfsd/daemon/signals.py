"""Signals that end a mount: the first brings RAM to disk and then ends it in order, a second one at once.

A shutdown sends SIGTERM and kills what takes too long. So what is only in RAM is copied to disk and synced before anything else,
which takes seconds; the flush that follows may take what it takes. Touched only by the trio thread.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Awaitable, Callable
from typing import final

import trio

from vfsd.daemon.log_file import fields
from vfsd.daemon.reporter import describe_error

log = logging.getLogger("vfsd.daemon")

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@final
class Signals:
    """See the module.

    Parameters
    ----------
    secure : async callable
        Copies RAM to disk, and says how many files stayed there.
    end : callable
        Begins to end the mount in order.
    leave : callable
        Ends the process; gets the signal's name.

    Attributes
    ----------
    came : bool
        A signal came: the mount ends whatever stands against it.
    """

    def __init__(
        self, secure: Callable[[], Awaitable[int]], end: Callable[[], object], leave: Callable[[str], object]
    ) -> None:
        self._secure = secure
        self._end = end
        self._leave = leave
        self._secured = trio.Event()
        self.came = False

    async def obey(self) -> None:
        """Wait for signals until cancelled."""
        with trio.open_signal_receiver(*ENDING) as signals:
            async with trio.open_nursery() as nursery:
                async for number in signals:
                    name = signal.Signals(number).name
                    log.info("event=signal %s", fields(signal=name))
                    if self.came:
                        self._leave(name)
                    else:
                        self.came = True
                        nursery.start_soon(self._bring_to_disk)
                        self._end()

    async def secured(self) -> None:
        """Return when RAM is on disk, if a signal came; at once if none did."""
        if self.came:
            await self._secured.wait()

    async def _bring_to_disk(self) -> None:
        try:
            began = trio.current_time()
            left = await self._secure()
            log.info("event=secured %s", fields(seconds=round(trio.current_time() - began, 3), left_in_ram=left))
        except Exception as error:
            # The flush that follows is the better copy anyway.
            log.error("event=not-secured %s", fields(error=describe_error(error)[1]))
        finally:
            self._secured.set()
