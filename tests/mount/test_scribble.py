"""Several programs change files at random while everything is flushed again and again: see `conformance/scribble.py`.

A few seconds of what `make stress` does for minutes.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from blackbox.daemons import DONE, Mounted, Vfsd
from conformance.plate import flushed_meanwhile

pytestmark = pytest.mark.fuse

TESTS = Path(__file__).parents[1]
SECONDS = 6
FILES = 4
# The four files have no room in this, so that they spill and come back all the time.
RAM = "2M"


def scribble(folder: Path, kept: Path, *options: str) -> None:
    command = [sys.executable, "-m", "conformance.scribble", folder, kept, "--seconds", str(SECONDS), "--seed", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [*command, *options], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_keep_their_bytes_through_spills_moves_and_flushes(tmp_path: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    source, kept = tmp_path / "plate", tmp_path / "expected"
    (source / "files").mkdir(parents=True)
    for number in range(FILES):
        (source / "files" / str(number)).write_bytes(random.Random(number).randbytes(number * 300_000))
    with mounted(source, "--ram", RAM) as mount:
        with flushed_meanwhile(mount):
            scribble(mount.path / "files", kept)
        scribble(mount.path / "files", kept, "--check")
    vfsd.expect(DONE, "verify", mount.store)
    with mounted(source, "--ram", RAM) as mount:
        scribble(mount.path / "files", kept, "--check")
    with mounted(mount.store, "--ram", RAM) as mount:
        scribble(mount.path / "files", kept, "--check")
