"""Yokogawa's metadata: MeasurementData.mlf (a record an image), MeasurementDetail.mrf (the plate), *.mes (the protocol).

All three are XML with attributes; they are streamed, and what is kept is some hundred bytes an image, of at most
`MAX_IMAGES`.
Records of errors name no image; they are counted. Stage positions are relative to the middle of the well, y upwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, final

from vfsd.plates import facts
from vfsd.plates.model import MAX_COLUMNS, MAX_ROWS, ChannelFacts, FieldKey, PlatePosition
from vfsd.plates.naming import MAX_CHANNEL, MAX_NUMBER
from vfsd.plates.xml_stream import XmlError, read_xml

_STACKS_FOR_STEPS = 64

# A plate of 1536 wells, nine fields and eighteen planes each; records beyond are counted only.
MAX_IMAGES = 250_000


class Record(NamedTuple):
    """One image's record: row, column, field, time, z, channel; and what is known of it."""

    said: tuple[int | None, ...]
    taken_at: str | None
    stage_um: tuple[float, float] | None
    height_um: float | None


@final
@dataclass(slots=True)
class Records:
    """What MeasurementData.mlf says; `images` are by file name in lower case."""

    images: dict[str, Record] = field(default_factory=dict)
    stage_um: dict[FieldKey, tuple[float, float]] = field(default_factory=dict)
    listed: int = 0
    errors: int = 0
    first_error: str = ""
    problem: str | None = None


@final
@dataclass(slots=True)
class RecordedFacts:
    """What the records say of images that are there."""

    stage_um: dict[FieldKey, tuple[float, float]] = field(default_factory=dict)
    taken_at: dict[bytes, str] = field(default_factory=dict)
    heights: dict[tuple[FieldKey, int, int], dict[int, float]] = field(default_factory=dict)
    wrong: int = 0
    first_wrong: str = ""

    @property
    def z_step_um(self) -> float | None:
        """The usual distance of planes."""
        return next(filter(None, map(facts.step_between, self.heights.values())), None)


@final
@dataclass(slots=True)
class Detail:
    """What MeasurementDetail.mrf says."""

    rows: int | None = None
    columns: int | None = None
    name: str | None = None
    started: str | None = None
    time_points: int | None = None
    z_steps: int | None = None
    pixel_size_um: tuple[float, float] | None = None
    settings: str | None = None


@final
@dataclass(slots=True)
class Settings:
    """What a *.mes says."""

    channels: dict[int, ChannelFacts] = field(default_factory=dict)
    z_step_um: float | None = None


def read_records(pieces: Iterable[bytes]) -> Records:
    """Read the records; where they are damaged, `problem` says why they say no more."""
    records = Records()
    held: dict[str, str] = {}

    def start(name: str, attributes: Mapping[str, str]) -> None:
        if name == "MeasurementRecord":
            held.clear()
            held.update(attributes)

    def end(name: str, text: str) -> None:
        if name != "MeasurementRecord":
            return
        if held.get("Type", "IMG").upper() != "IMG":
            records.errors += 1
            records.first_error = records.first_error or (facts.shown_name(text) or "")
            return
        records.listed += 1
        if len(records.images) < MAX_IMAGES:
            record = _record(held)
            records.images.setdefault(text.lower(), record)
            row, column, number = record.said[:3]
            timeline = facts.whole(held.get("TimelineIndex"), MAX_NUMBER, 1) or 1
            if record.stage_um is None or not row or not column or number is None:
                return
            if row <= MAX_ROWS and column <= MAX_COLUMNS:
                records.stage_um.setdefault((timeline - 1, row - 1, column - 1, number), record.stage_um)

    records.problem = _read(pieces, start, end, frozenset({"MeasurementRecord"}))
    return records


def _record(held: Mapping[str, str]) -> Record:
    x, y, z = (facts.stage_um(held.get(axis)) for axis in ("X", "Y", "Z"))
    said = (held.get(part) for part in ("Row", "Column", "FieldIndex", "TimePoint", "ZIndex", "Ch"))
    return Record(
        tuple(facts.whole(value, MAX_NUMBER) for value in said),
        facts.timestamp(held.get("Time")),
        (-y, x) if x is not None and y is not None else None,
        z,
    )


def facts_of_images(records: Records, images: Mapping[str, tuple[bytes, PlatePosition]]) -> RecordedFacts:
    """What the records say of images, given as file name in lower case → path and position by its name."""
    found = RecordedFacts()
    for name, (path, at) in images.items():
        record = records.images.get(name)
        if record is None:
            continue
        named = (at.row + 1, at.column + 1, at.field, at.time, at.z, at.channel)
        if any(a is not None and a != b for a, b in zip(record.said, named, strict=True)):
            found.wrong += 1
            found.first_wrong = found.first_wrong or name
            continue
        if record.stage_um is not None:
            found.stage_um.setdefault(at.field_key, record.stage_um)
        if record.taken_at is not None:
            found.taken_at[path] = record.taken_at
        stack = (at.field_key, at.channel, at.time)
        if record.height_um is not None and (stack in found.heights or len(found.heights) < _STACKS_FOR_STEPS):
            found.heights.setdefault(stack, {}).setdefault(at.z, record.height_um)
    return found


def read_detail(pieces: Iterable[bytes]) -> tuple[Detail, str | None]:
    """Read MeasurementDetail.mrf."""
    detail = Detail()

    def start(name: str, attributes: Mapping[str, str]) -> None:
        if name == "MeasurementDetail":
            detail.rows = facts.whole(attributes.get("RowCount"), MAX_ROWS, 1)
            detail.columns = facts.whole(attributes.get("ColumnCount"), MAX_COLUMNS, 1)
            detail.name = facts.shown_name(attributes.get("Title"))
            detail.started = facts.timestamp(attributes.get("BeginTime"))
            detail.time_points = facts.whole(attributes.get("TimePointCount"), MAX_NUMBER, 1)
            detail.z_steps = facts.whole(attributes.get("ZCount"), MAX_NUMBER, 1)
            detail.settings = attributes.get("MeasurementSettingFileName")
        elif name == "MeasurementChannel" and detail.pixel_size_um is None:
            y = facts.pixel_um(attributes.get("VerticalPixelDimension"))
            x = facts.pixel_um(attributes.get("HorizontalPixelDimension"))
            detail.pixel_size_um = (y, x) if y is not None and x is not None else None

    return detail, _read(pieces, start, _nothing, frozenset())


def read_settings(pieces: Iterable[bytes]) -> tuple[Settings, str | None]:
    """Read a *.mes."""
    settings = Settings()
    lights: dict[str, float | None] = {}
    held: dict[str, str] = {}

    def start(name: str, attributes: Mapping[str, str]) -> None:
        if name == "LightSource" and len(lights) <= MAX_CHANNEL:
            lights[attributes.get("Name", "")] = facts.wavelength_nm(attributes.get("WaveLength"))
        elif name == "Channel":
            held.clear()
            held.update(attributes)
        elif name == "ActionAcquire3D" and settings.z_step_um is None:
            settings.z_step_um = facts.pixel_um(attributes.get("SliceLength"))

    def end(name: str, text: str) -> None:
        if name == "LightSourceName":
            held.setdefault("light", text)
        elif name == "Channel":
            number = facts.whole(held.get("Ch"), MAX_CHANNEL)
            if number is not None:
                settings.channels.setdefault(number, _channel(number, held, lights.get(held.get("light", ""))))

    return settings, _read(pieces, start, end, frozenset({"LightSourceName"}))


def _channel(number: int, held: Mapping[str, str], excitation: float | None) -> ChannelFacts:
    filters = " ".join(filter(None, (held.get("light"), held.get("Acquisition"))))
    return ChannelFacts(
        number,
        name=facts.shown_name(held.get("Fluorophore") or filters),
        colour=facts.colour(held.get("Color")),
        excitation_nm=excitation,
        emission_nm=facts.band_nm(held.get("Acquisition")),
        exposure_ms=facts.exposure_ms(held.get("ExposureTime")),
    )


def _nothing(name: str, text: str) -> None:
    return None


def _read(
    pieces: Iterable[bytes],
    start: Callable[[str, Mapping[str, str]], None],
    end: Callable[[str, str], None],
    texts: frozenset[str],
) -> str | None:
    try:
        read_xml(pieces, start, end, texts=texts)
    except XmlError as error:
        return str(error)
    return None
