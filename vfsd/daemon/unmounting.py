"""`vfsd umount` from outside: ask the daemon, follow it to its end, and report truly whatever happens to it.

The result is a dictionary as `Outcome.to_json` makes it. A daemon that died is found out, its dead mount
cleared, and what it kept is named; one that ended in the meantime has left either nothing (all is well) or
its result.json.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vfsd.daemon.client import DaemonClient, DaemonGone, DaemonSilent
from vfsd.daemon.dead_mounts import Pulse, clear_dead_mounts, detach, probe
from vfsd.daemon.mountinfo import mount_at, read_mounts, resolve_mountpoint
from vfsd.daemon.recovery import find_leftovers, read_result
from vfsd.daemon.registry import KnownMount, MountRecord, find_mount, process_start
from vfsd.daemon.verdict import names_of, way_on
from vfsd.errors import FlushIncomplete, UnfitError, shown_path

# A daemon that has sent its result closes its socket and ends; the next mount may want to start right after
# us.
END_SECONDS = 10.0
PAUSE_SECONDS = 0.02

OnProgress = Callable[[dict[str, Any]], None]
OnNotice = Callable[[str], None]


def unmount(path: Path, timeout: float | None, on_progress: OnProgress, on_notice: OnNotice) -> dict[str, Any]:
    """Unmount the vfsd mount at `path`, everything flushed; returns the outcome.

    Raises
    ------
    UnfitError
        If there is no vfsd mount there, nor anything left of one, or it belongs to another user.
    """
    try:
        known = find_mount(path)
    except UnfitError:
        left = _left_at(resolve_mountpoint(path, read_mounts()))
        if left is None:
            raise
        return left
    if known.alive and known.record is not None:
        return _ask(known, known.record, timeout, on_progress, on_notice)
    return _bury(known)


def _ask(
    known: KnownMount,
    record: MountRecord,
    timeout: float | None,
    on_progress: OnProgress,
    on_notice: OnNotice,
) -> dict[str, Any]:
    client = DaemonClient(Path(record.socket), record.uid)
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            for item in client.unmount(timeout):
                if item.get("event") == "result":
                    if item.get("state") != "mounted":
                        _wait_for_the_end(record)
                    return {key: value for key, value in item.items() if key != "event"}
                if item.get("state") == "finishing" and deadline is not None and time.monotonic() > deadline:
                    return _still_finishing(record)
                on_progress(item)
        except DaemonSilent:
            if deadline is not None and time.monotonic() > deadline:
                raise
            on_notice(f"the daemon (process {record.pid}) does not answer; still waiting")
        except DaemonGone:
            return _after_the_end(known, record)


def _still_finishing(record: MountRecord) -> dict[str, Any]:
    where = shown_path(record.mountpoint)
    text = f"{where} is unmounted; process {record.pid} still flushes what came last ('vfsd status' shows it)"
    return {
        "exit_code": FlushIncomplete.exit_code,
        "state": "finishing",
        "message": text,
        "flush": None,
        "holders": [],
        **names_of(record),
    }


def _after_the_end(known: KnownMount, record: MountRecord) -> dict[str, Any]:
    """The connection broke: the daemon ended just before we asked, or died."""
    _wait_for_the_end(record)
    if process_start(record.pid) == record.process_started:
        raise UnfitError(
            f"the daemon (process {record.pid}) runs, but its control socket is gone",
            path=known.mountpoint,
            remedy=f"It flushes by itself after: fusermount3 -u {shown_path(known.mountpoint)}",
        )
    cleared = clear_dead_mounts(known.mountpoint)
    left = _left_at(known.mountpoint)
    if left is not None:
        return left
    text = "the dead mount was cleared; its daemon had kept nothing" if cleared else "everything is in the store"
    return {
        "exit_code": 0,
        "state": "unmounted",
        "message": text,
        "flush": None,
        "holders": [],
        **names_of(record),
    }


def _bury(known: KnownMount) -> dict[str, Any]:
    """A mount without a living daemon that we know of."""
    pulse = probe(known.mountpoint)
    if pulse is not Pulse.DEAD and known.record is None:
        user = None if known.mount is None else known.mount.user_id
        raise UnfitError(
            f"is a mount of user {user} whose daemon cannot be found",
            path=known.mountpoint,
            remedy=f"Unmount it as that user; or with: fusermount3 -u {shown_path(known.mountpoint)}",
        )
    if mount_at(os.fsencode(known.mountpoint), read_mounts()) is not None:
        if pulse is Pulse.DEAD:
            clear_dead_mounts(known.mountpoint)
        else:
            detach(known.mountpoint)
    left = _left_at(known.mountpoint)
    if left is not None:
        return left
    names = {} if known.record is None else names_of(known.record)
    text = "the daemon had died; its dead mount was cleared, and nothing was left to flush"
    return {"exit_code": 0, "state": "unmounted", "message": text, "flush": None, "holders": [], **names}


def _left_at(mountpoint: Path) -> dict[str, Any] | None:
    """What a daemon that served this mount point kept, as an outcome; None if nothing."""
    for left in find_leftovers():
        record = left.record
        if record is None or Path(record.mountpoint) != mountpoint:
            continue
        kept = f"everything written is kept in {shown_path(left.state_directory)}"
        result = read_result(left.state_directory / "result.json")
        if result is not None and isinstance(result.get("exit_code"), int):
            return result
        return {
            "exit_code": FlushIncomplete.exit_code,
            "state": "failed",
            "message": f"{left.why}; {kept}. {way_on(record, 'failed')}",
            "flush": None,
            "holders": [],
            **names_of(record),
        }
    return None


def _wait_for_the_end(record: MountRecord) -> None:
    for _ in _pauses(END_SECONDS):
        if process_start(record.pid) != record.process_started:
            return


def _pauses(seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(PAUSE_SECONDS)
