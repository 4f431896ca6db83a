"""What daemons left behind: state folders that hold files and that no process serves.

Listing them changes nothing. Flushing one opens its store, tiers and tree as a mount would, without a mount;
what cannot be flushed stays where it is. A folder is removed only after everything in it is in the store.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfsd.daemon.checks import is_inside
from vfsd.daemon.log_file import fields
from vfsd.daemon.losses import tell_losses
from vfsd.daemon.options import MountOptions
from vfsd.daemon.outcome import FlushSummary, Outcome
from vfsd.daemon.places import Roots, own_roots, places_for
from vfsd.daemon.registry import MountRecord, lock_is_held, read_record, write_file_durably
from vfsd.daemon.reporter import Reporter, describe_error
from vfsd.daemon.running import run_until_done
from vfsd.daemon.stack import Layout, Stack, folder_usage, open_stack
from vfsd.daemon.verdict import after_failure, after_flush
from vfsd.errors import UnfitError

if TYPE_CHECKING:
    from vfsd.flush import FlushProgress

log = logging.getLogger("vfsd.daemon")

# result.json names at most a thousand files; what is larger was not written by us.
LARGEST_RESULT = 16 << 20
KILLED = "its daemon died, or the machine was restarted"
# How a flush without a mount ends, in `Outcome.state`.
RECOVERED = "recovered"
KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Leftover:
    """One state folder without a daemon. `record` is None where it cannot be read: its store is unknown."""

    state_directory: Path
    record: MountRecord | None
    why: str
    age_seconds: float
    files: int
    bytes: int
    ram_lost: bool
    """Its RAM folder is gone: the machine was restarted, or somebody removed it."""
    ram_directory: Path
    cache_directory: Path

    def to_json(self) -> dict[str, Any]:
        record = self.record
        return {
            "state_directory": os.fspath(self.state_directory),
            "source": None if record is None else record.source,
            "store": None if record is None else record.store,
            "mountpoint": None if record is None else record.mountpoint,
            "why": self.why,
            "age_seconds": round(self.age_seconds),
            "files": self.files,
            "bytes": self.bytes,
            "ram_lost": self.ram_lost,
        }


def find_leftovers(roots: Roots | None = None) -> list[Leftover]:
    """All that this user's daemons left, the oldest first."""
    roots = own_roots() if roots is None else roots
    try:
        folders = [entry for entry in os.scandir(roots.state) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    found = [left for folder in folders if (left := _examine(Path(folder.path), roots)) is not None]
    return sorted(found, key=lambda left: -left.age_seconds)


def find_leftover(path: Path, roots: Roots | None = None) -> Leftover:
    """The one that `path` names: its state folder, its store or its source.

    Raises
    ------
    UnfitError
        If there is none.
    """
    for left in find_leftovers(roots):
        names = [left.state_directory]
        if left.record is not None:
            names += [Path(name) for name in (left.record.store, left.record.source) if name is not None]
        if any(is_inside(path, name) and is_inside(name, path) for name in names):
            return left
    raise UnfitError("nothing was left of a mount there", path=path, remedy="'vfsd recover --list' shows what there is")


def read_result(path: Path) -> dict[str, Any] | None:
    """The result.json of a daemon that kept something; None where there is none."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(LARGEST_RESULT))
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def flush_leftover(left: Leftover, reporter: Reporter, on_progress: Callable[[FlushProgress], None]) -> Outcome:
    """Flush what a dead daemon left into its store, without a mount.

    Raises
    ------
    UnfitError, BusyError
        If the store or the source is not there or in use.
    """
    record = left.record
    if record is None:
        raise UnfitError(
            "does not say which store it belongs to",
            path=left.state_directory,
            remedy="Mount the plate with its store again: the mount finds its own state",
        )
    source = None if record.source is None else Path(record.source)
    if source is not None and not source.is_dir():
        raise UnfitError(
            "the source is not there",
            path=source,
            remedy="Its files may be needed for the flush: bring it back",
        )
    options = MountOptions(
        source=Path(record.store) if source is None else source,
        mountpoint=Path(record.mountpoint),
        ingest=record.ingest,
        levels=record.levels,
        verify=record.verify,
        ram=record.ram_budget,
        cache_size=record.cache_budget,
        transport="none",
        plate_format=record.plate_format,
        pattern=record.pattern,
        labels=record.labels,
    )
    stack = open_stack(Layout(source, Path(record.store), None), options, reporter)
    return run_until_done(lambda: _flush_and_close(stack, record, reporter, on_progress))


async def _flush_and_close(
    stack: Stack, record: MountRecord, reporter: Reporter, on_progress: Callable[[FlushProgress], None]
) -> Outcome:
    from vfsd.flush import Verify, flush_tree
    from vfsd.plates import choose_formats

    clean = False
    try:
        await stack.tree.start()
        tell_losses(stack.tree.losses, reporter)
        formats = choose_formats(record.plate_format, record.pattern, labels=record.labels)
        result = await flush_tree(
            stack.tree,
            ingest=record.ingest,
            on_progress=on_progress,
            formats=formats,
            levels=record.levels,
            verify=Verify(record.verify),
        )
        summary = FlushSummary.of(result)
        clean = summary.complete and stack.tree.dirty().files == 0
        outcome = after_flush(record, summary, RECOVERED if clean else KEPT)
    except Exception as error:
        log.exception("event=recovery-failed %s", fields(error=describe_error(error)[1]))
        outcome = after_failure(record, error, stack.tree.dirty(), None, KEPT)
    if not clean:
        write_file_durably(stack.places.result, json.dumps(outcome.to_json(), indent=1))
    stack.close(clean=clean)
    return outcome


def _examine(folder: Path, roots: Roots) -> Leftover | None:
    places = places_for(folder.name, roots)
    ours = {places.lock.name, places.log.name, places.log.name + ".1", places.socket.name}
    try:
        names = set(os.listdir(folder)) - ours
    except OSError:
        return None
    if not names or lock_is_held(places.lock) is not False or not _is_a_mounts(folder.name):
        return None
    record = read_record(places.record, (roots.uid, 0))
    ram = places.ram if record is None else Path(record.ram_directory)
    cache = places.cache if record is None else Path(record.cache_directory)
    in_ram, in_cache = folder_usage(ram), folder_usage(cache)
    result = read_result(places.result)
    why = str(result["message"]) if result is not None and "message" in result else KILLED
    changed = max((folder / name).lstat().st_mtime for name in (*names, ".") if os.path.lexists(folder / name))
    return Leftover(
        folder,
        record,
        why,
        max(0.0, time.time() - changed),
        in_ram[0] + in_cache[0],
        in_ram[1] + in_cache[1],
        not ram.is_dir(),
        ram,
        cache,
    )


def _is_a_mounts(name: str) -> bool:
    """State folders are called by their store's id; the empty store of a read-only mount is not one."""
    return not name.startswith("read-only-")
