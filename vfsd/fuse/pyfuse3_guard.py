"""The outermost guard around every handler of pyfuse3: whatever goes wrong in one becomes an errno for its caller alone.

pyfuse3 ends its main loop at any exception but FUSEError, and with it the mount. So nothing else leaves a handler, not even
when the path for the log line cannot be told.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import pyfuse3

from vfsd.fuse.errno_of import Handlers, log_and_answer

P = ParamSpec("P")
R = TypeVar("R")


H = TypeVar("H", bound=Handlers)
Handler = Callable[Concatenate[H, int, P], Coroutine[Any, Any, R]]


def answers(operation: str) -> Callable[[Handler[H, P, R]], Handler[H, P, R]]:
    """Turn every exception of a handler into an errno; its first argument names the inode or handle concerned."""

    def wrap(handler: Handler[H, P, R]) -> Handler[H, P, R]:
        @functools.wraps(handler)
        async def guarded(self: H, subject: int, *args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return await handler(self, subject, *args, **kwargs)
            except pyfuse3.FUSEError:
                raise
            except Exception as problem:
                name = next((arg for arg in args if isinstance(arg, bytes)), b"")
                number = log_and_answer(self, operation, subject, problem, name)
                raise pyfuse3.FUSEError(number) from problem

        return cast("Handler[H, P, R]", guarded)

    return wrap
