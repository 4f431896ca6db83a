"""`vfsd recover`: what a crash or a failed flush left, and flushing it without a mount."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfsd.cli.parameters import PATH

if TYPE_CHECKING:
    from vfsd.daemon.recovery import Leftover


@click.command("recover", short_help="See and flush what a crash left.")
@click.argument("what", type=PATH, required=False, metavar="[STATE|STORE|SOURCE]")
@click.option("--list", "only_list", is_flag=True, help="Show what there is, and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def recover_command(what: Path | None, only_list: bool, as_json: bool) -> int:
    """Say what dead daemons left and what to do; given one of them, flush it into its store."""
    from vfsd.daemon.recovery import find_leftovers

    if what is not None and not only_list:
        return _flush(what, as_json)
    left = find_leftovers()
    if as_json:
        click.echo(json.dumps({"left": [one.to_json() for one in left]}))
    elif not left:
        click.echo("Nothing was left behind.")
    else:
        from vfsd.cli.status import left_in_a_line

        for one in left:
            click.echo(left_in_a_line(one))
            if not only_list:
                click.echo(f"  {_advice(one)}")
    return 0


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
