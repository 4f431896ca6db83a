"""Into the background, but only once the mount answers, so that errors still reach the terminal.

The caller forks before it has threads or an event loop. The child becomes a session of its own and reports
through a pipe, one JSON document a line: warnings, then "ready" or "failed". The parent says all of it on its
standard error and exits with the code; when the child dies without a word, the parent says how, with the last
lines of the log. The child keeps the caller's umask: what it puts into the store gets the permissions that
this user's other files get, and what is private is made so explicitly.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from vfsd.daemon.reporter import Reporter, describe_error
from vfsd.errors import Interrupted, UnfitError, shown_path

# Enough to see the error and what led to it, little enough for a terminal.
LOG_LINES_SHOWN = 10
# The end of the log in which those lines are looked for.
LOG_TAIL_BYTES = 16 << 10


class PipeReporter:
    """The child's side: each report is one line, written at once."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def warning(self, text: str) -> None:
        self._send({"event": "warning", "text": text})

    def log_lies_at(self, path: Path) -> None:
        self._send({"event": "log", "path": os.fspath(path)})

    def ready(self, text: str) -> None:
        self._send({"event": "ready", "text": text})
        self._close()
        _leave_the_terminal()

    def failed(self, exit_code: int, text: str) -> None:
        self._send({"event": "failed", "exit_code": exit_code, "text": text})
        self._close()

    def _send(self, message: dict[str, Any]) -> None:
        if self._descriptor is None:
            return
        data = memoryview(json.dumps(message).encode("ascii") + b"\n")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            # The parent is gone: nobody listens any more, and the mount is still wanted.
            self._close()

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def run_in_background(work: Callable[[Reporter], int], listener: Reporter) -> int:
    """Run `work` in a child process; return once it has reported "ready" or ended.

    Parameters
    ----------
    work : callable
        Runs in the child with a reporter; its result is the child's exit code. It must report `ready` or
        `failed`.
    listener : Reporter
        Told in this process what the child reports.

    Returns
    -------
    int
        0 if the child is ready, else the code it failed with.

    Raises
    ------
    Interrupted
        After Ctrl-C; the child is told to stop.
    UnfitError
        If the child died without a report.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_the_child(work, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            return _listen(pipe, child, listener)
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        raise Interrupted("interrupted while mounting; the mount was told to stop") from None


def _listen(pipe: Iterator[bytes], child: int, listener: Reporter) -> int:
    log: Path | None = None
    for line in pipe:
        message = json.loads(line)
        match message["event"]:
            case "warning":
                listener.warning(message["text"])
            case "log":
                log = Path(message["path"])
                listener.log_lies_at(log)
            case "ready":
                listener.ready(message["text"])
                return 0
            case "failed":
                os.waitpid(child, 0)
                listener.failed(message["exit_code"], message["text"])
                return int(message["exit_code"])
    raise UnfitError(_obituary(os.waitpid(child, 0)[1], log))


def _obituary(status: int, log: Path | None) -> str:
    """How the child died, and what it wrote last."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        how = f"the daemon was killed by signal {number} ({signal.strsignal(number)}) before the mount answered"
    else:
        how = f"the daemon ended with code {os.waitstatus_to_exitcode(status)} before the mount answered"
    if log is None:
        return how
    lines = last_lines(log, LOG_LINES_SHOWN)
    return "\n".join([f"{how}; the last lines of {shown_path(log)}:", *(f"  {shown_path(line)}" for line in lines)])


def last_lines(path: Path, count: int) -> list[bytes]:
    """The last lines of a file that may be large, missing or binary."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_TAIL_BYTES))
            return file.read().splitlines()[-count:]
    except OSError:
        return []


def _be_the_child(work: Callable[[Reporter], int], writing: int) -> NoReturn:
    """Detach, work, and end without ever returning into the parent's code."""
    code = 2
    try:
        os.setsid()
        os.chdir("/")
        _close_inherited(writing)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.close(null)
        reporter = PipeReporter(writing)
        try:
            code = work(reporter)
        except BaseException as error:
            # Whatever happens in the child must end there: an exception going further would run the parent's
            # code twice.
            code, text = describe_error(error)
            reporter.failed(code, text)
    finally:
        os._exit(code)


def _close_inherited(keep: int) -> None:
    """Close what the caller left open, so that a daemon never holds somebody's pipe or disk."""
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2 and descriptor != keep:
            try:
                os.close(descriptor)
            except OSError:
                continue  # the listing's own descriptor


def _leave_the_terminal() -> None:
    """Standard output and error to nowhere: the terminal may go, and our readers see the end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
