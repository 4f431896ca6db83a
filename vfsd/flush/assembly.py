"""One round of a flush: the next catalogue with every item in its place, and the jobs that write what it needs.

`plan` starts from the committed catalogue each time, so that taking a failed file out is simply planning again; what an
earlier round wrote and is still right is not written twice. Everything but `plan` and `jobs` may only follow them; one
thread at a time, the trio thread or another.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import trio
import xxhash

from vfsd.flush.groups import GroupDocument, group_objects
from vfsd.flush.items import Item
from vfsd.flush.locations import PlainKeys
from vfsd.flush.moving import MovedGroup, move_groups
from vfsd.flush.order import FlushOrder, Repair, Verify
from vfsd.flush.placement import Placement
from vfsd.flush.placing import Placer
from vfsd.flush.selection import Selection
from vfsd.flush.shards import ShardJob, is_read_at_once, shard_jobs, shard_key, shard_place
from vfsd.flush.snapshot import merge
from vfsd.flush.writing import ObjectWriter
from vfsd.images import Skeleton
from vfsd.plates import ReadFile, stage_from_description
from vfsd.store import Catalogue, InodeRecord, Kind, Transaction
from vfsd.store.builder import CatalogueBuilder
from vfsd.store.catalogue import GroupRecord, PlaneRecord
from vfsd.store.header import VERSION
from vfsd.store.stored import folder_of, group_geometry, group_levels
from vfsd.store.taken import TakenFile
from vfsd.tree import Tree


@dataclass(frozen=True, slots=True)
class Job:
    """Something to write: the bytes of files that it takes in (for progress), and the keys that it puts."""

    run: Callable[[], None]
    size: int
    keys: tuple[bytes, ...] = ()


@final
class Assembly:
    """See the module.

    Attributes
    ----------
    items : list of Item
        What this round stores.
    shards : list of ShardJob
        The shards of this round, written in it or before.
    """

    def __init__(self, tree: Tree, transaction: Transaction, build: Path, order: FlushOrder) -> None:
        self._order = order
        self._repair = order.repair or Repair()
        self._tree = tree
        self._transaction = transaction
        self._build = build
        # a connection of its own: the store's belongs to the trio thread
        self._base = Catalogue.open(tree.store.catalogue_path())
        self._written: dict[bytes, object] = {}  # key → what the transaction holds under it
        self._plain_keys: dict[int, bytes] = {}
        self._dropped: list[InodeRecord] = []
        self._moved: dict[bytes, bytes] = {}  # new key → old key of every object of a moved group
        self._renamed_groups: set[int] = set()
        self._builder: CatalogueBuilder | None = None
        self.writer = ObjectWriter(transaction, tree.store.files.shards)
        self.placement = Placement()
        self.items: list[Item] = []
        self.shards: list[ShardJob] = []
        self.merged_inodes: set[int] = set()
        self.merged_entries: set[tuple[int, bytes]] = set()
        self.groups: dict[int, GroupRecord] = {}

    @property
    def builder(self) -> CatalogueBuilder:
        """The next catalogue."""
        assert self._builder is not None
        return self._builder

    def close(self) -> None:
        """Let go of everything; the build file may then be deleted."""
        if self._builder is not None:
            self._builder.abandon()
        self._base.close()

    # --- planning

    async def plan(self, selection: Selection, items: list[Item], force_plain: Mapping[int, str]) -> None:
        """Build the next catalogue, digests and skeletons still missing."""
        self.items = items

        def read_file(path: bytes, offset: int, size: int) -> bytes:
            return trio.from_thread.run(_read_path, self._tree, path, offset, size)

        await trio.to_thread.run_sync(self._plan, selection, force_plain, read_file)

    def _plan(self, selection: Selection, force_plain: Mapping[int, str], read_file: ReadFile) -> None:
        store = self._tree.store
        if self._builder is not None:
            self._builder.abandon()
        shutil.copyfile(store.catalogue_path(), self._build)
        self._transaction.keep_all()
        self._builder = builder = CatalogueBuilder(self._build)
        builder.begin()
        storing = {item.ino for item in self.items}
        self.merged_inodes, self.merged_entries = merge(
            selection.snapshot, builder, self._base, storing, self._read_xattrs
        )
        for item in self.items:
            # until its place is known: a file of the store, so that nothing takes it for unreachable or the source's
            builder.put_inode(replace(item.record, kind=Kind.PLAIN, location=None, skeleton=None, digest=None))
        self._dropped = builder.remove_unreachable()
        self._plan_moves(move_groups(builder, selection.renames, store.plate_name))
        self._renamed_groups = selection.renames.shown | selection.renames.pages.keys()
        for item in self.items:
            builder.clear_planes(item.ino)
        if self._order.repair is not None:
            self.placement = self._place_again(force_plain)
        else:
            placer = Placer(
                builder,
                store.plate_name,
                read_file,
                force_plain,
                self._order.formats,
                levels=self._order.levels,
                archive=self._order.archive,
                damaged_shards=self.writer.failures.damaged_shards,
            )
            self.placement = placer.place(self.items)
        self._choose_plain_keys()
        self.writer.wanted_windows = {(item.ino, page) for item, page in self.placement.windows.values()}

    def _read_xattrs(self, origin: bytes) -> dict[bytes, bytes]:
        source = self._tree.source
        return {} if source is None else source.xattrs(origin)

    def _plan_moves(self, moved: list[MovedGroup]) -> None:
        storage = self._tree.store.storage
        self._moved = {
            group.new + key[len(group.old) :]: key for group in moved for key, _ in storage.list_keys(group.old)
        }

    def _place_again(self, force_plain: Mapping[int, str]) -> Placement:
        """Files that are stored again, the same bytes, go where they were."""
        placement = Placement()
        for item in self.items:
            committed = self._base.inode(item.ino)
            planes = [] if item.ino in force_plain else self._base.planes(item.ino)
            if planes:
                placement.planes[item.ino] = planes
                self.builder.put_planes(planes)
            if not planes or (committed is not None and committed.kind is Kind.PLAIN):
                placement.plain[item.ino] = item
        return placement

    def _choose_plain_keys(self) -> None:
        keys = PlainKeys(self._is_free)
        self._plain_keys = {}
        for ino, item in self.placement.plain.items():
            committed = self._base.inode(ino)
            present = None if committed is None else committed.location
            self._plain_keys[ino] = keys.choose(ino, item.path, present)

    def _is_free(self, key: bytes) -> bool:
        """Whether no other file has the key, and nothing on its way is a file."""
        owner = self.builder.read().owner_of_location(key)
        return owner is None and self._tree.store.storage.is_free_path(key)

    # --- jobs

    def jobs(self) -> list[Job]:
        """What is to be written that no earlier round has written already."""
        items = {item.ino: item for item in self.items}
        shards = shard_jobs(self._base, self.builder.read(), items, self._touched_groups(), self._repair.levels)
        # a damaged shard that takes no new plane stays as it is
        self.shards = [job for job in shards if job.new or job.key not in self.writer.failures.damaged_shards]
        wanted: dict[bytes, object] = {key: job.signature for job in self.shards for key in job.keys}
        wanted |= {key: ino for ino, key in self._plain_keys.items()}
        wanted |= {key: old for key, old in self._moved.items() if key not in wanted}
        for job in self.shards:
            looked_at = ((item.ino, plane.page) for item, plane in job.new)
            if any(page in self.writer.wanted_windows and page not in self.writer.windows for page in looked_at):
                for key in job.keys:
                    self._written.pop(key, None)
        for key in [key for key, what in self._written.items() if wanted.get(key) != what]:
            self._transaction.drop(key)
            del self._written[key]
        jobs = [self._shard_job(job) for job in self.shards if job.key not in self._written]
        jobs += [self._plain_job(items[ino], key) for ino, key in self._plain_keys.items() if key not in self._written]
        links = [(old, key) for key, old in self._moved.items() if wanted[key] == old and key not in self._written]
        if links:
            jobs.append(Job(lambda: self._link_all(links), 0, tuple(key for _, key in links)))
        self._written = wanted
        return jobs + self._reading_jobs()

    def _shard_job(self, job: ShardJob) -> Job:
        return Job(lambda: self.writer.write_shard(job), job.bytes, job.keys)

    def _plain_job(self, item: Item, key: bytes) -> Job:
        if item.stored is not None and item.stored.record.location is not None:
            return Job(lambda: self.writer.link_plain(item, key), item.size, (key,))
        return Job(lambda: self.writer.write_plain(item, key), item.size, (key,))

    def _link_all(self, links: list[tuple[bytes, bytes]]) -> None:
        for old, key in links:
            self._transaction.link(old, key)

    def _reading_jobs(self) -> list[Job]:
        """Files whose digest and skeleton do not come with their planes."""
        apart: dict[int, Item] = {}
        for job in self.shards:
            for item, planes in job.items.values():
                if item.layout is not None and not is_read_at_once(item, planes):
                    apart[item.ino] = item
        return [
            Job(lambda item=item: self.writer.read_apart(item), item.size - item.layout.pixel_bytes)  # type: ignore[misc]  # bound now
            for item in apart.values()
            if item.ino not in self.writer.skeletons and item.layout is not None
        ]

    def _touched_groups(self) -> set[int]:
        """Groups in which a plane comes or goes, or that are described anew."""
        touched = {plane.group for planes in self.placement.planes.values() for plane in planes}
        for ino in [*(item.ino for item in self.items), *(record.ino for record in self._dropped)]:
            touched |= {plane.group for plane in self._base.planes(ino)}
        damaged = (*self._repair.levels, *self._repair.objects)
        if damaged:
            touched |= {
                g.id for g in self._base.groups() if any(key.startswith(folder_of(g) + b"/") for key in damaged)
            }
        return touched | self._renamed_groups | self.placement.touched

    # --- what was written

    def needed_keys(self) -> dict[int, set[bytes]]:
        """For each item of this round, by inode, the keys of all objects that it needs."""
        keys: dict[int, set[bytes]] = {item.ino: set() for item in self.items}
        for job in self.shards:
            for ino in job.items:
                keys[ino].add(job.key)
        for ino, key in self._plain_keys.items():
            keys[ino].add(key)
        return keys

    def is_written(self, item: Item) -> bool:
        """Whether all that a verification needs is known of an item, and nothing went wrong with it."""
        failures = self.writer.failures
        return (
            item.digest is not None
            and item.ino not in failures.kept
            and item.ino not in failures.plain
            and (item.ino in self._plain_keys or item.ino in self.writer.skeletons)
        )

    def as_written(self, item: Item) -> tuple[InodeRecord, Skeleton | None, list[PlaneRecord]]:
        """Record, skeleton and planes of an item whose objects are written, before the catalogue has them."""
        if item.ino in self._plain_keys:
            return self._plain_record(item), None, []
        record = replace(
            self._written_record(item), kind=Kind.PLANES, location=None
        )  # where it was a plain file until now
        return record, Skeleton.from_bytes(self.writer.skeletons[item.ino]), self.placement.planes[item.ino]

    # --- completing

    def complete(self) -> None:
        """Everything was written: put digests, skeletons and metadata in, and say which objects go."""
        for (group, channel), (item, page) in self.placement.windows.items():
            self._set_window(group, channel, item, page)
        self._take_stage_positions()
        for item in self.items:
            self.builder.put_inode(self._final_record(item))
        self._remove_objects()
        self._write_documents()
        self.builder.drop_unused_skeletons()

    def record(self, item: Item) -> InodeRecord:
        """The record that is committed for an item."""
        found = self.builder.read().inode(item.ino)
        assert found is not None
        return found

    def settle(self, unverified: Collection[int]) -> None:
        """What is known of the files that came in, and of those that an earlier flush did not verify and this one did
        not find right either (`unverified`); `groups` is for the receipt.
        """
        taken = [TakenFile(item.ino, *item.seen, item.digest) for item in self.items if item.seen and item.digest]
        self.builder.taken.put(taken)
        stored = {item.ino for item in self.items}
        self.builder.taken.set_verified(stored, verified=self._order.verify is not Verify.OFF)
        before = set(self._base.taken.unverified()) - stored
        self.builder.taken.set_verified(before - set(unverified), verified=True)
        self.groups = {group.id: group for group in self.builder.read().groups()}

    def finish(self) -> None:
        """All objects are written, the receipt as well: record them; the catalogue is complete."""
        self._record_objects()
        self.builder.set_meta("generation", self._transaction.generation)
        self.builder.set_meta("store_id", self._tree.store.id)
        self.builder.set_meta("store_version", VERSION)
        self.builder.finish()

    def _record_objects(self) -> None:
        """Linked objects are what they were under their old key, if they are still there: what moved may go as well."""
        digests = self._transaction.digests
        linked = (
            (key, old) for key, old in self._moved.items() if key not in digests and self._transaction.exists(key)
        )
        moved = ((key, self._base.objects.get(old)) for key, old in linked)
        self.builder.objects.drop(self._transaction.removed_keys | self._moved.keys())
        self.builder.objects.put((key, known) for key, known in moved if known is not None)
        self.builder.objects.put(digests.items())

    def _final_record(self, item: Item) -> InodeRecord:
        if item.ino in self._plain_keys:
            return self._plain_record(item)
        skeleton = self.writer.skeletons[item.ino]
        row = self.builder.add_skeleton(xxhash.xxh3_128_digest(skeleton), skeleton)
        return replace(self._written_record(item), kind=Kind.PLANES, location=None, skeleton=row)

    def _plain_record(self, item: Item) -> InodeRecord:
        record = self._written_record(item)
        return replace(record, kind=Kind.PLAIN, location=self._plain_keys[item.ino], skeleton=None)

    @staticmethod
    def _written_record(item: Item) -> InodeRecord:
        return replace(item.record, digest=item.digest, size=item.size, version=item.version)

    def _set_window(self, group: int, channel: int, item: Item, page: int) -> None:
        window = self.writer.windows.get((item.ino, page))
        if window is None:
            return
        document = GroupDocument.decode(self.builder.read().group(group).document)
        document.set_window(channel, window)
        skeleton = self.writer.skeletons.get(item.ino)
        if skeleton is not None:
            document.take_description(channel, Skeleton.from_bytes(skeleton).rest)
        self.builder.set_group_document(group, document.encode())

    def _take_stage_positions(self) -> None:
        """Where each image of a plate is, from the description of one of its files, if the vendor's metadata does not say."""
        wanted = {place: item for place, item in self.placement.unplaced.items() if item.ino in self.writer.skeletons}
        documents: dict[int, GroupDocument] = {}
        for (group, image), item in wanted.items():
            if group not in documents:
                documents[group] = GroupDocument.decode(self.builder.read().group(group).document)
            rest = Skeleton.from_bytes(self.writer.skeletons[item.ino]).rest
            documents[group].take_stage(image, stage_from_description(rest))
        for group, document in documents.items():
            self.builder.set_group_document(group, document.encode())

    def _remove_objects(self) -> None:
        """Plain objects of files that are gone or lie elsewhere now, and the old keys of groups that were moved."""
        going = {old for old in self._moved.values() if old not in self._written}
        for ino in [*(item.ino for item in self.items), *(record.ino for record in self._dropped)]:
            committed = self._base.inode(ino)
            location = None if committed is None else committed.location
            if location is not None and location != self._plain_keys.get(ino) and location not in self._written:
                going.add(location)
        for key in going:
            self._transaction.remove(key)

    def _write_documents(self) -> None:
        """The metadata of every group concerned; of a group without planes nothing stays."""
        catalogue = self.builder.read()
        touched = self._touched_groups()
        # what lies below one key is written together: a plate, and the labels inside its images
        families: dict[bytes, list[GroupRecord]] = {}
        for group in catalogue.groups():
            families.setdefault(folder_of(group), []).append(group)
        for location, members in families.items():
            if not touched.isdisjoint(group.id for group in members):
                self._write_family(location, members)

    def _write_family(self, location: bytes, members: list[GroupRecord]) -> None:
        catalogue = self.builder.read()
        keys: set[bytes] = set()
        living: list[GroupRecord] = []
        for group in members:
            shards = self._shard_keys(group)
            if shards:
                living.append(group)
                keys |= shards
            else:
                self.builder.remove_group(group.id)
        labels = [group for group in living if group.location != location]
        for group in living:
            if group.location == location:
                for key, data in group_objects(catalogue, group, labels):
                    keys.add(key)
                    if not self._holds(key, data):
                        self._transaction.put_bytes(key, data)
                        self._written[key] = "document"
        for key in self._transaction.keys_below(location) - keys:
            self._transaction.remove(key)

    def _shard_keys(self, group: GroupRecord) -> set[bytes]:
        geometry, (levels, _) = group_geometry(group), group_levels(group)
        places = {shard_place(geometry, plane) for plane in self.builder.read().planes_of_group(group.id)}
        return {
            shard_key(group, geometry, place, level)
            for place in places
            if place is not None
            for level in range(levels + 1)
        }

    def _holds(self, key: bytes, data: bytes) -> bool:
        return (
            self._transaction.exists(key)
            and self._transaction.size(key) == len(data)
            and self._transaction.read_range(key, 0, len(data)) == data
        )


async def _read_path(tree: Tree, path: bytes, offset: int, size: int) -> bytes:
    """A piece of a file of the tree, for a vendor's metadata; of no bytes nothing is opened."""
    node = await tree.layers.resolve(path)
    if size == 0 and not node.is_directory:
        return b""
    handle = await tree.contents.open(node.ino, 0)
    try:
        return bytes(await tree.contents.read(handle, offset, size))
    finally:
        tree.contents.release(handle)
