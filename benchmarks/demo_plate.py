"""How fast a demo plate is written, beside writing the same files from memory with os.write.

The peer does nothing but open, write and close: what remains to 1 is the price of drawing the images. Both
write the same plate into fresh folders of one directory, alternately; medians count. No sync: the goal is a
plate in the page cache of whoever tries things on it. Prints one JSON object at the end.

    python benchmarks/demo_plate.py [--directory DIR] [--size N] [--wells N] [--fields N] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from numcodecs import blosc

from vfsd.plates.demo import DemoPlate, write_demo_plate

# The goal of the demo plate: 10 GB in about half a minute.
GOAL_MB_PER_S = 300


def write_files(directory: Path, files: dict[Path, bytes]) -> None:
    """The peer: the same bytes under the same names, from memory."""
    directory.mkdir()
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.write(descriptor, data)
        finally:
            os.close(descriptor)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and seconds of processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def compression_ratio(files: dict[Path, bytes], size: int) -> float:
    """What the store's codec makes of the first field's planes."""
    planes = [data[8 : 8 + 2 * size * size] for name, data in files.items() if "_B02_s1_" in name.name]
    frames = [blosc.compress(memoryview(plane).cast("H"), b"lz4", 5, blosc.SHUFFLE, 32768) for plane in planes]
    return sum(map(len, planes)) / sum(map(len, frames))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--directory", type=Path, help="where to write (default: the temporary directory)")
    parser.add_argument("--size", type=int, default=2160)
    parser.add_argument("--wells", type=int, default=8)
    parser.add_argument("--fields", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    ours: list[tuple[float, float]] = []
    peer: list[float] = []
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="demo-plate-") as folder:
        target = Path(folder) / "plate"

        def write_demo() -> DemoPlate:
            return write_demo_plate(target, size=options.size, wells=options.wells, fields=options.fields, seed=1)

        # The first plate warms up what is imported, and gives the peer its bytes.
        written = write_demo()
        paths = sorted(path for path in target.rglob("*") if path.is_file())
        files = {path.relative_to(target): path.read_bytes() for path in paths}
        shutil.rmtree(target)
        for _ in range(options.rounds):
            ours.append(timed(write_demo))
            shutil.rmtree(target)
            peer.append(timed(lambda: write_files(target, files))[0])
            shutil.rmtree(target)
            print(f"demo plate {ours[-1][0]:.2f} s, os.write {peer[-1]:.2f} s", file=sys.stderr)

    megabytes = written.bytes / 1e6
    seconds = statistics.median(wall for wall, _ in ours)
    peer_seconds = statistics.median(peer)
    report = {
        "benchmark": "demo_plate",
        "images": written.images,
        "megabytes": round(megabytes, 1),
        "demo_plate_mb_per_s": round(megabytes / seconds),
        "demo_plate_mb_per_cpu_s": round(megabytes / statistics.median(cpu for _, cpu in ours)),
        "os_write_mb_per_s": round(megabytes / peer_seconds),
        "ratio_to_os_write": round(peer_seconds / seconds, 3),
        "goal_mb_per_s": GOAL_MB_PER_S,
        "blosc_lz4_ratio": round(compression_ratio(files, options.size), 3),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
