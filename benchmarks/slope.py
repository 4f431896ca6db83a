"""How long 100 GB take to be stored: the slope over plates of growing size, and whether it holds on the largest.

Each plate is converted from the disk with nothing of it in the page cache, verified, with levels. A line through the
smaller sizes gives what a gigabyte costs and what every run costs; the largest size is then foretold and measured.

    python -m benchmarks.slope [--quick] [--sizes GB,…] [--json FILE]
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.cold import files_below, make_cold
from benchmarks.measure import Goal, Report, parser, run_vfsd
from benchmarks.planes import make_plate

FULL_SIZES, QUICK_SIZES = (2.0, 5.0, 10.0, 20.0), (0.25, 0.5, 1.0)
GOAL_GB, GOAL_SECONDS = 100, 180
"""What the document behind the project promises, at its slower end."""

FORETOLD = 0.9
"""How well the line has to foretell the largest size."""


def main() -> None:
    options = parser("The time to store 100 GB, from the slope over smaller sizes.")
    options.add_argument("--sizes", metavar="GB,…", help="which sizes, the largest last")
    chosen = options.parse_args()
    sizes = tuple(map(float, chosen.sizes.split(","))) if chosen.sizes else QUICK_SIZES if chosen.quick else FULL_SIZES
    gigabytes: list[float] = []
    seconds: list[float] = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=chosen.work) as folder:
            plate, store = Path(folder) / "plate", Path(folder) / "plate.vfs"
            make_plate(plate, 1000 * size)
            files = files_below(plate)
            gigabytes.append(sum(path.stat().st_size for path in files) / 1e9)
            make_cold(files)
            begun = time.perf_counter()
            run_vfsd("convert", plate, store)
            seconds.append(time.perf_counter() - begun)
            shutil.rmtree(store)
    slope, start = (float(value) for value in np.polyfit(gigabytes[:-1], seconds[:-1], 1))
    foretold = start + slope * gigabytes[-1]
    report = Report("slope")
    whole = start + slope * GOAL_GB
    report.goals.append(Goal(f"{GOAL_GB} GB stored, by the slope", "s", whole, GOAL_SECONDS, GOAL_SECONDS / whole, 1.0))
    fit = min(foretold, seconds[-1]) / max(foretold, seconds[-1])
    report.goals.append(
        Goal(f"{gigabytes[-1]:.0f} GB, foretold and measured", "s", seconds[-1], foretold, fit, FORETOLD)
    )
    report.details = {"GB": gigabytes, "s": seconds, "s a GB": slope, "s at the start": start}
    report.publish(chosen.json)


if __name__ == "__main__":
    main()
