"""`vfsd info PATH`: in which tier a file's bytes are, and where."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import click

from vfsd.cli.parameters import PATH

TIER = "user.vfsd.tier"
LOCATION = "user.vfsd.location"


@click.command("info", short_help="Show where a file's bytes are.")
@click.argument("path", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info_command(path: Path, as_json: bool) -> int:
    """Show where the bytes of PATH, a file on a vfsd mount, are now."""
    from vfsd.errors import shown_path

    facts = {"path": os.fspath(path), **_attributes(path)}
    if as_json:
        click.echo(json.dumps(facts))
        return 0
    click.echo(f"{shown_path(path)}: {facts['tier']}")
    for key, value in facts["location"].items():
        click.echo(f"  {key:<10} {shown_path(str(value))}")
    return 0


def _attributes(path: Path) -> dict[str, Any]:
    from vfsd.errors import UnfitError

    try:
        tier = os.getxattr(path, TIER).decode("ascii", "replace")
        location = json.loads(os.getxattr(path, LOCATION))
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            raise UnfitError("is not on a vfsd mount, or has no bytes there", path=path) from error
        raise
    except ValueError as error:
        raise UnfitError("its location cannot be read", path=path) from error
    return {"tier": tier, "location": location if isinstance(location, dict) else {"is": location}}
