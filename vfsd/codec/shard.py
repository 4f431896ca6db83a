"""Zarr v3 shards: many compressed chunks in one file, and an index of them at its end.

The index (Zarr v3 `sharding_indexed`, version 1.0, index at the end, codecs `bytes` little-endian and
`crc32c`) is a pair of u64 for each chunk, offset and size, both 2^64 - 1 where there is no chunk, followed
by the CRC-32C of these pairs. The chunks themselves may lie in any order.

A shard is written front to back and only once: chunks are appended as they come, in large sequential
writes, and `finish` adds the index; until then the file is no shard. Nothing here creates, truncates, syncs
or renames a file: the caller gives descriptors and does the rest. No index is believed that was not
checked.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import xxhash

if TYPE_CHECKING:
    from numpy.typing import NDArray

MISSING: Final = 2**64 - 1
"""Both numbers of an absent chunk's entry."""

_ENTRY_SIZE: Final = 16  # two u64
_CHECKSUM_SIZE: Final = 4  # u32
_BUFFER_BYTES: Final = 8 * 2**20  # one write of this runs at disk speed; also the most that waits in memory
_BUFFER_PIECES: Final = 512  # half of IOV_MAX (1024 on Linux): small chunks are written together, in one call


class ShardError(ValueError):
    """These bytes are no sound shard."""


def index_size(chunk_count: int) -> int:
    """Bytes of the index of a shard of so many chunks."""
    return _ENTRY_SIZE * chunk_count + _CHECKSUM_SIZE


@dataclass(frozen=True, slots=True, eq=False)
class ShardIndex:
    """Where each chunk of a shard lies.

    Parameters
    ----------
    entries : ndarray of uint64, shape (chunk_count, 2)
        Offset and size, in bytes from the shard's first; `MISSING` twice where there is no chunk.
    """

    entries: NDArray[np.uint64]

    @classmethod
    def empty(cls, chunk_count: int) -> ShardIndex:
        """An index in which every chunk is missing."""
        return cls(np.full((chunk_count, 2), MISSING, np.uint64))

    @classmethod
    def parse(cls, tail: bytes | bytearray | memoryview, chunk_count: int, file_size: int | None = None) -> ShardIndex:
        """Check and take over an index.

        Parameters
        ----------
        tail : bytes-like
            The last `index_size(chunk_count)` bytes of the shard.
        chunk_count : int
            How many chunks the array's shards have, present or not.
        file_size : int, optional
            The shard's size in bytes: every present chunk must then lie in front of the index.

        Raises
        ------
        ShardError
            The size or the checksum is wrong, or an entry points outside the shard.
        """
        import google_crc32c

        index = bytes(tail)
        if len(index) != index_size(chunk_count):
            raise ShardError(f"the shard's index has {len(index)} bytes, not {index_size(chunk_count)}")
        body, checksum = index[:-_CHECKSUM_SIZE], index[-_CHECKSUM_SIZE:]
        if google_crc32c.value(body).to_bytes(_CHECKSUM_SIZE, "little") != checksum:
            raise ShardError("the shard's index does not match its checksum")
        if file_size is not None and file_size < len(index):
            raise ShardError(f"the shard has {file_size} bytes; its index alone has {len(index)}")
        entries = np.frombuffer(body, "<u8").reshape(chunk_count, 2).astype(np.uint64)
        entries.flags.writeable = False
        present = entries[(entries != MISSING).any(axis=1)]
        # Without the file's size the least that must hold: an end that a file offset can express.
        limit = np.uint64(2**63 - 1 if file_size is None else file_size - len(index))
        offsets, sizes = present[:, 0], present[:, 1]
        outside = (offsets > limit) | (sizes > limit - np.minimum(offsets, limit))
        if outside.any():
            raise ShardError("the shard's index has a chunk that lies outside the shard")
        return cls(entries)

    def __len__(self) -> int:
        return len(self.entries)

    def entry(self, position: int) -> tuple[int, int] | None:
        """Offset and size of the chunk at `position`, None where there is none.

        IndexError: the position lies outside the shard.
        """
        if not 0 <= position < len(self.entries):
            raise IndexError(f"position {position} in a shard of {len(self.entries)} chunks")
        offset, size = (int(number) for number in self.entries[position])
        return None if offset == MISSING == size else (offset, size)

    def present(self) -> NDArray[np.intp]:
        """The positions that have a chunk, ascending."""
        return np.flatnonzero((self.entries != MISSING).any(axis=1))

    def encode(self) -> bytes:
        """The bytes that end the shard: the entries and their checksum."""
        import google_crc32c

        body = self.entries.astype("<u8").tobytes()
        return body + int(google_crc32c.value(body)).to_bytes(_CHECKSUM_SIZE, "little")


def read_index(fd: int, chunk_count: int, size: int | None = None) -> ShardIndex:
    """Read and check the index of an open shard.

    Parameters
    ----------
    fd : int
        The shard, open for reading; its file offset is neither used nor moved.
    chunk_count : int
        How many chunks the array's shards have.
    size : int, optional
        The shard's size in bytes where the caller knows it; else fstat tells.

    Raises
    ------
    ShardError
        The file is shorter than an index, or `ShardIndex.parse` refuses it.
    """
    total = os.fstat(fd).st_size if size is None else size
    wanted = index_size(chunk_count)
    if total < wanted:
        raise ShardError(f"the shard has {total} bytes; the index of {chunk_count} chunks alone has {wanted}")
    return ShardIndex.parse(_read_exactly(fd, total - wanted, wanted), chunk_count, total)


class Sink(Protocol):
    """Takes a file's bytes front to back."""

    def write(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Append; the pieces may be changed after that. OSError when they cannot be written."""

    def finish(self) -> None:
        """Nothing more comes: every byte is written now."""


class ShardWriter:
    """Writes one shard front to back.

        writer = ShardWriter(fd, 3)
        writer.append(2, frame)      # in any order; what is never appended is missing
        size = writer.finish()       # writes the index; the caller syncs and renames

    After an `OSError` (a full disk) the file is no shard and cannot become one: every further call is a
    ValueError; remove the file. Not for two threads at once.

    Parameters
    ----------
    fd : int
        An empty file, open for writing and not with O_APPEND. Bytes go to explicit offsets from 0 on; the
        file offset is neither used nor moved. It stays the caller's: it is not closed and not synced.
    chunk_count : int
        How many chunks the array's shards have.
    sink : Sink, optional
        Takes the bytes instead of ordinary writes to `fd`, as they come.
    """

    __slots__ = ("_end", "_entries", "_fd", "_hasher", "_open", "_pieces", "_sink", "_waiting", "_written")

    def __init__(self, fd: int, chunk_count: int, sink: Sink | None = None) -> None:
        self._fd = fd
        self._sink = sink
        self._entries = np.full((chunk_count, 2), MISSING, np.uint64)
        self._hasher = xxhash.xxh3_128()
        self._pieces: list[bytes | memoryview] = []
        self._waiting = 0  # bytes in _pieces
        self._written = 0  # bytes in the file
        self._end = 0  # where the next chunk begins
        self._open = True

    def append(self, position: int, chunk: bytes | bytearray | memoryview) -> None:
        """Add the chunk at `position`.

        `bytes` are kept, not copied, until there is enough for one large write; any other buffer is written
        before this returns, and may be reused then.

        Raises
        ------
        ValueError
            The position is outside the shard or has a chunk already; the chunk is empty; the writer is
            finished.
        OSError
            The write failed.
        """
        piece = chunk if isinstance(chunk, bytes) else memoryview(chunk).cast("B")
        self._claim(position, len(piece))
        self._put(piece)
        if not isinstance(chunk, bytes):
            self._flush()

    def copy_from(self, source_fd: int, index: ShardIndex, positions: Iterable[int]) -> None:
        """Add chunks of another shard at the same positions, as they are, by reads of bounded size.

        Parameters
        ----------
        source_fd : int
            The other shard, open for reading.
        index : ShardIndex
            Its index.
        positions : iterable of int
            Which chunks; `index.present()` for all.

        Raises
        ------
        ValueError
            As `append`; also if the other shard lacks a chunk asked for.
        ShardError
            The other shard ends inside a chunk. This writer is then of no more use.
        OSError
            A read or a write failed.
        """
        for number in positions:
            position = int(number)
            entry = index.entry(position)
            if entry is None:
                raise ValueError(f"the shard to copy from has no chunk at position {position}")
            offset, size = entry
            self._claim(position, size)
            while size:
                step = min(size, _BUFFER_BYTES)
                try:
                    piece = _read_exactly(source_fd, offset, step)
                except (OSError, ShardError):
                    self._open = False
                    raise
                self._put(piece)
                offset += step
                size -= step

    def chunk_entry(self, position: int) -> tuple[int, int] | None:
        """Offset and size of a chunk added so far; None where there is none.

        IndexError: the position lies outside the shard.
        """
        return ShardIndex(self._entries).entry(position)

    def finish(self) -> int:
        """Write what waits and the index; returns the shard's size in bytes."""
        self._require_open()
        self._put(ShardIndex(self._entries).encode())
        self._flush()
        self._open = False
        if self._sink is not None:
            self._sink.finish()
        return self._written

    @property
    def digest(self) -> bytes:
        """xxh3-128 of all bytes that were written so far: after `finish` the shard's."""
        return self._hasher.digest()

    def _require_open(self) -> None:
        if not self._open:
            raise ValueError("the shard is finished, or an earlier error ended it")

    def _claim(self, position: int, size: int) -> None:
        self._require_open()
        if not 0 <= position < len(self._entries):
            raise ValueError(f"position {position} in a shard of {len(self._entries)} chunks")
        if self._entries[position, 0] != MISSING:
            raise ValueError(f"the chunk at position {position} was added before")
        if size == 0:
            raise ValueError(f"the chunk at position {position} is empty")
        self._entries[position] = (self._end, size)
        self._end += size

    def _put(self, piece: bytes | memoryview) -> None:
        self._pieces.append(piece)
        self._waiting += len(piece)
        if self._sink is not None or self._waiting >= _BUFFER_BYTES or len(self._pieces) >= _BUFFER_PIECES:
            self._flush()

    def _flush(self) -> None:
        pieces, self._pieces, self._waiting = self._pieces, [], 0
        for piece in pieces:
            self._hasher.update(piece)
        try:
            if self._sink is None:
                self._written = _write_all(self._fd, pieces, self._written)
            else:
                self._sink.write(pieces)
                self._written += sum(map(len, pieces))
        except BaseException:
            self._open = False
            raise


def _write_all(fd: int, pieces: Sequence[bytes | memoryview], offset: int) -> int:
    """Write the pieces from `offset` on, in as many calls as the kernel needs; returns where they end."""
    left = [memoryview(piece) for piece in pieces]
    while left:
        count = os.pwritev(fd, left, offset)  # after a signal Python itself goes on (PEP 475)
        if count == 0:
            raise OSError(errno.EIO, "the file takes no more bytes")
        offset += count
        done = 0
        while done < len(left) and count >= len(left[done]):
            count -= len(left[done])
            done += 1
        del left[:done]
        if count:
            left[0] = left[0][count:]
    return offset


def _read_exactly(fd: int, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` on; ShardError where the file ends before."""
    pieces = []
    while size:
        piece = os.pread(fd, size, offset)
        if not piece:
            raise ShardError(f"the shard ends at byte {offset}, inside what its index promises")
        pieces.append(piece)
        offset += len(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
