"""The files of one state folder that no daemon serves: listing them, and copying them out where nothing else helps.

Neither changes anything there. What is known of a file comes from the journal (`tree.remains`); whether it is there is looked
up in the tier folders, and a tier file that no row names is copied out as well, called by its number.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfsd.daemon.recovery import Leftover
from vfsd.errors import UnfitError, VfsdError, shown_path

if TYPE_CHECKING:
    from vfsd.tree.remains import NamedFile, Remains

# As many as a terminal or a script can take in; what is not named is counted.
MOST_NAMED = 10_000
# Where tier files without a known path go, below the folder they are copied to.
UNNAMED = b"unnamed"


class Fate(StrEnum):
    """What became of a file that is not in the store."""

    KEPT = "kept"
    DOUBTFUL = "doubtful"
    """It is there, but was never synced before the machine stopped."""
    STORED = "stored"
    OLDER = "older"
    """Its newest bytes are gone; an older version is shown by the next mount."""
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class LeftFile:
    """One file that the journal names; `path` in the tree, None where that cannot be told."""

    path: bytes | None
    tier: str
    bytes: int
    age_seconds: float
    fate: Fate

    def to_json(self) -> dict[str, Any]:
        return {
            "path": None if self.path is None else os.fsdecode(self.path),
            "tier": self.tier,
            "bytes": self.bytes,
            "age_seconds": round(self.age_seconds),
            "state": str(self.fate),
        }


@dataclass(frozen=True, slots=True)
class LeftFiles:
    """What a state folder names: its files, oldest first, and what is wrong with its journal ("" if nothing)."""

    files: tuple[LeftFile, ...]
    damage: str

    def to_json(self) -> dict[str, Any]:
        return {
            "journal_damage": self.damage or None,
            "named": len(self.files),
            "list": [file.to_json() for file in self.files[:MOST_NAMED]],
        }


@dataclass(frozen=True, slots=True)
class Rescued:
    """What was copied out: files under their path, files without one, and those that could not be read."""

    named: int
    unnamed: int
    bytes: int
    failed: tuple[str, ...]


def list_files(left: Leftover) -> LeftFiles:
    """The files that a state folder names, and what became of each."""
    remains = _remains(left)
    folders = _folders(left)
    now = time.time()
    found = []
    for file in remains.files:
        age, size, there = now - file.mtime / 1e9, file.size, False
        try:
            seen = _tier_file(folders, file.tier, file.ino, file.version).stat()
        except OSError:
            pass
        else:
            age, size, there = now - seen.st_mtime, seen.st_size, True
        fate = _fate(file, there=there, restarted=remains.restarted)
        found.append(LeftFile(file.path, file.tier, size, max(0.0, age), fate))
    for path in remains.losses.lost:
        fate = Fate.OLDER if path in remains.losses.older else Fate.LOST
        found.append(LeftFile(path, "ram", 0, 0.0, fate))
    return LeftFiles(tuple(sorted(found, key=lambda file: -file.age_seconds)), remains.damage)


def rescue_files(left: Leftover, target: Path, on_file: Callable[[], object] = lambda: None) -> Rescued:
    """Copy every tier file of a state folder to `target`, which is made; nothing is overwritten, nothing removed.

    Raises
    ------
    UnfitError
        `target` cannot be made or is not empty.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        empty = not any(target.iterdir())
    except OSError as error:
        raise UnfitError(f"cannot be made: {error.strerror}", path=target) from error
    if not empty:
        raise UnfitError("is not empty", path=target, remedy="Choose a new folder: nothing is overwritten")
    paths = {(file.tier, file.ino, file.version): file.path for file in _remains(left).files}
    named = unnamed = size = 0
    failed: list[str] = []
    for tier, ino, version, place in _tier_files(_folders(left)):
        path = paths.get((tier, ino, version))
        known = path is not None and _is_plain(path)
        name = path if path is not None and known else UNNAMED + b"/" + os.fsencode(f"{tier}-{place.name}")
        try:
            size += _copy(place, Path(os.fsdecode(os.path.join(os.fsencode(target), name))))
        except OSError as error:
            failed.append(f"{shown_path(place)}: {error.strerror}")
            continue
        named, unnamed = named + known, unnamed + (not known)
        on_file()
    return Rescued(named, unnamed, size, tuple(failed))


def _remains(left: Leftover) -> Remains:
    from vfsd.tree.remains import read_remains
    from vfsd.tree.tree import JOURNAL_NAME

    store = Path() if left.record is None else Path(left.record.store)
    try:
        return read_remains(left.state_directory / JOURNAL_NAME, store / "catalog.sqlite")
    except OSError as error:
        raise VfsdError(f"the journal cannot be copied: {error.strerror}", path=left.state_directory) from error


def _folders(left: Leftover) -> dict[str, Path]:
    return {"ram": left.ram_directory, "cache": left.cache_directory}


def _tier_file(folders: dict[str, Path], tier: str, ino: int, version: int) -> Path:
    from vfsd.tiers.tierfile import tier_file_name

    return folders[tier] / tier_file_name(ino, version)


def _tier_files(folders: dict[str, Path]) -> Iterator[tuple[str, int, int, Path]]:
    from vfsd.tiers.tierfile import parse_tier_file_name

    for tier, folder in folders.items():
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            parsed = parse_tier_file_name(name)
            if parsed is not None:
                yield tier, *parsed, folder / name


def _fate(file: NamedFile, *, there: bool, restarted: bool) -> Fate:
    if there and not (file.unsettled and restarted):
        return Fate.KEPT
    if file.stored:
        return Fate.STORED
    if file.durable_below:
        return Fate.OLDER
    return Fate.DOUBTFUL if there else Fate.LOST


def _is_plain(path: bytes) -> bool:
    """Whether a path from a journal that may be damaged stays below the folder it is put in."""
    return bool(path) and not any(part in (b"", b".", b"..") or b"\0" in part for part in path.split(b"/"))


def _copy(place: Path, path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        path = path.with_name(f"{path.name}.{place.name}")
    shutil.copy2(place, path)
    return path.stat().st_size
