"""What lies on a store's disk: size and digest of each object, in the catalogue; and whether the disk still holds it.

With them "is the disk still right" needs no rebuilding: an object is read and its digest compared. The catalogue of an
older vfsd has no such rows; its objects get theirs when they are next written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import final

import xxhash

from vfsd.errors import StoredDataDamaged
from vfsd.store.storage import ObjectReader

# An object is read in pieces of this size: large reads, little memory.
PIECE = 4 << 20

SCHEMA = """
CREATE TABLE IF NOT EXISTS object (
    key    BLOB PRIMARY KEY,       -- path in the store
    size   INTEGER NOT NULL,       -- bytes
    digest BLOB NOT NULL           -- xxh3-128 of its bytes (16 bytes, big-endian)
) WITHOUT ROWID;
"""


@final
@dataclass(frozen=True, slots=True)
class ObjectDigest:
    """Size in bytes, and xxh3-128, of an object."""

    size: int
    digest: bytes

    @classmethod
    def of(cls, data: bytes) -> ObjectDigest:
        """Of an object that is at hand."""
        return cls(len(data), xxhash.xxh3_128_digest(data))


def check_object(reader: ObjectReader, key: bytes, expected: ObjectDigest) -> None:
    """Read an object whole and compare it.

    Raises
    ------
    StoredDataDamaged
        It is missing, has another size, or other bytes.
    OSError
        The disk does not give them.
    """
    size = reader.size(key)
    if size != expected.size:
        raise StoredDataDamaged(f"has {size} bytes instead of {expected.size}", path=key)
    if digest_of(reader, key, size) != expected.digest:
        raise StoredDataDamaged("does not match its digest", path=key)


def digest_of(reader: ObjectReader, key: bytes, size: int) -> bytes:
    """xxh3-128 of an object as it can be read now."""
    hasher = xxhash.xxh3_128()
    buffer = memoryview(bytearray(min(PIECE, size)))
    for offset in range(0, size, PIECE):
        piece = buffer[: min(PIECE, size - offset)]
        reader.read_into(key, offset, piece)
        hasher.update(piece)
    return hasher.digest()


@final
class ObjectTable:
    """The rows of one catalogue, or of one in the making."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def create(self) -> None:
        """Make the table in the catalogue of an older vfsd."""
        self._db.execute(SCHEMA)

    def put(self, objects: Iterable[tuple[bytes, ObjectDigest]]) -> None:
        """Record objects, in place of what was recorded under their keys."""
        rows = ((key, known.size, known.digest) for key, known in objects)
        self._db.executemany("INSERT OR REPLACE INTO object VALUES (?, ?, ?)", rows)

    def drop(self, keys: Iterable[bytes]) -> None:
        """Forget objects."""
        self._db.executemany("DELETE FROM object WHERE key = ?", ((key,) for key in keys))

    def get(self, key: bytes) -> ObjectDigest | None:
        """What is recorded of an object."""
        if not self.is_there:
            return None
        row = self._db.execute("SELECT size, digest FROM object WHERE key = ?", (key,)).fetchone()
        return None if row is None else ObjectDigest(*row)

    def all(self) -> Iterator[tuple[bytes, ObjectDigest]]:
        """All that is recorded, by key."""
        if self.is_there:
            for key, size, digest in self._db.execute("SELECT key, size, digest FROM object ORDER BY key"):
                yield key, ObjectDigest(size, digest)

    def totals(self) -> tuple[int, int]:
        """(objects, bytes) that are recorded."""
        if not self.is_there:
            return 0, 0
        row = self._db.execute("SELECT count(*), coalesce(sum(size), 0) FROM object").fetchone()
        return int(row[0]), int(row[1])

    @property
    def is_there(self) -> bool:
        """Whether the catalogue has the table: it came with a later vfsd."""
        return has_table(self._db, "object")


def has_table(db: sqlite3.Connection, name: str) -> bool:
    """Whether a catalogue has a table."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return db.execute(query, (name,)).fetchone() is not None
