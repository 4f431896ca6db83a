"""The document of an image group (a row of the catalogue), and the `zarr.json` objects that it gives.

A group's document holds all that its metadata is made of: the geometry of its arrays, the vendor's numbers along each
axis, and facts for display. Everything in `zarr.json` files follows from it and from the planes' places, so metadata is
made anew whenever a group changes, and never read back.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice, product
from math import prod
from typing import Any, final

from vfsd.errors import shown_path
from vfsd.plates import (
    ChannelFacts,
    FieldKey,
    Plate,
    channel_from_description,
    colour_of_light,
    pixel_size_from_description,
)
from vfsd.plates.model import row_index
from vfsd.store.catalogue import Catalogue, GroupRecord
from vfsd.store.geometry import ArrayGeometry
from vfsd.store.ngff import (
    Acquisition,
    ChannelDisplay,
    DisplayWindow,
    Level,
    WellImage,
    encode_document,
    group_document,
    label_attributes,
    labels_attributes,
    multiscale_attributes,
    plate_attributes,
    plate_layout,
    sample_channels,
    well_attributes,
)
from vfsd.store.pyramid import MEAN, level_geometry, level_of
from vfsd.store.stored import array_key, image_key

MICROMETER = "micrometer"
SECOND = "second"

# A field that lacks more planes than these is one that has hardly begun; `missing_planes` has their number.
MOST_MISSING_LISTED = 1000


@final
@dataclass(slots=True)
class GroupDocument:
    """See the module.

    Attributes
    ----------
    numbers : dict
        For each leading axis of a plate the vendor's numbers, in the order of the array; they are only ever appended to.
    plate : str or None
        The vendor's name of the plate, by which it is found again; None where there is none.
    channels : dict
        For each channel number: name, colour, wavelengths, exposure, and the window to show it with.
    time_step_s : float or None
        Time between two time points.
    facts : dict
        What else the vendor says, for display.
    stage_um : dict
        Image → where its middle is on the stage, in µm (y, x).
    label, channel : str or None, int or None
        Of label images: the name that files call them by. Of these and of colour images, which have no channels along an
        axis: the channel that names give.
    taken_at : dict
        Image → place of a plane in its array, as text with points → when it was taken, as the vendor writes it.
    levels, downscaling :
        How many arrays each image has below the full-size one, and how they are made: settled when the group is made.
    """

    geometry: ArrayGeometry
    name: str
    numbers: dict[str, list[int]] = field(default_factory=dict)
    plate: str | None = None
    instrument: str | None = None
    projection: bool = False
    several_acquisitions: bool = False
    size: tuple[int, int] | None = None
    pixel_size_um: tuple[float, float] | None = None
    z_step_um: float | None = None
    channels: dict[int, dict[str, Any]] = field(default_factory=dict)
    time_step_s: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    stage_um: dict[str, list[float]] = field(default_factory=dict)
    levels: int = 0
    downscaling: str = MEAN
    label: str | None = None
    channel: int | None = None
    taken_at: dict[str, dict[str, str]] = field(default_factory=dict)

    def encode(self) -> str:
        """JSON for the catalogue."""
        values = asdict(replace(self, geometry=None))  # type: ignore[arg-type]  # replaced by its document below
        del values["geometry"]
        values["channels"] = {str(number): facts for number, facts in self.channels.items()}
        return json.dumps({"array": self.geometry.document(), **values})

    @classmethod
    def decode(cls, text: str) -> GroupDocument:
        """What `encode` wrote."""
        values = json.loads(text)
        geometry = ArrayGeometry.from_document(values.pop("array"))
        values["channels"] = {int(number): facts for number, facts in values["channels"].items()}
        for pair in ("size", "pixel_size_um"):
            values[pair] = None if values[pair] is None else tuple(values[pair])
        return cls(geometry, **values)

    def take_facts(self, plate: Plate) -> None:
        """Facts of a plate that are not known yet."""
        facts = plate.facts
        if facts.rows is not None and facts.columns is not None:
            self.size = (facts.rows, facts.columns)
        self.pixel_size_um = self.pixel_size_um or facts.pixel_size_um
        self.z_step_um = self.z_step_um or facts.z_step_um
        self.time_step_s = self.time_step_s or facts.time_step_s
        said = {"name": facts.name, "started": facts.started}
        self.facts |= {what: value for what, value in said.items() if value is not None}
        for channel in facts.channels:
            self.take_channel(channel)

    def take_channel(self, channel: ChannelFacts) -> None:
        """Facts of a channel that are not known yet."""
        known = self.channels.setdefault(channel.number, {})
        for fact in ("name", "colour", "excitation_nm", "emission_nm", "exposure_ms"):
            value = known.get(fact)
            known[fact] = getattr(channel, fact) if value is None else value

    def take_description(self, number: int, description: bytes) -> None:
        """Facts that stand in the description of one of a channel's images and are not known yet."""
        self.pixel_size_um = self.pixel_size_um or pixel_size_from_description(description)
        self.take_channel(channel_from_description(number, description))

    def take_stage(self, image: str, place: tuple[float, float] | None) -> None:
        """Where an image's middle is, if that is not known yet."""
        if place is not None:
            self.stage_um.setdefault(image, list(place))

    def take_moment(self, image: str, index: tuple[int, ...], moment: str | None) -> None:
        """When a plane was taken; what was said of an earlier one at its place goes."""
        place = ".".join(map(str, index))
        if moment is not None:
            self.taken_at.setdefault(image, {})[place] = moment
        elif image in self.taken_at:
            self.taken_at[image].pop(place, None)

    def make_room(self, numbers: Mapping[str, Collection[int]]) -> None:
        """Make room for these numbers along each axis; the array grows where they are new.

        Raises
        ------
        GeometryError
            No array is as large as that; nothing was changed.
        """
        known = {axis: self.numbers.get(axis, []) for axis in numbers}
        grown = {axis: have + sorted(set(numbers[axis]) - set(have)) for axis, have in known.items()}
        self.geometry = self.geometry.grown_to([len(grown[axis]) for axis in self.geometry.leading])
        self.numbers = grown

    def index(self, time: int, channel: int, z: int) -> tuple[int, int, int]:
        """Place of a plane in a field's array."""
        numbers = {"t": time, "c": channel, "z": z}
        t, c, *rest = (self.numbers[axis].index(numbers[axis]) for axis in self.geometry.leading)
        return (t, c, rest[0] if rest else 0)

    def needs_window(self, channel: int) -> bool:
        """Whether nobody has looked yet how bright this channel is."""
        return "window" not in self.channels.get(channel, {})

    def set_window(self, channel: int, window: DisplayWindow) -> None:
        """How to show a channel."""
        self.channels.setdefault(channel, {})["window"] = asdict(window)


def group_objects(
    catalogue: Catalogue, group: GroupRecord, labels: Sequence[GroupRecord] = ()
) -> Iterator[tuple[bytes, bytes]]:
    """(key, bytes) of every `zarr.json` of a group, from the group's document and its planes' places.

    `labels` are the groups of labels inside the images of a plate; their documents are given as well.
    """
    document = GroupDocument.decode(group.document)
    if group.form in ("plate", "labels"):
        yield from _plate_objects(group, document, _present(catalogue, group, document))
        yield from _label_objects(catalogue, document, labels)
    else:
        yield (
            group.location + b"/zarr.json",
            encode_document(group_document(_sequence_attributes(catalogue, group, document))),
        )
        yield from _array_objects(group, document, "")


def _present(catalogue: Catalogue, group: GroupRecord, document: GroupDocument) -> dict[str, set[tuple[int, ...]]]:
    """The planes of each image of a group, by their index."""
    present: dict[str, set[tuple[int, ...]]] = {}
    axes = len(document.geometry.leading)
    for plane in catalogue.planes_of_group(group.id):
        present.setdefault(plane.image, set()).add(plane.index[:axes])
    return present


def _label_objects(
    catalogue: Catalogue, plate: GroupDocument, labels: Sequence[GroupRecord]
) -> Iterator[tuple[bytes, bytes]]:
    """What lies in `labels` of the images of a plate (NGFF 0.5, "labels")."""
    names: dict[bytes, list[str]] = {}
    for group in sorted(labels, key=lambda group: group.location):
        document = GroupDocument.decode(group.document)
        placed = replace(
            document,
            size=plate.size,
            pixel_size_um=plate.pixel_size_um,
            z_step_um=plate.z_step_um,
            time_step_s=plate.time_step_s,
            stage_um=plate.stage_um,
        )
        for image, present in _present(catalogue, group, document).items():
            key = image_key(group, image)
            folder, _, name = key.rpartition(b"/")
            names.setdefault(folder, []).append(name.decode())
            attributes = label_attributes(_field_attributes(placed, image, present, title=document.name))
            yield key + b"/zarr.json", encode_document(group_document(attributes))
            yield from _array_objects(group, document, image)
    for folder, found in names.items():
        yield folder + b"/zarr.json", encode_document(group_document(labels_attributes(found)))


def _array_objects(group: GroupRecord, document: GroupDocument, image: str) -> Iterator[tuple[bytes, bytes]]:
    for level in range(document.levels + 1):
        geometry = level_geometry(document.geometry, level)
        yield array_key(group, image, level) + b"/zarr.json", encode_document(geometry.document())


def _levels(document: GroupDocument, scale: Sequence[float], translation: Sequence[float] | None = None) -> list[Level]:
    return [level_of(number, scale, translation) for number in range(document.levels + 1)]


def _plate_objects(
    group: GroupRecord, document: GroupDocument, present: Mapping[str, Collection[tuple[int, ...]]]
) -> Iterator[tuple[bytes, bytes]]:
    wells: dict[tuple[int, int], list[str]] = {}
    for image in sorted(present):
        row, column, field_path = image.split("/")
        wells.setdefault((row_index(row), int(column) - 1), []).append(field_path)
    row_names, column_names = plate_layout(wells, document.size)
    facts: dict[str, Any] = {
        "instrument": document.instrument,
        "projection": document.projection,
        "numbers": document.numbers,
    }
    facts["acquired"] = document.facts
    facts |= {"label": document.label} if group.form == "labels" else {"channels": _channel_facts(document)}
    most = max(len(fields) for fields in wells.values())
    several = document.several_acquisitions or any("f" in path for fields in wells.values() for path in fields)
    acquisitions = []
    if several:
        numbers = {_acquisition(field_path) for fields in wells.values() for field_path in fields}
        acquisitions = [Acquisition(number) for number in sorted(numbers)]
    attributes = plate_attributes(document.name, row_names, column_names, wells, most, acquisitions, facts)
    yield group.location + b"/zarr.json", encode_document(group_document(attributes))
    for row_number in sorted({row for row, _ in wells}):
        key = group.location + f"/{row_names[row_number]}/zarr.json".encode()
        yield key, encode_document(group_document())
    for (row_number, column_number), fields in wells.items():
        well = f"{row_names[row_number]}/{column_names[column_number]}"
        ordered = sorted(fields, key=_field_order)
        listed = [WellImage(path, _acquisition(path) if several else None) for path in ordered]
        key = group.location + f"/{well}/zarr.json".encode()
        yield key, encode_document(group_document(well_attributes(listed)))
        for path in fields:
            image = f"{well}/{path}"
            key = group.location + f"/{image}/zarr.json".encode()
            shown = _field_attributes(document, image, present[image])
            shown = shown if group.form == "plate" else label_attributes(shown, None)
            yield key, encode_document(group_document(shown))
            yield from _array_objects(group, document, image)


def _acquisition(field_path: str) -> int:
    """A field that was stored before a second acquisition was known of has no number in its path: it is the first's."""
    return int(field_path[1:].split("f")[0]) if field_path.startswith("a") else 0


def _field_order(path: str) -> tuple[int, int]:
    return _acquisition(path), int(path.split("f")[-1])


def field_key(image: str) -> FieldKey:
    """The field that lies at a path of a plate's group."""
    row, column, field_path = image.split("/")
    return _acquisition(field_path), row_index(row), int(column) - 1, int(field_path.split("f")[-1])


def _field_attributes(
    document: GroupDocument, image: str, present: Collection[tuple[int, ...]], title: str | None = None
) -> dict[str, Any]:
    y, x = document.pixel_size_um or (1.0, 1.0)
    scale = {"t": document.time_step_s or 1.0, "c": 1.0, "z": document.z_step_um or 1.0, "y": y, "x": x}
    units: dict[str, str] = {}
    if document.pixel_size_um is not None:
        units |= {"y": MICROMETER, "x": MICROMETER}
    if document.z_step_um is not None:
        units["z"] = MICROMETER
    if document.time_step_s is not None:
        units["t"] = SECOND
    row, column, field_path = image.split("/")
    axes = document.geometry.axes
    return multiscale_attributes(
        title or f"{document.name} {row}{int(column):02d} field {field_path}",
        axes,
        _levels(document, [scale[axis] for axis in axes], _translation(document, image)),
        units=units,
        channels=_channels(document),
        downscaling=document.downscaling if document.levels else "none",
        facts=_missing(document, present) | _acquired(document, image, present),
    )


def _acquired(document: GroupDocument, image: str, present: Collection[tuple[int, ...]]) -> dict[str, Any]:
    """Where the stage was, and when each plane was taken, by the vendor's numbers."""
    facts: dict[str, Any] = {}
    middle = document.stage_um.get(image)
    if middle is not None and document.label is None:
        facts["stage_um"] = {"y": middle[0], "x": middle[1]}
    axes = document.geometry.leading
    known = document.taken_at.get(image, {})
    moments = [(index, known.get(".".join(map(str, (*index, 0, 0)[:3])))) for index in sorted(present)] if known else []
    taken = [
        {**{axis: document.numbers[axis][at] for axis, at in zip(axes, index, strict=True)}, "at": moment}
        for index, moment in moments
        if moment is not None
    ]
    return facts | ({"taken_at": taken} if taken else {})


def _missing(document: GroupDocument, present: Collection[tuple[int, ...]]) -> dict[str, Any]:
    """The planes that the array has room for and that are absent, by the vendor's numbers: they read as zeros."""
    absent = prod(document.geometry.extents) - len(present)
    if absent <= 0:
        return {}
    axes = document.geometry.leading
    numbers = [document.numbers[axis] for axis in axes]
    places = (place for place in product(*(range(len(of_axis)) for of_axis in numbers)) if place not in present)
    listed = [
        {axis: of_axis[at] for axis, of_axis, at in zip(axes, numbers, place, strict=True)}
        for place in islice(places, MOST_MISSING_LISTED)
    ]
    return {"missing": listed, "missing_planes": absent}


def _translation(document: GroupDocument, image: str) -> tuple[float, ...] | None:
    """Where the first pixel of an image is, from the stage's position of its middle."""
    middle, size = document.stage_um.get(image), document.pixel_size_um
    if middle is None or size is None:
        return None
    height, width = document.geometry.height, document.geometry.width
    y, x = middle[0] - (height - 1) / 2 * size[0], middle[1] - (width - 1) / 2 * size[1]
    return (*(0.0 for _ in document.geometry.axes[2:]), round(y, 6), round(x, 6))


def _channel_facts(document: GroupDocument) -> list[dict[str, Any]]:
    shown = []
    for number in document.numbers.get("c", [document.channel or 0]):
        known = document.channels.get(number, {})
        facts = ("name", "excitation_nm", "emission_nm", "exposure_ms")
        shown.append({"number": number, **{fact: known[fact] for fact in facts if known.get(fact) is not None}})
    return shown


def _channels(document: GroupDocument) -> list[ChannelDisplay]:
    if document.geometry.samples > 1:
        return sample_channels(document.geometry.samples, document.geometry.pixel_type)
    shown = []
    for number in document.numbers.get("c", []):
        facts = document.channels.get(number, {})
        window = facts.get("window")
        if window is None:
            return []  # without a window for each channel viewers choose better themselves
        label = facts.get("name") or f"w{number}"
        colour = facts.get("colour") or colour_of_light(facts.get("emission_nm"), facts.get("excitation_nm"))
        shown.append(ChannelDisplay(label, DisplayWindow(**window), colour))
    return shown


def _sequence_attributes(catalogue: Catalogue, group: GroupRecord, document: GroupDocument) -> dict[str, Any]:
    """Attributes of a stack or of a multi-page file; for display they name the files along the axis."""
    geometry = document.geometry
    facts: dict[str, Any] = {}
    if group.form == "stack":
        names: list[str | None] = [None] * geometry.extents[0]
        for plane in catalogue.planes_of_group(group.id):
            links = catalogue.names_of(plane.ino)
            names[plane.index[0]] = shown_path(links[0][1]) if links else None
        facts["files"] = names
    channels = sample_channels(geometry.samples, geometry.pixel_type) if geometry.samples > 1 else []
    scale = [1.0] * len(geometry.axes)
    downscaling = document.downscaling if document.levels else "none"
    return multiscale_attributes(
        document.name, geometry.axes, _levels(document, scale), channels=channels, downscaling=downscaling, facts=facts
    )
