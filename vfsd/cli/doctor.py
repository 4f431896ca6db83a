"""`vfsd doctor`: is this machine fit, and if not, what to do; with `--plate`, what vfsd makes of a folder."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vfsd.cli.parameters import PATH, setting_options


@click.command("doctor", short_help="Is this machine fit? Is that a plate?")
@click.option("--plate", type=PATH, metavar="DIR", help="Say instead which plates a folder holds, and what is left.")
@setting_options("plate_format", "pattern")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor_command(plate: Path | None, plate_format: str | None, pattern: str | None, as_json: bool) -> int:
    """Look at everything that commonly goes wrong. Exit code 2 if vfsd cannot work here."""
    if plate is not None:
        return _look_at_plate(plate, plate_format, pattern, as_json)
    from vfsd.daemon.fitness import Verdict, examine_machine
    from vfsd.errors import UsageProblem, shown_path

    if plate_format is not None or pattern is not None:
        raise UsageProblem("--plate-format and --pattern say what names in a folder mean: they go with --plate")
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


def _look_at_plate(folder: Path, plate_format: str | None, pattern: str | None, as_json: bool) -> int:
    from vfsd.cli.plate_report import print_survey, survey_document
    from vfsd.daemon.checks import check_source
    from vfsd.daemon.configuration import option_layer, values
    from vfsd.errors import shown_path
    from vfsd.plates import choose_formats
    from vfsd.plates.survey import survey_folder

    given = option_layer({"plate_format": plate_format, "pattern": pattern})
    chosen = values(("plate_format", "pattern"), given)
    formats = choose_formats(chosen["plate_format"], chosen["pattern"])
    checked = check_source(folder)
    survey = survey_folder(checked, formats)
    if as_json:
        click.echo(json.dumps(survey_document(survey)))
    else:
        print_survey(survey, shown_path(checked))
    return 0
