"""Other people's stress on a mount: fio with verification, stress-ng, dbench; `make stress`.

The RAM budget is a fraction of what is written, so that files spill while they are in use. What fio wrote is read back and
checked from the tiers, then, after a flush and another mount, from the store. Each mount ends as `plate.py` says.

Exit code 1: one of the programs failed or found a difference, left something behind, or did not end in its time.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blackbox.daemons import Mount

from conformance.plate import SCRIBBLED, bench, flushed_meanwhile, memory_of

PROGRAMS = ("fio", "stress-ng", "dbench")
RAM = "64M"
# Four jobs a kind of access: 160 MiB each, so that even one of them has no room in the RAM tier.
FIO_JOBS, FIO_SIZE = 4, "40m"
FIO_ENGINES = ("psync", "mmap", "libaio")
WORKERS = 2
# What a stressor may need beyond its time on a busy machine: some first make their files, and take them away at the end.
GRACE_SECONDS = 240
DBENCH_CLIENTS = 4
SHOWN_LINES = 40

# Sizes where stress-ng's own would only fill the disk. Without fallocate it writes whole files of zeros first.
STRESSORS: dict[str, tuple[str, ...]] = {
    "access": (),
    "aio": (),
    "chattr": (),
    "chdir": ("--chdir-dirs", "1024"),
    "chmod": (),
    "chown": (),
    "copy-file": ("--copy-file-bytes", "128m"),
    "dentry": (),
    "dir": ("--dir-dirs", "2048"),
    "dirdeep": (),
    "dirmany": (),
    "dnotify": (),
    "dup": (),
    "fanotify": (),
    "fcntl": (),
    "file-ioctl": (),
    "filename": (),
    "flock": (),
    "fstat": (),
    "getdent": (),
    "handle": (),
    "hdd": ("--hdd-bytes", "64m"),
    "inotify": (),
    "io": (),
    "iomix": ("--iomix-bytes", "32m"),
    "lease": (),
    "link": (),
    "locka": (),
    "lockf": (),
    "lockofd": (),
    "mknod": (),
    "mmap": ("--mmap-file", "--mmap-bytes", "32m"),
    "mmapfixed": (),
    "msync": ("--msync-bytes", "16m"),
    "open": (),
    "readahead": ("--readahead-bytes", "32m"),
    "rename": (),
    "revio": ("--revio-bytes", "64m"),
    "seek": ("--seek-size", "32m"),
    "sendfile": (),
    "splice": (),
    "symlink": (),
    "sync-file": ("--sync-file-bytes", "4m"),
    "touch": (),
    "utime": (),
    "xattr": ("--xattr-ops", "1", "--timeout", "200"),  # one round is tens of thousands of calls
}
# Not run: fallocate, fpunch and fsize test fallocate(2), fiemap, verity, inode-flags and rawdev ioctls, none of which
# reaches this file system; bind-mount, binderfs, procfs, eventfd and the like are of no file system on disk.

_TROUBLE = re.compile(r"^(?:stress-ng: (?:fail|error)|difference|Traceback).*", re.MULTILINE)
_RATE = re.compile(r"^stress-ng: metrc: .*?\] \S+ +(\d+) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Step:
    """One run of one program: how it ended, and what it has to say."""

    name: str
    code: int
    seconds: float
    said: str

    def __str__(self) -> str:
        verdict = "ok" if self.code == 0 else f"FAILED with {self.code}"
        return f"{self.name:24} {verdict:8} {self.seconds:6.1f} s  {self.said}"


def run(name: str, command: Sequence[str | Path], limit: float, show: re.Pattern[str]) -> Step:
    """Run one program to its end or its limit; of what it prints the lines that `show` finds are kept."""
    began = time.monotonic()
    process = subprocess.Popen(
        [*command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        out, _ = process.communicate(timeout=limit)
        code = process.returncode
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            out, _ = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
        code = 124
    if code == 0 and _TROUBLE.search(out):
        code = 1
    said = "; ".join(match[match.lastindex or 0] for match in show.finditer(out))
    if code != 0:
        trouble = [match[0] for match in _TROUBLE.finditer(out)]
        said = "\n    ".join([said, *(trouble or out.splitlines())[-SHOWN_LINES:]])
    return Step(name, code, time.monotonic() - began, said)


def run_fio(folder: Path, *, check_only: bool) -> Iterator[Step]:
    """Random writes, each block with its own checksum, read back; or only the reading."""
    folder.mkdir(exist_ok=True)
    for engine in FIO_ENGINES:
        # the mapped file and direct requests are whole pages, the others any size
        command = ["fio", f"--directory={folder}", f"--name={engine}", f"--ioengine={engine}", "--rw=randwrite"]
        command += ["--bs=16k", f"--size={FIO_SIZE}", f"--numjobs={FIO_JOBS}", "--group_reporting"]
        command += ["--verify=crc32c", "--verify_fatal=1", f"--aux-path={folder.parent.parent}", "--invalidate=1"]
        if engine == "libaio":
            command += ["--iodepth=8", "--direct=1"]
        if check_only:
            command.append("--verify_only=1")
        name = f"fio {engine}{' again' if check_only else ''}"
        yield run(name, command, GRACE_SECONDS, re.compile(r"(?:READ|WRITE): (bw=\S+ \(\S+\))"))


def run_stress_ng(folder: Path, seconds: int, only: Sequence[str]) -> Iterator[Step]:
    """Each stressor by itself, with its own verification; it must leave nothing in its folder."""
    folder.mkdir(exist_ok=True)
    for stressor, sizes in STRESSORS.items():
        if only and stressor not in only:
            continue
        command = ["stress-ng", "--temp-path", folder, "--verify", "--metrics-brief", "--oomable"]
        command += [
            "--timeout",
            str(seconds),
            f"--{stressor}",
            str(WORKERS),
            *sizes,
        ]  # which may have another --timeout
        step = run(f"stress-ng {stressor}", command, seconds + GRACE_SECONDS, _RATE)
        left = [path.name for path in folder.iterdir()]
        yield Step(step.name, step.code or int(bool(left)), step.seconds, f"{step.said} operations {left or ''}")


def run_scribble(mount: Mount, seconds: int, *, check_only: bool) -> Iterator[Step]:
    """Our own: see `scribble.py`; files that begin in the source, with flushes meanwhile."""
    command: list[str | Path] = [sys.executable, "-m", "conformance.scribble", mount.path / SCRIBBLED]
    command += [mount.store.with_name("expected"), "--seconds", str(seconds)]
    limit, shown = seconds + GRACE_SECONDS, re.compile(r"(\d+) acts")
    if check_only:
        yield run("scribble again", [*command, "--check"], limit, shown)
    else:
        with flushed_meanwhile(mount):
            yield run("scribble and flushes", command, limit, shown)


def run_all_at_once(mount: Mount, seconds: int) -> Iterator[Step]:
    """One worker of every stressor at the same time, while everything is flushed all the time."""
    folder = mount.path / "crowd"
    folder.mkdir(exist_ok=True)
    command = ["stress-ng", "--temp-path", folder, "--verify", "--metrics-brief", "--oomable"]
    for stressor, sizes in STRESSORS.items():
        if stressor != "inotify":  # it wants to be told of a removal within a second, with all the others in the queue
            command += [f"--{stressor}", "1", *sizes]
    command += ["--timeout", str(seconds)]
    with flushed_meanwhile(mount):
        yield run("stress-ng all at once", command, seconds + 2 * GRACE_SECONDS, re.compile("successful run completed"))


def run_dbench(mount: Mount, seconds: int) -> Iterator[Step]:
    """The file traffic of an office, by several clients at once; once more while everything is flushed all the time."""
    folder = mount.path / "dbench"
    folder.mkdir(exist_ok=True)
    command = ["dbench", "-t", str(seconds), "-D", folder, str(DBENCH_CLIENTS)]
    shown = re.compile(r"^Throughput .*", re.MULTILINE)
    yield run("dbench", command, seconds + GRACE_SECONDS, shown)
    with flushed_meanwhile(mount):
        yield run("dbench and flushes", command, seconds + GRACE_SECONDS, shown)


def take(steps: Iterator[Step], mount: Mount) -> bool:
    """Print each step as it ends; whether all went well. A daemon that is gone ends it."""
    good = True
    for step in steps:
        print(step, flush=True)
        good = good and step.code == 0
        assert not mount.daemon_ended(), "the daemon is gone"
    print(f"  daemon: {memory_of(mount.pid)}", flush=True)
    return good


def main() -> int:
    options = argparse.ArgumentParser(description="fio, stress-ng and dbench on a vfsd mount")
    options.add_argument("--seconds", type=int, default=10, help="for each stressor")
    options.add_argument(
        "--only", action="append", default=[], help="fio, dbench, scribble, crowd, or a stressor (may be repeated)"
    )
    options.add_argument("--ram", default=RAM, help="budget of the RAM tier")
    options.add_argument("--work", type=Path, help="folder for the plate (default: the system's temporary one)")
    given = options.parse_args()
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        print(f"please install {', '.join(missing)}", file=sys.stderr)
        return 2
    wanted = given.only
    good = True
    with bench(given.work) as plate:
        with plate.mounted("--ram", given.ram) as mount:
            if not wanted or "fio" in wanted:
                good = take(run_fio(mount.path / "fio", check_only=False), mount) and good
            if not wanted or "dbench" in wanted:
                good = take(run_dbench(mount, 3 * given.seconds), mount) and good
            if not wanted or "scribble" in wanted:
                good = take(run_scribble(mount, 6 * given.seconds, check_only=False), mount) and good
            if not wanted or "crowd" in wanted:
                good = take(run_all_at_once(mount, 3 * given.seconds), mount) and good
            good = take(run_stress_ng(mount.path / "stress", given.seconds, wanted), mount) and good
        with plate.mounted("--ram", given.ram) as mount:
            if not wanted or "fio" in wanted:
                good = take(run_fio(mount.path / "fio", check_only=True), mount) and good
            if not wanted or "scribble" in wanted:
                good = take(run_scribble(mount, given.seconds, check_only=True), mount) and good
    print("all clean" if good else "NOT clean", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
