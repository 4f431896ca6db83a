"""The journal: every change of the tree since the last commit of the catalogue, and where dirty bytes are.

One SQLite database in the mount's state folder, which must not lie on a network file system, and a log of the newest
changes beside it (`rows`). Each change is in the log before it is answered; a killed daemon therefore loses nothing.
Against power loss the database is consistent at any time, and a change survives once `sync` has returned: a commit, and
one fsync of SQLite's write-ahead log, shared by all who wait for it.

Its `inode`, `entry` and `xattr` tables have the catalogue's shapes, and its rows replace the catalogue's rows of the same
key. A commit of the catalogue merges the rows in and deletes them here.

Touched only by the trio thread, except `_fsync` and the checkpoint, which use nothing but descriptors and a connection of
their own. The descriptors stay open as long as the database: closing any descriptor of it would take away SQLite's POSIX
locks (https://sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, final

import trio

from vfsd.errors import UnfitError
from vfsd.store.catalogue import (
    FIRST_FREE_INO,
    SOURCE_INO_BASE,
    InodeRecord,
    record_from_row,
    record_values,
    select_directories_from,
)
from vfsd.tiers import TierName
from vfsd.tree.rows import (
    CHECKPOINT_BYTES,
    DROP_ENTRIES,
    DROP_ENTRY,
    DROP_INODE,
    DROP_XATTR,
    FIELDS,
    PUT_ENTRY,
    PUT_INODE,
    PUT_META,
    PUT_XATTR,
    SET_XATTRS,
    Rows,
    machine_boot,
)

log = logging.getLogger("vfsd.tree")

# Inode numbers are taken from the database in blocks, so that making a file does not update a counter row each time; a
# crash skips the rest of a block, and numbers are never reused.
INO_BLOCK = 1024


class Unsettled(IntEnum):
    """What a row's tier file is worth after a restart of the machine, and what counts instead (column `unsettled`)."""

    NO = 0
    YES = 1
    REPLACING = 2
    """The version before it, in the cache tier, is kept until this one is synced or stored."""


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """A row of the journal's `inode`: the record, and what only the journal knows."""

    record: InodeRecord
    tier: TierName | None
    own_xattrs: bool
    unsettled: Unsettled = Unsettled.NO


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
        self._rows = Rows(path)
        try:
            owner = self._meta("store")
            if owner is None:
                self._set_meta("store", store_id)
            elif owner != store_id:
                raise UnfitError("the journal belongs to another store", path=path)
        except BaseException:
            self._rows.close()
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

    def close(self) -> None:
        """Bring everything into the database file and close."""
        self._rows.close()
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

    @property
    def is_new(self) -> bool:
        """Whether no mount has recovered from it yet, so that it never named a file."""
        return self._meta("boot") is None

    def machine_restarted(self) -> bool:
        """Whether the machine was started anew since `note_boot`: what was never synced may be anything."""
        known = self._meta("boot")
        return known is not None and known != machine_boot()

    def note_boot(self) -> None:
        """Everything recorded now was looked at after this start of the machine."""
        self._set_meta("boot", machine_boot())

    # --- what recovery found lost

    def losses(self) -> str:
        """What `note_losses` noted last, or ""."""
        return str(self._meta("losses") or "")

    def note_losses(self, text: str) -> None:
        """Keep what is lost until somebody was told; "" if nobody needs to be."""
        if text != self.losses():
            self._set_meta("losses", text)

    # --- changing

    def change(self) -> AbstractContextManager[None]:
        """All that is recorded within happens together, or, after an exception, not at all. May be nested; no awaits within."""
        return self._rows.change()

    def put_inode(
        self, record: InodeRecord, tier: TierName | None, own_xattrs: bool, unsettled: Unsettled = Unsettled.NO
    ) -> None:
        """Insert or replace a row."""
        values = (*record_values(record), tier, int(own_xattrs), int(unsettled))
        self._rows.note((PUT_INODE, record.ino), (PUT_INODE, values))

    def drop_inode(self, ino: int, *, has_xattrs: bool = True) -> None:
        """The journal has nothing to say of this inode any more, which has extended attributes here unless that is denied."""
        with self.change():
            self._rows.note((PUT_INODE, ino), (DROP_INODE, (ino,)))
            if has_xattrs:
                self._rows.note((SET_XATTRS, ino), (SET_XATTRS, (ino, ())))

    def put_entry(self, parent: int, name: bytes, ino: int) -> None:
        """Insert or replace an entry; ino 0 is a whiteout."""
        self._rows.note((PUT_ENTRY, parent, name), (PUT_ENTRY, (parent, name, ino)))

    def drop_entry(self, parent: int, name: bytes) -> None:
        """The journal has nothing to say of this name any more."""
        self._rows.note((PUT_ENTRY, parent, name), (DROP_ENTRY, (parent, name)))

    def drop_entries_of(self, parent: int) -> None:
        """The journal has nothing to say of any name in this directory any more."""
        self._rows.note((DROP_ENTRIES, parent), (DROP_ENTRIES, (parent,)))

    def set_xattrs(self, ino: int, attributes: dict[bytes, bytes]) -> None:
        """Replace all extended attributes that the journal has for an inode."""
        self._rows.note((SET_XATTRS, ino), (SET_XATTRS, (ino, tuple(attributes.items()))))

    def put_xattr(self, ino: int, name: bytes, value: bytes) -> None:
        """Insert or replace one extended attribute."""
        self._rows.note((PUT_XATTR, ino, name), (PUT_XATTR, (ino, name, value)))

    def drop_xattr(self, ino: int, name: bytes) -> None:
        """The journal has nothing to say of this extended attribute any more."""
        self._rows.note((PUT_XATTR, ino, name), (DROP_XATTR, (ino, name)))

    # --- reading

    def inode(self, ino: int) -> JournalRecord | None:
        """The row of an inode, or None."""
        row = self._rows.select(f"SELECT {FIELDS} FROM inode WHERE ino = ?", (ino,)).fetchone()
        return None if row is None else _journal_record(row)

    def known_inos(self, inos: list[int]) -> set[int]:
        """Those of some numbers, all of the source, that have a row."""
        if self._rows.select("SELECT 1 FROM inode WHERE ino >= ? LIMIT 1", (SOURCE_INO_BASE,)).fetchone() is None:
            return set()
        rows = self._rows.select(
            "SELECT ino FROM inode WHERE ino IN (SELECT value FROM json_each(?))", (json.dumps(inos),)
        )
        return {ino for (ino,) in rows}

    def inodes(self) -> list[JournalRecord]:
        """All rows of `inode`."""
        return [_journal_record(row) for row in self._rows.select(f"SELECT {FIELDS} FROM inode ORDER BY ino")]

    def entries(self, parent: int) -> list[tuple[bytes, int]]:
        """(name, ino) of each row of a directory; ino 0 is a whiteout."""
        return self._rows.select("SELECT name, ino FROM entry WHERE parent = ?", (parent,)).fetchall()

    def entry(self, parent: int, name: bytes) -> int | None:
        """The inode number under a name (0: whiteout), or None."""
        row = self._rows.select("SELECT ino FROM entry WHERE parent = ? AND name = ?", (parent, name)).fetchone()
        return None if row is None else int(row[0])

    def all_entries(self) -> list[tuple[int, bytes, int]]:
        """(parent, name, ino) of every row."""
        return self._rows.select("SELECT parent, name, ino FROM entry ORDER BY parent, name").fetchall()

    def names_of(self, ino: int) -> list[tuple[int, bytes]]:
        """(parent, name) of each row that leads to an inode."""
        return self._rows.select(
            "SELECT parent, name FROM entry WHERE ino = ? ORDER BY parent, name", (ino,)
        ).fetchall()

    def directories_from(self, origins: Sequence[bytes]) -> list[tuple[int, bytes]]:
        """(inode, origin) of each row of a directory that began as one of these of the source."""
        return self._rows.select(*select_directories_from(origins)).fetchall()

    def xattrs(self, ino: int) -> dict[bytes, bytes]:
        """The extended attributes that the journal has for an inode."""
        return dict(self._rows.select("SELECT name, value FROM xattr WHERE ino = ?", (ino,)).fetchall())

    def xattr(self, ino: int, name: bytes) -> bytes | None:
        """One extended attribute of an inode, or None."""
        row = self._rows.select("SELECT value FROM xattr WHERE ino = ? AND name = ?", (ino, name)).fetchone()
        return None if row is None else bytes(row[0])

    def xattr_names(self, ino: int) -> list[bytes]:
        """The names of the extended attributes that the journal has for an inode."""
        return [name for (name,) in self._rows.select("SELECT name FROM xattr WHERE ino = ?", (ino,))]

    def is_empty(self) -> bool:
        """Whether nothing is recorded that the catalogue does not know."""
        row = self._rows.select("SELECT (SELECT count(*) FROM inode) + (SELECT count(*) FROM entry)").fetchone()
        return int(row[0]) == 0

    # --- durability

    def after_sync(self, action: Callable[[], None]) -> None:
        """Do this once everything recorded so far is durable (used to delete files that no row names any more)."""
        self._after_sync.append((self._rows.changes + bool(self._rows.depth), action))

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
        wanted = self._rows.changes
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

    async def shorten_log(self) -> None:
        """Copy the log back into the database if it has grown long; nobody needs to wait for it."""
        if os.fstat(self._wal).st_size > CHECKPOINT_BYTES:
            await trio.to_thread.run_sync(self._checkpoint)

    async def _sync_log(self) -> None:
        if self._sync_failure is not None:
            raise OSError(self._sync_failure.errno, "the journal could not be synced earlier", os.fspath(self.path))
        self._rows.commit()
        covered = self._rows.changes
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
        os.fdatasync(self._wal)

    def _checkpoint(self) -> None:
        """Copy the log back into the database; PASSIVE never makes a change wait, and what it leaves the next one takes."""
        try:
            with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as db:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            log.warning("checkpoint_failed error=%s", error)

    def _meta(self, key: str) -> Any:
        row = self._rows.select("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def _set_meta(self, key: str, value: int | str) -> None:
        self._rows.note((PUT_META, key), (PUT_META, (key, value)))


def _journal_record(row: tuple[Any, ...]) -> JournalRecord:
    return JournalRecord(record_from_row(row), row[18], bool(row[19]), Unsettled(row[20]))
