"""Olympus ScanR, and the EMBL's names of the same kind.

    [data/]A1--W00001--P00002--Z00003--T00004--GFP.tif     label of the well, its number, field, z, time, channel
    experiment_descriptor.xml                              facts, beside `data`
    <anything>--W0002--P001[--Z…][--T…][--C01|--<name>].tif

In a ScanR's name the label is the well. Where it is none, or something else stands there, the number has to do: it
counts along the rows of a plate of 12 columns (96 wells, and the EMBL's chips of 384 spots); for other plates a
pattern with `{well:24}` says so. Fields are `P`, and channels that have only a name are numbered by it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import final

from vfsd.plates import facts
from vfsd.plates.instrument import Listing
from vfsd.plates.metadata import MetadataReader
from vfsd.plates.model import ChannelFacts, PlateFacts, PlatePosition
from vfsd.plates.naming import (
    MAX_CHANNEL,
    NO_POSITION,
    NO_TIFF,
    TIFF_NAME,
    Well,
    channel_of_name,
    join_path,
    number_of,
    numbers_of,
    parent_if,
    text_of,
    well_of,
    well_of_number,
)
from vfsd.plates.scheme import Document, NameReader, PlateGroup, reader_of
from vfsd.plates.xml_stream import XmlError, read_xml

_NAME = re.compile(
    rb"(?P<label>.*?)--W(?P<well>\d+)--P(?P<field>\d+)(?:--Z(?P<z>\d+))?(?:--T(?P<time>\d+))?"
    rb"(?:--(?:C(?P<channel>\d+)|(?P<name>.+?)))?(?:\.ome)?\.tiff?",
    re.IGNORECASE | re.DOTALL,
)
_LABEL = re.compile(rb"[a-z]{1,2}\d{1,2}", re.IGNORECASE)
_FOLDERS = frozenset({b"data"})
_DESCRIPTOR = b"experiment_descriptor.xml"

# The columns that a number of a well counts along where nothing else says where it is.
COLUMNS = 12


def _position_by_label(match: re.Match[bytes]) -> PlatePosition | str | None:
    return _position(match, well_of(match["label"])) if _says_label(match) else None


def _position_by_number(match: re.Match[bytes]) -> PlatePosition | str | None:
    return None if _says_label(match) else _position(match, well_of_number(match["well"], COLUMNS))


def _says_label(match: re.Match[bytes]) -> bool:
    return _LABEL.fullmatch(match["label"]) is not None and match["time"] is not None


def _position(match: re.Match[bytes], well: Well | str) -> PlatePosition | str:
    if isinstance(well, str):
        return well
    numbers = numbers_of({part: match[part] for part in ("field", "z", "time")})
    if isinstance(numbers, str):
        return numbers
    if match["name"] is not None:
        channel: int | None = channel_of_name(match["name"])
    else:
        channel = number_of(match["channel"] or b"0", MAX_CHANNEL)
    if channel is None:
        return f"its channel number is above {MAX_CHANNEL}"
    return PlatePosition(*well, numbers["field"], numbers.get("time", 0), channel, numbers.get("z", 0))


@final
class ScanR:
    """The scheme of a ScanR's plates."""

    name = "scanr"
    hint = b"--w"

    def reader(self, listing: Listing, metadata: MetadataReader) -> NameReader:
        return reader_of(_NAME, _position_by_label, _FOLDERS)

    def document(self, directory: bytes, file_name: bytes) -> Document | None:
        if file_name.lower() != _DESCRIPTOR:
            return None
        return Document(parent_if(directory, _FOLDERS), None, "it is the descriptor of an experiment without images")

    def find(self, group: PlateGroup, metadata: MetadataReader) -> None:
        beside = join_path(group.root, _DESCRIPTOR)
        group.metadata = group.documents[0] if group.documents else beside if metadata.exists(beside) else None
        group.found = group.metadata is not None

    def describe(self, group: PlateGroup, metadata: MetadataReader) -> None:
        path = group.metadata
        if not isinstance(path, bytes):
            group.facts = PlateFacts(channels=group.channels(lambda number: None))
            return
        values, exposures, problem = _read_descriptor(metadata, path)
        group.say_damaged(path, "descriptor", problem)
        size = facts.pixel_um(values.get("conversion factor um/pixel"))
        delay = facts.seconds(values.get("timeloop delay [ms]"), "ms")
        group.facts = PlateFacts(
            channels=group.channels(
                lambda number: ChannelFacts(number, exposure_ms=facts.exposure_ms(exposures.get(number)))
            ),
            pixel_size_um=None if size is None else (size, size),
            z_step_um=facts.pixel_um(values.get("slices distance")),
            name=facts.shown_name(values.get("plate name")),
            time_step_s=delay or None,
        )

    def reason(self, path: bytes) -> str:
        return NO_POSITION if TIFF_NAME.fullmatch(path) else NO_TIFF


@final
class NumberedWells:
    """The scheme of plates whose names number the wells, as the EMBL's do."""

    name = "embl"
    hint = b"--w"

    def reader(self, listing: Listing, metadata: MetadataReader) -> NameReader:
        return reader_of(_NAME, _position_by_number)

    def document(self, directory: bytes, file_name: bytes) -> Document | None:
        return None

    def find(self, group: PlateGroup, metadata: MetadataReader) -> None:
        return None

    def describe(self, group: PlateGroup, metadata: MetadataReader) -> None:
        group.facts = PlateFacts(channels=group.channels(lambda number: None))
        group.notes.append(
            f"{text_of(group.root) or '.'}: names number the wells; they are counted along rows of {COLUMNS} columns; "
            "for another plate give a pattern with {well:24} or {well:48}"
        )

    def reason(self, path: bytes) -> str:
        return NO_POSITION if TIFF_NAME.fullmatch(path) else NO_TIFF


def _read_descriptor(metadata: MetadataReader, path: bytes) -> tuple[dict[str, str], dict[int, str], str | None]:
    """Its keys and values, the exposure time by channel number, and why there is no more.

    It is a file of LabVIEW: a `Name` and a `Val` follow each other. A channel's name and exposure time stand in one
    cluster. It says no encoding and is Latin-1.
    """
    values: dict[str, str] = {}
    exposures: dict[int, str] = {}
    key = channel = ""

    def end(name: str, text: str) -> None:
        nonlocal key, channel
        if name == "Name":
            key = text
        elif name == "Val" and key:
            if key == "name":
                channel = text
            elif key == "exposure time" and channel:
                exposures.setdefault(channel_of_name(channel.encode()), text)
                channel = ""
            else:
                values.setdefault(key, text)

    def start(name: str, attributes: Mapping[str, str]) -> None:
        return None

    problem = None
    try:
        read_xml(metadata.pieces(path), start, end, texts=("Name", "Val"), encoding="iso-8859-1")
    except XmlError as error:
        problem = str(error)
    return values, exposures, problem
