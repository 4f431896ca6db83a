"""One round of a flush: the next catalogue with every item in its place, and the jobs that write what it needs.

`plan` starts from the committed catalogue each time, so that taking a failed file out is simply planning again; what an
earlier round wrote and is still right is not written twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import trio
import xxhash

from vfsd.flush.groups import GroupDocument, group_objects
from vfsd.flush.items import Item
from vfsd.flush.locations import fitted, plain_key, spare_key
from vfsd.flush.placing import Placement, Placer
from vfsd.flush.selection import MovedFolder, Selection
from vfsd.flush.snapshot import Snapshot, merge
from vfsd.flush.writing import ObjectWriter, ShardJob
from vfsd.plates import METADATA_READ_LIMIT, pixel_size_from_description
from vfsd.store import InodeRecord, Kind, Transaction
from vfsd.store.catalogue import CatalogueBuilder, GroupRecord, PlaneRecord
from vfsd.store.stored import array_key, group_geometry
from vfsd.tree import Tree


@dataclass(frozen=True, slots=True)
class Job:
    """Something to write, and the bytes of files that it takes in (for progress)."""

    run: Callable[[], None]
    bytes: int


@final
class Assembly:
    """See the module."""

    def __init__(self, tree: Tree, transaction: Transaction, build: Path) -> None:
        self._tree = tree
        self._transaction = transaction
        self._build = build
        self._written: dict[bytes, object] = {}
        self._folders_moved = False
        self.builder: CatalogueBuilder
        self.placement = Placement()
        self.writer: ObjectWriter
        self.items: list[Item] = []
        self.merged_inodes: set[int] = set()
        self.merged_entries: set[tuple[int, bytes]] = set()
        self._plain_keys: dict[int, bytes] = {}
        self._dropped: list[InodeRecord] = []
        self.records: dict[int, InodeRecord] = {}
        self.group_locations: dict[int, bytes] = {}

    # --- planning

    async def plan(self, selection: Selection, items: list[Item], force_plain: Mapping[int, str]) -> None:
        """Build the next catalogue, digests and skeletons still missing."""
        self.items = items
        if hasattr(self, "builder"):
            self.builder.abandon()

        def read_file(path: bytes) -> bytes:
            return trio.from_thread.run(_read_path, self._tree, path)

        await trio.to_thread.run_sync(self._plan, selection, force_plain, read_file)

    def _plan(self, selection: Selection, force_plain: Mapping[int, str], read_file: Callable[[bytes], bytes]) -> None:
        store = self._tree.store
        shutil.copyfile(store.catalogue_path(), self._build)
        self._transaction.keep_all()
        self.builder = builder = CatalogueBuilder(self._build)
        builder.begin()
        storing = {item.ino for item in self.items}
        base = store.catalogue
        self.merged_inodes, self.merged_entries = merge(selection.snapshot, builder, base, storing)
        for item in self.items:
            # until its place is known: a file of the store, so that nothing takes it for unreachable or the source's
            builder.put_inode(replace(item.record, kind=Kind.PLAIN, location=None, skeleton=None, digest=None))
        self._dropped = builder.remove_unreachable()
        self._move_groups(selection.moved)
        for item in self.items:
            builder.clear_planes(item.ino)
        placer = Placer(builder, store.plate_name, read_file, force_plain)
        self.placement = placer.place(self.items)
        self._choose_plain_keys(selection.snapshot)
        windows = {item.ino: wanted for wanted, item in self.placement.windows.items()}
        if not hasattr(self, "writer"):
            self.writer = ObjectWriter(self._transaction, store.files.shards, windows)
        self.writer.wanted_windows = windows

    def _move_groups(self, moved: Sequence[MovedFolder]) -> None:
        catalogue = self.builder.read()
        for folder in moved:
            for group in catalogue.groups():
                if group.directory != folder.old and not group.directory.startswith(folder.old + b"/"):
                    continue
                directory = folder.new + group.directory[len(folder.old) :]
                location = self._moved_location(group, directory)
                taken = {other.location for other in catalogue.groups() if other.id != group.id}
                if location in taken or any(_nested(location, other) for other in taken):
                    location = group.location  # the place is taken: the group stays where it is
                elif not self._folders_moved and location != group.location:
                    self._transaction.move_folder(group.location, location)
                self.builder.move_group(group.id, location, directory)
        self._folders_moved = True

    @staticmethod
    def _moved_location(group: GroupRecord, directory: bytes) -> bytes:
        """The group's key with the directory's new name in place of the old one."""
        prefix = b"images/" + group.directory
        if not group.directory or not group.location.startswith(prefix):
            return group.location
        return fitted(b"images/" + directory + group.location[len(prefix) :])

    def _choose_plain_keys(self, snapshot: Snapshot) -> None:
        base = self._tree.store.catalogue
        self._plain_keys = {}
        taken: set[bytes] = set()
        for ino, item in self.placement.plain.items():
            key = plain_key(item.path)
            committed = base.inode(ino)
            mine = committed is not None and committed.location == key
            if len(key) > 3000 or key in taken or not (mine or self._can_be_put(key)):
                key = spare_key(ino)
            taken.add(key)
            self._plain_keys[ino] = key

    def _can_be_put(self, key: bytes) -> bool:
        """Whether no other file has the key, and nothing on its way is a file."""
        owner = self.builder.read().owner_of_location(key)
        return owner is None and self._tree.store.storage.is_free_path(key)

    # --- jobs

    def jobs(self) -> list[Job]:
        """What is to be written that no earlier round has written already."""
        jobs: list[Job] = []
        wanted: set[bytes] = set()
        for job, old_key in self._shard_jobs():
            wanted.add(job.key)
            if self._written.get(job.key) == job.signature:
                continue
            self._transaction.drop(job.key)
            self._written[job.key] = job.signature
            size = sum(
                item.size for item in {item.ino: item for item, _ in job.new if item.layout is not None}.values()
            )
            jobs.append(Job(lambda job=job, old=old_key: self.writer.write_shard(job, old), size))  # type: ignore[misc]  # bound now
        for ino, key in self._plain_keys.items():
            item = self.placement.plain[ino]
            wanted.add(key)
            if self._written.get(key) == ino:
                continue
            self._transaction.drop(key)
            self._written[key] = ino
            jobs.append(Job(lambda item=item, key=key: self._put_plain(item, key), item.size))  # type: ignore[misc]  # bound now
        for key in set(self._written) - wanted:
            self._transaction.drop(key)
            del self._written[key]
        return jobs

    def _put_plain(self, item: Item, key: bytes) -> None:
        stored = item.stored
        if stored is not None and stored.record.location is not None:
            item.digest = stored.record.digest
            if stored.record.location != key:
                self._transaction.link(stored.record.location, key)
            return
        self.writer.write_plain(item, key)

    def _shard_jobs(self) -> list[tuple[ShardJob, bytes | None]]:
        """Every shard in which a plane comes, goes or changes."""
        base, catalogue = self._tree.store.catalogue, self.builder.read()
        items = {item.ino: item for item in self.items}
        touched = {plane.group for planes in self.placement.planes.values() for plane in planes}
        for ino in [*items, *(record.ino for record in self._dropped)]:
            touched |= {plane.group for plane in base.planes(ino)}
        groups = {group.id: group for group in catalogue.groups()}
        jobs: list[tuple[ShardJob, bytes | None]] = []
        for number in sorted(touched):
            group = groups.get(number)
            if group is not None:
                jobs += self._group_jobs(group, items)
        return jobs

    def _group_jobs(self, group: GroupRecord, items: Mapping[int, Item]) -> list[tuple[ShardJob, bytes | None]]:
        base, catalogue = self._tree.store.catalogue, self.builder.read()
        geometry = group_geometry(group)
        before = {(p.image, p.index): p.ino for p in base.planes_of_group(group.id)}
        after = list(catalogue.planes_of_group(group.id))
        shards: dict[tuple[str, tuple[int, ...]], ShardJob] = {}
        dirty: set[tuple[str, tuple[int, ...]]] = set()

        def shard_of(plane: PlaneRecord) -> tuple[str, tuple[int, ...]]:
            return plane.image, geometry.shard_grid_position(plane.index[: len(geometry.leading)])

        for plane in after:
            place = shard_of(plane)
            if place not in shards:
                key = array_key(group, plane.image) + b"/" + geometry.shard_key(place[1]).encode()
                shards[place] = ShardJob(key, geometry)
            item = items.get(plane.ino)
            if item is not None:
                shards[place].new.append((item, plane))
                dirty.add(place)
            else:
                shards[place].kept += geometry.positions_in_shard(plane.index[: len(geometry.leading)])
                before.pop((plane.image, plane.index), None)
        for image, index in before:  # planes that went, or whose pixels are new
            grid = geometry.shard_grid_position(index[: len(geometry.leading)])
            if (image, grid) in shards:
                dirty.add((image, grid))
        return [(shards[place], shards[place].key) for place in shards if place in dirty]

    # --- completing

    def complete(self) -> None:
        """Everything was written: put digests, skeletons and metadata in, and say which objects go."""
        for (group, channel), window in self.writer.windows.items():
            self._set_window(group, channel, window)
        for item in self.items:
            self.builder.put_inode(self._final_record(item))
        self._write_documents()
        self._remove_objects()
        self.builder.drop_unused_skeletons()

    def record(self, item: Item) -> InodeRecord:
        """The record that is committed for an item."""
        found = self.builder.read().inode(item.ino)
        assert found is not None
        return found

    def finish(self) -> None:
        """The catalogue is complete; `records` and `group_locations` keep what the receipt says of it."""
        self.records = {item.ino: self.record(item) for item in self.items}
        self.group_locations = {group.id: group.location for group in self.builder.read().groups()}
        self.builder.finish()

    def _final_record(self, item: Item) -> InodeRecord:
        if item.ino in self._plain_keys:
            return replace(
                item.record,
                kind=Kind.PLAIN,
                location=self._plain_keys[item.ino],
                skeleton=None,
                digest=item.digest,
                size=item.size,
                version=item.version,
            )
        skeleton = self.writer.skeletons[item.ino].to_bytes()
        row = self.builder.add_skeleton(xxhash.xxh3_128_digest(skeleton), skeleton)
        return replace(
            item.record,
            kind=Kind.PLANES,
            location=None,
            skeleton=row,
            digest=item.digest,
            size=item.size,
            version=item.version,
        )

    def _set_window(self, group: int, channel: int, window: object) -> None:
        from vfsd.store.ngff import DisplayWindow

        assert isinstance(window, DisplayWindow)
        record = self.builder.read().group(group)
        document = GroupDocument.decode(record.document)
        document.set_window(channel, window)
        if document.pixel_size_um is None:
            item = self.placement.windows.get((group, channel))
            skeleton = None if item is None else self.writer.skeletons.get(item.ino)
            if skeleton is not None:
                document.pixel_size_um = pixel_size_from_description(skeleton.rest)
        self.builder.set_group_document(group, document.encode())

    def _touched_groups(self) -> set[int]:
        base = self._tree.store.catalogue
        touched = {plane.group for planes in self.placement.planes.values() for plane in planes}
        for ino in [*(item.ino for item in self.items), *(record.ino for record in self._dropped)]:
            touched |= {plane.group for plane in base.planes(ino)}
        return touched

    def _write_documents(self) -> None:
        """The metadata of every group concerned; of a group without planes nothing stays."""
        catalogue = self.builder.read()
        touched = self._touched_groups()
        for group in catalogue.groups():
            if group.id not in touched:
                continue
            keys = set()
            planes = catalogue.planes_of_group(group.id)
            geometry = group_geometry(group)
            for plane in planes:
                grid = geometry.shard_grid_position(plane.index[: len(geometry.leading)])
                keys.add(array_key(group, plane.image) + b"/" + geometry.shard_key(grid).encode())
            if keys:
                for key, data in group_objects(catalogue, group):
                    keys.add(key)
                    if not self._holds(key, data):
                        self._transaction.put_bytes(key, data)
                        self._written[key] = "document"
            else:
                self.builder.remove_group(group.id)
            for key in self._transaction.keys_below(group.location) - keys:
                self._transaction.remove(key)

    def _holds(self, key: bytes, data: bytes) -> bool:
        return (
            self._transaction.exists(key)
            and self._transaction.size(key) == len(data)
            and self._transaction.read_range(key, 0, len(data)) == data
        )

    def _remove_objects(self) -> None:
        """Plain objects of files that are gone, or lie elsewhere now."""
        base = self._tree.store.catalogue
        for ino in [*(item.ino for item in self.items), *(record.ino for record in self._dropped)]:
            committed = base.inode(ino)
            if committed is None or committed.location is None:
                continue
            if self._plain_keys.get(ino) != committed.location and committed.location not in self._written:
                self._transaction.remove(committed.location)


def _nested(one: bytes, other: bytes) -> bool:
    return one.startswith(other + b"/") or other.startswith(one + b"/")


async def _read_path(tree: Tree, path: bytes) -> bytes:
    """The beginning of a file of the tree, as much as a vendor's metadata may have."""
    node = await tree.layers.resolve(path)
    handle = await tree.contents.open(node.ino, 0)
    try:
        return bytes(await tree.contents.read(handle, 0, METADATA_READ_LIMIT))
    finally:
        tree.contents.release(handle)
