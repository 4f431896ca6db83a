"""Writing a flush's objects into a transaction: shards, and plain files.

A shard is written once, front to back: chunks of planes that stay are copied compressed from the shard it replaces, new
planes are read, compressed and appended. Each file is read once: digest, skeleton and planes come from the same bytes.
Jobs run in worker threads, a few planes in memory each.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Collection, Iterator
from typing import final

import numpy as np

from vfsd.codec.shard import ShardWriter
from vfsd.errors import StoredDataDamaged, VfsdError
from vfsd.flush.items import Item, ItemChanged
from vfsd.flush.levels import LevelWriters
from vfsd.flush.shards import ShardJob, is_read_at_once
from vfsd.images import (
    Skeleton,
    StripError,
    TruncatedImage,
    UndecodableImage,
    decode_tiff,
    extract_skeleton,
    load_plane,
    take_plane,
)
from vfsd.store import Transaction
from vfsd.store.catalogue import PlaneRecord
from vfsd.store.direct import DirectFile
from vfsd.store.geometry import ArrayGeometry
from vfsd.store.holes import write_around_holes
from vfsd.store.ngff import DisplayWindow, display_window
from vfsd.store.objects import ObjectDigest
from vfsd.store.planes import encode_plane
from vfsd.store.storage import start_writeback
from vfsd.store.stored import ShardIndexes
from vfsd.store.threads import in_threads

# The levels of planes from this size on are made in a thread beside: below, it would take as long to start.
LEVELS_BESIDE = 2 << 20
# What may go wrong with one file without stopping the others.
ITEM_PROBLEMS = (ItemChanged, TruncatedImage, StripError, UndecodableImage, StoredDataDamaged)


@final
class Failures:
    """Files with which something went wrong, by inode, with the reason; filled by jobs in any thread.

    Attributes
    ----------
    kept : dict
        Files that could not be stored.
    plain : dict
        Files whose planes could not be stored: their bytes can still be.
    damaged_shards : set of bytes
        Keys of shards that cannot take a plane: what they hold already cannot be read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.kept: dict[int, str] = {}
        self.plain: dict[int, str] = {}
        self.damaged_shards: set[bytes] = set()

    def keep(self, item: Item, problem: BaseException) -> None:
        """A file cannot be stored; the first problem counts."""
        with self._lock:
            self.kept.setdefault(item.ino, reason_of(problem))

    def make_plain(self, item: Item, problem: BaseException) -> None:
        """A file's planes cannot be stored."""
        with self._lock:
            self.plain.setdefault(item.ino, reason_of(problem))

    def give_up_shard(self, job: ShardJob, old_key: bytes, problem: StoredDataDamaged) -> None:
        """A shard stays as it is, damaged; what was to come into it is stored plain, what was to leave it stays."""
        with self._lock:
            if old_key != job.old_key:  # the next round moves nothing out of it
                self.damaged_shards.add(old_key)
                return
            self.damaged_shards.add(job.key)
            for item, _ in job.new:
                self.plain.setdefault(item.ino, f"the shard of its place is damaged ({reason_of(problem)})")


def reason_of(problem: BaseException) -> str:
    """A problem in words, without the file's name."""
    if isinstance(problem, OSError):
        return problem.strerror or str(problem)
    return problem.message if isinstance(problem, VfsdError) else str(problem)


@final
class ObjectWriter:
    """Carries out jobs into one transaction.

    Parameters
    ----------
    old_shards : ShardIndexes
        Reads the store as it is.

    Attributes
    ----------
    wanted_windows : collection of (int, int)
        Inodes and pages from whose plane a display window is to be taken; `windows` has the results.
    skeletons : dict
        Inode → the skeleton of what was stored as planes, as bytes: a whole plate's wait here until the commit.
    """

    def __init__(self, transaction: Transaction, old_shards: ShardIndexes) -> None:
        self._transaction = transaction
        self._old_shards = old_shards
        self.wanted_windows: Collection[tuple[int, int]] = ()
        self.windows: dict[tuple[int, int], DisplayWindow] = {}
        self.skeletons: dict[int, bytes] = {}
        self.failures = Failures()

    # --- shards

    def write_shard(self, job: ShardJob) -> None:
        """Write one shard.

        Raises
        ------
        OSError
            The store's disk failed (full, for one): the flush as a whole cannot go on.
        """
        with contextlib.ExitStack() as opened:
            fd = self._transaction.create(job.key)
            opened.callback(os.close, fd)
            writer = ShardWriter(fd, job.geometry.chunks_per_shard, DirectFile(fd))
            levels = LevelWriters(self._transaction, job, self._old_shards)
            opened.callback(levels.close)
            try:
                for plane in job.kept:
                    old_key, old_geometry, old_positions = job.old_place(plane).levels[0]
                    for position, old_position in zip(job.positions(plane), old_positions, strict=True):
                        chunk = self._kept_chunk(old_key, old_geometry, old_position)
                        if chunk is not None:
                            writer.append(position, chunk)
                    levels.keep(plane)
                for item, planes in job.items.values():
                    self._append_item(writer, levels, job, item, planes)
            except _OldShardDamaged as damaged:
                self.failures.give_up_shard(job, damaged.key, damaged.problem)
                return
            size = writer.finish()
            self._transaction.describe(job.key, ObjectDigest(size, writer.digest))
            start_writeback(fd)
            levels.finish()

    def _kept_chunk(self, key: bytes, geometry: ArrayGeometry, position: int) -> bytes | None:
        try:
            return self._old_shards.chunk(key, geometry.chunks_per_shard, position)
        except StoredDataDamaged as problem:
            raise _OldShardDamaged(key, problem) from problem
        except OSError as problem:  # a bad sector: as damaged as anything
            raise _OldShardDamaged(key, StoredDataDamaged(reason_of(problem), path=key)) from problem

    def compare_kept(self, job: ShardJob) -> None:
        """Whether the chunks that were copied into a shard are the old one's, which goes with the commit.

        Raises
        ------
        OSError
            They are not: the store's disk does not keep what is written to it.
        """
        written = ShardIndexes(self._transaction)
        for plane in job.kept:
            old_key, old_geometry, old_positions = job.old_place(plane).levels[0]
            for position, old_position in zip(job.positions(plane), old_positions, strict=True):
                try:
                    copy = written.chunk(job.key, job.geometry.chunks_per_shard, position)
                    same = copy == self._old_shards.chunk(old_key, old_geometry.chunks_per_shard, old_position)
                except StoredDataDamaged as problem:
                    raise OSError(errno.EIO, f"a shard does not read back ({problem.message})", job.key) from problem
                if not same:
                    raise OSError(errno.EIO, "a shard does not read back as it was written", job.key)

    def _append_item(
        self, writer: ShardWriter, levels: LevelWriters, job: ShardJob, item: Item, planes: list[PlaneRecord]
    ) -> None:
        try:
            for plane, pixels in self._read(item, planes, job.geometry):
                self._look_at(item, plane.page, pixels, job.geometry)
                _append_plane(writer, levels, job, plane, pixels)
        except _ReadFailed as failed:
            if item.layout is None:  # only the decoded copy for the plate is lacking
                self.failures.make_plain(item, failed.problem)
            else:
                self.failures.keep(item, failed.problem)

    def _read(
        self, item: Item, planes: list[PlaneRecord], geometry: ArrayGeometry
    ) -> Iterator[tuple[PlaneRecord, memoryview]]:
        """The planes of an item, little-endian, one at a time; what goes wrong with reading it is `_ReadFailed`."""
        try:
            yield from self._read_item(item, planes, geometry)
        except (*ITEM_PROBLEMS, OSError) as problem:
            raise _ReadFailed(problem) from problem

    def _read_item(
        self, item: Item, planes: list[PlaneRecord], geometry: ArrayGeometry
    ) -> Iterator[tuple[PlaneRecord, memoryview]]:
        if item.layout is None:
            yield planes[0], self._read_decoded(item, geometry)
        elif is_read_at_once(item, planes):
            yield from self._read_whole(item, planes)
        else:
            with item.opened() as fd:
                for plane in planes:
                    yield plane, load_plane(fd, item.layout, plane.page)

    def read_apart(self, item: Item) -> None:
        """Digest and skeleton of a file whose planes are read one by one: it is large, or goes into several shards."""
        assert item.layout is not None
        try:
            with item.opened() as fd:
                for _ in item.pieces(fd):
                    pass
                self.skeletons[item.ino] = extract_skeleton(fd, item.layout).to_bytes()
        except (*ITEM_PROBLEMS, OSError) as problem:
            self.failures.keep(item, problem)

    def _read_whole(self, item: Item, planes: list[PlaneRecord]) -> Iterator[tuple[PlaneRecord, memoryview]]:
        """One pass: the whole file in memory gives digest, skeleton and planes."""
        assert item.layout is not None
        content = item.read_whole()
        layout = item.layout
        rest = b"".join(content[start : start + length] for start, length, _ in layout.gaps())
        self.skeletons[item.ino] = Skeleton(layout, rest).to_bytes()
        for plane in planes:
            yield plane, take_plane(content, layout, plane.page)

    @staticmethod
    def _read_decoded(item: Item, geometry: ArrayGeometry) -> memoryview:
        """The pixels of a compressed file, for the plate; its bytes are stored as a plain file besides."""
        with item.opened() as fd:
            pixels = decode_tiff(fd, max_bytes=geometry.plane_bytes)[0]
        if pixels.nbytes != geometry.plane_bytes:
            raise ItemChanged("changed while it was being stored")
        return np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).data.cast("B")

    def _look_at(self, item: Item, page: int, pixels: memoryview, geometry: ArrayGeometry) -> None:
        if (item.ino, page) in self.wanted_windows and (item.ino, page) not in self.windows:
            self.windows[item.ino, page] = display_window(np.frombuffer(pixels, geometry.pixel_type))

    # --- plain files

    def write_plain(self, item: Item, key: bytes) -> None:
        """Store a file's bytes as they are; raises OSError when the store's disk fails."""
        target = self._transaction.create(key)
        size = 0
        try:
            for piece in self._read_pieces(item):
                write_around_holes(target, piece, size)
                size += len(piece)
            os.ftruncate(target, size)
            assert item.digest is not None  # the pieces came to their end
            self._transaction.describe(key, ObjectDigest(size, item.digest))
            start_writeback(target)
        except _ReadFailed as failed:
            self.failures.keep(item, failed.problem)
        finally:
            os.close(target)

    @staticmethod
    def _read_pieces(item: Item) -> Iterator[memoryview]:
        try:
            with item.opened() as fd:
                yield from item.pieces(fd)
        except (*ITEM_PROBLEMS, OSError) as problem:
            raise _ReadFailed(problem) from problem

    def link_plain(self, item: Item, key: bytes) -> None:
        """Put a plain object under another key; its bytes are compared when it is verified."""
        assert item.stored is not None
        location = item.stored.record.location
        assert location is not None
        item.digest = item.stored.record.digest
        if location == key:
            return
        assert item.digest is not None
        try:
            self._transaction.link(location, key)
            self._transaction.describe(key, ObjectDigest(item.size, item.digest))
        except FileNotFoundError:
            self.failures.keep(item, StoredDataDamaged("is missing from the store", path=location))


def _append_plane(
    writer: ShardWriter, levels: LevelWriters, job: ShardJob, plane: PlaneRecord, pixels: memoryview
) -> None:
    """Compress and append a plane, and beside that, where it is large, make its levels."""

    def append(part: int) -> None:
        if part:
            levels.add(plane, pixels)
            return
        for position, chunk in zip(job.positions(plane), encode_plane(pixels, job.geometry), strict=True):
            writer.append(position, chunk)

    in_threads(2, append, 2 if job.levels and len(pixels) >= LEVELS_BESIDE else 1)


class _OldShardDamaged(Exception):
    """The shard whose planes are to be kept cannot be read."""

    def __init__(self, key: bytes, problem: StoredDataDamaged) -> None:
        super().__init__(str(problem))
        self.key = key
        self.problem = problem


class _ReadFailed(Exception):
    """Reading a file failed, not writing the store."""

    def __init__(self, problem: Exception) -> None:
        super().__init__(str(problem))
        self.problem = problem
