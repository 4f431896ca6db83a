"""Decodes a batch of Blosc frames that lie in the device's memory: which kernels, with which grids, in which order.

It knows nothing of files, arrays or selections. Its scratch memory (rows of streams, planes) grows to the largest batch and is
kept; one `BatchDecoder` belongs to one stream.
"""

from __future__ import annotations

from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from vfsd.gpu.device import Argument, Device, DeviceArray
from vfsd.gpu.engines import Engine
from vfsd.gpu.frames import BIT_SHUFFLE, BYTE_SHUFFLE, KEPT, STREAM_BYTES, count_blocks

# Constants of the kernels, of the same names there (checked by a test).
DECODE_WARPS: Final = 4
FUSED_WARPS: Final = 4
MOST_FUSED_STREAMS: Final = 8
PLAN_THREADS: Final = 128
UNSHUFFLE_THREADS: Final = 256
SWAP_THREADS: Final = 256
WARP_SCRATCH_BYTES: Final = 512 + 64 * 16 + 512 * 4
ORIGINS: Final = 512

# A block of threads takes this much of a Blosc block when it unshuffles: enough to be worth its start.
_UNSHUFFLE_BYTES: Final = 65536
_MOST_GRID_Y: Final = 65535  # CUDA C++ Programming Guide, "Compute Capabilities"

REASONS: Final = {
    1: "a block begins outside the frame",
    2: "a stream is larger than what is left of the frame",
    3: "a stream is damaged",
}
"""What the low byte of a chunk's error says (`enum` in frames.cuh)."""


def describe_error(error: int) -> str:
    """The sentence for a chunk's error as the kernels report it."""
    return f"damaged Blosc frame: {REASONS.get(error & 0xFF, 'unknown')} (block {error >> 8})"


@final
class BatchDecoder:
    """See the module.

    Parameters
    ----------
    device : Device
        Where.
    engine : Engine
        How.
    stream : object
        The device's stream that all work goes to.
    """

    def __init__(self, device: Device, engine: Engine, stream: Any) -> None:
        self._device = device
        self._engine = engine
        self._stream = stream
        self._streams: DeviceArray = None
        self._planes: DeviceArray = None

    def use(self, stream: Any) -> None:
        """From now on work goes to another stream; the one before has done all of its own."""
        self._stream = stream

    def place_planes(self, table: NDArray[Any]) -> int:
        """Give every shuffled chunk its place among the planes; returns their size in bytes."""
        shuffled = ((table["flags"] & (BYTE_SHUFFLE | BIT_SHUFFLE)) != 0) & ((table["flags"] & KEPT) == 0)
        sizes = np.where(shuffled, (table["nbytes"].astype(np.int64) + 15) // 16 * 16, 0)
        table["planes"] = np.cumsum(sizes) - sizes
        return int(sizes.sum())

    def decode(
        self,
        table: NDArray[Any],
        planes_bytes: int,
        input_address: int,
        table_address: int,
        errors_array: DeviceArray,
        out_address: int,
    ) -> None:
        """Give the decoding of a batch to the stream.

        Parameters
        ----------
        table : ndarray of `frames.CHUNK`
            The chunks, with `out` and (`place_planes`) `planes` set; the device has a copy.
        planes_bytes : int
            What `place_planes` gave.
        input_address : int
            The frames, divisible by 16; `frame` counts from here. Up to the next multiple of 16 behind the last frame the
            memory must be ours.
        table_address : int
            The device's copy.
        errors_array : device array of uint32
            0 for each chunk; becomes what `describe_error` takes.
        out_address : int
            Where `out` counts from, divisible by 16.
        """
        blocks, streams = count_blocks(table)
        if not blocks:
            return
        self._streams = self._grown(self._streams, streams * STREAM_BYTES)
        self._planes = self._grown(self._planes, planes_bytes + 16)
        source, chunks, errors = np.uint64(input_address), np.uint64(table_address), self._address(errors_array)
        rows, planes = self._address(self._streams), self._address(self._planes)
        out = np.uint64(out_address)
        chunk_count = np.uint32(len(table))

        steps, slot_bytes = self._fused_steps(table)
        fused_streams = steps[-1][1] if steps else 0
        arguments: list[Argument] = [source, chunks, chunk_count, np.uint32(blocks), rows, errors]
        arguments += [np.uint32(fused_streams), np.uint32(slot_bytes if steps else 0), np.uint32(self._engine.apart)]
        self._launch("plan", (-(-blocks // PLAN_THREADS), 1), PLAN_THREADS, 0, arguments)

        resolved = np.uint32(ORIGINS if self._engine.resolve else 0)
        way = "by_window" if self._engine.by_window else "by_sequence"
        for fewest, most in steps:
            arguments = [source, chunks, chunk_count, rows, out, errors]
            arguments += [np.uint32(fewest), np.uint32(most), np.uint32(slot_bytes), resolved]
            shared = min(most, FUSED_WARPS) * WARP_SCRATCH_BYTES + most * slot_bytes
            self._launch(f"decode_fused_{way}_kernel", (blocks, 1), FUSED_WARPS * 32, shared, arguments)

        if self._engine.nvcomp:
            from vfsd.gpu import nvcomp

            nvcomp.decode_streams(self._device, self._stream, self._streams, streams, source, out, planes, errors_array)
        arguments = [source, chunks, rows, np.uint32(streams), out, planes, errors, resolved]
        shared = DECODE_WARPS * WARP_SCRATCH_BYTES if self._engine.by_window else 0
        self._launch(f"decode_{way}_kernel", (-(-streams // DECODE_WARPS), 1), DECODE_WARPS * 32, shared, arguments)

        largest = int(table["blocksize"].max())
        shares = min(max(-(-largest // _UNSHUFFLE_BYTES), 1), _MOST_GRID_Y)
        arguments = [chunks, chunk_count, rows, planes, out]
        self._launch("unshuffle", (blocks, shares), UNSHUFFLE_THREADS, 0, arguments)

    def swap_bytes(self, address: int, count: int, itemsize: int) -> None:
        """Turn the bytes of `count` elements round, in place."""
        if count and itemsize > 1:
            grid = (-(-count // SWAP_THREADS), 1)
            arguments: list[Argument] = [np.uint64(address), np.uint64(count), np.uint32(itemsize)]
            self._launch("swap_bytes", grid, SWAP_THREADS, 0, arguments)

    def _fused_steps(self, table: NDArray[Any]) -> tuple[list[tuple[int, int]], int]:
        """Launches of `decode_fused`, fewest to most compressed streams each, and the bytes of a slot.

        Blocks with few compressed streams get a launch of their own: with less shared memory each, more of them run at once.
        """
        typesize = table["typesize"]
        fusable = np.isin(typesize, (2, 4, 8)) & (table["streams_per_block"] == typesize)
        fusable &= (table["flags"] & (BYTE_SHUFFLE | KEPT)) == BYTE_SHUFFLE
        if not fusable.any() or not self._engine.fused_streams:
            return [], 0
        largest = int((table["blocksize"] // np.maximum(typesize, 1))[fusable].max())
        slot_bytes = (largest + 15) // 16 * 16
        room = (self._device.shared_limit - FUSED_WARPS * WARP_SCRATCH_BYTES) // slot_bytes
        limit = min(self._engine.fused_streams, room, int(typesize[fusable].max()), MOST_FUSED_STREAMS)
        steps = []
        fewest, most = 0, 1
        while fewest <= limit and limit:
            steps.append((fewest, min(most, limit)))
            fewest, most = most + 1, 2 * most
        return steps, slot_bytes

    def _grown(self, array: DeviceArray, nbytes: int) -> DeviceArray:
        if array is not None and array.nbytes >= nbytes:
            return array
        if array is not None:
            self._device.synchronize()  # nothing may still use what is given back
        return self._device.empty(((nbytes + 4095) // 4096 * 4096,), np.uint8)

    def _address(self, array: DeviceArray) -> np.uint64:
        return np.uint64(self._device.address(array))

    def _launch(self, kernel: str, grid: tuple[int, int], threads: int, shared: int, arguments: list[Argument]) -> None:
        self._device.launch(kernel, grid, threads, shared, arguments, self._stream)
