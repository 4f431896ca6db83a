"""The mechanism by which tests make vfsd fail: it finds what it names, does what it says, and is nowhere else."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from blackbox.daemons import DONE, Mounted, Plate, Vfsd

from crash.faults import KILL, KILL_AFTER, PLAN, SHORT, STEPS, Fault, environment_with, find_step, with_faults

PACKAGE = Path(__file__).parents[2] / "vfsd"


@pytest.mark.parametrize("step", STEPS)
def test_each_named_step_is_a_function_of_vfsd(step: str) -> None:
    assert callable(find_step(STEPS[step])[2])


def test_the_program_itself_has_nothing_of_it(vfsd: Vfsd, tmp_path: Path) -> None:
    assert not [
        path for path in PACKAGE.rglob("*.py") if PLAN in path.read_text() or "crash.faults" in path.read_text()
    ]
    everything = {"faults": [asdict(Fault("*", KILL))], "record": "", "reached": ""}
    ordinary = Vfsd(environment_with(vfsd.environment, everything))
    ordinary.expect(DONE, "demo-plate", tmp_path / "plate", "--wells", "1", "--fields", "1", "--size", "16")


PUT = """from pathlib import Path; from vfsd.store.storage import LocalStorage
LocalStorage(Path(".")).put_file(b"key", b"x" * 100)
"""


def run(code: str, *faults: Fault, folder: Path) -> subprocess.CompletedProcess[str]:
    """A program in which these faults are."""
    plan = {"faults": [asdict(fault) for fault in faults], "record": "", "reached": str(folder / "reached")}
    program = f"import json, os; from crash import faults; faults.install(json.loads(os.environ[faults.PLAN]))\n{code}"
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment_with(os.environ, plan),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("do", "there"), [(KILL, False), (KILL_AFTER, True)])
def test_a_process_dies_before_or_after_a_call(tmp_path: Path, do: str, there: bool) -> None:
    done = run(PUT, Fault("rename@vfsd.store.storage:*", do), folder=tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "key").exists() is there
    assert (tmp_path / ".key.part").exists() is not there
    assert (tmp_path / "reached").read_text() == f"{do} rename@vfsd.store.storage:LocalStorage.put_file\n"


def test_a_call_fails_as_often_as_asked(tmp_path: Path) -> None:
    three = f"""
for _ in range(3):
    try:
        {PUT.replace(chr(10), chr(10) + "        ")}
        print("put")
    except OSError as error:
        print(error.errno)
"""
    done = run(three, Fault("fsync@*put_file", "EIO", nth=2), folder=tmp_path)
    assert done.stdout.split() == ["put", str(errno.EIO), "put"], done.stderr
    done = run(three, Fault("write@*", "ENOSPC", nth=2, times=0), folder=tmp_path)
    assert done.stdout.split() == ["put", str(errno.ENOSPC), str(errno.ENOSPC)], done.stderr
    done = run(three, Fault("write@*", "ENOSPC", times=0, after="rename@*"), folder=tmp_path)
    assert done.stdout.split() == ["put", str(errno.ENOSPC), str(errno.ENOSPC)], done.stderr


def test_a_write_takes_half(tmp_path: Path) -> None:
    done = run(PUT, Fault("write@*", SHORT), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "key").read_bytes() == b"x" * 100
    done = run(PUT, Fault("write@*", SHORT, times=0), folder=tmp_path)
    assert "No space left" in done.stderr


def test_steps_fail_wherever_they_are_called_from(tmp_path: Path) -> None:
    code = """
import vfsd.flush.flush, vfsd.store.transaction, trio
for step, call in (
    ("flush.release", lambda: vfsd.flush.flush.release(None, None, None, durable=True)),
    ("flush.plan", lambda: trio.run(vfsd.flush.flush.select, None, None, None)),
    ("flush.carry_out", lambda: vfsd.store.transaction.carry_out(None, None, None)),
):
    try:
        call()
    except OSError as error:
        print(step in str(error))
"""
    faults = [Fault(step, "EIO") for step in ("flush.release", "flush.plan", "flush.carry_out")]
    done = run(code, *faults, folder=tmp_path)
    assert done.stdout.split() == ["True"] * 3, done.stderr


@pytest.mark.fuse
def test_points_of_every_room_are_seen_in_a_mount(tmp_path: Path, vfsd: Vfsd, plate: Plate, mounted: Mounted) -> None:
    record, reached = tmp_path / "record", tmp_path / "reached"
    source = plate("demo")
    faulty = with_faults(
        vfsd, Fault("f*sync@vfsd.tree.journal:*", "EIO", after="mount.ready"), record=record, reached=reached
    )
    with mounted(source, with_=faulty) as mount:
        for number in range(2):
            (mount.path / f"file{number}").write_bytes(bytes([number]) * 300_000)
        os.setxattr(mount.path / "file1", "user.vfsd.tier", b"cache")
        mount.expect_in_log("operation=fsync path=file0")
        with (mount.path / "file0").open("rb") as file, pytest.raises(OSError, match="Input/output"):
            os.fsync(file.fileno())
        mount.kill()
    assert reached.read_text().startswith("EIO f")
    with mounted(source, with_=with_faults(vfsd, record=record)) as mount:
        mount.expect_in_log("operation=fsync path=file0")  # still there, as the log goes on
        assert (mount.path / "file1").read_bytes() == bytes([1]) * 300_000
    passed = set(record.read_text().split())
    rooms = {label.partition("@")[2].partition(":")[0] for label in passed if "@" in label}
    assert {"vfsd.tree.changelog", "vfsd.tiers.copying", "vfsd.store.intents", "vfsd.store.transaction"} <= rooms
    assert {"commit@vfsd.tree.rows:Rows.commit", "spill.switch", "recovery.tree", "flush.release"} <= passed
