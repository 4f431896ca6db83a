"""The GPU room on a GPU: is it right, and how fast is it. `make gpu`, in under five minutes; JSON, a table, and docs/gpu.md.

    python -m benchmarks.gpu [--quick] [--json FILE] [--document FILE] [--work DIR] [--seconds N] [--seed N]

Wants numpy, cupy and numcodecs beside the repository; nvCOMP is measured where it is installed. First everything is checked
against what went in, with fresh random inputs and poisoned outputs: figures of wrong results are not printed. Sections that
would begin behind `--seconds` are left out, which is said. The bytes counted are decoded ones; GB is 10^9 bytes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu_machine import Machine, cores, prepare_imports

SECONDS = 270.0
DEFAULT_WORK = Path("/dev/shm")  # the page cache of a store; a folder on a disk does as well, once it was read
WORK_BYTES = 4 << 30  # a store of 1.2 GB, a file of half as much, and what else is there


@dataclass(slots=True)
class Sizes:
    """How much is measured: the work of the goals, or (`--quick`, tests) just enough to run every line."""

    planes: int = 200
    side: int = 2160
    distinct: int = 6
    sets: int = 3
    rounds: int = 7
    check_frames: int = 400


QUICK = Sizes(planes=6, side=200, distinct=3, sets=2, rounds=1, check_frames=40)


@dataclass(slots=True)
class Run:
    """One run: where, how much, and what came out. Sections put their figures into `results`, and goals into `goals`."""

    machine: Machine
    sizes: Sizes
    seed: int
    work: Path
    engine: str = ""  # what is measured beyond the kernels alone; empty: the fastest of them
    results: dict[str, Any] = field(default_factory=dict)
    goals: list[dict[str, Any]] = field(default_factory=list)
    shared: dict[str, Any] = field(default_factory=dict)  # what a later section takes from an earlier one

    def goal(self, name: str, value: float, target: float, unit: str, *, most: bool = False) -> None:
        """A figure that is aimed at; `most`: it should not be larger."""
        met = value <= target if most else value >= target
        self.goals.append({"name": name, "value": value, "target": target, "unit": unit, "most": most, "met": met})


def sections() -> list[tuple[str, Callable[[Run], Any]]]:
    """In the order of the report; what all else rests on comes first."""
    from benchmarks import gpu_checks, gpu_figures

    return [
        ("correct", gpu_checks.check_everything),
        ("ceilings", gpu_figures.ceilings),
        ("kernels", gpu_figures.kernels),
        ("single_plane", gpu_figures.single_plane),
        ("store", gpu_figures.store),
        ("compression", gpu_figures.compression),
        ("parameters", gpu_figures.parameters),
    ]


def measure(run: Run, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Run every section; the report. A section that fails is in it with its reason, and the others go on."""
    begin = time.monotonic()
    report: dict[str, Any] = {"format": 1, "seed": run.seed, "cores": cores(), "machine": run.machine.facts()}
    report["left_out"], report["failed"] = [], {}
    for name, section in sections():
        if time.monotonic() - begin > seconds:
            report["left_out"].append(name)
            continue
        started = time.monotonic()
        try:
            run.results[name] = section(run)
        except Exception as error:  # a figure that cannot be had must not cost the others
            report["failed"][name] = f"{type(error).__name__}: {error}"
            say(f"{name} FAILED: {error}")
            say(traceback.format_exc())
            if name == "correct":
                break
        say(f"-- {name}: {time.monotonic() - started:.1f} s")
    report["sections"], report["goals"] = run.results, run.goals
    report["seconds"] = time.monotonic() - begin
    return report


def main(arguments: Sequence[str] | None = None, machine: Machine | None = None) -> int:
    """`machine`: the tests' own; else the GPU. 0: everything ran and is right; 1: not so; 2: there is no GPU."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="small runs that only show that they run")
    options.add_argument("--json", type=Path, metavar="FILE", help="where the report goes (default: build/gpu.json)")
    options.add_argument("--document", type=Path, metavar="FILE", help="whose figures are replaced by these")
    options.add_argument("--work", type=Path, metavar="DIR", help="folder for a store of 1.2 GB (default: /dev/shm)")
    options.add_argument("--seconds", type=float, default=SECONDS, help="no section begins later than this")
    options.add_argument("--engine", default="", metavar="NAME", help="for all but the kernels (default: the fastest)")
    options.add_argument("--seed", type=int, default=time.time_ns() % (1 << 31), help="of all inputs (default: fresh)")
    chosen = options.parse_args(arguments)
    try:
        notes = prepare_imports()
    except ImportError as error:
        print(f"numpy and numcodecs are wanted: {error}", file=sys.stderr)
        return 2

    from benchmarks.gpu_document import as_table, replace_figures
    from benchmarks.gpu_machine import CudaMachine
    from vfsd.gpu.device import NoDeviceError

    if machine is None:
        try:
            machine = CudaMachine()
        except NoDeviceError as error:
            print(f"no GPU: {error}", file=sys.stderr)
            return 2
    roomy = DEFAULT_WORK.is_dir() and shutil.disk_usage(DEFAULT_WORK).free > WORK_BYTES
    base = chosen.work or (DEFAULT_WORK if roomy else None)
    with tempfile.TemporaryDirectory(prefix="vfsd-gpu-", dir=base) as folder:
        run = Run(machine, QUICK if chosen.quick else Sizes(), chosen.seed, Path(folder), chosen.engine)
        report = measure(run, chosen.seconds, lambda line: print(line, file=sys.stderr, flush=True))
    report["notes"] = notes
    report["quick"] = chosen.quick
    target = chosen.json or Path("build") / "gpu.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(as_table(report))
    if chosen.document is not None and not report["failed"] and not chosen.quick:
        replace_figures(chosen.document, report)
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
