"""`vfsd demo-plate DIRECTORY`: a simulated plate, to try things on."""

from __future__ import annotations

from pathlib import Path

import click

from vfsd.cli.parameters import PATH


@click.command("demo-plate", short_help="Write a simulated plate.")
@click.argument("directory", type=PATH)
@click.option("--wells", type=int, default=12, show_default=True, help="Wells on the plate.")
@click.option("--fields", type=int, default=2, show_default=True, help="Fields a well.")
@click.option("--channels", type=int, default=3, show_default=True, help="Channels a field.")
@click.option("--z", type=int, default=1, show_default=True, help="Planes a stack.")
@click.option("--time-points", type=int, default=1, show_default=True)
@click.option("--size", type=int, default=512, show_default=True, help="Height and width in pixels.")
@click.option("--dtype", default="uint16", show_default=True, help="uint8 or uint16.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, another plate.")
def demo_plate_command(
    directory: Path,
    wells: int,
    fields: int,
    channels: int,
    z: int,
    time_points: int,
    size: int,
    dtype: str,
    seed: int,
) -> int:
    """Write a simulated ImageXpress export into the new or empty folder DIRECTORY."""
    from vfsd.cli.progress import ProgressDisplay
    from vfsd.daemon.sizes import format_count, format_size
    from vfsd.errors import shown_path
    from vfsd.plates.demo import write_demo_plate

    with ProgressDisplay() as display:

        def show(files_done: int, files_total: int, bytes_done: int) -> None:
            display.show(
                {
                    "stage": "drawing",
                    "files_done": files_done,
                    "files_total": files_total,
                    "bytes_done": bytes_done,
                }
            )

        plate = write_demo_plate(
            directory,
            wells=wells,
            fields=fields,
            channels=channels,
            z=z,
            size=size,
            dtype=dtype,
            time_points=time_points,
            seed=seed,
            on_progress=show,
        )
    files, wells_written = format_count(plate.files, "file"), format_count(len(plate.wells), "well")
    click.echo(f"{files}, {format_size(plate.bytes)}, {wells_written} in {shown_path(directory)}.")
    return 0
