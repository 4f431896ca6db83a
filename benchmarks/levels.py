"""What the levels of images cost: a plate stored with and without them, and one plane halved.

Both sides run `vfsd convert` on the same simulated plate, verification included, in turn; one with `--levels 0`. The
store's sizes are compared as well. Halving a plane of 2160 x 2160 pixels of 16 bits is compared with numpy's mean over
2 x 2 blocks, and with numpy adding whole numbers.

    python -m benchmarks.levels [--quick] [--size MB] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import json
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Goal, Report, make_demo_plate, median, parser, run_vfsd, take_turns
from vfsd.codec.halve import halve_by_mean

PLANE_SIDE = 2160
PLANE_MB = 2 * PLANE_SIDE**2 / 1e6
CHANNELS = 4
FULL_MB, QUICK_MB = 600, 80
FULL_ROUNDS, QUICK_ROUNDS = 5, 1
MEAN_MS = 6.0
"""The most that halving a plane may take, whatever else the machine does."""


def halve_by_blocks(plane: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """As one would write it."""
    side = PLANE_SIDE // 2
    return plane.reshape(side, 2, side, 2).mean(axis=(1, 3)).astype(plane.dtype)


def halve_by_adding(plane: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """As one would write it knowing numpy."""
    rows = plane[::2].astype(np.uint32) + plane[1::2]
    return ((rows[:, ::2] + rows[:, 1::2] + 2) >> 2).astype(plane.dtype)


def cpu_seconds() -> float:
    """Processor time of all commands so far: on a busy machine steadier than the clock."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def timed_halving(rounds: int) -> dict[str, list[float]]:
    """Milliseconds a plane of each way."""
    plane = np.random.default_rng(1).poisson(300, (PLANE_SIDE, PLANE_SIDE)).astype(np.uint16)

    def timed(halve: Any) -> float:
        begun = time.perf_counter()
        halve(plane)
        return (time.perf_counter() - begun) * 1e3

    ways = {"ours": halve_by_mean, "blocks": halve_by_blocks, "adding": halve_by_adding}
    return take_turns({name: lambda way=way: timed(way) for name, way in ways.items()}, rounds)


def main() -> None:
    options = parser("Levels of images: their cost in time and bytes.")
    options.add_argument("--size", type=int, metavar="MB", help="how large the plate is")
    chosen = options.parse_args()
    megabytes = chosen.size or (QUICK_MB if chosen.quick else FULL_MB)
    rounds = chosen.rounds or (QUICK_ROUNDS if chosen.quick else FULL_ROUNDS)
    wells = max(1, round(megabytes / PLANE_MB / CHANNELS))
    stored: dict[str, int] = {}
    processor: dict[str, list[float]] = {"auto": [], "0": []}
    with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=chosen.work) as folder:
        plate, store = Path(folder) / "plate", Path(folder) / "plate.vfs"
        make_demo_plate(plate, {"wells": wells, "fields": 1, "channels": CHANNELS, "z": 1, "size": PLANE_SIDE})

        def convert(levels: str) -> float:
            begun, used = time.perf_counter(), cpu_seconds()
            told = json.loads(run_vfsd("convert", plate, store, "--levels", levels, "--json"))["flush"]
            seconds = time.perf_counter() - begun
            processor[levels].append((cpu_seconds() - used) / (wells * CHANNELS))
            stored[levels] = told["stored_bytes"]
            shutil.rmtree(store)
            return seconds / (wells * CHANNELS)

        times = take_turns({"levels": lambda: convert("auto"), "none": lambda: convert("0")}, rounds)
    halving = timed_halving(3 * rounds)
    report = Report("levels")
    ours, adding = min(halving["ours"]), min(halving["adding"])
    report.goals.append(Goal("halving a plane", "ms", ours, adding, adding / ours, 1.0))
    report.goals.append(Goal("halving a plane, limit", "ms", ours, MEAN_MS, MEAN_MS / ours, 1.0))
    report.details = {
        "planes": wells * CHANNELS,
        "seconds a plane with levels": median(times["levels"]),
        "seconds a plane without": median(times["none"]),
        "time, with : without": round(median(times["levels"]) / median(times["none"]), 3),
        "processor time, with : without": round(median(processor["auto"]) / median(processor["0"]), 3),
        "processor ms a plane, more": round((median(processor["auto"]) - median(processor["0"])) * 1e3, 1),
        "stored bytes, with : without": round(stored["auto"] / stored["0"], 3),
        "halving by numpy's mean, ms": min(halving["blocks"]),
        "rounds": times,
    }
    report.publish(chosen.json)


if __name__ == "__main__":
    main()
