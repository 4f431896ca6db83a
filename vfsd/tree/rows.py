"""The journal's rows: its database, and the log of the newest changes that the database has not taken yet.

A change is a group of operations that happens as a whole. It is in the log (`changelog`) before it is answered, and is
kept in memory until the database takes it, many with one commit; whatever is selected sees it. Of several operations of
one key (a directory's row, with each name in it) only the last goes into the database.

Touched only by the trio thread.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import sqlite3
from collections.abc import Hashable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, final

from vfsd.errors import UnfitError, shown_path
from vfsd.store.catalogue import ENTRY_COLUMNS, INODE_COLUMNS, INODE_FIELDS, XATTR_COLUMNS
from vfsd.tree.changelog import ChangeLog, Operation

# The database takes what was answered when it has come to this, so that a commit costs each change little. Large extended
# attributes count by their bytes. Its connection is first given a few operations with each change, and then commits what is
# little by then: a commit of all at once would keep one change in 250 waiting for 2 ms (benchmarks/journal.py).
COMMIT_OPERATIONS = 256
COMMIT_BYTES = 1 << 20
A_FEW = 16
LOG_SUFFIX = "-changes"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# SQLite's log is copied back into the database when it has grown to this, on a thread: an automatic checkpoint would stall
# one change in a few hundred for milliseconds.
CHECKPOINT_BYTES = 32 << 20
# 2: the newest changes are in a log beside the database, which an older vfsd would not look for.
# 3: `unsettled` says whether an older version is kept.
SCHEMA_VERSION = 3

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (
    key   TEXT PRIMARY KEY,       -- next_ino: first number of the next block; store: id of the store it belongs to;
                                  -- boot: the kernel's boot id when a mount last recovered from this journal;
                                  -- applied: number of the last change of the log that is in here, absent if none;
                                  -- losses: what recovery found lost and nobody was told yet (JSON, recovery.Losses),
                                  -- "" or absent if nothing
    value BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS inode ({INODE_COLUMNS},
    tier       TEXT,              -- "ram" or "cache": the bytes are in the tier file <ino>.<version>; NULL: where kind
                                  -- says. FRESH always has one.
    own_xattrs INTEGER NOT NULL,  -- 1: this journal's xattr rows are all there are; 0: the catalogue's or source's count
    unsettled  INTEGER NOT NULL   -- 0: the tier file was synced once since it became the file's bytes (later writes in
                                  -- place promise what ext4 does), or there is no tier. 1: it was not: after a restart of
                                  -- the machine it may be anything, and what kind says counts, if that has bytes. 2: as 1,
                                  -- but what counts is the tier file <ino>.<version - 1> of the cache tier, which was
                                  -- synced and is kept until this one is (`journal.Unsettled`)
);
CREATE TABLE IF NOT EXISTS entry ({ENTRY_COLUMNS}) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS entry_of_inode ON entry (ino);
CREATE TABLE IF NOT EXISTS xattr ({XATTR_COLUMNS}) WITHOUT ROWID;
"""

FIELDS = f"{INODE_FIELDS}, tier, own_xattrs, unsettled"

# What an operation of the log does, by its number: these numbers are in files that a later version may find.
PUT_INODE, DROP_INODE, PUT_ENTRY, DROP_ENTRY, DROP_ENTRIES, PUT_META, SET_XATTRS, PUT_XATTR, DROP_XATTR = range(9)
_STATEMENTS = (
    f"INSERT OR REPLACE INTO inode ({FIELDS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    "DELETE FROM inode WHERE ino = ?",
    "INSERT OR REPLACE INTO entry VALUES (?,?,?)",
    "DELETE FROM entry WHERE parent = ? AND name = ?",
    "DELETE FROM entry WHERE parent = ?",
    "INSERT OR REPLACE INTO meta VALUES (?,?)",
    "DELETE FROM xattr WHERE ino = ?",  # and then one PUT_XATTR each
    "INSERT OR REPLACE INTO xattr VALUES (?,?,?)",
    "DELETE FROM xattr WHERE ino = ? AND name = ?",
)
# These concern one row each of which no other in a batch speaks, so that their order does not matter.
_GROUPED = frozenset((PUT_INODE, DROP_INODE, PUT_ENTRY, DROP_ENTRY))


@final
class _Change:
    """The block of `Rows.change`; the outermost one counts."""

    __slots__ = ("_rows",)

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __enter__(self) -> None:
        rows = self._rows
        if not rows.depth:
            rows.begin()
        rows.depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        rows = self._rows
        rows.depth -= 1
        if rows.depth:
            return
        if problem is None:
            try:
                rows.end()
            except BaseException:
                rows.give_up()
                raise
            return
        rows.give_up()
        if isinstance(problem, sqlite3.Error):
            raise _as_os_error(problem, rows.path) from problem


@final
class Rows:
    """See the module. `key` in `note` says what an operation is about.

    Example
    -------
    >>> with rows.change():                                                          # doctest: +SKIP
    ...     rows.note((PUT_ENTRY, parent, name), (PUT_ENTRY, (parent, name, ino)))
    >>> rows.select("SELECT ino FROM entry WHERE parent = ?", (parent,)).fetchall()  # doctest: +SKIP
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.depth = 0  # of the open change; `change` counts
        self.changes = 1  # what an earlier daemon recorded may not be durable yet
        self._change = _Change(self)
        # By key: what was answered and is not committed in the database, first what its connection has seen, then what
        # it has not; and the open change's, of which a read within it lets the connection see a part: and the rest.
        self._seen: dict[Hashable, Operation] = {}
        self._unseen: dict[Hashable, Operation] = {}
        self._current: dict[Hashable, Operation] = {}
        self._current_unseen: dict[Hashable, Operation] = {}
        self._current_seen = False
        self._number = 0  # of the last change in the log
        try:
            self.db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
        except sqlite3.Error as error:
            raise unusable(error, path) from error
        try:
            self._log = ChangeLog(path.with_name(path.name + LOG_SUFFIX))
        except OSError as error:
            self.db.close()
            raise unusable(error, path) from error
        try:
            self._prepare()
        except BaseException as error:
            self._log.close()
            self.db.close()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise unusable(error, self.path) from error
            raise

    def _prepare(self) -> None:
        version = int(self.db.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise UnfitError("was written by a newer vfsd", path=self.path, remedy="Use that newer vfsd")
        if version:  # what damage is found now loses nothing; what is found later would cost whoever stumbles over it
            found = self.db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = NORMAL")
        self.db.execute("PRAGMA wal_autocheckpoint = 0")
        # a log that starts anew after a checkpoint is cut to this, so that its size says when the next one is due
        self.db.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_BYTES}")
        self.db.executescript(_SCHEMA)
        self._replay()
        if version == 2:  # which kept older versions and did not say so
            self.db.execute("UPDATE inode SET unsettled = 2 WHERE unsettled = 1")
        self.db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        """Bring everything into the database file and close; what a full disk keeps out stays in the logs."""
        with contextlib.suppress(sqlite3.Error, OSError):
            self.commit()
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.db.close()
        self._log.close()

    def change(self) -> _Change:
        """All that is noted within happens together, or, after an exception, not at all. May be nested; no awaits within."""
        return self._change

    def note(self, key: Hashable, operation: Operation) -> None:
        """Add an operation to the open change, or make a change of it; it takes the place of an earlier one of its key."""
        if not self.depth:
            with self.change():
                self.note(key, operation)
            return
        for operations in (self._current, self._current_unseen):
            operations.pop(key, None)
            operations[key] = operation

    def select(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Rows as they are with everything noted so far."""
        self._see()
        return self.db.execute(statement, values)

    def begin(self) -> None:
        """A change begins (`change` alone calls this): the database takes the earlier ones if they are many."""
        if len(self._seen) + len(self._unseen) < COMMIT_OPERATIONS and self._log.size < COMMIT_BYTES:
            return
        if len(self._unseen) > A_FEW and self._log.size < 2 * COMMIT_BYTES:
            self._see_a_few()
        else:
            self.commit()

    def end(self) -> None:
        """A change is complete: it is in the log when this returns, or, after an exception, nowhere."""
        if self._current:
            try:
                self._log.append(self._number + 1, list(self._current.values()))
            except OSError as error:
                text = f"the journal cannot be written ({error.strerror})"
                raise OSError(error.errno, text, os.fspath(self.path)) from error
            self._number += 1
            if self._current_seen:  # then nothing older is unseen
                seen = self._current.keys() - self._current_unseen.keys()
                _add(self._seen, {key: operation for key, operation in self._current.items() if key in seen})
            _add(self._unseen, self._current_unseen)
            self._current, self._current_unseen, self._current_seen = {}, {}, False
        self.changes += 1

    def give_up(self) -> None:
        """A change failed: nothing of it has happened."""
        if self._current_seen:
            self._roll_back()
        self._current, self._current_unseen, self._current_seen = {}, {}, False

    def _roll_back(self) -> None:
        """What was answered goes into the database again: a full disk may have rolled back, or left it open."""
        if self.db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                self.db.execute("ROLLBACK")
        seen = self._seen
        self._seen, newer = {}, self._unseen
        self._unseen = seen
        _add(self._unseen, newer)

    def commit(self) -> None:
        """Bring what was answered into the database; raises OSError, and then the log still has it."""
        self._see()
        if not self.db.in_transaction:
            return
        try:
            self.db.execute("INSERT OR REPLACE INTO meta VALUES ('applied', ?)", (self._number,))
            self.db.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise _as_os_error(error, self.path) from error
        self._seen.clear()
        self._log.begin_anew()

    def _see(self) -> None:
        """Let the database's connection see everything recorded so far, in a transaction that `commit` ends."""
        if not self._unseen and not self._current_unseen:
            return
        try:
            if not self.db.in_transaction:
                self.db.execute("BEGIN IMMEDIATE")
            self._perform(self._unseen.values())
            _add(self._seen, self._unseen)
            self._unseen.clear()
            if self._current_unseen:
                self._current_seen = True
                self._perform(self._current_unseen.values())
                self._current_unseen.clear()
        except sqlite3.Error as error:
            self._roll_back()
            self._current_unseen, self._current_seen = dict(self._current), False
            raise _as_os_error(error, self.path) from error

    def _see_a_few(self) -> None:
        """Let the database's connection see the oldest of what it has not seen, between two changes."""
        few = dict(itertools.islice(self._unseen.items(), A_FEW))
        try:
            if not self.db.in_transaction:
                self.db.execute("BEGIN IMMEDIATE")
            self._perform(few.values())
        except sqlite3.Error as error:
            self._roll_back()
            raise _as_os_error(error, self.path) from error
        _add(self._seen, few)
        for key in few:
            del self._unseen[key]

    def _perform(self, operations: Iterable[Operation]) -> None:
        """Rows and entries, each of another key, go in groups of a statement, which costs half; all else keeps its place."""
        groups: dict[int, list[tuple[Any, ...]]] = {}
        for statement, values in operations:
            if statement in _GROUPED:
                groups.setdefault(statement, []).append(values)
                continue
            self._perform_groups(groups)
            if statement == SET_XATTRS:
                ino, attributes = values
                self.db.execute(_STATEMENTS[SET_XATTRS], (ino,))
                self.db.executemany(_STATEMENTS[PUT_XATTR], [(ino, name, value) for name, value in attributes])
            else:
                self.db.execute(_STATEMENTS[statement], values)
        self._perform_groups(groups)

    def _perform_groups(self, groups: dict[int, list[tuple[Any, ...]]]) -> None:
        for statement, rows in groups.items():
            self.db.executemany(_STATEMENTS[statement], rows)
        groups.clear()

    def _applied(self) -> int:
        row = self.db.execute("SELECT value FROM meta WHERE key = 'applied'").fetchone()
        return 0 if row is None else int(row[0])

    def _replay(self) -> None:
        """What an earlier daemon answered and its database does not have."""
        self._number = self._applied()
        boot = self.db.execute("SELECT value FROM meta WHERE key = 'boot'").fetchone()
        if boot is not None and boot[0] == machine_boot() and self._log.is_damaged(self._number):
            raise sqlite3.DatabaseError("its log is damaged: changes are missing")
        for number, operations in self._log.replay(self._number):
            _add(self._unseen, {_key(operation): operation for operation in operations})
            self._number = number
        self.commit()
        self._log.clear()


def machine_boot() -> str:
    """The kernel's random id of this start of the machine (random(4)); "" where it is not to be had."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _key(operation: Operation) -> Hashable:
    """What an operation of the log is about, as `note` was told."""
    statement, values = operation
    if statement in (PUT_INODE, DROP_INODE):
        return PUT_INODE, values[0]
    if statement in (PUT_ENTRY, DROP_ENTRY):
        return PUT_ENTRY, values[0], values[1]
    if statement in (PUT_XATTR, DROP_XATTR):
        return PUT_XATTR, values[0], values[1]
    return statement, values[0]


def _add(operations: dict[Hashable, Operation], newer: dict[Hashable, Operation]) -> None:
    """Newer operations go to the end, in their order, and take the place of those with their keys."""
    for key, operation in newer.items():
        operations.pop(key, None)
        operations[key] = operation


def unusable(error: Exception, path: Path) -> UnfitError:
    """Nothing is deleted for a journal that cannot be read: it is all that says which tier file is which."""
    folder = shown_path(path.parent)
    return UnfitError(
        f"the journal cannot be used ({error})",
        path=path,
        remedy="Nothing was deleted, and nothing will be: new files lie in the cache and RAM folders that "
        f"{folder}/mount.json names, called by number. 'vfsd recover --rescue DIRECTORY {folder}' copies every one of them out, "
        "under its path where that can still be told",
    )


def _as_os_error(error: sqlite3.Error, path: Path) -> OSError:
    """A journal that cannot be written is an I/O error of the operation that wanted it, ENOSPC on a full disk."""
    number = errno.ENOSPC if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL" else errno.EIO
    return OSError(number, f"the journal cannot be written ({error})", os.fspath(path))
