"""`vfsd stats MOUNTPOINT`: the tiers, live."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from vfsd.cli.parameters import PATH


@click.command("stats", short_help="Watch the tiers of a mount, live.")
@click.argument("mountpoint", type=PATH)
@click.option("--once", is_flag=True, help="Print one table and end.")
@click.option("--interval", type=click.FloatRange(min=0.2), default=1.0, show_default=True, metavar="SECONDS")
def stats_command(mountpoint: Path, once: bool, interval: float) -> int:
    """Show how full the tiers of MOUNTPOINT are and how fast that changes, until Ctrl-C."""
    from vfsd.daemon.overview import describe_mount

    facts = describe_mount(mountpoint)
    if once or not sys.stdout.isatty():
        click.echo("\n".join(_table(facts, None, interval)))
        return 0
    try:
        _show_live(mountpoint, facts, interval)
    except KeyboardInterrupt:
        # This is how one leaves it.
        return 0
    return 0


def _show_live(mountpoint: Path, facts: dict[str, Any], interval: float) -> None:
    from rich.live import Live
    from rich.text import Text

    from vfsd.daemon.overview import describe_mount
    from vfsd.errors import UnfitError

    earlier: dict[str, Any] | None = None
    with Live(auto_refresh=False) as live:
        while True:
            live.update(Text("\n".join(_table(facts, earlier, interval))), refresh=True)
            time.sleep(interval)
            earlier = facts
            try:
                facts = describe_mount(mountpoint)
            except UnfitError:
                return  # unmounted meanwhile


def _table(facts: Mapping[str, Any], earlier: Mapping[str, Any] | None, interval: float) -> Iterator[str]:
    from vfsd.cli.status import _dirty
    from vfsd.daemon.sizes import format_size
    from vfsd.errors import shown_path

    yield f"{shown_path(facts['mountpoint'])}  {facts['state']}  pid {facts['pid']}"
    yield f"{'tier':<8} {'files':>10} {'size':>12} {'of':>12} {'change':>14}"
    for name, usage in facts["tiers"].items():
        budget = "" if usage["budget"] is None else format_size(usage["budget"])
        change = ""
        if earlier is not None and name in earlier["tiers"]:
            change = f"{format_size(round((usage['bytes'] - earlier['tiers'][name]['bytes']) / interval))}/s"
        yield f"{name:<8} {usage['files']:>10,} {format_size(usage['bytes']):>12} {budget:>12} {change:>14}"
    if facts["dirty"] is not None:
        yield _dirty(facts)
