"""What a crash left: listed file by file, told by the next mount, and copied out where the journal itself is damaged."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from blackbox.daemons import DONE, UNFIT, Mounted, Plate, Vfsd, unmount_with
from blackbox.trees import read_tree

pytestmark = pytest.mark.fuse


def synced(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(fd, data)
    os.fsync(fd)
    os.close(fd)


def restart_machine(state: Path, ram: Path) -> None:
    """RAM is empty, and the journal is of an earlier start."""
    for file in ram.iterdir():
        file.unlink()
    with sqlite3.connect(state / "journal.sqlite") as journal:
        journal.execute("UPDATE meta SET value = 'an earlier start' WHERE key = 'boot'")
    journal.close()


@pytest.mark.parametrize("way_on", ["mount", "recover"])
def test_after_a_restart_of_the_machine_every_loss_is_named(
    way_on: str, plate: Plate, mounted: Mounted, vfsd: Vfsd
) -> None:
    source = plate("demo")
    of_source = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())[0]
    with mounted(source) as mount:
        mount.expect_in_log("bytes_lost")
        folders = mount.status()
        (mount.path / "d").mkdir()
        (mount.path / "d" / "new").write_bytes(b"only in RAM")
        synced(mount.path / "d" / "kept", b"synced")
        with (mount.path / of_source).open("r+b") as file:
            file.write(b"changed")
        if {os.getxattr(mount.path / name, "user.vfsd.tier") for name in ("d/new", of_source)} != {b"ram"}:
            pytest.skip("memory is short: nothing stays in RAM")
        mount.kill()
        unmount_with("fusermount3", "-uz", mount.path)
    state = Path(folders["state_directory"])

    before = read_tree(state)
    listed = vfsd.expect(DONE, "recover", "--list")
    assert "d/new" in listed.out
    assert read_tree(state) == before, "listing changes nothing"
    restart_machine(state, Path(folders["ram_directory"]))
    (left,) = vfsd.expect(DONE, "recover", "--list", "--json", mount.store).json()["left"]
    found = {one["path"]: one["state"] for one in left["named_files"]["list"]}
    assert found == {"d/new": "lost", str(of_source): "older", "d/kept": "kept"}
    assert all(one["age_seconds"] < 3600 for one in left["named_files"]["list"])

    if way_on == "recover":
        vfsd.expect(DONE, "recover", mount.store).must_name("d/new", of_source)
        assert (mount.store / "files" / "d" / "kept").read_bytes() == b"synced"
        return
    mountpoint = mount.path
    again = vfsd.expect(DONE, "mount", source, mountpoint)
    again.must_name("d/new", of_source)
    with (state / "daemon.log").open() as log:
        told = log.read()
    assert "path=d/new" in told
    assert (mountpoint / "d" / "kept").read_bytes() == b"synced"
    assert not (mountpoint / "d" / "new").exists()
    assert (mountpoint / of_source).read_bytes() == (source / of_source).read_bytes()
    vfsd.expect(DONE, "umount", mountpoint)
    vfsd.expect(DONE, "verify", mount.store)


def test_files_of_a_damaged_journal_are_copied_out(plate: Plate, mounted: Mounted, vfsd: Vfsd, tmp_path: Path) -> None:
    source = plate("demo")
    with mounted(source) as mount:
        folders = mount.status()
        (mount.path / "d").mkdir()
        for number in range(300):
            (mount.path / "d" / f"a longer name {number:03}").write_bytes(b"%d" % number)
        synced(mount.path / "kept", b"synced")
        (mount.path / "late").write_bytes(b"late")
        mount.kill()
        unmount_with("fusermount3", "-uz", mount.path)
    state = Path(folders["state_directory"])
    journal = state / "journal.sqlite"
    with sqlite3.connect(journal) as database:  # everything into the one file
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    whole = journal.read_bytes()
    half = len(whole) // 2 // 4096 * 4096
    for damaged, named in ((whole[:half] + bytes(8192) + whole[half + 8192 :], True), (os.urandom(8192), False)):
        journal.write_bytes(damaged)
        refused = vfsd.expect(UNFIT, "mount", source, mount.path)
        refused.must_name("journal.sqlite", "--rescue")
        target = tmp_path / f"rescued-{named}"
        told = vfsd.expect(DONE, "recover", "--rescue", target, state, "--json").json()
        assert told["named"] + told["unnamed"] == 302
        assert not told["failed"]
        assert (told["named"] > 50) == named
        contents = sorted(path.read_bytes() for path in target.rglob("*") if path.is_file())
        assert contents == sorted([b"%d" % number for number in range(300)] + [b"synced", b"late"])
        for path in (target / "d").glob("a longer name *"):
            assert path.read_bytes() == b"%d" % int(path.name[-3:])
        vfsd.expect(UNFIT, "recover", "--rescue", target, state)  # not empty: nothing is overwritten
        shutil.rmtree(target)
    journal.write_bytes(whole)
    with mounted(source) as mount:
        assert len(list((mount.path / "d").iterdir())) == 300
        assert (mount.path / "late").read_bytes() == b"late"


def test_tier_files_outlive_a_state_folder_that_somebody_removed(plate: Plate, mounted: Mounted, vfsd: Vfsd) -> None:
    source = plate("demo")
    with mounted(source) as mount:
        folders = mount.status()
        (mount.path / "new").write_bytes(b"only in RAM")
        mount.kill()
        unmount_with("fusermount3", "-uz", mount.path)
    ram = Path(folders["ram_directory"])
    files = read_tree(ram)
    shutil.rmtree(folders["state_directory"])
    for _ in range(2):
        refused = vfsd.expect(UNFIT, "mount", source, mount.path)
        refused.must_name("--rescue")
        assert read_tree(ram) == files
