"""Where a file stands among its like, so that the next ones can be foretold: its place on the plate, else in the order of names.

A stored image has a place in the catalogue (row, column, field, time, channel, z of its plate; its number in a stack):
whoever walks over the plate in any direction is understood. Everything else stands in its directory by its name, as `sorted`
has it.

Touched only by the trio thread; reads catalogue and nodes, never a file.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import final

from vfsd.store import Catalogue, Kind
from vfsd.store.catalogue import GroupRecord, PlaneRecord
from vfsd.store.geometry import ArrayGeometry
from vfsd.tiers.orders import Grid, Place, Walks
from vfsd.tree.layers import Layers
from vfsd.tree.node import Node

# Directories of which the order is kept; a walk is in a few at a time.
MOST_DIRECTORIES = 16
# Names of a directory are put in order on the event loop: so many take a twentieth of a second, once.
MOST_NAMES = 50_000


Shard = tuple[int, Place, Place]
"""Group, place of the image in it, and the shard's place in the image."""


@final
class PlaneTable:
    """The places of one image group."""

    def __init__(self, catalogue: Catalogue, group: GroupRecord, geometry: ArrayGeometry) -> None:
        self._catalogue = catalogue
        self._group = group.id
        images = catalogue.images_of_group(group.id)
        parts = [tuple(image.split("/")) for image in images]
        depth = {len(part) for part in parts}
        # "A/1/0": each part is an axis; anything else is one axis of images
        self._axes: list[list[str]] = []
        if len(depth) == 1:
            self._axes = [sorted({part[level] for part in parts}, key=_natural) for level in range(depth.pop())]
        self._indices = [{name: index for index, name in enumerate(axis)} for axis in self._axes]
        self._geometry = geometry
        self.plane_bytes = geometry.plane_bytes
        self.walks = Walks(Grid([*map(len, self._axes), *geometry.extents]))

    def place(self, plane: PlaneRecord) -> Place | None:
        """Where a plane stands."""
        parts = plane.image.split("/")
        if len(parts) != len(self._axes):
            return None
        try:
            image = [index[part] for index, part in zip(self._indices, parts, strict=True)]
        except KeyError:
            return None
        return (*image, *plane.index[: len(self._geometry.leading)])

    def shard(self, place: Place) -> Shard:
        """The shard that a place lies in, as far as it tells one from another."""
        levels = len(self._axes)
        return self._group, place[:levels], self._geometry.shard_grid_position(place[levels:])

    def ino(self, place: Place) -> int | None:
        """Whose image stands at a place."""
        image = "/".join(axis[index] for axis, index in zip(self._axes, place, strict=False))
        i0, i1, i2 = (*place[len(self._axes) :], 0, 0, 0)[:3]
        return self._catalogue.owner_of_place(self._group, image, (i0, i1, i2))


@final
class NameTable:
    """The places of the files of one directory."""

    def __init__(self, directory: Node) -> None:
        assert directory.children is not None
        self._directory = directory
        self._seen = len(directory.children)
        self._names = sorted(name for name, node in directory.children.items() if node.record.kind.is_file)
        self._indices = {name: index for index, name in enumerate(self._names)}
        self.walks = Walks(Grid([len(self._names)]))

    def is_of(self, directory: Node, name: bytes) -> bool:
        """Whether it still has the names of its directory, and this one."""
        children = directory.children
        return (
            directory is self._directory
            and children is not None
            and len(children) == self._seen
            and name in self._indices
        )

    def place(self, name: bytes) -> Place | None:
        """Where a name stands."""
        index = self._indices.get(name)
        return None if index is None else (index,)

    def node(self, place: Place) -> Node | None:
        """The file at a place."""
        children = self._directory.children
        return None if children is None else children.get(self._names[place[0]])


Table = PlaneTable | NameTable


@final
class Places:
    """See the module."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._catalogue = layers.store.catalogue
        self._groups: dict[int, PlaneTable] = {}
        self._directories: OrderedDict[int, NameTable] = OrderedDict()

    def locate(self, node: Node) -> tuple[Table, Place] | None:
        """The table that a file stands in, and its place; None where nothing is known."""
        if node.record.kind is Kind.PLANES and not node.dirty:
            found = self._on_plate(node)
            if found is not None:
                return found
        return self._among_names(node)

    async def node_at(self, table: Table, place: Place) -> Node | None:
        """The file at a place; None where there is none (any more)."""
        if isinstance(table, NameTable):
            return table.node(place)
        ino = table.ino(place)
        if ino is None:
            return None
        found = self._layers.nodes.get(ino)
        if found is not None:
            return found
        path = self._layers.path_of(ino)
        return None if path == b"?" else await self._layers.resolve(path)

    def _on_plate(self, node: Node) -> tuple[Table, Place] | None:
        catalogue = self._layers.store.catalogue
        if catalogue is not self._catalogue:
            self._catalogue = catalogue
            self._groups.clear()
        planes = catalogue.planes(node.ino)
        if len(planes) != 1:
            return None
        group = planes[0].group
        if group not in self._groups:
            record, geometry = self._layers.store.files.group(group)
            self._groups[group] = PlaneTable(catalogue, record, geometry)
        table = self._groups[group]
        place = table.place(planes[0])
        return None if place is None else (table, place)

    def _among_names(self, node: Node) -> tuple[Table, Place] | None:
        directory = node.parent
        if directory is None or directory.children is None or not 1 < len(directory.children) <= MOST_NAMES:
            return None
        table = self._directories.get(directory.ino)
        if table is None or not table.is_of(directory, node.name):
            table = self._directories[directory.ino] = NameTable(directory)
            while len(self._directories) > MOST_DIRECTORIES:
                self._directories.popitem(last=False)
        self._directories.move_to_end(directory.ino)
        place = table.place(node.name)
        return None if place is None else (table, place)


def _natural(name: str) -> tuple[int, str]:
    """Rows A to Z before AA, 2 before 10."""
    return len(name), name
