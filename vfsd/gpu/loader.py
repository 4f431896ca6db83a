"""From chunks on disk to an array on the device: reads, copies and decodes of successive batches at the same time.

A `Loader` has three *slots*. Each has pinned memory, its copy on the device, scratch, and a stream. While one batch is read into
a slot by threads, the one before is copied and the one before that decoded; a slot is taken again when its stream is done
with it. Memory is bounded: `memory` bytes on the device beside the result, and a third of that pinned; a chunk that is larger
than a slot's share gets a slot of its size. Slots are kept for the next load, since pinned memory costs as much to make
as to fill.

What the GPU does not decode (frames of other codecs) is decoded by the CPU and copied. A chunk that cannot be decoded at
all leaves its part of the result at the fill value, and is named in `ChunksDamaged` when everything else is done.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from vfsd.codec import FrameError, decompress_into
from vfsd.errors import StoredDataDamaged
from vfsd.gpu.chunks import Absent, ChunkFailure, Job, Piece, locate
from vfsd.gpu.decoder import BatchDecoder, describe_error
from vfsd.gpu.device import Device, DeviceArray, Event
from vfsd.gpu.engines import DEFAULT, ENGINES, Engine
from vfsd.gpu.frames import CHUNK, parse_frames
from vfsd.gpu.reading import read_pieces

DEFAULT_MEMORY: Final = 1536 << 20
"""Bytes: batches of some 170 MB, 18 planes of 2160 x 2160 in 16 bit, which have streams for all of a large GPU."""

_SLOTS: Final = 3
_SHARES: Final = 3  # of a slot's memory: frames, planes before they are interleaved, chunks before they are cut
_MOST_READERS: Final = 16
_MOST_PIECES: Final = 1 << 16  # of a batch
_FRAME_OVERHEAD: Final = 16  # a frame is never this much larger than its content


class ChunksDamaged(StoredDataDamaged):
    """Some chunks could not be decoded; all others were.

    Parameters
    ----------
    failures : tuple of ChunkFailure
        Which, and why.
    result : array
        Everything else: where these belong it has the fill value.
    """

    def __init__(self, failures: tuple[ChunkFailure, ...], result: DeviceArray) -> None:
        self.failures = failures
        self.result = result
        others = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
        super().__init__(f"{failures[0].reason} (chunk {'.'.join(map(str, failures[0].part.chunk))}{others})")
        self.path = failures[0].path


@dataclass(slots=True)
class _Slot:
    stream: Any
    decoder: BatchDecoder
    host: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    errors: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    input: DeviceArray = None
    temporary: DeviceArray = None
    done: Event | None = None
    decoded: list[Piece] = field(default_factory=list)  # a number in `errors` each
    kept: list[Any] = field(default_factory=list)  # what the stream still uses


@final
class Loader:
    """See the module. Not for two threads at once.

    Parameters
    ----------
    device : Device
        Where.
    engine : str
        One of `engines.ENGINES`.
    memory : int
        Bytes on the device, beside the result.
    """

    def __init__(self, device: Device, *, engine: str = DEFAULT, memory: int = DEFAULT_MEMORY) -> None:
        self._device = device
        self._engine: Engine = ENGINES[engine]
        self._share = max(memory // (_SLOTS * _SHARES), 1 << 20)
        self._threads = ThreadPoolExecutor(min(os.cpu_count() or 1, _MOST_READERS), thread_name_prefix="vfsd-gpu-read")
        self._slots: list[_Slot] = []

    def close(self) -> None:
        """Give everything back."""
        self._threads.shutdown()
        self._slots.clear()

    def load(self, jobs: Sequence[Job], nbytes: int, dtype: np.dtype[Any]) -> DeviceArray:
        """Decode jobs into one array.

        Parameters
        ----------
        jobs : sequence of Job
            What; all arrays have `dtype` (with its byte order), and the boxes fill the result.
        nbytes : int
            The result's size.

        Returns
        -------
        array of `nbytes` bytes on the device, of `dtype` in native byte order, with one axis.

        Raises
        ------
        ChunksDamaged
            See the module.
        """
        result = self._device.empty((nbytes // dtype.itemsize,), dtype.newbyteorder("="))
        content = result.view(np.uint8)
        if any(slot.done is not None for slot in self._slots):  # an error ended the load before
            self._device.synchronize()
        for slot in self._slots:  # order what follows behind the caller's own work on this memory
            slot.done, slot.decoded, slot.kept = None, [], []
            slot.stream = self._device.stream()
            slot.decoder.use(slot.stream)
        failures: list[ChunkFailure] = []
        absent: list[Absent | ChunkFailure] = []
        for number, batch in enumerate(self._batches(jobs, failures, absent)):
            slot = self._slot(number % _SLOTS)
            self._collect(slot, failures)
            self._begin(slot, batch, content, failures)
        for slot in self._slots:
            self._collect(slot, failures)
        if not dtype.isnative and dtype.itemsize > 1:
            # Complex numbers are pairs of floats.
            width = dtype.itemsize // (2 if dtype.kind == "c" else 1)
            slot = self._slot(0)
            slot.decoder.swap_bytes(self._device.address(content), nbytes // width, width)
            self._device.synchronize()
        with self._device.on(self._device.stream()):
            for hole in (*absent, *failures):
                self._place(content, hole.job)[hole.part.target] = hole.job.layout.fill
        self._device.synchronize()
        if failures:
            raise ChunksDamaged(tuple(failures), result)
        return result

    def _slot(self, number: int) -> _Slot:
        while len(self._slots) <= number:
            stream = self._device.stream()
            self._slots.append(_Slot(stream, BatchDecoder(self._device, self._engine, stream)))
        return self._slots[number]

    def _batches(
        self, jobs: Sequence[Job], failures: list[ChunkFailure], absent: list[Absent | ChunkFailure]
    ) -> Iterator[list[Piece]]:
        """Pieces for one slot each, in order."""
        batch: list[Piece] = []
        frames = contents = 0
        for found in locate(jobs):
            if isinstance(found, ChunkFailure):
                failures.append(found)
                continue
            if isinstance(found, Absent):
                absent.append(found)
                continue
            size = found.job.layout.chunk_bytes
            if found.size > size + _FRAME_OVERHEAD + _least_frame(size):
                failures.append(
                    ChunkFailure(found.job, found.part, found.path, f"{found.size} bytes are no chunk of {size}")
                )
                continue
            full = frames + found.size > self._share or contents + size > self._share or len(batch) == _MOST_PIECES
            if batch and full:
                yield batch
                batch, frames, contents = [], 0, 0
            batch.append(found)
            frames += found.size
            contents += size + 16
        if batch:
            yield batch

    def _collect(self, slot: _Slot, failures: list[ChunkFailure]) -> None:
        """Wait until a slot is free, and take note of what it could not decode."""
        if slot.done is None:
            return
        slot.done.synchronize()
        slot.done = None
        errors = slot.errors[: 4 * len(slot.decoded)].view("<u4")
        for number in np.flatnonzero(errors):
            piece = slot.decoded[number]
            failures.append(ChunkFailure(piece.job, piece.part, piece.path, describe_error(int(errors[number]))))
        slot.decoded, slot.kept = [], []

    def _begin(self, slot: _Slot, batch: list[Piece], content: DeviceArray, failures: list[ChunkFailure]) -> None:
        """Read a batch into a slot, and give its copy and its decoding to the slot's stream."""
        device = self._device
        table_bytes = _rounded(len(batch) * CHUNK.itemsize)
        begin = table_bytes + _rounded(4 * len(batch))
        total = _rounded(begin + sum(piece.size for piece in batch)) + 16
        if slot.host.size < total:
            slot.host = device.pinned(_grown_size(total))
            slot.input = device.empty((slot.host.size,), np.uint8)
        if slot.errors.size < 4 * len(batch):
            slot.errors = device.pinned(_grown_size(4 * len(batch)))
        offsets, unread = read_pieces(batch, slot.host, begin, self._threads)
        for number, reason in unread.items():
            failures.append(ChunkFailure(batch[number].job, batch[number].part, batch[number].path, reason))

        sizes = np.array([0 if n in unread else piece.size for n, piece in enumerate(batch)], np.int64)
        contents = np.array([piece.job.layout.chunk_bytes for piece in batch], np.int64)
        parsed = parse_frames(slot.host, offsets, sizes, contents)
        table, pieces = parsed.table, [batch[row] for row in parsed.rows]

        # Whole chunks go straight into the result, the others next to it.
        direct = np.array([piece.part.offset is not None for piece in pieces], bool)
        indirect_bytes = np.where(direct, 0, (table["nbytes"].astype(np.int64) + 15) // 16 * 16)
        places = np.cumsum(indirect_bytes) - indirect_bytes
        needed = int(indirect_bytes.sum())
        if needed and (slot.temporary is None or slot.temporary.nbytes < needed):
            device.synchronize()
            slot.temporary = device.empty((_grown_size(needed),), np.uint8)
        base = device.address(content)
        # Both are counted from the result, which may lie above the other: 64-bit addresses wrap around.
        beside = (device.address(slot.temporary) - base) % (1 << 64) if needed else 0
        table["out"] = np.array(
            [
                (beside + int(place)) % (1 << 64) if piece.part.offset is None else piece.job.offset + piece.part.offset
                for piece, place in zip(pieces, places, strict=True)
            ],
            np.uint64,
        )
        planes_bytes = slot.decoder.place_planes(table)
        slot.host[: table.nbytes] = table.view(np.uint8)
        slot.host[table_bytes : table_bytes + 4 * len(batch)] = 0
        device.upload(slot.host[:total], slot.input, slot.stream)
        address = device.address(slot.input)
        errors = slot.input[table_bytes : table_bytes + 4 * len(batch)]
        slot.decoder.decode(table, planes_bytes, address, address, errors.view(np.uint32), base)
        slot.decoded = pieces
        device.download(errors, slot.errors[: 4 * len(batch)], slot.stream)

        with device.on(slot.stream):
            for number in np.flatnonzero(~direct).tolist():
                first, size = int(places[number]), int(table["nbytes"][number])
                self._cut(slot.temporary[first : first + size], pieces[number], content)
        for row in parsed.others:
            if row not in unread:
                frame = slot.host[offsets[row] : offsets[row] + sizes[row]]
                self._decode_on_cpu(slot, frame, batch[row], content, failures)
        slot.done = device.record(slot.stream)

    def _decode_on_cpu(
        self,
        slot: _Slot,
        frame: NDArray[np.uint8],
        piece: Piece,
        content: DeviceArray,
        failures: list[ChunkFailure],
    ) -> None:
        decoded = np.empty(piece.job.layout.chunk_bytes, np.uint8)
        try:
            decompress_into(frame.data, decoded.data)
        except FrameError as error:
            failures.append(ChunkFailure(piece.job, piece.part, piece.path, str(error)))
            return
        copied = self._device.empty((decoded.size,), np.uint8)
        self._device.upload(decoded, copied, slot.stream)
        slot.kept += [decoded, copied]
        with self._device.on(slot.stream):
            self._cut(copied, piece, content)

    def _cut(self, decoded: DeviceArray, piece: Piece, content: DeviceArray) -> None:
        """Copy what a job takes of a decoded chunk."""
        layout, part = piece.job.layout, piece.part
        stored = tuple(layout.chunk_shape[axis] for axis in layout.order)
        inverse = tuple(int(axis) for axis in np.argsort(layout.order))
        elements = decoded.view(layout.dtype.newbyteorder("=")).reshape(stored)
        if inverse:
            elements = elements.transpose(inverse)
        self._place(content, piece.job)[part.target] = elements[part.source]

    def _place(self, content: DeviceArray, job: Job) -> DeviceArray:
        """A job's box in the result."""
        kind = job.layout.dtype.newbyteorder("=")
        size = math.prod(job.box.shape) * kind.itemsize
        return content[job.offset : job.offset + size].view(kind).reshape(job.box.shape)


def _rounded(nbytes: int) -> int:
    return (nbytes + 15) // 16 * 16


def _grown_size(nbytes: int) -> int:
    """A little more than asked for, so that batches of about one size need no second allocation."""
    return (nbytes + nbytes // 8 + 65535) // 65536 * 65536


def _least_frame(size: int) -> int:
    """What a frame may be larger than its content: starts and sizes of its smallest blocks and streams."""
    return size // 8 + 64
