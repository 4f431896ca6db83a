"""What a journal that no daemon serves says of the files it names; also one that is damaged, as far as it can be read.

Reads a copy, so that looking changes nothing: SQLite would write beside the original. Of a damaged database every row that can
be had is taken, from either end of its tables, and the log's records besides. Never decides what is deleted, and is never used
to go on working: `Recovery` is.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from vfsd.errors import StoredDataDamaged
from vfsd.store.catalogue import ROOT_INO, WHITEOUT, Catalogue
from vfsd.tree.changelog import ChangeLog
from vfsd.tree.journal import Unsettled
from vfsd.tree.recovery import Losses
from vfsd.tree.rows import (
    DROP_ENTRIES,
    DROP_ENTRY,
    DROP_INODE,
    FIELDS,
    LOG_SUFFIX,
    PUT_ENTRY,
    PUT_INODE,
    PUT_META,
    machine_boot,
)

# Deeper than any path that the kernel lets through (PATH_MAX is 4096 bytes).
MOST_LEVELS = 4096
# Columns of a row of `inode` that are looked at here.
_COLUMNS = [name.strip() for name in FIELDS.split(",")]


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A tier file that a row names.

    Attributes
    ----------
    path : bytes or None
        Where it is in the tree; None if no name that leads to it is known.
    tier : str
        "ram" or "cache".
    mtime : int
        In ns, as it was when the row was written.
    unsettled : bool
        It was never synced.
    durable_below : bool
        The cache tier, the store or the source has an older version of it.
    stored : bool
        The store has these very bytes, and the journal does not know yet.
    """

    path: bytes | None
    ino: int
    version: int
    tier: str
    size: int
    mtime: int
    unsettled: bool
    durable_below: bool
    stored: bool


@final
@dataclass(slots=True)
class Remains:
    """See the module. `damage` says what is wrong with the journal, "" if nothing."""

    files: list[NamedFile] = field(default_factory=list)
    losses: Losses = field(default_factory=Losses)
    restarted: bool = False
    damage: str = ""


def read_remains(journal: Path, catalogue: Path) -> Remains:
    """What a journal names; `catalogue`, which need not be there, helps with the paths."""
    remains, rows = Remains(), _Rows()
    with tempfile.TemporaryDirectory(prefix="vfsd-look-") as folder:
        copy = Path(folder) / journal.name
        for end in ("", "-wal", LOG_SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{journal}{end}", f"{copy}{end}")
        if not copy.exists():
            remains.damage = "there is no journal"
        else:
            remains.damage = rows.read_database(copy)
        rows.read_log(Path(f"{copy}{LOG_SUFFIX}"))
    remains.restarted = str(rows.meta.get("boot", machine_boot())) != machine_boot()
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        remains.losses.add_text(str(rows.meta.get("losses") or ""))
    known: Catalogue | None = None
    with contextlib.suppress(StoredDataDamaged, OSError):
        known = Catalogue.open(catalogue)
    try:
        remains.files = list(rows.files(known))
    except (StoredDataDamaged, sqlite3.Error):
        remains.files = list(rows.files(None))
    finally:
        if known is not None:
            known.close()
    return remains


@final
class _Rows:
    """The journal's rows in memory."""

    def __init__(self) -> None:
        self.inodes: dict[int, dict[str, Any]] = {}
        self.entries: dict[tuple[int, bytes], int] = {}
        self.meta: dict[str, Any] = {}

    def read_database(self, path: Path) -> str:
        """Take every row that can be had; returns what is wrong, "" if nothing."""
        damage = ""
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            for order in ("", " DESC"):
                try:
                    for key, value in db.execute(f"SELECT key, value FROM meta ORDER BY key{order}"):
                        self.meta[key] = value
                    for row in db.execute(f"SELECT {FIELDS} FROM inode ORDER BY ino{order}"):
                        self._put_inode(row)
                except sqlite3.Error as error:
                    damage = str(error)
                try:
                    for parent, name, ino in db.execute(f"SELECT parent, name, ino FROM entry ORDER BY parent{order}"):
                        self.entries[parent, bytes(name)] = ino
                except sqlite3.Error as error:
                    damage = damage or str(error)
                if not damage:
                    break
        return damage

    def _put_inode(self, row: tuple[Any, ...]) -> None:
        values = dict(zip(_COLUMNS, row, strict=True))
        self.inodes[int(values["ino"])] = values

    def read_log(self, path: Path) -> None:
        """Perform what the log has and the database may not."""
        if not path.exists():
            return
        with (
            contextlib.closing(ChangeLog(path)) as log,
            contextlib.suppress(ValueError, TypeError, IndexError, EOFError, OSError),
        ):
            for _, operations in log.replay(int(self.meta.get("applied") or 0), whatever=True):
                for statement, values in operations:
                    self._perform(statement, values)

    def _perform(self, statement: int, values: tuple[Any, ...]) -> None:
        if statement == PUT_INODE:
            self._put_inode(values)
        elif statement == DROP_INODE:
            self.inodes.pop(values[0], None)
        elif statement == PUT_ENTRY:
            self.entries[values[0], values[1]] = values[2]
        elif statement == DROP_ENTRY:
            self.entries.pop((values[0], values[1]), None)
        elif statement == DROP_ENTRIES:
            for key in [key for key in self.entries if key[0] == values[0]]:
                del self.entries[key]
        elif statement == PUT_META:
            self.meta[values[0]] = values[1]

    def files(self, catalogue: Catalogue | None) -> Iterator[NamedFile]:
        """Every tier file that a row names."""
        names: dict[int, list[tuple[int, bytes]]] = {}
        for (parent, name), ino in self.entries.items():
            if ino != WHITEOUT:
                names.setdefault(ino, []).append((parent, name))
        for ino, row in self.inodes.items():
            if row["tier"] not in ("ram", "cache") or not row["nlink"]:
                continue
            if not all(isinstance(row[name], int) for name in ("version", "size", "mtime")):
                continue  # a damaged row: its file is found all the same, without a name
            committed = None if catalogue is None else catalogue.inode(ino)
            yield NamedFile(
                self._path(ino, names, catalogue),
                ino,
                int(row["version"]),
                row["tier"],
                int(row["size"]),
                int(row["mtime"]),
                bool(row["unsettled"]),
                durable_below=row["origin"] is not None
                or committed is not None
                or row["unsettled"] == Unsettled.REPLACING,
                stored=committed is not None
                and committed.version >= row["version"]
                and committed.digest != row["digest"],
            )

    def _path(self, ino: int, names: dict[int, list[tuple[int, bytes]]], catalogue: Catalogue | None) -> bytes | None:
        parts: list[bytes] = []
        for _ in range(MOST_LEVELS):
            if ino == ROOT_INO:
                return b"/".join(reversed(parts))
            found = names.get(ino, [])
            if not found and catalogue is not None:
                found = [place for place in catalogue.names_of(ino) if place not in self.entries]
            if not found:
                return None
            ino, name = found[0]
            parts.append(name)
        return None
