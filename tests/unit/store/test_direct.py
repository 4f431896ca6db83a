"""A file written in large pieces past the page cache has every byte, whatever sizes come and whatever the kernel takes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vfsd.codec import ShardWriter, read_index
from vfsd.store.direct import ALIGNMENT, DirectFile

PIECE = 4 * ALIGNMENT
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture(params=["disk", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A new file's place on a disk that may write directly, and on a tmpfs."""
    if request.param == "disk":
        yield tmp_path / "file"
        return
    if not SHARED_MEMORY.is_dir():
        pytest.skip("no /dev/shm")
    place = SHARED_MEMORY / f"vfsd-test-direct-{os.getpid()}"
    yield place
    place.unlink(missing_ok=True)


def write(path: Path, pieces: list[bytes]) -> bytes:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        file = DirectFile(fd, PIECE)
        for piece in pieces:
            file.write([piece])
        file.finish()
        size = os.fstat(fd).st_size
        found = os.pread(fd, size + 1, 0)
        assert os.pwrite(fd, b"x", size) == 1  # an ordinary file again
        os.ftruncate(fd, size)
        return found
    finally:
        os.close(fd)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([0, 1, 100, ALIGNMENT, ALIGNMENT + 1, PIECE, 3 * PIECE + 5]), max_size=8))
def test_every_byte_is_there(path: Path, sizes: list[int]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    assert write(path, pieces) == b"".join(pieces)


@pytest.mark.parametrize("most", [1000, ALIGNMENT, 3 * ALIGNMENT - 7])
def test_a_kernel_that_takes_less_gets_the_rest(path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    whole = os.pwrite

    def some(fd: int, data: memoryview, offset: int) -> int:
        return (
            whole(fd, bytes(data[:most]), offset) if len(data) <= most or most % ALIGNMENT else whole(fd, data, offset)
        )

    data = os.urandom(3 * PIECE + 77)
    monkeypatch.setattr("vfsd.store.direct._write_directly", lambda fd, wanted: False)
    monkeypatch.setattr("vfsd.store.direct.os.pwrite", some)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        file = DirectFile(fd, PIECE)
        file.write([data])
        file.finish()
        assert os.pread(fd, len(data) + 1, 0) == data
    finally:
        os.close(fd)


def test_an_alignment_that_is_refused_ends_direct_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, refused = os.pwrite, []

    def refuse_once(fd: int, data: memoryview, offset: int) -> int:
        if not refused:
            refused.append(offset)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return whole(fd, data, offset)

    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    data = os.urandom(2 * PIECE + 77)
    try:
        file = DirectFile(fd, PIECE)
        if not file._direct:
            pytest.skip("nothing is written directly here")
        monkeypatch.setattr("vfsd.store.direct.os.pwrite", refuse_once)
        file.write([data])
        file.finish()
        assert refused == [0]
        assert os.pread(fd, len(data) + 1, 0) == data
    finally:
        os.close(fd)


def test_a_full_disk_is_the_writers_error() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        file = DirectFile(full.fileno(), PIECE)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            file.write([bytes(PIECE)])


def test_a_shard_written_so_is_a_shard(path: Path) -> None:
    chunks = [os.urandom(size) for size in (1, PIECE, 3 * PIECE + 11)]
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        writer = ShardWriter(fd, 4, DirectFile(fd, PIECE))
        buffer = bytearray(chunks[0])
        writer.append(2, buffer)
        buffer[:] = b"?"
        writer.append(0, chunks[1])
        writer.append(3, chunks[2])
        assert writer.finish() == os.fstat(fd).st_size
        index = read_index(fd, 4)
        entries = [index.entry(position) for position in (2, 0, 3)]
        assert [os.pread(fd, entry[1], entry[0]) for entry in entries if entry is not None] == chunks
        assert index.entry(1) is None
    finally:
        os.close(fd)
