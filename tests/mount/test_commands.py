"""The commands as a terminal and a script see them: output, JSON, exit codes, and how a mount comes up.

Every command here runs through a fixture that fails on a traceback or on a refusal without a word.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest
from blackbox.daemons import (
    DONE,
    INTERRUPTED,
    UNFIT,
    USAGE,
    Mounted,
    Plate,
    Vfsd,
    default_store,
    mounted_at,
    unmount_with,
    wait_until,
)
from blackbox.stores import export_planes, stored_plates
from blackbox.trees import assert_same_tree, files_of, read_tree

pytestmark = pytest.mark.fuse

MIB = 1 << 20


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    (tmp_path / "mnt").mkdir()
    return tmp_path / "mnt"


def test_mount_returns_when_the_mount_answers(plate: Plate, mountpoint: Path, mounted: Mounted) -> None:
    source = plate()
    with mounted(source, at=mountpoint) as mount:
        assert mounted_at(mountpoint) == "fuse.vfsd"
        assert sorted(p.name for p in mountpoint.iterdir()) == sorted(p.name for p in source.iterdir())
        assert mount.daemon.is_running()
        assert mount.daemon.ppid() != os.getpid()
        assert os.getsid(mount.pid) != os.getsid(0)
        # One process: no helper stays beside the daemon.
        assert mount.daemon.children() == []
        assert mount.log is not None, "the daemon's log is not where the documentation has it"


def test_mount_in_the_foreground_stays_and_flushes_when_interrupted(
    plate: Plate, mountpoint: Path, vfsd: Vfsd, transport: str
) -> None:
    source = plate()
    process = vfsd.start("mount", source, mountpoint, "--foreground", "--transport", transport)
    try:
        wait_until(lambda: mounted_at(mountpoint) is not None or process.poll() is not None, "the mount is there")
        assert process.poll() is None, process.communicate()
        (mountpoint / "new.txt").write_text("written\n")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert b"Traceback" not in err, err
        assert mounted_at(mountpoint) is None
    finally:
        unmount_with("fusermount3", "-uz", mountpoint)
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert (default_store(source) / "files" / "new.txt").read_text() == "written\n"


def test_mounting_over_the_source_itself(plate: Plate, mounted: Mounted, vfsd: Vfsd) -> None:
    source = plate()
    before = read_tree(source)
    with mounted(source, at=source) as mount:
        assert_same_tree(read_tree(source), before, "the mount over its source")
        (source / "new.txt").write_text("only in the overlay\n")
        mount.umount()
    assert not (source / "new.txt").exists()
    assert (mount.store / "files" / "new.txt").read_text() == "only in the overlay\n"


def test_status_tells_scripts_what_they_need(plate: Plate, mounted: Mounted, transport: str, vfsd: Vfsd) -> None:
    source = plate()
    with mounted(source, "--ram", "64MiB", "--cache-size", "128MiB") as mount:
        (mount.path / "new.bin").write_bytes(bytes(MIB))
        status = mount.status()
        assert status["pid"] == mount.pid
        assert Path(status["source"]) == source
        assert Path(status["store"]) == mount.store
        assert Path(status["mountpoint"]) == mount.path
        assert status["transport"] == transport
        assert isinstance(status["state"], str)
        tiers = status["tiers"]
        assert set(tiers) >= {"ram", "cache", "store"}
        for tier in ("ram", "cache", "store"):
            assert set(tiers[tier]) >= {"bytes", "files", "budget"}
        assert tiers["ram"]["budget"] == 64 * MIB
        assert tiers["cache"]["budget"] == 128 * MIB
        assert tiers["ram"]["bytes"] + tiers["cache"]["bytes"] >= MIB
        assert tiers["ram"]["files"] + tiers["cache"]["files"] >= 1
        everything = vfsd.expect(DONE, "status", "--json")
        assert isinstance(everything.json(), dict)
        assert str(mount.path) in everything.out
        assert str(mount.path) in vfsd.expect(DONE, "status").out
        assert str(mount.path) in vfsd.expect(DONE, "status", mount.path).out


def test_status_of_a_folder_that_is_no_mount(tmp_path: Path, vfsd: Vfsd) -> None:
    vfsd.expect(UNFIT, "status", tmp_path).must_name(tmp_path)
    vfsd.expect(UNFIT, "status", tmp_path / "missing", "--json").must_name(tmp_path / "missing")


def test_umount_says_what_the_receipt_says(plate: Plate, mounted: Mounted) -> None:
    source = plate()
    with mounted(source) as mount:
        shutil.copytree(source, mount.path / "again")
        written = files_of(read_tree(mount.path / "again"))
        result = mount.umount("--json").json()
    assert result["exit_code"] == DONE
    flush = result["flush"]
    assert flush["complete"] is True
    assert flush["files"] == len(written)
    assert flush["bytes"] == sum(entry.size for entry in written.values())
    assert flush["receipts"]
    for receipt in map(Path, flush["receipts"]):
        assert receipt.parent == mount.store / "receipts"
        assert json.loads(receipt.read_bytes())


def test_umount_in_words_is_two_lines(plate: Plate, mounted: Mounted) -> None:
    source = plate()
    with mounted(source) as mount:
        (mount.path / "new.txt").write_text("new\n")
        outcome = mount.umount()
    lines = outcome.out.strip().splitlines()
    assert 1 <= len(lines) <= 2, str(outcome)


def test_umount_of_something_else(tmp_path: Path, vfsd: Vfsd) -> None:
    vfsd.expect(UNFIT, "umount", tmp_path).must_name(tmp_path)
    vfsd.expect(UNFIT, "umount", tmp_path / "missing").must_name(tmp_path / "missing")


@pytest.mark.parametrize(
    "arguments",
    [
        ["mount"],
        ["mount", "only-one"],
        ["mount", "a", "b", "c"],
        ["mount", "--no-such-option", "a", "b"],
        ["mount", "--ram", "lots", "a", "b"],
        ["mount", "--ram", "-5", "a", "b"],
        ["mount", "--transport", "pigeon", "a", "b"],
        ["umount"],
        ["umount", "--timeout", "soon", "a"],
        ["convert", "a"],
        ["export", "a"],
        ["verify"],
        ["demo-plate"],
        ["demo-plate", "--wells", "none", "a"],
        ["no-such-command"],
        ["--no-such-option"],
    ],
    ids=" ".join,
)
def test_a_misspelt_command_is_usage(arguments: list[str], vfsd: Vfsd) -> None:
    vfsd.expect(USAGE, *arguments)


def test_help_and_version(vfsd: Vfsd) -> None:
    shown = vfsd.expect(DONE, "--help").out
    for command in ("mount", "umount", "flush", "status", "convert", "verify", "export", "demo-plate"):
        assert command in shown
        assert vfsd.expect(DONE, command, "--help").out.strip()
    assert vfsd.expect(DONE, "--version").out.strip()


def test_interrupted_convert_says_so(tmp_path: Path, vfsd: Vfsd) -> None:
    source, store = tmp_path / "plate", tmp_path / "plate.vfs"
    shape = ("--wells", "4", "--fields", "4", "--channels", "2", "--z", "1", "--size", "2048")
    vfsd.expect(DONE, "demo-plate", source, *shape)
    before = read_tree(source)
    process = vfsd.start("convert", source, store)
    try:
        wait_until(lambda: store.exists() or process.poll() is not None, "convert begins")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == INTERRUPTED, err
    assert b"Traceback" not in err, err
    assert_same_tree(read_tree(source), before, "the source")
    # What was interrupted can be done again.
    vfsd.expect(DONE, "convert", source, store)
    vfsd.expect(DONE, "verify", store)
    (stored,) = stored_plates(store)
    assert len(stored.images) == len({p.field + p.row + p.column for p in export_planes(source, projection=False)})


def test_two_plates_at_once(plate: Plate, mounted: Mounted, tmp_path: Path, vfsd: Vfsd) -> None:
    first, second = plate(), plate(to="other")
    with mounted(first) as one, mounted(second, at=tmp_path / "mnt2") as two:
        assert one.pid != two.pid
        (one.path / "one.txt").write_text("one\n")
        (two.path / "two.txt").write_text("two\n")
        shown = vfsd.expect(DONE, "status", "--json").out
        assert str(one.path) in shown
        assert str(two.path) in shown
        one.umount()
        assert two.is_mounted()
        assert psutil.pid_exists(two.pid)
    assert (one.store / "files" / "one.txt").exists()
    assert (two.store / "files" / "two.txt").exists()
    assert not (two.store / "files" / "one.txt").exists()


def test_doctor_answers(vfsd: Vfsd) -> None:
    outcome = vfsd("doctor")
    assert outcome.code in (DONE, UNFIT), str(outcome)
    assert outcome.out.strip()
