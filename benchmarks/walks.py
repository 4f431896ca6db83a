"""Walking over a stored plate in each order, with a client that computes 10 ms a plane: with prefetch, and without.

The plate has wells, fields, channels and slices. Each walk takes one plane after the other in one of the orders that
programs use; the mount is new and nothing of the store is in the page cache. The client computes for 10 ms of processor
time after each plane, as an analysis does. The best that this code does without prefetch is the same mount with
`-o prefetch=off`.

    python -m benchmarks.walks [--quick] [--size MB] [--rounds N] [--transport NAME] [--json FILE]
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import Goal, Report, median, parser, run_vfsd, take_turns
from benchmarks.planes import Image, images_of, make_plate
from benchmarks.stored import StoredPlate, read_all

FULL_MB, QUICK_MB = 1500, 340
FULL_ROUNDS, QUICK_ROUNDS = 3, 1
SECONDS_A_PLANE = 0.010
TARGET = 1.5

Order = Callable[[Image], Any]


def row_of(image: Image) -> tuple[str, int]:
    return image.well[0], int(image.well[1:])


ORDERS: dict[str, Order] = {
    "channels of a field": lambda image: (row_of(image), image.field, image.plane[2], image.plane[1]),
    "slices of a channel": lambda image: (row_of(image), image.field, image.plane[1], image.plane[2]),
    "fields of a well": lambda image: (row_of(image), image.plane, image.field),
    "wells along rows": lambda image: (image.plane, image.field, row_of(image)),
    "wells along columns": lambda image: (image.plane, image.field, row_of(image)[::-1]),
    "every second, backwards": lambda image: (row_of(image), image.field, image.plane),
}


def compute(seconds: float) -> None:
    """Use the processor for so long."""
    begun = time.thread_time()
    while time.thread_time() - begun < seconds:
        pass


def main() -> None:
    options = parser("A walk over a stored plate in each order, with prefetch and without.")
    options.add_argument("--size", type=int, metavar="MB", help="how large the plate is")
    options.add_argument("--transport", default="pyfuse3", help="how vfsd talks to the kernel")
    chosen = options.parse_args()
    megabytes = chosen.size or (QUICK_MB if chosen.quick else FULL_MB)
    rounds = chosen.rounds or (QUICK_ROUNDS if chosen.quick else FULL_ROUNDS)
    report = Report(f"walks_{chosen.transport}")
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=chosen.work) as folder:
        work = Path(folder)
        shape = make_plate(work / "plate", megabytes, fields=3, channels=3, z=2)
        stored = StoredPlate.convert(work / "plate", work)
        images = images_of(stored.raw)
        buffer = bytearray(max(image.path.stat().st_size for image in images))

        def walk(order: str, prefetch: str) -> float:
            paths = [stored.mounted_path(image.path) for image in sorted(images, key=ORDERS[order])]
            if order.endswith("backwards"):
                paths = paths[::-2]
            with stored.mount("--transport", chosen.transport, "-o", f"prefetch={prefetch}"):
                stored.forget()
                begun = time.perf_counter()
                for path in paths:
                    read_all(path, buffer)
                    compute(SECONDS_A_PLANE)
                seconds = time.perf_counter() - begun
                if prefetch == "on":
                    told[order] = json.loads(run_vfsd("status", stored.mountpoint, "--json")).get("prefetch")
            return 1e3 * seconds / len(paths)

        times = take_turns(
            {
                f"{order}, prefetch {prefetch}": lambda order=order, prefetch=prefetch: walk(order, prefetch)
                for order in ORDERS
                for prefetch in ("on", "off")
            },
            rounds,
        )
    for order in ORDERS:
        ours, without = (median(times[f"{order}, prefetch {prefetch}"]) for prefetch in ("on", "off"))
        report.goals.append(Goal(f"walk: {order}", "ms a plane", ours, without, without / ours, TARGET))
    report.details = {"ms a plane": times, "prefetch": told, "rounds": rounds, "plate": shape}
    report.publish(chosen.json)


if __name__ == "__main__":
    main()
