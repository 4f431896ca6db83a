"""The journal: every change of the tree since the last commit of the catalogue, and where dirty bytes are.

One SQLite database in the mount's state folder, which must not lie on a network file system. Each change is recorded
before it is answered; a killed daemon therefore loses nothing. Against power loss the database is consistent at any time,
and a change survives once `sync` has returned: one fsync of the write-ahead log, shared by all who wait for it.

Its `inode`, `entry` and `xattr` tables have the catalogue's shapes, and its rows replace the catalogue's rows of the same
key. A commit of the catalogue merges the rows in and deletes them here.

Touched only by the trio thread, except `_fsync` and the checkpoint, which use nothing but descriptors and a connection of
their own. The descriptors stay open as long as the database: closing any descriptor of it would take away SQLite's POSIX
locks (https://sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import trio

from vfsd.errors import UnfitError
from vfsd.store.catalogue import (
    ENTRY_COLUMNS,
    FIRST_FREE_INO,
    INODE_COLUMNS,
    XATTR_COLUMNS,
    InodeRecord,
    record_from_row,
    record_values,
)
from vfsd.tiers import TierName

log = logging.getLogger("vfsd.tree")

# Inode numbers are taken from the database in blocks, so that making a file does not update a counter row each time; a
# crash skips the rest of a block, and numbers are never reused.
INO_BLOCK = 1024
# The log is copied back into the database when it has grown to this, on a thread: an automatic checkpoint would stall one
# change in a few hundred for milliseconds.
CHECKPOINT_BYTES = 32 << 20
SCHEMA_VERSION = 1
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (
    key   TEXT PRIMARY KEY,       -- next_ino: first number of the next block; store: id of the store it belongs to;
                                  -- boot: the kernel's boot id when a mount last recovered from this journal
    value BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inode ({INODE_COLUMNS},
    tier       TEXT,              -- "ram" or "cache": the bytes are in the tier file <ino>.<version>; NULL: where kind
                                  -- says. FRESH always has one.
    own_xattrs INTEGER NOT NULL,  -- 1: this journal's xattr rows are all there are; 0: the catalogue's or source's count
    unsettled  INTEGER NOT NULL   -- 1: the tier file took the place of durable bytes and was not synced since, so that
                                  -- after a restart of the machine the durable ones count; 0 without a tier
);
CREATE TABLE IF NOT EXISTS entry ({ENTRY_COLUMNS}) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entry_of_inode ON entry (ino);
CREATE TABLE IF NOT EXISTS xattr ({XATTR_COLUMNS}) WITHOUT ROWID;
"""

_FIELDS = (
    "ino, kind, mode, uid, gid, nlink, size, atime, mtime, ctime, rdev, origin, opaque, target, location, skeleton, "
    "digest, version, tier, own_xattrs, unsettled"
)


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """A row of the journal's `inode`: the record, and what only the journal knows."""

    record: InodeRecord
    tier: TierName | None
    own_xattrs: bool
    unsettled: bool = False


@final
class Journal:
    """See the module.

    Example
    -------
    >>> with journal.change():                          # doctest: +SKIP
    ...     journal.put_inode(record, "ram", False)
    ...     journal.put_entry(parent, b"mask.tif", record.ino)
    """

    def __init__(self, path: Path, store_id: str) -> None:
        self.path = path
        self._depth = 0
        self._changes = 1  # what an earlier daemon recorded may not be durable yet
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
        except sqlite3.Error as error:
            raise UnfitError(f"the journal cannot be used ({error})", path=path) from error
        try:
            self._prepare(store_id)
        except BaseException:
            self._db.close()
            raise
        self._wal = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._next_ino = 0
        self._block_end = 0
        self._synced = 0
        self._syncing: trio.Lock = trio.Lock()
        self._after_sync: list[tuple[int, Callable[[], None]]] = []
        self._sync_failure: OSError | None = None
        self._names_synced = False

    def _prepare(self, store_id: str) -> None:
        """Settings, tables, and whose journal this is; raises UnfitError."""
        try:
            version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            if version > SCHEMA_VERSION:
                raise UnfitError("was written by a newer vfsd", path=self.path, remedy="Use that newer vfsd")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA wal_autocheckpoint = 0")
            # a log that starts anew after a checkpoint is cut to this, so that its size says when the next one is due
            self._db.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_BYTES}")
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            owner = self._meta("store")
            if owner is None:
                self._set_meta("store", store_id)
        except (sqlite3.Error, OSError) as error:
            raise UnfitError(f"the journal cannot be used ({error})", path=self.path) from error
        if owner not in (None, store_id):
            raise UnfitError("the journal belongs to another store", path=self.path)

    def close(self) -> None:
        """Copy the log back and close; nothing may be pending."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.close()
        for fd in (self._wal, self._file, self._folder):
            os.close(fd)

    # --- inode numbers

    def raise_next_ino(self, at_least: int) -> None:
        """Never give out a number below this one (what the catalogue has given out)."""
        current = self._meta("next_ino")
        if current is None or int(current) < at_least:
            self._set_meta("next_ino", at_least)

    def new_ino(self) -> int:
        """An inode number that was never given out before."""
        if self._next_ino >= self._block_end:
            first = self.next_ino
            self._set_meta("next_ino", first + INO_BLOCK)  # recorded before any of them is given out
            self._next_ino, self._block_end = first, first + INO_BLOCK
        self._next_ino += 1
        return self._next_ino - 1

    @property
    def next_ino(self) -> int:
        """The first number that was certainly never given out."""
        stored = self._meta("next_ino")
        return FIRST_FREE_INO if stored is None else int(stored)

    # --- restarts of the machine

    def machine_restarted(self) -> bool:
        """Whether the machine was started anew since `note_boot`: what was never synced may be anything."""
        known = self._meta("boot")
        return known is not None and known != _boot_id()

    def note_boot(self) -> None:
        """Everything recorded now was looked at after this start of the machine."""
        self._set_meta("boot", _boot_id())

    # --- changing

    @contextlib.contextmanager
    def change(self) -> Iterator[None]:
        """All that is recorded within happens together, or, after an exception, not at all. May be nested; no awaits within."""
        if self._depth:
            yield
            return
        self._depth = 1
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            self._changes += 1
        except sqlite3.Error as error:
            raise _as_os_error(error, self.path) from error
        finally:
            self._depth = 0

    def _roll_back(self) -> None:
        """A full disk may have rolled the change back already, or left it open after a failed COMMIT."""
        if self._db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")

    def put_inode(self, record: InodeRecord, tier: TierName | None, own_xattrs: bool, unsettled: bool = False) -> None:
        """Insert or replace a row."""
        self._execute(
            f"INSERT OR REPLACE INTO inode ({_FIELDS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (*record_values(record), tier, int(own_xattrs), int(unsettled)),
        )

    def drop_inode(self, ino: int) -> None:
        """The journal has nothing to say of this inode any more."""
        self._execute("DELETE FROM inode WHERE ino = ?", (ino,))
        self._execute("DELETE FROM xattr WHERE ino = ?", (ino,))

    def put_entry(self, parent: int, name: bytes, ino: int) -> None:
        """Insert or replace an entry; ino 0 is a whiteout."""
        self._execute("INSERT OR REPLACE INTO entry VALUES (?,?,?)", (parent, name, ino))

    def drop_entry(self, parent: int, name: bytes) -> None:
        """The journal has nothing to say of this name any more."""
        self._execute("DELETE FROM entry WHERE parent = ? AND name = ?", (parent, name))

    def drop_entries_of(self, parent: int) -> None:
        """The journal has nothing to say of any name in this directory any more."""
        self._execute("DELETE FROM entry WHERE parent = ?", (parent,))

    def set_xattrs(self, ino: int, attributes: dict[bytes, bytes]) -> None:
        """Replace all extended attributes that the journal has for an inode."""
        self._execute("DELETE FROM xattr WHERE ino = ?", (ino,))
        for name, value in attributes.items():
            self._execute("INSERT INTO xattr VALUES (?,?,?)", (ino, name, value))

    def _execute(self, statement: str, values: tuple[Any, ...]) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise _as_os_error(error, self.path) from error
        if not self._depth:
            self._changes += 1

    # --- reading

    def inode(self, ino: int) -> JournalRecord | None:
        """The row of an inode, or None."""
        row = self._db.execute(f"SELECT {_FIELDS} FROM inode WHERE ino = ?", (ino,)).fetchone()
        return None if row is None else _journal_record(row)

    def inodes(self) -> list[JournalRecord]:
        """All rows of `inode`."""
        return [_journal_record(row) for row in self._db.execute(f"SELECT {_FIELDS} FROM inode ORDER BY ino")]

    def entries(self, parent: int) -> list[tuple[bytes, int]]:
        """(name, ino) of each row of a directory; ino 0 is a whiteout."""
        return self._db.execute("SELECT name, ino FROM entry WHERE parent = ?", (parent,)).fetchall()

    def entry(self, parent: int, name: bytes) -> int | None:
        """The inode number under a name (0: whiteout), or None."""
        row = self._db.execute("SELECT ino FROM entry WHERE parent = ? AND name = ?", (parent, name)).fetchone()
        return None if row is None else int(row[0])

    def all_entries(self) -> list[tuple[int, bytes, int]]:
        """(parent, name, ino) of every row."""
        return self._db.execute("SELECT parent, name, ino FROM entry ORDER BY parent, name").fetchall()

    def names_of(self, ino: int) -> list[tuple[int, bytes]]:
        """(parent, name) of each row that leads to an inode."""
        return self._db.execute("SELECT parent, name FROM entry WHERE ino = ? ORDER BY parent, name", (ino,)).fetchall()

    def xattrs(self, ino: int) -> dict[bytes, bytes]:
        """The extended attributes that the journal has for an inode."""
        return dict(self._db.execute("SELECT name, value FROM xattr WHERE ino = ?", (ino,)).fetchall())

    def is_empty(self) -> bool:
        """Whether nothing is recorded that the catalogue does not know."""
        row = self._db.execute("SELECT (SELECT count(*) FROM inode) + (SELECT count(*) FROM entry)").fetchone()
        return int(row[0]) == 0

    # --- durability

    def after_sync(self, action: Callable[[], None]) -> None:
        """Do this once everything recorded so far is durable (used to delete files that no row names any more)."""
        self._after_sync.append((self._changes + self._depth, action))

    @property
    def waiting(self) -> bool:
        """Whether something waits for the next `sync`."""
        return bool(self._after_sync)

    async def sync(self) -> None:
        """Everything recorded before the call survives power loss when this returns.

        Raises
        ------
        OSError
            The log could not be synced, now or earlier: the kernel reports that once and may then forget the bytes, so
            no later success could be believed.
        """
        wanted = self._changes
        async with self._syncing:
            if self._synced < wanted:
                await self._sync_log()
            due = [action for change, action in self._after_sync if change <= self._synced]
            self._after_sync = [waiting for waiting in self._after_sync if waiting[0] > self._synced]
        for action in due:
            try:
                action()
            except OSError as error:
                log.warning("action_after_sync_failed error=%s", error)
        if os.fstat(self._wal).st_size > CHECKPOINT_BYTES:
            await trio.to_thread.run_sync(self._checkpoint)

    async def _sync_log(self) -> None:
        if self._sync_failure is not None:
            raise OSError(self._sync_failure.errno, "the journal could not be synced earlier", os.fspath(self.path))
        covered = self._changes
        try:
            await trio.to_thread.run_sync(self._fsync)
        except OSError as error:
            self._sync_failure = error
            raise
        self._synced = covered

    def _fsync(self) -> None:
        if not self._names_synced:  # once: the database file, and the names of both files
            os.fsync(self._file)
            os.fsync(self._folder)
            self._names_synced = True
        os.fsync(self._wal)

    def _checkpoint(self) -> None:
        """Copy the log back into the database; PASSIVE never makes a change wait, and what it leaves the next one takes."""
        try:
            with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as db:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            log.warning("checkpoint_failed error=%s", error)

    def _meta(self, key: str) -> Any:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def _set_meta(self, key: str, value: int | str) -> None:
        self._execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def _boot_id() -> str:
    """The kernel's random id of this start of the machine (random(4)); "" where it is not to be had."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _journal_record(row: tuple[Any, ...]) -> JournalRecord:
    return JournalRecord(record_from_row(row), row[18], bool(row[19]), bool(row[20]))


def _as_os_error(error: sqlite3.Error, path: Path) -> OSError:
    """A journal that cannot be written is an I/O error of the operation that wanted it, ENOSPC on a full disk."""

    number = errno.ENOSPC if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" else errno.EIO
    return OSError(number, f"the journal cannot be written ({error})", os.fspath(path))
