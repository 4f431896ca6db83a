"""`vfsd status [MOUNTPOINT]`: all mounts, a line each, or one in full."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsd.cli.parameters import PATH

if TYPE_CHECKING:
    from vfsd.daemon.recovery import Leftover

# States in which the daemon could not be asked, and what the user can do.
ADVICE = {
    "dead": "its daemon died; what was written is kept: vfsd umount it, then mount it again",
    "not answering": "its daemon does not answer; it may be waiting for a disk",
}


@click.command("status", short_help="Show the mounts of this machine.")
@click.argument("mountpoint", type=PATH, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status_command(mountpoint: Path | None, as_json: bool) -> int:
    """Show every vfsd mount of this machine, or one MOUNTPOINT in full."""
    from vfsd.daemon.overview import describe_everything, describe_mount

    if mountpoint is not None:
        facts = describe_mount(mountpoint)
        click.echo(json.dumps(facts) if as_json else "\n".join(_in_full(facts)))
        return 5 if facts["state"] == "not answering" else 0
    mounts, left = describe_everything()
    if as_json:
        click.echo(json.dumps({"mounts": mounts, "left": [one.to_json() for one in left]}))
        return 0
    for facts in mounts:
        click.echo(_in_a_line(facts))
    for one in left:
        click.echo(left_in_a_line(one))
    if not mounts and not left:
        click.echo("No vfsd mounts.")
    return 0


def _in_a_line(facts: Mapping[str, Any]) -> str:
    from vfsd.errors import shown_path

    parts = [shown_path(facts["mountpoint"]), str(facts["state"])]
    what = facts["source"] if facts["source"] is not None else facts["store"]
    if what is not None:
        parts.append(shown_path(what))
    if facts["dirty"] is not None:
        parts.append(_dirty(facts))
    if facts.get("operation"):
        parts.append(_operation(facts["operation"]))
    if facts["pid"] is not None:
        parts.append(f"pid {facts['pid']}")
    if facts["state"] in ADVICE:
        parts.append(ADVICE[facts["state"]])
    return "  ".join(parts)


def left_in_a_line(left: Leftover) -> str:
    """One state folder that a daemon left."""
    from vfsd.cli.wording import format_duration
    from vfsd.daemon.sizes import format_count, format_size
    from vfsd.errors import shown_path

    record = left.record
    what = shown_path(left.state_directory) if record is None else shown_path(record.source or record.store)
    where = "" if record is None else f"  store {shown_path(record.store)}"
    lost = "  its RAM files are gone" if left.ram_lost else ""
    kept = f"{format_count(left.files, 'file')}, {format_size(left.bytes)}"
    age = format_duration(left.age_seconds)
    return f"{what}  kept  {kept}  for {age}{where}{lost}  {shown_path(left.why)}  (vfsd recover)"


def _dirty(facts: Mapping[str, Any]) -> str:
    from vfsd.daemon.sizes import format_count, format_size

    dirty = facts["dirty"]
    if not dirty["files"]:
        return "all flushed"
    return f"{format_count(dirty['files'], 'file')}, {format_size(dirty['bytes'])} to flush"


def _operation(operation: Mapping[str, Any]) -> str:
    total = operation.get("bytes_total") or 0
    percent = f" {100 * operation.get('bytes_done', 0) // total} %" if total else ""
    return f"{operation['kind']}: {operation.get('stage', '')}{percent}"


def _transport(facts: Mapping[str, Any]) -> str | None:
    """Which one serves the mount, and why that one, where the daemon says so."""
    why = facts.get("transport_choice")
    return f"{facts['transport']} ({why})" if why else facts["transport"]


def _in_full(facts: Mapping[str, Any]) -> Iterator[str]:
    from vfsd.errors import shown_path

    rows: list[tuple[str, str | None]] = [
        ("mount point", shown_path(facts["mountpoint"])),
        ("state", str(facts["state"]) + (f" ({ADVICE[facts['state']]})" if facts["state"] in ADVICE else "")),
        ("source", None if facts["source"] is None else shown_path(facts["source"])),
        ("store", None if facts["store"] is None else shown_path(facts["store"])),
        ("overlay", None if facts["dirty"] is None else _dirty(facts)),
        ("now", None if not facts.get("operation") else _operation(facts["operation"])),
        ("process", None if facts["pid"] is None else str(facts["pid"])),
        ("since", facts.get("started")),
        ("transport", _transport(facts)),
        ("passthrough", facts.get("passthrough")),
        ("open files", None if facts.get("open_handles") is None else str(facts["open_handles"])),
        ("state folder", None if not facts.get("state_directory") else shown_path(facts["state_directory"])),
    ]
    for name, value in rows:
        if value is not None:
            yield f"{name:<13} {value}"
    if facts.get("pressure"):
        yield from _pressure(facts)
    ahead = facts.get("prefetch") or {}
    if ahead.get("made_files"):
        yield f"{'prefetch':<13} {ahead['hits']:,} files were ready when they were opened, {ahead['waste']:,} were not wanted"
    if facts["tiers"]:
        yield from tier_table(facts["tiers"])


# What sets the RAM tier's limit, in a reader's words.
CAUSES = {
    "budget": "its budget",
    "memory": "little memory is left on this machine",
    "cgroup": "the control group's limit is near",
    "stalls": "programs stall for memory",
    "tmpfs": "its tmpfs is nearly full",
}


def _pressure(facts: Mapping[str, Any]) -> Iterator[str]:
    """What presses and what is done about it; trouble only where there is any."""
    from vfsd.daemon.sizes import format_count, format_size

    pressure, streaming = facts["pressure"], facts.get("streaming") or {}
    cause = CAUSES.get(pressure["cause"], pressure["cause"])
    lines = [("RAM", f"{pressure['state']}; may hold {format_size(pressure['ram_limit'])} ({cause})")]
    if pressure["spilled_files"]:
        count = format_count(pressure["spilled_files"], "file")
        lines.append(("spilled", f"{count}, {format_size(pressure['spilled_bytes'])}"))
    if pressure["problem"]:
        lines.append(("trouble", f"spilling to the cache fails: {pressure['problem']}"))
    if pressure["cache_overdrawn"]:
        lines.append(("cache", "holds more than it was given, as what is being written cannot be stored yet"))
    if streaming:
        stored = f", {format_count(streaming['files'], 'file')} so far" if streaming["files"] else ""
        lines.append(("streaming", f"beyond {format_size(streaming['stream_above'])} of new data{stored}"))
    if streaming.get("problem"):
        lines.append(("trouble", f"storing during the mount fails: {streaming['problem']}"))
    if facts.get("ingesting"):
        ingesting = facts["ingesting"]
        lines.append(("ingesting", f"{format_count(ingesting['files'], 'file')} done, {ingesting['left']:,} left"))
    for name, value in lines:
        yield f"{name:<13} {value}"


def tier_table(tiers: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The tiers as a small table."""
    from vfsd.daemon.sizes import format_size

    yield f"{'tier':<13} {'files':>10} {'size':>12} {'of':>12}"
    for name, usage in tiers.items():
        budget = "" if usage["budget"] is None else format_size(usage["budget"])
        yield f"{name:<13} {usage['files']:>10,} {format_size(usage['bytes']):>12} {budget:>12}"
