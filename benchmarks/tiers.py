"""RAM as a budget: data of any size through little RAM, what stays off the disk, and how long unmounting takes.

1. Four writers write images (8 MiB each) through a mount with a small budget, fsync every one in the end, and read all of them
   back. The peer is a do-nothing pyfuse3 file system that keeps everything in tmpfs (`ceiling_writes`), whose fsync is free:
   ours has to bring the same bytes to a disk. The RAM tier is looked at every 10 ms.
2. The same with a large budget, and a small plate with the default: what stays in RAM is written to no disk. The kernel
   counts what the daemon sends to block devices (`/proc/<pid>/io`).
3. Ten times what both tiers hold is streamed through them; unmounting has little left to do.

4. A stored plate twice as large as RAM is read round and round, by vfsd's rule of who goes first and by plain
   least-recently-used: how many of the reads after the first round find their file made already.

    python -m benchmarks.tiers [--quick] [--gib N] [--json FILE] [--part writers|stays|streams|loop]
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import trio

from benchmarks.ceiling_writes import writes_ceiling_mounted
from benchmarks.measure import Goal, Report, mounted, parser, run_vfsd, watch_memory
from vfsd.daemon.mountinfo import filesystem_type
from vfsd.store import Store
from vfsd.tiers import TierFiles
from vfsd.tiers.policy import LeastRecentlyUsed, Policy, PredictedUse
from vfsd.tree import Tree

IMAGE = 8 << 20
MIB, GIB = 1 << 20, 1 << 30
WRITERS = 4
TARGET_THROUGHPUT = 0.8
TARGET_UNMOUNT = 0.20
SAMPLE_SECONDS = 0.01
SMALL_PLATE = 200 << 20


def images() -> list[bytes]:
    """A few images as a camera makes them: noise that compresses by half."""
    chance = np.random.default_rng(1)
    return [chance.poisson(200, IMAGE // 2).astype("<u2").tobytes() for _ in range(4)]


@dataclass(slots=True)
class RamTier:
    """The most that was ever seen in the RAM tier's folder, in bytes, and how often it was looked at."""

    folder: Path
    peak: int = 0
    samples: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        while not self.done.wait(SAMPLE_SECONDS):
            try:
                figures = os.statvfs(self.folder)
            except OSError:
                return  # unmounted with the mount
            self.peak = max(self.peak, (figures.f_blocks - figures.f_bfree) * figures.f_frsize)
            self.samples += 1


@contextmanager
def watched(folder: Path) -> Iterator[RamTier]:
    """Look at a RAM tier every 10 ms for the block."""
    assert filesystem_type(folder) == "tmpfs"
    tier = RamTier(folder)
    thread = threading.Thread(target=tier.watch, daemon=True)
    thread.start()
    try:
        yield tier
    finally:
        tier.done.set()
        thread.join()


def status(mountpoint: Path) -> dict[str, object]:
    found = json.loads(run_vfsd("status", mountpoint, "--json"))
    assert isinstance(found, dict)
    return found


def names(folder: Path, total: int, writer: int) -> list[Path]:
    """What one writer writes: fields of four channels."""
    count = total // IMAGE // WRITERS
    wells = [f"{chr(ord('A') + n // 24 % 16)}{n % 24 + 1:02d}" for n in range(384)]
    return [
        folder / f"plate{writer}" / f"1_{wells[n // 36 % 384]}_s{n // 4 % 9 + 1 + n // (36 * 384)}_w{n % 4 + 1}.TIF"
        for n in range(count)
    ]


def in_parallel(work: object, count: int = WRITERS) -> None:
    """Call `work(number)` in this many threads; an exception ends the benchmark."""
    problems: list[BaseException] = []

    def one(number: int) -> None:
        try:
            work(number)  # type: ignore[operator]  # a function of one number
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]


def write_all(folder: Path, total: int, data: list[bytes], *, sync: bool) -> float:
    """Four writers write `total` bytes, and fsync each file in the end if asked to; seconds."""
    began = time.perf_counter()

    def write(number: int) -> None:
        paths = names(folder, total, number)
        paths[0].parent.mkdir()
        for turn, path in enumerate(paths):
            with path.open("wb", buffering=0) as file:
                view = memoryview(data[(number + turn) % len(data)])
                while view:
                    view = view[file.write(view[:MIB]) :]
        if sync:
            for path in paths:
                fd = os.open(path, os.O_RDONLY)
                os.fsync(fd)
                os.close(fd)

    in_parallel(write)
    return time.perf_counter() - began


def read_all(folder: Path, total: int, data: list[bytes]) -> float:
    """Read everything back and compare; seconds."""
    began = time.perf_counter()

    def read(number: int) -> None:
        for turn, path in enumerate(names(folder, total, number)):
            if path.read_bytes() != data[(number + turn) % len(data)]:
                sys.exit(f"{path}: not the bytes that were written")

    in_parallel(read)
    return time.perf_counter() - began


def four_writers(report: Report, work: Path, total: int, ram: int, data: list[bytes]) -> None:
    """Part 1."""
    memory = Path(tempfile.mkdtemp(prefix="vfsd-ceiling-", dir="/dev/shm"))
    try:
        with writes_ceiling_mounted(memory, work / "ceiling"):
            peer = write_all(work / "ceiling", total, data, sync=True)
    finally:
        shutil.rmtree(memory)
    (work / "plate").mkdir()
    with mounted(work / "plate", work / "mnt", "--ram", f"{ram}B") as pid, watch_memory(pid, report.memory):
        facts = status(work / "mnt")
        with watched(Path(str(facts["ram_directory"]))) as tier:
            ours = write_all(work / "mnt", total, data, sync=True)
            reading = read_all(work / "mnt", total, data)
            report.details["after writing"] = {"tiers": status(work / "mnt")["tiers"]}
        run_vfsd("umount", work / "mnt")
    speeds = total / ours / 1e6, total / peer / 1e6
    report.goals.append(
        Goal(f"{total / GIB:g} GiB, 4 writers, fsync", "MB/s", *speeds, speeds[0] / speeds[1], TARGET_THROUGHPUT)
    )
    report.goals.append(Goal("RAM tier within its budget", "bytes", tier.peak, ram, ram / max(1, tier.peak), 1.0))
    report.details["looks at the RAM tier"] = tier.samples
    report.details["read back, MB/s"] = round(total / reading / 1e6)


def to_disk(pid: int) -> int:
    """Bytes that a process has sent to block devices (proc(5))."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    return 0


def stays_in_ram(report: Report, work: Path, total: int, data: list[bytes], *options: str) -> None:
    """Part 2: bytes that the daemon sent to a disk, besides those that the RAM tier had no room for."""
    (work / "plate").mkdir()
    with mounted(work / "plate", work / "mnt", *options) as pid:
        before = to_disk(pid)
        write_all(work / "mnt", total, data, sync=False)
        tiers = status(work / "mnt")["tiers"]
        assert isinstance(tiers, dict)
        sent, cache, ram = to_disk(pid) - before, tiers["cache"]["bytes"], tiers["ram"]["bytes"]
        report.details[f"{total / GIB:.3g} GiB, {' '.join(options) or 'default budget'}"] = (
            f"{ram / MIB:.0f} MiB in RAM, {cache / MIB:.0f} MiB in the cache, {sent / MIB:.1f} MiB sent to a disk"
        )
        name = f"no disk for what stays in RAM ({' '.join(options) or 'default'})"
        # one MiB in a hundred for the journal
        allowed = cache + total / 100
        report.goals.append(Goal(name, "bytes", sent, allowed, allowed / max(1, sent), 1.0))


def streams(report: Report, work: Path, total: int, tier: int, data: list[bytes]) -> None:
    """Part 3."""
    (work / "plate").mkdir()
    with (
        mounted(work / "plate", work / "mnt", "--ram", f"{tier}B", "--cache-size", f"{tier}B") as pid,
        watch_memory(pid, report.memory),
    ):
        writing = write_all(work / "mnt", total, data, sync=False)
        facts = status(work / "mnt")
        began = time.perf_counter()
        run_vfsd("umount", work / "mnt")
        unmounting = time.perf_counter() - began
    share = unmounting / (writing + unmounting)
    report.details["streaming"] = facts["streaming"]
    report.details["streamed, MB/s"] = round(total / writing / 1e6)
    report.goals.append(
        Goal(
            f"unmount's share after {total / GIB:g} GiB through {tier / GIB:g} + {tier / GIB:g}",
            "s",
            unmounting,
            writing + unmounting,
            TARGET_UNMOUNT / share,
            1.0,
        )
    )
    found = json.loads(run_vfsd("verify", work / "plate.vfs", "--json"))
    if not found["ok"]:
        sys.exit(f"the store is damaged: {found}")


async def hits_of_loop(work: Path, policy: Policy, ram: int, rounds: int) -> float:
    """Read every file of a store again and again, without a mount; the part that was not rebuilt after the first round."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory, tempfile.TemporaryDirectory(dir=work) as folder:
        for name in ("state", "cache"):
            (Path(folder) / name).mkdir()
        store = Store.open(work / "plate.vfs", writable=True)
        # no cache: what RAM has no room for is made again
        tiers = TierFiles(Path(memory), Path(folder) / "cache", ram, 0, policy=policy)
        tree = Tree(None, store, Path(folder) / "state", tiers, read_only=False)
        await tree.start()
        paths = [path for path, record in store.catalogue.walk() if record.kind.is_file]
        reads = found = 0
        try:
            for turn in range(rounds):
                for path in paths:
                    node = await tree.layers.resolve(path)
                    if turn:
                        reads, found = reads + 1, found + (node.data is not None)
                    handle = await tree.contents.open(node.ino, os.O_RDONLY)
                    for offset in range(0, node.size(), MIB):
                        await tree.contents.read(handle, offset, MIB)
                    tree.contents.release(handle)
        finally:
            tree.close()
            tiers.close()
            store.close()
    return found / reads


def loops(report: Report, work: Path, total: int, data: list[bytes]) -> None:
    """Part 4."""
    (work / "plate").mkdir()
    with mounted(work / "plate", work / "mnt"):
        write_all(work / "mnt", total, data, sync=False)
    ours, plain = (
        trio.run(hits_of_loop, work, policy, total // 2, 4) for policy in (PredictedUse(), LeastRecentlyUsed())
    )
    name = f"hits, {total / GIB:g} GiB round and round with {total / 2 / GIB:g} GiB of RAM"
    report.goals.append(Goal(name, "of reads", ours, plain, ours / max(plain, 0.001), 1.0))


def main() -> int:
    options = parser(__doc__ or "")
    options.add_argument("--gib", type=float, help="how much the writers of part 1 write")
    options.add_argument("--part", choices=("writers", "stays", "streams", "loop"), action="append")
    given = options.parse_args()
    scale = 32 if given.quick else 1
    total = int((given.gib or 8) * GIB) // scale
    parts = given.part or ("writers", "stays", "streams", "loop")
    report, data = Report("tiers"), images()
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=given.work) as folder:
            work = Path(folder)
            if part == "writers":
                four_writers(report, work, total, 512 * MIB // scale, data)
            elif part == "loop":
                loops(report, work, 4 * GIB // scale, data)
            elif part == "streams":
                streams(report, work, 20 * GIB // scale, GIB // scale, data)
            else:
                stays_in_ram(report, work, total, data, "--ram", f"{4 * GIB // scale}B", "--stream-above", "100G")
                shutil.rmtree(work / "plate.vfs")
                (work / "plate").rmdir()
                stays_in_ram(report, work, SMALL_PLATE // min(scale, 4), data)
    report.publish(given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
