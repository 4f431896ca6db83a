"""PerkinElmer/Revvity Opera Phenix and Operetta: measurements as Harmony writes and exports them.

    Images/r01c02f03p04-ch5sk6fk1fl1.tiff        row, column, field, plane, channel, time
    Images/flex_r01c02f03p04-ch5t06.tiff         the same in Harmony 7
    Images/Index.idx.xml or Images/Index.xml     facts (`harmony_index`)

The folder `Images`, in either case, is a part of the measurement above it; without it the folder of the files is the
plate. Names do not say the plate's name. A fast kinetic's frames (fk) count as time points beyond those of the
slow one.
"""

from __future__ import annotations

import os
import re
from typing import final

from vfsd.plates.harmony_index import facts_of_images, read_index
from vfsd.plates.instrument import Listing
from vfsd.plates.metadata import MetadataReader, parse_once
from vfsd.plates.model import PlateFacts, PlatePosition
from vfsd.plates.naming import (
    MAX_CHANNEL,
    MAX_NUMBER,
    NO_POSITION,
    NO_TIFF,
    TIFF_NAME,
    join_path,
    number_of,
    numbers_of,
    parent_if,
    split_path,
    text_of,
    well_at,
)
from vfsd.plates.scheme import Document, NameReader, PlateGroup, reader_of

_NAME = re.compile(
    rb"(?:flex_)?r(\d+)c(\d+)f(\d+)p(\d+)-ch(\d+)(?:(?:sk(\d+))?(?:fk(\d+))?(?:fl(\d+))?|t(\d+))\.tiff?",
    re.IGNORECASE,
)
_INDICES = (b"Index.idx.xml", b"Index.xml", b"Index.ref.xml")
_INDEX_NAMES = frozenset(name.lower() for name in _INDICES)
_FOLDERS = frozenset({b"images"})


@final
class Harmony:
    """The scheme of Harmony's measurements."""

    name = "harmony"
    hint = b"-ch"

    def reader(self, listing: Listing, metadata: MetadataReader) -> NameReader:
        return reader_of(_NAME, _position, _FOLDERS)

    def document(self, directory: bytes, file_name: bytes) -> Document | None:
        if file_name.lower() not in _INDEX_NAMES:
            return None
        return Document(parent_if(directory, _FOLDERS), None, "it is the index of images that are not here")

    def find(self, group: PlateGroup, metadata: MetadataReader) -> None:
        group.metadata = group.documents[0] if group.documents else _probe(group, metadata)
        group.found = group.metadata is not None

    def describe(self, group: PlateGroup, metadata: MetadataReader) -> None:
        path = group.metadata
        if not isinstance(path, bytes):
            group.facts = PlateFacts(channels=group.channels(lambda number: None))
            return
        by_name = {os.fsdecode(split_path(image)[1]).lower(): (image, at) for image, at in group.images.items()}
        index = parse_once("harmony", lambda: metadata.pieces(path), read_index)
        images = facts_of_images(index, by_name)
        rows, columns = group.believed_size(path, index.rows, index.columns)
        group.others.update(dict.fromkeys(group.documents, "it is another index of the plate"))
        if path in group.documents:
            said = f"{index.listed} images are listed, {len(by_name)} are here"
            group.others[path] = f"it is the plate's index; {said}"
        group.say_damaged(path, "index", index.problem)
        if images.wrong:
            group.notes.append(
                f"{text_of(path)}: file names contradict it and are believed: {images.wrong} images, "
                f"first {images.first_wrong}"
            )
        group.facts = PlateFacts(
            rows=rows,
            columns=columns,
            channels=group.channels(index.channels.get),
            pixel_size_um=index.pixel_size_um,
            z_step_um=images.z_step_um,
            name=index.name,
            time_step_s=images.time_step_s,
            started=index.started,
            stage_um=index.stage_um | images.stage_um,
            taken_at=images.taken_at,
        )

    def reason(self, path: bytes) -> str:
        return NO_POSITION if TIFF_NAME.fullmatch(path) else NO_TIFF


def _probe(group: PlateGroup, metadata: MetadataReader) -> bytes | None:
    """The index of a plate of which only a part is listed."""
    folder = split_path(group.names[0].path)[0]
    paths = (join_path(folder, name) for name in _INDICES)
    return next((path for path in paths if metadata.exists(path)), None)


def _position(match: re.Match[bytes]) -> PlatePosition | str:
    row, column, field, plane, channel, slow, fast, flim, time = match.groups()
    well = well_at(row, column)
    if isinstance(well, str):
        return well
    if flim is not None and number_of(flim) != 1:
        return "it is a frame of a fluorescence lifetime, which has no place on a plate"
    numbers = numbers_of({"field": field, "plane": plane, "time": slow or time or b"1", "frame": fast or b"1"})
    if isinstance(numbers, str):
        return numbers
    wavelength = number_of(channel, MAX_CHANNEL)
    if wavelength is None:
        return f"its channel number is above {MAX_CHANNEL}"
    # beyond all slow time points, so that each pair has a number of its own
    point = numbers["time"] + max(0, numbers["frame"] - 1) * (MAX_NUMBER + 1)
    return PlatePosition(*well, numbers["field"], point, wavelength, numbers["plane"])
