"""`vfsd mount SOURCE MOUNTPOINT`: into the background once the mount answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsd.cli.parameters import PATH, setting_options
from vfsd.daemon.settings import BY_NAME

if TYPE_CHECKING:
    from vfsd.daemon.options import MountOptions


@click.command("mount", short_help="Mount a plate, or a store alone.")
@click.argument("source", type=PATH)
@click.argument("mountpoint", type=PATH)
@setting_options(*BY_NAME)
@click.option("--foreground", is_flag=True, help="Stay in the terminal, with the log on standard error.")
@click.option("-o", "mount_options", metavar="OPTION,…", multiple=True, help="Options as for mount(8).")
def mount_command(
    source: Path, mountpoint: Path, foreground: bool, mount_options: tuple[str, ...], **settings: Any
) -> int:
    """Mount the plate SOURCE at MOUNTPOINT; SOURCE may also be a store, mounted alone.

    Files written there live in RAM and on a local disk until they are flushed into the store. The source is
    never changed. Unmount with 'vfsd umount MOUNTPOINT', which waits until everything is in the store.

    What is not given here is looked up in the environment (VFSD_RAM=8G), the user's configuration file and
    /etc/vfsd.toml; 'vfsd config' shows what they say.
    """
    from vfsd.cli.mount_options import parse_mount_options
    from vfsd.daemon.configuration import choose, make_mount_options, option_layer, standing_layers

    given = parse_mount_options(mount_options)
    chosen = choose([*standing_layers(), given.settings, option_layer(settings)])
    options = make_mount_options(source, mountpoint, chosen, foreground=foreground, fuse_options=given.kernel)
    return start_mount(options)


def start_mount(options: MountOptions) -> int:
    """Mount with these options, in the background or not; returns the exit code.

    Raises
    ------
    UsageProblem
        For options that contradict each other.
    """
    from vfsd.daemon.background import run_in_background
    from vfsd.daemon.mounting import run_mount
    from vfsd.daemon.reporter import TerminalReporter
    from vfsd.errors import UsageProblem
    from vfsd.plates import choose_formats

    if options.read_only and options.ingest:
        raise UsageProblem("a read-only mount cannot ingest")
    if (options.plate_format, options.pattern, options.labels) != (None, None, None):
        # a wrong name is said now, not by the first flush
        choose_formats(options.plate_format, options.pattern, labels=options.labels)
    if options.foreground:
        return run_mount(options, TerminalReporter())
    return run_in_background(lambda reporter: run_mount(options, reporter), TerminalReporter())
