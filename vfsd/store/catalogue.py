"""The catalogue: the tree of a store, and where the bytes of each file are.

One SQLite file, `catalog.sqlite`, never in WAL mode and never written in place: a new generation is built elsewhere
(`builder.CatalogueBuilder`), synced, and renamed over the old one by `Transaction`, so that a store may lie on a network
file system and a reader always sees one whole generation. The journal of a mount has the same `inode`, `entry` and
`xattr` shapes (see `tree/journal.py`), and its rows replace the catalogue's rows of the same key.

Paths and names are raw bytes. Times are in nanoseconds since the epoch, sizes in bytes.
"""

from __future__ import annotations

import enum
import json
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from vfsd.errors import StoredDataDamaged
from vfsd.store.objects import ObjectTable
from vfsd.store.taken import TakenTables

ROOT_INO = 1
WHITEOUT = 0  # an entry that points here says: whatever a lower layer has under this name is gone
FIRST_FREE_INO = 2
# No path is deeper (PATH_MAX is 4096): a catalogue in which a folder lies in itself is damaged.
MOST_DEPTH = 4096
# Inode numbers at or above this belong to nodes that were first seen in the source: they are derived from the source
# path (tree/source.py), those below are counted up and never given out again.
SOURCE_INO_BASE = 1 << 62


class Kind(enum.IntEnum):
    """What an inode is and, for a regular file, where its committed bytes lie."""

    PLANES = 1  # skeleton in the catalogue, pixels in an OME-Zarr array
    PLAIN = 2  # a file under files/
    SOURCE = 3  # bytes still in the source; only its name or attributes changed
    FRESH = 4  # journal only: no committed version exists yet, the bytes are in a tier file
    DIRECTORY = 10
    SYMLINK = 11
    FIFO = 12
    SOCKET = 13
    CHARACTER = 14
    BLOCK = 15

    @property
    def is_file(self) -> bool:
        """Whether this is a regular file."""
        return self < Kind.DIRECTORY


_FORMAT_OF_KIND = {
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
}
_KIND_OF_FORMAT = {format_: kind for kind, format_ in _FORMAT_OF_KIND.items()}


def kind_of_mode(mode: int) -> Kind:
    """The kind of a source object with this `st_mode` (a regular file is `SOURCE`)."""
    return _KIND_OF_FORMAT.get(mode & 0o170000, Kind.SOURCE)


def format_of_kind(kind: Kind) -> int:
    """The `S_IFMT` bits of a kind."""
    return _FORMAT_OF_KIND.get(kind, stat.S_IFREG)


@dataclass(slots=True)
class InodeRecord:
    """One row of `inode`: attributes, and where committed bytes are. `INODE_COLUMNS` explains each field."""

    ino: int
    kind: Kind
    mode: int
    uid: int
    gid: int
    nlink: int
    size: int
    atime: int
    mtime: int
    ctime: int
    rdev: int = 0
    origin: bytes | None = None
    opaque: bool = False
    target: bytes | None = None
    location: bytes | None = None
    skeleton: int | None = None
    digest: bytes | None = None
    version: int = 0

    def changed(self, **fields: Any) -> InodeRecord:
        """A copy with other values in some fields; `dataclasses.replace` takes five times as long."""
        copy = InodeRecord(
            self.ino, self.kind, self.mode, self.uid, self.gid, self.nlink, self.size, self.atime, self.mtime, self.ctime,
            self.rdev, self.origin, self.opaque, self.target, self.location, self.skeleton, self.digest, self.version,
        )  # fmt: skip
        for name, value in fields.items():
            setattr(copy, name, value)
        return copy

    def placed_as(self, committed: InodeRecord) -> InodeRecord:
        """These attributes, with the bytes where the catalogue has them: a row may be older than the last commit."""
        if committed.kind not in (Kind.PLANES, Kind.PLAIN):
            return self
        return replace(
            self,
            kind=committed.kind,
            size=committed.size,
            location=committed.location,
            skeleton=committed.skeleton,
            digest=committed.digest,
            version=committed.version,
        )


# Every column, its sentinel and its invariant. Order is the order of InodeRecord's fields.
INODE_COLUMNS = """
    ino      INTEGER PRIMARY KEY,  -- never 0 (that is the whiteout); 1 is the root; never reused
    kind     INTEGER NOT NULL,     -- Kind
    mode     INTEGER NOT NULL,     -- permission bits and S_ISUID/S_ISGID/S_ISVTX, without S_IFMT
    uid      INTEGER NOT NULL,
    gid      INTEGER NOT NULL,
    nlink    INTEGER NOT NULL,     -- files: names that lead here; directories: 2 + subdirectories
    size     INTEGER NOT NULL,     -- bytes; journal rows with a tier: a hint, the tier file's own fstat rules
    atime    INTEGER NOT NULL,     -- ns
    mtime    INTEGER NOT NULL,     -- ns; journal rows with a tier: the tier file's own fstat rules
    ctime    INTEGER NOT NULL,     -- ns
    rdev     INTEGER NOT NULL,     -- 0 unless kind is CHARACTER or BLOCK
    origin   BLOB,                 -- path in the source that this node was first seen at; NULL: never was in the source
    opaque   INTEGER NOT NULL,     -- 1: a directory that shows nothing of its origin's listing
    target   BLOB,                 -- SYMLINK: what it points to; NULL otherwise
    location BLOB,                 -- PLAIN: key in the store ("files/..."); NULL otherwise
    skeleton INTEGER,              -- PLANES: row of skeleton; NULL otherwise
    digest   BLOB,                 -- PLANES, PLAIN: xxh3-128 of the file's bytes (16 bytes, big-endian); NULL otherwise
    version  INTEGER NOT NULL      -- data version that these bytes are; grows by one with each new tier file
"""

ENTRY_COLUMNS = """
    parent INTEGER NOT NULL,       -- ino of a directory
    name   BLOB NOT NULL,          -- 1 to 255 bytes, no "/", no NUL
    ino    INTEGER NOT NULL,       -- 0: whiteout
    PRIMARY KEY (parent, name)
"""

XATTR_COLUMNS = """
    ino   INTEGER NOT NULL,
    name  BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (ino, name)
"""

SCHEMA = f"""
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    -- generation: counts committed transactions; next_ino: the next number to give out;
    -- source_path, source_device, source_inode, source_name: the plate that this store belongs to, absent if none;
    -- store_id, store_version: those of vfs.json, so that it can be written again; absent in an older vfsd's
    value BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE inode ({INODE_COLUMNS});
CREATE UNIQUE INDEX inode_of_location ON inode (location) WHERE location IS NOT NULL;
CREATE TABLE entry ({ENTRY_COLUMNS}) WITHOUT ROWID;
CREATE INDEX entry_of_inode ON entry (ino);
CREATE TABLE xattr ({XATTR_COLUMNS}) WITHOUT ROWID;
CREATE TABLE image_group (
    id        INTEGER PRIMARY KEY,
    location  BLOB NOT NULL UNIQUE, -- key of the Zarr group in the store ("images/plate.ome.zarr"); of labels inside the
                                    -- images of a plate "images/plate.ome.zarr/*/labels/<name>"
    form      TEXT NOT NULL,        -- "plate", "labels", "stack" (axis file) or "pages" (one multi-page file)
    directory BLOB NOT NULL,        -- tree path that it mirrors when it was made
    document  TEXT NOT NULL         -- JSON: geometry, the numbers along each axis, facts for display
);
CREATE TABLE plane (
    ino      INTEGER NOT NULL,      -- whose pixels; kind PLANES, or PLAIN when the array holds a decoded copy
    page     INTEGER NOT NULL,      -- place in the file, from 0
    grp      INTEGER NOT NULL,      -- image_group
    image    TEXT NOT NULL,         -- path of the image in the group: "A/1/0"; "" for the group itself
    i0       INTEGER NOT NULL,      -- index along the leading axes; unused ones are 0
    i1       INTEGER NOT NULL,
    i2       INTEGER NOT NULL,
    PRIMARY KEY (ino, page)
) WITHOUT ROWID;
CREATE UNIQUE INDEX plane_of_place ON plane (grp, image, i0, i1, i2);
CREATE TABLE skeleton (
    id     INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,    -- xxh3-128 of data
    data   BLOB NOT NULL            -- images.Skeleton.to_bytes()
);
"""

INODE_FIELDS = (
    "ino, kind, mode, uid, gid, nlink, size, atime, mtime, ctime, rdev, origin, opaque, target, location, skeleton, "
    "digest, version"
)


@dataclass(frozen=True, slots=True)
class PlaneRecord:
    """Where one page of a file lies: group, image within it, index along the leading axes."""

    ino: int
    page: int
    group: int
    image: str
    index: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class GroupRecord:
    """One OME-Zarr group: its key, form, the directory it mirrors, and its document (JSON text)."""

    id: int
    location: bytes
    form: str
    directory: bytes
    document: str


def signed(ino: int) -> int:
    """Inode numbers are unsigned 64 bit, SQLite integers signed: ours stay under 2**63, so both are the same."""
    if not 0 <= ino < 1 << 63:
        raise ValueError(f"inode number {ino} out of range")
    return ino


def record_values(record: InodeRecord) -> tuple[Any, ...]:
    """The values of a record in the order of the inode columns."""
    return (
        signed(record.ino),
        int(record.kind),
        record.mode,
        record.uid,
        record.gid,
        record.nlink,
        record.size,
        record.atime,
        record.mtime,
        record.ctime,
        record.rdev,
        record.origin,
        int(record.opaque),
        record.target,
        record.location,
        record.skeleton,
        record.digest,
        record.version,
    )


def record_from_row(row: tuple[Any, ...]) -> InodeRecord:
    """An `InodeRecord` from the first 18 columns of a row of `inode`."""
    ino, kind, mode, uid, gid, nlink, size, atime, mtime, ctime, rdev, origin, opaque = row[:13]
    target, location, skeleton, digest, version = row[13:18]
    return InodeRecord(
        ino, Kind(kind), mode, uid, gid, nlink, size, atime, mtime, ctime, rdev, origin, bool(opaque),
        target, location, skeleton, digest, version,
    )  # fmt: skip


def select_directories_from(origins: Sequence[bytes]) -> tuple[str, tuple[Any, ...]]:
    """The query, in catalogue and journal, for (inode, origin) of the directories with one of these origins."""
    places = ",".join("?" * len(origins))
    return f"SELECT ino, origin FROM inode WHERE kind = ? AND origin IN ({places})", (int(Kind.DIRECTORY), *origins)


def _plane_from_row(row: tuple[Any, ...]) -> PlaneRecord:
    ino, page, group, image, i0, i1, i2 = row
    return PlaneRecord(ino, page, group, image, (i0, i1, i2))


@final
class Catalogue:
    """One generation of a store's catalogue, read only; `objects` and `taken` are the tables of those names.

    Example
    -------
    >>> catalogue = Catalogue.open(path)                     # doctest: +SKIP
    >>> [name for name, ino, record in catalogue.entries(1)] # doctest: +SKIP
    [b'TimePoint_1', b'9987.HTD']
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.objects = ObjectTable(connection)
        self.taken = TakenTables(connection)

    @classmethod
    def open(cls, path: Path) -> Catalogue:
        """Open the catalogue file for reading.

        Raises
        ------
        StoredDataDamaged
            If it is missing or no catalogue.
        """
        try:
            # immutable: the file is never written in place, and a read-only folder gets no lock file. The name is
            # taken from /proc/self/fd so that a name with "?" or bytes that are no UTF-8 needs no quoting.
            descriptor = path.open("rb")
        except OSError as error:
            raise StoredDataDamaged(f"the catalogue cannot be opened ({error.strerror})", path=path) from error
        try:
            db = sqlite3.connect(
                f"file:/proc/self/fd/{descriptor.fileno()}?mode=ro&immutable=1",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
            db.execute("SELECT count(*) FROM meta").fetchone()
        except sqlite3.Error as error:
            raise StoredDataDamaged(f"the catalogue is damaged ({error})", path=path) from error
        finally:
            descriptor.close()
        return cls(db)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def meta(self, key: str) -> Any:
        """A value of `meta`, or None."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    @property
    def generation(self) -> int:
        """How many transactions led here."""
        return int(self.meta("generation"))

    def inode(self, ino: int) -> InodeRecord | None:
        """The record of an inode, or None."""
        row = self._db.execute(f"SELECT {INODE_FIELDS} FROM inode WHERE ino = ?", (ino,)).fetchone()
        return None if row is None else record_from_row(row)

    def known_inos(self, inos: list[int]) -> set[int]:
        """Those of some numbers, all of the source, that have a row."""
        if self._db.execute("SELECT 1 FROM inode WHERE ino >= ? LIMIT 1", (SOURCE_INO_BASE,)).fetchone() is None:
            return set()
        rows = self._db.execute(
            "SELECT ino FROM inode WHERE ino IN (SELECT value FROM json_each(?))", (json.dumps(inos),)
        )
        return {ino for (ino,) in rows}

    def entries(self, parent: int) -> list[tuple[bytes, int, InodeRecord | None]]:
        """(name, ino, record) of each entry of a directory; whiteouts have ino 0 and no record."""
        rows = self._db.execute(
            f"SELECT e.name, e.ino, i.* FROM entry e LEFT JOIN (SELECT {INODE_FIELDS} FROM inode) i ON i.ino = e.ino "
            "WHERE e.parent = ?",
            (parent,),
        )
        return [(row[0], row[1], None if row[2] is None else record_from_row(row[2:])) for row in rows]

    def has_entries(self, parent: int) -> bool:
        """Whether a directory has any entry."""
        return self._db.execute("SELECT 1 FROM entry WHERE parent = ? LIMIT 1", (parent,)).fetchone() is not None

    def entry(self, parent: int, name: bytes) -> int | None:
        """The inode number under a name (0: whiteout), or None."""
        row = self._db.execute("SELECT ino FROM entry WHERE parent = ? AND name = ?", (parent, name)).fetchone()
        return None if row is None else int(row[0])

    def names_of(self, ino: int) -> list[tuple[int, bytes]]:
        """(parent, name) of each entry that leads to an inode, in a stable order."""
        return self._db.execute("SELECT parent, name FROM entry WHERE ino = ? ORDER BY parent, name", (ino,)).fetchall()

    def path_of(self, ino: int) -> bytes:
        """The first of the paths of an inode; b"" for the root, and for one that nothing leads to."""
        parts: list[bytes] = []
        while ino != ROOT_INO and len(parts) < MOST_DEPTH and (names := self.names_of(ino)):
            ino, name = names[0]
            parts.append(name)
        return b"/".join(reversed(parts))

    def directories_from(self, origins: Sequence[bytes]) -> list[tuple[int, bytes]]:
        """(inode, origin) of each directory that began as one of these of the source."""
        return self._db.execute(*select_directories_from(origins)).fetchall()

    def xattrs(self, ino: int) -> dict[bytes, bytes]:
        """The extended attributes of an inode."""
        return dict(self._db.execute("SELECT name, value FROM xattr WHERE ino = ?", (ino,)).fetchall())

    def planes(self, ino: int) -> list[PlaneRecord]:
        """Where the pages of a file lie, in the order of its pages."""
        rows = self._db.execute(
            "SELECT ino, page, grp, image, i0, i1, i2 FROM plane WHERE ino = ? ORDER BY page", (ino,)
        )
        return [_plane_from_row(row) for row in rows]

    def planes_of_group(self, group: int) -> Iterator[PlaneRecord]:
        """All planes of a group, ordered by image and index."""
        rows = self._db.execute(
            "SELECT ino, page, grp, image, i0, i1, i2 FROM plane WHERE grp = ? ORDER BY image, i0, i1, i2",
            (group,),
        )
        return (_plane_from_row(row) for row in rows)

    def planes_of_plain_files(self) -> Iterator[tuple[GroupRecord, PlaneRecord]]:
        """Planes that are decoded copies: their files are stored as they are."""
        groups = {group.id: group for group in self.groups()}
        rows = self._db.execute(
            "SELECT p.ino, page, grp, image, i0, i1, i2 FROM plane p JOIN inode i ON i.ino = p.ino WHERE kind = ?",
            (Kind.PLAIN,),
        )
        return ((groups[row[2]], _plane_from_row(row)) for row in rows if row[2] in groups)

    def images_of_group(self, group: int) -> list[str]:
        """The paths of the images in a group that have a plane, in their order."""
        return [image for (image,) in self._db.execute("SELECT DISTINCT image FROM plane WHERE grp = ?", (group,))]

    def owner_of_location(self, location: bytes) -> int | None:
        """Whose plain object has this key, or None."""
        row = self._db.execute("SELECT ino FROM inode WHERE location = ?", (location,)).fetchone()
        return None if row is None else int(row[0])

    def owner_of_place(self, group: int, image: str, index: tuple[int, int, int]) -> int | None:
        """Whose page lies at this place of a group, or None."""
        row = self._db.execute(
            "SELECT ino FROM plane WHERE grp = ? AND image = ? AND i0 = ? AND i1 = ? AND i2 = ?",
            (group, image, *index),
        ).fetchone()
        return None if row is None else int(row[0])

    def images(self, group: int) -> set[str]:
        """The images of a group that have a plane."""
        return {image for (image,) in self._db.execute("SELECT DISTINCT image FROM plane WHERE grp = ?", (group,))}

    def skeleton(self, skeleton: int) -> bytes:
        """The stored bytes of a skeleton; raises StoredDataDamaged if there is no such row."""
        row = self._db.execute("SELECT data FROM skeleton WHERE id = ?", (skeleton,)).fetchone()
        if row is None:
            raise StoredDataDamaged(f"the catalogue has no skeleton {skeleton}")
        return bytes(row[0])

    def groups(self) -> list[GroupRecord]:
        """All image groups."""
        rows = self._db.execute("SELECT id, location, form, directory, document FROM image_group ORDER BY id")
        return [GroupRecord(*row) for row in rows]

    def group(self, group: int) -> GroupRecord:
        """One image group; raises StoredDataDamaged if there is no such row."""
        row = self._db.execute(
            "SELECT id, location, form, directory, document FROM image_group WHERE id = ?", (group,)
        ).fetchone()
        if row is None:
            raise StoredDataDamaged(f"the catalogue has no image group {group}")
        return GroupRecord(*row)

    def walk(self) -> Iterator[tuple[bytes, InodeRecord]]:
        """(path, record) of everything below the root, parents before their children; the root is not given."""
        pending: list[tuple[bytes, int]] = [(b"", ROOT_INO)]
        while pending:
            prefix, directory = pending.pop()
            for name, _, record in sorted(self.entries(directory), key=lambda entry: entry[0]):
                if record is None:
                    continue
                path = prefix + name
                yield path, record
                if record.kind is Kind.DIRECTORY:
                    pending.append((path + b"/", record.ino))

    def stored_inos(self) -> list[int]:
        """The files that the store itself holds."""
        kinds = (Kind.PLANES, Kind.PLAIN)
        return [ino for (ino,) in self._db.execute("SELECT ino FROM inode WHERE kind IN (?, ?) ORDER BY ino", kinds)]

    def totals(self) -> tuple[int, int]:
        """(files, bytes) of what the store itself holds."""
        row = self._db.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM inode WHERE kind IN (?, ?)",
            (Kind.PLANES, Kind.PLAIN),
        ).fetchone()
        return int(row[0]), int(row[1])
