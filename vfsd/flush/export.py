"""Writing a store's files out again, as they were: bytes, names, modes, owners where allowed, times, links, attributes.

Each file is written beside, in a folder of our own at the top of the export (`.vfsd-export`), compared with its digest, given
its attributes, and renamed: what has its name is whole, whenever the export stops. Started again it goes on: what is there and
has the right size and digest stays, anything else of ours is written again. In the end everything is synced and the
folder of our own goes; so a folder that has it is an export that is not finished, and which store it is of is said in it. Nothing
is written into a folder that holds anything else.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import xxhash

from vfsd.errors import FlushIncomplete, StoredDataDamaged, shown_path
from vfsd.flush.damage import Damaged
from vfsd.flush.export_folder import MARK, ExportFolder
from vfsd.store import InodeRecord, Kind, Store
from vfsd.store.catalogue import ROOT_INO, format_of_kind
from vfsd.store.storage import sync_file_system

log = logging.getLogger("vfsd.export")

# Files that are there already are compared in pieces of this size.
PIECE = 4 << 20


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written; sizes in bytes.

    Attributes
    ----------
    files, bytes : int
        Files that are there now as they were, and their size.
    found : int
        How many of them an earlier, interrupted export had written.
    failed : tuple of Damaged
        What the store could not give, and files of the source.
    """

    files: int
    bytes: int
    found: int
    failed: tuple[Damaged, ...]


def export_store(
    root: Path, directory: Path, *, on_progress: Callable[[int, int, int], None] | None = None
) -> ExportReport:
    """Write every file of a store below `directory`: a new or empty folder, or one where this was interrupted.

    Raises
    ------
    UnfitError
        The directory holds something else, or cannot be written.
    FlushIncomplete
        Its disk failed or is full: what is there is whole, and the same command goes on.
    """
    with contextlib.closing(Store.open(root, writable=False)) as store:
        export = _Export(store, _folder(store, directory), on_progress)
        try:
            return export.run()
        except OSError as problem:
            raise FlushIncomplete(
                f"{problem.strerror or problem}; {export.written:,} of {export.total:,} files are there, each whole",
                path=directory,
                remedy="Remove the cause, and the same command goes on from there",
            ) from problem


def _folder(store: Store, directory: Path) -> ExportFolder:
    mark = MARK
    while store.catalogue.entry(ROOT_INO, mark) is not None:  # the plate has a file that is called like that
        mark += b"~"
    return ExportFolder(directory, store.root, {"store": store.id}, mark)


@final
class _Export:
    """One run.

    Attributes
    ----------
    written, total : int
        Files that have their names, and how many the store has.
    """

    def __init__(self, store: Store, folder: ExportFolder, on_progress: Callable[[int, int, int], None] | None) -> None:
        self._store = store
        self._folder = folder
        self._directory, self._own = folder.path, folder.own
        self._on_progress = on_progress
        self.total, _ = store.catalogue.totals()
        self.written = 0
        self._bytes = self._found = 0
        self._failed: list[Damaged] = []
        self._first_names: dict[int, bytes] = {}

    def run(self) -> ExportReport:
        folders: list[tuple[bytes, InodeRecord]] = []
        root = self._store.catalogue.inode(ROOT_INO)
        if root is not None:
            folders.append((self._directory, root))
        for path, record in self._store.catalogue.walk():
            target = self._directory + b"/" + path
            if record.kind is Kind.DIRECTORY:
                self._make_folder(target)
                folders.append((target, record))
            else:
                self._write_entry(path, target, record)
        for target, record in reversed(folders[1:]):  # times last: writing below changes them
            self._set_attributes(target, record)
        self._folder.finish()
        for target, record in folders[:1]:  # until now our own folder was in it
            self._set_attributes(target, record)
        sync_file_system(self._directory)
        return ExportReport(self.written, self._bytes, self._found, tuple(self._failed))

    @staticmethod
    def _make_folder(target: bytes) -> None:
        try:
            os.mkdir(target, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(target).st_mode):
                raise
            os.chmod(target, 0o700)  # an earlier run may have given it the mode that it is to have

    def _write_entry(self, path: bytes, target: bytes, record: InodeRecord) -> None:
        first = self._first_names.get(record.ino)
        if first is not None and self._link(first, target):
            return
        try:
            if self._is_there(target, record):
                self._found += record.kind.is_file
                self._set_attributes(target, record)
            else:
                self._write(target, record)
        except (StoredDataDamaged, PermissionError) as problem:
            self._failed.append(Damaged(path, str(problem)))
            log.error("export_failed path=%s reason=%s", shown_path(path), problem)
            return
        self._first_names[record.ino] = target
        if record.kind.is_file:
            self.written += 1
            self._bytes += record.size
            if self._on_progress is not None:
                self._on_progress(self.written, self.total, self._bytes)

    def _link(self, first: bytes, target: bytes) -> bool:
        """Whether the file has this name too now; a file system without hard links gets files of their own."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(first), os.lstat(target)):
                return True
        beside = self._own + b"/link"
        try:
            os.link(first, beside, follow_symlinks=False)
        except OSError as problem:
            if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS):
                raise
            return False
        os.rename(beside, target)
        return True

    def _is_there(self, target: bytes, record: InodeRecord) -> bool:
        """Whether an earlier run has written this, whole."""
        try:
            found = os.lstat(target)
        except FileNotFoundError:
            return False
        if stat.S_IFMT(found.st_mode) != format_of_kind(record.kind):
            return False
        if record.kind is Kind.SYMLINK:
            return os.readlink(target) == (record.target or b"")
        if not record.kind.is_file:
            return found.st_rdev == record.rdev
        return found.st_size == record.size and _digest(target) == record.digest

    def _write(self, target: bytes, record: InodeRecord) -> None:
        beside = self._own + b"/part"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        try:
            if record.kind in (Kind.PLANES, Kind.PLAIN):
                self._rebuild(beside, record)
            elif record.kind is Kind.SYMLINK:
                os.symlink(record.target or b"", beside)
            elif record.kind is Kind.FIFO:
                os.mkfifo(beside)
            elif record.kind is Kind.SOURCE:
                raise StoredDataDamaged("its bytes are only in the source: mount with --ingest to store them")
            else:
                os.mknod(beside, format_of_kind(record.kind) | 0o600, record.rdev)
            self._set_attributes(beside, record)
            os.rename(beside, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise

    def _rebuild(self, beside: bytes, record: InodeRecord) -> None:
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._store.files.describe(record).rebuild(fd)
        finally:
            os.close(fd)

    def _set_attributes(self, target: bytes, record: InodeRecord) -> None:
        for name, value in self._store.catalogue.xattrs(record.ino).items():
            try:
                os.setxattr(target, name, value, follow_symlinks=False)
            except OSError as problem:  # a file system without user attributes
                if problem.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise
        if os.geteuid() == 0:
            with contextlib.suppress(OSError):  # a file system without owners, or a container that lacks this one
                os.chown(target, record.uid, record.gid, follow_symlinks=False)
        if record.kind is not Kind.SYMLINK:
            os.chmod(target, record.mode)
        os.utime(target, ns=(record.atime, record.mtime), follow_symlinks=False)


def _digest(path: bytes) -> bytes:
    hasher = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(PIECE):
            hasher.update(piece)
    return hasher.digest()
