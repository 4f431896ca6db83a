"""Writing a store's files out again, as they were: bytes, names, modes, owners where allowed, times, links, attributes."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from vfsd.errors import StoredDataDamaged, UnfitError, shown_path
from vfsd.flush.verify import DamagedFile
from vfsd.store import InodeRecord, Kind, Store
from vfsd.store.catalogue import ROOT_INO

log = logging.getLogger("vfsd.export")


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written; sizes in bytes. `failed` names what the store could not give, and files of the source."""

    files: int
    bytes: int
    failed: tuple[DamagedFile, ...]


def export_store(
    root: Path, directory: Path, *, on_progress: Callable[[int, int, int], None] | None = None
) -> ExportReport:
    """Write every file of a store below `directory`, which is made, or must be empty.

    Each file is written under a temporary name, compared with its digest, and renamed: what has its name is whole.

    Raises
    ------
    UnfitError
        The directory is not empty or cannot be written.
    OSError
        Its disk failed or is full.
    """
    with contextlib.closing(Store.open(root, writable=False)) as store:
        _prepare(directory, root)
        return _Export(store, directory, on_progress).run()


def _prepare(directory: Path, root: Path) -> None:
    if directory.resolve().is_relative_to(root.resolve()):
        raise UnfitError("lies inside the store", path=directory, remedy="Choose another folder")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise UnfitError("is not empty", path=directory, remedy="Choose a new folder")
    except OSError as error:
        raise UnfitError(f"cannot be written ({error.strerror})", path=directory) from error


@final
class _Export:
    def __init__(self, store: Store, directory: Path, on_progress: Callable[[int, int, int], None] | None) -> None:
        self._store = store
        self._directory = os.fsencode(directory)
        self._on_progress = on_progress
        self._total, _ = store.catalogue.totals()
        self._files = self._bytes = 0
        self._failed: list[DamagedFile] = []
        self._first_names: dict[int, bytes] = {}

    def run(self) -> ExportReport:
        folders: list[tuple[bytes, InodeRecord]] = []
        root = self._store.catalogue.inode(ROOT_INO)
        if root is not None:
            folders.append((self._directory, root))
        for path, record in self._store.catalogue.walk():
            target = self._directory + b"/" + path
            if record.kind is Kind.DIRECTORY:
                os.mkdir(target, 0o700)
                folders.append((target, record))
            else:
                self._write_entry(path, target, record)
        for target, record in reversed(folders):  # times last: writing below changes them
            self._set_attributes(target, record)
        return ExportReport(self._files, self._bytes, tuple(self._failed))

    def _write_entry(self, path: bytes, target: bytes, record: InodeRecord) -> None:
        first = self._first_names.get(record.ino)
        if first is not None:
            with contextlib.suppress(OSError):  # a file system without hard links gets files of their own
                os.link(first, target, follow_symlinks=False)
                return
        try:
            if record.kind in (Kind.PLANES, Kind.PLAIN):
                self._write_file(path, target, record)
            elif record.kind is Kind.SYMLINK:
                os.symlink(record.target or b"", target)
            elif record.kind is Kind.FIFO:
                os.mkfifo(target)
            elif record.kind is Kind.SOURCE:
                raise StoredDataDamaged("its bytes are only in the source: mount with --ingest to store them")
            else:
                os.mknod(target, _format(record.kind) | 0o600, record.rdev)
        except (StoredDataDamaged, PermissionError) as problem:
            self._failed.append(DamagedFile(path, str(problem)))
            log.error("export_failed path=%s reason=%s", shown_path(path), problem)
            return
        self._first_names[record.ino] = target
        self._set_attributes(target, record)

    def _write_file(self, path: bytes, target: bytes, record: InodeRecord) -> None:
        beside = os.path.dirname(target) + b"/.vfsd-export-%d" % os.getpid()
        while os.path.lexists(beside):  # somebody's file is called like that
            beside += b"~"
        fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._store.files.describe(record).rebuild(fd)
        except BaseException:
            os.unlink(beside)
            raise
        finally:
            os.close(fd)
        os.rename(beside, target)
        self._files += 1
        self._bytes += record.size
        if self._on_progress is not None:
            self._on_progress(self._files, self._total, self._bytes)

    def _set_attributes(self, target: bytes, record: InodeRecord) -> None:
        for name, value in self._store.catalogue.xattrs(record.ino).items():
            with contextlib.suppress(OSError):  # a file system without user attributes
                os.setxattr(target, name, value, follow_symlinks=False)
        if os.geteuid() == 0:
            with contextlib.suppress(OSError):  # a file system without owners, or a container that lacks this one
                os.chown(target, record.uid, record.gid, follow_symlinks=False)
        if record.kind is not Kind.SYMLINK:
            os.chmod(target, record.mode)
        os.utime(target, ns=(record.atime, record.mtime), follow_symlinks=False)


def _format(kind: Kind) -> int:
    return {Kind.SOCKET: stat.S_IFSOCK, Kind.CHARACTER: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK}[kind]
