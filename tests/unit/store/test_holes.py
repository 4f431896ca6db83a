"""Writing around holes changes no byte, and leaves long runs of zeros out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vfsd.store.holes import HOLE, write_around_holes

# Pieces of a file: zeros or something, in lengths around the border of a block.
PIECES = st.lists(
    st.tuples(st.sampled_from([0, 1, 255]), st.sampled_from([1, 7, 4096, HOLE - 1, HOLE, HOLE + 1, 3 * HOLE])),
    max_size=8,
)


def written(folder: Path, data: bytes, piece: int) -> tuple[bytes, int]:
    """What is in the file then, and how much room it takes."""
    path = folder / "file"
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        for offset in range(0, len(data), piece):
            write_around_holes(fd, memoryview(data)[offset : offset + piece], offset)
        os.ftruncate(fd, len(data))
        os.fsync(fd)
        return path.read_bytes(), os.fstat(fd).st_blocks * 512
    finally:
        os.close(fd)


@given(pieces=PIECES, piece=st.sampled_from([HOLE, 4 * HOLE]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_every_byte_is_as_it_was(tmp_path: Path, pieces: list[tuple[int, int]], piece: int) -> None:
    data = b"".join(bytes([value]) * length for value, length in pieces)
    assert written(tmp_path, data, piece)[0] == data


@pytest.mark.parametrize("size", [0, 1, HOLE, 100 * HOLE, 100 * HOLE + 5])
def test_zeros_take_no_room(tmp_path: Path, size: int) -> None:
    data, room = written(tmp_path, bytes(size), 16 * HOLE)
    assert data == bytes(size)
    assert room <= 4096


def test_zeros_at_the_start_of_a_block_do_not_hide_its_rest(tmp_path: Path) -> None:
    data = (bytes(HOLE - 1) + b"x") * 3
    assert written(tmp_path, data, HOLE)[0] == data
