"""Which shards a flush has to write: those in which a plane comes, goes or changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import final

from vfsd.flush.items import WHOLE_FILE, Item
from vfsd.store.catalogue import Catalogue, GroupRecord, PlaneRecord
from vfsd.store.geometry import ArrayGeometry, GeometryError
from vfsd.store.pyramid import MEAN, level_geometry
from vfsd.store.stored import array_key, group_geometry, group_levels

ShardPlace = tuple[str, tuple[int, ...]]  # image, and grid position of the shard


@final
@dataclass(frozen=True, slots=True)
class LevelShard:
    """A level's shard, beside the full-size one: its key, that of the one that it replaces, its geometry."""

    key: bytes
    old_key: bytes
    geometry: ArrayGeometry


@final
@dataclass(frozen=True, slots=True)
class OldPlace:
    """Where the store has the chunks of a plane that are copied: the key, geometry and positions at each level."""

    levels: tuple[tuple[bytes, ArrayGeometry, range], ...]


@final
@dataclass(slots=True)
class ShardJob:
    """One shard to write.

    Attributes
    ----------
    old_key : bytes
        Where the store has the shard that it replaces, if it has one.
    levels : tuple of LevelShard
        The shards of the levels at the same place, which are written with it.
    downscaling : str
        How their planes are made.
    new : list of (Item, PlaneRecord)
        Planes to be read and compressed; the pages of one item stand together.
    kept : list of PlaneRecord
        Planes whose chunks are copied: from the shard that is there, or from where `moved` says.
    moved : dict
        (inode, page) → where the store has a plane that comes from another place.
    remake_levels : bool
        The levels that are there are damaged: nothing of them is copied.
    """

    key: bytes
    old_key: bytes
    geometry: ArrayGeometry
    levels: tuple[LevelShard, ...] = ()
    downscaling: str = MEAN
    new: list[tuple[Item, PlaneRecord]] = field(default_factory=list)
    kept: list[PlaneRecord] = field(default_factory=list)
    moved: dict[tuple[int, int], OldPlace] = field(default_factory=dict)
    remake_levels: bool = False

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The keys of all shards that it puts."""
        return (self.key, *(level.key for level in self.levels))

    def old_place(self, plane: PlaneRecord) -> OldPlace:
        """Where the store has a kept plane; a level that is not there is to be made again."""
        found = self.moved.get((plane.ino, plane.page))
        if found is None:
            beside = [(self.old_key, self.geometry), *((level.old_key, level.geometry) for level in self.levels)]
            found = OldPlace(tuple((key, geometry, positions_in_shard(geometry, plane)) for key, geometry in beside))
        return found

    @property
    def signature(self) -> tuple[object, ...]:
        """What makes two jobs write the same bytes under the same key."""
        fresh = frozenset((item.ino, plane.page, self.positions(plane).start) for item, plane in self.new)
        # a shard does not depend on how far the array around it has grown
        shape = replace(self.geometry, extents=self.geometry.shard_extents)
        kept = frozenset((self.positions(plane).start, self.old_place(plane).levels[0][0]) for plane in self.kept)
        return shape, self.old_key, fresh, kept, len(self.levels)

    @property
    def items(self) -> dict[int, tuple[Item, list[PlaneRecord]]]:
        """The items with planes in this shard, by inode, each with these planes."""
        found: dict[int, tuple[Item, list[PlaneRecord]]] = {}
        for item, plane in self.new:
            found.setdefault(item.ino, (item, []))[1].append(plane)
        return found

    @property
    def bytes(self) -> int:
        """Bytes of files that it takes in, for progress; of a file that is read apart, its pixels."""
        size = 0
        for item, planes in self.items.values():
            if item.layout is not None:  # a compressed file counts with its plain object
                pixels = sum(item.layout.pages[plane.page].nbytes for plane in planes)
                size += item.size if is_read_at_once(item, planes) else pixels
        return size

    def positions(self, plane: PlaneRecord) -> range:
        """Where a plane's chunks stand in the shard."""
        return positions_in_shard(self.geometry, plane)


def positions_in_shard(geometry: ArrayGeometry, plane: PlaneRecord) -> range:
    """Where a plane's chunks stand in a shard of such an array."""
    return geometry.positions_in_shard(plane.index[: len(geometry.leading)])


def is_read_at_once(item: Item, planes: Collection[PlaneRecord]) -> bool:
    """Whether one pass over an item gives digest, skeleton and these planes: all that it has, and it is no large file."""
    return item.layout is not None and item.size <= WHOLE_FILE and len(planes) == item.layout.plane_count


def shard_place(geometry: ArrayGeometry, plane: PlaneRecord) -> ShardPlace | None:
    """The shard that a plane lies in; None for a damaged row, whose plane lies nowhere in the array."""
    try:
        return plane.image, geometry.shard_grid_position(plane.index[: len(geometry.leading)])
    except GeometryError:
        return None


def shard_key(group: GroupRecord, geometry: ArrayGeometry, place: ShardPlace, level: int = 0) -> bytes:
    """The key of a shard of a group, the same at each level but for the level itself."""
    image, grid = place
    return array_key(group, image, level) + b"/" + geometry.shard_key(grid).encode()


def shard_jobs(
    base: Catalogue,
    after: Catalogue,
    items: Mapping[int, Item],
    touched: Collection[int],
    damaged: Collection[bytes] = (),
) -> list[ShardJob]:
    """The shards to write, of these groups; `after` is the next catalogue, `base` the one it replaces.

    `damaged` has keys of levels' shards that are to be made again, whatever comes or goes.
    """
    before = {group.id: group for group in base.groups()}
    jobs: list[ShardJob] = []
    for group in after.groups():
        if group.id in touched:
            jobs += _group_jobs(base, after, group, before, items, damaged)
    return jobs


def _group_jobs(
    base: Catalogue,
    after: Catalogue,
    group: GroupRecord,
    before: Mapping[int, GroupRecord],
    items: Mapping[int, Item],
    damaged: Collection[bytes],
) -> list[ShardJob]:
    geometry = group_geometry(group)
    level_count, downscaling = group_levels(group)
    levels = [(number, level_geometry(geometry, number)) for number in range(1, level_count + 1)]
    was = before.get(group.id, group)

    def new_job(place: ShardPlace) -> ShardJob:
        def both(level: int) -> tuple[bytes, bytes]:
            return shard_key(group, geometry, place, level), shard_key(was, geometry, place, level)

        beside = tuple(LevelShard(*both(number), smaller) for number, smaller in levels)
        return ShardJob(*both(0), geometry, beside, downscaling)

    held = {(plane.image, plane.index): plane for plane in base.planes_of_group(group.id)}
    shards: dict[ShardPlace, ShardJob] = {}
    dirty: set[ShardPlace] = set()
    for plane in after.planes_of_group(group.id):
        place = shard_place(geometry, plane)
        if place is None:
            continue
        job = shards.get(place)
        if job is None:
            job = shards[place] = new_job(place)
        item = items.get(plane.ino)
        if item is not None:
            job.new.append((item, plane))
            dirty.add(place)
            continue
        job.kept.append(plane)
        there = held.get((plane.image, plane.index))
        if there == plane:
            del held[plane.image, plane.index]
            continue
        moved = _old_place(base, before, plane)
        if moved is not None:
            job.moved[plane.ino, plane.page] = moved
        dirty.add(place)
    # what is left went, or its pixels are new; a shard of which nothing is left is removed, not written
    dirty |= shards.keys() & {shard_place(geometry, plane) for plane in held.values()}
    for place, job in shards.items():
        job.remake_levels = any(level.key in damaged for level in job.levels)
        if job.remake_levels:
            dirty.add(place)
    return [job for place, job in shards.items() if place in dirty]


def _old_place(base: Catalogue, groups: Mapping[int, GroupRecord], plane: PlaneRecord) -> OldPlace | None:
    """Where the catalogue before has a plane that is no longer there; None where it has none."""
    rows = [row for row in base.planes(plane.ino) if row.page == plane.page]
    group = groups.get(rows[0].group) if rows else None
    if group is None:
        return None
    geometry = group_geometry(group)
    place = shard_place(geometry, rows[0])
    if place is None:
        return None
    each = [(level, level_geometry(geometry, level)) for level in range(group_levels(group)[0] + 1)]
    return OldPlace(
        tuple(
            (shard_key(group, geometry, place, level), of_level, positions_in_shard(of_level, rows[0]))
            for level, of_level in each
        )
    )
