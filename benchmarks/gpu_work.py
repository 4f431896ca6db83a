"""What `benchmarks.gpu` works on: planes, their frames, batches of them on the device, and a store's shards of them."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_machine import ROOT, cores

Plane = NDArray[np.uint16]


def demo_planes(count: int, side: int, seed: int) -> list[Plane]:
    """Planes of the simulated plate, three stains in turn; by file, since the room's package wants more than numpy."""
    spec = importlib.util.spec_from_file_location("vfsd_demo_scene", ROOT / "vfsd" / "plates" / "demo_scene.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    scene = module.Scene(side, 3, 1, np.dtype("<u2"), seed)
    planes = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        plane = np.empty((side, side), "<u2")
        scene.draw_plane(
            plane, rng, scene.scatter_cells(rng, 1.0), channel=number % 3, z=0, time=number // 3, response=0.5
        )
        planes.append(plane)
    return planes


def poisson_planes(count: int, side: int, seed: int) -> list[Plane]:
    """Noise of mean 256: seven times the sequences of a demo plane."""
    rng = np.random.default_rng(seed)
    return [rng.poisson(256, (side, side)).astype("<u2") for _ in range(count)]


def compress_planes(
    planes: Sequence[NDArray[Any]], *, stream_bytes: int = 32768, shuffle: int = 1, clevel: int = 5
) -> list[bytes]:
    """Frames as the store writes them, by numcodecs on all cores."""
    from numcodecs import blosc

    blosc.use_threads = False

    def compress(plane: NDArray[Any]) -> bytes:
        frame: bytes = blosc.compress(plane.reshape(-1), b"lz4", clevel, shuffle, stream_bytes, plane.itemsize)
        return frame

    with ThreadPoolExecutor(cores()) as threads:
        return list(threads.map(compress, planes))


def count_sequences(frame: bytes) -> int:
    """LZ4 sequences in all streams of a frame (format: vfsd/codec/blosc_decode.h)."""
    flags, typesize = frame[2], frame[3]
    nbytes, blocksize = (int.from_bytes(frame[at : at + 4], "little") for at in (4, 8))
    if flags & 2:
        return 0
    split = not flags & 16 and typesize <= 16 and blocksize // typesize >= 128
    total = 0
    for block in range(-(-nbytes // blocksize)):
        size = min(blocksize, nbytes - block * blocksize)
        streams = typesize if split and size == blocksize else 1
        at = int.from_bytes(frame[16 + 4 * block : 20 + 4 * block], "little")
        for _ in range(streams):
            length = int.from_bytes(frame[at : at + 4], "little")
            at += 4
            if length != size // streams:
                total += _count_in_stream(frame[at : at + length])
            at += length
    return total


def _count_in_stream(stream: bytes) -> int:
    count, at, end = 0, 0, len(stream)
    while at < end:
        token = stream[at]
        at += 1
        count += 1
        literals = token >> 4
        if literals == 15:
            while stream[at] == 255:
                literals += 255
                at += 1
            literals += stream[at]
            at += 1
        at += literals + 2
        if token & 15 == 15 and at < end:
            while stream[at] == 255:
                at += 1
            at += 1
    return count


@dataclass(slots=True)
class Batch:
    """Frames in the device's memory, with what a `BatchDecoder` wants of them.

    `contents` are the distinct planes, on the device too; frame i is of plane i modulo their number. `rows` is
    the device's copy of `table`.
    """

    contents: list[Any]
    table: NDArray[Any]
    input: Any
    out: Any
    errors: Any
    rows: Any
    compressed_bytes: int

    @property
    def nbytes(self) -> int:
        """Decoded bytes."""
        return int(self.table["nbytes"].astype(np.int64).sum())


def make_batch(device: Any, frames: Sequence[bytes], contents: Sequence[bytes], count: int) -> Batch:
    """`count` frames in turn, each with memory of its own."""
    from vfsd.gpu.frames import parse_frames

    chosen = [number % len(frames) for number in range(count)]
    sizes = np.array([len(frames[n]) for n in chosen], np.int64)
    offsets = np.cumsum(sizes) - sizes
    total = (int(sizes.sum()) + 15) // 16 * 16
    host = device.pinned(total)
    for offset, n in zip(offsets, chosen, strict=True):
        host[offset : offset + len(frames[n])] = np.frombuffer(frames[n], np.uint8)
    expected = np.array([len(contents[n]) for n in chosen], np.int64)
    parsed = parse_frames(host, offsets, sizes, expected)
    table = parsed.table
    if len(parsed.others):
        raise RuntimeError("a frame of numcodecs is not for the GPU")
    room = (expected + 15) // 16 * 16
    table["out"] = np.cumsum(room) - room
    stream = device.stream()
    on_device = device.empty((total,), np.uint8)
    device.upload(host, on_device, stream)
    out = device.empty((int(room.sum()),), np.uint8)
    errors = device.empty((len(table),), np.uint32)
    rows = device.empty((table.nbytes,), np.uint8)
    planes = []
    for content in contents:
        planes.append(device.empty((len(content),), np.uint8))
        device.upload(np.frombuffer(content, np.uint8), planes[-1], stream)
    device.synchronize()
    return Batch(planes, table, on_device, out, errors, rows, int(sizes.sum()))


def upload_table(device: Any, batch: Batch, stream: Any) -> None:
    """After `place_planes`: the device's copy of the table, errors at none, output poisoned."""
    device.upload(np.ascontiguousarray(batch.table).view(np.uint8), batch.rows, stream)
    device.synchronize()
    with device.on(stream):
        batch.errors[...] = 0
        batch.out[...] = 0xA6
    device.synchronize()


def check_batch(device: Any, batch: Batch) -> None:
    """Compare every plane that came out with what went in, on the device; RuntimeError."""
    device.synchronize()
    if int(batch.errors.max()) != 0:
        raise RuntimeError("a sound frame was refused")
    wrong = [
        (batch.out[begin : begin + content.nbytes] != content).any()
        for begin, content in zip(batch.table["out"].tolist(), itertools.cycle(batch.contents), strict=False)
    ]
    for number, differs in enumerate(wrong):
        if bool(differs):
            raise RuntimeError(f"plane {number} was decoded to other bytes")


def write_shards(folder: Path, frames: Sequence[bytes], side: int, count: int) -> list[Path]:
    """`count` planes as arrays of the store, three planes a shard, as a field of three channels has it."""
    from vfsd.codec.shard import ShardWriter

    folders = []
    for first in range(0, count, 3):
        here = folder / f"{first:04d}"
        here.mkdir(parents=True)
        planes = min(3, count - first)
        codecs = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {
                "name": "blosc",
                "configuration": {
                    "cname": "lz4",
                    "clevel": 5,
                    "shuffle": "shuffle",
                    "typesize": 2,
                    "blocksize": 32768,
                },
            },
        ]
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        sharding = {"chunk_shape": [1, side, side], "codecs": codecs, "index_codecs": index, "index_location": "end"}
        document = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [planes, side, side],
            "data_type": "uint16",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, side, side]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": 0,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {},
        }
        (here / "zarr.json").write_text(json.dumps(document))
        with (here / "c.0.0.0").open("wb") as file:
            writer = ShardWriter(file.fileno(), 3)
            for position in range(planes):
                writer.append(position, frames[(first + position) % len(frames)])
            writer.finish()
        folders.append(here)
    return folders
