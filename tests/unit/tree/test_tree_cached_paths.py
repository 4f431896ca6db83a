"""Source objects that the kernel has in mind: answered as in a thread, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vfsd.tree.cached_paths import CachedPaths


@pytest.fixture
def cached(tmp_path: Path) -> CachedPaths:
    (tmp_path / "day").mkdir()
    (tmp_path / "day/x\n").write_bytes(b"bytes")
    (tmp_path / "link").symlink_to("day/x\n")
    (tmp_path / "out").symlink_to("/")
    cached = CachedPaths(os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY))
    if cached.stat(b"day") is None:
        pytest.skip("this kernel or file system does not tell what it has cached")
    return cached


def test_what_is_cached_is_seen_as_lstat_sees_it(cached: CachedPaths, tmp_path: Path) -> None:
    for name in ("day", "day/x\n", "link"):
        assert cached.stat(os.fsencode(name)) == (tmp_path / name).lstat()
    for name in (b"none", b"day/none", b"day/x\n/below", b"x" * 300, b"day\0x"):
        assert cached.stat(name) is None


def test_files_are_opened_for_reading_and_links_are_not_followed(cached: CachedPaths) -> None:
    fd = cached.open(b"day/x\n")
    assert fd is not None
    assert os.read(fd, 10) == b"bytes"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(fd, b"x")
    os.close(fd)
    for name in (b"link", b"none", b"day/x\n/below"):
        assert cached.open(name) is None


def test_what_lies_on_another_file_system_is_left_to_a_thread(tmp_path: Path) -> None:
    root = CachedPaths(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
    assert root.stat(b"proc/self") is None
    processes = CachedPaths(os.open("/proc", os.O_RDONLY | os.O_DIRECTORY))
    assert processes.stat(b"self") is None
    assert processes.open(b"version") is None
