"""The tree behaves as a local folder does: each act is done to a copy of the source and to the mount.

What an act observes on its way (bytes read, errors) must be equal, and what it leaves: at once, after
unmounting and mounting source and store again, and, with --ingest or after `convert`, as the store alone.
Tests of what a local folder cannot show, tiers and figures of the file system, follow after.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from blackbox.acts import (
    ACTS,
    EARLY_NS,
    MIB,
    Act,
    append,
    build_source,
    error_of,
    make_and_remove_directories,
    own_attributes,
    remove_a_directory_and_make_it_again,
    rename_a_directory_twice_and_back,
    save_as_editors_do,
    some_bytes,
    truncate,
    unlink_and_create_again,
    use_an_unlinked_file,
    write_at,
    write_at_any_offset,
)
from blackbox.daemons import DONE, Mounted, Vfsd, wait_until
from blackbox.pictures import noisy_picture, simple_tiff
from blackbox.trees import assert_same_tree, digest_file, read_tree

pytestmark = pytest.mark.fuse


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return build_source(tmp_path / "plate")


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A source with a folder for each act, so that one mount serves them all."""
    for do in ACTS:
        build_source(tmp_path / "plate" / do.__name__)
    return tmp_path / "plate"


def perform_all(root: Path) -> dict[str, list[Any]]:
    """Every act in its own folder; one that fails is an observation, and the others go on."""
    seen: dict[str, list[Any]] = {}
    for do in ACTS:
        try:
            seen[do.__name__] = do(root / do.__name__)
        except (OSError, AssertionError) as error:
            seen[do.__name__] = [repr(error)]
    return seen


@pytest.mark.parametrize("do", ACTS, ids=lambda do: do.__name__)
def test_acts_as_a_local_folder_does_and_remembers(
    do: Act, source: Path, mounted: Mounted, vfsd: Vfsd, tmp_path: Path
) -> None:
    local = tmp_path / "local"
    subprocess.run(["cp", "-a", source, local], check=True)
    untouched = read_tree(local)
    expected_seen = do(local)
    with mounted(source) as mount:
        assert_same_tree(read_tree(mount.path), untouched, "the mount before the act")
        assert do(mount.path) == expected_seen
        live = read_tree(mount.path)
        assert_same_tree(live, read_tree(local), "the mount", ignore=["mtime_ns"])
        attributes = own_attributes(mount.path)
        assert attributes == own_attributes(local)
        mount.umount()
    vfsd.expect(DONE, "verify", mount.store)
    with mounted(source) as mount:
        assert_same_tree(read_tree(mount.path), live, "source and store mounted again")
        assert own_attributes(mount.path) == attributes


def test_an_ingested_store_alone_shows_what_every_act_left(stage: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    with mounted(stage, "--ingest") as mount:
        perform_all(mount.path)
        live = read_tree(mount.path)
        attributes = own_attributes(mount.path)
        mount.umount()
    vfsd.expect(DONE, "verify", mount.store)
    with mounted(mount.store) as alone:
        assert_same_tree(read_tree(alone.path), live, "the mounted store")
        assert own_attributes(alone.path) == attributes


def test_every_act_works_on_stored_files_too(stage: Path, mounted: Mounted, vfsd: Vfsd, tmp_path: Path) -> None:
    """Where every file comes from the store; the next flush makes the store agree."""
    local = tmp_path / "local"
    subprocess.run(["cp", "-a", stage, local], check=True)
    store = tmp_path / "only.vfs"
    vfsd.expect(DONE, "convert", stage, store)
    expected_seen = perform_all(local)
    with mounted(store) as mount:
        assert perform_all(mount.path) == expected_seen
        live = read_tree(mount.path)
        assert_same_tree(live, read_tree(local), "the mounted store", ignore=["mtime_ns"])
        mount.umount()
    vfsd.expect(DONE, "verify", store)
    with mounted(store) as alone:
        assert_same_tree(read_tree(alone.path), live, "the store mounted again")


def test_layers_lie_over_layers(source: Path, mounted: Mounted, tmp_path: Path) -> None:
    """Several acts in one mount, then others in the next, and the next."""
    local = tmp_path / "local"
    subprocess.run(["cp", "-a", source, local], check=True)
    rounds: list[list[Act]] = [
        [write_at_any_offset, append, make_and_remove_directories],
        [truncate, save_as_editors_do, use_an_unlinked_file],
        [unlink_and_create_again, rename_a_directory_twice_and_back],
        [remove_a_directory_and_make_it_again],
    ]
    for acts in rounds:
        with mounted(source) as mount:
            for do in acts:
                assert do(mount.path) == do(local)
            assert_same_tree(read_tree(mount.path), read_tree(local), "the mount", ignore=["mtime_ns"])
            mount.umount()
    with mounted(source) as mount:
        assert_same_tree(read_tree(mount.path), read_tree(local), "the last mount", ignore=["mtime_ns"])


def test_times_of_changed_folders_move(source: Path, mounted: Mounted) -> None:
    with mounted(source) as mount:
        folder = mount.path / "data"
        before = folder.stat().st_mtime_ns
        (folder / "new.bin").write_bytes(b"x")
        assert folder.stat().st_mtime_ns > before
        file_before = (folder / "one.bin").stat()
        write_at(folder / "one.bin", 0, b"y")
        assert (folder / "one.bin").stat().st_mtime_ns > file_before.st_mtime_ns
        assert (folder / "one.bin").stat().st_ino == file_before.st_ino


def test_inode_numbers_stay(source: Path, mounted: Mounted) -> None:
    def numbers(root: Path) -> dict[str, int]:
        return {p.relative_to(root).as_posix(): p.lstat().st_ino for p in root.rglob("*")}

    with mounted(source) as mount:
        (mount.path / "new.txt").write_bytes(b"new")
        (mount.path / "data" / "one.bin").write_bytes(b"written")
        first = numbers(mount.path)
        mount.umount()
    with mounted(source) as mount:
        second = numbers(mount.path)
    assert first == second
    assert len(set(first.values())) == len(first)


def test_fifty_thousand_names_are_listed_once_each(tmp_path: Path, mounted: Mounted) -> None:
    source = tmp_path / "plate"
    (source / "wells").mkdir(parents=True)
    names = {f"plate_A01_s{number}_w1.TIF" for number in range(50_000)}
    for name in names:
        (source / "wells" / name).touch()
    with mounted(source) as mount:
        folder = mount.path / "wells"
        with os.scandir(folder) as listing:
            found = [(entry.name, entry.is_file(), entry.stat().st_size) for entry in listing]
        assert len(found) == len(names)
        assert {name for name, _, _ in found} == names
        assert all(is_file and size == 0 for _, is_file, size in found)
        (folder / "plate_A01_s7_w1.TIF").unlink()
        (folder / "added").touch()
        names ^= {"plate_A01_s7_w1.TIF", "added"}
        assert {path.name for path in folder.iterdir()} == names
        mount.umount()
    with mounted(source) as mount:
        assert {path.name for path in (mount.path / "wells").iterdir()} == names


def test_changes_of_the_source_show(source: Path, mounted: Mounted, tmp_path: Path) -> None:
    """An acquisition may still run: what appears in the source appears in the mount."""
    late = tmp_path / "late.tif"
    late.write_bytes(simple_tiff(noisy_picture((32, 32), seed=3)))
    with mounted(source) as mount:
        arrived = mount.path / "data" / "late.tif"
        assert not arrived.exists()
        shutil.copy2(late, source / "data" / "late.tif")
        try:
            wait_until(arrived.exists, "a new source file is found by name", 15)
            assert digest_file(arrived) == digest_file(late)
            wait_until(lambda: arrived in arrived.parent.iterdir(), "a new source file is listed", 15)
        finally:
            # The source is compared after each test: leave it as it was.
            (source / "data" / "late.tif").unlink()
            os.utime(source / "data", ns=(EARLY_NS, EARLY_NS))


def test_free_space_is_real(source: Path, mounted: Mounted) -> None:
    with mounted(source) as mount:
        figures = os.statvfs(mount.path)
        disk = os.statvfs(source)
        total, free = figures.f_blocks * figures.f_frsize, figures.f_bavail * figures.f_frsize
        assert 0 < free <= total
        # What can be written ends where RAM and the disk that holds cache and store end.
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        assert free <= disk.f_bavail * disk.f_frsize + memory + 64 * MIB
        assert figures.f_namemax == 255


def test_the_tier_of_a_file_can_be_asked(source: Path, mounted: Mounted) -> None:
    def tier(path: Path) -> bytes:
        return os.getxattr(path, "user.vfsd.tier")

    with mounted(source) as mount:
        (mount.path / "new.bin").write_bytes(some_bytes(50_000, 2))
        assert tier(mount.path / "data" / "one.bin") == b"source"
        assert tier(mount.path / "new.bin") in (b"ram", b"cache")
        write_at(mount.path / "data" / "one.bin", 0, b"changed")
        assert tier(mount.path / "data" / "one.bin") in (b"ram", b"cache")
        mount.umount()
    with mounted(source) as mount:
        assert tier(mount.path / "new.bin") == b"store"
        assert tier(mount.path / "data" / "two.bin") == b"source"


def test_a_file_can_be_moved_to_another_tier(source: Path, mounted: Mounted) -> None:
    with mounted(source) as mount:
        path = mount.path / "new.bin"
        path.write_bytes(some_bytes(50_000, 2))
        digest = digest_file(path)
        for tier in (b"cache", b"ram", b"store"):
            os.setxattr(path, "user.vfsd.tier", tier)
            assert os.getxattr(path, "user.vfsd.tier") == tier
            assert digest_file(path) == digest
        assert error_of(lambda: os.setxattr(path, "user.vfsd.tier", b"moon")) == "EINVAL"


def test_a_read_only_mount_changes_nothing(source: Path, mounted: Mounted) -> None:
    with mounted(source, "--read-only") as mount:
        assert_same_tree(read_tree(mount.path), read_tree(source), "the mount")
        refused = [
            error_of(lambda: (mount.path / "new").write_bytes(b"x")),
            error_of(lambda: (mount.path / "notes.txt").open("ab").close()),
            error_of(lambda: (mount.path / "notes.txt").unlink()),
            error_of(lambda: (mount.path / "new").mkdir()),
            error_of(lambda: (mount.path / "notes.txt").chmod(0o600)),
            error_of(lambda: (mount.path / "notes.txt").rename(mount.path / "x")),
        ]
        assert refused == ["EROFS"] * len(refused)
