"""The next generation of a catalogue, on a private copy that nobody else sees until it is renamed in.

Rows are only ever changed by the key that they have: a location or a place that already belongs to another file is an
error (`sqlite3.IntegrityError`), never taken over, since that would lose the other file's row without a word.
Never touches the store: `Transaction` copies the finished file there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import final

from vfsd.store.catalogue import (
    FIRST_FREE_INO,
    INODE_FIELDS,
    ROOT_INO,
    SCHEMA,
    Catalogue,
    InodeRecord,
    PlaneRecord,
    record_from_row,
    record_values,
)
from vfsd.store.objects import ObjectTable
from vfsd.store.taken import TakenTables

_UPDATES = ", ".join(f"{name} = excluded.{name}" for name in INODE_FIELDS.split(", ")[1:])
_PUT_INODE = (
    f"INSERT INTO inode ({INODE_FIELDS}) VALUES ({','.join('?' * 18)}) ON CONFLICT (ino) DO UPDATE SET {_UPDATES}"
)
_PUT_PLANE = (
    "INSERT INTO plane VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (ino, page) DO UPDATE SET "
    "grp = excluded.grp, image = excluded.image, i0 = excluded.i0, i1 = excluded.i1, i2 = excluded.i2"
)


@final
class CatalogueBuilder:
    """See the module; `objects` and `taken` are the tables of those names."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")  # a crash throws this file away; Transaction syncs the final copy
        self._db.execute("PRAGMA cache_size = -65536")
        self.objects = ObjectTable(self._db)
        self.taken = TakenTables(self._db)

    @classmethod
    def create(cls, path: Path, root: InodeRecord) -> CatalogueBuilder:
        """An empty catalogue of generation 0 whose root directory is `root`."""
        builder = cls(path)
        builder._db.executescript(SCHEMA)
        builder.begin()
        builder.set_meta("generation", 0)
        builder.set_meta("next_ino", FIRST_FREE_INO)
        builder.put_inode(replace(root, ino=ROOT_INO))
        return builder

    def begin(self) -> None:
        """Start the one transaction in which everything is changed."""
        self._db.execute("BEGIN IMMEDIATE")
        self.objects.create()
        self.taken.create()

    def finish(self) -> None:
        """Commit and close; the file is complete."""
        self._db.execute("COMMIT")
        self._db.close()

    def abandon(self) -> None:
        """Close without completing; the file is worthless."""
        self._db.close()

    def read(self) -> Catalogue:
        """The uncommitted state through the reading interface (same connection: do not close it)."""
        return Catalogue(self._db)

    def set_meta(self, key: str, value: int | str | bytes) -> None:
        """Set a value of `meta`."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def put_inode(self, record: InodeRecord) -> None:
        """Insert or replace an inode; its location must be nobody else's."""
        self._db.execute(_PUT_INODE, record_values(record))

    def put_entry(self, parent: int, name: bytes, ino: int) -> None:
        """Insert or replace an entry."""
        self._db.execute("INSERT OR REPLACE INTO entry VALUES (?, ?, ?)", (parent, name, ino))

    def remove_entry(self, parent: int, name: bytes) -> None:
        """Remove an entry if it is there."""
        self._db.execute("DELETE FROM entry WHERE parent = ? AND name = ?", (parent, name))

    def set_xattrs(self, ino: int, attributes: dict[bytes, bytes]) -> None:
        """Replace all extended attributes of an inode."""
        self._db.execute("DELETE FROM xattr WHERE ino = ?", (ino,))
        self._db.executemany("INSERT INTO xattr VALUES (?, ?, ?)", [(ino, n, v) for n, v in attributes.items()])

    def add_skeleton(self, digest: bytes, data: bytes) -> int:
        """The row of this skeleton, made if no equal one is there."""
        row = self._db.execute("SELECT id FROM skeleton WHERE digest = ?", (digest,)).fetchone()
        if row is not None:
            return int(row[0])
        cursor = self._db.execute("INSERT INTO skeleton (digest, data) VALUES (?, ?)", (digest, data))
        return int(cursor.lastrowid or 0)

    def add_group(self, location: bytes, form: str, directory: bytes, document: str) -> int:
        """A new image group."""
        cursor = self._db.execute(
            "INSERT INTO image_group (location, form, directory, document) VALUES (?, ?, ?, ?)",
            (location, form, directory, document),
        )
        return int(cursor.lastrowid or 0)

    def move_groups(self, moves: Iterable[tuple[int, bytes, bytes]]) -> None:
        """Give groups (id, location, directory); all at once, so that two may change places."""
        moved = list(moves)
        # no key begins with NUL: until each has its own, none is in the way of another
        self._db.executemany(
            "UPDATE image_group SET location = ? WHERE id = ?", [(b"\0%d" % number, number) for number, _, _ in moved]
        )
        self._db.executemany(
            "UPDATE image_group SET location = ?, directory = ? WHERE id = ?",
            [(location, directory, number) for number, location, directory in moved],
        )

    def set_group_document(self, group: int, document: str) -> None:
        """Replace the document of a group."""
        self._db.execute("UPDATE image_group SET document = ? WHERE id = ?", (document, group))

    def remove_group(self, group: int) -> None:
        """Remove a group that has no planes any more."""
        self._db.execute("DELETE FROM image_group WHERE id = ?", (group,))

    def clear_planes(self, ino: int) -> None:
        """Forget where the pages of a file lie."""
        self._db.execute("DELETE FROM plane WHERE ino = ?", (ino,))

    def put_planes(self, planes: list[PlaneRecord]) -> None:
        """Record where pages lie; their places must be nobody else's."""
        self._db.executemany(_PUT_PLANE, [(p.ino, p.page, p.group, p.image, *p.index) for p in planes])

    def remove_unreachable(self) -> list[InodeRecord]:
        """Drop inodes that no path from the root reaches, and all that hangs on them; return what was dropped."""
        self._db.execute("CREATE TEMP TABLE IF NOT EXISTS reachable (ino INTEGER PRIMARY KEY)")
        self._db.execute("DELETE FROM reachable")
        self._db.execute(
            "WITH RECURSIVE live(ino) AS (SELECT ? UNION SELECT e.ino FROM entry e JOIN live ON e.parent = live.ino "
            "WHERE e.ino != 0) INSERT INTO reachable SELECT ino FROM live",
            (ROOT_INO,),
        )
        gone = "SELECT ino FROM inode WHERE ino NOT IN (SELECT ino FROM reachable)"
        dropped = [
            record_from_row(row)
            for row in self._db.execute(f"SELECT {INODE_FIELDS} FROM inode WHERE ino IN ({gone})").fetchall()
        ]
        self._db.execute("DELETE FROM entry WHERE parent NOT IN (SELECT ino FROM reachable)")
        self._db.execute(f"DELETE FROM xattr WHERE ino IN ({gone})")
        self._db.execute(f"DELETE FROM plane WHERE ino IN ({gone})")
        self._db.execute("DELETE FROM inode WHERE ino NOT IN (SELECT ino FROM reachable)")
        self.taken.drop_unreachable()
        return dropped

    def drop_unused_skeletons(self) -> None:
        """Remove skeletons that no inode refers to."""
        self._db.execute("DELETE FROM skeleton WHERE id NOT IN (SELECT skeleton FROM inode WHERE skeleton IS NOT NULL)")
