"""Saying what a restart of the machine took: which files are gone, show an older version, or may be incomplete.

Told on the terminal by whoever carries on, a mount or `vfsd recover`; the log has every name (`tree.recovery`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfsd.daemon.reporter import Reporter
from vfsd.daemon.sizes import format_count
from vfsd.errors import shown_path

if TYPE_CHECKING:
    from vfsd.tree.recovery import Losses

# As many names of lost files as a person reads in a terminal; the log has them all.
LOST_NAMED = 5


def tell_losses(losses: Losses, reporter: Reporter) -> None:
    """One warning for each kind of loss there is."""
    gone = [path for path in losses.lost if path not in losses.older]
    older = [path for path in losses.lost if path in losses.older]
    for paths, text in (
        (gone, "only in RAM when the machine stopped, and gone"),
        (older, "changed only in RAM when the machine stopped; an older version is there again"),
        (losses.doubtful, "in the cache, but not synced when the machine stopped; look whether they are complete"),
    ):
        if paths:
            names = ", ".join(shown_path(path) for path in paths[:LOST_NAMED])
            more = f" and {len(paths) - LOST_NAMED} more (the log names all)" if len(paths) > LOST_NAMED else ""
            reporter.warning(f"{format_count(len(paths), 'file')} {text}: {names}{more}")
