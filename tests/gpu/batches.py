"""Decodes a few frames in one batch, poisoned output and all: what the tests of the kernels share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from cpu_device import POISON, CpuDevice

from vfsd.gpu.decoder import BatchDecoder
from vfsd.gpu.engines import Engine
from vfsd.gpu.frames import parse_frames


def decode_batch(
    device: CpuDevice, engine: Engine, frames: Sequence[bytes], sizes: Sequence[int], skew: int = 0, stream: Any = None
) -> list[bytes | int | None]:
    """For each frame its content, the error's number, or None where it is not for the GPU.

    Contents lie `skew` bytes behind multiples of 16, 3 bytes apart at least.
    """
    begins = np.cumsum([0, *(len(frame) + 3 for frame in frames)])
    data = device.empty((int(begins[-1] + 31) // 16 * 16,), np.uint8)
    for begin, frame in zip(begins, frames, strict=False):
        data[begin : begin + len(frame)] = np.frombuffer(frame, np.uint8)
    places = np.cumsum([skew, *((size + 3 + 15) // 16 * 16 for size in sizes)])
    parsed = parse_frames(data, begins[:-1], np.array([len(f) for f in frames], np.int64), np.array(sizes, np.int64))
    table = parsed.table
    table["out"] = places[:-1][parsed.rows]
    decoder = BatchDecoder(device, engine, stream)
    planes_bytes = decoder.place_planes(table)
    out = device.empty((int(places[-1]) + 16,), np.uint8)
    errors = np.zeros(max(len(table), 1), np.uint32)
    decoder.decode(table, planes_bytes, device.address(data), table.ctypes.data, errors, device.address(out))
    results: list[bytes | int | None] = [None] * len(frames)
    written = np.zeros(out.size, bool)
    for row, error in zip(parsed.rows, errors, strict=False):
        place = slice(int(places[row]), int(places[row]) + sizes[row])
        written[place] = True
        results[row] = int(error) if error else out[place].tobytes()
    assert (out[~written] == POISON).all(), "something was written between the chunks"
    return results
