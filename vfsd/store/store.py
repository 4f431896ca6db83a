"""A store as a whole: made, opened, locked, and handed out by its parts.

One writer at a time: a writer holds a lock on `lock` in the store's folder, which the kernel releases when the process
ends, so that a dead writer never blocks the next. Opening for writing first finishes or undoes what a crash left.
Readers need no lock: every generation of the catalogue is a whole file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import final

import xxhash

from vfsd.errors import BusyError, StoredDataDamaged, UnfitError, shown_path
from vfsd.store.builder import CatalogueBuilder
from vfsd.store.catalogue import ROOT_INO, Catalogue, InodeRecord, Kind
from vfsd.store.header import HEADER, VERSION, header_bytes, is_store, read_header
from vfsd.store.intents import COPY_KEY, WORK, recover_work
from vfsd.store.seal import CATALOGUE_KEY, check_catalogue, mend_catalogue, write_seal
from vfsd.store.storage import LocalStorage, sync_directory
from vfsd.store.stored import StoredFiles
from vfsd.store.transaction import Transaction
from vfsd.store.views import FILES

# What a creation that was killed leaves behind; it holds nothing yet.
_PUT = ("catalog.sqlite", "catalog.copy.sqlite", "catalog.xxh3", "vfs.json")
_OWN_NAMES = {"lock", "catalog.sqlite.new", *_PUT[:-1], *(f".{name}.part" for name in _PUT)}
_OWN_FOLDERS = {"images", "files", "receipts"}


@dataclass(frozen=True, slots=True)
class StoreUsage:
    """What a store holds: files, and their bytes as users see them."""

    bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """The plate that a store belongs to: where it was, and which folder on which device that is."""

    path: bytes
    device: int
    inode: int

    def is_folder(self, other: SourceIdentity) -> bool:
        """Whether both are one folder: the same path, or the same folder that was moved."""
        return self.path == other.path or (self.device, self.inode) == (other.device, other.inode)

    @classmethod
    def of(cls, path: Path) -> SourceIdentity:
        """The identity of a folder that is there."""
        resolved = path.resolve()
        found = resolved.stat()
        return cls(os.fsencode(resolved), found.st_dev, found.st_ino)


@final
class Store:
    """An open store.

    Attributes
    ----------
    root : Path
        Its folder.
    id : str
        32 hexadecimal digits, given at creation.
    notices : list of str
        What opening it had to put right or found damaged, one sentence each.
    damaged : list of (bytes, str)
        Key of each file of the store itself (catalogue, header) that is damaged, and how; what is open is whole.

    Example
    -------
    >>> with contextlib.closing(Store.open(path, writable=False)) as store:  # doctest: +SKIP
    ...     print(store.catalogue.totals())
    """

    def __init__(
        self, root: Path, store_id: str, storage: LocalStorage, opened: tuple[bytes, Catalogue], lock: int | None
    ) -> None:
        self.root = root
        self.id = store_id
        self.storage = storage
        self._catalogue_key, self.catalogue = opened
        self.damaged: list[tuple[bytes, str]] = []
        self.files = StoredFiles(self.catalogue, storage)
        self.notices: list[str] = []
        self._lock = lock

    # --- making and opening

    @classmethod
    def create(cls, root: Path, *, source: Path | None, source_view: str = FILES) -> Store:
        """Make a new store in a folder that is missing or empty (or where making one was interrupted); open it for writing.

        `source_view`: how the source is shown, `FILES` or `TIFFS`; what the store says of its files is true for that only.

        Raises
        ------
        UnfitError
            The folder holds something else, or cannot be written.
        """
        made = [root, *(parent for parent in root.parents if not parent.exists())]
        try:
            root.mkdir(parents=True, exist_ok=True)
            if (root / HEADER).exists():
                raise UnfitError("is a store already", path=root)
            if not _is_unfinished(root):
                raise UnfitError("is not empty and no store", path=root, remedy="Choose another folder with --store")
            lock, _ = _lock_store(root)
        except OSError as error:
            raise UnfitError(
                f"no store can be made here ({error.strerror})",
                path=root,
                remedy="Choose another folder with --store",
            ) from error
        try:
            for folder in made:  # what is synced for this store later must be found by the next mount
                with contextlib.suppress(PermissionError):
                    sync_directory(folder.parent)
            _write_new_store(root, source, source_view)
        except BaseException as error:
            _unlock(lock)
            if isinstance(error, OSError):
                raise UnfitError(
                    f"no store can be made here ({error.strerror})",
                    path=root,
                    remedy="Choose another folder with --store",
                ) from error
            raise
        _unlock(lock)
        return cls.open(root, writable=True)

    @classmethod
    def open(cls, root: Path, *, writable: bool, damaged_header: bool = False) -> Store:
        """Open a store; with `damaged_header` one whose `vfs.json` is missing or damaged, by what its catalogue says.

        Raises
        ------
        UnfitError
            No store, or one of a newer version, or not writable.
        BusyError
            Another process writes to it.
        StoredDataDamaged
            Its catalogue cannot be read, nor the copy of it.
        """
        store_id = None if damaged_header else read_header(root)
        lock: int | None = None
        left: str | None = None
        if writable:
            try:
                lock, left = _lock_store(root)
            except OSError as error:
                raise UnfitError(
                    f"the store cannot be written ({error.strerror})",
                    path=root,
                    remedy="Choose another with --store",
                ) from error
        try:
            storage = LocalStorage(root)
            checked = check_catalogue(storage)
            catalogue = Catalogue.open(Path(os.fsdecode(storage.path(checked.key))))
            known_id = store_id or _id_in_catalogue(catalogue, root)
            store = cls(root, known_id, storage, (checked.key, catalogue), lock)
            store.damaged += checked.damaged
            store.notices += [f"{os.fsdecode(key)} {trouble}" for key, trouble in checked.damaged]
            if left is not None:
                store.notices.append(f"took over the lock of {left}, which ended without closing the store")
            if writable:
                store.notices += recover_work(storage, catalogue.generation)
            else:
                store._recover_for_reading()
            return store
        except BaseException:
            if lock is not None:
                os.close(lock)
            raise

    def _recover_for_reading(self) -> None:
        """What a crash left would look like damage: put it right first, unless a writer is at it or nobody may write."""
        if not os.path.lexists(self.storage.path(WORK)):
            return
        try:
            lock, _ = _lock_store(self.root)
        except BusyError:
            return  # a flush of another process, or that process puts it right
        except OSError:
            self.notices.append(
                "an interrupted flush left its work here, which nobody without the right to write can undo"
            )
            return
        try:
            self.adopt_catalogue()  # the writer that held the lock until now may have committed
            self.notices += recover_work(self.storage, self.catalogue.generation)
        finally:
            _unlock(lock)

    def close(self) -> None:
        """Release the lock and everything else; harmless when done twice."""
        self.storage.forget()
        self.catalogue.close()
        if self._lock is not None:
            _unlock(self._lock)
            self._lock = None

    # --- what it is

    @property
    def writable(self) -> bool:
        """Whether this process holds the store's lock."""
        return self._lock is not None

    @property
    def source_identity(self) -> SourceIdentity | None:
        """The plate that it belongs to, as recorded when it was made."""
        path = self.catalogue.meta("source_path")
        if path is None:
            return None
        return SourceIdentity(
            bytes(path), int(self.catalogue.meta("source_device")), int(self.catalogue.meta("source_inode"))
        )

    @property
    def source(self) -> Path | None:
        """Path of the plate that it belongs to, as recorded when it was made; None for a store without one."""
        identity = self.source_identity
        return None if identity is None else Path(os.fsdecode(identity.path))

    @property
    def source_view(self) -> str:
        """How its source is shown: as its `FILES`, or, where that is OME-Zarr, as `TIFFS` made of it."""
        return str(self.catalogue.meta("source_view") or FILES)

    @property
    def plate_name(self) -> str:
        """What to call the tree's root: the source's folder name, else the store's without its suffix."""
        folder = self.source if self.source is not None else self.root
        return folder.name.removesuffix(".vfs") or "plate"

    def usage(self) -> StoreUsage:
        """Files and bytes that it holds."""
        files, size = self.catalogue.totals()
        return StoreUsage(size, files)

    # --- changing it

    def recover(self) -> bool:
        """Undo or finish what an earlier change could not; whether the catalogue on the disk is whole then. In any thread.

        Raises
        ------
        OSError
            The store's disk cannot be written, or neither the catalogue nor its copy is whole.
        """
        self._check_writable()
        recover_work(self.storage, self.catalogue.generation)
        try:
            return check_catalogue(self.storage).key == self._catalogue_key == CATALOGUE_KEY
        except StoredDataDamaged as problem:
            raise OSError(errno.EIO, problem.message, os.fspath(self.root)) from problem

    def begin(self) -> Transaction:
        """Start the next change; what an earlier one could not undo or finish comes first.

        A catalogue that is known to be damaged is mended before: a change seals the one that it begins from.

        Raises
        ------
        OSError
            The store's disk cannot be written.
        """
        self._check_writable()
        recover_work(self.storage, self.catalogue.generation)
        if self._catalogue_key != CATALOGUE_KEY:
            self.mend()
        return Transaction(self.storage, self.catalogue.generation + 1)

    def _check_writable(self) -> None:
        if self._lock is None:
            raise UnfitError("the store is open for reading only", path=self.root)

    def adopt_catalogue(self) -> None:
        """After a transaction was published: read the new generation from now on."""
        previous = self.catalogue
        self._catalogue_key = CATALOGUE_KEY
        self.catalogue = Catalogue.open(self.catalogue_path())
        self.files.adopt(self.catalogue)
        previous.close()

    def catalogue_path(self) -> Path:
        """Where the current generation lies, for copying."""
        return self.root / os.fsdecode(self._catalogue_key)

    def mend(self) -> None:
        """Write again what is `damaged`: catalogue, copy and seal from each other, and the header."""
        mend_catalogue(self.storage)
        self.storage.put_file(HEADER.encode(), header_bytes(self.id))
        self.adopt_catalogue()
        self.damaged.clear()


def _is_unfinished(root: Path) -> bool:
    """Whether a folder is empty, or holds what a creation that was killed left: nothing of anybody's."""
    names = {entry.name for entry in root.iterdir()}
    return names <= _OWN_NAMES | _OWN_FOLDERS and not any(any((root / n).iterdir()) for n in names & _OWN_FOLDERS)


def _id_in_catalogue(catalogue: Catalogue, root: Path) -> str:
    """The store's id where its header does not say it: only in a store of this very version."""
    store_id = catalogue.meta("store_id")
    if not isinstance(store_id, str) or catalogue.meta("store_version") != VERSION:
        read_header(root)
        raise UnfitError("its catalogue is no catalogue of this version", path=root)
    return store_id


def _lock_store(root: Path) -> tuple[int, str | None]:
    """Take the writer's lock; the descriptor, and who had it before and ended without letting it go.

    Raises
    ------
    BusyError
        Somebody has it; it is named.
    OSError
        The folder cannot be written.
    """
    fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _holder(fd)
        os.close(fd)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise BusyError(
                "another vfsd writes to this store" + (f" ({holder})" if holder else ""),
                path=root,
                remedy="Unmount it first: vfsd status lists the mounts",
            ) from error
        raise
    left = _holder(fd)
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}".encode("ascii", "replace"), 0)
    return fd, left or None


def _unlock(fd: int) -> None:
    """Let the lock go."""
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)  # who finds a name in it knows that its process did not come to this
    os.close(fd)


def _holder(fd: int) -> str:
    """Who the lock's file names, as text that can steer no terminal."""
    return shown_path(os.pread(fd, 200, 0).decode("ascii", "replace").strip())


def _write_new_store(root: Path, source: Path | None, source_view: str) -> None:
    now = time.time_ns()
    builder_path = root / "catalog.sqlite.new"
    builder_path.unlink(missing_ok=True)
    record = InodeRecord(ROOT_INO, Kind.DIRECTORY, 0o755, os.getuid(), os.getgid(), 2, 0, now, now, now)
    if source is not None:
        record.origin = b""
    store_id = uuid.uuid4().hex
    builder = CatalogueBuilder.create(builder_path, record)
    builder.set_meta("store_id", store_id)
    builder.set_meta("store_version", VERSION)
    if source is not None:
        identity = SourceIdentity.of(source)
        builder.set_meta("source_path", identity.path)
        builder.set_meta("source_device", identity.device)
        builder.set_meta("source_inode", identity.inode)
        builder.set_meta("source_view", source_view)
    builder.finish()
    for folder in ("images", "files", "receipts"):
        (root / folder).mkdir(exist_ok=True)
    storage = LocalStorage(root)
    catalogue = builder_path.read_bytes()
    for key in (CATALOGUE_KEY, COPY_KEY):
        storage.put_file(key, catalogue)
    write_seal(storage, {0: xxhash.xxh3_128_digest(catalogue)})
    builder_path.unlink()
    storage.put_file(HEADER.encode(), header_bytes(store_id))  # last: now it is a store


__all__ = ["SourceIdentity", "Store", "StoreUsage", "StoredDataDamaged", "is_store"]
