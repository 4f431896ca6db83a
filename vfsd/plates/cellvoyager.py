"""Yokogawa CellVoyager CV7000 and CV8000.

    <plate>_<well>_T0001F002L01A01Z03C04.tif     time, field, timeline, action, z, channel
    MeasurementData.mlf, MeasurementDetail.mrf, *.mes     facts (`cellvoyager_metadata`)

Each timeline is an acquisition of its own. The action is not part of a plane's identity: one channel belongs to one
action, and where two actions took the same channel, the second is kept as a file and said. Dark and shading
images (`DC_…`, `SC_…`) lie beside the plate's and are none.
"""

from __future__ import annotations

import os
import re
from typing import final

from vfsd.plates.cellvoyager_metadata import (
    Detail,
    RecordedFacts,
    Settings,
    facts_of_images,
    read_detail,
    read_records,
    read_settings,
)
from vfsd.plates.instrument import Listing
from vfsd.plates.metadata import MetadataReader, parse_once
from vfsd.plates.model import PlateFacts, PlatePosition
from vfsd.plates.naming import (
    MAX_CHANNEL,
    NO_POSITION,
    NO_TIFF,
    TIFF_NAME,
    Well,
    join_path,
    number_of,
    numbers_of,
    split_path,
    text_of,
    well_of,
)
from vfsd.plates.scheme import Document, ImageName, NameReader, PlateGroup

_NAME = re.compile(
    rb"(.+)_([a-z]{1,2}\d{2})_t(\d{4,5})f(\d{3,5})l(\d{2,4})a(\d{2,4})z(\d{2,5})c(\d{2,4})\.tiff?",
    re.IGNORECASE | re.DOTALL,
)
_CALIBRATION = re.compile(rb"(dc|sc)_.*\.tiff?", re.IGNORECASE | re.DOTALL)
_RECORDS, _DETAIL = b"MeasurementData.mlf", b"MeasurementDetail.mrf"
_SUFFIXES = (b".mlf", b".mrf", b".mes")


@final
class CellVoyager:
    """The scheme of CellVoyager's measurements."""

    name = "cellvoyager"
    hint = b"_t"

    def reader(self, listing: Listing, metadata: MetadataReader) -> NameReader:
        wells: dict[bytes, Well | str] = {}

        def read(path: bytes, directory: bytes, file_name: bytes) -> ImageName | None:
            match = _NAME.fullmatch(file_name)
            if match is None:
                return None
            plate, well, time, field, timeline, _, z, channel = match.groups()
            at = wells.get(well)
            if at is None:
                at = wells[well] = well_of(well)
            position = _position(at, time, field, timeline, z, channel)
            if isinstance(position, str):
                return ImageName(path, directory, plate, None, position)
            return ImageName(path, directory, plate, position)

        return read

    def document(self, directory: bytes, file_name: bytes) -> Document | None:
        if not file_name.lower().endswith(_SUFFIXES):
            return None
        return Document(directory, None, "it is metadata of a measurement without images")

    def find(self, group: PlateGroup, metadata: MetadataReader) -> None:
        listed = {split_path(path)[1].lower(): path for path in reversed(group.documents)}
        found: dict[bytes, bytes] = {}
        for name in (_RECORDS, _DETAIL):
            path = listed.get(name.lower()) or join_path(group.root, name)
            if name.lower() in listed or metadata.exists(path):
                found[name] = path
        for name, path in listed.items():
            if name.endswith(b".mes"):
                found.setdefault(b".mes", path)
        group.metadata = found
        group.found = bool(found)

    def describe(self, group: PlateGroup, metadata: MetadataReader) -> None:
        found = group.metadata
        assert isinstance(found, dict)
        detail, recorded, settings = Detail(), RecordedFacts(), Settings()
        if _DETAIL in found:
            detail, problem = read_detail(metadata.pieces(found[_DETAIL]))
            group.say_damaged(found[_DETAIL], "metadata", problem)
        if b".mes" not in found and detail.settings and "/" not in detail.settings:
            path = join_path(group.root, os.fsencode(detail.settings))
            if metadata.exists(path):
                found[b".mes"] = path
        if b".mes" in found:
            settings, problem = read_settings(metadata.pieces(found[b".mes"]))
            group.say_damaged(found[b".mes"], "metadata", problem)
        if _RECORDS in found:
            recorded = self._read_records(group, metadata, found[_RECORDS])
        rows, columns = group.believed_size(found.get(_DETAIL, b""), detail.rows, detail.columns)
        group.facts = PlateFacts(
            rows=rows,
            columns=columns,
            channels=group.channels(settings.channels.get),
            pixel_size_um=detail.pixel_size_um,
            z_step_um=recorded.z_step_um or settings.z_step_um,
            time_points=detail.time_points,
            z_steps=detail.z_steps,
            name=detail.name or text_of(group.spelled),
            started=detail.started,
            stage_um=recorded.stage_um,
            taken_at=recorded.taken_at,
        )

    def _read_records(self, group: PlateGroup, metadata: MetadataReader, path: bytes) -> RecordedFacts:
        by_name = {os.fsdecode(split_path(image)[1]).lower(): (image, at) for image, at in group.images.items()}
        records = parse_once("cellvoyager", lambda: metadata.pieces(path), read_records)
        recorded = facts_of_images(records, by_name)
        recorded.stage_um = records.stage_um | recorded.stage_um
        group.say_damaged(path, "metadata", records.problem)
        if records.problem is None and path in group.documents:
            group.others[path] = (
                f"it is the plate's metadata; {records.listed} images are listed, {len(by_name)} are here"
            )
        if records.errors:
            group.notes.append(f"{text_of(path)}: {records.errors} records of errors, first: {records.first_error}")
        if recorded.wrong:
            group.notes.append(
                f"{text_of(path)}: file names contradict it and are believed: {recorded.wrong} images, "
                f"first {recorded.first_wrong}"
            )
        return recorded

    def reason(self, path: bytes) -> str:
        file_name = split_path(path)[1]
        if TIFF_NAME.fullmatch(file_name) is None:
            return NO_TIFF
        if _CALIBRATION.fullmatch(file_name) is not None:
            return "it is a calibration image (dark or shading), not one of the plate"
        return NO_POSITION


def _position(
    at: Well | str, time: bytes, field: bytes, timeline: bytes, z: bytes, channel: bytes
) -> PlatePosition | str:
    if isinstance(at, str):
        return at
    numbers = numbers_of({"time": time, "field": field, "timeline": timeline, "z": z})
    if isinstance(numbers, str):
        return numbers
    wavelength = number_of(channel, MAX_CHANNEL)
    if wavelength is None:
        return f"its channel number is above {MAX_CHANNEL}"
    acquisition = max(0, numbers["timeline"] - 1)
    return PlatePosition(*at, numbers["field"], numbers["time"], wavelength, numbers["z"], acquisition)
