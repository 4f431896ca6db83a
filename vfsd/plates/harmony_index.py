"""The index of a Harmony measurement: `Index.idx.xml` or `Index.xml`, of the versions 1 to 7.

Versions differ in namespace, mark and order, and in where facts stand: up to version 5 in each `Image`, later those
of a channel once in a `Map`'s `Entry`. Both are read alike. It may list images that were never written. It is
streamed: what is kept is some hundred bytes an image, of at most `MAX_IMAGES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, final

from vfsd.plates import facts
from vfsd.plates.model import MAX_COLUMNS, MAX_ROWS, ChannelFacts, FieldKey, PlatePosition
from vfsd.plates.naming import MAX_CHANNEL, MAX_NUMBER
from vfsd.plates.xml_stream import XmlError, read_xml

_PLATE = frozenset({"PlateID", "Name", "PlateRows", "PlateColumns", "MeasurementStartTime"})
_CHANNEL = frozenset(
    {"ChannelName", "ChannelType", "MainExcitationWavelength", "MainEmissionWavelength", "ExposureTime"}
    | {"ImageResolutionX", "ImageResolutionY"}
)
_IMAGE = frozenset(
    {"URL", "Row", "Col", "FieldID", "PlaneID", "TimepointID", "ChannelID", "PositionX", "PositionY", "PositionZ"}
    | {"MeasurementTimeOffset", "AbsTime"}
)

# Light that passed through the sample has no colour of its own.
_TRANSMITTED = frozenset({"brightfield", "phase", "digitalphasecontrast"})

# Positions and times of this many planes settle what a step is.
_PLANES_FOR_STEPS = 4096

# A plate of 1536 wells, nine fields and eighteen planes each; images beyond are counted only.
MAX_IMAGES = 250_000


class IndexedImage(NamedTuple):
    """One image of an index: row and column from 0, field, channel, plane; and what is known of it."""

    said: tuple[int | None, ...]
    taken_at: str | None
    stage_um: tuple[float, float] | None
    height_um: float | None
    offset_s: float | None


@final
@dataclass(slots=True)
class HarmonyIndex:
    """What an index says; None and empty where it says nothing true. `images` are by file name in lower case."""

    rows: int | None = None
    columns: int | None = None
    name: str | None = None
    started: str | None = None
    pixel_size_um: tuple[float, float] | None = None
    channels: dict[int, ChannelFacts] = field(default_factory=dict)
    images: dict[str, IndexedImage] = field(default_factory=dict)
    stage_um: dict[FieldKey, tuple[float, float]] = field(default_factory=dict)
    listed: int = 0
    problem: str | None = None


@final
@dataclass(slots=True)
class ImageFacts:
    """What an index says of images that are there."""

    stage_um: dict[FieldKey, tuple[float, float]] = field(default_factory=dict)
    taken_at: dict[bytes, str] = field(default_factory=dict)
    z_step_um: float | None = None
    time_step_s: float | None = None
    wrong: int = 0
    first_wrong: str = ""


def read_index(pieces: Iterable[bytes]) -> HarmonyIndex:
    """Read an index; where it is damaged, `problem` says why it says no more."""
    reading = _Reading()
    problem = None
    try:
        read_xml(pieces, reading.start, reading.end, texts=_PLATE | _CHANNEL | _IMAGE)
    except XmlError as error:
        problem = str(error)
    index = reading.finish()
    index.problem = problem
    return index


def facts_of_images(index: HarmonyIndex, images: Mapping[str, tuple[bytes, PlatePosition]]) -> ImageFacts:
    """What an index says of images, given as file name in lower case → path and position by its name."""
    found = ImageFacts()
    heights: dict[tuple[FieldKey, int, int], dict[int, float]] = {}
    times: dict[tuple[FieldKey, int, int], dict[int, float]] = {}
    for number, (name, (path, at)) in enumerate(images.items()):
        image = index.images.get(name)
        if image is None:
            continue
        named = (at.row, at.column, at.field, at.channel, at.z)
        if any(a is not None and a != b for a, b in zip(image.said, named, strict=True)):
            found.wrong += 1
            found.first_wrong = found.first_wrong or name
            continue
        if image.taken_at is not None:
            found.taken_at[path] = image.taken_at
        if image.stage_um is not None:
            found.stage_um.setdefault(at.field_key, image.stage_um)
        if number < _PLANES_FOR_STEPS:
            if image.height_um is not None:
                heights.setdefault((at.field_key, at.channel, at.time), {}).setdefault(at.z, image.height_um)
            if image.offset_s is not None:
                times.setdefault((at.field_key, at.channel, at.z), {}).setdefault(at.time, image.offset_s)
    found.z_step_um = next(filter(None, map(facts.step_between, heights.values())), None)
    found.time_step_s = next(filter(None, map(facts.step_between, times.values())), None)
    return found


@final
class _Reading:
    def __init__(self) -> None:
        self._index = HarmonyIndex()
        self._inside = ""
        self._entry_channel: int | None = None
        self._values: dict[str, str] = {}
        self._units: dict[str, str] = {}
        self._channels: dict[int, dict[str, tuple[str, str | None]]] = {}

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if name in ("Image", "Entry", "Plate"):
            self._inside = name
            self._values.clear()
            self._units.clear()
            self._entry_channel = facts.whole(attributes.get("ChannelID"), MAX_CHANNEL) if name == "Entry" else None
        elif "Unit" in attributes:
            self._units[name] = attributes["Unit"]

    def end(self, name: str, text: str) -> None:
        if name == self._inside:
            if name == "Image":
                self._take_image()
            elif name == "Entry":
                self._take_channel(self._entry_channel)
            else:
                self._take_plate()
            self._inside = ""
        elif text and self._inside:
            self._values.setdefault(name, text)

    def _take_plate(self) -> None:
        index, values = self._index, self._values
        index.rows = index.rows or facts.whole(values.get("PlateRows"), MAX_ROWS, 1)
        index.columns = index.columns or facts.whole(values.get("PlateColumns"), MAX_COLUMNS, 1)
        index.name = index.name or facts.shown_name(values.get("Name") or values.get("PlateID"))
        index.started = index.started or facts.timestamp(values.get("MeasurementStartTime"))

    def _take_channel(self, channel: int | None) -> None:
        if channel is None:
            return
        known = self._channels.setdefault(channel, {})
        for name in _CHANNEL & self._values.keys():
            known.setdefault(name, (self._values[name], self._units.get(name)))

    def _take_image(self) -> None:
        index, values = self._index, self._values
        if "URL" not in values:
            return  # the list of a well's images has the same element
        index.listed += 1
        channel = facts.whole(values.get("ChannelID"), MAX_CHANNEL)
        self._take_channel(channel)
        if len(index.images) >= MAX_IMAGES:
            return
        x, y, z = (self._length(axis) for axis in ("PositionX", "PositionY", "PositionZ"))
        image = IndexedImage(
            (
                _minus_one(values.get("Row")),
                _minus_one(values.get("Col")),
                facts.whole(values.get("FieldID"), MAX_NUMBER),
                channel,
                facts.whole(values.get("PlaneID"), MAX_NUMBER),
            ),
            facts.timestamp(values.get("AbsTime")),
            (-y, x) if x is not None and y is not None else None,
            z,
            facts.seconds(values.get("MeasurementTimeOffset"), self._units.get("MeasurementTimeOffset")),
        )
        name = values["URL"].replace("\\", "/").rpartition("/")[2].lower()
        index.images.setdefault(name, image)
        row, column, number = image.said[:3]
        if image.stage_um is None or row is None or column is None or number is None:
            return
        if row < MAX_ROWS and column < MAX_COLUMNS:
            index.stage_um.setdefault((0, row, column, number), image.stage_um)

    def _length(self, name: str) -> float | None:
        value = facts.stage_um(self._values.get(name), self._units.get(name), default="m")
        return None if value is None else round(value, 6)

    def finish(self) -> HarmonyIndex:
        index = self._index
        if self._inside == "Plate":
            self._take_plate()
        for number, known in self._channels.items():
            index.channels[number] = _channel(number, known)
            y, x = (
                facts.pixel_um(*known.get(name, (None, None)), default="m")
                for name in ("ImageResolutionY", "ImageResolutionX")
            )
            if index.pixel_size_um is None and y is not None and x is not None:
                index.pixel_size_um = (round(y, 9), round(x, 9))
        return index


def _channel(number: int, known: Mapping[str, tuple[str, str | None]]) -> ChannelFacts:
    def value(name: str) -> str | None:
        return known.get(name, (None, None))[0]

    emission = facts.wavelength_nm(value("MainEmissionWavelength"))
    transmitted = (value("ChannelType") or "").casefold() in _TRANSMITTED
    exposure, unit = known.get("ExposureTime", (None, None))
    return ChannelFacts(
        number,
        name=facts.shown_name(value("ChannelName")),
        colour="FFFFFF" if transmitted else None,
        excitation_nm=facts.wavelength_nm(value("MainExcitationWavelength")),
        emission_nm=emission,
        exposure_ms=facts.exposure_ms(exposure, unit or "s"),
    )


def _minus_one(text: str | None) -> int | None:
    number = facts.whole(text, MAX_NUMBER, 1)
    return None if number is None else number - 1
