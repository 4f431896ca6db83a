"""The outermost guard around every handler: whatever goes wrong in one becomes an errno for its caller alone.

pyfuse3 ends its main loop at any exception but FUSEError, and with it the mount. So nothing else leaves a handler, not even
when the path for the log line cannot be told.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import pyfuse3

from vfsd.fuse.errno_of import errno_of

P = ParamSpec("P")
R = TypeVar("R")


class Handlers(Protocol):
    """What the guard asks of the object whose handlers it guards."""

    def path_for_log(self, operation: str, subject: int, name: bytes) -> bytes:
        """The path that a request was about."""


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


def log_and_answer(handlers: Handlers, operation: str, subject: int, problem: Exception, name: bytes = b"") -> int:
    """Log a failure where it must be logged, with its operation and path; returns the errno that answers it."""
    try:
        path = handlers.path_for_log(operation, subject, name)
    except Exception:  # the state that the handler tripped over may be what the path is made from
        path = b"?"
    return errno_of(problem, operation, path)
