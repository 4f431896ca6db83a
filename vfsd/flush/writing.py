"""Writing a flush's objects into a transaction: shards, and plain files.

A shard is written once, front to back: chunks of planes that stay are copied compressed from the shard it replaces, new
planes are read, compressed and appended. Each file is read once: digest, skeleton and planes come from the same bytes.
Jobs run in worker threads, a few planes in memory each.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

import numpy as np

from vfsd.codec.shard import ShardWriter
from vfsd.errors import StoredDataDamaged, VfsdError
from vfsd.flush.items import WHOLE_FILE, Item, ItemChanged
from vfsd.images import Skeleton, extract_skeleton
from vfsd.images.decode import UndecodableImage, decode_tiff
from vfsd.images.pixels import read_plane, swap_in_place
from vfsd.images.reading import TruncatedImage
from vfsd.store import Transaction
from vfsd.store.catalogue import PlaneRecord
from vfsd.store.geometry import ArrayGeometry
from vfsd.store.ngff import DisplayWindow, display_window
from vfsd.store.planes import encode_plane
from vfsd.store.storage import write_all
from vfsd.store.stored import ShardIndexes

# What may go wrong with one file without stopping the others.
ITEM_PROBLEMS = (ItemChanged, TruncatedImage, UndecodableImage, StoredDataDamaged)


@final
@dataclass(slots=True)
class ShardJob:
    """One shard to write.

    Attributes
    ----------
    new : list of (Item, PlaneRecord)
        Planes to be read and compressed; the pages of one item stand together.
    kept : list of int
        Positions whose chunks are copied from the shard that is there.
    """

    key: bytes
    geometry: ArrayGeometry
    new: list[tuple[Item, PlaneRecord]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    @property
    def signature(self) -> frozenset[tuple[int, int, int]]:
        """What makes two jobs write the same shard."""
        fresh = {
            (item.ino, plane.page, self.geometry.positions_in_shard(self._index(plane))[0]) for item, plane in self.new
        }
        return frozenset(fresh | {(0, 0, position) for position in self.kept})

    def _index(self, plane: PlaneRecord) -> tuple[int, ...]:
        return plane.index[: len(self.geometry.leading)]


class Failures:
    """Files that could not be stored, by inode, with the reason; filled by jobs in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reasons: dict[int, str] = {}

    def add(self, item: Item, problem: BaseException) -> None:
        """Record a file's problem; the first one counts."""
        with self._lock:
            if isinstance(problem, OSError) and not isinstance(problem, VfsdError):
                reason = problem.strerror or str(problem)
            else:
                reason = str(problem)
            self.reasons.setdefault(item.ino, reason)


@final
class ObjectWriter:
    """Carries out jobs into one transaction.

    Parameters
    ----------
    wanted_windows : dict
        Inode → (group, channel) whose display window is to be taken from that item's plane; results in `windows`.
    """

    def __init__(
        self, transaction: Transaction, old_shards: ShardIndexes, wanted_windows: dict[int, tuple[int, int]]
    ) -> None:
        self._transaction = transaction
        self._old_shards = old_shards
        self.wanted_windows = wanted_windows
        self.windows: dict[tuple[int, int], DisplayWindow] = {}
        self.skeletons: dict[int, Skeleton] = {}
        self.failures = Failures()

    # --- shards

    def write_shard(self, job: ShardJob, old_key: bytes | None) -> None:
        """Write one shard.

        Raises
        ------
        OSError
            The store's disk failed (full, for one): the flush as a whole cannot go on.
        StoredDataDamaged
            The shard whose planes are to be kept is damaged.
        """
        fd = self._transaction.create(job.key)
        try:
            writer = ShardWriter(fd, job.geometry.chunks_per_shard)
            if job.kept and old_key is not None:
                for position in job.kept:
                    chunk = self._old_shards.chunk(old_key, job.geometry.chunks_per_shard, position)
                    if chunk is not None:
                        writer.append(position, chunk)
            self._append_items(writer, job)
            writer.finish()
        finally:
            os.close(fd)

    def _append_items(self, writer: ShardWriter, job: ShardJob) -> None:
        pages: dict[int, tuple[Item, list[PlaneRecord]]] = {}
        for item, plane in job.new:
            pages.setdefault(item.ino, (item, []))[1].append(plane)
        for item, planes in pages.values():
            try:
                for plane, chunks in self._encoded(item, planes, job.geometry):
                    index = plane.index[: len(job.geometry.leading)]
                    for position, chunk in zip(job.geometry.positions_in_shard(index), chunks, strict=True):
                        writer.append(position, chunk)
            except _ReadFailed as failed:
                self.failures.add(item, failed.problem)

    def _encoded(
        self, item: Item, planes: list[PlaneRecord], geometry: ArrayGeometry
    ) -> Iterator[tuple[PlaneRecord, list[bytes]]]:
        """The compressed planes of an item, one at a time; what goes wrong with reading it is `_ReadFailed`."""
        try:
            yield from self._encode_item(item, planes, geometry)
        except (*ITEM_PROBLEMS, OSError) as problem:
            raise _ReadFailed(problem) from problem

    def _encode_item(
        self, item: Item, planes: list[PlaneRecord], geometry: ArrayGeometry
    ) -> Iterator[tuple[PlaneRecord, list[bytes]]]:
        if item.layout is None:
            yield planes[0], self._encode_decoded(item, geometry)
        elif item.size <= WHOLE_FILE and len(planes) == item.layout.plane_count:
            yield from self._encode_whole(item, planes, geometry)
        else:
            with item.opened() as fd:
                if item.ino not in self.skeletons:
                    for _ in item.pieces(fd):
                        pass  # for the digest
                    self.skeletons[item.ino] = extract_skeleton(fd, item.layout)
                for plane in planes:
                    page = item.layout.pages[plane.page]
                    pixels = np.empty(page.nbytes, np.uint8).data
                    read_plane(fd, page, pixels)
                    yield plane, self._encode(item, pixels, geometry)

    def _encode_whole(
        self, item: Item, planes: list[PlaneRecord], geometry: ArrayGeometry
    ) -> Iterator[tuple[PlaneRecord, list[bytes]]]:
        """One pass: the whole file in memory gives digest, skeleton and planes."""
        assert item.layout is not None
        content = item.read_whole()
        layout = item.layout
        rest = b"".join(content[start : start + length] for start, length, _ in layout.gaps())
        self.skeletons[item.ino] = Skeleton(layout, rest)
        for plane in planes:
            page = layout.pages[plane.page]
            if len(page.segments) == 1:
                segment = page.segments[0]
                pixels = content[segment.offset : segment.offset + segment.length]
            else:
                pixels = np.empty(page.nbytes, np.uint8).data
                done = 0
                for segment in page.segments:
                    pixels[done : done + segment.length] = content[segment.offset : segment.offset + segment.length]
                    done += segment.length
            yield plane, self._encode(item, pixels, geometry)

    def _encode(self, item: Item, pixels: memoryview, geometry: ArrayGeometry) -> list[bytes]:
        assert item.layout is not None
        if item.layout.big_endian:
            swap_in_place(pixels, geometry.itemsize)
        self._look_at(item, pixels, geometry)
        return encode_plane(pixels, geometry)

    def _encode_decoded(self, item: Item, geometry: ArrayGeometry) -> list[bytes]:
        """The pixels of a compressed file, for the plate; its bytes are stored as a plain file besides."""
        with item.opened() as fd:
            pixels = decode_tiff(fd, max_bytes=geometry.plane_bytes)[0]
        if pixels.nbytes != geometry.plane_bytes:
            raise ItemChanged("changed while it was being stored")
        content = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")).data.cast("B")
        self._look_at(item, content, geometry)
        return encode_plane(content, geometry)

    def _look_at(self, item: Item, pixels: memoryview, geometry: ArrayGeometry) -> None:
        wanted = self.wanted_windows.get(item.ino)
        if wanted is not None and wanted not in self.windows:
            self.windows[wanted] = display_window(np.frombuffer(pixels, geometry.pixel_type))

    # --- plain files

    def write_plain(self, item: Item, key: bytes) -> None:
        """Store a file's bytes as they are; raises OSError when the store's disk fails."""
        try:
            source = item.opened()
            with source as fd:
                target = self._transaction.create(key)
                try:
                    for piece in self._read_pieces(item, fd):
                        write_all(target, piece)
                finally:
                    os.close(target)
        except _ReadFailed as failed:
            self._transaction.drop(key)
            self.failures.add(item, failed.problem)
        except (ItemChanged, StoredDataDamaged, FileNotFoundError) as problem:
            self._transaction.drop(key)
            self.failures.add(item, problem)

    @staticmethod
    def _read_pieces(item: Item, fd: int) -> Iterator[memoryview]:
        try:
            yield from item.pieces(fd)
        except OSError as problem:
            raise _ReadFailed(problem) from problem


class _ReadFailed(Exception):
    """Reading a file failed, not writing the store."""

    def __init__(self, problem: Exception) -> None:
        super().__init__(str(problem))
        self.problem = problem
