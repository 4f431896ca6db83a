"""What the model found: each difference to a plain directory that was mended, as the shortest way to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from blackbox.daemons import Mount, Mounted

pytestmark = pytest.mark.fuse

# What a file holds after those changes that change it.
CONTENTS = {"write": b"changed", "truncate": b"of "}
LATE_NS = 8_000_000_000_000_000_001


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "plate"
    folder.mkdir()
    (folder / "a").write_bytes(b"of the source")
    return folder


def new_file(mount: Mount) -> Path:
    path = mount.path / "new"
    path.write_bytes(b"new")
    return path


CHANGES: dict[str, Callable[[Path], object]] = {
    "write": lambda path: path.write_bytes(b"changed"),
    "truncate": lambda path: os.truncate(path, 3),
    "chmod": lambda path: path.chmod(0o600),
    "setxattr": lambda path: os.setxattr(path, "user.a", b"1"),
    "link": lambda path: os.link(path, path.parent / "third"),
    "rename": lambda path: path.rename(path.parent / "renamed"),
    "unlink": lambda path: path.unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_hard_link_in_a_folder_nobody_looked_into_is_the_same_file(
    source: Path, mounted: Mounted, change: str
) -> None:
    """Also where its folder has another name by now."""
    for name in ("b", "c/d", "e/f"):
        (source / name).mkdir(parents=True)
        os.link(source / "a", source / name / "linked")
    with mounted(source) as mount:
        (mount.path / "c").rename(mount.path / "moved")
        mount.umount()
    with mounted(source) as mount:
        (mount.path / "e").rename(mount.path / "b/e")
        CHANGES[change](mount.path / "a")
        others = [mount.path / name for name in ("b/linked", "moved/d/linked", "b/e/f/linked")]
        expected = 4 + (change == "link") - (change == "unlink")
        assert [path.stat().st_nlink for path in others] == [expected] * 3
        assert len({path.stat().st_ino for path in others}) == 1
        assert {path.read_bytes() for path in others} == {CONTENTS.get(change, b"of the source")}
        others[0].unlink()
        others[1].write_bytes(b"and again")
        assert others[2].stat().st_nlink == expected - 1
        assert others[2].read_bytes() == b"and again"


def test_no_more_inodes_are_free_than_there_are(source: Path, mounted: Mounted) -> None:
    with mounted(source) as mount:
        figures = os.statvfs(mount.path)
        assert 0 < figures.f_ffree < figures.f_files


def test_ctime_moves_though_nothing_else_does(source: Path, mounted: Mounted) -> None:
    with mounted(source) as mount:
        for path in (mount.path / "a", new_file(mount)):
            before = path.stat()
            path.chmod(before.st_mode)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
            assert path.stat().st_ctime_ns > before.st_ctime_ns
            assert path.stat().st_mtime_ns == before.st_mtime_ns


def test_ctime_is_no_mtime_of_the_future(source: Path, mounted: Mounted) -> None:
    with mounted(source) as mount:
        path = new_file(mount)
        before = path.stat().st_ctime_ns
        os.utime(path, ns=(LATE_NS, LATE_NS))
        assert path.stat().st_mtime_ns == LATE_NS
        assert before < path.stat().st_ctime_ns < LATE_NS
        with path.open("ab") as file:
            file.write(b", and more")
        assert before < path.stat().st_mtime_ns < LATE_NS


def test_truncate_to_the_same_size_moves_the_times(source: Path, mounted: Mounted) -> None:
    with mounted(source) as mount:
        path = new_file(mount)
        os.utime(path, ns=(1, 1))
        before = path.stat()
        os.truncate(path, 3)
        assert path.stat().st_mtime_ns > 1
        assert path.stat().st_ctime_ns > before.st_ctime_ns


def test_ctime_of_a_removed_directory_moves(source: Path, mounted: Mounted) -> None:
    """Whoever has it open sees that."""
    with mounted(source) as mount:
        for name, remove in (("one", Path.rmdir), ("two", lambda path: (mount.path / "over").rename(path))):
            for made in (name, "over"):
                (mount.path / made).mkdir(exist_ok=True)
            fd = os.open(mount.path / name, os.O_RDONLY)
            before = os.fstat(fd)
            remove(mount.path / name)
            after = os.fstat(fd)
            os.close(fd)
            assert after.st_nlink == 0
            assert after.st_ctime_ns > before.st_ctime_ns


def test_a_hard_link_that_is_stored_stays_one_file(source: Path, mounted: Mounted) -> None:
    (source / "b").mkdir()
    os.link(source / "a", source / "b/linked")
    with mounted(source) as mount:
        os.setxattr(mount.path / "a", "user.vfsd.tier", b"store")
        mount.umount()
    with mounted(source) as mount:
        first, second = (mount.path / "a").stat(), (mount.path / "b/linked").stat()
        assert (first.st_ino, first.st_nlink) == (second.st_ino, second.st_nlink)
        assert first.st_nlink == 2
