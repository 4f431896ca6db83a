"""Running an async function for a command in the foreground, to its end or to Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

Result = TypeVar("Result")


def run_until_done(function: Callable[[], Awaitable[Result]]) -> Result:
    """`trio.run`, with one error instead of a group of one, and Ctrl-C as a plain KeyboardInterrupt.

    Ctrl-C cancels the function, so that it stops where it waits and nowhere else: an exception that came wherever the main
    thread is could be swallowed there (in a destructor, say), and the command would go on. A second Ctrl-C is such an exception.
    A command that was started with SIGINT ignored, as shells start those in the background, goes on ignoring it.
    """
    import trio

    results: list[Result] = []

    async def watch(scope: trio.CancelScope, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            task_status.started()
            await anext(aiter(signals))
        scope.cancel()

    async def call() -> None:
        async with trio.open_nursery() as nursery:
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                await nursery.start(watch, nursery.cancel_scope)
            results.append(await function())
            nursery.cancel_scope.cancel()

    try:
        trio.run(call)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:
            raise KeyboardInterrupt from group
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from group
    if not results:
        raise KeyboardInterrupt
    return results[0]
