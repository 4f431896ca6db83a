"""Work on many things in a few threads, from the trio thread."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

T = TypeVar("T")

# Workers that read, compress and verify: the machine's cores; each holds a file and a few planes, so more would cost
# memory, and fewer than two would leave the disk idle while one computes.
WORKERS = max(2, min(8, os.cpu_count() or 2))


async def each(
    things: Sequence[T], work: Callable[[T], None], done: Callable[[T], None] | None = None
) -> list[tuple[T, Exception]]:
    """Call `work` with each thing in threads, `WORKERS` at a time, in their order.

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

    async def worker() -> None:
        for thing in waiting:
            try:
                await trio.to_thread.run_sync(work, thing)
            except Exception as problem:
                problems.append((thing, problem))
            else:
                if done is not None:
                    done(thing)

    async with trio.open_nursery() as nursery:
        for _ in range(min(WORKERS, len(things))):
            nursery.start_soon(worker)
    return problems
