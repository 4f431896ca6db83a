"""Runs pjdfstest, a conformance suite for the system calls of POSIX, on a mount: `make posix PJDFSTEST=DIRECTORY`.

The suite is no part of vfsd and no dependency: DIRECTORY is where it lies, built. It runs three times: in a folder that is
new in the overlay, in one that begins in the source, and in one that is flushed again and again meanwhile, so that what
it looks at moves to the store between one system call and the next. It is told that it runs on ext4, the model, so that
it also asks for what ext4 promises beyond POSIX.

Exit code 1: a test failed that `expected_failures.txt` does not name, or one passed that it names.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from blackbox.daemons import Mount

from conformance.plate import BEGINS, bench, flushed_meanwhile
from conformance.tap import Results, parse_tap

EXPECTED = Path(__file__).with_name("expected_failures.txt")
# The longest file takes 20 seconds on a busy machine of two cores; one that hangs is a failure.
FILE_SECONDS = 300.0
# A suite without this program in it was not built.
PROGRAM = "pjdfstest"
SHOWN_FAILURES = 40

HOW_TO = """\
make posix runs pjdfstest on a mount, and needs to be told where it is:

    make posix PJDFSTEST=/path/to/pjdfstest

It comes from https://github.com/pjd/pjdfstest; build it as its README says. Its folder then has the program
`pjdfstest` and the folder `tests`. It must run as root.
"""


@dataclass(slots=True)
class Tally:
    """What came of the whole suite in one folder; failures by file and number."""

    passed: int = 0
    todo: int = 0
    failed: dict[tuple[str, int], str] = field(default_factory=dict)

    def take(self, file: str, results: Results) -> None:
        self.passed += len(results.passed)
        self.todo += len(results.todo)
        self.failed |= {(file, number): why for number, why in results.failed.items()}


def read_expected() -> dict[tuple[str, int], str]:
    """The failures that are known, with their reasons."""
    expected = {}
    for line in EXPECTED.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            file, number, reason = line.split(maxsplit=2)
            expected[file, int(number)] = reason
    return expected


def prepare(suite: Path, folder: Path) -> Path:
    """A copy of the suite's program and tests, told that the file system is ext4; the folder of its tests."""
    copy = folder / "pjdfstest"
    copy.mkdir()
    shutil.copy2(suite / PROGRAM, copy / PROGRAM)
    shutil.copytree(suite / "tests", copy / "tests")
    with (copy / "tests" / "conf").open("a") as conf:
        conf.write('\nfs="EXT4"\n')
    return copy / "tests"


def run_file(file: Path, folder: Path) -> Results:
    """Run one file of tests in a folder of the mount."""
    shell = subprocess.Popen(
        ["sh", file],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, _ = shell.communicate(timeout=FILE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, 9)
        out, _ = shell.communicate()
    return parse_tap(out)


def run_suite(tests: Path, only: str, folder: Path) -> Tally:
    """Run every file whose path begins with `only`; a line a folder of the suite."""
    tally = Tally()
    files = [file for file in sorted(tests.rglob("*.t")) if str(file.relative_to(tests)).startswith(only)]
    if not files:
        sys.exit(f"no file of the suite begins with {only!r}")
    for number, file in enumerate(files):
        name = str(file.relative_to(tests))
        tally.take(name, run_file(file, folder))
        if number + 1 == len(files) or files[number + 1].parent != file.parent:
            print(f"  {file.parent.name:16} so far {tally.passed} passed, {len(tally.failed)} failed", flush=True)
    return tally


@contextmanager
def _in_peace(mount: Mount) -> Iterator[None]:
    yield


# How a folder of the mount comes to be, by the layer that the tests run in; and what goes on meanwhile.
LAYERS: dict[str, tuple[str, Callable[[Mount], AbstractContextManager[None]]]] = {
    "overlay": ("made-here", _in_peace),
    "source": (BEGINS, _in_peace),
    "store": ("flushed", flushed_meanwhile),
}


def run_layer(layer: str, mount: Mount, tests: Path, only: str) -> Tally:
    """The suite in one folder of the mount."""
    name, meanwhile = LAYERS[layer]
    folder = mount.path / name
    folder.mkdir(exist_ok=True)
    with meanwhile(mount):
        return run_suite(tests, only, folder)


def judge(layer: str, tally: Tally, expected: dict[tuple[str, int], str], only: str) -> bool:
    """Print what came of it; whether it is as expected."""
    unexpected = {place: why for place, why in tally.failed.items() if place not in expected}
    wrongly = [place for place in expected if place[0].startswith(only) and place not in tally.failed]
    for (file, number), why in list(unexpected.items())[:SHOWN_FAILURES]:
        print(f"  unexpected failure: {file} {number}: {why}")
    for file, number in wrongly:
        print(f"  passed, but is listed as an expected failure: {file} {number}")
    print(
        f"{layer}: {tally.passed} passed, {len(tally.failed)} failed, of these "
        f"{len(tally.failed) - len(unexpected)} expected; {tally.todo} left open by the suite itself",
        flush=True,
    )
    return not unexpected and not wrongly


def main() -> int:
    options = argparse.ArgumentParser(description="pjdfstest on a vfsd mount")
    options.add_argument("suite", nargs="?", default="", help="where pjdfstest lies, built")
    options.add_argument("--only", default="", help="files that begin so: rename, or chmod/00.t")
    options.add_argument("--layer", action="append", choices=list(LAYERS), help="only this one (may be repeated)")
    options.add_argument("--work", type=Path, help="folder for the plate (default: the system's temporary one)")
    given = options.parse_args()
    suite = Path(given.suite)
    if not given.suite or not os.access(suite / PROGRAM, os.X_OK) or not (suite / "tests" / "conf").is_file():
        print(HOW_TO, file=sys.stderr)
        if given.suite:
            print(f"{suite} is not such a folder.", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("pjdfstest changes owners and users: run it as root.", file=sys.stderr)
        return 2
    expected = read_expected()
    good = True
    with bench(given.work) as plate, plate.mounted("--allow-other") as mount:
        tests = prepare(suite.resolve(), plate.source.parent)
        for layer in given.layer or LAYERS:
            good = judge(layer, run_layer(layer, mount, tests, given.only), expected, given.only) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
