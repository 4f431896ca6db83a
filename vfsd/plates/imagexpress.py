"""Molecular Devices ImageXpress, as MetaXpress exports it: which files are which plate's.

Names (`imagexpress_names`) decide where a plane belongs. The HTD (`htd`), in the plate's root and often again
in every folder, adds facts, and where it contradicts the names it is not believed. A name that says neither
site nor wavelength counts only where an HTD of that plate exists: `foo_B02.tif` alone may be anything.
Several plate names below one root are several plates. The database layout (a GUID at the end of each name) is
not this one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from vfsd.errors import VfsdError
from vfsd.plates.htd import Htd, HtdError, parse_htd
from vfsd.plates.imagexpress_names import ImageName, NameReader, htd_stem, reason_for_stray
from vfsd.plates.instrument import (
    METADATA_READ_LIMIT,
    Claim,
    Evidence,
    Listing,
    NaturalKey,
    ReadFile,
    natural_key,
)
from vfsd.plates.metaseries import pixel_size_from_description
from vfsd.plates.model import ChannelFacts, Plate, PlateFacts, PlatePosition

__all__ = ["ImageXpressExport", "pixel_size_from_description"]

_INSTRUMENT = "imagexpress"

# How many paths that are not listed may be asked for in one recognition: enough for any folder of plates, few
# enough that fifty thousand stray names cost nothing.
MAX_PROBES = 256

# An HTD is repeated in every folder; when the first copies are damaged, one of these will do.
HTD_ATTEMPTS = 4


@dataclass(slots=True)
class _Group:
    """All files of one plate name below one root, while they are sorted out."""

    root: bytes
    names: list[ImageName] = field(default_factory=list)
    in_folders: bool = False
    htd_found: bool = False
    htd: Htd | None = None
    htd_problem: str = ""
    contradictions: dict[str, str] = field(default_factory=dict)
    images: dict[bytes, PlatePosition] = field(default_factory=dict)
    others: dict[bytes, str] = field(default_factory=dict)

    @property
    def plate_name(self) -> str:
        """The plate's name as its files spell it; of several spellings the first."""
        return min(name.plate for name in self.names).decode("utf-8", "backslashreplace")


_GroupKey = tuple[bytes, bytes]  # root, plate name in lower case


class ImageXpressExport:
    """The instrument module for MetaXpress exports; it has no state."""

    __slots__ = ()

    @property
    def name(self) -> str:
        return _INSTRUMENT

    def claim(self, listing: Listing, read_file: ReadFile) -> list[Claim]:
        """A claim for each plate name below each root; `others` hold every other path below that root."""
        groups, htds, strays = _sort_paths(listing.paths)
        reader = _HtdReader(read_file)
        plates: dict[_GroupKey, _Group] = {}
        for key, group in groups.items():
            reader.attach(group, htds.get(key, []))
            if _place_images(group):
                plates[key] = group
            else:
                strays.extend(name.path for name in group.names)
        owners = _Owners(plates.values(), listing)
        for path in strays:
            owner = owners.owner_of(path)
            if owner is not None:
                owner.others[path] = reason_for_stray(path)
        for key, paths in htds.items():
            for path in paths:
                owner = plates.get(key) or owners.owner_of(path)
                if owner is not None:
                    own = owner is plates.get(key)
                    owner.others[path] = _htd_reason(owner) if own else "it is an HTD of no plate found here"
        return [
            _claim_for(group, listing.label(root), primary=i == 0)
            for root, members in owners.by_root.items()
            for i, group in enumerate(members)
        ]


def _sort_paths(
    paths: Iterable[bytes],
) -> tuple[dict[_GroupKey, _Group], dict[_GroupKey, list[bytes]], list[bytes]]:
    """Files with the form of an image by plate, HTDs by plate, and all the rest."""
    groups: dict[_GroupKey, _Group] = {}
    htds: dict[_GroupKey, list[bytes]] = {}
    strays: list[bytes] = []
    reader = NameReader()
    for path in paths:
        directory, _, file_name = path.rpartition(b"/")
        root = reader.place(directory).root
        name = reader.image(path)
        if name is not None:
            group = groups.setdefault((root, name.plate.lower()), _Group(root))
            group.names.append(name)
            group.in_folders |= directory != root
            continue
        stem = htd_stem(file_name)
        if stem is not None:
            htds.setdefault((root, stem.lower()), []).append(path)
        else:
            strays.append(path)
    return groups, htds, strays


class _HtdReader:
    """Finds the HTD of each plate name, also where only a few files of the plate are listed."""

    def __init__(self, read_file: ReadFile) -> None:
        self._read_file = read_file
        self._probes_left = MAX_PROBES

    def attach(self, group: _Group, listed: list[bytes]) -> None:
        """Read the group's HTD: the root's own first, for the copies in the folders may be older."""
        group.htd_found = bool(listed)
        by_depth = sorted(listed, key=lambda path: (path.count(b"/"), natural_key(path)))
        for path in by_depth[:HTD_ATTEMPTS]:
            if self._parse(group, self._read(path)):
                return
        if not listed:
            self._probe(group)

    def _probe(self, group: _Group) -> None:
        first = group.names[0]
        for directory in dict.fromkeys((group.root, first.path.rpartition(b"/")[0])):
            for suffix in (b".HTD", b".htd"):
                if self._probes_left == 0:
                    return
                self._probes_left -= 1
                data = self._read(b"/".join(filter(None, (directory, first.plate + suffix))))
                if data is not None:
                    group.htd_found = True
                    self._parse(group, data)
                    return

    def _read(self, path: bytes) -> bytes | None:
        try:
            return self._read_file(path)[:METADATA_READ_LIMIT]
        except (OSError, LookupError, VfsdError):
            return None

    def _parse(self, group: _Group, data: bytes | None) -> bool:
        if data is None:
            group.htd_problem = "it cannot be read"
            return False
        try:
            group.htd = parse_htd(data)
        except HtdError as error:
            group.htd_problem = str(error)
        return group.htd is not None


def _place_images(group: _Group) -> bool:
    """Give every position its image, every other name its reason. False where no image is among them."""
    holders: dict[PlatePosition, bytes] = {}
    rivals: dict[PlatePosition, list[bytes]] = {}
    for name in group.names:
        if name.position is None:
            group.others[name.path] = name.problem or ""
        elif name.bare and not group.htd_found:
            group.others[name.path] = (
                "its name says neither site nor wavelength, and its plate has no HTD to vouch for it"
            )
        elif holders.setdefault(name.position, name.path) != name.path:
            rivals.setdefault(name.position, [holders[name.position]]).append(name.path)
    for position, paths in rivals.items():
        first, *rest = sorted(paths, key=natural_key)
        holders[position] = first
        shown = first.decode("utf-8", "backslashreplace")
        group.others.update(dict.fromkeys(rest, f"its position on the plate is taken by {shown}"))
    group.images = {path: position for position, path in holders.items()}
    if group.images and group.htd is not None:
        group.contradictions = _contradictions(group.htd, group.images.values())
    return bool(group.images)


def _contradictions(htd: Htd, positions: Iterable[PlatePosition]) -> dict[str, str]:
    """What the HTD declares and the names exceed: fact → in words."""
    rows = columns = times = steps = 0
    for position in positions:
        rows = max(rows, position.row + 1)
        columns = max(columns, position.column + 1)
        times = max(times, position.time)
        steps = max(steps, position.z)
    facts = (
        ("rows", htd.rows, rows),
        ("columns", htd.columns, columns),
        ("time_points", htd.time_points, times),
        ("z_steps", htd.z_steps, steps),
    )
    return {
        fact: f"{declared} {fact.replace('_', ' ')} declared, number {seen} seen"
        for fact, declared, seen in facts
        if declared is not None and seen > declared
    }


class _Owners:
    """The plates by root, and whose each remaining path is."""

    def __init__(self, plates: Iterable[_Group], listing: Listing) -> None:
        self.by_root: dict[bytes, list[_Group]] = {}
        self._members_above: dict[bytes, list[_Group]] = {}
        for group in plates:
            self.by_root.setdefault(group.root, []).append(group)
        for root, members in self.by_root.items():
            if len(members) > 1:
                members.sort(key=partial(_rank_in_root, listing.label(root).lower()))

    def owner_of(self, path: bytes) -> _Group | None:
        """The plate of the nearest root above the path; of several there, the one its name begins with."""
        directory, _, file_name = path.rpartition(b"/")
        members = self._members_above.get(directory)
        if members is None:
            members = self._members_above[directory] = self._find_members(directory)
        if len(members) < 2:
            return members[0] if members else None
        lower = file_name.lower()
        alike = [group for group in members if lower.startswith(group.names[0].plate.lower())]
        return max(alike, key=lambda group: len(group.names[0].plate)) if alike else members[0]

    def _find_members(self, directory: bytes) -> list[_Group]:
        while directory and directory not in self.by_root:
            directory = directory.rpartition(b"/")[0]
        return self.by_root.get(directory, [])


def _rank_in_root(label: str, group: _Group) -> tuple[bool, bool, NaturalKey]:
    """Of several plates in one root the first is called like the directory, the others get their name added.

    First comes a plate that has an HTD, then one whose name the directory's name begins with
    (`9987_Plate_3434` for plate 9987), then natural order: results written beside a plate do not take its
    name away.
    """
    name = group.plate_name
    return not group.htd_found, not label.startswith(name.lower()), natural_key(name.encode())


def _htd_reason(group: _Group) -> str:
    if group.htd is None:
        return f"it is the plate's HTD, and not understood: {group.htd_problem}"
    if group.contradictions:
        said = ", ".join(group.contradictions.values())
        return f"it is the plate's HTD; file names contradict it and are believed: {said}"
    return "it is the plate's HTD"


def _facts(group: _Group) -> PlateFacts:
    numbers = sorted({position.channel for position in group.images.values()})
    htd = group.htd
    if htd is None:
        return PlateFacts(channels=tuple(map(ChannelFacts, numbers)), name=group.plate_name)
    wrong = group.contradictions
    return PlateFacts(
        rows=None if "rows" in wrong else htd.rows,
        columns=None if "columns" in wrong else htd.columns,
        channels=tuple(ChannelFacts(number, name=htd.channel_names.get(number)) for number in numbers),
        time_points=None if "time_points" in wrong else htd.time_points,
        z_steps=None if "z_steps" in wrong else htd.z_steps,
        name=group.plate_name,
    )


def _claim_for(group: _Group, label: str, *, primary: bool) -> Claim:
    if group.htd_found:
        evidence = Evidence.METADATA
    elif group.in_folders:
        evidence = Evidence.LAYOUT
    else:
        evidence = Evidence.NAMES
    facts = _facts(group)
    name = label if primary else f"{label}_{facts.name}"
    return Claim(Plate(group.root, name, _INSTRUMENT, group.images, group.others, facts), evidence)
