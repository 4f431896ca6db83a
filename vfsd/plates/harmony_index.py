"""The index of a Harmony measurement: `Index.idx.xml` or `Index.xml`, of the versions 1 to 7.

Versions differ in namespace, mark and order, and in where facts stand: up to version 5 in each `Image`, later those
of a channel once in a `Map`'s `Entry`. Both are read alike. It may list images that were never written. It is
streamed: what is kept is bounded by the images that are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import final

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


@final
@dataclass(slots=True)
class HarmonyIndex:
    """What an index says of the images that were asked for; None and empty where it says nothing true."""

    rows: int | None = None
    columns: int | None = None
    name: str | None = None
    started: str | None = None
    pixel_size_um: tuple[float, float] | None = None
    channels: dict[int, ChannelFacts] = field(default_factory=dict)
    stage_um: dict[FieldKey, tuple[float, float]] = field(default_factory=dict)
    taken_at: dict[bytes, str] = field(default_factory=dict)
    z_step_um: float | None = None
    time_step_s: float | None = None
    listed: int = 0
    wrong: int = 0
    first_wrong: str = ""


def read_index(
    pieces: Iterable[bytes], find: Callable[[str], tuple[bytes, PlatePosition] | None]
) -> tuple[HarmonyIndex, str | None]:
    """Read an index.

    Parameters
    ----------
    find : callable
        The file name of an image → its path and position by its name, or None where it is not asked for.

    Returns
    -------
    HarmonyIndex, str or None
        What it says; and why it says no more, where it is damaged.
    """
    reading = _Reading(find)
    problem = None
    try:
        read_xml(pieces, reading.start, reading.end, texts=_PLATE | _CHANNEL | _IMAGE)
    except XmlError as error:
        problem = str(error)
    return reading.finish(), problem


@final
class _Reading:
    def __init__(self, find: Callable[[str], tuple[bytes, PlatePosition] | None]) -> None:
        self._find = find
        self._index = HarmonyIndex()
        self._inside = ""
        self._entry_channel: int | None = None
        self._values: dict[str, str] = {}
        self._units: dict[str, str] = {}
        self._channels: dict[int, dict[str, tuple[str, str | None]]] = {}
        self._heights: dict[tuple[FieldKey, int, int], dict[int, float]] = {}
        self._times: dict[tuple[FieldKey, int, int], dict[int, float]] = {}
        self._planes = 0

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
        found = self._find(values["URL"].replace("\\", "/").rpartition("/")[2])
        if found is None:
            return
        path, position = found
        said = (
            _minus_one(values.get("Row")),
            _minus_one(values.get("Col")),
            facts.whole(values.get("FieldID"), MAX_NUMBER),
            facts.whole(values.get("ChannelID"), MAX_CHANNEL),
            facts.whole(values.get("PlaneID"), MAX_NUMBER),
        )
        named = (position.row, position.column, position.field, position.channel, position.z)
        if any(a is not None and a != b for a, b in zip(said, named, strict=True)):
            index.wrong += 1
            index.first_wrong = index.first_wrong or values["URL"]
            return
        self._take_channel(position.channel)
        when = facts.timestamp(values.get("AbsTime"))
        if when is not None:
            index.taken_at[path] = when
        x, y, z = (self._length(axis) for axis in ("PositionX", "PositionY", "PositionZ"))
        if x is not None and y is not None:
            index.stage_um.setdefault(position.field_key, (-y, x))
        if self._planes < _PLANES_FOR_STEPS:
            self._planes += 1
            if z is not None:
                stack = (position.field_key, position.channel, position.time)
                self._heights.setdefault(stack, {}).setdefault(position.z, z)
            offset = facts.seconds(values.get("MeasurementTimeOffset"), self._units.get("MeasurementTimeOffset"))
            if offset is not None:
                series = (position.field_key, position.channel, position.z)
                self._times.setdefault(series, {}).setdefault(position.time, offset)

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
        index.z_step_um = next(filter(None, map(facts.step_between, self._heights.values())), None)
        index.time_step_s = next(filter(None, map(facts.step_between, self._times.values())), None)
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
