"""How a starting daemon tells the person at the terminal what happens, wherever that terminal is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

from vfsd.errors import VfsdError, shown_path


class Reporter(Protocol):
    """What the start of a mount says to whoever asked for it; after `ready` or `failed` nothing more."""

    def warning(self, text: str) -> None:
        """Something the user should know; the start goes on."""

    def log_lies_at(self, path: Path) -> None:
        """From now on the log is there."""

    def ready(self, text: str) -> None:
        """The mount answers."""

    def failed(self, exit_code: int, text: str) -> None:
        """There is no mount, and this is why."""


class TerminalReporter:
    """For `--foreground`: says it on standard error at once."""

    def warning(self, text: str) -> None:
        print(f"vfsd: warning: {text}", file=sys.stderr, flush=True)

    def log_lies_at(self, path: Path) -> None:
        """The log of a foreground mount is the terminal, so there is nothing to say."""

    def ready(self, text: str) -> None:
        print(f"vfsd: {text}", file=sys.stderr, flush=True)

    def failed(self, exit_code: int, text: str) -> None:
        print(f"vfsd: {text}", file=sys.stderr, flush=True)


def describe_error(error: BaseException) -> tuple[int, str]:
    """The exit code and the one sentence for an error of any kind; never a traceback.

    Groups of errors, which nurseries raise, are told by their first member.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, VfsdError):
        return error.exit_code, str(error)
    if isinstance(error, OSError) and error.strerror:
        named = f"{shown_path(error.filename)}: " if isinstance(error.filename, bytes | str) else ""
        return 2, f"{named}{error.strerror}"
    return 2, f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
