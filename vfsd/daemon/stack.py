"""Store, state folder, tiers and tree of one mount: opened in this order, closed in the reverse one.

Opening continues with whatever an earlier daemon left in the state folder. Closing removes the folders only
when the caller says that nothing in them is needed any more; otherwise all of it stays for the next mount or
`vfsd recover`. Used by a mount (`session`) and by a flush without one (`recovery`).
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import vfsd
from vfsd.daemon.checks import busy_store, check_store_belongs, refuse_nesting
from vfsd.daemon.folders import ensure_private_tree
from vfsd.daemon.log_file import fields, log_to_file, log_to_stderr
from vfsd.daemon.mountinfo import filesystem_type
from vfsd.daemon.options import MountOptions
from vfsd.daemon.places import Places, Roots, own_roots, places_for, prepare_cache, prepare_state
from vfsd.daemon.ram_folder import default_cache_budget, prepare_ram, release_ram
from vfsd.daemon.registry import (
    MountRecord,
    process_start,
    read_record,
    register,
    unregister,
    write_file_durably,
)
from vfsd.daemon.reporter import Reporter
from vfsd.daemon.state_lock import take_state_lock
from vfsd.errors import BusyError, UnfitError, UsageProblem, VfsdError, shown_path

if TYPE_CHECKING:
    from vfsd.store import Store
    from vfsd.tiers import TierFiles
    from vfsd.tree import Tree

log = logging.getLogger("vfsd.daemon")

STORE_SUFFIX = ".vfs"


@dataclass(frozen=True, slots=True)
class Layout:
    """The three folders a mount is about, resolved. `mountpoint` is None for a flush without a mount."""

    source: Path | None
    store: Path
    mountpoint: Path | None


def default_store(source: Path) -> Path:
    """Beside the source: /data/plate1 → /data/plate1.vfs."""
    return source.with_name(source.name + STORE_SUFFIX)


class Stack:
    """One mount's open parts. All of it belongs to the trio thread once `tree` is started."""

    def __init__(
        self,
        store: Store,
        tiers: TierFiles,
        tree: Tree,
        places: Places,
        record: MountRecord,
        *,
        continued: bool,
        release: ExitStack,
        throwaway: Path | None,
    ) -> None:
        self.store = store
        self.tiers = tiers
        self.tree = tree
        self.places = places
        self.record = record
        self.continued = continued
        """Whether an earlier daemon left its state here."""
        self._release = release
        self._throwaway = throwaway

    def announce(self, device: str | None) -> None:
        """Tell everybody where this mount is now: its device number, or None once it is unmounted."""
        old, self.record = self.record, self.record.mounted_as(device)
        try:
            write_file_durably(self.places.record, self.record.to_json())
            register(self.record, self.places.roots)
            if old.registry_name != self.record.registry_name:
                unregister(old, self.places.roots)
        except (OSError, VfsdError) as error:
            # Others then find the daemon through mount.json alone; the mount is as good as with it.
            log.warning("event=register-failed %s", fields(error=error))

    def close(self, *, clean: bool) -> None:
        """Close everything, in reverse; with `clean` also remove the state, cache and RAM folders.

        The store is let go last, so that nobody opens it while the folders that belong to it go away.
        """
        self.tree.close()
        self.tiers.close()
        try:
            unregister(self.record, self.places.roots)
            if clean:
                self.remove_folders()
        except OSError as error:
            log.warning("event=clean-up-failed %s", fields(error=error))
        finally:
            self._release.close()

    def remove_folders(self) -> None:
        """Remove everything of this mount outside its store."""
        release_ram(Path(self.record.ram_directory))
        shutil.rmtree(self.places.cache, ignore_errors=True)
        if folder_usage(Path(self.record.ram_directory))[0] or folder_usage(self.places.cache)[0]:
            # Files that stay must have the journal beside them, or the next mount takes them for unnamed data.
            log.warning("event=files-not-removed %s", fields(cache=self.places.cache))
            return
        shutil.rmtree(self.places.state, ignore_errors=True)
        if self._throwaway is not None:
            shutil.rmtree(self._throwaway, ignore_errors=True)


def open_stack(layout: Layout, options: MountOptions, reporter: Reporter, roots: Roots | None = None) -> Stack:
    """Open everything for a mount, or for a flush without one.

    Raises
    ------
    UnfitError
        The places are not fit: nested, of somebody else, of another source, of a newer version, not writable.
    BusyError
        Another process has the store or the state folder.
    """
    from vfsd.tiers import KEEP_IN_RAM, TierFiles
    from vfsd.tree import Tree

    roots = own_roots() if roots is None else roots
    with ExitStack() as release:
        throwaway = _throwaway_store(layout, options, roots)
        store = _open_store(layout, throwaway, options)
        release.callback(store.close)
        places = places_for(store.id, roots, options.ram_dir, options.cache_dir)
        left = read_record(places.record, (roots.uid,))
        if left is not None:
            places = _places_left(places, left, reporter)
        _refuse_nested_places(layout, store.root, places)
        prepare_state(places)
        lock = take_state_lock(places.lock)
        if lock is None:
            raise busy_store(store.root)
        release.callback(os.close, lock)
        if options.foreground:
            log_to_stderr()
        else:
            log_to_file(places.log)
            reporter.log_lies_at(places.log)
        continued = left is not None or _has_files_besides_ours(places)
        # A state folder that somebody removed does not make what lies in the tiers nobody's.
        continued = continued or folder_usage(places.ram)[0] > 0 or folder_usage(places.cache)[0] > 0
        with ExitStack() as undo:
            if not continued:
                undo.callback(shutil.rmtree, places.state, ignore_errors=True)
            ram = prepare_ram(places, options.ram)
            if not continued:
                undo.callback(release_ram, ram.directory)
            for warning in ram.warnings:
                reporter.warning(warning)
            prepare_cache(places)
            if filesystem_type(places.cache) in ("tmpfs", "ramfs"):
                reporter.warning(
                    f"the cache folder {shown_path(places.cache)} is in memory: what is spilled there takes RAM all the "
                    "same. Choose a folder on a disk with --cache"
                )
            cache_budget = options.cache_size
            if cache_budget is None:
                cache_budget = default_cache_budget(places.cache, folder_usage(places.cache)[1])
            record = MountRecord(
                mount_id=store.id,
                uid=roots.uid,
                pid=os.getpid(),
                process_started=process_start(os.getpid()) or 0,
                started=datetime.now(UTC).isoformat(timespec="seconds"),
                version=vfsd.__version__,
                source=None if layout.source is None else os.fspath(layout.source),
                store=os.fspath(store.root),
                mountpoint="" if layout.mountpoint is None else os.fspath(layout.mountpoint),
                transport=options.transport,
                read_only=options.read_only,
                ingest=options.ingest,
                levels=options.levels,
                verify=options.verify,
                state_directory=os.fspath(places.state),
                socket=os.fspath(places.socket),
                ram_directory=os.fspath(ram.directory),
                ram_budget=ram.budget,
                cache_directory=os.fspath(places.cache),
                cache_budget=cache_budget,
                plate_format=options.plate_format,
                pattern=options.pattern,
                labels=options.labels,
            )
            if layout.mountpoint is not None:
                # Before the first file is made, so that whatever a crash leaves can be found from here.
                write_file_durably(places.record, record.to_json())
            keep_in_ram = KEEP_IN_RAM if options.keep_in_ram is None else options.keep_in_ram
            tiers = TierFiles(ram.directory, places.cache, ram.budget, cache_budget, keep_in_ram=keep_in_ram)
            tiers.look()
            tree = Tree(layout.source, store, places.state, tiers, read_only=options.read_only)
            undo.pop_all()
        return Stack(
            store,
            tiers,
            tree,
            places,
            record,
            continued=continued,
            release=release.pop_all(),
            throwaway=throwaway,
        )


def _throwaway_store(layout: Layout, options: MountOptions, roots: Roots) -> Path | None:
    """A folder for the empty store of a read-only mount whose source has no store and is to get none."""
    from vfsd.store import is_store

    if not options.read_only or layout.source is None or is_store(layout.store):
        return None
    ensure_private_tree(roots.state)
    return Path(tempfile.mkdtemp(prefix="read-only-", dir=roots.state))


def _open_store(layout: Layout, throwaway: Path | None, options: MountOptions) -> Store:
    from vfsd.store import Store, is_store
    from vfsd.store.store import SourceIdentity

    if throwaway is not None:
        return Store.create(
            throwaway / ("empty" + STORE_SUFFIX), source=layout.source, source_view=_choose_view(layout, options)
        )
    try:
        if is_store(layout.store):
            store = Store.open(layout.store, writable=not options.read_only)
        elif layout.source is None:
            raise UnfitError("is no store", path=layout.store)
        else:
            store = Store.create(layout.store, source=layout.source, source_view=_choose_view(layout, options))
    except BusyError as error:
        raise busy_store(layout.store, error) from error
    except OSError as error:
        raise UnfitError(
            f"the store cannot be written there: {error.strerror}",
            path=layout.store,
            remedy="Choose another place with --store DIR, or mount with --read-only",
        ) from error
    try:
        recorded = store.source_identity
        if layout.source is None or recorded is None:
            return store
        _check_view(store, options)
        if not recorded.is_folder(SourceIdentity.of(layout.source)):
            check_store_belongs(store.root, store.source, layout.source)
    except (VfsdError, OSError):
        store.close()
        raise
    return store


def _choose_view(layout: Layout, options: MountOptions) -> str:
    """How the source of a new store is shown."""
    from vfsd.store.views import FILES, TIFFS
    from vfsd.store.zarr_folders import may_be_zarr

    view = FILES
    if layout.source is not None and options.zarr_as != FILES and may_be_zarr(layout.source):
        from vfsd.store.foreign import is_ome_zarr

        view = TIFFS if is_ome_zarr(layout.source) else FILES
    if options.zarr_as == TIFFS != view:
        raise UnfitError("is no OME-Zarr, so that nothing can be shown as TIFFs", path=options.source)
    if view == TIFFS:
        _refuse_ingest(options)
    return view


def _refuse_ingest(options: MountOptions) -> None:
    if options.ingest:
        raise UsageProblem(
            "is OME-Zarr already, which --ingest would only copy",
            path=options.source,
            remedy="Mount it without --ingest, or take in its files as they are with --zarr-as files",
        )


def _check_view(store: Store, options: MountOptions) -> None:
    """What an existing store says of its source's files holds for one view only."""
    from vfsd.store.views import TIFFS

    if options.zarr_as not in (None, store.source_view):
        raise UnfitError(
            f"is the store of a source that is shown with --zarr-as {store.source_view}",
            path=store.root,
            remedy="Leave --zarr-as away, or choose another place with --store",
        )
    if store.source_view == TIFFS:
        _refuse_ingest(options)


def _places_left(places: Places, left: MountRecord, reporter: Reporter) -> Places:
    """The places, with the RAM and cache folders of the daemon before where those still hold its files."""
    ram, cache = Path(left.ram_directory), Path(left.cache_directory)
    if ram != places.ram and folder_usage(ram)[0]:
        # A folder in /dev/shm where root could not mount counts as chosen: it must not be moved to a new
        # tmpfs.
        places = replace(places, ram=ram, ram_is_default=False)
    if cache != places.cache and folder_usage(cache)[0]:
        reporter.warning(
            f"files of the last mount are in {shown_path(cache)}: it stays the cache until they are flushed"
        )
        places = replace(places, cache=cache)
    return places


def _refuse_nested_places(layout: Layout, store: Path, places: Places) -> None:
    named = {"store": store, "state folder": places.state}
    if layout.source is not None:
        named["source"] = layout.source
    if layout.mountpoint is not None:
        named["mount point"] = layout.mountpoint
    if not places.cache.is_relative_to(places.state):
        named["cache folder"] = places.cache
    named["RAM folder"] = places.ram
    if store.is_relative_to(places.roots.state):
        # The empty store of a read-only mount lies beside the state folders, by design.
        del named["store"]
    refuse_nesting(named, may_coincide=[frozenset({"source", "mount point"})])


def _has_files_besides_ours(places: Places) -> bool:
    """Whether the state folder holds anything but the lock and the log, such as a journal."""
    ours = {places.lock.name, places.log.name}
    return any(name not in ours for name in os.listdir(places.state))


def folder_usage(directory: Path) -> tuple[int, int]:
    """Files below a folder, and the bytes they take; (0, 0) where it is missing or not ours to read."""
    files = size = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                size += Path(folder, name).lstat().st_blocks * 512
                files += 1
            except OSError:
                continue
    return files, size
