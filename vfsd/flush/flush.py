"""The flush: plan, write, verify, commit, release.

1. *Plan*: a snapshot of what the catalogue does not have; each dirty file is looked at, and gets its place.
2. *Write*: shards and plain files into a transaction that nobody sees yet; synced.
3. *Verify*, behind the writing: every file is rebuilt from what was written and its digest compared, and so is every
   chunk that was copied from a shard that goes. A file that fails as planes is stored as a plain file instead; one that
   cannot be stored at all is kept, and said. When the source was taken in, it is looked at once more (`replaceable`).
4. *Commit*: the next catalogue, and with it everything, the receipt included, becomes visible at once. The journal is
   synced before, and names that go meanwhile leave whiteouts: its rows are right above either catalogue.
5. *Release*: the journal's rows of it go; tier files of unchanged files become clean. If the daemon or the machine stops
   before that is durable, the next mount's recovery does it.

Whatever goes wrong before the commit leaves store and journal as they were. Files that change meanwhile stay dirty.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections.abc import Collection, Sequence
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import final

import trio

from vfsd.errors import StoredDataDamaged, shown_path
from vfsd.flush.assembly import Assembly, Job
from vfsd.flush.items import Item, ItemChanged
from vfsd.flush.order import FlushOrder, Repair, Verify
from vfsd.flush.parallel import each
from vfsd.flush.progress import FlushResult, KeptFile, OnProgress, Tally
from vfsd.flush.receipt import put_receipt
from vfsd.flush.release import release
from vfsd.flush.replaceable import find_obstacles, unverified_files
from vfsd.flush.selection import Selection, changed_items, is_gone, select
from vfsd.flush.verification import Verification, batches
from vfsd.flush.writing import reason_of
from vfsd.plates import PlateFormats, choose_formats
from vfsd.store import Transaction
from vfsd.tree import Tree

log = logging.getLogger("vfsd.flush")

# A file that fails is taken out and the rest planned again; each round loses at least one file, so this is never reached
# unless a disk fails faster than files do.
MOST_ROUNDS = 1000
BUILD_NAME = "catalog.next"
_flushing: ContextVar[bool] = ContextVar("flushing", default=False)


async def flush_tree(
    tree: Tree,
    *,
    paths: Sequence[bytes] | None = None,
    ingest: bool = False,
    only: Collection[int] | None = None,
    on_progress: OnProgress | None = None,
    formats: PlateFormats | None = None,
    levels: int | None = None,
    verify: Verify = Verify.FULL,
    repair: Repair | None = None,
    archive: bool = False,
) -> FlushResult:
    """Store what the tree has and the store has not.

    Parameters
    ----------
    paths : sequence of bytes, optional
        Only files at or below these paths; everything by default.
    ingest : bool
        Also take in the source's own files.
    only : collection of int, optional
        Of the dirty files only those with these inodes; the others are not even said to be waiting.
    on_progress : callable, optional
        Called on the trio thread.
    formats : PlateFormats, optional
        What the names of plates may mean; all that is known.
    levels : int, optional
        How many times new images are halved for viewers; by default until the smaller side is at most 256 pixels.
    verify : Verify
        How thoroughly what was written is looked at before anything is given up for it.
    repair : Repair, optional
        Make this again, and nothing else.
    archive : bool
        Compress new arrays for few bytes rather than for speed; those that are there stay what they are.

    Raises
    ------
    OSError
        The store's disk failed or is full. Nothing is lost: the store is as it was, or, when it failed at the very end,
        has everything, and the tree keeps its copies as well.
    """
    async with tree.flush_lock:
        token = _flushing.set(True)
        tree.layers.flushing = True
        try:
            if formats is None:
                formats = await trio.to_thread.run_sync(choose_formats)
            order = FlushOrder(formats, paths, ingest, only, levels, verify, repair, archive)
            return await _Flush(tree, order, Tally(on_progress)).run()
        except sqlite3.Error as error:
            raise OSError(f"the catalogue cannot be built ({error})") from error
        finally:
            tree.layers.end_flush()
            _flushing.reset(token)


def is_flushing() -> bool:
    """Whether the caller is part of a flush, and so must not wait for one."""
    return _flushing.get()


@final
class _Flush:
    def __init__(self, tree: Tree, order: FlushOrder, tally: Tally) -> None:
        self._tree = tree
        self._order = order
        self._tally = tally
        self._started = time.monotonic()
        self._began = time.time_ns()
        self._items: dict[int, Item] = {}
        self._kept: dict[int, KeptFile] = {}
        self._force_plain: dict[int, str] = {}

    async def run(self) -> FlushResult:
        self._tally.tell("planning")
        selection = await select(self._tree, self._order)
        if selection.snapshot.empty and self._order.repair is None:
            self._tally.tell("done")
            return self._result(selection, 0)
        self._items = {item.ino: item for item in selection.items}
        self._tally.expect(self._items, 2 * sum(item.size for item in selection.items))  # each is written and verified
        self._tree.tiers.yield_disk(sum(item.size for item in selection.items))
        build = self._tree.journal.path.with_name(BUILD_NAME)
        transaction = await self._begin()
        assembly: Assembly | None = None
        try:
            assembly = Assembly(self._tree, transaction, build, self._order)
            await self._analyse(selection)
            await self._assemble(selection, assembly, transaction)
            await self._look_back(selection, assembly, transaction)
            self._tally.tell("committing")
            result = self._result(selection, transaction.bytes_written)
            result = replace(result, receipt=await self._put_receipt(result, assembly, transaction))
            await trio.to_thread.run_sync(assembly.finish)
            with trio.CancelScope(shield=True):  # from the commit to the release nobody may stop half-way
                await self._commit(selection, assembly, transaction, build)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(transaction.close)
            if assembly is not None:
                assembly.close()
            build.unlink(missing_ok=True)
        result = replace(result, seconds=time.monotonic() - self._started)
        self._tally.tell("done")
        log.info(
            "flushed files=%d bytes=%d stored_bytes=%d seconds=%.3f kept=%d generation=%d",
            result.files, result.bytes, result.stored_bytes, result.seconds, len(result.kept), transaction.generation,
        )  # fmt: skip
        return result

    async def _begin(self) -> Transaction:
        """The next catalogue is made from the one on the disk, which may have been damaged since it was opened."""
        store = self._tree.store
        if not await trio.to_thread.run_sync(store.recover):
            log.error("catalogue_damaged store=%s (mended from its copy)", shown_path(store.root))
            store.mend()
        return store.begin()

    def _result(self, selection: Selection, stored_bytes: int) -> FlushResult:
        kept = (*selection.kept, *self._kept.values())
        obstacles = (*selection.obstacles, *selection.waiting, *kept)
        return FlushResult(
            files=len(self._items),
            bytes=sum(item.size for item in self._items.values()),
            stored_bytes=stored_bytes,
            seconds=time.monotonic() - self._started,
            receipt=None,
            kept=kept,
            waiting=tuple(selection.waiting),
            source_replaceable=not obstacles if self._order.ingest and self._order.paths is None else None,
            obstacles=obstacles,
            verify=self._order.verify,
        )

    @property
    def _takes_source(self) -> bool:
        """Whether the whole source is to be in the store after this."""
        return self._order.ingest and self._order.paths is None and self._tree.source is not None

    async def _look_back(self, selection: Selection, assembly: Assembly, transaction: Transaction) -> None:
        """What no flush has verified is verified now; and whether the source may go is found out."""
        unverified: dict[int, KeptFile] = {}
        if self._order.verify is not Verify.OFF:
            verification = Verification(assembly, transaction, self._tally, self._order.verify)
            unverified = await verification.find_still_unverified()
        selection.obstacles += unverified.values()
        await trio.to_thread.run_sync(assembly.settle, unverified)
        if not self._takes_source:
            return
        if self._order.verify is Verify.OFF:
            selection.obstacles += unverified_files(assembly.builder.read())
            return
        known = [*selection.obstacles, *selection.waiting, *selection.kept, *self._kept.values()]
        catalogue, ingested = assembly.builder.read(), selection.snapshot.ingested
        selection.obstacles += await find_obstacles(self._tree, catalogue, ingested, known, self._tally)

    async def _put_receipt(self, result: FlushResult, assembly: Assembly, transaction: Transaction) -> Path:
        put = partial(put_receipt, repair=self._order.repair is not None)
        return await trio.to_thread.run_sync(
            put, self._tree.store, transaction, result, assembly, list(self._items.values()), self._began
        )

    async def _commit(self, selection: Selection, assembly: Assembly, transaction: Transaction, build: Path) -> None:
        # The rows that a crash leaves beside the new catalogue must not be older than what it was made from: an older
        # whiteout would hide a file that is stored by then. A journal whose disk fails keeps nothing out of the store, though.
        try:
            await self._tree.journal.sync()
        except OSError as error:
            log.error("journal_not_synced_before_the_commit error=%s", error)
        try:
            await trio.to_thread.run_sync(transaction.publish, build)
        except OSError:
            if transaction.committed:
                self._tree.store.adopt_catalogue()
                release(self._tree, selection, assembly, durable=False)
            raise
        self._tree.store.adopt_catalogue()
        release(self._tree, selection, assembly, durable=True)
        await self._tree.journal.sync()

    # --- looking at files

    async def _analyse(self, selection: Selection) -> None:
        # of the rounds during a mount none is the last one: what looks unfinished may have all the time it needs
        at_rest = self._order.only is None

        def look(item: Item) -> None:
            item.analyse()
            item.refuse_unfinished(time.time_ns(), at_rest=at_rest)

        failed: dict[int, str] = {}
        for item, problem in await each(list(self._items.values()), look):
            if isinstance(problem, ItemChanged):  # nothing is wrong with it: a later flush takes it
                selection.waiting.append(KeptFile(item.path, str(problem)))
                del self._items[item.ino]
                continue
            if not isinstance(problem, OSError | StoredDataDamaged):
                raise problem
            failed[item.ino] = reason_of(problem)
        await self._take_out(selection, failed)

    async def _take_out(self, selection: Selection, failed: dict[int, str]) -> bool:
        """Take out the files that failed, and those that changed since the flush began; whether there were any."""
        changed = await changed_items(self._tree, list(self._items.values()))
        for ino, reason in {**failed, **changed}.items():
            item = self._items.pop(ino)
            if ino in changed and not item.ingested:
                if not is_gone(self._tree, item):
                    selection.waiting.append(KeptFile(item.path, reason))
                continue
            self._kept[ino] = KeptFile(item.path, reason)
            log.warning("kept path=%s reason=%s", shown_path(item.path), reason)
        return bool(failed or changed)

    # --- writing and verifying, until everything that is left holds

    async def _assemble(self, selection: Selection, assembly: Assembly, transaction: Transaction) -> None:
        failures = assembly.writer.failures
        verification = Verification(assembly, transaction, self._tally, self._order.verify)
        for _ in range(MOST_ROUNDS):
            damaged_before = len(failures.damaged_shards)
            await assembly.plan(selection, list(self._items.values()), self._force_plain)
            await self._write(assembly, verification)
            failed, failures.kept = failures.kept, {}
            plain, failures.plain = failures.plain, {}
            for ino in plain.keys() & self._items.keys():
                self._store_plain(self._items[ino], plain[ino])
            if await self._take_out(selection, failed) or plain or len(failures.damaged_shards) > damaged_before:
                continue
            await trio.to_thread.run_sync(assembly.complete)
            await trio.to_thread.run_sync(transaction.sync)
            damaged = await verification.finish()
            if not damaged:
                return
            for item, problem in damaged:
                log.error("verification_failed path=%s reason=%s", shown_path(item.path), problem)
                if item.ino in self._force_plain or item.ino not in assembly.placement.planes:
                    self._kept[item.ino] = KeptFile(item.path, f"verification failed: {problem}")
                    del self._items[item.ino]
                else:
                    self._store_plain(item, f"verification failed: {problem}")
        raise OSError("files kept failing while they were being stored")

    def _store_plain(self, item: Item, reason: str) -> None:
        """From the next round on a file is a plain file, whatever it is an image of."""
        self._force_plain[item.ino] = reason
        item.notes.append(reason)

    async def _write(self, assembly: Assembly, verification: Verification) -> None:
        """Carry out the jobs; each batch is verified while the next one is written."""
        jobs = await trio.to_thread.run_sync(assembly.jobs)
        outstanding = verification.begin(jobs)
        self._tally.expect(self._items, sum(job.size for job in jobs) + outstanding)
        problems: list[Exception] = []

        def run(job: Job) -> None:
            job.run()

        async def follow(written: trio.MemoryReceiveChannel[list[Job]]) -> None:
            async with written:
                try:
                    await verification.follow(written)
                except Exception as problem:
                    problems.append(problem)

        async with trio.open_nursery() as nursery:
            done, written = trio.open_memory_channel[list[Job]](1)
            nursery.start_soon(follow, written)
            async with done:
                for batch in batches(jobs):
                    failed = await each(batch, run, lambda job: self._tally.written(job.size))
                    problems += [problem for _, problem in failed]
                    if problems:
                        break
                    with contextlib.suppress(trio.BrokenResourceError):  # then `follow` has a problem
                        await done.send(batch)
        if problems:
            raise problems[0]
