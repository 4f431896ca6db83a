"""vfsd is killed while programs write, at any moment and at chosen points, and again while it recovers: nothing is lost.

A few rounds of what `make crash` does a thousand times: see `crash/rounds.py`.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(600)]

TESTS = Path(__file__).parents[1]
ROUNDS = 25
# The same rounds each time in CI, so that a run says something of the change and not of its luck.
SEED = 1 if os.environ.get("CI") else random.SystemRandom().randrange(1 << 32)


def crash(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "crash.rounds", *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_nothing_that_was_answered_is_lost_by_a_kill() -> None:
    done = crash("--rounds", str(ROUNDS), "--seed", str(SEED))
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_program_that_loses_something_is_found_out() -> None:
    done = crash("--rounds", "9", "--seed", "1", "--skip", "spill.copy")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED: seed 1, chain 1" in done.stdout
