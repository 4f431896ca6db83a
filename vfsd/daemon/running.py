"""Running an async function for a command in the foreground, to its end or to Ctrl-C."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

Result = TypeVar("Result")


def run_until_done(function: Callable[[], Awaitable[Result]]) -> Result:
    """`trio.run`, with one error instead of a group of one, and Ctrl-C as a plain KeyboardInterrupt.

    trio delivers Ctrl-C into whatever task runs, so it may come out inside a group of errors.
    """
    import trio

    async def call() -> Result:
        return await function()

    try:
        return trio.run(call)
    except BaseExceptionGroup as group:
        if group.subgroup(KeyboardInterrupt) is not None:
            raise KeyboardInterrupt from group
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from group
