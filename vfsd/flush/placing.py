"""Where each item goes: into a plate, a stack, an image of its own, or among the plain files.

The rules (DESIGN's, in the order of trying):

1. An image of a recognised plate goes to its position in the plate's group of that plane shape and dtype; the first
   such group of a plate carries the directory's name, others name shape and dtype; colour images have a group for each
   channel that their names give, since their samples are its channels. The pages of a file of several are
   slices, or what its description says. Of two files for one position the second stays a plain file. A compressed image
   keeps its bytes as a plain file, and its pixels go to the position too.
2. A label image of such an image goes to its `labels`, or waits for it in a plate of labels (`labelling`).
3. A TIFF of several equal pages with at least `FEWEST_PLANES` planes and `FEWEST_BYTES` is an image of its own.
4. Other TIFFs of one plane go into the stack of their directory, shape and dtype, if there is one or they make one.
5. Everything else is a plain file.

Works on the catalogue being built, in a thread; never touches the store's objects.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import final

from vfsd.errors import shown_path
from vfsd.flush.group_table import Group, GroupTable, image_path
from vfsd.flush.groups import GroupDocument
from vfsd.flush.items import Item
from vfsd.flush.labelling import Labelling
from vfsd.flush.locations import directory_name, pages_key, plate_key, stack_key
from vfsd.flush.placement import Placement, PlaneShape, plane_shape, positions_of_pages
from vfsd.flush.sampling import choose_parameters, sample_of
from vfsd.plates import Plate, PlateFormats, PlatePosition, ReadFile, find_labels, recognise_plates
from vfsd.store.builder import CatalogueBuilder
from vfsd.store.catalogue import GroupRecord, PlaneRecord
from vfsd.store.geometry import ArrayGeometry, GeometryError, image_geometry, plate_geometry, stack_geometry

log = logging.getLogger("vfsd.flush")

# Below these a stack costs more files and metadata than it saves.
FEWEST_PLANES = 16
FEWEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the images of one group of a plate have in common; `channel`: of colour images, which have none as an axis."""

    shape: PlaneShape
    projection: bool
    channel: int | None


def _tell(plate: Plate, waiting: Mapping[bytes, Item]) -> None:
    """Say in the log what is odd about a plate, and in the receipt why an image is none of it."""
    for note in plate.notes:
        log.warning("plate=%s %s", shown_path(plate.name), shown_path(note))
    for path, why in plate.others.items():
        item = waiting.get(path)
        if item is not None and (item.layout is not None or item.decoded is not None):
            item.notes.append(f"not an image of the plate: {why}")


@final
class Placer:
    """Places items into the groups of a catalogue that is being built.

    Parameters
    ----------
    plate_name : str
        What the tree's root is called.
    read_file : callable
        Contents of a path of the tree, for the vendor's metadata.
    force_plain : collection of int
        Inodes that must not be stored as planes, because that failed.
    formats : PlateFormats, optional
        What the names of plates may mean; all that is known.
    levels : int, optional
        How many levels the images of new groups get below their full size (`pyramid.level_count`).
    archive : bool
        New arrays are compressed for few bytes rather than for speed.
    """

    def __init__(
        self,
        builder: CatalogueBuilder,
        plate_name: str,
        read_file: ReadFile,
        force_plain: Mapping[int, str],
        formats: PlateFormats | None = None,
        *,
        levels: int | None = None,
        archive: bool = False,
        damaged_shards: Collection[bytes] = (),
    ) -> None:
        self._formats = formats
        self._builder = builder
        self._catalogue = builder.read()
        self._plate_name = plate_name
        self._read_file = read_file
        self._force_plain = force_plain
        self._groups = GroupTable(builder, levels)
        self._archive = archive
        self._placement = Placement()
        self._labelling = Labelling(self._groups, builder, self._placement, self._directory, damaged_shards)

    def place(self, items: Iterable[Item]) -> Placement:
        """Place the items."""
        waiting = {item.path: item for item in items}
        named = find_labels(waiting, self._read_file, directory_name=self._plate_name, formats=self._formats)
        images = waiting.keys() - named.keys()
        plates = recognise_plates(images, self._read_file, directory_name=self._plate_name, formats=self._formats)
        for plate in plates:
            _tell(plate, waiting)
            self._place_plate(plate, waiting)
        self._labelling.place(
            named, {path: item for path, item in waiting.items() if item.ino not in self._force_plain}
        )
        self._labelling.settle()
        for item in [
            item for item in waiting.values() if item.ino in self._placement.planes and item.layout is not None
        ]:
            del waiting[item.path]
        self._place_pages(waiting)
        self._place_stacks(waiting)
        for item in waiting.values():
            self._placement.plain[item.ino] = item
        self._groups.save()
        for planes in self._placement.planes.values():
            self._builder.put_planes(planes)
        return self._placement

    # --- plates

    def _place_plate(self, plate: Plate, waiting: dict[bytes, Item]) -> None:
        fitting: dict[_Kind, list[tuple[Item, list[PlatePosition]]]] = {}
        for path, position in plate.images.items():
            item = waiting.get(path)
            if item is None or item.ino in self._force_plain:
                continue
            shape = plane_shape(item)
            if shape is None:
                continue
            positions = positions_of_pages(item, position)
            if not positions:
                item.notes.append("its pages are not what its description says, or more than a plate can hold")
                continue
            colour = shape.samples > 1
            if colour and len({one.channel for one in positions}) > 1:
                item.notes.append("its pages are several channels, and its pixels colours")
                continue
            kind = _Kind(shape, position.projection, position.channel if colour else None)
            fitting.setdefault(kind, []).append((item, positions))
        # the shape that most files have gets the plain name, whatever the order of the listing
        for kind in sorted(fitting, key=lambda kind: (-len(fitting[kind]), kind.shape.text(), kind.channel or 0)):
            self._place_in_group(plate, kind, fitting[kind], waiting)

    def _place_in_group(
        self,
        plate: Plate,
        kind: _Kind,
        members: list[tuple[Item, list[PlatePosition]]],
        waiting: dict[bytes, Item],
    ) -> None:
        positions = [position for _, of_item in members for position in of_item]
        numbers = {"t": {position.time for position in positions}, "z": {position.z for position in positions}}
        if kind.channel is None:
            numbers["c"] = {position.channel for position in positions}
        try:
            group, document = self._plate_group(plate, kind, numbers, [item for item, _ in members])
            document.make_room(numbers)
        except GeometryError as error:
            for item, _ in members:
                item.notes.append(str(error))
            return
        document.take_facts(plate)
        self._groups.changed(group.id)
        several = document.several_acquisitions
        for key, middle in plate.facts.stage_um.items():  # also of fields that were stored before it was known
            document.take_stage(image_path(key, several), middle)
        for item, of_item in members:
            image = image_path(of_item[0].field_key, several)
            places = [
                PlaneRecord(item.ino, page, group.id, image, document.index(at.time, at.channel, at.z))
                for page, at in enumerate(of_item)
            ]
            if any(map(self._taken, places)):
                item.notes.append("another file has this position of the plate")
                continue
            self._placement.planes[item.ino] = places
            self._builder.put_planes(places)
            document.take_moment(image, places[0].index, plate.facts.taken_at.get(item.path))
            if item.layout is not None:
                del waiting[item.path]
            if image not in document.stage_um:
                self._placement.unplaced.setdefault((group.id, image), item)
            for page, at in enumerate(of_item):
                if document.needs_window(at.channel):
                    self._placement.windows.setdefault((group.id, at.channel), (item, page))

    def _plate_group(self, plate: Plate, kind: _Kind, numbers: Mapping[str, set[int]], items: list[Item]) -> Group:
        mine = [
            (group, document)
            for group, document in self._groups.of_form("plate")
            if group.directory == plate.root
            and (document.plate or "").casefold() == plate.key
            and document.instrument == plate.instrument
            and document.projection == kind.projection
        ]
        shape = kind.shape
        for group, document in mine:
            geometry = document.geometry
            if PlaneShape.of(geometry) == shape and document.channel == kind.channel:
                return group, document
        size, times, slices = (shape.height, shape.width), len(numbers["t"]), len(numbers["z"])
        if kind.channel is None:
            geometry = plate_geometry((times, len(numbers["c"]), slices), size, shape.dtype)
        else:
            leading = [("t", times), ("z", slices)]
            geometry = image_geometry(
                leading, size, shape.dtype, samples=shape.samples, planar=shape.planar, shard_extents=(1, slices)
            )
        geometry = self._compressed(geometry, items)
        label = plate.root.rpartition(b"/")[2].decode("utf-8", "backslashreplace") if plate.root else self._plate_name
        variant = f"{shape.text()}_{shape.dtype}" if mine else None
        if mine and kind.channel is not None:
            variant = f"{variant}_c{kind.channel}"
        name = None if plate.name == label else plate.name
        document = GroupDocument(
            geometry,
            name=plate.name + (" projection" if kind.projection else "") + (f" {variant}" if variant else ""),
            plate=plate.key,
            instrument=plate.instrument,
            projection=kind.projection,
            channel=kind.channel,
            several_acquisitions=any(position.acquisition for position in plate.images.values()),
        )
        wanted = plate_key(self._directory(plate.root), name=name, projection=kind.projection, variant=variant)
        return self._groups.add(wanted, "plate", plate.root, document)

    # --- files with several pages, stacks

    def _place_pages(self, waiting: dict[bytes, Item]) -> None:
        for item in list(waiting.values()):
            layout = item.layout
            if layout is None or not layout.uniform or item.ino in self._force_plain:
                continue
            if layout.plane_count < FEWEST_PLANES or layout.pixel_bytes < FEWEST_BYTES:
                continue
            shape = plane_shape(item)
            assert shape is not None
            directory, _, name = item.path.rpartition(b"/")
            try:
                geometry = image_geometry(
                    [("page", layout.plane_count)],
                    (shape.height, shape.width),
                    shape.dtype,
                    samples=shape.samples,
                    planar=shape.planar,
                )
            except GeometryError as error:
                item.notes.append(str(error))
                continue
            geometry = self._compressed(geometry, [item])
            document = GroupDocument(geometry, name=name.decode("utf-8", "backslashreplace"))
            group, _ = self._groups.add(pages_key(self._directory(directory), name), "pages", directory, document)
            self._placement.planes[item.ino] = [
                PlaneRecord(item.ino, page, group.id, "", (page, 0, 0)) for page in range(layout.plane_count)
            ]
            del waiting[item.path]

    def _place_stacks(self, waiting: dict[bytes, Item]) -> None:
        stacks: dict[tuple[bytes, PlaneShape], list[Item]] = {}
        for item in waiting.values():
            if item.layout is None or item.layout.plane_count != 1 or item.ino in self._force_plain:
                continue
            if item.ino in self._placement.planes:
                continue
            shape = plane_shape(item)
            if shape is not None:
                stacks.setdefault((item.path.rpartition(b"/")[0], shape), []).append(item)
        for (directory, shape), members in stacks.items():
            found = self._stack_group(directory, shape)
            if found is None and (len(members) < FEWEST_PLANES or len(members) * shape.bytes < FEWEST_BYTES):
                continue
            try:
                group, document = found or self._new_stack(directory, shape, members)
            except GeometryError as error:
                for item in members:
                    item.notes.append(str(error))
                continue
            self._fill_stack(group, document, sorted(members, key=lambda item: item.path))
            for item in members:
                del waiting[item.path]

    def _stack_group(self, directory: bytes, shape: PlaneShape) -> Group | None:
        for group, document in self._groups.of_form("stack"):
            geometry = document.geometry
            if group.directory == directory and PlaneShape.of(geometry) == shape:
                return group, document
        return None

    def _new_stack(self, directory: bytes, shape: PlaneShape, members: list[Item]) -> Group:
        geometry = stack_geometry(
            len(members), (shape.height, shape.width), shape.dtype, samples=shape.samples, planar=shape.planar
        )
        geometry = self._compressed(geometry, members)
        label = (directory or self._plate_name.encode("utf-8", "surrogateescape")).decode("utf-8", "backslashreplace")
        document = GroupDocument(geometry, name=f"{label} {shape.text()} {shape.dtype}")
        kind = shape.dtype + ("_planar" if shape.planar else "")
        return self._groups.add(stack_key(self._directory(directory), shape.text(), kind), "stack", directory, document)

    def _fill_stack(self, group: GroupRecord, document: GroupDocument, members: list[Item]) -> None:
        used = {plane.index[0] for plane in self._catalogue.planes_of_group(group.id)}
        free = (number for number in range(len(used) + len(members)) if number not in used)
        for item, number in zip(members, free, strict=False):
            place = PlaneRecord(item.ino, 0, group.id, "", (number, 0, 0))
            self._placement.planes[item.ino] = [place]
            used.add(number)
        document.geometry = document.geometry.grown_to([max(document.geometry.extents[0], max(used) + 1)])
        self._groups.changed(group.id)

    # --- shared

    def _directory(self, directory: bytes) -> bytes:
        return directory_name(directory, self._plate_name)

    def _compressed(self, geometry: ArrayGeometry, items: list[Item]) -> ArrayGeometry:
        """The geometry of a new array, compressed as suits what it is to hold first."""
        sample = sample_of(items)
        return replace(geometry, blosc=choose_parameters(sample, geometry.itemsize, archive=self._archive))

    def _taken(self, place: PlaneRecord) -> bool:
        owner = self._catalogue.owner_of_place(place.group, place.image, place.index)
        return owner is not None and owner != place.ino
