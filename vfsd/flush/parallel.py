"""Work on many things in a few threads, from the trio thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

T = TypeVar("T")

# Workers that read, compress and verify: the machine's cores; each holds a file and a few planes, so more would cost
# memory, and fewer than two would leave the disk idle while one computes.
WORKERS = max(2, min(8, os.cpu_count() or 2))

# Seconds that a thread goes on with the next things before it reports: what there is to do with a small image takes a
# tenth of a millisecond, and going to a thread and back three times that. Little beside what a cancellation may take.
SLICE = 0.01


async def each(
    things: Sequence[T], work: Callable[[T], None], done: Callable[[T], None] | None = None
) -> list[tuple[T, Exception]]:
    """Call `work` with each thing in threads, `WORKERS` at a time, begun in their order.

    Parameters
    ----------
    done : callable, optional
        Called on the trio thread for each thing that succeeded.

    Returns
    -------
    list
        The things that failed, with their exceptions; the others are done.
    """
    problems: list[tuple[T, Exception]] = []
    waiting = iter(things)
    taking = threading.Lock()

    def some() -> list[tuple[T, Exception | None]]:
        """In a thread: work on the next things; nothing if there are none left."""
        until = time.monotonic() + SLICE
        worked: list[tuple[T, Exception | None]] = []
        while not worked or time.monotonic() < until:
            with taking:
                following = next(waiting, worked)
            if following is worked:  # the end: no thing is this list
                break
            thing: T = following  # type: ignore[assignment]  # the one value that is none was looked for above
            try:
                work(thing)
            except Exception as problem:
                worked.append((thing, problem))
            else:
                worked.append((thing, None))
        return worked

    async def worker() -> None:
        while worked := await trio.to_thread.run_sync(some):
            for thing, problem in worked:
                if problem is not None:
                    problems.append((thing, problem))
                elif done is not None:
                    done(thing)

    async with trio.open_nursery() as nursery:
        for _ in range(min(WORKERS, len(things))):
            nursery.start_soon(worker)
    return problems
