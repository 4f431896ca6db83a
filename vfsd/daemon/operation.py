"""One thing that takes a while (a flush, an unmount), which any number of clients may follow.

It belongs to the session, not to the request that started it: a client that goes away changes nothing, and
one that comes later follows the same operation. Progress may be published from any thread; `finish` only from
trio's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import trio

from vfsd.daemon.outcome import HEARTBEAT_SECONDS, Outcome

if TYPE_CHECKING:
    from vfsd.flush import FlushProgress

# How often a follower looks for news: a person sees a smooth bar, and 50,000 files cost no more than 50.
LOOK_SECONDS = 0.2


class Operation:
    """Its latest progress, and its outcome once there is one."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.outcome: Outcome | None = None
        self._progress: dict[str, Any] = {"stage": "planning"}
        self._state = ""
        self._done = trio.Event()

    def enter(self, state: str) -> None:
        """The session is now in `state` because of this operation."""
        self._state = state

    def publish(self, progress: FlushProgress) -> None:
        """Replace the progress that followers see; safe from any thread, since it is one assignment."""
        self._progress = {
            "stage": progress.stage,
            "files_done": progress.files_done,
            "files_total": progress.files_total,
            "bytes_done": progress.bytes_done,
            "bytes_total": progress.bytes_total,
        }

    def finish(self, outcome: Outcome) -> None:
        """End the operation; followers get the outcome. A second call is without effect."""
        if self.outcome is None:
            self.outcome = outcome
            self._done.set()

    def snapshot(self) -> dict[str, Any]:
        """Where it is now: kind, state, and the figures of `FlushProgress`."""
        return {"kind": self.kind, "state": self._state, **self._progress}

    async def wait(self) -> Outcome:
        """Wait for the end."""
        await self._done.wait()
        assert self.outcome is not None
        return self.outcome

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """Progress as it changes, at least once a second, and the result as the last item.

        Items have `event`: "progress" or "result".
        """
        last: dict[str, Any] | None = None
        last_time = -1.0
        while not self._done.is_set():
            now = self.snapshot()
            if now != last or trio.current_time() - last_time >= HEARTBEAT_SECONDS:
                last, last_time = now, trio.current_time()
                yield {"event": "progress", **now}
            with trio.move_on_after(LOOK_SECONDS):
                await self._done.wait()
        assert self.outcome is not None
        yield {"event": "result", **self.outcome.to_json()}
