"""Who goes first: the hit rate of vfsd's rule and of plain least-recently-used, on recorded traces.

The traces are recorded here and now from programs that run on a do-nothing file system which notes every read and write
(`ceiling_writes`): a folder read round and round, as training does; a pipeline whose steps read what the step before wrote;
an analysis that needs an illumination image and a table for every plane; and a person who leafs through fields, going back
now and then. Each trace is replayed over a RAM tier that holds half of the bytes it touches, at most.

    python -m benchmarks.policy [--quick] [--json FILE]
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.ceiling_writes import writes_ceiling_mounted
from benchmarks.measure import Goal, Report, parser
from vfsd.tiers.policy import LeastRecentlyUsed, Policy, PredictedUse, Warmth, is_companion

# The part of all that a trace touches for which the tier has room.
ROOM = 0.5
MIB = 1 << 20
Step = tuple[str, int, int, int, int, str]


def read(path: Path) -> None:
    """Read a file past the kernel's cache of the mount, so that each use is seen."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        while os.read(fd, MIB):
            pass
    finally:
        os.close(fd)


def plane(folder: Path, number: int, size: int) -> Path:
    path = folder / f"1_{chr(65 + number // 12 % 8)}{number % 12 + 1:02d}_s{number // 96 + 1}_w1.TIF"
    path.write_bytes(os.urandom(4096) * (size // 4096))
    return path


def round_and_round(folder: Path, count: int, size: int) -> None:
    """A folder read over and over in its order."""
    paths = [plane(folder, number, size) for number in range(count)]
    for _ in range(5):
        for path in paths:
            read(path)


def shuffled(folder: Path, count: int, size: int) -> None:
    """A folder read over and over, each time in another order."""
    paths = [plane(folder, number, size) for number in range(count)]
    chance = random.Random(1)
    for _ in range(5):
        for path in chance.sample(paths, len(paths)):
            read(path)


def pipeline(folder: Path, count: int, size: int) -> None:
    """Three steps; each reads what the one before wrote and writes its own."""
    paths = [plane(folder, number, size) for number in range(count // 3)]
    for step in range(3):
        after = folder / f"step{step}"
        after.mkdir()
        written = []
        for number, path in enumerate(paths):
            read(path)
            written.append(plane(after, number, size))
        paths = written
    for path in paths:
        read(path)


def analysis(folder: Path, count: int, size: int) -> None:
    """Every plane is corrected by the same illumination image and looked up in the same table."""
    illumination = plane(folder, 5000, size)
    table = folder / "wells.csv"
    table.write_bytes(b"A01,1\n" * 2000)
    for path in [plane(folder, number, size) for number in range(count)]:
        read(path)
        read(table)
        if path.name.endswith("2_s1_w1.TIF"):
            read(illumination)


def leafing(folder: Path, count: int, size: int) -> None:
    """Forward through the fields, every few going back to some favourites."""
    paths = [plane(folder, number, size) for number in range(count)]
    chance = random.Random(2)
    favourites = chance.sample(paths, max(2, count // 12))
    for number, path in enumerate(paths * 2):
        read(path)
        if number % 4 == 3:
            read(chance.choice(favourites))


PROGRAMS: dict[str, Callable[[Path, int, int], None]] = {
    "round and round": round_and_round,
    "shuffled": shuffled,
    "pipeline": pipeline,
    "analysis": analysis,
    "leafing": leafing,
}


def record(program: Callable[[Path, int, int], None], work: Path, count: int, size: int) -> list[Step]:
    """What a program asks of the file system."""
    memory = Path(tempfile.mkdtemp(prefix="vfsd-trace-", dir="/dev/shm"))
    trace = work / "trace"
    try:
        with writes_ceiling_mounted(memory, work / "mnt", trace):
            program(work / "mnt", count, size)
    finally:
        shutil.rmtree(memory)
    steps: list[Step] = []
    for line in trace.read_text().splitlines():
        kind, ino, offset, length, held, name = line.split(" ", 5)
        steps.append((kind, int(ino), int(offset), int(length), int(held), name))
    return steps


def hit_rate(steps: list[Step], policy: Policy, room: int) -> float:
    """The part of the bytes read that were found in a tier with this much room; all else is hydrated again."""
    there: dict[int, int] = {}
    names: dict[int, str] = {}
    used = found = wanted = 0

    def rank(ino: int) -> tuple[Warmth, float]:
        warmth, order = policy.rank(ino)
        if isinstance(policy, PredictedUse) and is_companion(names[ino].encode(), there[ino]):
            warmth = max(warmth, Warmth.COMPANION)
        return warmth, order

    for kind, ino, offset, length, size, name in steps:
        names[ino] = name
        end = max(size, offset + length) if kind == "write" else size
        if kind == "read" and offset == 0:  # a visit: it finds the whole file, or has it made again
            wanted += size
            found += size if ino in there else 0
        used += end - there.get(ino, 0)
        there[ino] = end
        if kind == "read":
            policy.on_read(ino, offset, length, size)
        else:
            policy.on_written(ino, length)
        while used > room:
            others = [other for other in there if other != ino]
            if not others:
                break
            used -= there.pop(min(others, key=rank))
    return found / wanted


def main() -> int:
    given = parser(__doc__ or "").parse_args()
    count, size = (48, MIB) if given.quick else (192, 4 * MIB)
    report = Report("policy")
    for name, program in PROGRAMS.items():
        with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=given.work) as folder:
            steps = record(program, Path(folder), count, size)
        touched = sum({ino: held for _, ino, _, _, held, _ in steps}.values())
        room = int(ROOM * touched)
        ours, plain = (hit_rate(steps, policy, room) for policy in (PredictedUse(), LeastRecentlyUsed()))
        # nothing may be worse than plain LRU; what LRU never hits is compared with one byte in a thousand
        report.goals.append(Goal(f"hit rate, {name}", "of bytes", ours, plain, ours / max(plain, 0.001), 1.0))
        report.details[f"{name}, requests"] = len(steps)
    report.publish(given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
