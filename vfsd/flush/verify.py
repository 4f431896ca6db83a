"""Checking a whole store: every file is rebuilt, and its digest compared."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vfsd.errors import StoredDataDamaged, shown_path
from vfsd.flush.parallel import WORKERS
from vfsd.store import InodeRecord, Kind, Store
from vfsd.store.stored import StoredFile

# Files described ahead of the workers: enough to keep them busy, few enough that skeletons do not pile up in memory.
AHEAD = 4 * WORKERS


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """A file that the store cannot give back as it was, and why."""

    path: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked; sizes in bytes."""

    files: int
    bytes: int
    damaged: tuple[DamagedFile, ...]

    @property
    def ok(self) -> bool:
        """Whether every file is as it was."""
        return not self.damaged


OnFile = Callable[[int, int, int], None]


def verify_store(root: Path, *, on_progress: OnFile | None = None) -> VerifyReport:
    """Rebuild every file of a store and compare its digest; nothing is written.

    Parameters
    ----------
    on_progress : callable, optional
        Called with files done, files in all, bytes done.

    Raises
    ------
    UnfitError, StoredDataDamaged
        There is no store, or its catalogue cannot be read.
    """
    with contextlib.closing(Store.open(root, writable=False)) as store:
        total, _ = store.catalogue.totals()
        files = size = 0
        damaged: list[DamagedFile] = []

        def check(stored: StoredFile | Exception) -> str | None:
            if isinstance(stored, Exception):
                return str(stored)
            try:
                stored.check()
            except StoredDataDamaged as problem:
                return str(problem)
            except OSError as problem:
                return problem.strerror or str(problem)
            return None

        def settle(path: bytes, record: InodeRecord, problem: str | None) -> None:
            nonlocal files, size
            files += 1
            size += record.size
            if problem is not None:
                damaged.append(DamagedFile(path, problem))
            if on_progress is not None:
                on_progress(files, total, size)

        with ThreadPoolExecutor(WORKERS, "verify") as pool:
            waiting = []
            for path, record, stored in stored_files(store):
                waiting.append((path, record, pool.submit(check, stored)))
                if len(waiting) >= AHEAD:
                    path, record, job = waiting.pop(0)
                    settle(path, record, job.result())
            for path, record, job in waiting:
                settle(path, record, job.result())
        return VerifyReport(files, size, tuple(damaged))


def stored_files(store: Store) -> Iterator[tuple[bytes, InodeRecord, StoredFile | Exception]]:
    """(path, record, stored file) of every file that the store holds, once an inode; what cannot be described is its error."""
    seen: set[int] = set()
    for path, record in store.catalogue.walk():
        if record.kind not in (Kind.PLANES, Kind.PLAIN) or record.ino in seen:
            continue
        seen.add(record.ino)
        try:
            yield path, record, store.files.describe(record)
        except StoredDataDamaged as problem:
            yield path, record, problem


def described(damaged: DamagedFile) -> str:
    """One line for people."""
    return f"{shown_path(damaged.path)}: {damaged.reason}"
