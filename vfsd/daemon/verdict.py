"""The sentences and exit codes that end a flush or an unmount, for the daemon, `umount` and `recover`.

Each says what is where and how to go on; nothing here decides anything about files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vfsd.daemon.outcome import FlushSummary, Outcome
from vfsd.daemon.reporter import describe_error
from vfsd.daemon.sizes import format_count, format_size
from vfsd.errors import BusyError, FlushIncomplete, VerificationFailed, shown_path

if TYPE_CHECKING:
    from vfsd.daemon.outcome import Holder
    from vfsd.daemon.registry import MountRecord
    from vfsd.tree import DirtyTotals

MOUNTED = "mounted"


def names_of(record: MountRecord) -> dict[str, Any]:
    """What an outcome is about, for its JSON form."""
    return {
        "source": record.source,
        "store": record.store,
        "mountpoint": record.mountpoint,
        "pid": record.pid,
        "state_directory": record.state_directory,
        "read_only": record.read_only,
    }


def after_flush(record: MountRecord, summary: FlushSummary, state: str) -> Outcome:
    """What a flush that came to its end means: 0, or 3 if anything was kept."""
    names = names_of(record)
    if summary.complete:
        return Outcome(0, state, f"in the store: {format_count(summary.files, 'file')}", summary, (), names)
    text = f"not in the store: {format_count(len(summary.kept), 'file')}, kept in {kept_where(record)}"
    if summary.kept:
        path, reason = summary.kept[0]
        text += f"; the first: {shown_path(path)}: {reason}"
    return Outcome(FlushIncomplete.exit_code, state, f"{text}. {way_on(record, state)}", summary, (), names)


def after_failure(
    record: MountRecord, error: BaseException, dirty: DirtyTotals, summary: FlushSummary | None, state: str
) -> Outcome:
    """An error instead of a result: nothing is lost, and here is where it is."""
    kept = f"{format_count(dirty.files, 'file')} ({format_size(dirty.bytes)})"
    text = f"{describe_error(error)[1]}; not in the store: {kept}, kept in {kept_where(record)}"
    known = isinstance(error, VerificationFailed)
    code = VerificationFailed.exit_code if known else FlushIncomplete.exit_code
    return Outcome(code, state, f"{text}. {way_on(record, state)}", summary, (), names_of(record))


def after_timeout(record: MountRecord, seconds: float) -> Outcome:
    """The flush before an unmount took too long."""
    text = f"the flush was not done within {seconds:g} s; still mounted, nothing is lost"
    return Outcome(FlushIncomplete.exit_code, MOUNTED, text, details=names_of(record))


def busy(record: MountRecord, error: BusyError, summary: FlushSummary | None, holders: tuple[Holder, ...]) -> Outcome:
    """The kernel does not let go of the mount."""
    text = f"{shown_path(record.mountpoint)} is in use"
    if holders:
        text += " by " + ", ".join(
            f"{shown_path(one.name)} (process {one.pid}, {shown_path(one.path)})" for one in holders
        )
    else:
        text += f": {error.message}"
    text += "; still mounted, everything before this is flushed"
    return Outcome(BusyError.exit_code, MOUNTED, text, summary, holders, names_of(record))


def kept_where(record: MountRecord) -> str:
    """The folders that hold what is not in the store."""
    return f"{shown_path(record.ram_directory)} and {shown_path(record.state_directory)}"


def way_on(record: MountRecord, state: str) -> str:
    """What the user can do about it."""
    if state == MOUNTED:
        return f"{shown_path(record.mountpoint)} is still mounted; remove the cause and try again"
    return f"Mount the same source and store again, or run: vfsd recover {shown_path(record.store)}"
