"""What is given to nvCOMP, and what is made of its answer: a stand-in takes its arguments and decodes with numcodecs.

The real library is called by `make gpu`, where it is installed.
"""

from __future__ import annotations

import ctypes
import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from batches import decode_batch
from cpu_device import CpuDevice
from numcodecs.lz4 import decompress

from vfsd.codec import BloscParameters, compress
from vfsd.gpu import nvcomp
from vfsd.gpu.decoder import describe_error
from vfsd.gpu.engines import ENGINES


def numbers(pointer: ctypes.c_void_p, count: int, kind: type) -> np.ndarray:
    assert pointer.value is not None
    size = count * np.dtype(kind).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(pointer.value), kind)


def temporary_size(count: Any, largest: Any, options: Any, size: Any, total: Any, stream: Any) -> int:
    assert count.value > 0
    assert largest.value <= total.value
    size._obj.value = 64
    return 0


def decompress_batch(*arguments: Any) -> int:
    """nvcompBatchedLZ4DecompressAsync (nvcomp/lz4.h, versions 5 and 6)."""
    compressed, csizes, rooms, written, count, _, temporary_bytes, targets, options, statuses, _ = arguments
    n = count.value
    assert temporary_bytes.value == 64
    assert options.backend == 2
    assert ctypes.sizeof(options) == 64
    rows = zip(*(numbers(p, n, np.uint64).tolist() for p in (compressed, csizes, rooms, targets)), strict=True)
    for number, (source, csize, room, target) in enumerate(rows):
        try:
            content = decompress(struct.pack("<I", room) + ctypes.string_at(source, csize))
        except RuntimeError:
            numbers(statuses, n, np.int32)[number] = 12
            continue
        ctypes.memmove(target, content, len(content))
        numbers(written, n, np.uint64)[number] = len(content)
        numbers(statuses, n, np.int32)[number] = 0
    return 0


def test_streams_go_to_nvcomp_and_come_back(kernels: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(
        nvcompBatchedLZ4DecompressGetTempSize=temporary_size, nvcompBatchedLZ4DecompressAsync=decompress_batch
    )
    monkeypatch.setattr(nvcomp, "library", lambda: stand_in)
    monkeypatch.setattr(CpuDevice, "stream", lambda self: SimpleNamespace(ptr=0))
    rng = np.random.default_rng(1)
    contents, frames = [], []
    for shuffle, typesize, mean in (("shuffle", 2, 256), ("noshuffle", 1, 3), ("bitshuffle", 4, 9), ("shuffle", 8, 1)):
        contents.append(rng.poisson(mean, 30_000).astype(f"<u{typesize}").tobytes())
        frames.append(compress(contents[-1], BloscParameters(typesize, shuffle=shuffle)))  # type: ignore[arg-type]
    device = CpuDevice(kernels)
    sizes = [len(content) for content in contents]
    assert decode_batch(device, ENGINES["nvcomp"], frames, sizes, stream=device.stream()) == contents
    damaged = bytearray(frames[1])
    damaged[-4000:] = b"\xff" * 4000
    result = decode_batch(device, ENGINES["nvcomp"], [frames[0], bytes(damaged)], sizes[:2], stream=device.stream())
    assert result[0] == contents[0]
    assert isinstance(result[1], int)
    assert "stream is damaged" in describe_error(result[1])
