"""`vfsd verify STORE`: rebuild every file and compare its digest."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from vfsd.cli.parameters import PATH


@click.command("verify", short_help="Rebuild and compare every file.")
@click.argument("store", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def verify_command(store: Path, as_json: bool) -> int:
    """Rebuild every file of STORE and compare it with the digest of the original."""
    from vfsd.cli.progress import ProgressDisplay
    from vfsd.daemon.sizes import format_count, format_size
    from vfsd.errors import VerificationFailed, shown_path
    from vfsd.flush import verify_store

    with ProgressDisplay() as display:

        def show(files_done: int, files_total: int, bytes_done: int) -> None:
            display.show(
                {
                    "stage": "verifying",
                    "files_done": files_done,
                    "files_total": files_total,
                    "bytes_done": bytes_done,
                }
            )

        report = verify_store(store, on_progress=show)
    code = 0 if report.ok else VerificationFailed.exit_code
    if as_json:
        damaged = [{"path": os.fsdecode(one.path), "reason": one.reason} for one in report.damaged]
        document = {"ok": report.ok, "files": report.files, "bytes": report.bytes, "damaged": damaged}
        click.echo(json.dumps({"exit_code": code, "store": os.fspath(store), **document}))
    elif report.ok:
        files = format_count(report.files, "file")
        click.echo(f"{files}, {format_size(report.bytes)}: each rebuilt, its digest is right.")
    else:
        click.echo(f"{len(report.damaged):,} of {format_count(report.files, 'file')} cannot be rebuilt as they were:")
        for one in report.damaged:
            click.echo(f"  {shown_path(one.path)}: {shown_path(one.reason)}")
    return code
