"""`vfsd warm PATH…`: what is about to be read is made ready now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from vfsd.cli.parameters import PATH


@click.command("warm", short_help="Make files ready before they are read.")
@click.argument("paths", type=PATH, nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def warm_command(paths: tuple[Path, ...], as_json: bool) -> int:
    """Make the files at and below PATHs, in a mount, ready: stored images in RAM, those of a slow source in memory.

    Only RAM that nothing else needs is used; what finds no room is read later as ever.
    """
    from vfsd.cli.progress import ProgressDisplay
    from vfsd.daemon.warming import warm_files

    try:
        with ProgressDisplay() as display:
            outcome = warm_files(paths, display.show)
    except KeyboardInterrupt:
        click.echo("vfsd: the daemon goes on; 'vfsd status' shows how far it is", err=True)
        raise
    if as_json:
        click.echo(json.dumps(outcome))
    elif "warm" in outcome:
        click.echo(_sentence(outcome["warm"]))
    if outcome["exit_code"] != 0:
        click.echo(f"vfsd: {outcome['message']}", err=True)
    return int(outcome["exit_code"])


def _sentence(warm: Mapping[str, Any]) -> str:
    from vfsd.daemon.sizes import format_count, format_size

    ready = f"{format_count(warm['ready_files'], 'file')} ({format_size(warm['ready_bytes'])}) ready"
    if not warm["left_files"]:
        return f"{ready}."
    left = f"{warm['left_files']:,} left: no room for them, or too large to be made as a whole"
    failed = f" ({warm['failed_files']:,} cannot be read)" if warm["failed_files"] else ""
    return f"{ready}, {left}{failed}."
