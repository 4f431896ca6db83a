"""Checking a whole store: every file is rebuilt, and its digest compared; then the images' smaller levels are."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from vfsd.errors import StoredDataDamaged, shown_path
from vfsd.flush.levels import check_level_plane
from vfsd.flush.parallel import WORKERS
from vfsd.flush.shards import LevelShard, shard_key, shard_place
from vfsd.store import InodeRecord, Kind, Store
from vfsd.store.pyramid import level_geometry
from vfsd.store.stored import StoredFile, group_geometry, group_levels

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
    """Rebuild every file of a store and compare its digest, and its images' levels with their planes; nothing is written.

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
            damaged += _damaged_levels(store, pool)
        return VerifyReport(files, size, tuple(damaged))


def _damaged_levels(store: Store, pool: ThreadPoolExecutor) -> Iterator[DamagedFile]:
    """Shards of the images' levels that are not what the full size gives; each is said once."""
    said: set[bytes] = set()

    def settle(job: Future[tuple[bytes, str] | None]) -> Iterator[DamagedFile]:
        found = job.result()
        if found is not None and found[0] not in said:
            said.add(found[0])
            yield DamagedFile(found[0], f"{found[1]}; it is a smaller copy for viewers: no file is concerned")

    waiting: deque[Future[tuple[bytes, str] | None]] = deque()
    for group in store.catalogue.groups():
        try:
            geometry, (count, method) = group_geometry(group), group_levels(group)
        except StoredDataDamaged:
            continue  # its files say so
        if not count:
            continue
        for plane in store.catalogue.planes_of_group(group.id):
            place = shard_place(geometry, plane)
            if place is None:
                continue
            keys = [shard_key(group, geometry, place, level) for level in range(count + 1)]
            levels = [LevelShard(key, key, level_geometry(geometry, n)) for n, key in enumerate(keys[1:], 1)]
            full = keys[0], geometry
            waiting.append(pool.submit(check_level_plane, store.files.shards, full, levels, method, plane))
            if len(waiting) >= AHEAD:
                yield from settle(waiting.popleft())
    for job in waiting:
        yield from settle(job)


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
