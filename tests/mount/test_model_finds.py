"""What the model found: each difference to a plain directory that was mended, as the shortest way to it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from blackbox.daemons import Mount, Mounted

pytestmark = pytest.mark.fuse

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
