"""`vfsd config`: the value of each setting, and where it was set."""

from __future__ import annotations

import json
import os
from typing import Any

import click


@click.command("config", short_help="The settings, and where each was set.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def config_command(as_json: bool) -> int:
    """Show what a mount would use without options.

    A setting is looked up in the options of a command, then in the environment (VFSD_RAM=8G), in the user's file,
    in /etc/vfsd.toml; what none of them sets has its default. The files are TOML, one line a setting:

    \b
        ram = "8G"
        cache = "/scratch/vfsd"
        allow_other = true
    """
    from vfsd.daemon.configuration import SYSTEM_FILE, choose, standing_layers, user_file
    from vfsd.daemon.settings import SETTINGS
    from vfsd.errors import shown_path

    chosen = choose(standing_layers())
    files = [path for path in (SYSTEM_FILE, user_file(os.environ)) if path is not None]
    if as_json:
        settings = {
            setting.name: {
                "value": _plain(chosen[setting.name].value) if setting.name in chosen else None,
                "origin": chosen[setting.name].origin if setting.name in chosen else "default",
                "default": setting.default,
            }
            for setting in SETTINGS
        }
        listed = [{"path": os.fspath(path), "exists": path.exists()} for path in files]
        click.echo(json.dumps({"settings": settings, "files": listed}))
        return 0
    for setting in SETTINGS:
        found = chosen.get(setting.name)
        value = setting.default if found is None else _shown(found.value)
        click.echo(f"{setting.name:<13} {value:<28} {'default' if found is None else found.origin}")
    for path in files:
        click.echo(f"{shown_path(path)}: {'read' if path.exists() else 'not there'}", err=True)
    return 0


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | str | None) else os.fspath(value)


def _shown(value: Any) -> str:
    from vfsd.daemon.sizes import format_size
    from vfsd.errors import shown_path

    if value is None:
        return "auto"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return format_size(value) if isinstance(value, int) and value > 1000 else shown_path(str(value))
