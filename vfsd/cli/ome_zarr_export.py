"""`vfsd export --ome-zarr 0.4 STORE DIRECTORY`: the images of a store for older programs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click


def export_images(store: Path, directory: Path, as_json: bool) -> int:
    """Write them, and say what was written; the command's exit code."""
    from vfsd.cli.progress import ProgressDisplay
    from vfsd.daemon.sizes import format_count, format_size
    from vfsd.errors import VerificationFailed, shown_path
    from vfsd.flush.export_ome_zarr import export_ome_zarr

    with ProgressDisplay() as display:

        def show(done: int, total: int, bytes_done: int) -> None:
            display.show({"stage": "exporting", "files_done": done, "files_total": total, "bytes_done": bytes_done})

        try:
            report = export_ome_zarr(store, directory, on_progress=show)
        except KeyboardInterrupt:
            click.echo("vfsd: interrupted; what is there is whole, and the same command goes on from there", err=True)
            raise
    code = VerificationFailed.exit_code if report.failed else 0
    if as_json:
        failed = [{"path": os.fsdecode(one.path), "reason": one.reason} for one in report.failed]
        counts = {"arrays": report.arrays, "files": report.files, "bytes": report.bytes, "found": report.found}
        click.echo(json.dumps({"exit_code": code, "store": os.fspath(store), **counts, "failed": failed}))
        return code
    found = f" ({report.found:,} of an earlier run)" if report.found else ""
    arrays, files = format_count(report.arrays, "array"), format_count(report.files, "file")
    size, where = format_size(report.bytes), shown_path(directory)
    click.echo(f"{arrays} in {files}, {size} in {where}{found}: OME-Zarr 0.4, Zarr v2.")
    for one in report.failed:
        click.echo(f"vfsd: {shown_path(one.path)}: {shown_path(one.reason)}", err=True)
    return code
