"""`vfsd flush` from outside: which files are meant, and what the daemon says to it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vfsd.daemon.client import DaemonClient
from vfsd.daemon.registry import MountRecord, find_mount
from vfsd.daemon.unmounting import OnProgress
from vfsd.errors import FlushIncomplete, UnfitError, UsageProblem


def flush_mount(path: Path, files: Sequence[Path], on_progress: OnProgress) -> dict[str, Any]:
    """Flush `files`, or everything, of the mount at `path`; returns the outcome.

    Raises
    ------
    UnfitError
        If there is no vfsd mount there, or its daemon is dead.
    BusyError
        If the daemon does not answer.
    """
    known = find_mount(path)
    if known.record is None or not known.alive:
        raise UnfitError(
            "its daemon is dead",
            path=path,
            remedy="Unmount and mount it again: what was written is still there",
        )
    record: MountRecord = known.record
    wanted = [plate_relative(file, known.mountpoint) for file in files] or None
    for item in DaemonClient(Path(record.socket), record.uid).flush(wanted):
        if item.get("event") == "result":
            return {key: value for key, value in item.items() if key != "event"}
        on_progress(item)
    raise FlushIncomplete("the daemon ended without a result", path=path)


def plate_relative(file: Path, mountpoint: Path) -> bytes:
    """The path of `file` below the mount point: absolute, as seen from here, or relative to the plate.

    Raises
    ------
    UsageProblem
        If it lies outside.
    """
    # Not resolved: a symbolic link is itself a file of the plate.
    for base in (Path.cwd(), mountpoint):
        absolute = Path(os.path.normpath(base / file))
        if absolute.is_relative_to(mountpoint) and absolute != mountpoint:
            return os.fsencode(absolute.relative_to(mountpoint))
    raise UsageProblem(f"does not lie in the mount {mountpoint}", path=file)
