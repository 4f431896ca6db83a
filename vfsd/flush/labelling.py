"""Where label images go: into the `labels` of the image that they label, or into a plate of labels until that is stored.

A label lies inside its image (`<image>/labels/<name>`) as long as the store has that image, in the label's size, with the
label's time point and slice. Otherwise it lies in a plate of labels, `<directory>.labels.ome.zarr`. Whichever it is, its
place is settled anew by every flush: an image that comes takes its labels in, one that goes leaves them behind. Then
only rows change here, and their compressed chunks are copied (`shards`).

A label has no channel; where names give labels of several channels one name, all but the first have the channel's name
added. Works on the catalogue being built, in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import final

from vfsd.flush.group_table import Group, GroupTable, image_path
from vfsd.flush.groups import GroupDocument, field_key
from vfsd.flush.items import Item
from vfsd.flush.locations import labels_key
from vfsd.flush.placement import Placement, PlaneShape, plane_shape, positions_of_pages
from vfsd.plates import LabelImage, PlatePosition
from vfsd.plates.label_names import label_name
from vfsd.store.builder import CatalogueBuilder
from vfsd.store.catalogue import GroupRecord, PlaneRecord
from vfsd.store.geometry import GeometryError, label_geometry
from vfsd.store.pyramid import STRIDE
from vfsd.store.stored import labelled_plate, labels_location, shard_of_plane

# NGFF 0.5, "labels": the pixels of label images are whole numbers.
_WHOLE = ("int", "uint")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What label images of one array, in each field of a plate, have in common."""

    root: bytes
    plate: str
    instrument: str | None
    projection: bool
    name: str
    channel: int
    height: int
    width: int
    dtype: str


@dataclass(frozen=True, slots=True)
class _Wish:
    """A plane that is to have a place: of which file and page, and what it labels."""

    ino: int
    page: int
    image: str
    time: int
    z: int


def _kind_of(group: GroupRecord, document: GroupDocument) -> _Kind:
    geometry = document.geometry
    return _Kind(
        group.directory,
        (document.plate or "").casefold(),
        document.instrument,
        document.projection,
        document.label or "",
        document.channel or 0,
        geometry.height,
        geometry.width,
        geometry.dtype,
    )


@final
class Labelling:
    """Places label images, and moves those whose image came or went.

    Parameters
    ----------
    directory_name : callable
        What groups of a directory are named after.
    damaged_shards : collection of bytes
        Keys of shards that cannot be read: what lies there stays.
    """

    def __init__(
        self,
        groups: GroupTable,
        builder: CatalogueBuilder,
        placement: Placement,
        directory_name: Callable[[bytes], bytes],
        damaged_shards: Collection[bytes],
    ) -> None:
        self._groups = groups
        self._builder = builder
        self._catalogue = builder.read()
        self._placement = placement
        self._directory_name = directory_name
        self._damaged_shards = damaged_shards
        self._images: dict[int, set[str]] = {}

    # --- files

    def place(self, named: Mapping[bytes, LabelImage], waiting: Mapping[bytes, Item]) -> None:
        """Place what can be placed of these label images; of the others the notes say why not."""
        fitting: dict[_Kind, list[tuple[Item, LabelImage, list[PlatePosition]]]] = {}
        for path, label in sorted(named.items(), key=lambda one: one[0]):
            item = waiting.get(path)
            shape = None if item is None else plane_shape(item)
            if item is None or shape is None:
                continue
            positions = positions_of_pages(item, label.position)
            problem = self._problem(label, shape, positions)
            if problem is not None:
                item.notes.append(f"no label image of {label.image.decode('utf-8', 'backslashreplace')}: {problem}")
                continue
            kind = _Kind(
                label.plate.root,
                label.plate.key.casefold(),
                label.plate.instrument,
                label.position.projection,
                label.name,
                label.position.channel,
                shape.height,
                shape.width,
                shape.dtype,
            )
            fitting.setdefault(kind, []).append((item, label, positions))
        for kind, members in sorted(
            fitting.items(), key=lambda part: (part[0].name, part[0].channel, -len(part[1]), part[0].dtype)
        ):
            self._place_kind(kind, members)

    def _problem(self, label: LabelImage, shape: PlaneShape, positions: list[PlatePosition]) -> str | None:
        if shape.samples > 1 or shape.dtype.rstrip("0123456789") not in _WHOLE:
            return f"its pixels are no whole numbers ({shape.text()} {shape.dtype})"
        if not positions:
            return "its pages are not what its description says, or more than a plate can hold"
        if len({position.channel for position in positions}) > 1:
            return "its pages are several channels, and a label has none"
        sizes = self._image_sizes(label)
        if sizes and (shape.height, shape.width) not in sizes:
            stored = " or ".join(f"{height} x {width}" for height, width in sorted(sizes))
            return f"it has {shape.height} x {shape.width} pixels, and the image {stored}"
        return None

    def _image_sizes(self, label: LabelImage) -> set[tuple[int, int]]:
        """Heights and widths of the image in the store; none where it is not there."""
        plate, key = label.plate, label.position.field_key
        return {
            (document.geometry.height, document.geometry.width)
            for group, document in self._plates(plate.root, plate.key, plate.instrument, label.position.projection)
            if image_path(key, document.several_acquisitions) in self._images_of(group)
        }

    def _place_kind(self, kind: _Kind, members: list[tuple[Item, LabelImage, list[PlatePosition]]]) -> None:
        label, by_ino = members[0][1], {item.ino: item for item, _, _ in members}
        several = any(label.position.acquisition for _, label, _ in members)
        wishes = [
            _Wish(item.ino, page, image_path(at.field_key, several), at.time, at.z)
            for item, _, positions in members
            for page, at in enumerate(positions)
        ]
        try:
            places = self._homes(kind, wishes, lambda: self._new_document(kind, label, several))
        except GeometryError as error:
            for item in by_ino.values():
                item.notes.append(str(error))
            return
        by_file: dict[int, list[PlaneRecord]] = {}
        for place in places:
            by_file.setdefault(place.ino, []).append(place)
        for ino, planes in by_file.items():
            if any(map(self._taken, planes)):
                by_ino[ino].notes.append("another file is the label image of this name and place")
                continue
            self._placement.planes[ino] = planes
            self._builder.put_planes(planes)

    def _new_document(self, kind: _Kind, label: LabelImage, several: bool) -> GroupDocument:
        document = GroupDocument(
            label_geometry((1, 1), (kind.height, kind.width), kind.dtype),
            name=f"{label.plate.name} {kind.name}",
            plate=label.plate.key,
            instrument=kind.instrument,
            projection=kind.projection,
            several_acquisitions=several,
        )
        document.take_facts(label.plate)
        for key, middle in label.plate.facts.stage_um.items():
            document.take_stage(image_path(key, several), middle)
        return document

    # --- what is stored already

    def settle(self) -> None:
        """Give every stored label image the place that it has to have now, and its array the extents of its image's."""
        for group, document in list(self._groups.of_form("labels")):
            self._settle_group(group, document)
        for group, document in self._groups.of_form("labels"):
            plate = self._plate_around(group)
            if plate is not None:
                self._follow(group, document, plate[1])

    def _settle_group(self, group: GroupRecord, document: GroupDocument) -> None:
        kind, here = _kind_of(group, document), self._catalogue.images(group.id)
        fitting = [
            (plate, of_plate)
            for plate, of_plate in self._plates(kind.root, kind.plate, kind.instrument, kind.projection)
            if (of_plate.geometry.height, of_plate.geometry.width) == (kind.height, kind.width)
        ]
        plate = self._plate_around(group)
        if plate is not None:
            concerned = here - self._images_of(plate[0])
        else:
            several = [(self._images_of(one), of_one.several_acquisitions) for one, of_one in fitting]
            concerned = {
                image for image in here if any(image_path(field_key(image), of) in images for images, of in several)
            }
        if not concerned:
            return
        times, slices = document.numbers["t"], document.numbers["z"]
        planes = [
            plane
            for plane in self._catalogue.planes_of_group(group.id)
            # damaged rows stay as they are, for verification to say
            if plane.image in concerned and plane.index[0] < len(times) and plane.index[1] < len(slices)
        ]
        wishes = [
            _Wish(plane.ino, plane.page, plane.image, times[plane.index[0]], slices[plane.index[1]]) for plane in planes
        ]
        try:
            places = self._homes(kind, wishes, lambda: document)
        except GeometryError:
            return  # no array is as large as that: they stay
        for plane, place in zip(planes, places, strict=True):
            if place == plane or self._taken(place) or self._is_damaged(group, document, plane):
                continue
            self._builder.put_planes([place])
            self._placement.touched |= {plane.group, place.group}
            if plane.ino in self._placement.planes:
                self._placement.planes[plane.ino] = self._catalogue.planes(plane.ino)

    def _is_damaged(self, group: GroupRecord, document: GroupDocument, plane: PlaneRecord) -> bool:
        try:
            return shard_of_plane(group, document.geometry, plane) in self._damaged_shards
        except GeometryError:
            return True

    def _follow(self, group: GroupRecord, document: GroupDocument, plate: GroupDocument) -> None:
        """An array inside an image has its time points and slices, in the same order."""
        numbers = {axis: list(plate.numbers[axis]) for axis in ("t", "z")}
        known = document.numbers
        if known != numbers and all(numbers[axis][: len(known[axis])] == known[axis] for axis in numbers):
            document.geometry = document.geometry.grown_to([len(numbers["t"]), len(numbers["z"])])
            document.numbers = numbers
            self._groups.changed(group.id)

    # --- places

    def _homes(
        self, kind: _Kind, wishes: Iterable[_Wish], new_document: Callable[[], GroupDocument]
    ) -> list[PlaneRecord]:
        """Where planes of a kind have to be; GeometryError if no array is that large."""
        wishes = list(wishes)
        plates = [
            (group, document)
            for group, document in self._plates(kind.root, kind.plate, kind.instrument, kind.projection)
            if (document.geometry.height, document.geometry.width) == (kind.height, kind.width)
        ]
        homes: list[Group | None] = []
        for wish in wishes:
            key = field_key(wish.image)
            homes.append(
                next(
                    (
                        (group, document)
                        for group, document in plates
                        if image_path(key, document.several_acquisitions) in self._images_of(group)
                        and wish.time in document.numbers["t"]
                        and wish.z in document.numbers["z"]
                    ),
                    None,
                )
            )
        alone = [wish for wish, home in zip(wishes, homes, strict=True) if home is None]
        outside = self._outside(kind, alone, new_document) if alone else None
        inside: dict[int, Group] = {}
        places = []
        for wish, home in zip(wishes, homes, strict=True):
            if home is not None:
                if home[0].id not in inside:
                    inside[home[0].id] = self._inside(kind, home)
                target, numbers = inside[home[0].id], home[1].numbers
                several = home[1].several_acquisitions
            else:
                assert outside is not None
                target, numbers, several = outside, outside[1].numbers, outside[1].several_acquisitions
            index = (numbers["t"].index(wish.time), numbers["z"].index(wish.z), 0)
            image = image_path(field_key(wish.image), several)
            places.append(PlaneRecord(wish.ino, wish.page, target[0].id, image, index))
        return places

    def _inside(self, kind: _Kind, plate: Group) -> Group:
        """The group of labels inside the images of a plate."""
        taken: dict[str, int | None] = {}
        for group, document in self._groups.of_form("labels"):
            inside = labelled_plate(group.location)
            if inside is not None and inside[0] == plate[0].location:
                if _kind_of(group, document) == kind:
                    return group, document
                taken[inside[1]] = document.channel
        record, of_plate = plate
        channel = of_plate.channels.get(kind.channel, {}).get("name")
        added = f"_c{kind.channel}" if channel is None else "_" + label_name(channel.encode())
        of_channel = kind.name if taken.get(kind.name, kind.channel) == kind.channel else kind.name + added
        names = (of_channel, f"{of_channel}_{kind.dtype}")
        spare = (f"{kind.name}_{number}" for number in range(2, len(taken) + 3))
        name = next(one for one in (*names, *spare) if one not in taken)
        extents = (len(of_plate.numbers["t"]), len(of_plate.numbers["z"]))
        document = GroupDocument(
            label_geometry(extents, (kind.height, kind.width), kind.dtype),
            name=name,
            numbers={axis: list(of_plate.numbers[axis]) for axis in ("t", "z")},
            plate=of_plate.plate,
            instrument=kind.instrument,
            projection=kind.projection,
            several_acquisitions=of_plate.several_acquisitions,
            label=kind.name,
            channel=kind.channel,
            levels=of_plate.levels,  # NGFF 0.5, "labels": as many as the image has
            downscaling=STRIDE,
        )
        self._placement.touched.add(record.id)
        return self._groups.add_at(labels_location(record.location, name), "labels", kind.root, document)

    def _outside(self, kind: _Kind, wishes: list[_Wish], new_document: Callable[[], GroupDocument]) -> Group:
        """The plate of labels of this kind, with room for all of these."""
        numbers = {"t": {wish.time for wish in wishes}, "z": {wish.z for wish in wishes}}
        taken = set()
        for group, document in self._groups.of_form("labels"):
            if labelled_plate(group.location) is None:
                taken.add(group.location)
                if _kind_of(group, document) == kind:
                    document.make_room(numbers)
                    self._groups.changed(group.id)
                    return group, document
        source = new_document()
        added = GroupDocument(
            label_geometry((len(numbers["t"]), len(numbers["z"])), (kind.height, kind.width), kind.dtype),
            name=source.name,
            plate=source.plate,
            instrument=kind.instrument,
            projection=kind.projection,
            several_acquisitions=source.several_acquisitions,
            size=source.size,
            pixel_size_um=source.pixel_size_um,
            z_step_um=source.z_step_um,
            time_step_s=source.time_step_s,
            facts=source.facts,
            stage_um=dict(source.stage_um),
            label=kind.name,
            channel=kind.channel,
            downscaling=STRIDE,
        )
        added.make_room(numbers)
        directory = self._directory_name(kind.root)
        variants = (None, kind.dtype, f"c{kind.channel}_{kind.height}x{kind.width}_{kind.dtype}")
        wanted = [labels_key(directory, name=None, variant=None)]
        wanted += [labels_key(directory, name=kind.name, variant=variant) for variant in variants]
        location = next((key for key in wanted if key not in taken), wanted[-1])
        return self._groups.add(location, "labels", kind.root, added)

    def _plates(self, root: bytes, key: str, instrument: str | None, projection: bool) -> list[Group]:
        return [
            (group, document)
            for group, document in self._groups.of_form("plate")
            if group.directory == root
            and (document.plate or "").casefold() == key.casefold()
            and document.instrument == instrument
            and document.projection == projection
        ]

    def _plate_around(self, group: GroupRecord) -> Group | None:
        inside = labelled_plate(group.location)
        if inside is None:
            return None
        return next((plate for plate in self._groups.of_form("plate") if plate[0].location == inside[0]), None)

    def _images_of(self, plate: GroupRecord) -> set[str]:
        known = self._images.get(plate.id)
        if known is None:
            known = self._images[plate.id] = self._catalogue.images(plate.id)
        return known

    def _taken(self, place: PlaneRecord) -> bool:
        owner = self._catalogue.owner_of_place(place.group, place.image, place.index)
        return owner is not None and owner != place.ino
