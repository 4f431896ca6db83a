"""What was renamed since the last commit, as far as the place of stored bytes follows names.

A directory that was renamed takes its image groups along, and so does a multi-page file, whose group is its own: nothing
of theirs is read. A plain file follows its name by a link. Any other stored plane whose position or stack is another one
now is stored anew. Works on the snapshot and the catalogue at one moment, on the trio thread; changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import final

from vfsd.errors import StoredDataDamaged
from vfsd.flush.locations import plain_key
from vfsd.flush.paths import PresentPaths
from vfsd.flush.snapshot import Snapshot
from vfsd.plates import PlateFormats, find_labels, recognise_plates
from vfsd.store import InodeRecord, Kind
from vfsd.store.catalogue import ROOT_INO, WHITEOUT, Catalogue, GroupRecord
from vfsd.tree import Tree


@final
@dataclass(slots=True)
class Renames:
    """See the module.

    Attributes
    ----------
    folders : dict
        Directory's path in the catalogue → its path now.
    pages : dict
        Image group of a multi-page file → the file's path now.
    shown : set of int
        Image groups whose metadata names a file that was renamed within its directory.
    files : list of (InodeRecord, bytes)
        Stored files that are to be placed anew, as the catalogue has them, with their path now.
    damaged : list of (bytes, StoredDataDamaged)
        Paths of files for which the catalogue contradicts itself; they stay as they are.
    """

    folders: dict[bytes, bytes] = field(default_factory=dict)
    pages: dict[int, bytes] = field(default_factory=dict)
    shown: set[int] = field(default_factory=set)
    files: list[tuple[InodeRecord, bytes]] = field(default_factory=list)
    damaged: list[tuple[bytes, StoredDataDamaged]] = field(default_factory=list)

    def directory(self, path: bytes) -> bytes:
        """The path now of a directory of the catalogue, after the deepest rename at or above it."""
        above = path
        while above:
            renamed = self.folders.get(above)
            if renamed is not None:
                return renamed + path[len(above) :]
            above = above.rpartition(b"/")[0]
        return path


def find_renames(
    tree: Tree, snapshot: Snapshot, paths: PresentPaths, taken: Collection[int], formats: PlateFormats
) -> Renames:
    """Compare the names in a snapshot with the catalogue's; files in `taken` are stored anew anyway."""
    return _Search(tree.store.catalogue, snapshot, paths, taken, formats).run()


@final
class _Search:
    def __init__(
        self,
        base: Catalogue,
        snapshot: Snapshot,
        paths: PresentPaths,
        taken: Collection[int],
        formats: PlateFormats,
    ) -> None:
        self._formats = formats
        self._base = base
        self._snapshot = snapshot
        self._paths = paths
        self._done = set(taken)
        self._renames = Renames()
        self._plates: dict[int, bool] = {}

    def run(self) -> Renames:
        files: list[InodeRecord] = []
        folders: list[tuple[InodeRecord, bytes]] = []
        for ino in self._concerned():
            record = self._base.inode(ino)
            if record is None or not (record.kind is Kind.DIRECTORY or _is_stored(record)):
                continue
            if record.kind is not Kind.DIRECTORY:
                files.append(record)
            elif self._lost_a_name(ino):
                old, now = catalogue_path(self._base, ino), self._paths.of(ino)
                if old is not None and now:
                    self._renames.folders[old] = now[0]
                    folders.append((record, old))
                else:
                    files += self._files_below(ino)  # which may have other names
        for record in files:
            if self._lost_a_name(record.ino):  # else only a folder above it can have changed its place
                self._look_at(record, None)
        for folder, old in folders:
            for record in self._files_below(folder.ino):
                self._look_at(record, old)
        return self._renames

    def _concerned(self) -> dict[int, None]:
        """Inodes that have won or lost a name."""
        found: dict[int, None] = {}
        for (parent, name), ino in self._snapshot.entries.items():
            before = self._base.entry(parent, name)
            if before != ino:
                found |= {number: None for number in (ino, before) if number is not None and number != WHITEOUT}
        return found

    def _lost_a_name(self, ino: int) -> bool:
        """Whether a name that the catalogue has for an inode no longer leads to it: it may have been placed by that one."""
        return any(
            self._snapshot.entries.get(place, ino) != ino or self._paths.at(*place) is None
            for place in self._base.names_of(ino)
        )

    def _files_below(self, directory: int) -> list[InodeRecord]:
        """Stored files that still have the names they have in the catalogue below a directory."""
        found: list[InodeRecord] = []
        pending = [directory]
        while pending:
            parent = pending.pop()
            for name, ino, record in self._base.entries(parent):
                if record is None or self._snapshot.entries.get((parent, name), ino) != ino:
                    continue
                if record.kind is Kind.DIRECTORY:
                    pending.append(ino)
                elif _is_stored(record):
                    found.append(record)
        return found

    def _look_at(self, record: InodeRecord, moved: bytes | None) -> None:
        """Take up a stored file whose place follows its name; `moved`: only this directory above it was renamed."""
        ino = record.ino
        paths, row = self._paths.of(ino), self._snapshot.inodes.get(ino)
        if ino in self._done or not paths or (row is not None and (row.tier is not None or not row.record.nlink)):
            return
        self._done.add(ino)
        if record.kind is Kind.PLAIN:
            if record.location not in [plain_key(path) for path in paths]:
                self._renames.files.append((record, paths[0]))
            return
        try:
            now = b"" if moved is None else self._renames.directory(moved) + b"/"
            path = next((path for path in paths if path.startswith(now)), paths[0])
            if not self._planes_stay(ino, path, moved):
                self._renames.files.append((record, path))
        except StoredDataDamaged as problem:
            self._renames.damaged.append((paths[0], problem))

    def _planes_stay(self, ino: int, path: bytes, moved: bytes | None) -> bool:
        planes = self._base.planes(ino)
        if not planes:
            raise StoredDataDamaged("the catalogue contradicts itself about its planes", path=path)
        group = self._base.group(planes[0].group)
        if moved is not None:  # goes with its group, if that goes as a whole
            below = group.directory == moved or group.directory.startswith(moved + b"/")
            return below and (group.form not in ("plate", "labels") or self._is_plate_still(group, path))
        if group.form == "pages":
            self._renames.pages[group.id] = path
            return True
        if group.form == "stack" and self._renames.directory(group.directory) == path.rpartition(b"/")[0]:
            self._renames.shown.add(group.id)  # a stack's names are for display only
            return True
        return False

    def _is_plate_still(self, group: GroupRecord, path: bytes) -> bool:
        """Whether a plate's directory is still one, and no coordinate of another plate now: `new` → `TimePoint_2`.

        One of its files tells for all; where its name alone does not, the plate stays what it is.
        """
        known = self._plates.get(group.id)
        if known is None:
            if group.form == "labels":
                roots = [
                    label.plate.root for label in find_labels([path], _no_metadata, formats=self._formats).values()
                ]
            else:
                plates = recognise_plates([path], _no_metadata, formats=self._formats)
                roots = [plate.root for plate in plates if path in plate.images]
            known = self._plates[group.id] = not roots or roots[0] == self._renames.directory(group.directory)
        return known


def _no_metadata(path: bytes, offset: int, size: int) -> bytes:
    raise FileNotFoundError(path)


def _is_stored(record: InodeRecord) -> bool:
    return record.kind in (Kind.PLANES, Kind.PLAIN)


def catalogue_path(base: Catalogue, ino: int) -> bytes | None:
    """A path of an inode in the catalogue; None where no name leads to it."""
    parts: list[bytes] = []
    while ino != ROOT_INO:
        names = base.names_of(ino)
        if not names:
            return None
        ino, name = names[0]
        parts.append(name)
    return b"/".join(reversed(parts))
