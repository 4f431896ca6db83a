"""What a plane costs in plates of 100 to 13,824 small images: storing has to be linear in the number of planes.

Simulated plates of 9 fields and 4 channels, up to all 384 wells, are converted one after the other in this process, verification
and levels included, after one that is not counted: no start of a program is measured. The images are so small that what
counts is what a file costs, not its pixels. Processor time (user and system, of all threads) is what is compared: other
programs on the machine change it least. The small plates are converted more often, so that each size is measured about as long.

    python -m benchmarks.plate_size [--quick] [--planes N,…] [--pixels N] [--profile FILE] [--json FILE]
"""

from __future__ import annotations

import cProfile
import resource
import shutil
import tempfile
import time
from pathlib import Path

import trio

from benchmarks.measure import Goal, Report, make_demo_plate, median, parser
from vfsd.flush import convert_plate

FIELDS, CHANNELS = 9, 4
A_WELL = FIELDS * CHANNELS
WELLS = 384
FULL_PLANES, QUICK_PLANES = (100, 1000, 10_000, WELLS * A_WELL), (100, 1000)
PIXELS = 64
WITHIN = 0.8
"""The cheapest plane costs at least this part of the dearest one, from the smallest plate to the largest."""

# Plates of fewer planes are converted this many times in a row, at most.
MOST_REPEATS = 20
ROUNDS = 3


def used_seconds() -> float:
    """Processor time of this process and of those that it has started."""
    each = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in each)


def convert(plate: Path, store: Path) -> tuple[float, float, int]:
    """Processor seconds, seconds and files of one conversion."""
    used, begun = used_seconds(), time.perf_counter()
    result = trio.run(convert_plate, plate, store)
    used, took = used_seconds() - used, time.perf_counter() - begun
    shutil.rmtree(store)
    return used, took, result.files


def main() -> None:
    options = parser("What a plane costs in small and in large plates.")
    options.add_argument("--planes", metavar="N,…", help="sizes of plates, in planes")
    options.add_argument("--pixels", type=int, default=PIXELS, metavar="N", help="side of an image")
    options.add_argument("--profile", type=Path, metavar="FILE", help="a profile of one more conversion of the largest")
    chosen = options.parse_args()
    wanted = QUICK_PLANES if chosen.quick else FULL_PLANES
    if chosen.planes:
        wanted = tuple(map(int, chosen.planes.split(",")))
    wells = [min(WELLS, max(1, round(planes / A_WELL))) for planes in wanted]
    processor: dict[int, list[float]] = {count: [] for count in wells}
    clock: dict[int, list[float]] = {count: [] for count in wells}
    with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=chosen.work) as folder:
        store = Path(folder) / "plate.vfs"
        plates = {count: Path(folder) / f"plate{count}" for count in wells}
        shape = {"fields": FIELDS, "channels": CHANNELS, "z": 1, "size": chosen.pixels}
        for count, plate in plates.items():
            make_demo_plate(plate, {"wells": count, **shape})
        convert(plates[wells[0]], store)
        for number in range(chosen.rounds or (1 if chosen.quick else ROUNDS)):
            for count in reversed(wells) if number % 2 else wells:
                repeats = min(MOST_REPEATS, max(wells) // count)
                runs = [convert(plates[count], store) for _ in range(repeats)]
                processor[count].append(median([used / files for used, _, files in runs]) * 1e3)
                clock[count].append(median([took / files for _, took, files in runs]) * 1e3)
        if chosen.profile is not None:
            profile = cProfile.Profile()
            profile.runcall(convert, plates[wells[-1]], store)
            profile.dump_stats(chosen.profile)
    cost = {count * A_WELL: median(times) for count, times in processor.items()}
    report = Report("plate_size")
    cheapest, dearest = min(cost.values()), max(cost.values())
    report.goals.append(
        Goal("a plane, cheapest and dearest size of plate", "ms", cheapest, dearest, cheapest / dearest, WITHIN)
    )
    report.details = {
        "processor ms a plane, by planes": {planes: round(ms, 3) for planes, ms in cost.items()},
        "ms a plane, by planes": {count * A_WELL: round(median(times), 3) for count, times in clock.items()},
        "rounds": {count * A_WELL: [round(ms, 3) for ms in times] for count, times in processor.items()},
        "pixels": chosen.pixels,
    }
    report.publish(chosen.json)


if __name__ == "__main__":
    main()
