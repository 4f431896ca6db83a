"""Operations on names: against pyfuse3's ceiling, against the source's own folder, and against themselves in a huge folder.

The ceiling is a file system on pyfuse3 that keeps names in dictionaries and does nothing else
(benchmarks/ceiling_names.py), in the same rounds. Each round mounts anew, so that the kernel knows nothing; each figure is
a rate over some thousand calls of one process, and the server's processor time a call is shown beside it, since that is
what a busy machine changes least. `find -ls` goes through a plate of many files, in one folder and spread over TimePoint
folders: the first time, at once again, and once more when the kernel's knowledge of the source has expired. Memory is the
growth of the daemon's resident size by listing everything. In the folder of a million names the same operations
are timed as in the one of a thousand.

    python -m benchmarks.names [--quick] [--part operations|listing|scale] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.ceiling_names import names_ceiling_mounted
from benchmarks.measure import Goal, Report, median, mounted, parser, watch_memory

TARGET_OF_CEILING = 0.7
# Times the source's own folder with warm caches: the first `find -ls`, and any later one.
MOST_FIRST, MOST_AGAIN = 4.0, 1.5
MOST_BYTES_A_NAME = 1200
# How much dearer an operation may be among a million names than among a thousand.
MOST_SLOWDOWN = 1.2
CONTENT = b"x" * 4096
# Longer than the tree, and so the kernel, believes what it saw of the source (2 s).
EXPIRY_SECONDS = 2.5
TIME_POINTS = 10

OPERATIONS = ("create+write+close", "stat", "open+read+close", "rename", "unlink")

FULL_CALLS, QUICK_CALLS = 3000, 300
FULL_FILES, QUICK_FILES = 50_000, 2000
FULL_NAMES, QUICK_NAMES = 1_000_000, 10_000
FULL_ROUNDS, QUICK_ROUNDS = 5, 1
FEW_NAMES = 1000


def cpu_seconds(pid: int) -> float:
    """Processor time of a process, all its threads, from the scheduler's own count (ns)."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def resident_bytes(pid: int) -> int:
    """Resident memory of a process without shared memory."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return 1024 * sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssFile"))


def make_plate(folder: Path, names: Iterable[str]) -> None:
    """Files of one page each, which is a hole."""
    made = set()
    for name in names:
        path = folder / name
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        with path.open("wb", buffering=0) as file:
            file.truncate(len(CONTENT))
    # what was made less than two seconds ago may change again without a new mtime, and is looked at again
    time.sleep(EXPIRY_SECONDS)


def plate_names(count: int) -> list[str]:
    """Names as an ImageXpress gives them: wells, fields, channels."""
    names = []
    for number in range(count):
        field, channel = divmod(number, 4)
        well, site = divmod(field, 9)
        row, column = divmod(well, 24)
        names.append(f"plate1_{chr(65 + row % 16)}{column + 1:02}_{row // 16:02}_s{site + 1}_w{channel + 1}.TIF")
    return names


def timed(calls: int, pid: int, work: Callable[[], None]) -> tuple[float, float]:
    """(µs a call, µs of the server's processor time a call)."""
    cpu, begun = cpu_seconds(pid), time.perf_counter()
    work()
    seconds = time.perf_counter() - begun
    return seconds / calls * 1e6, (cpu_seconds(pid) - cpu) / calls * 1e6


def operate(folder: Path, known: list[str], calls: int, pid: int) -> dict[str, tuple[float, float]]:
    """Time each operation: those on known files on the source's, the others on files made here."""
    source = [os.fspath(folder / name) for name in known]
    os.stat(source[0])
    made = [os.fspath(folder / f"result_{number:06}.csv") for number in range(calls)]

    def create() -> None:
        for path in made:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(fd, CONTENT)
            os.close(fd)

    def stat() -> None:
        for path in source:
            os.stat(path)

    def read() -> None:
        for path in source:
            fd = os.open(path, os.O_RDONLY)
            os.read(fd, len(CONTENT))
            os.close(fd)

    def rename() -> None:
        for path in made:
            os.rename(path, path + ".bak")

    def unlink() -> None:
        for path in made:
            os.unlink(path + ".bak")

    work = dict(zip(OPERATIONS, (create, stat, read, rename, unlink), strict=True))
    return {name: timed(calls, pid, work[name]) for name in OPERATIONS}


def measure_operations(work: Path, calls: int, rounds: int, report: Report) -> None:
    """Rates against the ceiling's, in turn."""
    source, mountpoint = work / "plate", work / "mnt"
    known = plate_names(calls)
    make_plate(source, known)
    found: dict[str, list[dict[str, tuple[float, float]]]] = {"vfsd": [], "ceiling": []}
    for number in range(rounds):
        for name in ("vfsd", "ceiling") if number % 2 == 0 else ("ceiling", "vfsd"):
            if name == "vfsd":
                with mounted(source, mountpoint) as pid, watch_memory(pid, report.memory):
                    found[name].append(operate(mountpoint, known, calls, pid))
            else:
                with names_ceiling_mounted(source, mountpoint) as pid:
                    found[name].append(operate(mountpoint, known, calls, pid))
    for operation in OPERATIONS:
        ours, peer = ([1e6 / one[operation][0] for one in found[who]] for who in ("vfsd", "ceiling"))
        ratio = median([a / b for a, b in zip(ours, peer, strict=True)])
        report.goals.append(Goal(operation, "calls a second", median(ours), median(peer), ratio, TARGET_OF_CEILING))
        cpu = {who: round(median([one[operation][1] for one in found[who]]), 1) for who in found}
        report.details[f"processor time of {operation}, µs"] = cpu


def find_ls(folder: Path) -> float:
    """Seconds of `find -ls`."""
    begun = time.perf_counter()
    subprocess.run(["find", folder, "-ls"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def measure_listing(work: Path, files: int, rounds: int, report: Report) -> None:
    """`find -ls` against the source's own, and memory a name."""
    mountpoint = work / "mnt"
    one = plate_names(files)
    spread = [f"TimePoint_{number % TIME_POINTS + 1}/{name}" for number, name in enumerate(one)]
    for shape, names in (("one folder", one), ("TimePoint folders", spread)):
        source = work / shape.replace(" ", "-")
        make_plate(source, names)
        find_ls(source)
        seconds: dict[str, list[float]] = {"first": [], "again": [], "later": [], "source": []}
        cpu: dict[str, list[float]] = {"first": [], "again": [], "later": []}
        growth = []
        for _ in range(rounds):
            with mounted(source, mountpoint) as pid, watch_memory(pid, report.memory):
                before = resident_bytes(pid)
                for when in ("first", "again", "later"):
                    seconds["source"].append(find_ls(source))
                    if when == "later":
                        time.sleep(EXPIRY_SECONDS)
                    used = cpu_seconds(pid)
                    seconds[when].append(find_ls(mountpoint))
                    cpu[when].append(cpu_seconds(pid) - used)
                growth.append((resident_bytes(pid) - before) / len(names))
        peer = median(seconds["source"])
        for when, most in (("first", MOST_FIRST), ("again", MOST_AGAIN), ("later", MOST_AGAIN)):
            ours = median(seconds[when])
            add_ceiling(report, f"find -ls of {len(names)} files in {shape}, {when}", "s", ours, peer, most)
            report.details[f"processor time of find in {shape}, {when}, s"] = round(median(cpu[when]), 3)
        ours = median(growth)
        add_ceiling(report, f"memory a name, {len(names)} in {shape}", "bytes", ours, 1.0, MOST_BYTES_A_NAME)


def add_ceiling(report: Report, name: str, unit: str, ours: float, peer: float, most: float) -> None:
    """A goal that is an upper limit, `most` times the peer: as a ratio that must reach 1."""
    report.goals.append(Goal(f"{name} (at most {most:g} x)", unit, ours, peer, most * peer / ours, 1.0))


def measure_scale(work: Path, many: int, calls: int, rounds: int, report: Report) -> None:
    """The same operations among few names and among many, in turn; no name is looked at twice, nor known to the kernel."""
    calls = min(calls, FEW_NAMES)
    folders = {count: work / f"names-{count}" for count in (FEW_NAMES, many)}
    for count, source in folders.items():
        (source / "plate").mkdir(parents=True)
        make_plate(source / "plate", plate_names(count))
    found: dict[int, list[dict[str, tuple[float, float]]]] = {count: [] for count in folders}
    growth = []
    choice = random.Random(1)
    for _ in range(rounds):
        for count, source in folders.items():
            mountpoint = work / f"mnt-{count}"
            known = choice.sample(plate_names(count), k=calls)
            with mounted(source, mountpoint) as pid:
                before = resident_bytes(pid)
                os.listdir(mountpoint / "plate")
                if count == many:
                    growth.append((resident_bytes(pid) - before) / count)
                time.sleep(EXPIRY_SECONDS)
                found[count].append(operate(mountpoint / "plate", known, calls, pid))
    for operation in OPERATIONS:
        few, lots = ([one[operation] for one in found[count]] for count in folders)
        for place, kind in enumerate(("time", "processor time")):
            ours, peer = (median([one[place] for one in side]) for side in (lots, few))
            add_ceiling(report, f"{kind} of {operation} among {many} names", "µs", ours, peer, MOST_SLOWDOWN)
    add_ceiling(report, f"memory a name, {many}", "bytes", median(growth), 1.0, MOST_BYTES_A_NAME)


def main() -> None:
    options = parser("Operations on names: against pyfuse3's ceiling, the source's own folder, and in a huge folder.")
    options.add_argument("--part", choices=("operations", "listing", "scale"), help="only this part")
    options.add_argument("--calls", type=int, metavar="N", help="how often each operation is called")
    options.add_argument("--files", type=int, metavar="N", help="files of the plate that is listed")
    options.add_argument("--names", type=int, metavar="N", help="names in the huge folder")
    chosen = options.parse_args()
    calls = chosen.calls or (QUICK_CALLS if chosen.quick else FULL_CALLS)
    files = chosen.files or (QUICK_FILES if chosen.quick else FULL_FILES)
    names = chosen.names or (QUICK_NAMES if chosen.quick else FULL_NAMES)
    rounds = chosen.rounds or (QUICK_ROUNDS if chosen.quick else FULL_ROUNDS)
    report = Report("names")
    with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=chosen.work) as folder:
        if chosen.part in (None, "operations"):
            measure_operations(Path(folder), calls, rounds, report)
        if chosen.part in (None, "listing"):
            measure_listing(Path(folder), files, rounds, report)
        if chosen.part in (None, "scale"):
            measure_scale(Path(folder), names, calls, rounds, report)
    report.details["rounds"] = rounds
    report.publish(chosen.json)


if __name__ == "__main__":
    main()
