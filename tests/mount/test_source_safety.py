"""Whatever a program does with a file of the source, the source stays as it is, bit for bit: the `mounted` fixture compares."""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

import pytest
from blackbox.acts import error_of, some_bytes
from blackbox.daemons import Mounted

pytestmark = pytest.mark.fuse

# Small enough to be served by the daemon on every transport, and large enough for passthrough.
SIZES = {"small": 20_000, "large": (3 << 20) + 777}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "plate"
    folder.mkdir()
    for name, size in SIZES.items():
        (folder / name).write_bytes(some_bytes(size, 1))
    return folder


def test_nothing_is_written_through_any_open_or_mapping(source: Path, mounted: Mounted) -> None:
    with mounted(source) as mount:
        for name in SIZES:
            path = mount.path / name
            reader = os.open(path, os.O_RDONLY)
            with mmap.mmap(reader, 0, prot=mmap.PROT_READ):
                assert error_of(lambda reader=reader: os.pwrite(reader, b"x", 0)) == "EBADF"
                assert error_of(lambda reader=reader: mmap.mmap(reader, 0, prot=mmap.PROT_WRITE)) == "EACCES"
                for again in (f"/proc/self/fd/{reader}", path):
                    with contextlib.suppress(OSError):  # the first may be refused when the file has moved on
                        os.close(os.open(again, os.O_RDWR))
                writer = os.open(path, os.O_RDWR)
                with mmap.mmap(writer, 0) as view:
                    view[:5] = b"mappe"
                    view.flush()
                os.pwrite(writer, b"written", 100)
                os.ftruncate(writer, 200)
                assert path.read_bytes()[:5] == b"mappe"
                os.close(writer)
                os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))
                assert path.read_bytes() == b""
                path.write_bytes(b"anew")
                os.truncate(path, 2)
            os.close(reader)
            assert path.read_bytes() == b"an"
            assert (source / name).read_bytes() == some_bytes(SIZES[name], 1)


def test_attributes_of_the_source_are_its_own(source: Path, mounted: Mounted) -> None:
    with mounted(source) as mount:
        before = {name: os.stat(source / name) for name in SIZES}
        for name in SIZES:
            with (mount.path / name).open("rb") as file:
                file.read()
                os.fchmod(file.fileno(), 0o600)
                os.utime(file.fileno(), (1, 2))
                os.setxattr(file.fileno(), "user.x", b"y")
            (mount.path / name).rename(mount.path / f"{name} moved")
    for name, seen in before.items():
        now = os.stat(source / name)
        for field in ("st_mode", "st_atime_ns", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_size"):
            assert getattr(now, field) == getattr(seen, field), field
        assert os.listxattr(source / name) == []
