"""The documents that make a folder OME-Zarr: plates, wells, fields, stacks (OME-NGFF 0.5).

Only metadata, as dictionaries for JSON: each function returns the attributes of one group, `group_document`
makes its `zarr.json` of them, `encode_document` the bytes. Facts of our own stand beside `ome` under the key
`vfsd`. They and every name here are for display: nothing is ever read back from them.

What readers make of these documents was tried with ome-zarr-models 1.7 and napari-ome-zarr 0.10. Section
names are those of the specification, https://ngff.openmicroscopy.org/0.5/.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vfsd.errors import shown_path
from vfsd.plates.model import MAX_COLUMNS, MAX_ROWS, PLATE_FORMATS, row_name
from vfsd.store.geometry import Document

NGFF_VERSION: Final = "0.5"

# Section "axes": the units that are valid there. napari hands them to pint, which fails on others.
_PREFIXES: Final = (
    "yocto zepto atto femto pico nano micro milli centi deci hecto kilo mega giga tera peta exa zetta yotta"
)
UNITS: Final[Mapping[str, frozenset[str]]] = {
    "space": frozenset(prefix + "meter" for prefix in ("", *_PREFIXES.split()))
    | {"angstrom", "foot", "inch", "mile", "parsec", "yard"},
    "time": frozenset(prefix + "second" for prefix in ("", *_PREFIXES.split())) | {"minute", "hour", "day"},
}
_AXIS_TYPES: Final = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}

# Most protocols begin with a nuclear stain, which is shown blue; the others are told apart best.
_CHANNEL_COLOURS: Final = ("0000FF", "00FF00", "FF0000", "FF00FF", "00FFFF", "FFFF00", "FFFFFF")
_SAMPLE_COLOURS: Final = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))

# The ways of `vfsd.store.pyramid`. Section "multiscales": fields that describe the downscaling and its parameters.
_DOWNSCALING: Final[Mapping[str, str]] = {
    "mean": "means of 2 x 2 pixels of the level before; whole numbers rounded half up; an odd last row or column left out",
    "stride": "every second pixel of every second row of the level before; an odd last row or column left out",
    "none": "the full size only",
}

_WINDOW_PIXELS: Final = 1 << 16  # of millions: they settle a percentile and cost nothing beside compression
_WINDOW_PERCENTILES: Final = (0.5, 99.8)  # without dust and hot pixels, with the nuclei


class NgffError(ValueError):
    """Values that no valid document can be made of."""


@dataclass(frozen=True, slots=True)
class Acquisition:
    """One pass over a plate: a number of its own from 0, a name, the most fields that it has in a well."""

    id: int
    name: str | None = None
    field_count: int | None = None


@dataclass(frozen=True, slots=True)
class WellImage:
    """One field of a well: `PlatePosition.field_path`, and its acquisition where there are several."""

    path: str
    acquisition: int | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """One array of an image: its path in the group, its scale and translation along each axis."""

    path: str
    scale: Sequence[float]
    translation: Sequence[float] | None = None


@dataclass(frozen=True, slots=True)
class DisplayWindow:
    """Intensities: bounds of the slider, and what is shown as black and as full colour."""

    min: float
    max: float
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class ChannelDisplay:
    """How a channel is shown first; without `colour` (RRGGBB) its place among the channels decides."""

    label: str
    window: DisplayWindow
    colour: str | None = None
    active: bool = True


def encode_document(document: Document) -> bytes:
    """The bytes of a `zarr.json`: ASCII, indented for people."""
    return json.dumps(document, indent=2, allow_nan=False).encode("ascii") + b"\n"


def group_document(attributes: Mapping[str, Any] | None = None) -> Document:
    """The `zarr.json` of a group; without attributes that of a row of wells, which has none."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}


def plate_layout(wells: Iterable[tuple[int, int]], size: tuple[int, int] | None = None) -> tuple[list[str], list[str]]:
    """Names of all rows and columns of the physical plate.

    Section "plate": each row and column in the physical plate MUST be defined, even without wells. So it is
    the vendor's size if there is one; else the smallest standard plate that has all the wells, since napari
    pays for each well without images as if it had one (it fills an array of zeros, and hashes it).

    Parameters
    ----------
    wells : iterable of (int, int)
        Row and column, from 0, of each well that has images.
    size : (int, int), optional
        Rows and columns as the instrument's metadata has them; ignored where a well lies outside, or where
        no plate is that large.

    Raises
    ------
    NgffError
        If a well lies outside the largest plate.
    """
    positions = list(wells)
    rows = 1 + max((row for row, _ in positions), default=0)
    columns = 1 + max((column for _, column in positions), default=0)
    if rows > MAX_ROWS or columns > MAX_COLUMNS:
        raise NgffError(f"no plate has {rows} rows and {columns} columns")
    stated = [size] if size is not None and size[0] <= MAX_ROWS and size[1] <= MAX_COLUMNS else []
    fitting = (plate for plate in (*stated, *PLATE_FORMATS) if rows <= plate[0] and columns <= plate[1])
    rows, columns = next(fitting)  # the last format is MAX_ROWS by MAX_COLUMNS
    return [row_name(row) for row in range(rows)], [str(column + 1) for column in range(columns)]


def plate_attributes(
    name: str,
    rows: Sequence[str],
    columns: Sequence[str],
    wells: Iterable[tuple[int, int]],
    field_count: int,
    acquisitions: Sequence[Acquisition] = (),
    facts: Mapping[str, Any] | None = None,
) -> Document:
    """Attributes of a plate's group (section "plate").

    Parameters
    ----------
    name : str
        The plate's name.
    rows, columns : sequence of str
        All that the plate has (`plate_layout`).
    wells : iterable of (int, int)
        Row and column, from 0, of each well that has images, and of no other: napari looks into the first
        one, and fails with KeyError if it is not there.
    field_count : int
        The most fields that any well has.
    acquisitions : sequence of Acquisition
        Empty where there is only one and nothing is known of it.
    facts : mapping, optional
        What else is to be seen in the document, under `vfsd`.

    Raises
    ------
    NgffError
        If a well lies outside the plate, or there is none.
    """
    positions = sorted(set(wells))
    if not positions or field_count < 1:
        raise NgffError("a plate without images has no document")
    for names in (rows, columns):
        if len(set(names)) != len(names) or not all(n.isascii() and n.isalnum() for n in names):
            raise NgffError(f"{list(names)!r} are no names of rows or columns")
    if not all(0 <= row < len(rows) and 0 <= column < len(columns) for row, column in positions):
        raise NgffError(f"a well lies outside a plate of {len(rows)} rows and {len(columns)} columns")
    plate: Document = {
        "version": NGFF_VERSION,
        "name": shown_path(name),
        "rows": [{"name": row} for row in rows],
        "columns": [{"name": column} for column in columns],
        "wells": [
            {"path": f"{rows[row]}/{columns[column]}", "rowIndex": row, "columnIndex": column}
            for row, column in positions
        ],
        "field_count": field_count,
    }
    if acquisitions:
        plate["acquisitions"] = [
            {
                "id": acquisition.id,
                "name": shown_path(acquisition.name or f"acquisition {acquisition.id}"),
                "maximumfieldcount": acquisition.field_count or field_count,
            }
            for acquisition in acquisitions
        ]
    return _attributes({"plate": plate}, facts)


def well_attributes(images: Sequence[WellImage], facts: Mapping[str, Any] | None = None) -> Document:
    """Attributes of a well's group (section "well"); its images in the order in which they are to be offered.

    Raises
    ------
    NgffError
        If there is none, two have one path, or a path is not of letters and digits.
    """
    paths = [image.path for image in images]
    if not paths or len(set(paths)) != len(paths) or not all(p.isascii() and p.isalnum() for p in paths):
        raise NgffError(f"{paths!r} are no paths of a well's images")
    documents = [
        {"path": image.path, **({} if image.acquisition is None else {"acquisition": image.acquisition})}
        for image in images
    ]
    return _attributes({"well": {"version": NGFF_VERSION, "images": documents}}, facts)


def axis_documents(axes: Sequence[str], units: Mapping[str, str] | None = None) -> list[Document]:
    """The axes of an image (sections "axes" and "multiscales").

    t, c, z, y, x have the types of that name. `file` and `page` are no dimension that NGFF knows: they get a
    custom type, their own name, which every reader tried shows as a slider with the axis' name. But besides
    time and space only *one* further axis is allowed, "type:channel or a null / custom type", and the samples
    of an RGB pixel need that one, since viewers show colours by it. `file` and `page` then have the type
    "time": first in order, a sequence that is looked at one by one, never a volume to be rendered (which
    "space" would mean), and without a unit, since no time is meant.

    Raises
    ------
    NgffError
        If a unit is not one of `UNITS` for the axis' type.
    """
    documents: list[Document] = []
    for name in axes:
        kind = _AXIS_TYPES.get(name, "time" if "c" in axes else name)
        document: Document = {"name": name, "type": kind}
        unit = (units or {}).get(name)
        if unit is not None:
            if name not in _AXIS_TYPES or unit not in UNITS.get(kind, frozenset()):
                raise NgffError(f"{unit!r} is no unit of an axis {name!r}")
            document["unit"] = unit
        documents.append(document)
    return documents


def multiscale_attributes(
    name: str,
    axes: Sequence[str],
    levels: Sequence[Level],
    *,
    units: Mapping[str, str] | None = None,
    channels: Sequence[ChannelDisplay] = (),
    downscaling: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Document:
    """Attributes of an image's group (sections "multiscales" and "omero").

    Parameters
    ----------
    name : str
        The image's name; viewers prefix the channels' with it.
    axes : sequence of str
        `ArrayGeometry.axes`: readers refuse an image whose axes differ from its arrays' `dimension_names`.
    levels : sequence of Level
        Arrays from the largest to the smallest.
    units : mapping of str to str, optional
        Unit by axis; an axis whose unit is not known has none, and scale 1.
    channels : sequence of ChannelDisplay
        One for each index of axis c, or none at all: viewers then choose.
    downscaling : str, optional
        How the levels after the first were made; of the ways of `pyramid`, and of "none", the document says in a sentence
        what they do. The strict schema of an image asks for both.
    facts : mapping, optional
        What else is to be seen in the document, under `vfsd`.

    Raises
    ------
    NgffError
        If a scale is not positive or does not fit the axes, or channels are given for an image without axis
        c.
    """
    if not levels:
        raise NgffError("an image has at least one level")
    datasets = []
    for level in levels:
        scale = [float(factor) for factor in level.scale]
        if len(scale) != len(axes) or not all(math.isfinite(factor) and factor > 0 for factor in scale):
            raise NgffError(f"{scale} is no scale of axes {tuple(axes)}")
        transformations: list[Document] = [{"type": "scale", "scale": scale}]
        if level.translation is not None:
            translation = [float(offset) for offset in level.translation]
            if len(translation) != len(axes) or not all(map(math.isfinite, translation)):
                raise NgffError(f"{translation} is no translation of axes {tuple(axes)}")
            transformations.append({"type": "translation", "translation": translation})
        datasets.append({"path": level.path, "coordinateTransformations": transformations})
    multiscale: Document = {
        "name": shown_path(name),
        "axes": axis_documents(axes, units),
        "datasets": datasets,
    }
    if downscaling is not None:
        multiscale["type"] = downscaling
        if downscaling in _DOWNSCALING:
            multiscale["metadata"] = {"description": _DOWNSCALING[downscaling]}
    ome: Document = {"multiscales": [multiscale]}
    if channels:
        # "omero": an array matching the c dimension. napari would colour a whole stack like its first
        # channel.
        if "c" not in axes:
            raise NgffError("an image without an axis c has no channels")
        ome["omero"] = {
            "channels": [_channel_document(place, channels) for place in range(len(channels))],
            "rdefs": {"defaultT": 0, "defaultZ": 0, "model": "color"},
        }
    return _attributes(ome, facts)


def label_attributes(image: Document, source: str | None = "../../") -> Document:
    """The attributes of an image (`multiscale_attributes`) as those of a label image (section "labels").

    `source` is the path to the image that it labels; None where that is not in the store.
    """
    label: Document = {"version": NGFF_VERSION}
    if source is not None:
        label["source"] = {"image": source}
    return {**image, "ome": {**image["ome"], "image-label": label}}


def labels_attributes(paths: Sequence[str]) -> Document:
    """Attributes of the group `labels` of an image: the paths of its label images (section "labels")."""
    return _attributes({"labels": list(paths)}, None)


def sample_channels(samples: int, dtype: np.dtype[Any] | str) -> list[ChannelDisplay]:
    """How the samples of an RGB pixel are shown: red, green, blue over the whole range; others are off."""
    kind = np.dtype(dtype)
    low, high = (0.0, 1.0) if kind.kind == "f" else _integer_range(kind)
    window = DisplayWindow(low, high, max(low, 0.0), high)
    named = _SAMPLE_COLOURS if samples >= len(_SAMPLE_COLOURS) else ()
    shown = [ChannelDisplay(label, window, colour) for label, colour in named]
    others = range(len(named), samples)
    return shown + [ChannelDisplay(f"sample {n + 1}", window, "FFFFFF", not named) for n in others]


def display_window(pixels: NDArray[Any]) -> DisplayWindow:
    """Where to begin showing a channel, from one of its planes: a low and a high percentile of its pixels."""
    flat = pixels.reshape(-1)
    some = flat[:: max(1, flat.size // _WINDOW_PIXELS)]
    some = some[np.isfinite(some)].astype(np.float64)
    if not some.size:
        return DisplayWindow(0.0, 1.0, 0.0, 1.0)
    # "nearest": no arithmetic that could overflow
    start, end = (float(value) for value in np.percentile(some, _WINDOW_PERCENTILES, method="nearest"))
    low, high = float(some.min()), float(some.max())
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2:
        low, high = _integer_range(pixels.dtype)
    if start == end:  # nothing but one value: a little room towards zero, which never overflows
        room = max(1.0, abs(start) / 2**20)
        start, end = (start - room, end) if start > 0 else (start, end + room)
    return DisplayWindow(min(low, start), max(high, end), start, end)


def _integer_range(kind: np.dtype[Any]) -> tuple[float, float]:
    limits = np.iinfo(kind)
    return float(limits.min), float(limits.max)


def _channel_document(place: int, channels: Sequence[ChannelDisplay]) -> Document:
    channel = channels[place]
    only = len(channels) == 1
    colour = channel.colour or ("FFFFFF" if only else _CHANNEL_COLOURS[place % len(_CHANNEL_COLOURS)])
    if len(colour) != 6 or not all(digit in "0123456789abcdefABCDEF" for digit in colour):
        raise NgffError(f"{colour!r} is no colour RRGGBB")
    window = channel.window
    if not all(map(math.isfinite, (window.min, window.max, window.start, window.end))):
        raise NgffError(f"{window} is no window of intensities")
    return {
        "label": shown_path(channel.label),
        "color": colour,
        "active": channel.active,
        "window": {"min": window.min, "max": window.max, "start": window.start, "end": window.end},
    }


def _attributes(ome: Document, facts: Mapping[str, Any] | None) -> Document:
    attributes: Document = {"ome": {"version": NGFF_VERSION, **ome}}
    if facts:
        attributes["vfsd"] = _displayable(facts)
    return attributes


def _displayable(value: Any) -> Any:
    """A fact as JSON that strict readers take: no lone surrogates (names that are no UTF-8), no NaN."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (str, bytes)):
        return shown_path(value)
    if isinstance(value, Mapping):
        return {shown_path(key): _displayable(part) for key, part in value.items()}
    if isinstance(value, Sequence):
        return [_displayable(part) for part in value]
    raise NgffError(f"a {type(value).__name__} cannot be shown in a document")
