"""Making again what is damaged in a store, as one flush: all of it or nothing.

Damaged files are stored again from the source where it still has their very bytes; levels, metadata and decoded pixels are made
again from what is whole; the catalogue and its copy from each other. What cannot be made again is named, with the reason,
and stays as it is. Needs the store's lock: nobody else may be writing to it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final

from vfsd.flush.bare_tree import bare_tree
from vfsd.flush.damage import Damage, Damaged
from vfsd.flush.flush import flush_tree
from vfsd.flush.order import Repair
from vfsd.flush.progress import OnProgress
from vfsd.flush.shards import shard_key, shard_place
from vfsd.flush.verify import OnFile, VerifyReport, check_store, open_any
from vfsd.store import InodeRecord, Store
from vfsd.store.stored import group_geometry
from vfsd.tree.source import Source, digest_of


@final
@dataclass(frozen=True, slots=True)
class RepairReport:
    """What was done.

    Attributes
    ----------
    before : VerifyReport
        What was found.
    repaired : tuple of Damaged
        What of that is as it was.
    left : tuple of Damaged
        What is damaged still, each with the reason why it could not be made again.
    receipt : Path or None
        Where the record of it lies; None where nothing had to be stored.
    """

    before: VerifyReport
    repaired: tuple[Damaged, ...]
    left: tuple[Damaged, ...]
    receipt: Path | None


async def repair_store(
    root: Path,
    *,
    source: Path | None = None,
    digests: bool = False,
    on_file: OnFile | None = None,
    on_progress: OnProgress | None = None,
) -> RepairReport:
    """Check a store and make again what is damaged.

    Parameters
    ----------
    source : Path, optional
        Where the plate is now; by default where it was when the store was made.
    digests : bool
        Look for damage by digests of what lies on the disk, not by rebuilding.
    on_file, on_progress : callable, optional
        Called while the store is checked, and while it is repaired.

    Raises
    ------
    UnfitError, BusyError, StoredDataDamaged
        There is no store, somebody writes to it, or neither its catalogue nor the copy of that can be read.
    OSError
        The store's disk failed or is full; the store is as it was.
    """
    with contextlib.closing(open_any(root, writable=True)) as store:
        before = check_store(store, digests=digests, on_progress=on_file)
        if before.ok:
            return RepairReport(before, (), (), None)
        if any(one.kind is Damage.STORE for one in before.damaged):
            store.mend()
        plate = source if source is not None else store.source
        reader = None
        if plate is not None and plate.is_dir():
            reader = Source(plate)
        try:
            repair, hopeless = _plan(store, reader, before.damaged)
        finally:
            if reader is not None:
                reader.close()
        receipt = None
        if repair.files or repair.levels or repair.objects:
            async with bare_tree(plate if reader is not None else None, store) as tree:
                result = await flush_tree(tree, repair=repair, on_progress=on_progress)
            receipt = result.receipt
            hopeless |= {kept.path: kept.reason for kept in result.kept}
        after = check_store(store, digests=digests)
    left = {(one.path, one.kind) for one in after.damaged}
    return RepairReport(
        before,
        tuple(one for one in before.damaged if (one.path, one.kind) not in left),
        tuple(_with_reason(one, hopeless) for one in after.damaged),
        receipt,
    )


def _with_reason(damaged: Damaged, hopeless: dict[bytes, str]) -> Damaged:
    why = hopeless.get(damaged.path)
    reason = damaged.reason if why is None else f"{damaged.reason}; not repaired: {why}"
    return Damaged(damaged.path, reason, damaged.kind, damaged.ino)


def _plan(store: Store, source: Source | None, damaged: Iterable[Damaged]) -> tuple[Repair, dict[bytes, str]]:
    """What can be made again; and, by path or key, why the rest cannot."""
    files: dict[int, bytes | None] = {}
    levels: set[bytes] = set()
    objects: set[bytes] = set()
    copies: set[bytes] = set()
    hopeless: dict[bytes, str] = {}
    for one in damaged:
        if one.kind is Damage.FILE:
            record = store.catalogue.inode(one.ino)
            found = None if record is None else _find_in_source(source, record, one.path)
            if isinstance(found, bytes):
                files[one.ino] = found
            else:
                hopeless[one.path] = str(found)
        elif one.kind is Damage.LEVEL:
            levels.add(one.path)
        elif one.kind is Damage.METADATA:
            objects.add(one.path)
        elif one.kind is Damage.COPY:
            copies.add(one.path)
        elif one.kind is Damage.RECEIPT:
            hopeless[one.path] = "nothing else knows what it said"
    for ino in _owners_of_copies(store, copies):
        files.setdefault(ino, None)
    return Repair(files, levels, objects), hopeless


def _owners_of_copies(store: Store, keys: set[bytes]) -> Iterator[int]:
    """Compressed images whose decoded pixels lie in these shards."""
    for group, plane in store.catalogue.planes_of_plain_files() if keys else ():
        geometry = group_geometry(group)
        place = shard_place(geometry, plane)
        if place is not None and shard_key(group, geometry, place) in keys:
            yield plane.ino


def _find_in_source(source: Source | None, record: InodeRecord, path: bytes) -> bytes | str:
    """Where the source has a file's very bytes; else why not, as text."""
    if source is None:
        return "the source is not there"
    reason = "it was never in the source"
    for origin in dict.fromkeys(place for place in (record.origin, path) if place):
        try:
            if source.stat(origin).st_size == record.size and digest_of(source, origin) == record.digest:
                return origin
            reason = "the source has other bytes by now"
        except FileNotFoundError:
            reason = "the source does not have it" if record.origin is not None else reason
        except OSError as problem:
            reason = f"the source cannot be read ({problem.strerror})"
    return reason
