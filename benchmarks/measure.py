"""How every benchmark here measures: contestants in turn, medians, ratios against a peer, and JSON.

Contestants take turns within each round, and every other round runs backwards, so that a machine which warms
up or slows down is fair to all. The median of the rounds counts. A goal is met or not; nothing here fails a
build, since a figure from a loaded machine proves nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Often enough to see a peak of one image, seldom enough not to be seen itself.
SAMPLING_SECONDS = 0.05
# The figures that the kernel gives of a process, in kB of 1024 bytes (proc(5)).
MEMORY_FIGURE = re.compile(r"^(VmRSS|VmHWM|RssAnon|RssFile|RssShmem):\s+(\d+) kB$", re.MULTILINE)
MEMORY_LIMIT = 200e6
"""Resident bytes of the daemon. What it maps of tmpfs is the RAM tier, which has a budget of its own."""

COMMAND_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure that is aimed at: `ours` against `peer` in the same unit, and the ratio that is wanted."""

    name: str
    unit: str
    ours: float
    peer: float
    ratio: float
    target: float

    @property
    def met(self) -> bool:
        return self.ratio >= self.target

    def __str__(self) -> str:
        verdict = "met" if self.met else "NOT met"
        return (
            f"{self.name}: {self.ours:.3g} {self.unit}, peer {self.peer:.3g} {self.unit}, "
            f"ratio {self.ratio:.2f} (target {self.target:g}): {verdict}"
        )


@dataclass(slots=True)
class MemoryPeak:
    """The highest figures seen of one process, in bytes; `own` leaves out mapped tmpfs pages."""

    resident: int = 0
    anonymous: int = 0
    own: int = 0
    samples: int = 0

    @property
    def met(self) -> bool:
        return self.own < MEMORY_LIMIT

    def take(self, pid: int) -> bool:
        """Look once; False when the process is gone."""
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return False
        figures = {name: int(count) * 1024 for name, count in MEMORY_FIGURE.findall(text)}
        if "VmRSS" not in figures:
            return False
        self.resident = max(self.resident, figures["VmRSS"])
        self.anonymous = max(self.anonymous, figures["RssAnon"])
        self.own = max(self.own, figures["RssAnon"] + figures["RssFile"])
        self.samples += 1
        return True

    def __str__(self) -> str:
        verdict = "met" if self.met else "NOT met"
        limit = f"target < {MEMORY_LIMIT / 1e6:.0f}"
        return (
            f"daemon's memory: {self.own / 1e6:.0f} MB without tmpfs pages ({limit}): {verdict}; "
            f"RssAnon {self.anonymous / 1e6:.0f} MB, VmRSS {self.resident / 1e6:.0f} MB, "
            f"{self.samples} samples"
        )


@contextlib.contextmanager
def watch_memory(pid: int, peak: MemoryPeak) -> Iterator[None]:
    """Sample a process's memory into `peak` as long as the block runs."""
    done = threading.Event()

    def sample() -> None:
        while peak.take(pid) and not done.wait(SAMPLING_SECONDS):
            pass

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def take_turns(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run each contestant once a round, there and back; what each returned, by name, in order of rounds."""
    results: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        order = list(contestants)
        for name in reversed(order) if number % 2 else order:
            results[name].append(contestants[name]())
            print(f"  round {number + 1} of {rounds}: {name} {results[name][-1]:.3g}", file=sys.stderr)
    return results


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def run_vfsd(*arguments: str | Path) -> str:
    """One vfsd command that must succeed; its standard output."""
    finished = subprocess.run(
        [sys.executable, "-m", "vfsd", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    if finished.returncode != 0:
        sys.exit(f"vfsd {arguments[0]} exited with {finished.returncode}: {finished.stderr}")
    return finished.stdout


def make_demo_plate(directory: Path, shape: Mapping[str, int]) -> None:
    """A simulated plate; `shape` has the command's options by name."""
    run_vfsd("demo-plate", directory, *(f"--{name}={count}" for name, count in shape.items()))


@contextlib.contextmanager
def mounted(source: Path, mountpoint: Path, *options: str | Path) -> Iterator[int]:
    """A mount for the block, which may unmount it itself; gives the daemon's process id."""
    mountpoint.mkdir(exist_ok=True)
    run_vfsd("mount", source, mountpoint, *options)
    try:
        yield int(json.loads(run_vfsd("status", mountpoint, "--json"))["pid"])
        if os.path.ismount(mountpoint):
            run_vfsd("umount", mountpoint)
    except BaseException:
        subprocess.run(["fusermount3", "-uz", mountpoint], capture_output=True, check=False)
        raise


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--quick", action="store_true", help="a small run that only shows that it runs")
    options.add_argument("--rounds", type=int, help="how often each contestant runs")
    options.add_argument("--work", type=Path, help="folder for the data (default: the system's temporary one)")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    return options


def processor_name() -> str:
    """What the processor calls itself."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


@dataclass(slots=True)
class Report:
    """What one benchmark found: its goals, the daemon's memory, and whatever else explains them."""

    benchmark: str
    goals: list[Goal] = field(default_factory=list)
    memory: MemoryPeak = field(default_factory=MemoryPeak)
    details: dict[str, Any] = field(default_factory=dict)

    def publish(self, file: Path | None) -> None:
        """Print the lines for people; write the object for programs."""
        for goal in self.goals:
            print(goal)
        if self.memory.samples:
            print(self.memory)
        for name, value in self.details.items():
            print(f"  {name}: {value}")
        if file is not None:
            file.write_text(json.dumps(self.to_json(), indent=1) + "\n")

    def to_json(self) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "goals": [{**asdict(goal), "met": goal.met} for goal in self.goals],
            "memory": {**asdict(self.memory), "limit": MEMORY_LIMIT, "met": self.memory.met},
            "details": self.details,
            "machine": {
                "processor": processor_name(),
                "cpus": os.cpu_count(),
                "kernel": platform.release(),
                "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
                "python": platform.python_version(),
            },
        }
