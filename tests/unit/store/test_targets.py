"""A file that is to be filled is allocated before anybody writes to its memory: a full file system is an error, never a fault."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfsd.store.targets import map_target

MIB = 1 << 20


@pytest.fixture(params=["plain", "huge"])
def small_tmpfs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 8 MiB, with and without huge pages for whoever asks."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small tmpfs needs root")
    options = "size=8M" + (",huge=advise" if request.param == "huge" else "")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no such tmpfs here: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def fill(path: Path, size: int) -> int:
    """Fill a new file through its memory; the bytes that it takes."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        target = map_target(fd, size)
        assert len(target) == size
        assert not any(target[:4096])
        target[:] = b"\x05" * size
        return os.fstat(fd).st_blocks * 512
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [1, 4096, MIB + 7, 5 * MIB + 4321])
def test_what_is_written_to_the_memory_is_in_the_file(tmp_path: Path, size: int) -> None:
    fill(tmp_path / "file", size)
    assert (tmp_path / "file").read_bytes() == b"\x05" * size


@pytest.mark.parametrize("size", [1, 4096, MIB + 7, 5 * MIB + 4321])
def test_a_file_in_memory_takes_its_pages_and_no_more(small_tmpfs: Path, size: int) -> None:
    taken = fill(small_tmpfs / "file", size)
    assert taken == -(-size // 4096) * 4096
    assert (small_tmpfs / "file").read_bytes() == b"\x05" * size


@pytest.mark.parametrize("size", [MIB, 3 * MIB])
def test_a_full_tmpfs_is_an_error(small_tmpfs: Path, size: int) -> None:
    fill(small_tmpfs / "first", 7 * MIB + 4096)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        fill(small_tmpfs / "second", size)
    (small_tmpfs / "second").unlink()
    fill(small_tmpfs / "third", MIB // 2)
