"""How files came into the store: what the source's file was when it was taken in, and which files nobody verified yet.

Both are asked before a receipt says that the source may go. The catalogue of an older vfsd has neither table: its files
were all verified, and of the source's file only size and mtime can be compared, with the stored file's own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from vfsd.store.objects import has_table

TAKEN = """
CREATE TABLE IF NOT EXISTS taken (
    ino    INTEGER PRIMARY KEY,    -- a file that was stored as the source had it, whatever it became since
    size   INTEGER NOT NULL,       -- the source's file when it was read
    mtime  INTEGER NOT NULL,       -- ns
    digest BLOB NOT NULL           -- xxh3-128 of what was read
)
"""
UNVERIFIED = """
CREATE TABLE IF NOT EXISTS unverified (
    ino INTEGER PRIMARY KEY        -- a file that was stored without being read back
)
"""


@final
@dataclass(frozen=True, slots=True)
class TakenFile:
    """A file of the source when it was taken in: size in bytes, mtime in ns, xxh3-128."""

    ino: int
    size: int
    mtime: int
    digest: bytes


@final
class TakenTables:
    """The rows of one catalogue, or of one in the making."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def create(self) -> None:
        """Make the tables in the catalogue of an older vfsd."""
        self._db.execute(TAKEN)
        self._db.execute(UNVERIFIED)

    def put(self, files: Iterable[TakenFile]) -> None:
        """Record files that were just taken in."""
        rows = ((file.ino, file.size, file.mtime, file.digest) for file in files)
        self._db.executemany("INSERT OR REPLACE INTO taken VALUES (?, ?, ?, ?)", rows)

    def get(self, ino: int) -> TakenFile | None:
        """What the source had when a file was taken in; None if it was not, or by an older vfsd."""
        if not has_table(self._db, "taken"):
            return None
        row = self._db.execute("SELECT ino, size, mtime, digest FROM taken WHERE ino = ?", (ino,)).fetchone()
        return None if row is None else TakenFile(*row)

    def set_verified(self, inos: Iterable[int], *, verified: bool) -> None:
        """Whether what was stored of these files was read back."""
        query = "DELETE FROM unverified WHERE ino = ?" if verified else "INSERT OR IGNORE INTO unverified VALUES (?)"
        self._db.executemany(query, ((ino,) for ino in inos))

    def unverified(self) -> list[int]:
        """Files of which nobody has looked yet whether the store has them as they were."""
        if not has_table(self._db, "unverified"):
            return []
        return [ino for (ino,) in self._db.execute("SELECT ino FROM unverified ORDER BY ino")]

    def drop_unreachable(self) -> None:
        """Forget files that are not in the catalogue any more."""
        for table in ("taken", "unverified"):
            self._db.execute(f"DELETE FROM {table} WHERE ino NOT IN (SELECT ino FROM inode)")
