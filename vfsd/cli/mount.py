"""`vfsd mount SOURCE MOUNTPOINT`: into the background once the mount answers."""

from __future__ import annotations

from pathlib import Path

import click

from vfsd.cli.parameters import LEVELS, PATH, PLATE_FORMAT, PLATE_PATTERN, SIZE

TRANSPORTS = ("auto", "pyfuse3", "kernel")


@click.command("mount", short_help="Mount a plate, or a store alone.")
@click.argument("source", type=PATH)
@click.argument("mountpoint", type=PATH)
@click.option("--store", type=PATH, metavar="DIR", help="Where new files go in the end. [default: SOURCE.vfs]")
@click.option("--ingest", is_flag=True, help="Also take the source's own files into the store.")
@click.option("--ram", type=SIZE, help="The most RAM for files, as 8G. [default: half of what is free]")
@click.option("--ram-dir", type=PATH, metavar="DIR", help="A folder on a tmpfs for these.")
@click.option("--cache", type=PATH, metavar="DIR", help="A folder on a local disk for what RAM has no room for.")
@click.option("--cache-size", type=SIZE, help="The most disk space for these. [default: 80 % of what is free]")
@click.option("--keep-in-ram", type=SIZE, help="New data up to this stays in RAM where it fits. [default: 1G]")
@click.option("--stream-above", type=SIZE, help="New data beyond this goes to the store at once. [default: 10G]")
@click.option("--read-only", is_flag=True, help="Nothing can be changed or added.")
@click.option("--allow-other", is_flag=True, help="Let other users in, by the files' permissions.")
@click.option("--foreground", is_flag=True, help="Stay in the terminal, with the log on standard error.")
@click.option("--transport", type=click.Choice(TRANSPORTS), help="How to talk to the kernel. [default: auto]")
@PLATE_FORMAT
@PLATE_PATTERN
@click.option("--levels", type=LEVELS, metavar="N", help="Halve new images N times for viewers. [default: auto]")
@click.option("-o", "mount_options", metavar="OPTION,…", multiple=True, help="Options as for mount(8).")
def mount_command(
    source: Path,
    mountpoint: Path,
    store: Path | None,
    ingest: bool,
    ram: int | None,
    ram_dir: Path | None,
    cache: Path | None,
    cache_size: int | None,
    keep_in_ram: int | None,
    stream_above: int | None,
    read_only: bool,
    allow_other: bool,
    foreground: bool,
    transport: str | None,
    plate_format: str | None,
    pattern: str | None,
    levels: int | None,
    mount_options: tuple[str, ...],
) -> int:
    """Mount the plate SOURCE at MOUNTPOINT; SOURCE may also be a store, mounted alone.

    Files written there live in RAM and on a local disk until they are flushed into the store. The source is
    never changed. Unmount with 'vfsd umount MOUNTPOINT', which waits until everything is in the store.
    """
    from vfsd.cli.mount_options import parse_mount_options
    from vfsd.daemon.background import run_in_background
    from vfsd.daemon.mounting import run_mount
    from vfsd.daemon.options import MountOptions
    from vfsd.daemon.reporter import TerminalReporter
    from vfsd.errors import UsageProblem
    from vfsd.plates import choose_formats

    given = parse_mount_options(mount_options)
    transport = transport or given.transport or TRANSPORTS[0]
    if transport not in TRANSPORTS:
        raise UsageProblem(f"the transport is one of {', '.join(TRANSPORTS)}")
    options = MountOptions(
        source=source,
        mountpoint=mountpoint,
        store=store if store is not None else given.store,
        ingest=ingest or bool(given.ingest),
        ram=ram if ram is not None else given.ram,
        ram_dir=ram_dir if ram_dir is not None else given.ram_dir,
        cache_dir=cache if cache is not None else given.cache,
        cache_size=cache_size if cache_size is not None else given.cache_size,
        keep_in_ram=keep_in_ram if keep_in_ram is not None else given.keep_in_ram,
        stream_above=stream_above if stream_above is not None else given.stream_above,
        read_only=read_only or bool(given.read_only),
        allow_other=allow_other or bool(given.allow_other),
        foreground=foreground,
        transport=transport,
        plate_format=plate_format if plate_format is not None else given.plate_format,
        pattern=pattern if pattern is not None else given.pattern,
        levels=levels if levels is not None else given.levels,
        fuse_options=given.kernel,
    )
    if options.read_only and options.ingest:
        raise UsageProblem("a read-only mount cannot ingest")
    if options.plate_format is not None or options.pattern is not None:
        choose_formats(options.plate_format, options.pattern)  # a wrong name is said now, not by the first flush
    if foreground:
        return run_mount(options, TerminalReporter())
    return run_in_background(lambda reporter: run_mount(options, reporter), TerminalReporter())
