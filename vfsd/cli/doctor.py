"""`vfsd doctor`: is this machine fit, and if not, what to do; with `--plate`, what vfsd makes of a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from vfsd.cli.parameters import PATH, setting_options

# What says what names mean.
NAMES = ("plate_format", "pattern", "labels")


@click.command("doctor", short_help="Is this machine fit? Is that a plate?")
@click.option("--plate", type=PATH, metavar="DIR", help="Say instead which plates a folder holds, and what is left.")
@setting_options(*NAMES)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor_command(plate: Path | None, as_json: bool, **settings: Any) -> int:
    """Look at everything that commonly goes wrong. Exit code 2 if vfsd cannot work here."""
    if plate is not None:
        return _look_at_plate(plate, settings, as_json)
    from vfsd.daemon.fitness import Verdict, examine_machine
    from vfsd.errors import UsageProblem, shown_path

    if any(value is not None for value in settings.values()):
        raise UsageProblem(
            "--plate-format, --pattern and --labels say what names in a folder mean: they go with --plate"
        )
    findings = examine_machine()
    code = 2 if any(finding.verdict is Verdict.PROBLEM for finding in findings) else 0
    if as_json:
        click.echo(json.dumps({"fit": code == 0, "findings": [finding.to_json() for finding in findings]}))
        return code
    for finding in findings:
        click.echo(f"{finding.verdict:<8} {finding.subject:<13} {shown_path(finding.text)}")
        if finding.remedy is not None:
            click.echo(f"{'':<22} → {finding.remedy}")
    return code


def _look_at_plate(folder: Path, settings: dict[str, Any], as_json: bool) -> int:
    from vfsd.cli.plate_report import print_survey, survey_document
    from vfsd.daemon.checks import check_source
    from vfsd.daemon.configuration import option_layer, values
    from vfsd.errors import shown_path
    from vfsd.plates import choose_formats
    from vfsd.plates.survey import survey_folder
    from vfsd.store.zarr_folders import may_be_zarr

    chosen = values(NAMES, option_layer(settings))
    formats = choose_formats(chosen["plate_format"], chosen["pattern"], labels=chosen["labels"])
    checked = check_source(folder)
    if may_be_zarr(checked) and (code := _look_at_zarr(checked, as_json)) is not None:
        return code
    survey = survey_folder(checked, formats)
    if as_json:
        click.echo(json.dumps(survey_document(survey)))
    else:
        print_survey(survey, shown_path(checked))
    return 0


def _look_at_zarr(folder: Path, as_json: bool) -> int | None:
    """The same of a folder that is OME-Zarr; None of one that is not."""
    from vfsd.cli.zarr_report import print_zarr_survey, zarr_document
    from vfsd.errors import UnfitError, shown_path
    from vfsd.store.foreign import ForeignError, is_ome_zarr
    from vfsd.store.foreign.survey import survey_zarr

    if not is_ome_zarr(folder):
        return None
    try:
        survey = survey_zarr(folder)
    except ForeignError as error:
        raise UnfitError(error.reason, path=folder / Path(shown_path(error.path or b""))) from error
    if as_json:
        click.echo(json.dumps(zarr_document(survey)))
    else:
        print_zarr_survey(survey, shown_path(folder))
    return 0
