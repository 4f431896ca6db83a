"""`vfsd flush MOUNTPOINT [PATH …]`: what `umount` does, without unmounting."""

from __future__ import annotations

from pathlib import Path

import click

from vfsd.cli.parameters import PATH


@click.command("flush", short_help="Flush without unmounting.")
@click.argument("mountpoint", type=PATH)
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def flush_command(mountpoint: Path, paths: tuple[Path, ...], as_json: bool) -> int:
    """Write everything new, or PATHs below MOUNTPOINT, into the store, verified."""
    from vfsd.cli.progress import ProgressDisplay
    from vfsd.cli.umount import print_outcome
    from vfsd.daemon.flushing import flush_mount

    try:
        with ProgressDisplay() as display:
            outcome = flush_mount(mountpoint, paths, display.show)
    except KeyboardInterrupt:
        click.echo("vfsd: the daemon goes on flushing; 'vfsd status' shows how far it is", err=True)
        raise
    print_outcome(outcome, as_json)
    return int(outcome["exit_code"])
