"""What it costs to look at what was written before anything is given up for it: `--verify=full`, `digest` and `off`.

A simulated plate is converted anew each time; beside it, the finished store is verified by rebuilding every file and by digests
alone, and `cp` with a sync shows what the disk takes. Full must cost less than twice what off does: it reads back what is about
half of the plate, while the next files are compressed.

    python -m benchmarks.verify [--quick] [--size MB] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Goal, Report, make_demo_plate, median, parser, run_vfsd, take_turns

# A plane of a current camera, 2048 x 2048 pixels of 16 bits; 4 channels and 6 slices a field.
PLANE_SIDE = 2048
PLANE_BYTES = 2 * PLANE_SIDE**2
CHANNELS, SLICES = 4, 6

FULL_MB, QUICK_MB = 1600, 210
FULL_ROUNDS, QUICK_ROUNDS = 3, 1
# Off may be this many times as fast as full, at most.
MOST = 2.0


def main() -> None:
    options = parser("What verification costs: a conversion with each --verify, and vfsd verify both ways.")
    options.add_argument("--size", type=int, metavar="MB", help="how much to convert")
    chosen = options.parse_args()
    megabytes = chosen.size or (QUICK_MB if chosen.quick else FULL_MB)
    rounds = chosen.rounds or (QUICK_ROUNDS if chosen.quick else FULL_ROUNDS)
    report = Report("verify")
    with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=chosen.work) as folder:
        work = Path(folder)
        plate, kept = work / "plate", work / "kept.vfs"
        wells = max(1, round(megabytes * 1e6 / PLANE_BYTES / (CHANNELS * SLICES)))
        shape = {"wells": wells, "fields": 1, "channels": CHANNELS, "z": SLICES, "size": PLANE_SIDE}
        make_demo_plate(plate, shape)
        run_vfsd("convert", plate, kept)
        size = sum(path.stat().st_size for path in plate.rglob("*") if path.is_file())

        def convert(how: str) -> Callable[[], float]:
            return lambda: timed(
                lambda: run_vfsd("convert", plate, work / "new.vfs", "--verify", how), work / "new.vfs"
            )

        def copy() -> None:
            shutil.copytree(plate, work / "copy")
            os.sync()

        contestants = {
            **{f"convert, {how}": convert(how) for how in ("full", "digest", "off")},
            "verify": lambda: timed(lambda: run_vfsd("verify", kept)),
            "verify --digests": lambda: timed(lambda: run_vfsd("verify", kept, "--digests")),
            "cp, synced": lambda: timed(copy, work / "copy"),
        }
        times = take_turns(contestants, rounds)
    took = {name: median(seconds) for name, seconds in times.items()}
    for how in ("full", "digest"):
        ours, peer = took[f"convert, {how}"], took["convert, off"]
        report.goals.append(Goal(f"convert verified ({how}) against not", "s", ours, peer, peer / ours, 1 / MOST))
    ours, peer = took["verify --digests"], took["verify"]
    report.goals.append(Goal("verify by digests against by rebuilding", "s", ours, peer, peer / ours, 1.0))
    report.details = {
        "bytes": size,
        "GB/s": {name: size / seconds / 1e9 for name, seconds in took.items()},
        "rounds": rounds,
        "seconds": times,
        "plate": shape,
    }
    report.publish(chosen.json)


def timed(act: Callable[[], object], made: Path | None = None) -> float:
    """Seconds, start of the command included; what it made is removed again."""
    begun = time.perf_counter()
    act()
    seconds = time.perf_counter() - begun
    if made is not None:
        shutil.rmtree(made)
    return seconds


if __name__ == "__main__":
    main()
