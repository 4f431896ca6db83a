"""Power fails at any write of a disk, and everything that was synced or stored is there: see `crash/power.py`.

A few failures of what `make crash` has hundreds of; and the judge of it, held against what it must let pass and must not.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from crash.disk import why_no_disk
from crash.durable import Past
from crash.expected import Act, File, Files, Folder, copy_of, data_of, perform

TESTS = Path(__file__).parents[1]
SEED = 1 if os.environ.get("CI") else random.SystemRandom().randrange(1 << 32)
DATA, OTHER, MORE = ("noise", 1, 5000), ("noise", 2, 3000), ("noise", 3, 100)


def power(*options: str) -> subprocess.CompletedProcess[str]:
    if reason := why_no_disk():
        pytest.skip(reason)
    return subprocess.run(
        [sys.executable, "-m", "crash.power", *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


@pytest.mark.fuse
def test_nothing_that_was_synced_or_stored_is_lost_with_the_power() -> None:
    done = power("--disks", "2", "--failures", "7", "--seed", str(SEED))
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.fuse
def test_a_program_that_does_not_sync_is_found_out() -> None:
    done = power("--disks", "3", "--failures", "10", "--seed", "1", "--skip", "f*sync@*")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILED: seed 1, disk" in done.stdout


# --- the judge

FIRST: list[Act] = [("create", b"a", 0o644), ("write", b"a", 0, DATA), ("fsync", b"a", True)]


def files_after(*acts: Act) -> Files:
    files: Files = {b"d": Folder(), b"old": File(bytearray(b"old"))}
    for act in acts:
        perform(files, act)
    return files


def wrong(acts: list[Act], found: Files, said: str = "") -> list[str]:
    return Past(files_after(), acts, None).wrong(copy_of(found), said)


@pytest.mark.parametrize(
    "later",
    [
        [("write", b"a", 100, MORE)], [("append", b"a", MORE)], [("resize", b"a", 0, True), ("write", b"a", 0, OTHER)],
        [("rename", b"a", b"b")], [("unlink", b"a")], [("setxattr", b"a", b"user.x", b"x")], [("chmod", b"a", 0o600)],
        [("create", b"n", 0o644), ("write", b"n", 0, OTHER), ("rename", b"n", b"a")], [("link", b"a", b"b"), ("unlink", b"a")],
    ],
    ids=lambda acts: "-".join(str(act[0]) for act in acts),
)  # fmt: skip
def test_what_came_after_a_sync_may_be_there_or_not(later: list[Act]) -> None:
    for number in range(len(later) + 1):
        found = files_after(*FIRST, *later[:number])
        if not any(act[0] == "create" for act in later[:number]) or number == len(later):
            assert wrong([*FIRST, *later], found) == []
    lost = files_after()
    if later[-1][0] != "unlink":
        assert wrong([*FIRST, *later], lost)
    torn = files_after(*FIRST)
    torn[b"a"].data[10:20] = bytes(10)
    assert wrong([*FIRST, *later], torn) or later[0][0] in ("unlink", "link")


def test_bytes_names_and_attributes_that_were_synced_must_be_there() -> None:
    acts: list[Act] = [
        *FIRST,
        ("setxattr", b"a", b"user.x", b"x"),
        ("rename", b"a", b"b"),
        ("mkdir", b"e"),
        ("fsync_folder", b"d"),
    ]
    good = files_after(*acts)
    assert wrong(acts, good) == []
    for spoil in (
        lambda files: files.pop(b"b"),
        lambda files: files.pop(b"e"),
        lambda files: files.pop(b"old"),
        lambda files: files.update({b"a": files[b"b"]}),
        lambda files: files[b"b"].xattrs.clear(),
        lambda files: files[b"b"].data.__delitem__(slice(4000, None)),
    ):
        found = copy_of(good)
        spoil(found)
        assert wrong(acts, found)


def test_what_was_only_in_memory_is_named() -> None:
    acts: list[Act] = [("create", b"n", 0o644), ("write", b"n", 0, DATA), ("fsync_folder", b"d")]
    assert wrong(acts, files_after(), "bytes_lost path=n ") == []
    assert wrong(acts, files_after(), "")
    assert data_of(*DATA)
