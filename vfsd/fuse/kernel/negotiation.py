"""The first exchange with the kernel: what both can do.

A feature counts when the kernel offers its flag, never by a version. The writeback cache is never taken: it loses
acknowledged writes when the daemon is killed, and excludes passthrough.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import error as too_short

from vfsd.errors import UnfitError
from vfsd.fuse.kernel.protocol import (
    FUSE_KERNEL_MINOR_VERSION,
    FUSE_KERNEL_VERSION,
    FUSE_MIN_READ_BUFFER,
    OLDEST_MINOR_VERSION,
    Init,
    fuse_in_header,
    fuse_init_in,
    fuse_init_in_before_ext,
    fuse_init_out,
    fuse_write_in,
)
from vfsd.fuse.mount_point import READ_AHEAD_KB

# One request carries up to this, the kernel's own limit for pages in one (256 of 4 KiB; fs.fuse.max_pages_limit).
MOST_BYTES = 1 << 20
PAGE = 4096
# Requests that nobody waits for (read-ahead) which the kernel sends at once, and from how many on it waits with others.
MAX_BACKGROUND, CONGESTION_THRESHOLD = 64, 48
# Where a request's header and the largest write fit.
BUFFER_BYTES = max(FUSE_MIN_READ_BUFFER, MOST_BYTES + fuse_in_header.size + fuse_write_in.size)

WANTED = (
    Init.ASYNC_READ
    | Init.ATOMIC_O_TRUNC
    | Init.EXPORT_SUPPORT
    | Init.BIG_WRITES
    | Init.AUTO_INVAL_DATA
    | Init.DO_READDIRPLUS  # always: who lists a folder asks for attributes next, and "auto" tells only of the first names
    | Init.ASYNC_DIO
    | Init.PARALLEL_DIROPS
    | Init.ABORT_ERROR
    | Init.MAX_PAGES
    | Init.HANDLE_KILLPRIV_V2  # else the kernel asks for security.capability before every write
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """What came of INIT: the answer to it, and whether the kernel takes registrations of backing files."""

    answer: bytes
    passthrough: bool
    minor: int


def agree(body: memoryview, *, stack_depth: int) -> Agreement:
    """Answer INIT.

    Parameters
    ----------
    body : memoryview
        struct fuse_init_in.
    stack_depth : int
        Of how many file systems below each other backing files may be, this mount included (1 or 2); 0: no passthrough.

    Raises
    ------
    UnfitError
        The kernel's FUSE is too old.
    ValueError
        The request is truncated.
    """
    try:
        if len(body) >= fuse_init_in.size:
            major, minor, readahead, low, high = fuse_init_in.unpack_from(body)
        else:
            (major, minor, readahead, low), high = fuse_init_in_before_ext.unpack_from(body), 0
    except too_short as error:
        raise ValueError("a truncated INIT") from error
    if (major, minor) < (FUSE_KERNEL_VERSION, OLDEST_MINOR_VERSION):
        raise UnfitError(
            f"the kernel's FUSE speaks protocol {major}.{minor}; 7.31 (Linux 5.4) is the oldest that will do"
        )
    offered = Init(low | (high << 32 if low & Init.INIT_EXT else 0))
    flags = WANTED & offered
    if stack_depth and offered & Init.PASSTHROUGH:
        flags |= Init.PASSTHROUGH | Init.INIT_EXT
    passthrough = bool(flags & Init.PASSTHROUGH)
    answer = fuse_init_out.pack(
        FUSE_KERNEL_VERSION,
        FUSE_KERNEL_MINOR_VERSION,
        max(readahead, READ_AHEAD_KB << 10),
        flags & 0xFFFFFFFF,
        MAX_BACKGROUND,
        CONGESTION_THRESHOLD,
        MOST_BYTES,
        1,
        MOST_BYTES // PAGE,
        0,
        flags >> 32,
        stack_depth if passthrough else 0,
        0,
    )
    return Agreement(answer, passthrough, minor)
