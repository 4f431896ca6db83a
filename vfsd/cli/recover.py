"""`vfsd recover`: what a crash or a failed flush left, and flushing it without a mount."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfsd.cli.parameters import PATH

if TYPE_CHECKING:
    from vfsd.daemon.left_files import LeftFiles
    from vfsd.daemon.recovery import Leftover


# Names of files that a person reads in a terminal; --json has more.
FILES_SHOWN = 20


@click.command("recover", short_help="See and flush what a crash left.")
@click.argument("what", type=PATH, required=False, metavar="[STATE|STORE|SOURCE]")
@click.option("--list", "only_list", is_flag=True, help="Show what there is, file by file, and nothing else.")
@click.option("--rescue", type=PATH, metavar="DIRECTORY", help="Copy its files out, also where the journal is damaged.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def recover_command(what: Path | None, only_list: bool, rescue: Path | None, as_json: bool) -> int:
    """Say what dead daemons left and what to do; given one of them, flush it into its store."""
    from vfsd.daemon.left_files import list_files
    from vfsd.daemon.recovery import find_leftover, find_leftovers

    if rescue is not None:
        return _rescue(what, rescue, as_json)
    if what is not None and not only_list:
        return _flush(what, as_json)
    left = find_leftovers() if what is None else [find_leftover(what)]
    files = [list_files(one) if only_list else None for one in left]
    if as_json:
        named = [{} if found is None else {"named_files": found.to_json()} for found in files]
        click.echo(json.dumps({"left": [{**one.to_json(), **more} for one, more in zip(left, named, strict=True)]}))
    elif not left:
        click.echo("Nothing was left behind.")
    else:
        from vfsd.cli.status import left_in_a_line

        for one, found in zip(left, files, strict=True):
            click.echo(left_in_a_line(one))
            if found is None:
                click.echo(f"  {_advice(one)}")
            else:
                _show_files(found)
    return 0


def _show_files(found: LeftFiles) -> None:
    from vfsd.cli.wording import format_duration
    from vfsd.daemon.left_files import Fate
    from vfsd.daemon.sizes import format_count, format_size
    from vfsd.errors import shown_path

    if found.damage:
        click.echo(f"  its journal is damaged ({found.damage}); what can be read of it names these")
    by_worth = sorted(found.files, key=lambda file: file.fate is Fate.KEPT)  # what is lost comes first
    for file in by_worth[:FILES_SHOWN]:
        path = "(its name cannot be told)" if file.path is None else shown_path(file.path)
        age = format_duration(file.age_seconds)
        click.echo(f"  {file.fate:8}  {format_size(file.bytes):>9}  {age:>7}  {file.tier:5}  {path}")
    if len(by_worth) > FILES_SHOWN:
        click.echo(f"  and {format_count(len(by_worth) - FILES_SHOWN, 'more file')} (--json names them)")


def _rescue(what: Path | None, target: Path, as_json: bool) -> int:
    from vfsd.daemon.left_files import rescue_files
    from vfsd.daemon.recovery import find_leftover
    from vfsd.daemon.sizes import format_count, format_size
    from vfsd.errors import FlushIncomplete, UsageProblem, shown_path

    if what is None:
        raise UsageProblem("--rescue needs the state folder, store or source whose files are to be copied out")
    found = rescue_files(find_leftover(what), target)
    for line in found.failed:
        click.echo(f"vfsd: {line}", err=True)
    if as_json:
        facts = {"named": found.named, "unnamed": found.unnamed, "bytes": found.bytes, "failed": list(found.failed)}
        click.echo(json.dumps(facts))
    else:
        files = f"{format_count(found.named + found.unnamed, 'file')} ({format_size(found.bytes)})"
        nameless = f"; {found.unnamed} of them could not be named" if found.unnamed else ""
        click.echo(f"{files} copied to {shown_path(target)}{nameless}. What is there stays as it is.")
    return FlushIncomplete.exit_code if found.failed else 0


def _advice(left: Leftover) -> str:
    from vfsd.errors import shown_path

    record = left.record
    if record is None:
        return "Mount the plate with its store again: the mount finds its own state."
    store = shown_path(record.store)
    if not Path(record.store).is_dir():
        return f"Its store {store} is not there: bring it back, then: vfsd recover {store}"
    if record.source is not None and not Path(record.source).is_dir():
        return f"Its source {shown_path(record.source)} is not there: bring it back, then: vfsd recover {store}"
    again = shown_path(record.source or record.store)
    return f"Mount {again} again to go on working, or flush it now: vfsd recover {store}"


def _flush(what: Path, as_json: bool) -> int:
    from vfsd.cli.progress import ProgressDisplay
    from vfsd.cli.umount import print_outcome
    from vfsd.daemon.recovery import find_leftover, flush_leftover
    from vfsd.daemon.reporter import TerminalReporter

    left = find_leftover(what)
    try:
        with ProgressDisplay() as display:
            outcome = flush_leftover(left, TerminalReporter(), display.show_progress)
    except KeyboardInterrupt:
        click.echo("vfsd: interrupted; everything is still kept, and the same command goes on", err=True)
        raise
    print_outcome(outcome.to_json(), as_json)
    return outcome.exit_code
