"""Starts and ends a peer's file system: a module of this package that serves until it is unmounted."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 120


@contextlib.contextmanager
def served(module: str, mountpoint: Path, *arguments: Path) -> Iterator[int]:
    """A mount of `module` for the block; gives the server's process id."""
    mountpoint.mkdir(exist_ok=True)
    # in a session of its own, as a daemon is: the scheduler shares the processors among sessions
    server = subprocess.Popen([sys.executable, "-m", module, *arguments], start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not os.path.ismount(mountpoint):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the ceiling's file system did not start")
            time.sleep(0.02)  # nothing tells when a mount is there
        yield server.pid
    finally:
        subprocess.run(["fusermount3", "-u", mountpoint], check=False)
        server.wait(START_SECONDS)
