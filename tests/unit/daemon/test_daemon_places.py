"""Places: private, of the right owner, on a local disk, and never through somebody's symbolic link."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vfsd.daemon.folders import (
    ensure_private_directory,
    ensure_private_tree,
    is_private_to,
    refuse_network_filesystem,
)
from vfsd.daemon.mountinfo import Mount, read_mounts
from vfsd.daemon.places import Roots, own_roots, places_for, prepare_cache, prepare_state, roots_of
from vfsd.daemon.ram_folder import default_cache_budget, logout_empties_shared_memory, prepare_ram, release_ram
from vfsd.errors import UnfitError

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")


def roots_in(folder: Path, uid: int | None = None) -> Roots:
    return Roots(os.geteuid() if uid is None else uid, folder / "state", folder / "run", folder / "shm")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_private_tree_is_made_with_mode_0700_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        made = ensure_private_tree(tmp_path / "deep" / "vfsd", "id", "ram")
    finally:
        os.umask(old)
    assert made == tmp_path / "deep" / "vfsd" / "id" / "ram"
    assert {mode_of(path) for path in (made, made.parent, made.parent.parent)} == {0o700}


def test_own_folder_that_is_too_open_is_closed(tmp_path: Path) -> None:
    (tmp_path / "vfsd").mkdir(mode=0o777)
    (tmp_path / "vfsd").chmod(0o777)
    ensure_private_directory(tmp_path / "vfsd")
    assert mode_of(tmp_path / "vfsd") == 0o700


@pytest.mark.parametrize("planted", ["link to a folder", "dangling link", "file"])
def test_what_somebody_planted_in_our_place_is_refused_and_left_alone(tmp_path: Path, planted: str) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o755)
    name = tmp_path / "vfsd-1000"
    if planted == "link to a folder":
        name.symlink_to(target)
    elif planted == "dangling link":
        name.symlink_to(tmp_path / "nowhere")
    else:
        name.write_text("mine")
    with pytest.raises(UnfitError) as caught:
        ensure_private_directory(name)
    assert str(name) in str(caught.value)
    assert mode_of(target) == 0o755
    assert not list(target.iterdir())
    assert not (tmp_path / "nowhere").exists()


@needs_root
def test_folder_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "vfsd-0"
    folder.mkdir(mode=0o755)
    os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(UnfitError, match="belongs to user 65534"):
        ensure_private_directory(folder)
    assert mode_of(folder) == 0o755
    assert not is_private_to(folder, (0,))
    assert is_private_to(folder, (NOBODY,))


def test_writable_folder_is_not_believed(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert not is_private_to(tmp_path, (os.geteuid(),))


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "lustre"])
def test_network_file_system_is_refused(tmp_path: Path, kind: str) -> None:
    mounts = [*read_mounts(), Mount(10**6, 0, "0:99", b"/", os.fsencode(tmp_path.resolve()), kind, b"server:/", b"rw")]
    (tmp_path / "state").mkdir()
    with pytest.raises(UnfitError) as caught:
        refuse_network_filesystem(tmp_path / "state", "the journal", "Go elsewhere", mounts)
    assert kind in str(caught.value)
    assert "Go elsewhere" in str(caught.value)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuse.mergerfs"])
def test_local_file_system_is_fine(tmp_path: Path, kind: str) -> None:
    mounts = [Mount(1, 0, "0:99", b"/", os.fsencode(tmp_path.resolve()), kind, b"disk", b"rw")]
    refuse_network_filesystem(tmp_path, "the journal", "Go elsewhere", mounts)


def test_places_of_root_and_of_users(tmp_path: Path) -> None:
    root = places_for("abc", roots_of(0))
    assert root.state == Path("/var/lib/vfsd/abc")
    assert root.ram == Path("/run/vfsd/abc/ram")
    user = places_for("abc", roots_of(1234, tmp_path))
    assert user.state == tmp_path / "vfsd" / "abc"
    assert user.ram == Path("/dev/shm/vfsd-1234/abc/ram")
    assert user.cache == user.state / "cache"
    chosen = places_for("abc", roots_of(1234, tmp_path), Path("/ram"), Path("/disk"))
    assert (chosen.ram, chosen.cache) == (Path("/ram/abc"), Path("/disk/abc"))


def test_state_home_counts_only_if_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    assert own_roots({"XDG_STATE_HOME": "/elsewhere"}).state == Path("/elsewhere/vfsd")
    assert own_roots({"XDG_STATE_HOME": "elsewhere"}).state == own_roots({}).state
    assert own_roots({}).state.parts[-3:] == (".local", "state", "vfsd")


def test_state_and_cache_are_made_private(tmp_path: Path) -> None:
    places = places_for("abc", roots_in(tmp_path), cache_dir=tmp_path / "disk" / "shared")
    prepare_state(places)
    prepare_cache(places)
    assert mode_of(places.state) == mode_of(places.cache) == 0o700
    # The folder that the user named may belong to everybody: only ours in it is private.
    assert mode_of(tmp_path / "disk" / "shared") != 0o700


def test_ram_folder_in_a_chosen_place_warns_unless_it_is_ram(tmp_path: Path) -> None:
    places = places_for("abc", roots_in(tmp_path), ram_dir=tmp_path / "ram")
    found = prepare_ram(places, 1 << 20)
    assert found.directory == tmp_path / "ram" / "abc"
    assert found.budget == 1 << 20
    on_tmpfs = any("not in RAM" in warning for warning in found.warnings)
    assert on_tmpfs == (os.statvfs(tmp_path).f_fsid != os.statvfs("/dev/shm").f_fsid)
    (found.directory / "file").write_text("x")
    release_ram(found.directory)
    assert not found.directory.exists()


def test_budget_is_never_more_than_the_folder_holds(tmp_path: Path) -> None:
    places = places_for("abc", roots_in(tmp_path), ram_dir=tmp_path / "ram")
    size = os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
    assert prepare_ram(places, size * 2).budget == size
    assert 0 < prepare_ram(places, None).budget <= size


@needs_root
def test_root_gets_a_tmpfs_of_its_own_which_a_killed_daemons_successor_finds(tmp_path: Path) -> None:
    places = places_for("abc", roots_in(tmp_path))
    first = prepare_ram(places, 16 << 20)
    if first.directory != places.ram:
        release_ram(first.directory)
        pytest.skip("mounting is not permitted here")
    try:
        assert os.path.ismount(places.ram)
        assert mode_of(places.ram) == 0o700
        size = os.statvfs(places.ram).f_blocks * os.statvfs(places.ram).f_frsize
        assert size > 16 << 20
        (places.ram / "kept").write_bytes(b"bytes")
        again = prepare_ram(places, 256 << 20)
        assert again.directory == places.ram
        assert (places.ram / "kept").read_bytes() == b"bytes"
        assert os.statvfs(places.ram).f_blocks * os.statvfs(places.ram).f_frsize > 256 << 20
    finally:
        release_ram(places.ram)
    assert not places.ram.exists()
    assert not places.ram.parent.exists()


def test_user_who_lingers_and_system_users_keep_their_shared_memory(tmp_path: Path) -> None:
    assert not logout_empties_shared_memory(0, tmp_path)
    assert not logout_empties_shared_memory(999, tmp_path)


def test_default_cache_leaves_room_for_the_store(tmp_path: Path) -> None:
    figures = os.statvfs(tmp_path)
    free = figures.f_bavail * figures.f_frsize
    assert default_cache_budget(tmp_path, 0) <= free
    assert default_cache_budget(tmp_path, 10**9) > default_cache_budget(tmp_path, 0)


def test_folders_that_are_made_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An fsynced file is found after a power failure only if every folder above it is."""
    synced: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1])
    ensure_private_tree(tmp_path / "a" / "b" / "root", "mount", "cache")
    above = [tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "root", tmp_path / "a/b/root/mount"]
    assert sorted(synced) == [str(path) for path in above]
    synced.clear()
    ensure_private_tree(tmp_path / "a" / "b" / "root", "mount", "cache")
    assert synced == []
