"""One change of a store, from the first new object to the committed catalogue: all of it or nothing.

New objects are written under `work/<generation>/`, synced, and can be read back through the transaction before anything
is published. `publish` then

1. writes and syncs the list of intents,
2. hard-links each object that will be replaced aside (renames, where the file system has no links),
3. renames the new objects in and the removed ones aside, and syncs the folders,
4. renames the new catalogue in and syncs it: from here on the change has happened,
5. throws `work/<generation>/` away.

`recover_work` finds what a crash left: a change whose catalogue was committed is finished, any other is undone from the
intents, so that the catalogue and the objects always agree. Only the holder of the store's lock may call either.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import final

from vfsd.store.storage import LocalStorage, sync_directory, write_all

CATALOGUE_KEY = b"catalog.sqlite"
WORK = b"work"
# From this many new files on, one syncfs of the whole file system is cheaper than a sync of each (1-20 ms on a disk).
SYNC_EACH_UP_TO = 8

_NEW, _REPLACE, _REMOVE, _MOVE, _MOVED_FROM = b"N", b"P", b"R", b"M", b"O"
_END = b"END"

_libc = ctypes.CDLL(None, use_errno=True)


def _syncfs(fd: int) -> None:
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@final
class Transaction:
    """See the module. Used by one flush; its methods may be called from threads, one at a time for each key.

    Reading (`size`, `read_into`, `read_range`) sees the new objects above the store's own.
    """

    def __init__(self, storage: LocalStorage, generation: int) -> None:
        self._storage = storage
        self.generation = generation
        self._work_key = WORK + b"/%d" % generation
        self._work = storage.path(self._work_key)
        shutil.rmtree(self._work, ignore_errors=True)
        for part in (b"new", b"old"):
            os.makedirs(self._work + b"/" + part)
        self._pending: dict[bytes, int] = {}
        self._removed: set[bytes] = set()
        self._moves: list[tuple[bytes, bytes]] = []
        self._serial = 0
        self._ended = False
        self.bytes_written = 0

    # --- new objects

    def create(self, key: bytes) -> int:
        """A new, empty object to be put under `key`: its descriptor, open for reading and writing; the caller closes it."""
        self._serial += 1
        serial = self._serial
        fd = os.open(self._new(serial), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._pending[key] = serial
        self._removed.discard(key)
        return fd

    def put_bytes(self, key: bytes, data: bytes) -> None:
        """A small object."""
        fd = self.create(key)
        try:
            write_all(fd, data)
        finally:
            os.close(fd)

    def link(self, old_key: bytes, key: bytes) -> None:
        """Put the object that is now under `old_key` under `key` as well (a hard link, else a copy)."""
        self._serial += 1
        serial = self._serial
        source = self._path_now(old_key)
        try:
            os.link(source, self._new(serial), follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            shutil.copyfile(source, self._new(serial))
        self._pending[key] = serial
        self._removed.discard(key)

    def drop(self, key: bytes) -> None:
        """Take back a new object; what the store had under the key stays."""
        serial = self._pending.pop(key, None)
        if serial is not None:
            self._storage.forget([self._new_key(serial)])
            os.unlink(self._new(serial))

    def remove(self, key: bytes) -> None:
        """The store's object under `key` goes when this is published."""
        self.drop(key)
        self._removed.add(key)

    def move_folder(self, old_key: bytes, new_key: bytes) -> None:
        """Everything below one folder key is to lie below another, which does not exist yet."""
        self._moves.append((old_key, new_key))

    def keep_all(self) -> None:
        """Take back every `remove`."""
        self._removed.clear()

    def exists(self, key: bytes) -> bool:
        """Whether there is an object under `key` as this transaction would leave it."""
        return key in self._pending or (key not in self._removed and self._there_now(key))

    def keys_below(self, key: bytes) -> set[bytes]:
        """Keys of all objects below a folder key, as this transaction would leave them."""
        keys = {found for found in self._pending if found.startswith(key + b"/")}
        before = self._before_moves(key)
        for found, _ in self._storage.list_keys(before):
            now = key + found[len(before) :]
            if now not in self._removed:
                keys.add(now)
        return keys

    # --- reading through it

    def _new_key(self, serial: int) -> bytes:
        return self._work_key + b"/new/%d" % serial

    def _new(self, serial: int) -> bytes:
        return self._storage.path(self._new_key(serial))

    def _before_moves(self, key: bytes) -> bytes:
        """Where in the store the object lies that will be under this key once folders are moved."""
        for old, new in self._moves:
            if key == new or key.startswith(new + b"/"):
                return old + key[len(new) :]
        return key

    def _there_now(self, key: bytes) -> bool:
        return os.path.lexists(self._storage.path(self._before_moves(key)))

    def _key_now(self, key: bytes) -> bytes:
        serial = self._pending.get(key)
        return self._before_moves(key) if serial is None else self._new_key(serial)

    def _path_now(self, key: bytes) -> bytes:
        return self._storage.path(self._key_now(key))

    def size(self, key: bytes) -> int:
        """See `ObjectReader`."""
        return self._storage.size(self._key_now(key))

    def read_into(self, key: bytes, offset: int, out: memoryview) -> None:
        """See `ObjectReader`."""
        self._storage.read_into(self._key_now(key), offset, out)

    def read_range(self, key: bytes, offset: int, length: int) -> bytes:
        """See `ObjectReader`."""
        return self._storage.read_range(self._key_now(key), offset, length)

    # --- durability

    def sync(self) -> None:
        """Everything written so far is on the disk, and reading it back no longer comes from memory where that can be had."""
        files = [self._new(serial) for serial in self._pending.values()]
        self.bytes_written = 0
        if len(files) > SYNC_EACH_UP_TO:
            fd = os.open(self._work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _syncfs(fd)
            finally:
                os.close(fd)
        for path in files:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if len(files) <= SYNC_EACH_UP_TO:
                    os.fsync(fd)
                self.bytes_written += os.fstat(fd).st_size
                with contextlib.suppress(OSError):
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)

    def publish(self, catalogue: Path, after_commit: Callable[[], None] | None = None) -> None:
        """Make the change happen. `catalogue`: the finished new catalogue, a file anywhere on this machine.

        Raises
        ------
        OSError
            The store is as it was: whatever had been done is undone.
        """
        intents: list[tuple[bytes, bytes, int]] = []
        for old, new in self._moves:
            intents += [(_MOVE, new, 0), (_MOVED_FROM, old, 0)]
        for key, serial in self._pending.items():
            intents.append((_REPLACE if self._there_now(key) else _NEW, key, serial))
        intents.extend((_REMOVE, key, 0) for key in self._removed if self._there_now(key))
        try:
            self._put_catalogue_beside(catalogue)
            self._write_intents(intents)
            self._carry_out(intents)
            os.rename(self._work + b"/catalogue", self._storage.path(CATALOGUE_KEY))
        except OSError:
            _undo(self._storage, self._work)
            self._end()
            raise
        sync_directory(self._storage.root)
        if after_commit is not None:
            after_commit()
        self._end()
        emptied = [key for operation, key, _ in intents if operation in (_REMOVE, _MOVED_FROM)]
        _prune_empty(self._storage, emptied)

    def abandon(self) -> None:
        """Nothing happens; new objects are thrown away. Harmless after `publish`."""
        if not self._ended:
            self._end()

    def _end(self) -> None:
        self._ended = True
        self._storage.forget()
        shutil.rmtree(self._work, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rmdir(self._storage.path(WORK))

    def _put_catalogue_beside(self, catalogue: Path) -> None:
        beside = self._work + b"/catalogue"
        shutil.copyfile(catalogue, beside)
        fd = os.open(beside, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _write_intents(self, intents: list[tuple[bytes, bytes, int]]) -> None:
        lines = b"".join(b"%s%d:%s\0" % (operation, serial, key) for operation, key, serial in intents)
        fd = os.open(self._work + b"/intents", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            write_all(fd, lines + _END)
            os.fsync(fd)
        finally:
            os.close(fd)
        for folder in (self._work + b"/new", self._work, self._storage.path(WORK)):
            sync_directory(folder)

    def _carry_out(self, intents: list[tuple[bytes, bytes, int]]) -> None:
        folders: set[bytes] = set()
        self._storage.forget()
        for number, (operation, key, _) in enumerate(intents):
            if operation == _MOVE:
                old = self._storage.path(intents[number + 1][1])
                folders |= _make_folders(self._storage, key)
                os.rename(old, self._storage.path(key))
                folders |= {os.path.dirname(old), os.path.dirname(self._storage.path(key))}
        for number, (operation, key, _) in enumerate(intents):
            if operation == _REPLACE:
                _set_aside(self._storage.path(key), self._work + b"/old/%d" % number)
        sync_directory(self._work + b"/old")
        for number, (operation, key, serial) in enumerate(intents):
            path = self._storage.path(key)
            if operation in (_MOVE, _MOVED_FROM):
                continue
            if operation == _REMOVE:
                os.rename(path, self._work + b"/old/%d" % number)
            else:
                folders |= _make_folders(self._storage, key)
                os.rename(self._new(serial), path)
            folders.add(os.path.dirname(path))
        for folder in folders:
            sync_directory(folder)


def recover_work(storage: LocalStorage, generation: int) -> list[str]:
    """Finish or undo what interrupted transactions left; `generation` is the committed catalogue's.

    Returns
    -------
    list of str
        One sentence for each transaction found, for the log.
    """
    done: list[str] = []
    try:
        names = os.listdir(storage.path(WORK))
    except FileNotFoundError:
        return done
    for name in sorted(names):
        work = storage.path(WORK) + b"/" + name
        if name.isdigit() and int(name) <= generation:
            done.append(f"finished the interrupted flush {int(name)}")
        else:
            _undo(storage, work)
            done.append(f"undid the interrupted flush {os.fsdecode(name)}")
        shutil.rmtree(work, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.rmdir(storage.path(WORK))
    return done


def _set_aside(path: bytes, aside: bytes) -> None:
    try:
        os.link(path, aside, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        os.rename(path, aside)


def _make_folders(storage: LocalStorage, key: bytes) -> set[bytes]:
    """Create the folders above a key; return those whose listing changed."""
    changed: set[bytes] = set()
    missing: list[bytes] = []
    folder = os.path.dirname(storage.path(key))
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for folder in reversed(missing):
        os.mkdir(folder, 0o755)
        changed.add(os.path.dirname(folder))
    return changed


def _undo(storage: LocalStorage, work: bytes) -> None:
    """Put back what the intents of an uncommitted transaction had changed; without complete intents nothing was."""
    try:
        content = Path(os.fsdecode(work + b"/intents")).read_bytes()
    except FileNotFoundError:
        return
    lines = content.split(b"\0")
    if lines[-1] != _END:
        return
    made: list[bytes] = []
    folders: set[bytes] = set()
    for number, line in reversed(list(enumerate(lines[:-1]))):
        operation = line[:1]
        serial, key = line[1:].split(b":", 1)
        path = storage.path(key)
        aside = work + b"/old/%d" % number
        if operation == _MOVED_FROM:
            continue
        if operation == _MOVE:
            old = storage.path(lines[number + 1].split(b":", 1)[1])
            if os.path.lexists(path) and not os.path.lexists(old):
                _make_folders(storage, lines[number + 1].split(b":", 1)[1])
                os.rename(path, old)
                folders.add(os.path.dirname(old))
        elif os.path.lexists(aside):
            os.rename(aside, path)
            # rename between two links of one inode does nothing and leaves both names
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)
        elif operation == _NEW and not os.path.lexists(work + b"/new/" + serial):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(path)
            made.append(key)
        if os.path.isdir(os.path.dirname(path)):
            folders.add(os.path.dirname(path))
    for folder in folders:
        sync_directory(folder)
    _prune_empty(storage, made)


def _prune_empty(storage: LocalStorage, keys: list[bytes]) -> None:
    """Remove folders that are empty now that these keys are gone, up to the store's first level."""
    for key in keys:
        folder = os.path.dirname(key)
        while folder.count(b"/") >= 1:
            try:
                os.rmdir(storage.path(folder))
            except OSError:
                break
            folder = os.path.dirname(folder)
