"""docs/tutorial.md: every command in it, in its order, does what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from blackbox.daemons import Vfsd

pytestmark = pytest.mark.fuse

TUTORIAL = Path(__file__).resolve().parents[2] / "docs/tutorial.md"


def test_the_tutorial_runs(vfsd: Vfsd, tmp_path: Path) -> None:
    commands = [line[4:] for line in TUTORIAL.read_text(encoding="utf-8").splitlines() if line.startswith("    ")]
    assert len(commands) > 10
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/vfsd"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vfsd "$@"\n')
    program.chmod(0o755)
    script = "trap 'umount -i mnt 2>/dev/null || fusermount3 -u mnt 2>/dev/null' ERR\n" + "\n".join(commands)
    done = subprocess.run(
        ["bash", "-eEuo", "pipefail", "-c", script],
        cwd=tmp_path,
        env={**vfsd.environment, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The store can replace the source." in done.stdout
