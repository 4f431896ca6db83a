"""Pixels out of somebody else's arrays: a stretch of a plane, of which only the chunks touched are read and decoded.

Where the codec lets us, only a part of a chunk is decoded (`Pipeline.ranged`); other chunks are decoded whole and kept for a
moment in a bounded cache that all arrays share, since a program reads a plane in many pieces. A chunk that is not there
reads as the fill value. A chunk file that is replaced is read anew: what is kept goes by the file's identity.

Damaged chunks give EIO with their path and the reason, and never wrong bytes where the codec can tell. Safe in any thread.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Hashable, Sequence
from typing import Any, Final, final

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from vfsd.codec import FrameError, ShardError, ShardIndex, index_size
from vfsd.codec.remote import RemoteFrame
from vfsd.errors import shown_path
from vfsd.store.foreign.array import ForeignArray
from vfsd.store.foreign.codecs import OVERHEAD, ChunkError
from vfsd.store.foreign.folder import ABSENT, ForeignFolder, identity
from vfsd.store.recent import Recent

_Bytes = NDArray[np.uint8]

# Decoded chunks of the planes that a few programs read now.
KEPT_CHUNK_BYTES: Final = 64 << 20
# Indexes of shards, 16 bytes a chunk.
KEPT_INDEX_BYTES: Final = 16 << 20
# A larger chunk that can only be decoded as a whole is not: a read of a few bytes would take all memory.
MOST_CHUNK_BYTES: Final = 1 << 30
# Chunks from this size on are decoded one at a time, however many readers there are.
LARGE_CHUNK: Final = 32 << 20
# Part of a chunk is decoded by itself if it is less than this part of it; else the rest is probably wanted next.
WORTH_WHOLE: Final = 4
# Rows up to this size are read whole; of wider ones only the columns that are wanted.
NARROW_ROW: Final = 1 << 20


@final
class ChunkReader:
    """See the module; one for all arrays of a mount."""

    def __init__(self, folder: ForeignFolder) -> None:
        self._folder = folder
        self._chunks: Recent[_Bytes] = Recent(lambda chunk: chunk.nbytes, KEPT_CHUNK_BYTES)
        self._indexes: Recent[ShardIndex] = Recent(lambda index: index.entries.nbytes, KEPT_INDEX_BYTES)
        self._large = threading.Lock()  # taken with no other but those of `Recent`, inside which it is taken

    def read_plane(
        self, array: ForeignArray, fixed: Sequence[int], rows: int, columns: int, offset: int, out: memoryview
    ) -> None:
        """Fill `out` with a plane's bytes from `offset` on, rows first, little-endian.

        Parameters
        ----------
        fixed : sequence of int
            Where the plane lies along each axis (what it says of the plane's own axes does not count).
        rows, columns : int
            The axes of the plane.

        Raises
        ------
        OSError
            EIO: a chunk is damaged; or what the disk says.
        """
        item, width = array.dtype.itemsize, array.shape[columns]
        row_bytes = width * item
        done = 0
        while done < len(out):
            row, skip = divmod(offset + done, row_bytes)
            left = len(out) - done
            if row_bytes > NARROW_ROW and (skip or left < row_bytes):  # a part of a wide row
                first, last = skip // item, min(width, -(-(skip + left) // item))
                part = self._region(array, fixed, rows, columns, (row, row + 1, first, last))
                skip -= first * item
            else:
                bottom = -(-(skip + left) // row_bytes) + row
                if row_bytes > NARROW_ROW:
                    bottom = max(row + 1, row + left // row_bytes)
                part = self._region(array, fixed, rows, columns, (row, bottom, 0, width))
            data = part.reshape(-1).view(np.uint8).data[skip : skip + left]
            out[done : done + len(data)] = data
            done += len(data)

    def _region(
        self, array: ForeignArray, fixed: Sequence[int], rows: int, columns: int, box: tuple[int, int, int, int]
    ) -> NDArray[Any]:
        """Rows `box[0]` to `box[1]` and columns `box[2]` to `box[3]` of a plane."""
        top, bottom, left, right = box
        region: NDArray[Any] = np.empty((bottom - top, right - left), array.dtype)
        high, wide = array.chunks[rows], array.chunks[columns]
        place = [at // size for at, size in zip(fixed, array.chunks, strict=True)]
        inside = [at % size for at, size in zip(fixed, array.chunks, strict=True)]
        for place[rows], place[columns] in itertools.product(
            range(top // high, -(-bottom // high)), range(left // wide, -(-right // wide))
        ):
            y, x = place[rows] * high, place[columns] * wide
            low, stop = max(top, y), min(bottom, y + high)
            start, end = max(left, x), min(right, x + wide)
            inside[rows], inside[columns] = low - y, start - x
            part = self._part(array, place, inside, rows, columns, (stop - low, end - start))
            region[low - top : stop - top, start - left : end - left] = part
        return region

    def _part(
        self,
        array: ForeignArray,
        place: Sequence[int],
        inside: Sequence[int],
        rows: int,
        columns: int,
        size: tuple[int, int],
    ) -> NDArray[Any]:
        """`size` rows and columns of a chunk from `inside` on."""
        strides = array.strides
        first = sum(at * step for at, step in zip(inside, strides, strict=True))
        length = (size[0] - 1) * strides[rows] + (size[1] - 1) * strides[columns] + array.dtype.itemsize
        path, number = array.object_of(place)
        try:
            found = self._stretch(array, path, number, first, length)
        except (ChunkError, FrameError, ShardError) as error:
            raise OSError(errno.EIO, f"{shown_path(path)}: {error}", path) from error
        if found is None:
            return np.frombuffer(array.fill, array.dtype)
        dtype = array.dtype.newbyteorder(">") if array.pipeline.big_endian else array.dtype
        # a view of exactly these bytes: the last element ends where they do
        elements = np.ndarray((1,), dtype, found.data)
        return as_strided(elements, size, (strides[rows], strides[columns]), writeable=False)

    def _stretch(self, array: ForeignArray, path: bytes, number: int | None, first: int, length: int) -> _Bytes | None:
        """`length` bytes of a decoded chunk from `first` on; None where there is no such chunk."""
        try:
            fd = self._folder.open(path)
        except OSError as error:
            if error.errno in ABSENT:
                return None
            if error.errno in (errno.EXDEV, errno.ELOOP):
                raise ChunkError("leads out of the folder, and is not followed") from error
            raise
        try:
            found = os.fstat(fd)
            key = (path, number, identity(found))
            start, size = 0, found.st_size
            if array.pipeline.obstacle is not None:
                raise ChunkError(f"the array {array.pipeline.obstacle}")
            if number is not None:
                entry = self._index(array, fd, found, path).entry(number)
                if entry is None:
                    return None
                start, size = entry
            return self._decoded(array, fd, key, (start, size), first, length)
        finally:
            os.close(fd)

    def _decoded(
        self, array: ForeignArray, fd: int, key: Hashable, at: tuple[int, int], first: int, length: int
    ) -> _Bytes:
        pipeline, whole = array.pipeline, array.chunk_bytes
        if length > MOST_CHUNK_BYTES:  # the pixels of a row lie far apart in a huge chunk
            raise ChunkError(f"is a chunk of {whole} bytes, of which a row of pixels needs {length}")
        if pipeline.raw:
            if at[1] != whole:
                raise ChunkError(f"has {at[1]} bytes instead of {whole}")
            return np.frombuffer(_read(fd, at[0] + first, length), np.uint8)
        if at[1] > whole + whole // 8 + OVERHEAD:
            raise ChunkError(f"has {at[1]} bytes for {whole} when decoded")
        chunk = self._chunks.find(key)
        if chunk is None and pipeline.ranged and (length * WORTH_WHOLE <= whole or whole > MOST_CHUNK_BYTES):
            return _decode_range(fd, at, first, length, whole)
        if chunk is None:
            chunk = self._chunks.get(key, lambda: self._decode(array, fd, at))
        return chunk[first : first + length]

    def _decode(self, array: ForeignArray, fd: int, at: tuple[int, int]) -> _Bytes:
        size = array.chunk_bytes
        if size > MOST_CHUNK_BYTES:
            raise ChunkError(f"is a chunk of {size} bytes; more than {MOST_CHUNK_BYTES} are not decoded for a read")
        if size < LARGE_CHUNK:
            return array.pipeline.decode(_read(fd, *at), size, array.dtype)
        with self._large:
            return array.pipeline.decode(_read(fd, *at), size, array.dtype)

    def _index(self, array: ForeignArray, fd: int, found: os.stat_result, path: bytes) -> ShardIndex:
        return self._indexes.get((path, identity(found)), lambda: _read_index(array, fd, found.st_size))


def _decode_range(fd: int, at: tuple[int, int], first: int, length: int, whole: int) -> _Bytes:
    """A part of a Blosc frame of `whole` bytes when decoded; only the blocks that it touches are read."""
    frame = RemoteFrame(lambda offset, size: _read(fd, at[0] + offset, size), at[1])
    if frame.header.nbytes != whole:
        raise ChunkError(f"decodes to {frame.header.nbytes} bytes instead of {whole}")
    out = np.empty(length, np.uint8)
    frame.decode_range(first, out.data)
    return out


def _read_index(array: ForeignArray, fd: int, size: int) -> ShardIndex:
    sharding = array.sharding
    assert sharding is not None
    count = sharding.count(array.chunks)
    length = index_size(count) if sharding.checksum else 16 * count
    if size < length:
        raise ShardError(f"the shard has {size} bytes; the index of {count} chunks alone has {length}")
    data = _read(fd, 0 if sharding.index_first else size - length, length)
    if sharding.checksum and not sharding.big_endian:
        return ShardIndex.parse(data, count, None if sharding.index_first else size)
    if sharding.checksum:
        import google_crc32c

        data, checksum = data[:-4], data[-4:]
        if google_crc32c.value(data).to_bytes(4, "little") != checksum:
            raise ShardError("the shard's index does not match its checksum")
    entries = np.frombuffer(data, ">u8" if sharding.big_endian else "<u8").reshape(count, 2)
    return ShardIndex(entries.astype(np.uint64))


def _read(fd: int, offset: int, length: int) -> bytes:
    """Exactly these bytes of a file; raises ChunkError where it ends before, or cannot have them."""
    size = os.fstat(fd).st_size
    if offset + length > size:
        raise ChunkError(f"ends at byte {size}; {offset + length} are needed")
    pieces = []
    while length:
        piece = os.pread(fd, length, offset)
        if not piece:
            raise ChunkError(f"ends at byte {offset}; {length} more are needed")
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
