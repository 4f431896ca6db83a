"""128 KiB from the middle of a large stored file, against decoding the whole plane that they lie in.

Two files: one plane that fills it, stored as many chunks (the one image of a plate: elsewhere a single TIFF stays as it
is), and a stack of planes of a camera, one chunk each. Both are read through a mount in whose process nothing of the file
was read before; the store is in the page cache. The peer decodes the whole plane from the same chunks into memory, as a
reader must that cannot decode a part of one.

    python -m benchmarks.large_file [--quick] [--size MB] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile

from benchmarks.cold import files_below, make_warm
from benchmarks.measure import Goal, Report, median, parser, take_turns
from benchmarks.planes import SIDE
from benchmarks.stored import StoredPlate
from vfsd.store import Store
from vfsd.store.planes import decode_plane

FULL_MB, QUICK_MB = 4000, 400
FULL_ROUNDS, QUICK_ROUNDS = 9, 3
PIECE = 128 << 10
NAME = "1_A01_s1_w1.TIF"
MOST = 0.05
"""The part of a whole plane's time that a piece may take."""


def write_one_plane(path: Path, megabytes: int) -> None:
    """A file of one square plane."""
    side = int((megabytes * 1e6 / 2) ** 0.5)
    chance = np.random.default_rng(1)
    band = chance.poisson(300, (256, side)).astype("<u2")
    with tifffile.TiffWriter(path) as tiff:
        rows = (band[: min(256, side - top)] for top in range(0, side, 256))
        tiff.write(rows, shape=(side, side), dtype="uint16", rowsperstrip=256)


def write_stack(path: Path, megabytes: int) -> None:
    """A file of planes of a camera, as ImageJ writes a stack."""
    chance = np.random.default_rng(2)
    plane = chance.poisson(300, (SIDE, SIDE)).astype("<u2")
    count = max(16, round(megabytes * 1e6 / plane.nbytes))
    tifffile.imwrite(
        path, (plane for _ in range(count)), shape=(count, SIDE, SIDE), dtype="uint16", photometric="minisblack"
    )


def main() -> None:
    options = parser("A piece from the middle of a large stored file, against decoding its whole plane.")
    options.add_argument("--size", type=int, metavar="MB", help="how large each file is")
    chosen = options.parse_args()
    megabytes = chosen.size or (QUICK_MB if chosen.quick else FULL_MB)
    rounds = chosen.rounds or (QUICK_ROUNDS if chosen.quick else FULL_ROUNDS)
    report = Report("large_file")
    for name, write in (("one plane", write_one_plane), ("a stack", write_stack)):
        with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=chosen.work) as folder:
            times = measure(Path(folder), write, megabytes, rounds)
        ours, whole = 1e3 * median(times["piece"]), 1e3 * median(times["plane"])
        title = f"128 KiB from the middle of a stored file of {megabytes} MB, {name}"
        report.goals.append(Goal(title, "ms", ours, whole, whole / ours, 1 / MOST))
        report.details[name] = times
    report.publish(chosen.json)


def measure(work: Path, write: Callable[[Path, int], None], megabytes: int, rounds: int) -> dict[str, list[float]]:
    """Store one file and read it both ways."""
    (work / "plate").mkdir()
    path = work / "plate" / NAME
    write(path, megabytes)
    stored = StoredPlate.convert(work / "plate", work)
    make_warm(files_below(stored.store))
    return take_turns({"piece": lambda: read_piece(stored, path), "plane": lambda: whole_plane(stored)}, rounds)


def read_piece(stored: StoredPlate, path: Path) -> float:
    """Seconds to read the piece through a new mount; the file is open already."""
    with stored.mount():
        fd = os.open(stored.mounted_path(path), os.O_RDONLY)
        try:
            middle = path.stat().st_size // 2
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # one piece is wanted, not what follows it
            os.pread(fd, 4096, 0)  # the header, which any program reads first
            begun = time.perf_counter()
            found = os.pread(fd, PIECE, middle)
            seconds = time.perf_counter() - begun
        finally:
            os.close(fd)
    if len(found) != PIECE:
        raise SystemExit(f"read {len(found)} bytes")
    return seconds


def whole_plane(stored: StoredPlate) -> float:
    """Seconds to decode the whole plane in the middle, all chunks of it."""
    store = Store.open(stored.store, writable=False)
    try:
        record = next(record for path, record in store.catalogue.walk() if path.endswith(NAME.encode()))
        file = store.files.describe(record)
        plane = file.planes[len(file.planes) // 2]
        out = np.empty(plane.geometry.plane_bytes, np.uint8)
        out[::4096] = 0  # its pages are there: what is measured is decoding
        begun = time.perf_counter()
        decode_plane(plane.reader(store.files.shards), plane.geometry, out.data)
        return time.perf_counter() - begun
    finally:
        store.close()


if __name__ == "__main__":
    main()
