"""What no flush can beat: the disk taking and giving back the compressed bytes, and two threads compressing and decoding.

Both are measured with the bytes that a flush stored, or the planes that it took in, in the same run as the flush.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.cold import make_cold
from benchmarks.planes import Image, pixels_of
from vfsd.codec.blosc import BloscParameters, compress, decompress_into

THREADS = 2
PIECE = 8 << 20
FILE_BYTES = 128 << 20
"""A file of the raw write: about as large as the shard of a field."""

MOST_PLANES = 96
"""Planes that are compressed for the limit; the time of all follows from them."""


def disk_seconds(folder: Path, size: int) -> float:
    """Write `size` bytes that do not compress, sync them, drop them from memory and read them back."""
    noise = np.random.default_rng(1).bytes(PIECE)
    folder.mkdir()
    paths = [folder / str(number) for number in range(max(1, -(-size // FILE_BYTES)))]
    left = size
    begun = time.perf_counter()
    for path in paths:
        with path.open("wb", buffering=0) as file:
            for _ in range(0, min(left, FILE_BYTES), PIECE):
                left -= file.write(noise[: min(left, PIECE)])
            os.fsync(file)
    written = time.perf_counter() - begun
    make_cold(paths)
    buffer = bytearray(PIECE)
    begun = time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while file.readinto(buffer):
                pass
    read = time.perf_counter() - begun
    for path in paths:
        path.unlink()
    folder.rmdir()
    return written + read


def codec_seconds_a_plane(images: Sequence[Image], parameters: BloscParameters) -> float:
    """Compress planes and decode them again, each in one of two threads; nothing else is done."""
    planes = [pixels_of(image) for image in images[:MOST_PLANES]]
    frames: list[bytes] = [b""] * len(planes)

    def encode(number: int) -> None:
        frames[number] = compress(planes[number], parameters)

    def decode(number: int) -> None:
        decompress_into(frames[number], scratch[number % (2 * THREADS)])

    scratch = [np.empty_like(planes[0]) for _ in range(2 * THREADS)]
    return (in_threads(encode, len(planes)) + in_threads(decode, len(planes))) / len(planes)


def in_threads(work: Callable[[int], None], count: int) -> float:
    """The seconds that `work(0)` to `work(count - 1)` take in two threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        begun = time.perf_counter()
        for _ in pool.map(work, range(count)):
            pass
        return time.perf_counter() - begun
