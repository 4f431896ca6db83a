"""A whole plate into a store in one go, without a mount: the same tree, the same flush, everything ingested."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from vfsd.errors import UnfitError
from vfsd.flush.bare_tree import bare_tree
from vfsd.flush.flush import flush_tree
from vfsd.flush.order import Verify
from vfsd.flush.progress import FlushResult, OnProgress
from vfsd.plates import PlateFormats
from vfsd.store import Store, is_store
from vfsd.store.store import SourceIdentity
from vfsd.store.views import FILES


async def convert_plate(
    source: Path,
    store: Path,
    *,
    on_progress: OnProgress | None = None,
    formats: PlateFormats | None = None,
    levels: int | None = None,
    verify: Verify = Verify.FULL,
    archive: bool = False,
) -> FlushResult:
    """Store every file of `source` in `store`, which is made, or continued if it belongs to this source.

    `levels`, `verify` and `archive` are as for `flush_tree`.

    Raises
    ------
    UnfitError
        The source cannot be read, the store belongs to another source, or one lies inside the other.
    BusyError
        Another process writes to the store.
    OSError
        The store's disk failed or is full; the store is as it was.
    """
    _check_paths(source, store)
    with contextlib.closing(_open_store(source, store)) as opened:
        async with bare_tree(source, opened) as tree:
            return await flush_tree(
                tree,
                ingest=True,
                on_progress=on_progress,
                formats=formats,
                levels=levels,
                verify=verify,
                archive=archive,
            )


def _check_paths(source: Path, store: Path) -> None:
    try:
        if not source.is_dir():
            raise UnfitError("is no folder" if source.exists() else "does not exist", path=source)
        os.scandir(source).close()
    except PermissionError as error:
        raise UnfitError("cannot be read (permission denied)", path=source) from error
    inner, outer = store.resolve(), source.resolve()
    if inner == outer or inner.is_relative_to(outer):
        raise UnfitError("lies inside the source", path=store, remedy="Choose a place outside of it")
    if outer.is_relative_to(inner):
        raise UnfitError("holds the source", path=store, remedy="Choose a place of its own")


def _open_store(source: Path, store: Path) -> Store:
    if not is_store(store):
        return Store.create(store, source=source)
    opened = Store.open(store, writable=True)
    recorded = opened.source_identity
    if recorded is None or not recorded.is_folder(SourceIdentity.of(source)):
        opened.close()
        raise UnfitError("belongs to another source", path=store, remedy="Choose a new folder for the store")
    if opened.source_view != FILES:
        opened.close()
        raise UnfitError(
            "is of a source that is shown as TIFFs", path=store, remedy="Choose a new folder for the store"
        )
    return opened
