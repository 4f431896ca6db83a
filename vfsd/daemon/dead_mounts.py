"""Mount points whose daemon is gone ("Transport endpoint is not connected"), and daemons that do not answer.

`probe` asks the mount point itself, from a thread that may hang without holding anybody up. A dead mount is
detached lazily: programs that still have files open there keep them, everybody else sees the folder beneath.
"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from enum import StrEnum
from pathlib import Path

from vfsd.daemon.mountinfo import VFSD_TYPE, mount_at, read_mounts
from vfsd.errors import UnfitError

# A living daemon answers a statfs within milliseconds; a person waits for about this long.
PATIENCE_SECONDS = 3.0
# The kernel's answers when nobody is at the other end: died, or aborted through /sys/fs/fuse/connections.
DEAD_ERRNOS = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
# One path cannot have more dead mounts stacked on it than daemons that died there one after the other.
MOST_STACKED = 64


class Pulse(StrEnum):
    """What a mount point does when asked."""

    ANSWERS = "answers"
    SILENT = "silent"
    DEAD = "dead"


def probe(path: Path, patience: float = PATIENCE_SECONDS) -> Pulse:
    """Ask a mount point how full it is: its attributes the kernel may remember when the daemon is gone.

    An error other than "nobody there" is an answer.
    """
    answer: list[Pulse] = []

    def ask() -> None:
        try:
            os.statvfs(path)
        except OSError as error:
            answer.append(Pulse.DEAD if error.errno in DEAD_ERRNOS else Pulse.ANSWERS)
        else:
            answer.append(Pulse.ANSWERS)

    thread = threading.Thread(target=ask, name="vfsd-probe", daemon=True)
    thread.start()
    thread.join(patience)
    return answer[0] if answer else Pulse.SILENT


def detach(path: Path) -> None:
    """Unmount lazily, as the user (fusermount3) or as root (umount).

    Raises
    ------
    UnfitError
        If neither succeeds, with what they said.
    """
    said = ""
    # `umount -i` does not call umount.fuse.vfsd, which would ask the daemon that is not there.
    for command in (["fusermount3", "-u", "-z", "--"], ["umount", "-i", "-l", "--"]):
        try:
            done = subprocess.run([*command, path], check=False, capture_output=True, text=True, errors="replace")
        except OSError as error:
            said = f"{command[0]}: {error.strerror}"
            continue
        if done.returncode == 0:
            return
        said = done.stderr.strip() or said
    raise UnfitError(
        f"the dead mount there could not be cleared ({said})",
        path=path,
        remedy=f"Try: sudo umount -i -l {path}",
    )


def clear_dead_mounts(path: Path) -> bool:
    """Detach every dead vfsd mount at `path` (resolved); whether there was one. Living ones are left."""
    cleared = False
    for _ in range(MOST_STACKED):
        mount = mount_at(os.fsencode(path), read_mounts())
        if mount is None or mount.filesystem != VFSD_TYPE or probe(path) is not Pulse.DEAD:
            break
        detach(path)
        cleared = True
    return cleared
