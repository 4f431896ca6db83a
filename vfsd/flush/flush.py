"""The flush: plan, write, verify, commit, release.

1. *Plan*: a snapshot of what the catalogue does not have; each dirty file is looked at, and gets its place.
2. *Write*: shards and plain files into a transaction that nobody sees yet; synced.
3. *Verify*: every file is rebuilt from what was written and its digest compared. A file that fails as planes is stored as
   a plain file instead; one that cannot be stored at all is kept, and said.
4. *Commit*: the next catalogue, and with it everything, becomes visible at once.
5. *Release*: the journal's rows of it go; tier files of unchanged files become clean.

Whatever goes wrong before the commit leaves store and journal as they were. Files that change meanwhile stay dirty.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

import trio

from vfsd.errors import StoredDataDamaged, shown_path
from vfsd.flush.assembly import Assembly, Job
from vfsd.flush.items import Item
from vfsd.flush.parallel import each
from vfsd.flush.progress import FlushProgress, FlushResult, KeptFile, OnProgress
from vfsd.flush.receipt import write_receipt
from vfsd.flush.release import release
from vfsd.flush.selection import Selection, changed_items, select
from vfsd.store import StoredFiles, Transaction
from vfsd.store.stored import StoredFile
from vfsd.tree import Tree

log = logging.getLogger("vfsd.flush")

# A file that fails is taken out and the rest planned again; each round loses at least one file, so this is never reached
# unless a disk fails faster than files do.
MOST_ROUNDS = 1000
BUILD_NAME = "catalog.next"


async def flush_tree(
    tree: Tree,
    *,
    paths: Sequence[bytes] | None = None,
    ingest: bool = False,
    on_progress: OnProgress | None = None,
) -> FlushResult:
    """Store what the tree has and the store has not.

    Parameters
    ----------
    paths : sequence of bytes, optional
        Only files at or below these paths; everything by default.
    ingest : bool
        Also take in the source's own files.
    on_progress : callable, optional
        Called on the trio thread.

    Raises
    ------
    OSError
        The store's disk failed or is full; nothing was changed, nothing is lost.
    """
    async with tree.flush_lock:
        return await _Flush(tree, paths, ingest, on_progress).run()


@final
class _Flush:
    def __init__(self, tree: Tree, paths: Sequence[bytes] | None, ingest: bool, on_progress: OnProgress | None) -> None:
        self._tree = tree
        self._paths = paths
        self._ingest = ingest
        self._on_progress = on_progress
        self._started = time.monotonic()
        self._began = time.time_ns()
        self._files_total = self._files_done = self._bytes_total = self._bytes_done = 0

    def _tell(self, stage: str, files: int = 0, size: int = 0) -> None:
        self._files_done += files
        self._bytes_done += size
        if self._on_progress is not None:
            self._on_progress(
                FlushProgress(stage, self._files_done, self._files_total, self._bytes_done, self._bytes_total)
            )

    async def run(self) -> FlushResult:
        self._tell("planning")
        await self._keep_open_unlinked()
        selection = await select(self._tree, self._paths, ingest=self._ingest)
        if selection.snapshot.empty:
            self._tell("done")
            return self._result(selection, {}, None, 0)
        items = {item.ino: item for item in selection.items}
        self._files_total = len(items)
        self._bytes_total = 2 * sum(item.size for item in items.values())  # each is written and verified
        kept: dict[int, KeptFile] = {}
        build = self._tree.journal.path.with_name(BUILD_NAME)
        transaction = self._tree.store.begin()
        try:
            await self._analyse(items, kept)
            assembly = await self._assemble(selection, items, kept, transaction, build)
            self._tell("committing")
            catalogue = self._tree.store.catalogue
            generation = catalogue.generation + 1
            assembly.builder.set_meta("generation", generation)
            assembly.finish()
            with trio.CancelScope(shield=True):  # from the commit to the release nobody may stop half-way
                await trio.to_thread.run_sync(transaction.publish, build)
                self._tree.store.adopt_catalogue()
                release(self._tree, selection, assembly)
                await self._tree.journal.sync()
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(transaction.abandon)
            build.unlink(missing_ok=True)
        result = self._result(selection, items, kept, transaction.bytes_written)
        receipt = await trio.to_thread.run_sync(
            write_receipt, self._tree.store, result, assembly, list(items.values()), self._began
        )
        self._tell("done")
        log.info(
            "flushed files=%d bytes=%d stored_bytes=%d seconds=%.3f kept=%d generation=%d",
            result.files, result.bytes, result.stored_bytes, result.seconds, len(result.kept), generation,
        )  # fmt: skip
        return self._with_receipt(result, receipt)

    def _result(
        self,
        selection: Selection,
        items: dict[int, Item],
        kept: dict[int, KeptFile] | None,
        stored_bytes: int,
    ) -> FlushResult:
        all_kept = (*selection.kept, *(kept or {}).values())
        obstacles = (
            *selection.obstacles,
            *selection.waiting,
            *((kept or {}).values() if self._ingest else ()),
        )
        return FlushResult(
            files=len(items),
            bytes=sum(item.size for item in items.values()),
            stored_bytes=stored_bytes,
            seconds=time.monotonic() - self._started,
            receipt=None,
            kept=all_kept,
            waiting=tuple(selection.waiting),
            source_replaceable=not obstacles if self._ingest and self._paths is None else None,
            obstacles=tuple(obstacles),
        )

    @staticmethod
    def _with_receipt(result: FlushResult, receipt: Path) -> FlushResult:
        return replace(result, receipt=receipt)

    async def _keep_open_unlinked(self) -> None:
        """Stored files that are open but have no name any more: what the store has of them goes with this flush."""
        for node in list(self._tree.layers.nodes.values()):
            if node.record.nlink == 0 and node.opens > 0 and node.record.kind.is_file and not node.dirty:
                await self._tree.contents.make_private(node)

    # --- looking at files

    async def _analyse(self, items: dict[int, Item], kept: dict[int, KeptFile]) -> None:
        def look(item: Item) -> None:
            item.analyse()

        problems = await each(list(items.values()), look)
        for item, problem in problems:
            if isinstance(problem, OSError | StoredDataDamaged):
                kept[item.ino] = KeptFile(item.path, _reason(problem))
                del items[item.ino]
            else:
                raise problem

    # --- writing and verifying, until everything that is left holds

    async def _assemble(
        self,
        selection: Selection,
        items: dict[int, Item],
        kept: dict[int, KeptFile],
        transaction: Transaction,
        build: Path,
    ) -> Assembly:
        force_plain: dict[int, str] = {}
        assembly = Assembly(self._tree, transaction, build)
        for _ in range(MOST_ROUNDS):
            await assembly.plan(selection, list(items.values()), force_plain)
            await self._write(assembly)
            failed = dict(assembly.writer.failures.reasons)
            for ino, reason in (await changed_items(self._tree, list(items.values()))).items():
                failed.setdefault(ino, reason)
            if failed:
                for ino, reason in failed.items():
                    item = items.pop(ino)
                    kept[ino] = KeptFile(item.path, reason)
                    log.warning("kept path=%s reason=%s", shown_path(item.path), reason)
                assembly.writer.failures.reasons.clear()
                continue
            await trio.to_thread.run_sync(transaction.sync)
            await trio.to_thread.run_sync(assembly.complete)
            damaged = await self._verify(assembly, transaction)
            if not damaged:
                return assembly
            for item, problem in damaged:
                log.error("verification_failed path=%s reason=%s", shown_path(item.path), problem)
                if item.ino in force_plain or item.ino not in assembly.placement.planes:
                    kept[item.ino] = KeptFile(item.path, f"verification failed: {problem}")
                    del items[item.ino]
                else:
                    force_plain[item.ino] = str(problem)
        raise OSError("files kept failing while they were being stored")

    async def _write(self, assembly: Assembly) -> None:
        def run(job: Job) -> None:
            job.run()

        problems = await each(assembly.jobs(), run, lambda job: self._tell("writing", 0, job.bytes))
        if problems:
            raise problems[0][1]

    async def _verify(self, assembly: Assembly, transaction: Transaction) -> list[tuple[Item, Exception]]:
        stored = StoredFiles(assembly.builder.read(), transaction)
        checks = [(item, stored.describe(assembly.record(item))) for item in assembly.items]

        def check(pair: tuple[Item, StoredFile]) -> None:
            pair[1].check()

        problems = await each(checks, check, lambda pair: self._tell("verifying", 1, pair[0].size))
        for (_item, _), problem in problems:
            if not isinstance(problem, StoredDataDamaged):
                raise problem
        return [(item, problem) for (item, _), problem in problems]


def _reason(problem: BaseException) -> str:
    if isinstance(problem, OSError):
        return problem.strerror or str(problem)
    return str(problem)
