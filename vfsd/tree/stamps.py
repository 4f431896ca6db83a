"""Times that move in memory before any row is written: access times, and change times of bytes that were just written.

Access times are as Linux keeps them by default (relatime): a read moves one only if it is not newer than the last change, or
a day old. The journal and the next catalogue get it with the next change of the same file, so that reading alone never writes
anything, and a file that was only read shows its recorded access time again after the next mount. The source's own access
times are never touched.
"""

from __future__ import annotations

import time

from vfsd.tree.node import Node

# Linux moves an access time at least once a day (fs/inode.c, relatime_need_update).
DAY_NS = 24 * 3600 * 10**9


def note_access(node: Node) -> bool:
    """Somebody read a file, a link or a directory; returns whether its access time moved."""
    now, atime = time.time_ns(), node.record.atime
    if atime > node.mtime() and atime > node.ctime() and now - atime < DAY_NS:
        return False
    node.record = node.record.changed(atime=now)
    return True


def note_change(node: Node) -> None:
    """Its bytes just changed: show that even if the tier's file system, whose clock lags by a tick, says it was before."""
    if node.mtime() <= node.record.ctime:
        node.record = node.record.changed(ctime=time.time_ns())
