"""The one place where errors become errno values for the kernel, and the outermost guard around every handler."""

from __future__ import annotations

import errno
import logging
from typing import Protocol

from vfsd.errors import StoredDataDamaged, VfsdError, shown_path

log = logging.getLogger("vfsd.fuse")

# Requests that need a file's bytes: that those cannot be had is for the log, too.
_OF_BYTES = ("open", "create", "read", "write", "setattr", "fsync")


class Handlers(Protocol):
    """Whoever answers requests, and can tell for the log what one was about."""

    def path_for_log(self, operation: str, subject: int, name: bytes) -> bytes:
        """The path that a request was about."""


def errno_of(problem: Exception, operation: str, path: bytes) -> int:
    """The errno that answers a request that failed.

    What a program did wrong (no such file, not empty) is only answered. What went wrong here is logged with the operation
    and the path, and answered with EIO; the mount lives on.
    """
    if isinstance(problem, StoredDataDamaged):
        log.error("damaged operation=%s path=%s cause=%s", operation, shown_path(path), problem)
        return errno.EIO
    if isinstance(problem, OSError):
        number = problem.errno or errno.EIO
        if number in (errno.EIO, errno.ESTALE, errno.ENODATA) and operation in _OF_BYTES:
            log.error("failed operation=%s path=%s cause=%s", operation, shown_path(path), problem.strerror)
            return errno.EIO if number == errno.ENODATA else number
        return number
    if isinstance(problem, VfsdError):
        log.error("failed operation=%s path=%s cause=%s", operation, shown_path(path), problem)
        return errno.EIO
    log.critical("unexpected operation=%s path=%s", operation, shown_path(path), exc_info=problem)
    return errno.EIO


def log_and_answer(handlers: Handlers, operation: str, subject: int, problem: Exception, name: bytes = b"") -> int:
    """Log a failure where it must be logged, with its operation and path; returns the errno that answers it."""
    try:
        path = handlers.path_for_log(operation, subject, name)
    except Exception:  # the state that the handler tripped over may be what the path is made from
        path = b"?"
    return errno_of(problem, operation, path)
