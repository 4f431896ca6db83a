"""Progress on standard error: a bar on a terminal, a line now and then elsewhere.

Nothing is shown for what is over within `QUIET_SECONDS`. The bar disappears when the work is done: the result
is what stays on the screen.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from vfsd.cli.wording import format_duration
from vfsd.daemon.sizes import format_count, format_size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# Short work needs no bar, and importing the bar takes a tenth of a second.
QUIET_SECONDS = 0.5
# In a log file a line every ten seconds tells enough.
LINE_SECONDS = 10.0


class ProgressDisplay:
    """Shows figures in the form of `FlushProgress`: stage, files and bytes done and in all (0: not known).

    Example
    -------
    >>> with ProgressDisplay() as display:
    ...     display.show({"stage": "writing", "files_done": 1, "files_total": 2, "bytes_done": 9, "bytes_total": 10})
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = -LINE_SECONDS
        self._last_stage = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def notice(self, text: str) -> None:
        """A message that stays."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(f"vfsd: {text}", file=sys.stderr, flush=True)

    def show(self, figures: Mapping[str, Any]) -> None:
        """Show the latest figures; keys that are missing count as nothing known."""
        if time.monotonic() - self._began < QUIET_SECONDS:
            return
        if sys.stderr.isatty():
            self._show_bar(figures)
        else:
            self._show_line(figures)

    def show_progress(self, progress: Any) -> None:
        """The same for a `FlushProgress`."""
        self.show({name: getattr(progress, name) for name in FIGURES})

    def _show_bar(self, figures: Mapping[str, Any]) -> None:
        if self._bar is None:
            self._bar, self._task = _make_bar()
        assert self._task is not None
        self._bar.update(
            self._task,
            description=_stage(figures),
            completed=figures.get("bytes_done", 0),
            total=figures.get("bytes_total") or None,
            files=_files(figures),
        )

    def _show_line(self, figures: Mapping[str, Any]) -> None:
        now, stage = time.monotonic(), _stage(figures)
        if stage == self._last_stage and now - self._last_line < LINE_SECONDS:
            return
        self._last_stage, self._last_line = stage, now
        done, total = figures.get("bytes_done", 0), figures.get("bytes_total", 0)
        seconds = now - self._began
        rate = done / seconds
        text = f"{stage}: {_files(figures)}, {format_size(done)}"
        if total:
            text += f" of {format_size(total)}"
        if rate > 0:
            text += f", {format_size(round(rate))}/s"
            if total:
                text += f", {format_duration(max(0, total - done) / rate)} left"
        print(f"vfsd: {text}", file=sys.stderr, flush=True)


FIGURES = ("stage", "files_done", "files_total", "bytes_done", "bytes_total")


def _stage(figures: Mapping[str, Any]) -> str:
    state, stage = figures.get("state"), str(figures.get("stage", ""))
    return f"{state}, {stage}" if state in ("unmounting", "finishing") else stage


def _files(figures: Mapping[str, Any]) -> str:
    return f"{figures.get('files_done', 0):,} of {format_count(figures.get('files_total', 0), 'file')}"


def _make_bar() -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[files]}", markup=False),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.start()
    return bar, bar.add_task("", total=None, files="")
