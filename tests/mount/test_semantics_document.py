"""Every example of docs/semantics.md does what the document says, run in its order on one mount.

`console` blocks hold commands after "$ " and what they print; `pycon` blocks are doctests. They share a working
folder, the mount.
"""

from __future__ import annotations

import doctest
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from blackbox.acts import EARLY_NS
from blackbox.daemons import DONE, Mounted, Vfsd
from blackbox.pictures import noisy_picture, simple_tiff

pytestmark = pytest.mark.fuse

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "semantics.md"
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Example:
    """A block: its language, its text, and the line of the document it begins in."""

    language: str
    text: str
    line: int


def examples() -> list[Example]:
    text = DOCUMENT.read_text()
    return [Example(found[1], found[2], text[: found.start()].count("\n") + 2) for found in FENCED.finditer(text)]


def run_console(example: Example, folder: Path, environment: dict[str, str]) -> None:
    """Each command prints what follows it, on either stream."""
    for part in re.split(r"^\$ ", example.text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        done = subprocess.run(
            ["bash", "-c", f'cd "$MNT" && {{ {command}\n}}'],
            cwd=folder.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.stdout == expected, f"{DOCUMENT.name}, line {example.line}: {command}\n{done.stdout}{done.stderr}"
        assert done.stderr == "", f"{DOCUMENT.name}, line {example.line}: {command}\n{done.stderr}"


def run_doctest(example: Example, names: dict[str, object]) -> None:
    found = doctest.DocTestParser().get_doctest(example.text, names, DOCUMENT.name, str(DOCUMENT), example.line)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    runner.run(found, out=said.append, clear_globs=False)
    names.update(found.globs)
    assert runner.failures == 0, "".join(said)


def test_every_example_is_right(tmp_path: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    missing = [program for program in ("setfattr", "flock") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    source = tmp_path / "plate"
    (source / "wells").mkdir(parents=True)
    for number, name in enumerate(("A01.tif", "wells/B01.tif", "wells/B02.tif")):
        (source / name).write_bytes(simple_tiff(noisy_picture((32, 32), seed=number)))
    (source / "notes.txt").write_text("first line\nsecond line\n")
    for path in sorted(source.rglob("*"), reverse=True):
        os.utime(path, ns=(EARLY_NS, EARLY_NS))
    os.utime(source, ns=(EARLY_NS, EARLY_NS))
    program = tmp_path / "bin" / "vfsd"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vfsd "$@"\n')
    program.chmod(0o755)
    here = Path.cwd()
    environment = {**vfsd.environment, "LC_ALL": "C", "TZ": "UTC", "SOURCE": str(source)}
    environment["PATH"] = f"{program.parent}:{environment['PATH']}"
    environment["PYTHONPATH"] = f"{here}:{environment.get('PYTHONPATH', '')}"
    with mounted(source) as mount:
        environment["MNT"] = str(mount.path)
        names: dict[str, object] = {}
        for example in examples():
            if example.language == "console":
                run_console(example, mount.path, environment)
            elif example.language == "pycon":
                os.chdir(mount.path)
                try:
                    run_doctest(example, names)
                finally:
                    os.chdir(here)
        vfsd.expect(DONE, "umount", mount.path)
    os.utime(source, ns=(EARLY_NS, EARLY_NS))


def test_there_are_examples_and_they_are_of_known_kinds() -> None:
    kinds = [example.language for example in examples()]
    assert set(kinds) <= {"console", "pycon"}
    assert len(kinds) > 15
