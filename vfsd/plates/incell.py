"""Cytiva (GE) IN Cell Analyzer.

    B - 02(fld 3 wv DAPI - DAPI z 4 time 5 - 600000 ms wix 1).tif      all after the wavelength may be absent
    <plate>.xdce                                                       facts: XML beside the images

Channels are numbered by their names, excitation and emission as they stand after `wv`. The plate's name stands
in the name of the XDCE alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from vfsd.plates import facts
from vfsd.plates.instrument import Listing
from vfsd.plates.metadata import MetadataReader
from vfsd.plates.model import MAX_COLUMNS, MAX_ROWS, ChannelFacts, FieldKey, PlateFacts, PlatePosition
from vfsd.plates.naming import (
    NO_POSITION,
    NO_TIFF,
    TIFF_NAME,
    channel_of_name,
    numbers_of,
    split_path,
    text_of,
    well_at,
)
from vfsd.plates.scheme import Document, NameReader, PlateGroup, reader_of
from vfsd.plates.xml_stream import XmlError, read_xml

_NAME = re.compile(
    rb"(?:.*_)?(?P<row>[a-z]{1,2}) - (?P<column>\d+)\(fld (?P<field>\d+)(?: wv (?P<name>.+?))?"
    rb"(?: z (?P<z>\d+))?(?: t(?:ime)? (?P<time>\d+)(?: - \d+ ms)?)?(?: wix \d+)?\)\.tiff?",
    re.IGNORECASE | re.DOTALL,
)
_SUFFIX = b".xdce"

# A well of the largest tile scans; positions beyond are not believed.
_MAX_OFFSETS = 10_000
_MAX_FILTERS = 99


@final
@dataclass(slots=True)
class _Protocol:
    """What an XDCE says."""

    rows: int | None = None
    columns: int | None = None
    name: str | None = None
    started: str | None = None
    pixel_size_um: tuple[float, float] | None = None
    z_step_um: float | None = None
    offsets_um: list[tuple[float, float] | None] = field(default_factory=list)
    filters: list[tuple[str, float | None, str, float | None]] = field(default_factory=list)
    exposures: list[float | None] = field(default_factory=list)


@final
class InCell:
    """The scheme of IN Cell's plates."""

    name = "incell"
    hint = b"(fld "

    def reader(self, listing: Listing, metadata: MetadataReader) -> NameReader:
        return reader_of(_NAME, _position)

    def document(self, directory: bytes, file_name: bytes) -> Document | None:
        if not file_name.lower().endswith(_SUFFIX):
            return None
        return Document(directory, None, "it is metadata of images that are not here")

    def find(self, group: PlateGroup, metadata: MetadataReader) -> None:
        group.found = bool(group.documents)

    def describe(self, group: PlateGroup, metadata: MetadataReader) -> None:
        said = _Protocol()
        if group.documents:
            path = group.documents[0]
            said, problem = _read_xdce(metadata, path)
            group.say_damaged(path, "metadata", problem)
            said.name = said.name or facts.shown_name(text_of(split_path(path)[1][: -len(_SUFFIX)]))
            said.rows, said.columns = group.believed_size(path, said.rows, said.columns)
        stage: dict[FieldKey, tuple[float, float]] = {}
        for at in group.images.values():
            offset = said.offsets_um[at.field - 1] if 1 <= at.field <= len(said.offsets_um) else None
            if offset is not None:
                stage[at.field_key] = offset
        known = _channels(said)
        group.facts = PlateFacts(
            rows=said.rows,
            columns=said.columns,
            channels=group.channels(known.get),
            pixel_size_um=said.pixel_size_um,
            z_step_um=said.z_step_um,
            name=said.name,
            started=said.started,
            stage_um=stage,
        )

    def reason(self, path: bytes) -> str:
        return NO_POSITION if TIFF_NAME.fullmatch(path) else NO_TIFF


def _channels(said: _Protocol) -> dict[int, ChannelFacts]:
    """Facts of each wavelength, under the number that its name has in file names."""
    known: dict[int, ChannelFacts] = {}
    for place, (excitation, excitation_nm, emission, emission_nm) in enumerate(said.filters):
        number = channel_of_name(f"{excitation} - {emission}".encode())
        exposure = said.exposures[place] if place < len(said.exposures) else None
        known.setdefault(number, ChannelFacts(number, None, None, excitation_nm, emission_nm, exposure))
    return known


def _read_xdce(metadata: MetadataReader, path: bytes) -> tuple[_Protocol, str | None]:
    said = _Protocol()
    excitation: tuple[str, float | None] = ("", None)

    def start(name: str, attributes: Mapping[str, str]) -> None:
        nonlocal excitation
        if name == "Plate":
            said.rows = facts.whole(attributes.get("rows"), MAX_ROWS, 1)
            said.columns = facts.whole(attributes.get("columns"), MAX_COLUMNS, 1)
            said.name = facts.shown_name(attributes.get("name"))
        elif name == "ObjectiveCalibration":
            y, x = facts.pixel_um(attributes.get("pixel_height")), facts.pixel_um(attributes.get("pixel_width"))
            said.pixel_size_um = (y, x) if y is not None and x is not None else None
        elif name == "ZSlice":
            said.z_step_um = facts.pixel_um(attributes.get("step") or attributes.get("thickness"))
        elif name == "Creation":
            said.started = facts.timestamp(f"{attributes.get('date', '')}T{attributes.get('time', '')}")
        elif name == "offset_point" and len(said.offsets_um) < _MAX_OFFSETS:
            y, x = facts.stage_um(attributes.get("y")), facts.stage_um(attributes.get("x"))
            said.offsets_um.append((-y, x) if y is not None and x is not None else None)
        elif name == "ExcitationFilter":
            excitation = attributes.get("name", ""), facts.wavelength_nm(attributes.get("wavelength"))
        elif name == "EmissionFilter" and len(said.filters) < _MAX_FILTERS:
            said.filters.append(
                (*excitation, attributes.get("name", ""), facts.wavelength_nm(attributes.get("wavelength")))
            )
        elif name == "Exposure" and len(said.exposures) < _MAX_FILTERS:
            said.exposures.append(facts.exposure_ms(attributes.get("time")))

    def end(name: str, text: str) -> None:
        return None

    problem = None
    try:
        read_xml(metadata.pieces(path), start, end, texts=())
    except XmlError as error:
        problem = str(error)
    return said, problem


def _position(match: re.Match[bytes]) -> PlatePosition | str:
    well = well_at(match["row"], match["column"])
    if isinstance(well, str):
        return well
    numbers = numbers_of({part: match[part] for part in ("field", "z", "time")})
    if isinstance(numbers, str):
        return numbers
    channel = channel_of_name(match["name"] or b"")
    return PlatePosition(*well, numbers["field"], numbers.get("time", 1), channel, numbers.get("z", 1))
