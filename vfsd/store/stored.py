"""A stored file's bytes again: rebuilt whole, or any range of it, from skeleton and planes or from its plain object.

`StoredFiles.describe` reads the catalogue and must be called by the thread that owns it; the `StoredFile` that it returns
may be used from any thread. Whatever is rebuilt whole is compared with the digest in the catalogue before anybody sees
it: a damaged store gives `StoredDataDamaged`, never wrong bytes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import xxhash

from vfsd.codec.blosc import FrameError
from vfsd.codec.remote import RemoteFrame
from vfsd.codec.shard import ShardError, ShardIndex, index_size
from vfsd.errors import StoredDataDamaged
from vfsd.images import (
    PixelRun,
    Skeleton,
    SkeletonError,
    StripError,
    TiffLayout,
    encode_strip,
    is_direct,
    place_plane,
    place_rest,
    swap_in_place,
)
from vfsd.store.catalogue import Catalogue, GroupRecord, InodeRecord, Kind, PlaneRecord
from vfsd.store.geometry import ArrayGeometry, GeometryError
from vfsd.store.holes import write_around_holes
from vfsd.store.planes import ReadChunk, decode_plane, decode_plane_range
from vfsd.store.pyramid import MAX_LEVELS, MEAN, STRIDE
from vfsd.store.recent import Recent
from vfsd.store.scratch import borrow
from vfsd.store.storage import LocalStorage, ObjectReader
from vfsd.store.targets import map_target
from vfsd.store.threads import in_threads

# An index of a field's shard is some hundred bytes; this many cover a whole plate of 384 wells and 9 fields.
CACHED_INDEXES = 4096
# Chunks of which the head is kept, for reads of parts: a kilobyte each, a large file of 1000 planes.
CACHED_HEADS = 1024
# A file of so many planes and bytes is rebuilt by several threads: below, a thread is not worth starting.
FEWEST_IN_THREADS, LEAST_IN_THREADS = 4, 32 << 20
THREADS = min(4, os.cpu_count() or 1)
# Planes of a file of which the disk is asked for before anything else is done.
ASKED_AHEAD = 2
# Plain objects are copied in pieces of this size: large reads, little memory.
PIECE = 4 << 20

# In the location of a group of labels `*` stands for each image of the plate.
LABELS_INSIDE = b"/*/labels/"


@final
class ShardIndexes:
    """Shard indexes and heads of chunks, read once; and `strips`, what was encoded last.

    Thread-safe: the lock covers the tables, never a read. What was begun to be read before a `forget` is used once and not kept:
    its shard may have been replaced.
    """

    def __init__(self, reader: ObjectReader) -> None:
        self._reader = reader
        self.strips: Recent[bytes] = Recent(len)
        self._lock = threading.Lock()
        self._forgotten = 0
        self._indexes: OrderedDict[bytes, ShardIndex] = OrderedDict()
        self._heads: OrderedDict[tuple[bytes, int], RemoteFrame] = OrderedDict()

    def index(self, key: bytes, chunk_count: int) -> ShardIndex:
        """The index of a shard; raises StoredDataDamaged when the shard is missing or its index is not sound."""
        with self._lock:
            found = self._indexes.get(key)
            if found is not None:
                self._indexes.move_to_end(key)
                return found
            forgotten = self._forgotten
        size = self._reader.size(key)
        tail = index_size(chunk_count)
        if size < tail:
            raise StoredDataDamaged(f"is cut short ({size} bytes, its index alone has {tail})", path=key)
        try:
            found = ShardIndex.parse(self._reader.read_range(key, size - tail, tail), chunk_count, size)
        except ShardError as error:
            raise StoredDataDamaged(str(error), path=key) from error
        with self._lock:
            if forgotten != self._forgotten:
                return found
            self._indexes[key] = found
            while len(self._indexes) > CACHED_INDEXES:
                self._indexes.popitem(last=False)
        return found

    def known_entries(self, key: bytes, positions: Iterable[int]) -> list[tuple[int, int]]:
        """Offset and size of those chunks that a shard has, if its index is in memory."""
        with self._lock:
            found = self._indexes.get(key)
        entries = [] if found is None else [found.entry(position) for position in positions]
        return [entry for entry in entries if entry is not None]

    def chunk_at_once(self, key: bytes, position: int) -> bytes | None:
        """The compressed bytes of a chunk where index and bytes are in memory; else None."""
        with self._lock:
            found = self._indexes.get(key)
        entry = None if found is None else found.entry(position)
        return None if entry is None else self._reader.read_at_once(key, *entry)

    def chunk(self, key: bytes, chunk_count: int, position: int) -> bytes | None:
        """The compressed bytes of a chunk, None where the shard has none."""
        entry = self.index(key, chunk_count).entry(position)
        return None if entry is None else self._reader.read_range(key, *entry)

    def borrowed_chunk(self, key: bytes, chunk_count: int, position: int) -> memoryview | None:
        """The same until this thread asks for the next."""
        entry = self.index(key, chunk_count).entry(position)
        if entry is None:
            return None
        chunk = borrow("chunk", entry[1])
        self._reader.read_into(key, entry[0], chunk)
        return chunk

    def frame(self, key: bytes, chunk_count: int, position: int) -> RemoteFrame | None:
        """A chunk that is read in parts, None where the shard has none; raises FrameError when it is none."""
        with self._lock:
            found = self._heads.get((key, position))
            if found is not None:
                self._heads.move_to_end((key, position))
                return found
            forgotten = self._forgotten
        entry = self.index(key, chunk_count).entry(position)
        if entry is None:
            return None
        begin, size = entry
        found = RemoteFrame(lambda offset, length: self._reader.read_range(key, begin + offset, length), size)
        with self._lock:
            if forgotten == self._forgotten:
                self._heads[key, position] = found
                while len(self._heads) > CACHED_HEADS:
                    self._heads.popitem(last=False)
        return found

    def forget(self) -> None:
        """Shards were replaced: read their indexes again."""
        with self._lock:
            self._forgotten += 1
            self._indexes.clear()
            self._heads.clear()
        self.strips.clear()


@final
@dataclass(frozen=True, slots=True)
class StoredPlane:
    """Where one page lies: the array's geometry, the shard's key, the page's chunks in it."""

    geometry: ArrayGeometry
    array_key: bytes
    index: tuple[int, ...]

    @property
    def shard_key(self) -> bytes:
        """Key of the shard."""
        place = self.geometry.shard_grid_position(self.index)
        return self.array_key + b"/" + self.geometry.shard_key(place).encode()

    @property
    def positions(self) -> range:
        """Where its chunks stand in the shard."""
        return self.geometry.positions_in_shard(self.index)

    def reader(self, shards: ShardIndexes) -> Callable[[int], memoryview | None]:
        """What `decode_plane` asks for chunks, one after the other."""
        key, count, positions = self.chunks()
        return lambda tile: shards.borrowed_chunk(key, count, positions[tile])

    def part_reader(self, shards: ShardIndexes) -> Callable[[int], RemoteFrame | None]:
        """What `decode_plane_range` asks for chunks."""
        key, count, positions = self.chunks()
        return lambda tile: shards.frame(key, count, positions[tile])

    def chunks(self) -> tuple[bytes, int, range]:
        """Key of the shard, how many chunks it has room for, and where this plane's stand."""
        try:
            return self.shard_key, self.geometry.chunks_per_shard, self.positions
        except GeometryError as error:  # a damaged row: the plane lies nowhere in the array
            raise StoredDataDamaged(str(error), path=self.array_key) from error


def labels_location(plate: bytes, name: str) -> bytes:
    """The location of a group of label images that lie inside the images of a plate, each at `<image>/labels/<name>`."""
    return plate + LABELS_INSIDE + name.encode()


def labelled_plate(location: bytes) -> tuple[bytes, str] | None:
    """The plate's location and the label's name, if this is a location that `labels_location` made."""
    plate, inside, name = location.rpartition(LABELS_INSIDE)
    return (plate, name.decode()) if inside and b"/" not in name else None


def folder_of(group: GroupRecord) -> bytes:
    """Key of the folder that all objects of a group lie below: for labels inside the images of a plate that plate."""
    inside = labelled_plate(group.location)
    return group.location if inside is None else inside[0]


def image_key(group: GroupRecord, image: str) -> bytes:
    """Key of an image of a group."""
    inside = labelled_plate(group.location) if group.form == "labels" else None
    parts = (
        (group.location, image.encode())
        if inside is None
        else (inside[0], image.encode(), b"labels", inside[1].encode())
    )
    return b"/".join(filter(None, parts))


def array_key(group: GroupRecord, image: str, level: int = 0) -> bytes:
    """Key of an array of an image in a group; level 0 has the full size."""
    return image_key(group, image) + b"/%d" % level


def shard_of_plane(group: GroupRecord, geometry: ArrayGeometry, plane: PlaneRecord) -> bytes:
    """Key of the full-size shard that a plane lies in; GeometryError for a damaged row."""
    return StoredPlane(geometry, array_key(group, plane.image), plane.index[: len(geometry.leading)]).shard_key


def group_levels(group: GroupRecord) -> tuple[int, str]:
    """How many levels each image of a group has below the full size, and how they are made (`pyramid`)."""
    document = json.loads(group.document)
    levels, method = document.get("levels", 0), document.get("downscaling", MEAN)
    if type(levels) is not int or not 0 <= levels <= MAX_LEVELS or method not in (MEAN, STRIDE):
        raise StoredDataDamaged("the catalogue's row of this image group is damaged", path=group.location)
    return levels, method


def group_geometry(group: GroupRecord) -> ArrayGeometry:
    """The geometry of every full-size array in a group; raises StoredDataDamaged."""
    try:
        return ArrayGeometry.from_document(json.loads(group.document)["array"])
    except (ValueError, KeyError, TypeError, GeometryError) as error:
        raise StoredDataDamaged(
            f"the catalogue's row of this image group is damaged ({error})", path=group.location
        ) from error


@final
class StoredFile:
    """One stored file, ready to be read from any thread."""

    def __init__(
        self,
        record: InodeRecord,
        skeleton: Skeleton | None,
        planes: tuple[StoredPlane, ...],
        reader: ObjectReader,
        shards: ShardIndexes,
    ) -> None:
        self.record = record
        self.skeleton = skeleton
        self.planes = planes
        self._reader = reader
        self._shards = shards

    # --- whole

    def rebuild(self, fd: int) -> None:
        """Write the whole file into `fd`, an empty file open for reading and writing, and compare its digest.

        Raises
        ------
        StoredDataDamaged
            The store's bytes are missing, damaged or not those that the digest is of.
        OSError
            From the target, ENOSPC above all (where planes are written through a mapping, it is allocated first).
        """
        size = self.record.size
        if size == 0:
            self._compare(xxhash.xxh3_128_digest(b""))
            return
        if self.skeleton is None:
            self._twice(lambda: self._copy_plain(fd))
            return
        self._ask_ahead()  # the disk works while the target is allocated
        self.rebuild_buffer(map_target(fd, size))

    def rebuild_at_once(self, fd: int) -> bool:
        """The same without sleeping on a disk, for a small file in memory: whether all that it takes was there.

        Raises
        ------
        OSError
            From the target.
        """
        if self.skeleton is None or len(self.planes) != 1 or self.skeleton.layout.compressed:
            return False
        plane = self.planes[0]
        try:
            key, _, positions = plane.chunks()
        except StoredDataDamaged:
            return False
        frames = [self._shards.chunk_at_once(key, at) for at in positions]
        if None in frames:
            return False
        out = np.empty(self.record.size, np.uint8).data
        place_rest(out, self.skeleton)
        try:
            self._fill_page(self.skeleton.layout, 0, out, frames.__getitem__)
            self._compare(xxhash.xxh3_128_digest(out))
        except StoredDataDamaged:
            return False  # who may sleep looks again, and says so
        return os.pwrite(fd, out, 0) == self.record.size

    def ask_ahead(self, most: int) -> None:
        """Have the kernel read the shard of the first plane, at most so many bytes, and read its index."""
        key, count, _ = self.planes[0].chunks()
        if isinstance(self._reader, LocalStorage):
            self._reader.ask_ahead(key, 0, most)
        self._shards.index(key, count)

    def _ask_ahead(self) -> None:
        """Have the kernel read the chunks of the first planes, where the shard's index is known; says nothing of trouble."""
        if isinstance(self._reader, LocalStorage):
            for plane in self.planes[:ASKED_AHEAD]:
                with contextlib.suppress(OSError, StoredDataDamaged):
                    key, _, positions = plane.chunks()
                    for entry in self._shards.known_entries(key, positions):
                        self._reader.ask_ahead(key, *entry)

    def rebuild_buffer(self, out: memoryview) -> None:
        """The same into a buffer of the file's size."""

        def fill() -> None:
            self._fill(out)
            self._compare(xxhash.xxh3_128_digest(out))

        self._twice(fill)

    def _twice(self, work: Callable[[], None]) -> None:
        """A flush may have replaced an object between two reads of it: what is damaged is looked at once more."""
        try:
            work()
        except StoredDataDamaged:
            self._shards.forget()
            if isinstance(self._reader, LocalStorage):
                self._reader.forget()
            work()

    def digest(self) -> bytes:
        """xxh3-128 of the file as it can be rebuilt now, read in pieces; for files too large to hold in memory."""
        hasher = xxhash.xxh3_128()
        for offset in range(0, self.record.size, PIECE):
            hasher.update(self.read_range(offset, min(PIECE, self.record.size - offset)))
        return hasher.digest()

    def check(self) -> None:
        """Rebuild without keeping it; raises StoredDataDamaged, also for a plain object with more bytes than the file."""
        if self.record.location is not None and (size := self._reader.size(self.record.location)) != self.record.size:
            raise StoredDataDamaged(f"has {size} bytes instead of {self.record.size}", path=self.record.location)
        if self.record.size > 16 * PIECE or self.skeleton is None:
            self._compare(self.digest())
        else:
            self.rebuild_buffer(borrow("rebuilt", self.record.size))

    def _fill(self, out: memoryview) -> None:
        if self.skeleton is None:
            for offset in range(0, len(out), PIECE):
                self._read_plain(offset, out[offset : offset + PIECE])
            return
        place_rest(out, self.skeleton)
        skeleton, many = self.skeleton, len(self.planes) >= FEWEST_IN_THREADS and len(out) >= LEAST_IN_THREADS
        in_threads(
            len(self.planes), lambda number: self._fill_page(skeleton.layout, number, out), THREADS if many else 1
        )

    def _fill_page(self, layout: TiffLayout, number: int, out: memoryview, read_chunk: ReadChunk | None = None) -> None:
        page, plane = layout.pages[number], self.planes[number]
        read_chunk = plane.reader(self._shards) if read_chunk is None else read_chunk
        if is_direct(page):
            segment = page.segments[0]
            target = out[segment.offset : segment.offset + segment.length]
            self._decode(plane, read_chunk, target)
            if layout.big_endian:
                swap_in_place(target, page.dtype.itemsize)
            return
        scratch = np.empty(page.nbytes, np.uint8).data
        self._decode(plane, read_chunk, scratch)
        try:
            place_plane(out, layout, number, scratch)
        except StripError as error:
            raise StoredDataDamaged(str(error), path=plane.shard_key) from error

    @staticmethod
    def _decode(plane: StoredPlane, read_chunk: ReadChunk, out: memoryview) -> None:
        try:
            absent = decode_plane(read_chunk, plane.geometry, out)
        except (FrameError, GeometryError) as error:
            raise StoredDataDamaged(str(error), path=plane.array_key) from error
        if absent:
            raise StoredDataDamaged(f"has no chunk for the plane {plane.index}", path=plane.shard_key)

    def _copy_plain(self, fd: int) -> None:
        os.ftruncate(fd, 0)  # of an earlier try nothing may show through a hole
        os.ftruncate(fd, self.record.size)
        hasher = xxhash.xxh3_128()
        buffer = memoryview(bytearray(min(PIECE, self.record.size)))
        for offset in range(0, self.record.size, PIECE):
            piece = buffer[: min(PIECE, self.record.size - offset)]
            self._read_plain(offset, piece)
            hasher.update(piece)
            write_around_holes(fd, piece, offset)
        self._compare(hasher.digest())

    def _read_plain(self, offset: int, out: memoryview) -> None:
        if self.record.location is None:
            raise StoredDataDamaged("the catalogue does not say where its bytes are")
        self._reader.read_into(self.record.location, offset, out)

    def _compare(self, digest: bytes) -> None:
        if digest != self.record.digest:
            raise StoredDataDamaged("does not match its digest", path=self.record.location)

    # --- ranges

    def read_range(self, offset: int, size: int) -> bytes:
        """The file's bytes [offset, offset + size), decoding only the blocks that they touch; not compared with a digest.

        Raises
        ------
        StoredDataDamaged
            Something that the range needs is missing or malformed.
        """
        out = memoryview(bytearray(size))
        if self.skeleton is None:
            self._read_plain(offset, out)
            return bytes(out)
        for place, data in self.skeleton.read_rest(offset, size):
            out[place - offset : place - offset + len(data)] = data
        layout = self.skeleton.layout
        for run in layout.locate(offset, size):
            start = run.file_offset - offset
            if layout.pages[run.page].coding is None:
                self._read_run(run, out[start : start + run.length])
            else:
                skip = run.file_offset - layout.pages[run.page].segments[run.segment].offset
                out[start : start + run.length] = self._strip(run)[skip : skip + run.length]
        return bytes(out)

    def _strip(self, run: PixelRun) -> bytes:
        """The codes of a whole compressed strip: it was made just now, or is made of its rows."""
        key = (self.record.ino, self.record.version, run.page, run.segment)
        return self._shards.strips.get(key, lambda: self._make_strip(run))

    def _make_strip(self, run: PixelRun) -> bytes:
        assert self.skeleton is not None
        layout, plane = self.skeleton.layout, self.planes[run.page]
        page = layout.pages[run.page]
        start, length = page.strip_place(run.segment)
        rows = np.empty(length, np.uint8).data
        self._decode_part(plane, start, rows)
        strip = bytearray(page.segments[run.segment].length)
        try:
            encode_strip(layout, page, run.segment, rows, memoryview(strip))
        except StripError as error:
            raise StoredDataDamaged(str(error), path=plane.shard_key) from error
        return bytes(strip)

    def _read_run(self, run: PixelRun, out: memoryview) -> None:
        assert self.skeleton is not None
        layout, plane, plane_offset = self.skeleton.layout, self.planes[run.page], run.plane_offset
        itemsize = layout.pages[run.page].dtype.itemsize if layout.big_endian else 1
        before = plane_offset % itemsize
        length = -(-(before + len(out)) // itemsize) * itemsize
        direct = itemsize == 1
        target = out if direct else memoryview(bytearray(length))
        self._decode_part(plane, plane_offset - before, target)
        if not direct:
            swap_in_place(target, itemsize)
            out[:] = target[before : before + len(out)]

    def _decode_part(self, plane: StoredPlane, offset: int, out: memoryview) -> None:
        try:
            absent = decode_plane_range(plane.part_reader(self._shards), plane.geometry, offset, out)
        except (FrameError, GeometryError) as error:
            raise StoredDataDamaged(str(error), path=plane.array_key) from error
        if absent:
            raise StoredDataDamaged(f"has no chunk for the plane {plane.index}", path=plane.shard_key)

    # --- for people and programs

    def location(self) -> dict[str, Any]:
        """Where the bytes lie, for JSON: a plain file, or array, chunk, shard, offset and codec of its first plane."""
        answer: dict[str, Any] = {"digest": None if self.record.digest is None else self.record.digest.hex()}
        if self.record.location is not None:
            answer["file"] = os.fsdecode(self.record.location)
        if self.planes:
            plane = self.planes[0]
            position = plane.geometry.positions_in_shard(plane.index)[0]
            entry = self._shards.index(plane.shard_key, plane.geometry.chunks_per_shard).entry(position)
            answer |= {
                "array": os.fsdecode(plane.array_key),
                "chunk": list(plane.index),
                "planes": len(self.planes),
                "shard": os.fsdecode(plane.shard_key),
                "offset": None if entry is None else entry[0],
                "length": None if entry is None else entry[1],
                "codec": plane.geometry.blosc.codec_document(),
            }
        return answer


@final
class StoredFiles:
    """Describes stored files from one catalogue, through one reader of objects (a store's, or a transaction's)."""

    def __init__(self, catalogue: Catalogue, reader: ObjectReader) -> None:
        self._catalogue = catalogue
        self._reader = reader
        self.shards = ShardIndexes(reader)
        self._groups: dict[int, tuple[GroupRecord, ArrayGeometry]] = {}

    def adopt(self, catalogue: Catalogue) -> None:
        """Use a new generation from now on."""
        self._catalogue = catalogue
        self._groups.clear()
        self.shards.forget()

    def group(self, group: int) -> tuple[GroupRecord, ArrayGeometry]:
        """A group and its geometry."""
        found = self._groups.get(group)
        if found is None:
            record = self._catalogue.group(group)
            found = self._groups[group] = (record, group_geometry(record))
        return found

    def plane(self, plane: PlaneRecord) -> StoredPlane:
        """Where a plane lies."""
        record, geometry = self.group(plane.group)
        return StoredPlane(geometry, array_key(record, plane.image), plane.index[: len(geometry.leading)])

    def describe(self, record: InodeRecord) -> StoredFile:
        """A file of kind PLANES or PLAIN.

        Raises
        ------
        StoredDataDamaged
            The catalogue contradicts itself about it.
        OSError
            EIO for a kind that has no bytes in the store.
        """
        if record.kind is Kind.PLAIN:
            return StoredFile(record, None, (), self._reader, self.shards)
        if record.kind is not Kind.PLANES or record.skeleton is None:
            raise OSError(errno.EIO, "has no bytes in the store")
        try:
            skeleton = Skeleton.from_bytes(self._catalogue.skeleton(record.skeleton))
        except SkeletonError as error:
            raise StoredDataDamaged(f"its skeleton in the catalogue is damaged ({error})") from error
        rows = self._catalogue.planes(record.ino)
        if len(rows) != skeleton.layout.plane_count or skeleton.layout.size != record.size:
            raise StoredDataDamaged("the catalogue contradicts itself about its planes")
        return StoredFile(record, skeleton, tuple(self.plane(row) for row in rows), self._reader, self.shards)
