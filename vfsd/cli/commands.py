"""The command `vfsd` and the list of its subcommands, each imported only when it is needed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import click

# In the order of a user's day; "demo-plate" is the module demo_plate.
NAMES = (
    *("mount", "umount", "flush", "status", "stats", "info", "warm"),
    *("convert", "verify", "export", "recover", "doctor", "config", "install-helpers", "demo-plate"),
)


class LazyGroup(click.Group):
    """A group whose commands live in modules of their name, as a function of that name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in NAMES:
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(importlib.import_module(f"vfsd.cli.{name}"), f"{name}_command")
        assert isinstance(command, click.Command)
        return command


def _print_version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from vfsd import __version__

        click.echo(f"vfsd {__version__}")
        for name, version in _build_facts():
            click.echo(f"  {name:<10} {version}")
        context.exit()


def _build_facts() -> Iterator[tuple[str, str]]:
    """What this vfsd runs with: versions that a report of a problem needs, read without importing anything."""
    import os
    import platform
    from importlib.metadata import PackageNotFoundError, version

    yield "python", platform.python_version()
    yield "kernel", f"{os.uname().sysname} {os.uname().release} {os.uname().machine}"
    for name in ("pyfuse3", "trio", "numpy", "zarr", "numcodecs", "tifffile", "cupy"):
        try:
            yield name, version(name)
        except PackageNotFoundError:
            yield name, "not installed"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
def vfsd() -> None:
    """Mount a microscope plate as one tree: new files in RAM, flushed to verified OME-Zarr."""
