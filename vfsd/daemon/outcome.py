"""What came of a flush or an unmount, in the form that travels to the command line and into result.json.

A `FlushSummary` adds up the one or two flushes of an unmount (while mounted, and what came meanwhile). An
`Outcome` is the last word of an operation: its exit code (the same as the command's), one sentence, and the
figures.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vfsd.flush import FlushResult

# A disk that fills up keeps every file that is left: name enough to see what they have in common.
MOST_NAMED = 1000
# Whoever follows an operation gets a line at least this often, to tell a long step from a daemon that hangs.
HEARTBEAT_SECONDS = 1.0


# A path and what is the matter with it.
NamedReason = tuple[bytes, str]


@dataclass(frozen=True, slots=True)
class FlushSummary:
    """Totals over flushes; `kept` has the (path, reason) of what the last one did not get into the store."""

    files: int
    bytes: int
    stored_bytes: int
    seconds: float
    receipts: tuple[str, ...]
    kept: tuple[NamedReason, ...]
    complete: bool
    source_replaceable: bool | None
    obstacles: tuple[NamedReason, ...] = ()
    """What stands against replacing the source by the store."""
    verify: str = "full"
    """What was done with what was written before anything was given up for it."""

    @classmethod
    def of(cls, result: FlushResult) -> FlushSummary:
        return cls(
            result.files,
            result.bytes,
            result.stored_bytes,
            result.seconds,
            () if result.receipt is None else (os.fspath(result.receipt),),
            tuple((one.path, one.reason) for one in result.kept),
            result.complete,
            result.source_replaceable,
            tuple((one.path, one.reason) for one in result.obstacles),
            str(result.verify),
        )

    def then(self, later: FlushSummary) -> FlushSummary:
        """Both flushes as one: what the later one says about completeness holds."""
        replaceable = self.source_replaceable if later.source_replaceable is None else later.source_replaceable
        return FlushSummary(
            self.files + later.files,
            self.bytes + later.bytes,
            self.stored_bytes + later.stored_bytes,
            self.seconds + later.seconds,
            self.receipts + later.receipts,
            later.kept,
            later.complete,
            replaceable,
            self.obstacles if later.source_replaceable is None else later.obstacles,
            later.verify,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "files": self.files,
            "bytes": self.bytes,
            "stored_bytes": self.stored_bytes,
            "seconds": round(self.seconds, 3),
            "receipts": list(self.receipts),
            "kept_files": len(self.kept),
            "kept": _listed(self.kept),
            "complete": self.complete,
            "source_replaceable": self.source_replaceable,
            "obstacles": _listed(self.obstacles),
            "verify": self.verify,
        }


def _listed(files: tuple[NamedReason, ...]) -> list[dict[str, str]]:
    return [{"path": os.fsdecode(path), "reason": reason} for path, reason in files[:MOST_NAMED]]


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that keeps a mount busy, and with what (a path on the mount)."""

    pid: int
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an operation ended. `state` is the mount's afterwards; `details` is merged into the JSON form."""

    exit_code: int
    state: str
    message: str
    flush: FlushSummary | None = None
    holders: tuple[Holder, ...] = ()
    details: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        holders = [{"pid": one.pid, "name": one.name, "path": one.path} for one in self.holders]
        return {
            **(self.details or {}),
            "exit_code": self.exit_code,
            "state": self.state,
            "message": self.message,
            "flush": None if self.flush is None else self.flush.to_json(),
            "holders": holders,
        }
