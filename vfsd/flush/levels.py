"""Writing the levels of a shard's planes beside it, and comparing them: smaller copies of the image for viewers.

Levels follow from the full-size planes: no file needs them. Chunks of planes that stay are copied like the others;
what of them cannot be read, or is known to be damaged, is made again. What was written is read back like any object.
Belongs to the job that writes the shard, in one worker thread; `check_level_plane` may run anywhere.
"""

from __future__ import annotations

import contextlib
import os
from typing import final

import numpy as np

from vfsd.codec.blosc import FrameError
from vfsd.codec.shard import ShardWriter
from vfsd.errors import StoredDataDamaged
from vfsd.flush.shards import LevelShard, ShardJob, positions_in_shard
from vfsd.store import Transaction
from vfsd.store.catalogue import PlaneRecord
from vfsd.store.direct import DirectFile
from vfsd.store.geometry import ArrayGeometry, GeometryError
from vfsd.store.objects import ObjectDigest
from vfsd.store.planes import decode_plane, encode_plane
from vfsd.store.pyramid import plane_levels
from vfsd.store.storage import start_writeback
from vfsd.store.stored import ShardIndexes

# Levels are written in pieces of this size: all of them together are a third of the full size, and each has its own.
LEVEL_PIECE = 1 << 20


@final
class LevelWriters:
    """The level shards of one job; `close` in any case, `finish` when every plane is there."""

    def __init__(self, transaction: Transaction, job: ShardJob, old_shards: ShardIndexes) -> None:
        self._transaction = transaction
        self._job = job
        self._old_shards = old_shards
        self._open = contextlib.ExitStack()
        self._shards: list[tuple[LevelShard, int, ShardWriter]] = []
        try:
            for level in job.levels:
                fd = transaction.create(level.key)
                self._open.callback(os.close, fd)
                self._shards.append(
                    (level, fd, ShardWriter(fd, level.geometry.chunks_per_shard, DirectFile(fd, LEVEL_PIECE)))
                )
        except BaseException:  # a full disk: nobody gets this object, to close it
            self._open.close()
            raise

    def add(self, plane: PlaneRecord, pixels: memoryview) -> None:
        """Make the levels of a new plane, from its little-endian pixels."""
        job = self._job
        if not self._shards:
            return
        for number, smaller in enumerate(plane_levels(pixels, job.geometry, len(self._shards), job.downscaling)):
            self._append(number, plane, encode_plane(smaller, self._shards[number][0].geometry))

    def keep(self, plane: PlaneRecord) -> None:
        """Copy the levels of a plane that stays, or make them again from its chunks."""
        if not self._shards:
            return
        full, *smaller = self._job.old_place(plane).levels
        copies = [] if self._job.remake_levels else [self._copies(old) for old in smaller]
        if len(copies) == len(self._shards) and all(copies):
            for number, chunks in enumerate(copies):
                self._append(number, plane, chunks)
            return
        pixels = np.empty(self._job.geometry.plane_bytes, np.uint8).data
        key, geometry, positions = full
        try:
            absent = decode_plane(lambda tile: self._old_chunk(key, geometry, positions[tile]), geometry, pixels)
        except (FrameError, GeometryError):
            return  # the plane itself is damaged, which its file's verification says
        if not absent:
            self.add(plane, pixels)

    def _old_chunk(self, key: bytes, geometry: ArrayGeometry, position: int) -> bytes | None:
        try:
            return self._old_shards.chunk(key, geometry.chunks_per_shard, position)
        except (StoredDataDamaged, OSError):
            return None

    def _copies(self, old: tuple[bytes, ArrayGeometry, range]) -> list[bytes]:
        """A plane's chunks in the level's old shard; empty unless all are there."""
        key, geometry, positions = old
        chunks = [self._old_chunk(key, geometry, position) for position in positions]
        found = [chunk for chunk in chunks if chunk is not None]
        return found if len(found) == len(chunks) else []

    def _append(self, number: int, plane: PlaneRecord, chunks: list[bytes]) -> None:
        level, _, writer = self._shards[number]
        for position, chunk in zip(positions_in_shard(level.geometry, plane), chunks, strict=True):
            writer.append(position, chunk)

    def finish(self) -> None:
        """Write the indexes."""
        for level, fd, writer in self._shards:
            size = writer.finish()
            self._transaction.describe(level.key, ObjectDigest(size, writer.digest))
            start_writeback(fd)

    def close(self) -> None:
        """Let go of the files."""
        self._open.close()


def check_level_plane(
    shards: ShardIndexes, full: tuple[bytes, ArrayGeometry], levels: list[LevelShard], method: str, plane: PlaneRecord
) -> tuple[bytes, str] | None:
    """Compare the levels of a stored plane with what the plane gives; key and trouble of the first that differs.

    Parameters
    ----------
    full : tuple of bytes and ArrayGeometry
        Key and geometry of the full-size shard. A plane that is itself damaged is its file's matter, not said here.
    """
    pixels = np.empty(full[1].plane_bytes, np.uint8).data
    if _read(shards, full[0], full[1], plane, pixels) is not None:
        return None
    for level, expected in zip(levels, plane_levels(pixels, full[1], len(levels), method), strict=True):
        found = np.empty(level.geometry.plane_bytes, np.uint8).data
        problem = _read(shards, level.key, level.geometry, plane, found)
        if problem is None and not _same(found, expected, level.geometry):
            problem = "is not what the full size gives"
        if problem is not None:
            return level.key, problem
    return None


def _read(shards: ShardIndexes, key: bytes, geometry: ArrayGeometry, plane: PlaneRecord, out: memoryview) -> str | None:
    positions = positions_in_shard(geometry, plane)
    try:
        absent = decode_plane(lambda tile: shards.chunk(key, geometry.chunks_per_shard, positions[tile]), geometry, out)
    except (FrameError, GeometryError, OSError) as problem:
        return str(problem)
    except StoredDataDamaged as problem:
        return problem.message
    return f"has no chunk for the plane {plane.index}" if absent else None


def _same(found: memoryview, expected: memoryview, geometry: ArrayGeometry) -> bool:
    one, other = (np.frombuffer(part, geometry.pixel_type) for part in (found, expected))
    # not-a-numbers may differ in bits that mean nothing
    return np.array_equal(one, other, equal_nan=geometry.pixel_type.kind == "f")
