"""What mounting refuses, with which exit code, and that a refusal leaves everything as it was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from blackbox.daemons import BUSY, DIFFERENT, DONE, UNFIT, Mounted, Plate, Vfsd, default_store, mounted_at
from blackbox.trees import assert_same_tree, read_tree

pytestmark = pytest.mark.fuse


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    (tmp_path / "mnt").mkdir()
    return tmp_path / "mnt"


def test_mount_point_missing(plate: Plate, tmp_path: Path, vfsd: Vfsd) -> None:
    vfsd.expect(UNFIT, "mount", plate(), tmp_path / "missing").must_name(tmp_path / "missing")


def test_mount_point_not_empty(plate: Plate, mountpoint: Path, vfsd: Vfsd) -> None:
    (mountpoint / "mine.txt").write_text("keep me")
    vfsd.expect(UNFIT, "mount", plate(), mountpoint).must_name(mountpoint)
    assert (mountpoint / "mine.txt").read_text() == "keep me"


def test_mount_point_is_a_file(plate: Plate, tmp_path: Path, vfsd: Vfsd) -> None:
    (tmp_path / "file").write_text("")
    vfsd.expect(UNFIT, "mount", plate(), tmp_path / "file").must_name(tmp_path / "file")


def test_mount_point_already_mounted(plate: Plate, mounted: Mounted, vfsd: Vfsd) -> None:
    other = plate(to="other")
    with mounted(plate()) as mount:
        vfsd.expect(UNFIT, "mount", other, mount.path).must_name(mount.path)
        assert mount.is_mounted()
        assert any(mount.path.iterdir())


def test_source_missing_or_no_folder(tmp_path: Path, mountpoint: Path, vfsd: Vfsd) -> None:
    vfsd.expect(UNFIT, "mount", tmp_path / "missing", mountpoint).must_name(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    vfsd.expect(UNFIT, "mount", tmp_path / "file", mountpoint).must_name(tmp_path / "file")
    assert not default_store(tmp_path / "missing").exists()
    assert mounted_at(mountpoint) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_source_unreadable(plate: Plate, mountpoint: Path, vfsd: Vfsd) -> None:
    source = plate()
    source.chmod(0)
    try:
        vfsd.expect(UNFIT, "mount", source, mountpoint).must_name(source)
    finally:
        source.chmod(0o755)


def test_nothing_may_lie_inside_anything_else(plate: Plate, mountpoint: Path, vfsd: Vfsd) -> None:
    source = plate()
    inside = source / "inside"
    inside.mkdir()
    before = read_tree(source)
    vfsd.expect(UNFIT, "mount", source, inside)
    vfsd.expect(UNFIT, "mount", source, mountpoint, "--store", source / "plate.vfs")
    vfsd.expect(UNFIT, "mount", source, mountpoint, "--store", source)
    vfsd.expect(UNFIT, "mount", source, mountpoint, "--store", mountpoint / "plate.vfs")
    vfsd.expect(UNFIT, "mount", source, mountpoint, "--cache", source / "cache")
    vfsd.expect(UNFIT, "mount", source, mountpoint, "--ram-dir", source / "ram")
    vfsd.expect(UNFIT, "convert", source, source / "plate.vfs")
    assert_same_tree(read_tree(source), before, "the source")
    assert not any(mountpoint.iterdir())


def test_store_cannot_be_made(plate: Plate, tmp_path: Path, mountpoint: Path, vfsd: Vfsd) -> None:
    (tmp_path / "file").write_text("")
    outcome = vfsd.expect(UNFIT, "mount", plate(), mountpoint, "--store", tmp_path / "file" / "x.vfs")
    outcome.must_name("--store")
    assert mounted_at(mountpoint) is None


def test_folder_with_other_things_is_no_store(plate: Plate, tmp_path: Path, mountpoint: Path, vfsd: Vfsd) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    before = read_tree(tmp_path / "mine")
    vfsd.expect(UNFIT, "mount", plate(), mountpoint, "--store", tmp_path / "mine")
    vfsd.expect(UNFIT, "verify", tmp_path / "mine")
    vfsd.expect(UNFIT, "export", tmp_path / "mine", tmp_path / "out")
    assert_same_tree(read_tree(tmp_path / "mine"), before, "somebody's folder")


def test_store_of_a_newer_version(plate: Plate, tmp_path: Path, mountpoint: Path, vfsd: Vfsd) -> None:
    source, store = plate(), tmp_path / "kept.vfs"
    vfsd.expect(DONE, "convert", source, store)
    header = json.loads((store / "vfs.json").read_text())
    assert header["format"] == "vfsd-store"
    assert header["version"] == 1
    (store / "vfs.json").write_text(json.dumps({**header, "version": 999}))
    before = read_tree(store)
    for arguments in (
        ["mount", source, mountpoint, "--store", store],
        ["mount", store, mountpoint],
        ["verify", store],
        ["export", store, tmp_path / "out"],
    ):
        vfsd.expect(UNFIT, *arguments).must_name("999")
    assert_same_tree(read_tree(store), before, "the newer store")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other", "version": 1}', '{"format": "vfsd-store"}'])
def test_store_with_a_broken_header(text: str, plate: Plate, tmp_path: Path, mountpoint: Path, vfsd: Vfsd) -> None:
    store = tmp_path / "kept.vfs"
    vfsd.expect(DONE, "convert", plate(), store)
    (store / "vfs.json").write_text(text)
    vfsd.expect(UNFIT, "mount", plate(to="other"), mountpoint, "--store", store)
    assert "vfs.json" in vfsd.expect(DIFFERENT, "verify", store).out
    assert "vfs.json" in vfsd.expect(DONE, "verify", store, "--repair").out
    vfsd.expect(DONE, "verify", store)


def test_store_of_another_source(plate: Plate, mounted: Mounted, mountpoint: Path, vfsd: Vfsd) -> None:
    source, other = plate(), plate(to="other")
    with mounted(source) as mount:
        (mount.path / "new.txt").write_text("new\n")
        mount.umount()
    vfsd.expect(UNFIT, "mount", other, mountpoint, "--store", mount.store).must_name(mount.store)


def test_store_in_use_by_another_mount(plate: Plate, mounted: Mounted, tmp_path: Path, vfsd: Vfsd) -> None:
    source = plate()
    second = tmp_path / "second"
    second.mkdir()
    with mounted(source) as mount:
        vfsd.expect(BUSY, "mount", source, second).must_name(mount.store)
        vfsd.expect(BUSY, "mount", mount.store, second).must_name(mount.store)
        vfsd.expect(BUSY, "convert", source, mount.store).must_name(mount.store)
        assert mounted_at(second) is None
        (mount.path / "new.txt").write_text("still usable\n")
        mount.umount()
    with mounted(mount.store, at=second) as alone:
        assert (alone.path / "new.txt").read_text() == "still usable\n"
