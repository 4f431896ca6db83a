"""The one place where errors become errno values for the kernel, and the outermost guard around every handler."""

from __future__ import annotations

import errno
import logging

from vfsd.errors import StoredDataDamaged, VfsdError, shown_path

log = logging.getLogger("vfsd.fuse")

# Requests that need a file's bytes: that those cannot be had is for the log, too.
_OF_BYTES = ("open", "create", "read", "write", "setattr", "fsync")


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
