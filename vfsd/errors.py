"""The one hierarchy of errors that people see.

Each error carries the file concerned, the cause, and the way out; `str(error)` is the whole sentence for the
terminal. They are mapped to exit codes by `cli/` (through `exit_code`) and to errno by `fuse/`; no other place
does either. Rooms below raise small `ValueError` subclasses of their own for malformed bytes and turn them into
one of these where a path is known.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

PathLike = bytes | str | Path


def shown_path(path: PathLike) -> str:
    """A path for a message: undecodable bytes and control characters escaped, so that no name can steer a terminal."""
    text = os.fsdecode(path)
    return "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else ascii(c)[1:-1] for c in text)


class VfsdError(Exception):
    """Something went wrong for a reason that the user can act on.

    Parameters
    ----------
    message : str
        The cause, one sentence without a final stop.
    path : bytes, str or Path, optional
        The file or folder concerned.
    remedy : str, optional
        What to do about it.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, *, path: PathLike | None = None, remedy: str | None = None) -> None:
        self.message = message
        self.path = path
        self.remedy = remedy
        super().__init__(message)

    def __str__(self) -> str:
        text = self.message if self.path is None else f"{shown_path(self.path)}: {self.message}"
        return text if self.remedy is None else f"{text}. {self.remedy}"


class UsageProblem(VfsdError):
    """The command was not understood (exit 1)."""

    exit_code = 1


class UnfitError(VfsdError):
    """This machine or these paths do not allow it (exit 2)."""

    exit_code = 2


class FlushIncomplete(VfsdError):
    """Not everything reached the store; what did not is kept (exit 3)."""

    exit_code = 3


class VerificationFailed(VfsdError):
    """What the store holds differs from what was put there (exit 4)."""

    exit_code = 4


class BusyError(VfsdError):
    """Somebody else is using it: open files, a locked store (exit 5)."""

    exit_code = 5


class Interrupted(VfsdError):
    """A signal ended the command before it was done (exit 8)."""

    exit_code = 8


class StoredDataDamaged(VfsdError):
    """Bytes in the store are missing or do not match their digest; only the file named is affected."""

    exit_code = 4


class StorageResolutionError(UsageProblem):
    """No backend has this name; the message lists those that are known."""


class UnfitData(UsageProblem, TypeError):
    """What was to be saved does not fit the name it was to have, or no file type at all."""


class DamagedFile(VfsdError, ValueError):
    """A file is not what its name or its mark says: cut short, overwritten, or of something else."""

    exit_code = 4


class MissingPackage(UnfitError):
    """Something optional is wanted that is not installed."""
