"""From names to claimed plates: what all instruments with a scheme of names have in common.

A `NameScheme` says what one name means and what its instrument's metadata says; `SchemeInstrument` does the
rest: groups files by root and plate, gives every position one image, every other file below a root a reason, and
weighs the evidence. Everything is linear in the listing. Names decide where a plane belongs; metadata adds facts,
and where it contradicts the names it is not believed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol, final

from vfsd.plates.instrument import Claim, Evidence, Listing, ReadFile
from vfsd.plates.metadata import MetadataReader
from vfsd.plates.model import ChannelFacts, Plate, PlateFacts, PlatePosition
from vfsd.plates.naming import parent_if, split_path, text_of
from vfsd.plates.natural_order import NaturalKey, natural_key


class ImageName(NamedTuple):
    """A file whose name has the form of an image.

    Attributes
    ----------
    path : bytes
        The file.
    root : bytes
        The directory that its plate fills.
    plate : bytes
        The plate's name as it is spelled here; empty where names do not say it.
    position : PlatePosition or None
        Where the plane belongs.
    problem : str or None
        Why it has no position: exactly one of the two is None.
    bare : str or None
        Why the name says too little: only metadata of the plate makes it an image.
    in_folders : bool
        It lies in folders as this instrument makes them.
    channel_name : bytes or None
        What the name calls the channel.
    """

    path: bytes
    root: bytes
    plate: bytes
    position: PlatePosition | None
    problem: str | None = None
    bare: str | None = None
    in_folders: bool = False
    channel_name: bytes | None = None


class Document(NamedTuple):
    """A file whose name has the form of metadata.

    Attributes
    ----------
    root : bytes
        The root of the plate that it is about.
    plate : bytes or None
        The plate's name, None where it is about whichever is there.
    alone : str
        What it is where there is no such plate.
    """

    root: bytes
    plate: bytes | None
    alone: str


NameReader = Callable[[bytes, bytes, bytes], ImageName | None]
"""A path, its directory and its file name → the image, or None where the name has another form."""


def reader_of(
    expression: re.Pattern[bytes],
    position_of: Callable[[re.Match[bytes]], PlatePosition | str | None],
    folders: frozenset[bytes] = frozenset(),
) -> NameReader:
    """A reader of file names that say all there is to say.

    Parameters
    ----------
    expression : re.Pattern
        The whole file name; its groups `plate` and `name` (of the channel) are taken where it has them.
    position_of : callable
        The position, or why there is none; None: the name has another form after all.
    folders : frozenset of bytes
        Names of folders, in lower case, that are a part of the plate above them.
    """

    def read(path: bytes, directory: bytes, file_name: bytes) -> ImageName | None:
        match = expression.fullmatch(file_name)
        position = None if match is None else position_of(match)
        if match is None or position is None:
            return None
        root, said = parent_if(directory, folders), match.groupdict()
        plate, inside = said.get("plate") or b"", root != directory
        if isinstance(position, str):
            return ImageName(path, root, plate, None, position, None, inside)
        return ImageName(path, root, plate, position, None, None, inside, said.get("name"))

    return read


@dataclass(slots=True)
class PlateGroup:
    """All files of one plate name below one root, while they are sorted out.

    Attributes
    ----------
    documents : list of bytes
        Listed metadata of this plate, in natural order, the root's own first.
    found : bool
        The instrument's metadata for this plate exists.
    facts : PlateFacts
        What is known; channels may be left to the engine, which knows which ones have images.
    """

    root: bytes
    names: list[ImageName] = field(default_factory=list)
    in_folders: bool = False
    documents: list[bytes] = field(default_factory=list)
    found: bool = False
    metadata: object = None
    images: dict[bytes, PlatePosition] = field(default_factory=dict)
    others: dict[bytes, str] = field(default_factory=dict)
    facts: PlateFacts = field(default_factory=PlateFacts)
    notes: list[str] = field(default_factory=list)

    @property
    def spelled(self) -> bytes:
        """The plate's name as its files spell it; of several spellings the first."""
        return min(name.plate for name in self.names)

    def channels(self, known: Callable[[int], ChannelFacts | None]) -> tuple[ChannelFacts, ...]:
        """Facts of the channels of which there is an image, by number; a name in the files' own names wins."""
        spelled = {
            name.position.channel: name.channel_name
            for name in self.names
            if name.channel_name is not None and name.position is not None
        }
        facts = []
        for number in sorted({position.channel for position in self.images.values()}):
            channel = known(number) or ChannelFacts(number)
            if number in spelled:
                channel = ChannelFacts(
                    number,
                    text_of(spelled[number]),
                    channel.colour,
                    channel.excitation_nm,
                    channel.emission_nm,
                    channel.exposure_ms,
                )
            facts.append(channel)
        return tuple(facts)

    def believed_size(self, path: bytes, rows: int | None, columns: int | None) -> tuple[int | None, int | None]:
        """The plate's format as a document at `path` says it, or (None, None), and a note, where a well lies outside."""
        if rows is None or columns is None:
            return rows, columns
        outside = next((at for at in self.images.values() if at.row >= rows or at.column >= columns), None)
        if outside is None:
            return rows, columns
        said = f"well {outside.well} is not on a plate of {rows} x {columns}"
        self.notes.append(f"{text_of(path)}: file names contradict it and are believed: {said}")
        return None, None

    def say_damaged(self, path: bytes, what: str, problem: str | None) -> None:
        """A note, and the reason of a listed document, if `problem` says why it is not fully understood."""
        if problem is None:
            return
        if path in self.documents:
            self.others[path] = f"it is the plate's {what}, and not fully understood: {problem}"
        self.notes.append(f"{text_of(path)}: {problem}; what stands before is believed")


class NameScheme(Protocol):
    """What one instrument's names and metadata mean; without state."""

    @property
    def name(self) -> str:
        """What users call it, for `Plate.instrument` and `--plate-format`."""

    @property
    def hint(self) -> bytes:
        """Bytes, in lower case, that every image's name has: listings without them are passed over at once."""

    def reader(self, listing: Listing, metadata: MetadataReader) -> NameReader:
        """A reader of this listing's names; it may remember folders and wells."""

    def document(self, directory: bytes, file_name: bytes) -> Document | None:
        """A file as metadata of a plate; None where it is none."""

    def find(self, group: PlateGroup, metadata: MetadataReader) -> None:
        """Set `found`; what is parsed here already may be left in `metadata`."""

    def describe(self, group: PlateGroup, metadata: MetadataReader) -> None:
        """Set facts, notes, and the reasons of documents, after the images have their places."""

    def reason(self, path: bytes) -> str:
        """Why a file below a plate's root, not of the form of an image, is none."""


_GroupKey = tuple[bytes, bytes]  # root, plate name in lower case


@final
class SchemeInstrument:
    """An instrument (`instrument.Instrument`) that is known by a scheme of names."""

    __slots__ = ("_scheme",)

    def __init__(self, scheme: NameScheme) -> None:
        self._scheme = scheme

    @property
    def name(self) -> str:
        return self._scheme.name

    def claim(self, listing: Listing, read_file: ReadFile) -> list[Claim]:
        """A claim for each plate name below each root; `others` hold every other path below that root."""
        if not listing.mentions(self._scheme.hint):
            return []
        metadata = MetadataReader(read_file)
        groups, strays = self._group_images(listing, metadata)
        if not groups:
            return []
        alone = self._attach_documents(groups, strays)
        plates: list[PlateGroup] = []
        for group in groups.values():
            self._scheme.find(group, metadata)
            _place_images(group, group.found or listing.forced)
            if group.images:
                self._scheme.describe(group, metadata)
                plates.append(group)
            else:
                strays += [name.path for name in group.names]
                alone.update((path, "it is metadata of no plate found here") for path in group.documents)
        owners = _Owners(plates, listing)
        for path in strays:
            owner = owners.owner_of(path)
            if owner is not None:
                owner.others[path] = alone.get(path) or self._scheme.reason(path)
        return [
            self._claim_for(group, listing.label(root), primary=i == 0)
            for root, members in owners.by_root.items()
            for i, group in enumerate(members)
        ]

    def _group_images(
        self, listing: Listing, metadata: MetadataReader
    ) -> tuple[dict[_GroupKey, PlateGroup], list[bytes]]:
        groups: dict[_GroupKey, PlateGroup] = {}
        strays: list[bytes] = []
        read = self._scheme.reader(listing, metadata)
        for path in listing.paths:
            directory, _, file_name = path.rpartition(b"/")
            name = read(path, directory, file_name)
            if name is None:
                strays.append(path)
                continue
            key = (name.root, name.plate.lower())
            group = groups.get(key)
            if group is None:
                group = groups[key] = PlateGroup(name.root)
            group.names.append(name)
            group.in_folders |= name.in_folders
        return groups, strays

    def _attach_documents(self, groups: dict[_GroupKey, PlateGroup], strays: list[bytes]) -> dict[bytes, str]:
        """Give the groups their metadata, taking it from the strays; what is left → what it is."""
        by_root: dict[bytes, list[PlateGroup]] = {}
        for group in groups.values():
            by_root.setdefault(group.root, []).append(group)
        left: list[bytes] = []
        alone: dict[bytes, str] = {}
        for path in strays:
            document = self._scheme.document(*split_path(path))
            if document is not None:
                if document.plate is None:
                    members = by_root.get(document.root, [])
                else:
                    member = groups.get((document.root, document.plate.lower()))
                    members = [] if member is None else [member]
                for member in members:
                    member.documents.append(path)
                if members:
                    continue
                alone[path] = document.alone
            left.append(path)
        strays[:] = left
        for group in groups.values():
            group.documents.sort(key=lambda path: (path.count(b"/"), natural_key(path)))
        return alone

    def _claim_for(self, group: PlateGroup, label: str, *, primary: bool) -> Claim:
        if group.found:
            evidence = Evidence.METADATA
        elif group.in_folders:
            evidence = Evidence.LAYOUT
        else:
            evidence = Evidence.NAMES
        for path in group.documents:
            group.others.setdefault(path, "it is the plate's metadata")
        spelled = text_of(group.spelled)
        plate = Plate(
            group.root,
            label if primary else f"{label}_{spelled}",
            self._scheme.name,
            group.images,
            group.others,
            group.facts,
            spelled.casefold(),
            tuple(group.notes),
        )
        return Claim(plate, evidence)


def _place_images(group: PlateGroup, vouched: bool) -> None:
    """Give every position its image, every other name its reason."""
    holders: dict[PlatePosition, bytes] = {}
    rivals: dict[PlatePosition, list[bytes]] = {}
    for name in group.names:
        if name.position is None:
            group.others[name.path] = name.problem or ""
        elif name.bare is not None and not vouched:
            group.others[name.path] = name.bare
        elif holders.setdefault(name.position, name.path) != name.path:
            rivals.setdefault(name.position, [holders[name.position]]).append(name.path)
    for position, paths in rivals.items():
        first, *rest = sorted(paths, key=natural_key)
        holders[position] = first
        group.others.update(dict.fromkeys(rest, f"its position on the plate is taken by {text_of(first)}"))
    group.images = {path: position for position, path in holders.items()}


@final
class _Owners:
    """The plates by root, and whose each remaining path is."""

    def __init__(self, plates: Iterable[PlateGroup], listing: Listing) -> None:
        self.by_root: dict[bytes, list[PlateGroup]] = {}
        self._members_above: dict[bytes, list[PlateGroup]] = {}
        for group in plates:
            self.by_root.setdefault(group.root, []).append(group)
        for root, members in self.by_root.items():
            if len(members) > 1:
                members.sort(key=partial(_rank_in_root, listing.label(root).lower()))

    def owner_of(self, path: bytes) -> PlateGroup | None:
        """The plate of the nearest root above the path; of several there, the one its name begins with."""
        directory, file_name = split_path(path)
        members = self._members_above.get(directory)
        if members is None:
            members = self._members_above[directory] = self._find_members(directory)
        if len(members) < 2:
            return members[0] if members else None
        lower = file_name.lower()
        alike = [group for group in members if lower.startswith(group.names[0].plate.lower())]
        return max(alike, key=lambda group: len(group.names[0].plate)) if alike else members[0]

    def _find_members(self, directory: bytes) -> list[PlateGroup]:
        while directory and directory not in self.by_root:
            directory = directory.rpartition(b"/")[0]
        return self.by_root.get(directory, [])


def _rank_in_root(label: str, group: PlateGroup) -> tuple[bool, bool, NaturalKey]:
    """Of several plates in one root the first is called like the directory, the others get their name added.

    First comes a plate that has metadata, then one whose name the directory's name begins with
    (`9987_Plate_3434` for plate 9987), then natural order: results written beside a plate do not take its
    name away.
    """
    name = text_of(group.spelled)
    return not group.found, not label.startswith(name.lower()), natural_key(name.encode())
