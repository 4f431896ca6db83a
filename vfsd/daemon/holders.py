"""Which processes keep a mount busy: open files, working or root directories, mapped files.

Only links and tables in /proc are read, never a path on the mount: the daemon that asks may be the one that
would have to answer. Processes of other users stay unseen unless we are root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vfsd.daemon.outcome import Holder

# More than fit into a message, and few enough to find quickly.
MOST_HOLDERS = 20


def find_holders(mountpoint: bytes, limit: int = MOST_HOLDERS) -> list[Holder]:
    """Processes that use something at or below `mountpoint` (absolute, resolved), one path each."""
    found: list[Holder] = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        process = Path("/proc", name)
        path = next((path for path in _paths_of(process) if _is_below(path, mountpoint)), None)
        if path is not None:
            found.append(Holder(int(name), _command_of(process), os.fsdecode(path)))
            if len(found) >= limit:
                break
    return found


def _is_below(path: bytes, mountpoint: bytes) -> bool:
    return path == mountpoint or path.startswith(mountpoint.rstrip(b"/") + b"/")


def _paths_of(process: Path) -> Iterator[bytes]:
    """Every path that the process holds; whatever we may not read, or that ends meanwhile, is passed over."""
    for link in ("cwd", "root"):
        yield from _target(process / link)
    try:
        descriptors = os.listdir(process / "fd")
    except OSError:
        descriptors = []
    for descriptor in descriptors:
        yield from _target(process / "fd" / descriptor)
    try:
        with (process / "maps").open("rb") as table:
            for line in table:
                # address perms offset dev inode path; the path is escaped only for newlines (proc(5)).
                fields = line.rstrip(b"\n").split(None, 5)
                if len(fields) == 6 and fields[5].startswith(b"/"):
                    yield fields[5].replace(b"\\012", b"\n")
    except OSError:
        return


def _target(link: Path) -> Iterator[bytes]:
    try:
        yield os.fsencode(link.readlink())
    except OSError:
        return


def _command_of(process: Path) -> str:
    try:
        return os.fsdecode((process / "comm").read_bytes().rstrip(b"\n"))
    except OSError:
        return "?"
