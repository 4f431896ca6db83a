"""Reading source files in order through the mount, against reading them without it.

The source lies in the page cache; each round mounts anew, so the mount's own pages are cold and every byte
comes through the daemon. An image is read whole into one buffer of its size, as a program does that looks at one
image after another: new memory for each would measure page faults. Reading in pieces of 1 MiB, which stay in the
processor's cache, is shown as well; it flatters the plain read. `ceiling` is a file system on pyfuse3 that does nothing
else (benchmarks/ceiling.py), in the same rounds: what pyfuse3 itself leaves of a plain read.

    python -m benchmarks.read_through [--quick] [--size MB] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.ceiling import ceiling_mounted
from benchmarks.measure import (
    Goal,
    Report,
    make_demo_plate,
    median,
    mounted,
    parser,
    take_turns,
    watch_memory,
)

# pyfuse3's ceiling with 1 MiB of read-ahead is about 0.45 of a plain read on two cores.
TARGET_RATIO = 0.35
# 0.35 of the 0.45 that the ceiling was when the target was set.
TARGET_OF_CEILING = 0.78
# A request of the kernel to a daemon is at most 1 MiB, so larger pieces change nothing.
PIECE = 1 << 20
# A plane of a current camera: 2048 x 2048 pixels of 16 bits.
PLANE_SIDE = 2048
PLANE_BYTES = 2 * PLANE_SIDE**2

FULL_MB, QUICK_MB = 2000, 130
FULL_ROUNDS, QUICK_ROUNDS = 5, 1


def read_whole(files: list[Path]) -> int:
    """Read each file with one call into a buffer that takes the largest; the bytes."""
    return read_into(bytearray(max(path.stat().st_size for path in files)), files)


def read_in_pieces(files: list[Path]) -> int:
    """Read files through a small buffer; the bytes."""
    return read_into(bytearray(PIECE), files)


def read_into(buffer: bytearray, files: list[Path]) -> int:
    """Read files from first to last byte, as much at once as the buffer takes; the bytes."""
    count = 0
    for path in files:
        with path.open("rb", buffering=0) as file:
            while got := file.readinto(buffer):
                count += got
    return count


def main() -> None:
    options = parser("Sequential read of source files through the mount, against the same read without it.")
    options.add_argument("--size", type=int, metavar="MB", help="how much to read")
    chosen = options.parse_args()
    megabytes = chosen.size or (QUICK_MB if chosen.quick else FULL_MB)
    rounds = chosen.rounds or (QUICK_ROUNDS if chosen.quick else FULL_ROUNDS)
    report = Report("read_through")
    with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=chosen.work) as work:
        source, mountpoint = Path(work) / "plate", Path(work) / "mnt"
        wells = max(1, round(megabytes * 1e6 / PLANE_BYTES / 8))
        shape = {"wells": wells, "fields": 4, "channels": 2, "z": 1, "size": PLANE_SIDE}
        make_demo_plate(source, shape)
        files = sorted(path for path in source.rglob("*") if path.is_file())
        total = sum(path.stat().st_size for path in files)
        # Twice: the first read may still come from the disk.
        for _ in range(2):
            read_in_pieces(files)

        def speed(read: Callable[[list[Path]], int], paths: list[Path]) -> float:
            begun = time.perf_counter()
            count = read(paths)
            seconds = time.perf_counter() - begun
            if count != total:
                raise SystemExit(f"read {count} bytes where the source has {total}")
            return count / seconds / 1e9

        def through(read: Callable[[list[Path]], int]) -> float:
            with mounted(source, mountpoint) as pid, watch_memory(pid, report.memory):
                return speed(read, [mountpoint / path.relative_to(source) for path in files])

        def ceiling(read: Callable[[list[Path]], int]) -> float:
            with ceiling_mounted(source, mountpoint):
                return speed(read, [mountpoint / path.relative_to(source) for path in files])

        speeds = take_turns(
            {
                "whole": lambda: speed(read_whole, files),
                "whole, mounted": lambda: through(read_whole),
                "whole, ceiling": lambda: ceiling(read_whole),
                "pieces": lambda: speed(read_in_pieces, files),
                "pieces, mounted": lambda: through(read_in_pieces),
            },
            rounds,
        )
    ours, peer, least = (median(speeds[name]) for name in ("whole, mounted", "whole", "whole, ceiling"))
    report.goals.append(Goal("sequential read of the source", "GB/s", ours, peer, ours / peer, TARGET_RATIO))
    report.goals.append(
        Goal("the same against pyfuse3's ceiling", "GB/s", ours, least, ours / least, TARGET_OF_CEILING)
    )
    report.details = {
        "bytes": total,
        "files": len(files),
        "rounds": rounds,
        "GB/s": speeds,
        "ratio when read in pieces": median(speeds["pieces, mounted"]) / median(speeds["pieces"]),
    }
    report.publish(chosen.json)


if __name__ == "__main__":
    main()
