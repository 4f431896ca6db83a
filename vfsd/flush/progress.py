"""What a flush tells while it runs, and what it says in the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from vfsd.errors import shown_path
from vfsd.flush.order import Verify


@dataclass(frozen=True, slots=True)
class FlushProgress:
    """How far a flush is; sizes in bytes.

    `stage` is "planning", "writing", "verifying", "rechecking" (of the source), "committing" or "done".
    """

    stage: str
    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int


OnProgress = Callable[[FlushProgress], None]


@final
class Tally:
    """Adds up what a flush tells: never more done than there is, never fewer bytes done than before.

    When files have to be taken out or written again, there is more to do in all. Touched only by the trio thread.
    """

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._files: Collection[int] = ()
        self._verified: set[int] = set()
        self._done = self._total = 0

    def tell(self, stage: str) -> None:
        """Say how far it is."""
        if self._on_progress is not None:
            self._on_progress(FlushProgress(stage, len(self._verified), len(self._files), self._done, self._total))

    def expect(self, files: Collection[int], size: int) -> None:
        """These files (by inode) are to be stored, and so many bytes are still to be written and verified."""
        self._files = files
        self._verified.intersection_update(files)
        self._total = self._done + size

    def written(self, size: int) -> None:
        """So many bytes of files were written."""
        self._done += size
        self.tell("writing")

    def verified(self, file: int, size: int) -> None:
        """A file was rebuilt and compared."""
        self._done += size
        self._verified.add(file)
        self.tell("verifying")

    def recheck(self, size: int) -> None:
        """So many bytes of the source are to be read once more."""
        self._total = self._done + size
        self.tell("rechecking")

    def rechecked(self, size: int) -> None:
        """So many were."""
        self._done += size
        self.tell("rechecking")


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file that did not reach the store, and why; its bytes are where they were."""

    path: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class FlushResult:
    """What a flush did.

    Attributes
    ----------
    files, bytes : int
        Files that reached the store in this flush, and their size.
    stored_bytes : int
        What they take in the store.
    seconds : float
        From the first look to the committed catalogue.
    receipt : Path or None
        Where the record of it lies; None when there was nothing to do.
    kept : tuple of KeptFile
        What did not reach the store.
    waiting : tuple of KeptFile
        Files that were open for writing, or changed meanwhile: left for the next flush, and no failure.
    source_replaceable : bool or None
        Whether the store alone can replace the source; None when the source was not ingested.
    obstacles : tuple of KeptFile
        What stands against it.
    verify : Verify
        What was done with what was written before anything was given up for it.
    """

    files: int
    bytes: int
    stored_bytes: int
    seconds: float
    receipt: Path | None
    kept: tuple[KeptFile, ...] = ()
    waiting: tuple[KeptFile, ...] = ()
    source_replaceable: bool | None = None
    obstacles: tuple[KeptFile, ...] = ()
    verify: Verify = Verify.FULL

    @property
    def complete(self) -> bool:
        """Whether nothing failed: all that could be stored (`waiting` could not yet) is in the store."""
        return not self.kept

    def to_json(self) -> dict[str, Any]:
        """For `--json` and the control socket."""
        return {
            "complete": self.complete,
            "files": self.files,
            "bytes": self.bytes,
            "stored_bytes": self.stored_bytes,
            "seconds": round(self.seconds, 3),
            "receipt": None if self.receipt is None else os.fspath(self.receipt),
            "kept": [{"path": shown_path(kept.path), "reason": kept.reason} for kept in self.kept],
            "waiting": [{"path": shown_path(waiting.path), "reason": waiting.reason} for waiting in self.waiting],
            "source_replaceable": self.source_replaceable,
            "verify": str(self.verify),
        }
