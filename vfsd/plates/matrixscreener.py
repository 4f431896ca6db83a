"""Leica MatrixScreener (LAS AF).

    slide--S00/chamber--U01--V02/field--X03--Y04/image--L00--S00--U01--V02--J20--E00--O00--X03--Y04--T05--Z06--C07.ome.tif
    …/field--X03--Y04/metadata/image--L00--…--T05.ome.xml        facts of a field at a time

U and V are the column and the row of the well from 0, X and Y those of the field in it; a field's number here is
1000 · Y + X. J is the job that took the image, O an orientation; a channel's number is 100 · J + C, for each job has
channels of its own. L is the loop: an acquisition. Each slide is a plate below the folder that holds it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import final

from vfsd.plates import facts
from vfsd.plates.instrument import Listing
from vfsd.plates.metadata import MetadataReader
from vfsd.plates.model import MAX_COLUMNS, MAX_ROWS, ChannelFacts, FieldKey, PlateFacts, PlatePosition
from vfsd.plates.naming import NO_POSITION, NO_TIFF, TIFF_NAME, numbers_of, outside, split_path, text_of
from vfsd.plates.natural_order import natural_key
from vfsd.plates.scheme import Document, ImageName, NameReader, PlateGroup
from vfsd.plates.xml_stream import XmlError, read_xml

_COMMON = (
    rb"image--L(?P<loop>\d+)--S(?P<slide>\d+)--U(?P<u>\d+)--V(?P<v>\d+)--J(?P<job>\d+)--E(?P<e>\d+)--O(?P<o>\d+)"
    rb"--X(?P<x>\d+)--Y(?P<y>\d+)--T(?P<time>\d+)"
)
_IMAGE = re.compile(_COMMON + rb"--Z(?P<z>\d+)--C(?P<channel>\d+)(?:\.ome)?\.tiff?", re.IGNORECASE)
_METADATA = re.compile(_COMMON + rb"\.ome\.xml", re.IGNORECASE)
_FOLDERS = re.compile(rb"slide--S\d+(/chamber--U\d+--V\d+(/field--X\d+--Y\d+)?)?(/metadata)?", re.IGNORECASE)
_JUNK = frozenset({b".ds_store", b"thumbs.db", b"desktop.ini"})

# Numbers beyond these could not be told apart once they are joined.
_MAX_FIELD = 999
_MAX_PART = 99

# Each of a field's XML files has tens of kB; with these many the positions of a large plate's first fields are known.
MAX_DOCUMENTS = 512


@final
class MatrixScreener:
    """The scheme of MatrixScreener's experiments."""

    name = "matrixscreener"
    hint = b"image--l"

    def reader(self, listing: Listing, metadata: MetadataReader) -> NameReader:
        roots: dict[bytes, bytes] = {}

        def read(path: bytes, directory: bytes, file_name: bytes) -> ImageName | None:
            match = _IMAGE.fullmatch(file_name)
            if match is None:
                return None
            root = roots.get(directory)
            if root is None:
                root = roots[directory] = _root_of(directory)
            slide = b"S" + match["slide"]
            position = _position(match)
            inside = root != directory
            if isinstance(position, str):
                return ImageName(path, root, slide, None, position, None, inside)
            return ImageName(
                path, root, slide, position, None, None, inside, b"J%s C%s" % (match["job"], match["channel"])
            )

        return read

    def document(self, directory: bytes, file_name: bytes) -> Document | None:
        match = _METADATA.fullmatch(file_name)
        if match is None:
            return None
        return Document(_root_of(directory), b"S" + match["slide"], "it is metadata of images that are not here")

    def find(self, group: PlateGroup, metadata: MetadataReader) -> None:
        group.found = bool(group.documents)

    def describe(self, group: PlateGroup, metadata: MetadataReader) -> None:
        pixel: tuple[float, float] | None = None
        step: float | None = None
        started: str | None = None
        stage: dict[FieldKey, tuple[float, float]] = {}
        damaged: list[tuple[bytes, str]] = []
        for path in sorted(group.documents, key=natural_key)[:MAX_DOCUMENTS]:
            ome, problem = _read_ome(metadata, path)
            if problem is not None:
                damaged.append((path, problem))
                group.others[path] = f"it is the plate's metadata, and not fully understood: {problem}"
            pixel = pixel or ome.pixel_size_um
            step = step or ome.z_step_um
            started = min(filter(None, (started, ome.created)), default=None)
            match = _METADATA.fullmatch(split_path(path)[1])
            at = None if match is None else _position(match)
            if ome.stage_um is not None and isinstance(at, PlatePosition):
                stage.setdefault(at.field_key, ome.stage_um)
        if damaged:
            path, problem = damaged[0]
            more = f" ({len(damaged) - 1} more files like it)" if len(damaged) > 1 else ""
            group.notes.append(f"{text_of(path)}: {problem}; what stands before is believed{more}")
        group.facts = PlateFacts(
            channels=group.channels(ChannelFacts),
            pixel_size_um=pixel,
            z_step_um=step,
            started=started,
            stage_um=stage,
        )

    def reason(self, path: bytes) -> str:
        file_name = split_path(path)[1]
        if file_name.lower() in _JUNK:
            return "it is a file manager's, not the instrument's"
        return NO_POSITION if TIFF_NAME.fullmatch(file_name) else NO_TIFF


@final
class _Ome:
    """What the OME-XML of one field says."""

    __slots__ = ("created", "pixel_size_um", "stage_um", "z_step_um")

    def __init__(self) -> None:
        self.created: str | None = None
        self.pixel_size_um: tuple[float, float] | None = None
        self.z_step_um: float | None = None
        self.stage_um: tuple[float, float] | None = None


def _read_ome(metadata: MetadataReader, path: bytes) -> tuple[_Ome, str | None]:
    """LAS AF gives stage positions in metres, y growing downwards, and pixel sizes in µm."""
    ome = _Ome()

    def start(name: str, attributes: Mapping[str, str]) -> None:
        if name == "Pixels" and ome.pixel_size_um is None:
            y, x = facts.pixel_um(attributes.get("PhysicalSizeY")), facts.pixel_um(attributes.get("PhysicalSizeX"))
            ome.pixel_size_um = (round(y, 9), round(x, 9)) if y is not None and x is not None else None
            ome.z_step_um = facts.pixel_um(attributes.get("PhysicalSizeZ"))
        elif name == "StagePosition" and ome.stage_um is None:
            y = facts.stage_um(attributes.get("PositionY"), "m")
            x = facts.stage_um(attributes.get("PositionX"), "m")
            ome.stage_um = (round(y, 3), round(x, 3)) if y is not None and x is not None else None

    def end(name: str, text: str) -> None:
        if name == "CreationDate":
            ome.created = ome.created or facts.timestamp(text)

    problem = None
    try:
        read_xml(metadata.pieces(path), start, end, texts=("CreationDate",))
    except XmlError as error:
        problem = str(error)
    return ome, problem


def _root_of(directory: bytes) -> bytes:
    """The folder above `slide--S…`, or the directory itself where it lies in no such folders."""
    parts = directory.split(b"/")
    for depth in range(len(parts) - 1, max(-1, len(parts) - 5), -1):
        if _FOLDERS.fullmatch(b"/".join(parts[depth:])):
            return b"/".join(parts[:depth])
    return directory


def _position(match: re.Match[bytes]) -> PlatePosition | str:
    groups = match.groupdict()
    numbers = numbers_of({"time": groups["time"], "z": groups.get("z", b"0"), "loop": groups["loop"]})
    if isinstance(numbers, str):
        return numbers
    fields = numbers_of({"field X": groups["x"], "field Y": groups["y"]}, _MAX_FIELD)
    if isinstance(fields, str):
        return fields
    parts = numbers_of({"job": groups["job"], "channel": groups.get("channel") or b"0"}, _MAX_PART)
    if isinstance(parts, str):
        return parts
    well = numbers_of({"row V": groups["v"], "column U": groups["u"]})
    if isinstance(well, str) or well["row V"] >= MAX_ROWS or well["column U"] >= MAX_COLUMNS:
        return outside(b"U" + groups["u"] + b" V" + groups["v"])
    return PlatePosition(
        well["row V"],
        well["column U"],
        (_MAX_FIELD + 1) * fields["field Y"] + fields["field X"],
        numbers["time"],
        (_MAX_PART + 1) * parts["job"] + parts["channel"],
        numbers["z"],
        numbers["loop"],
    )
