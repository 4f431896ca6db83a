"""Checking a store: the whole of it or a sample; by rebuilding every file, or by digests of what lies on the disk.

*Rebuilding* compares each file with its digest, the images' levels with what the full size gives, and metadata and receipts
with their digests. *By digests* reads every object once and rebuilds nothing; only of what does not match it is found out
which files are concerned. Either names what is damaged: files by their paths, the rest by keys of the store. The catalogue,
its copy and its seal are always looked at. Nothing is written.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, final

from vfsd.errors import StoredDataDamaged, UnfitError
from vfsd.flush.damage import Damage, Damaged
from vfsd.flush.levels import check_level_plane
from vfsd.flush.parallel import WORKERS
from vfsd.flush.shards import LevelShard, shard_key, shard_place
from vfsd.flush.writing import reason_of
from vfsd.store import InodeRecord, Kind, Store
from vfsd.store.header import HEADER, header_bytes, read_header
from vfsd.store.intents import COPY_KEY, is_publishing
from vfsd.store.objects import ObjectDigest, check_object
from vfsd.store.pyramid import level_geometry
from vfsd.store.seal import CATALOGUE_KEY, check_copies
from vfsd.store.storage import forget_pages
from vfsd.store.stored import StoredFile, folder_of, group_geometry, group_levels

# Files described ahead of the workers: enough to keep them busy, few enough that skeletons do not pile up in memory.
AHEAD = 4 * WORKERS
# A writer that publishes is waited for so long, seconds: it syncs what it writes, which takes a slow disk a while. And how
# often it is looked whether it is done.
PATIENCE, PAUSE = 60.0, 0.1

T = TypeVar("T")
OnFile = Callable[[int, int, int], None]


@final
@dataclass(frozen=True, slots=True)
class Sample:
    """How many to look at, as a number or a part of all, and the seed by which they are chosen: the same one, the same files."""

    number: int | None
    part: float | None
    seed: int

    def choose(self, everything: Collection[T]) -> set[T]:
        """Some of them; at least one where there is any."""
        ordered = list(everything)
        number = self.number if self.number is not None else round((self.part or 0.0) * len(ordered))
        number = min(len(ordered), max(1, number))
        return set(random.Random(self.seed).sample(ordered, number))


@final
@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked; sizes in bytes.

    Attributes
    ----------
    files, bytes : int
        What was looked at: files, or, by digests, objects of the store.
    of : int
        How many there are.
    without_digest : int
        By digests: files of which the catalogue of an older vfsd does not say what lies on the disk.
    """

    files: int
    bytes: int
    of: int
    damaged: tuple[Damaged, ...]
    without_digest: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything that was looked at is as it was."""
        return not self.damaged


def verify_store(
    root: Path, *, digests: bool = False, sample: Sample | None = None, on_progress: OnFile | None = None
) -> VerifyReport:
    """Check a store; see the module.

    Parameters
    ----------
    digests : bool
        Rebuild nothing: compare digests of what lies on the disk.
    sample : Sample, optional
        Look at so many files (by digests: objects) only.
    on_progress : callable, optional
        Called with what is done, what there is to do, bytes done.

    Raises
    ------
    UnfitError, StoredDataDamaged
        There is no store, or neither its catalogue nor the copy of that can be read.
    """
    with contextlib.closing(open_any(root, writable=False)) as store:
        report = check_store(store, digests=digests, sample=sample, on_progress=on_progress)
        if report.ok or not _has_changed(root, store):
            return report
    # a flush published meanwhile what was looked for under the keys of before
    with contextlib.closing(open_any(root, writable=False)) as store:
        return check_store(store, digests=digests, sample=sample, on_progress=on_progress)


def _has_changed(root: Path, store: Store) -> bool:
    """Whether a writer committed another generation since the store was opened; one that is just at it is waited for."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with contextlib.closing(open_any(root, writable=False)) as now:  # undoes what a dead writer left
                if now.catalogue.generation != store.catalogue.generation:
                    return True
        except (UnfitError, StoredDataDamaged):
            return False
        if not is_publishing(store.storage) or time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)


def open_any(root: Path, *, writable: bool) -> Store:
    """Open a store, also one whose header is damaged; that is among what is found then."""
    try:
        return Store.open(root, writable=writable)
    except UnfitError as problem:
        if (
            not any((root / os.fsdecode(key)).exists() for key in (CATALOGUE_KEY, COPY_KEY))
            or "newer" in problem.message
        ):
            raise
        with contextlib.suppress(UnfitError):
            read_header(root)
            raise  # the header is not what is the matter
        try:
            store = Store.open(root, writable=writable, damaged_header=True)
        except (UnfitError, StoredDataDamaged):
            raise problem from None
        return store


def check_store(
    store: Store, *, digests: bool = False, sample: Sample | None = None, on_progress: OnFile | None = None
) -> VerifyReport:
    """The same of an open store."""
    _forget_pages(store)
    damaged = [Damaged(key, trouble, Damage.STORE) for key, trouble in _damaged_parts(store)]
    with ThreadPoolExecutor(WORKERS, "verify") as pool:
        checker = _ObjectsChecker if digests else _FilesChecker
        return checker(store, pool, sample, on_progress).run(damaged)


def _forget_pages(store: Store) -> None:
    """What is looked at is what the disk holds, not what the kernel remembers of it."""
    for folder in (b"images", b"files", b"receipts"):
        for key, _ in store.storage.list_keys(folder):
            forget_pages(store.storage.path(key))


def _damaged_parts(store: Store) -> Iterator[tuple[bytes, str]]:
    yield from store.damaged
    said = {key for key, _ in store.damaged}
    if b"catalog.sqlite" not in said:
        yield from ((key, trouble) for key, trouble in check_copies(store.storage) if key not in said)
    try:
        content = (store.root / HEADER).read_bytes()
    except FileNotFoundError:
        yield HEADER.encode(), "is missing"
    except OSError as problem:
        yield HEADER.encode(), reason_of(problem)
    else:
        if content != header_bytes(store.id):
            yield HEADER.encode(), "is not as it was written"


class _Checker:
    """What both ways of checking share: the workers, and counting."""

    def __init__(
        self, store: Store, pool: ThreadPoolExecutor, sample: Sample | None, on_progress: OnFile | None
    ) -> None:
        self.store = store
        self.pool = pool
        self.sample = sample
        self.done = self.bytes = self.of = self.total = 0
        self._on_progress = on_progress

    def count(self, size: int) -> None:
        """One more was looked at."""
        self.done += 1
        self.bytes += size
        if self._on_progress is not None:
            self._on_progress(self.done, self.total, self.bytes)

    def checked(self, jobs: Iterable[tuple[T, Callable[[], str | None]]]) -> Iterator[tuple[T, str | None]]:
        """(thing, trouble) of each, in order; the calls run in the workers, some ahead."""
        waiting: deque[tuple[T, Future[str | None]]] = deque()
        for thing, call in jobs:
            waiting.append((thing, self.pool.submit(call)))
            if len(waiting) >= AHEAD:
                first, job = waiting.popleft()
                yield first, job.result()
        for first, job in waiting:
            yield first, job.result()

    def damaged_files(self, inos: Collection[int] | None, *, count: bool) -> Iterator[Damaged]:
        """Rebuild files (all by default); those that cannot be."""
        files = stored_files(self.store, inos)
        jobs = (((path, record), _file_check(stored)) for path, record, stored in files)
        for (path, record), trouble in self.checked(jobs):
            if count:
                self.count(record.size)
            if trouble is not None:
                yield Damaged(path, trouble, Damage.FILE, record.ino)

    def damaged_objects(
        self, objects: Iterable[tuple[bytes, ObjectDigest]], *, count: bool
    ) -> Iterator[tuple[bytes, str]]:
        """(key, trouble) of objects that the disk does not hold as they were written."""
        jobs = ((one, _object_check(self.store, *one)) for one in objects)
        for (key, known), trouble in self.checked(jobs):
            if count:
                self.count(known.size)
            if trouble is not None:
                yield key, trouble


@final
class _FilesChecker(_Checker):
    """By rebuilding."""

    def run(self, damaged: list[Damaged]) -> VerifyReport:
        catalogue = self.store.catalogue
        self.of, _ = catalogue.totals()
        inos = None if self.sample is None else self.sample.choose(catalogue.stored_inos())
        self.total = self.of if inos is None else len(inos)
        damaged += self.damaged_files(inos, count=True)
        if inos is None:
            copies = self._shards_of_copies()
            apart = ((key, known) for key, known in catalogue.objects.all() if is_apart(key) or key in copies)
            damaged += [
                Damaged(key, trouble, kind_of(key)) for key, trouble in self.damaged_objects(apart, count=False)
            ]
        damaged += self._damaged_levels(inos, {one.ino for one in damaged}, {one.path for one in damaged})
        return VerifyReport(self.done, self.bytes, self.of, tuple(damaged))

    def _shards_of_copies(self) -> set[bytes]:
        """Shards with the decoded pixels of compressed images, which are not rebuilt from them."""
        catalogue = self.store.catalogue
        keys: set[bytes] = set()
        for group, plane in catalogue.planes_of_plain_files():
            with contextlib.suppress(StoredDataDamaged):
                geometry = group_geometry(group)
                place = shard_place(geometry, plane)
                keys |= set() if place is None else {shard_key(group, geometry, place)}
        return keys

    def _damaged_levels(
        self, inos: Collection[int] | None, damaged_inos: set[int], damaged_keys: set[bytes]
    ) -> Iterator[Damaged]:
        """Shards of the images' levels that are not what the full size gives; each is said once.

        A plane of a damaged file, or in a damaged shard, is not what its levels were made of: it says nothing of them.
        """
        said: set[bytes] = set()
        jobs = self._level_jobs(inos, damaged_inos, damaged_keys)
        for _, found in self.checked(jobs):
            if found is None:
                continue
            key, _, trouble = found.partition("\0")
            level = key.encode("utf-8", "surrogateescape")
            if level not in said:
                said.add(level)
                yield Damaged(level, trouble, Damage.LEVEL)

    def _level_jobs(
        self, inos: Collection[int] | None, damaged_inos: set[int], damaged_keys: set[bytes]
    ) -> Iterator[tuple[None, Callable[[], str | None]]]:
        catalogue = self.store.catalogue
        for group in catalogue.groups():
            try:
                geometry, (count, method) = group_geometry(group), group_levels(group)
            except StoredDataDamaged:
                continue  # its files say so
            if not count:
                continue
            for plane in catalogue.planes_of_group(group.id):
                place = shard_place(geometry, plane)
                if place is None or plane.ino in damaged_inos or (inos is not None and plane.ino not in inos):
                    continue
                keys = [shard_key(group, geometry, place, level) for level in range(count + 1)]
                if keys[0] in damaged_keys:
                    continue
                levels = [LevelShard(key, key, level_geometry(geometry, n)) for n, key in enumerate(keys[1:], 1)]
                arguments = (self.store.files.shards, (keys[0], geometry), levels, method, plane)

                def check(arguments: tuple[object, ...] = arguments) -> str | None:
                    found = check_level_plane(*arguments)  # type: ignore[arg-type]  # bound when it was made
                    return None if found is None else found[0].decode("utf-8", "surrogateescape") + "\0" + found[1]

                yield None, check


@final
class _ObjectsChecker(_Checker):
    """By digests."""

    def run(self, damaged: list[Damaged]) -> VerifyReport:
        catalogue = self.store.catalogue
        self.of, _ = catalogue.objects.totals()
        files, _ = catalogue.totals()
        wanted = None if self.sample is None else self.sample.choose([key for key, _ in catalogue.objects.all()])
        self.total = self.of if wanted is None else len(wanted)
        objects = ((key, known) for key, known in catalogue.objects.all() if wanted is None or key in wanted)
        troubles = dict(self.damaged_objects(objects, count=True))
        concerned = self._files_in(troubles)
        found = list(self.damaged_files({ino for inos in concerned.values() for ino in inos}, count=False))
        damaged += found
        named = {one.ino for one in found}
        for key, trouble in troubles.items():
            inos = concerned.get(key)
            if inos is None:
                damaged.append(Damaged(key, trouble, kind_of(key)))
            elif not named & inos:
                damaged.append(Damaged(key, trouble, Damage.COPY))
        missing = files if not catalogue.objects.is_there else 0
        return VerifyReport(self.done, self.bytes, self.of, tuple(damaged), missing)

    def _files_in(self, keys: Collection[bytes]) -> dict[bytes, set[int]]:
        """The files that are rebuilt from each of these objects; levels and metadata have none and are left out."""
        catalogue = self.store.catalogue
        found: dict[bytes, set[int]] = {}
        if not keys:
            return found
        for key in keys:
            owner = catalogue.owner_of_location(key)
            if owner is not None:
                found.setdefault(key, set()).add(owner)
        for group in catalogue.groups():
            if not any(key.startswith(folder_of(group) + b"/") for key in keys):
                continue
            try:
                geometry = group_geometry(group)
            except StoredDataDamaged:
                continue
            for plane in catalogue.planes_of_group(group.id):
                place = shard_place(geometry, plane)
                key = b"" if place is None else shard_key(group, geometry, place)
                if key in keys:
                    found.setdefault(key, set()).add(plane.ino)
        return found


def is_apart(key: bytes) -> bool:
    """Whether an object is one that no file and no level is compared through: metadata, or a receipt."""
    return key.startswith(b"receipts/") or (key.startswith(b"images/") and key.endswith(b"/zarr.json"))


def kind_of(key: bytes) -> Damage:
    """What a damaged object is that belongs to no file."""
    if key.startswith(b"receipts/"):
        return Damage.RECEIPT
    if key.endswith(b"/zarr.json"):
        return Damage.METADATA
    return Damage.LEVEL if key.rpartition(b"/")[0].rpartition(b"/")[2] != b"0" else Damage.COPY


def _file_check(stored: StoredFile | Exception) -> Callable[[], str | None]:
    def check() -> str | None:
        if isinstance(stored, Exception):
            return str(stored)
        try:
            stored.check()
        except StoredDataDamaged as problem:
            return str(problem)
        except OSError as problem:
            return reason_of(problem)
        return None

    return check


def _object_check(store: Store, key: bytes, known: ObjectDigest) -> Callable[[], str | None]:
    def check() -> str | None:
        try:
            check_object(store.storage, key, known)
        except (StoredDataDamaged, OSError) as problem:
            return reason_of(problem)
        return None

    return check


def stored_files(
    store: Store, inos: Collection[int] | None = None
) -> Iterator[tuple[bytes, InodeRecord, StoredFile | Exception]]:
    """(path, record, stored file) of every file that the store holds (or of these), once an inode; what cannot be described
    is its error.
    """
    seen: set[int] = set()
    for path, record in store.catalogue.walk():
        if record.kind not in (Kind.PLANES, Kind.PLAIN) or record.ino in seen:
            continue
        if inos is not None and record.ino not in inos:
            continue
        seen.add(record.ino)
        try:
            yield path, record, store.files.describe(record)
        except StoredDataDamaged as problem:
            yield path, record, problem
