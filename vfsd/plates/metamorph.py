"""MetaMorph's multi-dimensional acquisitions.

    <name>[_w<n>[<channel's name>]][_s<n>][_t<n>].tif       beside <name>.nd

The ND says which names are an acquisition's at all; without it (or `--plate-format metamorph`) such a name may be
anything. It labels the stage positions: where each label begins with a well (`B02`, `Row:B; Column:2`,
`B02 : Site 1`) that is the well; else there are no wells, and all positions are fields of A1. `.stk` holds a
stack of planes in a form of its own and is no TIFF that can be taken apart.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import final

from vfsd.plates import facts
from vfsd.plates.instrument import Listing
from vfsd.plates.metadata import MetadataReader
from vfsd.plates.model import ChannelFacts, PlateFacts, PlatePosition
from vfsd.plates.naming import (
    MAX_CHANNEL,
    MAX_NUMBER,
    NO_POSITION,
    NO_TIFF,
    TIFF_NAME,
    Well,
    join_path,
    number_of,
    numbers_of,
    split_path,
    text_of,
    well_at,
)
from vfsd.plates.scheme import Document, ImageName, NameReader, PlateGroup

_NAME = re.compile(
    rb"(?P<plate>.+?)(?=_[wst]\d)(?:_w(?P<channel>\d+)(?P<name>.*?))?(?:_s(?P<field>\d+))?(?:_t(?P<time>\d+))?\.tiff?",
    re.IGNORECASE | re.DOTALL,
)
_SUFFIX = b".nd"
_LINE = re.compile(r'\s*"([^"]+)"\s*,\s*"?([^"]*)"?\s*')
_WELL = re.compile(r"(?:well\s*)?([a-z]{1,2})\s?0*(\d{1,2})(?![0-9a-z])", re.IGNORECASE | re.ASCII)
_ROW_COLUMN = re.compile(r"row\s*:?\s*([a-z]{1,2}|\d{1,2})\W+col(?:umn)?\s*:?\s*(\d{1,2})", re.IGNORECASE | re.ASCII)
_STAGE = re.compile(r"stage(\d{1,5})", re.ASCII)
_WAVE = re.compile(r"wavename(\d{1,3})", re.ASCII)

# For how many acquisitions an ND is looked for that is not listed: names of other instruments look alike, and cost.
MAX_UNLISTED = 8


@final
class MetaMorph:
    """The scheme of MetaMorph's acquisitions."""

    name = "metamorph"
    hint = b".tif"

    def reader(self, listing: Listing, metadata: MetadataReader) -> NameReader:
        listed = _listed(listing)
        acquisitions: dict[tuple[bytes, bytes], dict[str, str] | None] = {}
        wells: dict[tuple[bytes, bytes], dict[int, Well] | None] = {}

        def read(path: bytes, directory: bytes, file_name: bytes) -> ImageName | None:
            match = _NAME.fullmatch(file_name)
            if match is None:
                return None
            plate = match["plate"]
            key = (directory, plate.lower())
            if key not in acquisitions:
                values = _values_of(listed[key], metadata) if key in listed else None
                if values is None and len(acquisitions) < MAX_UNLISTED:
                    data = metadata.probe(join_path(directory, plate + _SUFFIX))
                    values = None if data is None else _values(data)
                acquisitions[key] = {} if values is None and listing.forced else values
                wells[key] = _labelled_wells(values or {})
            if acquisitions[key] is None:
                return None
            position = _position(match, wells[key])
            if isinstance(position, str):
                return ImageName(path, directory, plate, None, position)
            return ImageName(path, directory, plate, position, channel_name=match["name"] or None)

        return read

    def document(self, directory: bytes, file_name: bytes) -> Document | None:
        if not file_name.lower().endswith(_SUFFIX):
            return None
        return Document(directory, file_name[: -len(_SUFFIX)], "it is an ND of images that are not here")

    def find(self, group: PlateGroup, metadata: MetadataReader) -> None:
        path = group.documents[0] if group.documents else join_path(group.root, group.names[0].plate + _SUFFIX)
        data = metadata.read(path) if group.documents else metadata.probe(path)
        group.metadata = None if data is None else _values(data)
        group.found = bool(group.documents) or data is not None

    def describe(self, group: PlateGroup, metadata: MetadataReader) -> None:
        values = group.metadata
        if not isinstance(values, dict):
            values = {}
        shown = text_of(group.documents[0]) if group.documents else text_of(group.spelled + _SUFFIX)
        if group.found and "ndinfofile" not in values:
            group.notes.append(f"{shown}: it is no ND, or cannot be read; file names alone are believed")
        if _labelled_wells(values) is None:
            group.notes.append(f"{shown}: its stage positions are no wells; all are fields of well A1")
        names = {int(wave[1]): value for key, value in values.items() if (wave := _WAVE.fullmatch(key))}
        group.facts = PlateFacts(
            channels=group.channels(lambda number: ChannelFacts(number, facts.shown_name(names.get(number)))),
            z_step_um=facts.pixel_um(values.get("zstepsize")),
            time_points=facts.whole(values.get("ntimepoints"), MAX_NUMBER, 1),
            z_steps=facts.whole(values.get("nzsteps"), MAX_NUMBER, 1),
            name=text_of(group.spelled),
        )

    def reason(self, path: bytes) -> str:
        file_name = split_path(path)[1].lower()
        if file_name.endswith(b".stk"):
            return "it is a stack in MetaMorph's own form"
        return NO_POSITION if TIFF_NAME.fullmatch(file_name) else NO_TIFF


def _listed(listing: Listing) -> dict[tuple[bytes, bytes], bytes]:
    found: dict[tuple[bytes, bytes], bytes] = {}
    if listing.mentions(_SUFFIX):
        for path in listing.paths:
            if path[-len(_SUFFIX) :].lower() == _SUFFIX:
                directory, file_name = split_path(path)
                found.setdefault((directory, file_name[: -len(_SUFFIX)].lower()), path)
    return found


def _values_of(path: bytes, metadata: MetadataReader) -> dict[str, str]:
    data = metadata.read(path)
    return {} if data is None else _values(data)


def _labelled_wells(values: dict[str, str]) -> dict[int, Well] | None:
    """The well of each stage position, or None where they have none."""
    wells: dict[int, Well] = {}
    for key, label in values.items():
        stage = _STAGE.fullmatch(key)
        if stage is None:
            continue
        match = _ROW_COLUMN.search(label[: facts.MAX_NAME_LENGTH]) or _WELL.match(label)
        well = None if match is None else well_at(match[1].encode(), match[2].encode())
        if well is None or isinstance(well, str):
            return None
        wells[int(stage[1])] = well
    return wells or None


def _values(data: bytes) -> dict[str, str]:
    """Key in lower case → value. Of a repeated key the first counts. Lines of another form are left out."""
    values: dict[str, str] = {}
    for raw in data.removeprefix(b"\xef\xbb\xbf").splitlines():
        match = _LINE.fullmatch(raw.decode("utf-8", "replace"))
        if match:
            values.setdefault(match[1].strip().lower(), match[2].strip())
    return values


def _position(match: re.Match[bytes], wells: dict[int, Well] | None) -> PlatePosition | str:
    numbers = numbers_of({part: match[part] for part in ("field", "time")})
    if isinstance(numbers, str):
        return numbers
    channel = number_of(match["channel"] or b"1", MAX_CHANNEL)
    if channel is None:
        return f"its channel number is above {MAX_CHANNEL}"
    at = PlatePosition(0, 0, numbers.get("field", 1), numbers.get("time", 1), channel, 1)
    if wells is None:
        return at
    well = wells.get(at.field)
    if well is None:
        return f"its stage position {at.field} is not in the ND"
    return replace(at, row=well[0], column=well[1])
