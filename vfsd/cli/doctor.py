"""`vfsd doctor`: is this machine fit, and if not, what to do."""

from __future__ import annotations

import json

import click


@click.command("doctor", short_help="Is this machine fit?")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor_command(as_json: bool) -> int:
    """Look at everything that commonly goes wrong. Exit code 2 if vfsd cannot work here."""
    from vfsd.daemon.fitness import Verdict, examine_machine
    from vfsd.errors import shown_path

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
