"""Compresses arrays that are on the GPU into core Blosc 1 frames, which every reader of Zarr opens.

The parameters are the store's: LZ4, bytes shuffled, streams of 32 KiB. A frame that does not get smaller is kept as it is, as
c-blosc does it. The same content gives the same frame every time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, final

import numpy as np
from numpy.typing import NDArray

from vfsd.gpu.device import Argument, Device, DeviceArray
from vfsd.gpu.frames import BYTE_SHUFFLE

# struct FramePlan of vfsd/gpu/kernels/encode.cu
_PLAN: Final = np.dtype(
    [
        ("content_stride", "<u8"),
        ("nbytes", "<u4"),
        ("blocksize", "<u4"),
        ("typesize", "<u4"),
        ("flags", "<u4"),
        ("blocks", "<u4"),
        ("streams_per_block", "<u4"),
        ("streams", "<u4"),
        ("slot_bytes", "<u4"),
    ]
)
STREAM_BYTES: Final = 32768  # what the store writes: see vfsd.codec.BloscParameters
TABLE_BYTES: Final = 8192  # 2 << HASH_BITS in lz4_encode.cuh
MOST_ENCODED: Final = 0xFFFF  # lz4_encode.cuh
MOST_TYPESIZE: Final = 8
_LZ4: Final = 1 << 5
_HEADER: Final = 16
_MIN_SPLIT_PLANE: Final = 128  # c-blosc
_MAX_NBYTES: Final = 2_147_483_631
_MOST_FRAMES: Final = 65535  # of a launch: a grid's most along y
_BATCH_BYTES: Final = 512 << 20  # of content at once: the scratch is as large


class Frames(NamedTuple):
    """Frames one behind the other, as bytes on the device; where each begins, and its size."""

    data: DeviceArray
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]


@final
@dataclass(frozen=True, slots=True)
class FrameGeometry:
    """How a content of `nbytes` is cut, for elements of `typesize` bytes.

    Attributes
    ----------
    blocksize, blocks : int
        Bytes of a full block, and how many blocks there are.
    streams_per_block, streams : int
        Of a full block, and of all.
    largest : int
        Bytes of the largest stream.
    """

    nbytes: int
    typesize: int
    blocksize: int
    blocks: int
    streams_per_block: int
    streams: int
    largest: int

    @classmethod
    def of(cls, nbytes: int, typesize: int) -> FrameGeometry:
        """ValueError: the content is empty or too large, or its elements are."""
        if not 0 < nbytes <= _MAX_NBYTES:
            raise ValueError(f"a frame holds 1 to {_MAX_NBYTES} bytes, not {nbytes}")
        if not 1 <= typesize <= MOST_TYPESIZE:
            raise ValueError(f"elements of 1 to {MOST_TYPESIZE} bytes are compressed on the GPU, not {typesize}")
        blocksize = _choose_blocksize(nbytes, typesize)
        per_block = typesize if blocksize // typesize >= _MIN_SPLIT_PLANE else 1
        full, left = divmod(nbytes, blocksize)
        return cls(
            nbytes,
            typesize,
            blocksize,
            full + (left > 0),
            per_block,
            full * per_block + (left > 0),
            max(blocksize // per_block, left),
        )


def _choose_blocksize(nbytes: int, typesize: int) -> int:
    """Streams of 32 KiB, or a little less where the ragged last block, which is one stream, would be too long to compress."""
    most = typesize * STREAM_BYTES
    if nbytes <= most:
        return nbytes - nbytes % typesize or nbytes
    for stream in range(STREAM_BYTES, STREAM_BYTES // 2, -256):
        if nbytes % (typesize * stream) <= MOST_ENCODED:
            return typesize * stream
    return most


@final
class FrameEncoder:
    """See the module. One stream's, as a `BatchDecoder` is.

    Parameters
    ----------
    device : Device
        Where.
    stream : object
        The device's stream that all work goes to.
    """

    def __init__(self, device: Device, stream: Any) -> None:
        self._device = device
        self._stream = stream

    def encode(self, contents: DeviceArray, count: int, typesize: int) -> Frames:
        """Compress contents of one size, one frame each.

        Parameters
        ----------
        contents : device array of uint8
            The contents one behind the other, C-contiguous.
        count : int
            How many they are.
        typesize : int
            Bytes of an element.

        Raises
        ------
        ValueError
            As `FrameGeometry.of`.
        """
        nbytes = int(contents.nbytes) // count
        geometry = FrameGeometry.of(nbytes, typesize)
        device = self._device
        slot_bytes = (geometry.largest + 15) // 16 * 16
        plan = np.zeros(1, _PLAN)
        plan["content_stride"] = nbytes
        plan["flags"] = _LZ4 | (BYTE_SHUFFLE if typesize > 1 else 0)
        for name in ("nbytes", "blocksize", "typesize", "blocks", "streams_per_block", "streams"):
            plan[name] = getattr(geometry, name)
        plan["slot_bytes"] = slot_bytes
        plans = self._uploaded(plan.view(np.uint8))

        at_once = max(min(_BATCH_BYTES // nbytes, _MOST_FRAMES, count), 1)
        slots = device.empty((at_once * geometry.streams * slot_bytes,), np.uint8)
        sizes = device.empty((at_once * geometry.streams * 4,), np.uint8)
        shared = TABLE_BYTES + (min(geometry.largest, MOST_ENCODED) + 15) // 16 * 16
        frames = device.empty((count * (nbytes + _HEADER) + 16,), np.uint8)
        offsets, all_sizes = np.zeros(count, np.int64), np.zeros(count, np.int64)
        end = 0
        host = device.pinned(at_once * geometry.streams * 4)
        for first in range(0, count, at_once):
            n = min(at_once, count - first)
            source = np.uint64(device.address(contents) + first * nbytes)
            grid = (geometry.streams, n)
            arguments: list[Argument] = [source, self._address(plans), self._address(slots), self._address(sizes)]
            device.launch("encode_streams", grid, 32, shared, arguments, self._stream)
            device.download(sizes, host[: n * geometry.streams * 4], self._stream)
            device.record(self._stream).synchronize()
            found = host[: n * geometry.streams * 4].view("<u4").reshape(n, geometry.streams).astype(np.int64)
            begins, cbytes = _lay_out(found, geometry)
            places = end + np.cumsum(cbytes) - cbytes
            tables = [array.view(np.uint8).reshape(-1) for array in (begins.astype("<u4"), cbytes.astype("<u4"))]
            uploads = [self._uploaded(table) for table in (*tables, places.astype("<u8").view(np.uint8))]
            arguments = [source, *map(self._address, (plans, slots, sizes, *uploads, frames))]
            device.launch("pack_frames", grid, 32, 0, arguments, self._stream)
            device.record(self._stream).synchronize()
            offsets[first : first + n], all_sizes[first : first + n] = places, cbytes
            end += int(cbytes.sum())
        return Frames(frames[:end], offsets, all_sizes)

    def _uploaded(self, data: NDArray[np.uint8]) -> DeviceArray:
        target = self._device.empty((data.size,), np.uint8)
        self._device.upload(data, target, self._stream)
        self._device.record(self._stream).synchronize()
        return target

    def _address(self, array: DeviceArray) -> np.uint64:
        return np.uint64(self._device.address(array))


def _lay_out(sizes: NDArray[np.int64], geometry: FrameGeometry) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the size of each stream stands in its frame, and the frames' sizes."""
    ends = _HEADER + 4 * geometry.blocks + np.cumsum(sizes + 4, axis=1)
    most = geometry.nbytes + _HEADER
    return ends - sizes - 4, np.minimum(ends[:, -1], most)


def compress_array(device: Device, array: DeviceArray) -> list[bytes]:
    """Frames of the planes of an array on the device: one for each place along all but the last two axes.

    Parameters
    ----------
    array : device array
        C-contiguous, of elements of 1 to 8 bytes, with two axes or more.

    Raises
    ------
    ValueError
        The array is of another kind.
    """
    if array.ndim < 2 or not array.flags.c_contiguous or array.size == 0:
        raise ValueError("an array of planes is C-contiguous, not empty, and has two axes at least")
    stream = device.stream()
    count = math.prod(array.shape[:-2])
    frames = FrameEncoder(device, stream).encode(array.reshape(-1).view(np.uint8), count, array.dtype.itemsize)
    host = device.pinned(int(frames.data.nbytes))
    device.download(frames.data, host, stream)
    device.record(stream).synchronize()
    return [host[begin : begin + size].tobytes() for begin, size in zip(frames.offsets, frames.sizes, strict=True)]
