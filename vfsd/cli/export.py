"""`vfsd export STORE DIRECTORY`: the original files again, without a mount."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from vfsd.cli.parameters import PATH


@click.command("export", short_help="Get the original files out of a store.")
@click.argument("store", type=PATH)
@click.argument("directory", type=PATH)
@click.option(
    "--ome-zarr",
    type=click.Choice(["0.4"]),
    help="Write the images instead, for programs that read no Zarr v3: Bio-Formats, QuPath, OMERO.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def export_command(store: Path, directory: Path, ome_zarr: str | None, as_json: bool) -> int:
    """Write the files of STORE into DIRECTORY, byte for byte as they were.

    An export that was interrupted goes on when the same command is given again.
    """
    from vfsd.cli.ome_zarr_export import export_images
    from vfsd.cli.progress import ProgressDisplay
    from vfsd.daemon.checks import refuse_nesting
    from vfsd.daemon.sizes import format_count, format_size
    from vfsd.errors import VerificationFailed, shown_path
    from vfsd.flush import export_store

    refuse_nesting({"directory": directory, "store": store})
    if ome_zarr is not None:
        return export_images(store, directory, as_json)
    with ProgressDisplay() as display:

        def show(files_done: int, files_total: int, bytes_done: int) -> None:
            display.show(
                {
                    "stage": "exporting",
                    "files_done": files_done,
                    "files_total": files_total,
                    "bytes_done": bytes_done,
                }
            )

        try:
            report = export_store(store, directory, on_progress=show)
        except KeyboardInterrupt:
            click.echo("vfsd: interrupted; what is there is whole, and the same command goes on from there", err=True)
            raise
    code = VerificationFailed.exit_code if report.failed else 0
    if as_json:
        failed = [{"path": os.fsdecode(one.path), "reason": one.reason} for one in report.failed]
        document = {"files": report.files, "bytes": report.bytes, "found": report.found, "failed": failed}
        click.echo(json.dumps({"exit_code": code, "store": os.fspath(store), **document}))
        return code
    found = f" ({report.found:,} of an earlier run)" if report.found else ""
    click.echo(f"{format_count(report.files, 'file')}, {format_size(report.bytes)} in {shown_path(directory)}{found}.")
    for one in report.failed:
        click.echo(f"vfsd: {shown_path(one.path)}: {shown_path(one.reason)}", err=True)
    return code
