"""`vfsd warm`: asked for by a command, done by the daemon, followed like a flush."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfsd.daemon.client import DaemonClient
from vfsd.daemon.flushing import plate_relative
from vfsd.daemon.operation import Operation
from vfsd.daemon.outcome import Outcome
from vfsd.daemon.registry import find_mount
from vfsd.daemon.reporter import describe_error
from vfsd.daemon.unmounting import OnProgress
from vfsd.errors import UnfitError, UsageProblem

if TYPE_CHECKING:
    from vfsd.tree import Tree
    from vfsd.tree.warming import Warmed


async def run_warm(tree: Tree, operation: Operation, paths: Sequence[bytes]) -> None:
    """The daemon's side: ends `operation` in any case."""
    from vfsd.flush import FlushProgress
    from vfsd.tree.warming import warm

    def tell(warmed: Warmed) -> None:
        done = warmed.ready_files + warmed.left_files
        operation.publish(FlushProgress("warming", done, warmed.files, warmed.ready_bytes, warmed.bytes))

    try:
        warmed = await warm(tree, paths, tell)
    except Exception as error:
        code, text = describe_error(error)
        operation.finish(Outcome(code, "mounted", text))
        return
    operation.finish(Outcome(0, "mounted", "warm", details={"warm": asdict(warmed)}))


def warm_files(files: Sequence[Path], on_progress: OnProgress) -> dict[str, Any]:
    """The command's side: the outcome. All files must lie in one mount, or be its mount point.

    Raises
    ------
    UsageProblem
        If they do not.
    UnfitError
        If there is no vfsd mount there, or its daemon is dead.
    BusyError
        If the daemon does not answer.
    """
    known = find_mount(_mount_above(files[0]))
    if known.record is None or not known.alive:
        raise UnfitError("its daemon is dead", path=known.mountpoint, remedy="Unmount and mount it again")
    wanted = [b"" if file == known.mountpoint else plate_relative(file, known.mountpoint) for file in files]
    for item in DaemonClient(Path(known.record.socket), known.record.uid).warm(wanted):
        if item.get("event") == "result":
            return {key: value for key, value in item.items() if key != "event"}
        on_progress(item)
    raise UnfitError("the daemon ended without a result", path=known.mountpoint)


def _mount_above(path: Path) -> Path:
    """The nearest mount of ours above a path, by the list of mounts: the path itself is not looked at."""
    for folder in (path, *path.parents):
        try:
            find_mount(folder)
        except UnfitError:
            continue
        return folder
    raise UsageProblem("does not lie in a mount of vfsd", path=path)
