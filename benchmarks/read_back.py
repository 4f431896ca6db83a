"""Reading a flushed plate: all TIFFs through the mount, cold and warm, and one plane at random.

1. Cold: every TIFF of a stored plate, read in order through the mount, against reading the raw TIFFs from the same disk without
   any mount. Both were dropped from the page cache; the mount is new each time.
2. Warm: the same with the store in the page cache, against tensorstore and zarr-python reading the same arrays.
3. One plane: open and read a file of a field that nothing was read of yet, with nothing in the page cache, against
   tensorstore and zarr-python opening that field's array and reading the plane.

    python -m benchmarks.read_back [--quick] [--size MB] [--rounds N] [--transport NAME] [--json FILE]
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import Goal, Report, median, parser, take_turns, watch_memory
from benchmarks.planes import Image, images_of, make_plate
from benchmarks.stored import StoredPlate, open_tensorstore, open_zarr, read_all

FULL_MB, QUICK_MB = 4000, 230
FULL_ROUNDS, QUICK_ROUNDS = 3, 1
COLD_TARGETS = {"kernel": 1.2, "pyfuse3": 1.0}


def main() -> None:
    options = parser("Reading a flushed plate, against raw files and other readers of Zarr.")
    options.add_argument("--size", type=int, metavar="MB", help="how large the plate is")
    options.add_argument("--transport", default="pyfuse3", help="how vfsd talks to the kernel")
    chosen = options.parse_args()
    megabytes = chosen.size or (QUICK_MB if chosen.quick else FULL_MB)
    rounds = chosen.rounds or (QUICK_ROUNDS if chosen.quick else FULL_ROUNDS)
    report = Report(f"read_back_{chosen.transport}")
    with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=chosen.work) as folder:
        work = Path(folder)
        shape = make_plate(work / "plate", megabytes)
        stored = StoredPlate.convert(work / "plate", work)
        whole = whole_plate(stored, rounds, chosen.transport, report)
        single = one_plane(stored, rounds, chosen.transport)
    name = f"({chosen.transport})"
    cold, raw = median(whole["mount, cold"]), median(whole["raw files, cold"])
    warm, peer = median(whole["mount, warm"]), median(whole["tensorstore, warm"])
    target = COLD_TARGETS.get(chosen.transport, 1.0)
    report.goals += [
        Goal(f"all TIFFs, cold {name}, against raw files", "GB/s", cold, raw, cold / raw, target),
        Goal(f"all TIFFs, warm {name}, against tensorstore", "GB/s", warm, peer, warm / peer, 1.0),
    ]
    for peer_name, factor in (("tensorstore", 1.5), ("zarr-python", 3.0)):
        ours, theirs = (1e3 * median(single[who]) for who in ("mount", peer_name))
        report.goals.append(
            Goal(f"one random plane, cold {name}, against {peer_name}", "ms", ours, theirs, theirs / ours, factor)
        )
    report.details = {"GB/s": whole, "one plane, s": single, "rounds": rounds, "plate": shape}
    report.publish(chosen.json)


def whole_plate(stored: StoredPlate, rounds: int, transport: str, report: Report) -> dict[str, list[float]]:
    """GB/s of each way to read everything."""
    paths = stored.images()
    total = sum(path.stat().st_size for path in paths)
    buffer = bytearray(max(path.stat().st_size for path in paths))
    arrays = stored.arrays()

    def read(files: list[Path]) -> float:
        begun = time.perf_counter()
        count = sum(read_all(path, buffer) for path in files)
        if count != total:
            raise SystemExit(f"read {count} bytes where the plate has {total}")
        return total / (time.perf_counter() - begun) / 1e9

    def raw_cold() -> float:
        stored.forget()
        return read(paths)

    def through_mount(cold: bool) -> float:
        mounted_paths = [stored.mounted_path(path) for path in paths]
        with stored.mount("--transport", transport) as pid, watch_memory(pid, report.memory):
            if cold:
                stored.forget()
            else:
                warm_store()
            return read(mounted_paths)

    def warm_store() -> None:
        for path in (stored.store / "images").rglob("*"):
            if path.is_file():
                path.read_bytes()

    def arrays_warm(open_array: Callable[[Path], Any], whole: Callable[[Any], Any]) -> float:
        warm_store()
        begun = time.perf_counter()
        for path in arrays:
            whole(open_array(path))
        return total / (time.perf_counter() - begun) / 1e9

    return take_turns(
        {
            "raw files, cold": raw_cold,
            "mount, cold": lambda: through_mount(cold=True),
            "mount, warm": lambda: through_mount(cold=False),
            "tensorstore, warm": lambda: arrays_warm(open_tensorstore, lambda array: array.read().result()),
            "zarr-python, warm": lambda: arrays_warm(open_zarr, lambda array: array[...]),
        },
        rounds,
    )


def one_plane(stored: StoredPlate, rounds: int, transport: str) -> dict[str, list[float]]:
    """Seconds for one plane of each field, in an order by chance, each time cold."""
    chance = random.Random(1)
    by_field: dict[tuple[str, int], list[Image]] = {}
    for image in images_of(stored.raw):
        by_field.setdefault((image.well, image.field), []).append(image)
    chosen = [chance.choice(images) for images in by_field.values()]
    chance.shuffle(chosen)
    chosen = chosen[: 12 * rounds]
    times: dict[str, list[float]] = {"mount": [], "tensorstore": [], "zarr-python": []}

    def timed(name: str, work: Callable[[], object]) -> None:
        stored.forget()
        begun = time.perf_counter()
        work()
        times[name].append(time.perf_counter() - begun)

    # what they import and start on first use is not a plane's
    open_tensorstore(stored.arrays()[0])[0, 0, 0].read().result()
    open_zarr(stored.arrays()[0])[0, 0, 0]
    buffer = bytearray(max(image.path.stat().st_size for image in chosen))

    def each_way(image: Image) -> None:
        array = array_of(stored, image)
        timed("mount", lambda: read_all(stored.mounted_path(image.path), buffer))
        timed("tensorstore", lambda: open_tensorstore(array)[image.plane].read().result())
        timed("zarr-python", lambda: open_zarr(array)[image.plane])

    with stored.mount("--transport", transport):
        for image in chosen:
            each_way(image)
    return times


def array_of(stored: StoredPlate, image: Image) -> Path:
    """The array that has an image's plane."""
    row, column = image.well[0], str(int(image.well[1:]))
    (plate,) = (stored.store / "images").iterdir()
    return plate / row / column / str(image.field) / "0"


if __name__ == "__main__":
    main()
