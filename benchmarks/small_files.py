"""What one open, read and close of a small stored image costs through the mount, in microseconds.

A plate of images of about 100 KB is stored and mounted. Each image is opened, read whole and closed: the first time, when it has
to be made, and again, when it is in RAM; beside it the raw files without any mount, and a pyfuse3 file system that does nothing
else (benchmarks/ceiling.py). The files are in the page cache throughout. The processor time of the daemon is counted too.

    python -m benchmarks.small_files [--quick] [--files N] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from benchmarks.ceiling import ceiling_mounted
from benchmarks.measure import Goal, Report, median, parser, take_turns
from benchmarks.planes import make_plate
from benchmarks.stored import StoredPlate

SIDE = 224
FULL_FILES, QUICK_FILES = 4000, 300
FULL_ROUNDS, QUICK_ROUNDS = 5, 1
TARGET_AGAIN = 0.7
"""Of pyfuse3's own speed, for a file that is in RAM."""

TARGET_FIRST = 0.35
"""Of the same, for one that has to be made: two rows of the catalogue, a decoder and a new file more."""


def walk(paths: list[Path], buffer: bytearray) -> float:
    """Microseconds a file."""
    begun = time.perf_counter()
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.readv(fd, [buffer])
        os.close(fd)
    return (time.perf_counter() - begun) / len(paths) * 1e6


def processor_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    options = parser("Open, read, close of small stored images.")
    options.add_argument("--files", type=int, metavar="N", help="how many")
    chosen = options.parse_args()
    count = chosen.files or (QUICK_FILES if chosen.quick else FULL_FILES)
    rounds = chosen.rounds or (QUICK_ROUNDS if chosen.quick else FULL_ROUNDS)
    report = Report("small_files")
    again: list[float] = []
    processor: dict[str, list[float]] = {"first": [], "again": []}
    with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=chosen.work) as folder:
        work = Path(folder)
        make_plate(work / "plate", count * 2 * SIDE**2 / 1e6, side=SIDE)
        stored = StoredPlate.convert(work / "plate", work)
        paths = stored.images()
        buffer = bytearray(max(path.stat().st_size for path in paths))

        def mounted() -> float:
            through = [stored.mounted_path(path) for path in paths]
            with stored.mount() as pid:
                for path in through:
                    path.stat()  # names and attributes are looked up before: this is about opening and reading
                used = [processor_seconds(pid)]
                first = walk(through, buffer)
                used.append(processor_seconds(pid))
                for path in through:
                    fd = os.open(path, os.O_RDONLY)
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # the kernel's own copy, not ours
                    os.close(fd)
                used.append(processor_seconds(pid))
                again.append(walk(through, buffer))
                used.append(processor_seconds(pid))
            processor["first"].append((used[1] - used[0]) / len(paths) * 1e6)
            processor["again"].append((used[3] - used[2]) / len(paths) * 1e6)
            return first

        def ceiling() -> float:
            with ceiling_mounted(stored.raw, stored.mountpoint):
                through = [stored.mounted_path(path) for path in paths]
                for path in through:
                    path.stat()
                return walk(through, buffer)

        times = take_turns({"raw": lambda: walk(paths, buffer), "ceiling": ceiling, "first": mounted}, rounds)
    times["again"] = again
    peer = median(times["ceiling"])
    for name, target, what in (("again", TARGET_AGAIN, "in RAM"), ("first", TARGET_FIRST, "made by the first read")):
        ours = median(times[name])
        report.goals.append(
            Goal(f"a stored image of 100 KB, {what}, against pyfuse3's ceiling", "µs", ours, peer, peer / ours, target)
        )
    report.details = {"µs a file": times, "processor µs of the daemon": processor, "files": len(paths)}
    report.publish(chosen.json)


if __name__ == "__main__":
    main()
