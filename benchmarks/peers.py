"""Other file systems in user space, mounted over the same folder, as far as this machine has them.

They are no dependencies: bindfs, mergerfs, fuse-overlayfs and rclone are packages of Debian, ratarmount is on PyPI.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

START_SECONDS = 20


def _commands(name: str, source: Path, mountpoint: Path, work: Path) -> list[str | Path]:
    if name == "fuse-overlayfs":
        for folder in ("upper", "work"):
            (work / folder).mkdir(exist_ok=True)
        return [name, "-o", f"lowerdir={source},upperdir={work / 'upper'},workdir={work / 'work'}", mountpoint]
    if name == "rclone":
        # with a cache of its own, without which it can write no file but from front to back
        return [name, "mount", source, mountpoint, "--daemon", "--vfs-cache-mode", "writes", "--cache-dir", work]
    return [name, source, mountpoint]


PEERS = ("bindfs", "mergerfs", "fuse-overlayfs", "rclone", "ratarmount")


@contextlib.contextmanager
def peers_mounted(source: Path, folder: Path) -> Iterator[dict[str, Path]]:
    """The mount points of those that are installed and start; each is written below its own copy-on-write folder or `source`."""
    there: dict[str, Path] = {}
    with contextlib.ExitStack() as stack:
        for name in PEERS:
            if shutil.which(name) is None:
                continue
            mountpoint, work = folder / f"mnt-{name}", folder / f"work-{name}"
            mountpoint.mkdir(exist_ok=True)
            work.mkdir(exist_ok=True)
            command = _commands(name, source, mountpoint, work)
            started = subprocess.run(command, capture_output=True, check=False, timeout=60)
            stack.callback(subprocess.run, ["fusermount3", "-uz", mountpoint], capture_output=True, check=False)
            deadline = time.monotonic() + START_SECONDS
            while not os.path.ismount(mountpoint) and time.monotonic() < deadline and started.returncode == 0:
                time.sleep(0.05)  # nothing tells when a mount is there
            if os.path.ismount(mountpoint):
                there[name] = mountpoint
        yield there
