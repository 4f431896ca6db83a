"""`vfsd umount MOUNTPOINT`: returns when everything is in the store, with what the receipt says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from vfsd.cli.parameters import PATH


@click.command("umount", short_help="Flush everything and unmount.")
@click.argument("mountpoint", type=PATH)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Give up and stay mounted if the flush takes longer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def umount_command(mountpoint: Path, timeout: float | None, as_json: bool) -> int:
    """Flush everything, unmount, and flush what came meanwhile.

    If that fails the mount stays usable and nothing is lost. Interrupting this command does not stop the
    daemon.
    """
    from vfsd.cli.progress import ProgressDisplay
    from vfsd.daemon.unmounting import unmount

    try:
        with ProgressDisplay() as display:
            outcome = unmount(mountpoint, timeout, display.show, display.notice)
    except KeyboardInterrupt:
        click.echo("vfsd: the daemon goes on flushing and unmounting; 'vfsd status' shows how far it is", err=True)
        raise
    print_outcome(outcome, as_json)
    return int(outcome["exit_code"])


def print_outcome(outcome: dict[str, Any], as_json: bool) -> None:
    """The result of a flush or an unmount: one object, or two lines; what went wrong on standard error."""
    from vfsd.cli.wording import receipt_lines

    if as_json:
        click.echo(json.dumps(outcome))
    else:
        for line in receipt_lines(outcome):
            click.echo(line)
    if outcome["exit_code"] != 0:
        click.echo(f"vfsd: {outcome['message']}", err=True)
