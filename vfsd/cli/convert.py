"""`vfsd convert SOURCE STORE`: a whole plate into a store, no mount needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from vfsd.cli.parameters import PATH, setting_options

# What a conversion has in common with a mount.
SETTINGS = ("plate_format", "pattern", "labels", "levels", "archive", "verify")


@click.command("convert", short_help="Put a whole plate into a store.")
@click.argument("source", type=PATH)
@click.argument("store", type=PATH)
@setting_options(*SETTINGS)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def convert_command(source: Path, store: Path, as_json: bool, **settings: Any) -> int:
    """Store the plate SOURCE in STORE, every file verified unless --verify says otherwise. SOURCE is not changed.

    Images get smaller copies for viewers, each half the one before, until a side is at most 256 pixels; --levels 0
    makes none. --archive takes fewer bytes and more time.
    """
    from vfsd.cli.progress import ProgressDisplay
    from vfsd.cli.umount import print_outcome
    from vfsd.daemon.checks import check_source, refuse_nesting
    from vfsd.daemon.configuration import option_layer, values
    from vfsd.daemon.outcome import FlushSummary, Outcome
    from vfsd.daemon.running import run_until_done
    from vfsd.daemon.sizes import format_count
    from vfsd.errors import FlushIncomplete, shown_path
    from vfsd.flush import Verify, convert_plate
    from vfsd.plates import choose_formats

    chosen = values(SETTINGS, option_layer(settings))
    formats = choose_formats(chosen["plate_format"], chosen["pattern"], labels=chosen["labels"])
    levels, archive = chosen["levels"], bool(chosen["archive"])
    verify = Verify(chosen["verify"] or Verify.FULL)
    plate = check_source(source)
    refuse_nesting({"store": store, "source": plate})

    try:
        with ProgressDisplay() as display:
            result = run_until_done(
                lambda: convert_plate(
                    plate,
                    store,
                    on_progress=display.show_progress,
                    formats=formats,
                    levels=levels,
                    verify=verify,
                    archive=archive,
                )
            )
    except KeyboardInterrupt:
        click.echo("vfsd: interrupted; what was committed stays, and the same command goes on from there", err=True)
        raise
    except OSError as error:
        raise FlushIncomplete(
            f"{error.strerror or error}; the store is as it was, and all files are in {shown_path(plate)}",
            path=store,
            remedy="Remove the cause and give the same command again",
        ) from error
    summary = FlushSummary.of(result)
    names: dict[str, Any] = {"source": os.fspath(plate), "store": os.fspath(store)}
    message = f"not in the store: {format_count(len(summary.kept), 'file')} of {shown_path(plate)}"
    outcome = Outcome(0 if summary.complete else 3, "converted", message, summary, (), names)
    print_outcome(outcome.to_json(), as_json)
    return outcome.exit_code
