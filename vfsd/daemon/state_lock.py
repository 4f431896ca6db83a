"""The lock in the state folder: held by a daemon for its whole life, so that others see whether it lives.

flock, not fcntl: it belongs to the open file, survives a fork, and ends with the process however it ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

# Others look whether we live by taking the lock shared for an instant (`registry.lock_is_held`): try again
# for a while.
PATIENCE_SECONDS = 1.0
PAUSE_SECONDS = 0.02


def take_state_lock(path: Path, patience: float = PATIENCE_SECONDS) -> int | None:
    """Lock the file at `path`, made if missing; the descriptor that holds the lock, None if another has it.

    The file may have been removed by a daemon that ended just now, together with its folder's other files:
    then the lock of the removed file is worth nothing, and the file is made anew.
    """
    deadline = time.monotonic() + patience
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        if time.monotonic() >= deadline:
            return None
        time.sleep(PAUSE_SECONDS)
