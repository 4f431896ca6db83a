"""The two transports against the same folder without vfsd, against each other, and beside other file systems in user space.

Bytes: one file in order, at random in pages, and through a mapping; from the source, from RAM, from the cache, and hydrated;
written; and read while somebody has it open for writing, so that the daemon serves it. What lies below is in memory (page cache
or tmpfs) for everybody; the pages that a mount itself has cached are dropped before each round, so that a mount cannot shine
by not being asked. Names: the operations of `benchmarks.names`, on the real tree and on trees that do nothing
(`ceiling_names`, `ceiling_kernel`). At last it is looked how many bytes the daemon moved while 1 GB was read.

    python -m benchmarks.transport [--quick] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.ceiling_kernel import kernel_ceiling_mounted
from benchmarks.ceiling_names import names_ceiling_mounted
from benchmarks.measure import Goal, Report, median, mounted, parser, run_vfsd, take_turns
from benchmarks.names import OPERATIONS, make_plate, operate, plate_names
from benchmarks.peers import peers_mounted

MIB = 1 << 20
FULL_MB, QUICK_MB = 256, 16
FULL_READS, QUICK_READS = 20_000, 500
FULL_CALLS, QUICK_CALLS = 1500, 100
FULL_ROUNDS, QUICK_ROUNDS = 5, 1
PAGE = 4096

SEQUENTIAL, RANDOM, MAPPED, WRITTEN_OF_PYFUSE3 = 0.92, 0.8, 0.9, 1.5
SERVED_OF_PYFUSE3, NOTHING_OF_PYFUSE3, NAMES_OF_PYFUSE3 = 1.3, 1.5, 1.2

buffer = bytearray(MIB)


def forget_pages(path: Path) -> None:
    """Have the kernel drop what it cached of a file of a mount."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_in_order(path: Path) -> float:
    """GB/s, in pieces of 1 MiB."""
    begun = time.perf_counter()
    done = 0
    with path.open("rb", buffering=0) as file:
        while got := file.readinto(buffer):
            done += got
    return done / (time.perf_counter() - begun) / 1e9


def read_at_random(path: Path, count: int) -> float:
    """Thousand pages a second."""
    pages = path.stat().st_size // PAGE
    choose = random.Random(1)
    view = memoryview(buffer)[:PAGE]
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        begun = time.perf_counter()
        for _ in range(count):
            os.preadv(file.fileno(), [view], choose.randrange(pages) * PAGE)
        return count / (time.perf_counter() - begun) / 1e3


def read_mapped(path: Path) -> float:
    """GB/s: every byte of a mapping, copied out in pieces."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        begun = time.perf_counter()
        for offset in range(0, len(view), MIB):
            buffer[: len(view[offset : offset + MIB])] = view[offset : offset + MIB]
        return len(view) / (time.perf_counter() - begun) / 1e9


def write_new(path: Path, size: int) -> float:
    """GB/s, in pieces of 1 MiB into a new file, which is removed."""
    piece = memoryview(buffer)
    begun = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(size // MIB):
            file.write(piece)
    seconds = time.perf_counter() - begun
    path.unlink()
    return size / seconds / 1e9


def moved_bytes(pid: int) -> int:
    """What a process has read and written by system calls so far."""
    figures = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(figures["rchar"]) + int(figures["wchar"])


class Bench:
    """Two mounts of one plate at a time, one of each transport, and the same files without them."""

    def __init__(self, work: Path, shm: Path, size: int, reads: int) -> None:
        self.plain, self.shm, self.size, self.reads = work / "plate", shm, size, reads
        self.mounts = {name: work / f"mnt-{name}" for name in ("pyfuse3", "kernel")}
        self.stores = {name: work / f"{name}.vfs" for name in self.mounts}
        self.plain.mkdir()
        data = random.Random(2).randbytes(MIB)
        for path in (self.plain / "source", shm / "ram"):
            with path.open("wb") as file:
                for _ in range(size // MIB):
                    file.write(data)
        time.sleep(2.5)  # what changed just now is looked at again

    @contextlib.contextmanager
    def both(self) -> Iterator[dict[str, int]]:
        """Both mounted; the daemons' process ids."""
        with contextlib.ExitStack() as stack:
            yield {
                name: stack.enter_context(mounted(self.plain, at, "--transport", name, "--store", self.stores[name]))
                for name, at in self.mounts.items()
            }

    def fill(self) -> None:
        """Files of every tier in both mounts, the same bytes."""
        for name, at in self.mounts.items():
            for tier in ("stored", "cache", "ram"):
                with (self.plain / "source").open("rb") as source, (at / tier).open("wb") as target:
                    while piece := source.read(MIB):
                        target.write(piece)
                if tier == "stored":
                    run_vfsd("flush", at)
                    os.setxattr(at / tier, "user.vfsd.tier", b"store")
                    read_in_order(at / tier)  # this hydrates it
                if tier == "cache":
                    os.setxattr(at / tier, "user.vfsd.tier", b"cache")
            print(f"  filled {name}")


def fresh(read: Callable[[Path], float], path: Path, *, is_mount: bool = True) -> Callable[[], float]:
    """A contestant that reads a file of which its own mount has nothing cached."""

    def run() -> float:
        if is_mount:
            forget_pages(path)
        return read(path)

    return run


def measure_bytes(bench: Bench, report: Report, rounds: int, peers: dict[str, Path]) -> None:
    """All lines about bytes."""
    table: dict[str, dict[str, float]] = {}

    def line(what: str, unit: str, plain: Path | None, path: str, read: Callable[[Path], float], goal: float) -> None:
        contestants = {name: fresh(read, at / path) for name, at in bench.mounts.items()}
        if plain is not None:
            contestants["plain"] = fresh(read, plain, is_mount=False)
        if path == "source":
            contestants |= {name: fresh(read, at / "source") for name, at in peers.items()}
        found = {name: median(values) for name, values in take_turns(contestants, rounds).items()}
        table[f"{what}, {unit}"] = found
        if plain is not None:
            report.goals.append(goal_of(f"{what}, of the same without vfsd", unit, found, "plain", goal))
        else:
            report.goals.append(goal_of(f"{what}, of pyfuse3's", unit, found, "pyfuse3", goal))

    source, ram = bench.plain / "source", bench.shm / "ram"
    for what, plain, path in (
        ("source", source, "source"),
        ("RAM", ram, "ram"),
        ("cache", source, "cache"),
        ("hydrated, second read", ram, "stored"),
    ):
        line(f"{what} in order", "GB/s", plain, path, read_in_order, SEQUENTIAL)
    line("pages at random", "1000/s", source, "source", lambda path: read_at_random(path, bench.reads), RANDOM)
    line("mapped", "GB/s", source, "source", read_mapped, MAPPED)
    with contextlib.ExitStack() as stack:
        for at in bench.mounts.values():
            stack.enter_context((at / "source").open("r+b"))  # so that its readers are served by the daemon
        line("served by the daemon, in order", "GB/s", None, "source", read_in_order, SERVED_OF_PYFUSE3)
    writers = {name: at / "written" for name, at in bench.mounts.items()} | {"plain": bench.plain.parent / "written"}
    writers |= {name: at / "written" for name, at in peers.items() if name != "ratarmount"}
    contestants = {name: (lambda path=path: write_new(path, bench.size)) for name, path in writers.items()}
    found = {name: median(values) for name, values in take_turns(contestants, rounds).items()}
    table["written, GB/s"] = found
    report.goals.append(goal_of("written, of pyfuse3's", "GB/s", found, "pyfuse3", WRITTEN_OF_PYFUSE3))
    report.details["side by side"] = table


def goal_of(name: str, unit: str, found: dict[str, float], peer: str, target: float) -> Goal:
    """The kernel transport against somebody, more being better."""
    return Goal(name, unit, found["kernel"], found[peer], found["kernel"] / found[peer], target)


def measure_names(work: Path, report: Report, rounds: int, calls: int) -> None:
    """Rates of operations on names: vfsd over both transports, and do-nothing trees over both."""
    names = plate_names(calls)
    plate, at = work / "names", work / "mnt-names"
    make_plate(plate, names)
    at.mkdir()
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for who in ("pyfuse3", "kernel", "nothing on pyfuse3", "nothing on kernel"):
            if who == "nothing on pyfuse3":
                mount = names_ceiling_mounted(plate, at)
            elif who == "nothing on kernel":
                mount = kernel_ceiling_mounted(plate, at)
            else:
                mount = mounted(plate, at, "--transport", who, "--store", work / f"names-{who}.vfs")
            with mount as pid:
                os.listdir(at)
                time.sleep(2.5)  # longer than the kernel believes what it saw of the source
                for what, (micros, _) in operate(at, names, calls, pid).items():
                    found.setdefault((who, what), []).append(1e6 / micros)
                for left in at.glob("result_*"):
                    left.unlink()
    for kinds, prefix, target in (
        (("kernel", "pyfuse3"), "", NAMES_OF_PYFUSE3),
        (("nothing on kernel", "nothing on pyfuse3"), "do-nothing tree: ", NOTHING_OF_PYFUSE3),
    ):
        for what in OPERATIONS:
            ours, peer = (median(found[kind, what]) for kind in kinds)
            report.goals.append(Goal(f"{prefix}{what}, of pyfuse3's", "1/s", ours, peer, ours / peer, target))


def count_data_calls(bench: Bench, pid: int, report: Report) -> None:
    """How much the daemon moves while the kernel reads by itself: 1 GB of a file in RAM, or as much as there is."""
    before = moved_bytes(pid)
    done = 0
    while done < 1e9 and done < 8 * bench.size:
        read_in_order(bench.mounts["kernel"] / "ram")
        done += bench.size
    report.details["bytes read by passthrough"] = done
    report.details["bytes moved by the daemon meanwhile"] = moved_bytes(pid) - before


def main() -> None:
    options = parser("The kernel transport against pyfuse3, plain folders and peers.")
    options.add_argument("--part", choices=["bytes", "names"], help="only these")
    given = options.parse_args()
    rounds = given.rounds or (QUICK_ROUNDS if given.quick else FULL_ROUNDS)
    report = Report("transport")
    with (
        tempfile.TemporaryDirectory(prefix="vfsd-transport-", dir=given.work) as name,
        tempfile.TemporaryDirectory(prefix="vfsd-transport-", dir="/dev/shm") as shm,
    ):
        work = Path(name)
        if given.part != "names":
            size = (QUICK_MB if given.quick else FULL_MB) * MIB
            bench = Bench(work, Path(shm), size, QUICK_READS if given.quick else FULL_READS)
            with bench.both() as pids, peers_mounted(bench.plain, work) as peers:
                bench.fill()
                measure_bytes(bench, report, rounds, peers)
                count_data_calls(bench, pids["kernel"], report)
        if given.part != "bytes":
            measure_names(work, report, rounds, QUICK_CALLS if given.quick else FULL_CALLS)
    report.publish(given.json)


if __name__ == "__main__":
    main()
