"""Verification: every file that was written is rebuilt from the transaction and compared with its digest.

It runs behind the writing, a batch at a time: while one batch is compressed, the one before it is synced, evicted from the
page cache where that can be had, read back and compared. What is left, and what depends on the finished catalogue, is
done at the end: objects that no file is rebuilt from (levels, metadata) are compared with what was written. A file that
was written again is verified again. `Verify` says what of this is left out when less is asked for.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable
from itertools import islice
from typing import final

import trio

from vfsd.errors import StoredDataDamaged
from vfsd.flush.assembly import Assembly, Job
from vfsd.flush.items import Item
from vfsd.flush.order import Verify
from vfsd.flush.parallel import each
from vfsd.flush.progress import KeptFile, Tally
from vfsd.flush.shards import ShardJob
from vfsd.store import Kind, StoredFiles, Transaction
from vfsd.store.objects import ObjectDigest, check_object
from vfsd.store.stored import StoredFile, StoredPlane

# Files that are described ahead of their verification: enough to keep the workers busy, few enough that the skeletons of
# a whole plate are not in memory at once.
VERIFIED_AT_ONCE = 256
# Bytes of files in a batch: one sync of the disk for each (1-20 ms), and little enough that reading back begins early.
BATCH_BYTES = 256 << 20


def batches(jobs: Iterable[Job]) -> Iterable[list[Job]]:
    """The jobs in their order, in batches of about `BATCH_BYTES`."""
    batch: list[Job] = []
    size = 0
    for job in jobs:
        batch.append(job)
        size += job.size
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@final
class Verification:
    """What of one flush has been compared, and what was found. Touched only by the trio thread."""

    def __init__(self, assembly: Assembly, transaction: Transaction, tally: Tally, how: Verify) -> None:
        self._how = how
        self._assembly = assembly
        self._transaction = transaction
        self._tally = tally
        self._stored: StoredFiles | None = None
        self._items: dict[int, Item] = {}
        self._waiting_for: dict[int, set[bytes]] = {}
        self._needed_by: dict[bytes, list[int]] = {}
        self._passed: dict[int, tuple[bytes | None, tuple[StoredPlane, ...]]] = {}
        self._damaged: dict[int, StoredDataDamaged] = {}
        self._read_back: dict[bytes, ObjectDigest] = {}

    def begin(self, jobs: Iterable[Job]) -> int:
        """A round of writing begins: what it writes again is no longer verified; bytes of files that are to be."""
        self._stored = StoredFiles(self._assembly.builder.read(), self._transaction)
        self._items = {item.ino: item for item in self._assembly.items}
        self._waiting_for = self._assembly.needed_keys()
        self._needed_by = {}
        for ino, keys in self._waiting_for.items():
            for key in keys:
                self._needed_by.setdefault(key, []).append(ino)
        self._damaged.clear()
        fresh = {key for job in jobs for key in job.keys}
        for key in fresh:
            for ino in self._needed_by.get(key, ()):
                self._passed.pop(ino, None)
        for keys in self._waiting_for.values():
            keys &= fresh
        return sum(item.size for ino, item in self._items.items() if ino not in self._passed)

    async def follow(self, written: trio.MemoryReceiveChannel[list[Job]]) -> None:
        """Sync and verify each batch of jobs that was carried out; returns when the channel is closed.

        Raises
        ------
        OSError
            The store's disk failed.
        """
        async for batch in written:
            keys = {key for job in batch for key in job.keys}
            if self._how is not Verify.OFF:
                await trio.to_thread.run_sync(self._transaction.sync, keys)
            if self._how is Verify.DIGEST:
                await self._compare_objects(keys)
            rebuilt, rest = self._to_rebuild(self._ready(keys))
            await self._compare([(item, self._as_written(item)) for item in rebuilt])
            for item in rest:
                self._tally.verified(item.ino, item.size)

    def _to_rebuild(self, ready: list[Item]) -> tuple[list[Item], list[Item]]:
        """Which of these are compared as files, and the rest.

        By digests those are that were not written but moved as they lie there: what they do not match is their own damage.
        """
        if self._how is not Verify.DIGEST:
            return (ready, []) if self._how is Verify.FULL else ([], ready)
        rebuilt: list[Item] = []
        rest: list[Item] = []
        for item in ready:
            moved = item.stored is not None and item.stored.record.location is not None
            (rebuilt if moved else rest).append(item)
        return rebuilt, rest

    def _ready(self, written: Collection[bytes]) -> list[Item]:
        """Items of which the last object is among these, with nothing amiss."""
        ready: list[Item] = []
        for key in written:
            for ino in self._needed_by.get(key, ()):
                self._waiting_for[ino].discard(key)
                if not self._waiting_for[ino] and self._assembly.is_written(self._items[ino]):
                    ready.append(self._items[ino])
        return ready

    def _as_written(self, item: Item) -> StoredFile:
        assert self._stored is not None
        record, skeleton, planes = self._assembly.as_written(item)
        places = tuple(self._stored.plane(plane) for plane in planes)
        return StoredFile(record, skeleton, places, self._transaction, self._stored.shards)

    async def _compare(self, files: list[tuple[Item, StoredFile]]) -> None:
        def check(pair: tuple[Item, StoredFile]) -> None:
            pair[1].check()

        def passed(pair: tuple[Item, StoredFile]) -> None:
            item, stored = pair
            self._passed[item.ino] = (stored.record.digest, stored.planes)
            self._tally.verified(item.ino, item.size)

        for (item, _), problem in await each(files, check, passed):
            if not isinstance(problem, StoredDataDamaged):
                raise problem
            self._damaged[item.ino] = problem

    async def _compare_objects(self, keys: Collection[bytes]) -> None:
        """Whether the disk has what was written; raises OSError: it does not keep what is written to it."""

        def compare(pair: tuple[bytes, ObjectDigest]) -> None:
            key, expected = pair
            try:
                check_object(self._transaction, key, expected)
            except StoredDataDamaged as problem:
                raise OSError(errno.EIO, f"does not read back as it was written ({problem.message})", key) from problem

        digests = self._transaction.digests | self._transaction.copies
        fresh = [(key, digests[key]) for key in keys if key in digests and not self._transaction.is_link(key)]
        # by identity: the same bytes written again are another object on the disk
        fresh = [(key, digest) for key, digest in fresh if self._read_back.get(key) is not digest]
        for _, problem in await each(fresh, compare):
            raise problem
        self._read_back.update(fresh)

    def _no_files(self) -> set[bytes]:
        """Keys of written objects that no file of this flush is rebuilt from."""
        rebuilt_from = {key for key, needed_by in self._needed_by.items() if needed_by}
        return {key for key in self._transaction.written_keys if key not in rebuilt_from}

    async def finish(self) -> list[tuple[Item, StoredDataDamaged]]:
        """The catalogue is complete: verify what is left, from what it says; returns the files that differ.

        Of files that were verified before, the catalogue must say what they were verified with.

        Raises
        ------
        OSError
            The store's disk failed.
        """
        if self._how is Verify.OFF:
            return []
        if self._how is Verify.DIGEST:
            await self._compare_objects(self._transaction.written_keys)
            return self._differing()
        assert self._stored is not None
        stored = self._stored

        def describe(items: Iterable[Item]) -> list[tuple[Item, StoredFile]]:
            return [(item, stored.describe(self._assembly.record(item))) for item in items]

        waiting = iter([item for item in self._assembly.items if item.ino not in self._damaged])
        while some := list(islice(waiting, VERIFIED_AT_ONCE)):
            described = await trio.to_thread.run_sync(describe, some)
            await self._compare([pair for pair in described if not self._is_verified(*pair)])

        def compare_kept(job: ShardJob) -> None:
            self._assembly.writer.compare_kept(job)

        for _, problem in await each([job for job in self._assembly.shards if job.kept], compare_kept):
            raise problem
        await self._compare_objects(self._no_files())
        return self._differing()

    def _differing(self) -> list[tuple[Item, StoredDataDamaged]]:
        return [(item, self._damaged[item.ino]) for item in self._assembly.items if item.ino in self._damaged]

    async def find_still_unverified(self) -> dict[int, KeptFile]:
        """Files that an earlier flush stored without verifying them and that cannot be rebuilt as they were."""
        catalogue = self._assembly.builder.read()
        stored = StoredFiles(catalogue, self._transaction)
        storing = {item.ino for item in self._assembly.items}
        waiting = iter([ino for ino in catalogue.taken.unverified() if ino not in storing])
        found: dict[int, KeptFile] = {}

        def keep(ino: int, problem: Exception) -> None:
            found[ino] = KeptFile(catalogue.path_of(ino), f"cannot be rebuilt as it was ({problem})")

        def describe(inos: Iterable[int]) -> list[StoredFile]:
            files = []
            for ino in inos:
                record = catalogue.inode(ino)
                if record is not None and record.kind in (Kind.PLANES, Kind.PLAIN):
                    try:
                        files.append(stored.describe(record))
                    except StoredDataDamaged as problem:
                        keep(ino, problem)
            return files

        while some := list(islice(waiting, VERIFIED_AT_ONCE)):
            described = await trio.to_thread.run_sync(describe, some)
            for file, problem in await each(described, StoredFile.check):
                if not isinstance(problem, StoredDataDamaged | OSError):
                    raise problem
                keep(file.record.ino, problem)
        return found

    def _is_verified(self, item: Item, stored: StoredFile) -> bool:
        return self._passed.get(item.ino) == (stored.record.digest, stored.planes)
