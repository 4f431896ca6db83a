"""From what is asked to what is read: the compressed chunks of a load, each with its place on disk and in the result.

An index of a shard is checked before it is believed. What is wrong with a file concerns its chunks only: they are named with
the reason, and the others go on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from vfsd.codec.shard import ShardError, ShardIndex, index_size, read_index
from vfsd.gpu.layout import ArrayLayout
from vfsd.gpu.selection import Box, ChunkPart, chunks_of

# Planes of one channel after another come round to the same shards again. 16 bytes a chunk: one of a field is small.
_KEPT_INDEXES: Final = 128
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO under a chunk's name must not hold us up


@final
@dataclass(frozen=True, slots=True)
class Job:
    """A box of an array, and where it goes in the result.

    `offset`: bytes from the beginning of the result; the box lies there in C order, whole.
    """

    layout: ArrayLayout
    box: Box
    offset: int


@final
@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk that a job needs.

    Parameters
    ----------
    job, part
        Whose, and which.
    path : Path
        The file with its bytes.
    offset, size : int
        Where they lie there.
    """

    job: Job
    part: ChunkPart
    path: Path
    offset: int
    size: int


@final
@dataclass(frozen=True, slots=True)
class Absent:
    """A chunk that is not there: its part of the result is the array's fill value."""

    job: Job
    part: ChunkPart


@final
@dataclass(frozen=True, slots=True)
class ChunkFailure:
    """A chunk that could not be read or decoded."""

    job: Job
    part: ChunkPart
    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}, chunk {'.'.join(map(str, self.part.chunk))}: {self.reason}"


def locate(jobs: Iterable[Job]) -> Iterator[Piece | Absent | ChunkFailure]:
    """The chunks of jobs, in the jobs' order; a shard's index is read once while others of late are not too many."""
    indexes: dict[Path, ShardIndex | str | None] = {}
    for job in jobs:
        layout = job.layout
        for part in chunks_of(job.box, layout):
            file, position = layout.file_of(part.chunk)
            if layout.shard_chunks is None:
                yield _whole_file(job, part, file)
                continue
            if file not in indexes:
                if len(indexes) == _KEPT_INDEXES:
                    del indexes[next(iter(indexes))]
                indexes[file] = _index_of(file, layout)
            index = indexes[file]
            if index is None:
                yield Absent(job, part)
            elif isinstance(index, str):
                yield ChunkFailure(job, part, file, index)
            else:
                entry = index.entry(position)
                yield Absent(job, part) if entry is None else Piece(job, part, file, *entry)


def open_file(path: Path) -> int:
    """A descriptor of a regular file; OSError for anything else."""
    fd = os.open(path, _OPEN)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} is no regular file")
    return fd


def _whole_file(job: Job, part: ChunkPart, file: Path) -> Piece | Absent | ChunkFailure:
    try:
        found = os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return Absent(job, part)
    except OSError as error:
        return ChunkFailure(job, part, file, str(error))
    return Piece(job, part, file, 0, found.st_size)


def _index_of(file: Path, layout: ArrayLayout) -> ShardIndex | str | None:
    """A shard's index, None where there is no shard, or what is wrong with it."""
    assert layout.shard_chunks is not None
    count = 1
    for extent in layout.shard_chunks:
        count *= extent
    try:
        fd = open_file(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return str(error)
    try:
        if not layout.index_first:
            return read_index(fd, count)
        head = os.pread(fd, index_size(count), 0)
        return ShardIndex.parse(head, count)
    except (OSError, ShardError) as error:
        return str(error)
    finally:
        os.close(fd)
