"""Shards: what is appended is found again, what is damaged is refused, what cannot be written is an error."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfsd.codec import ShardError, ShardIndex, ShardWriter, index_size, read_index, shard

MISSING = 2**64 - 1


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "shard", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    yield descriptor
    os.close(descriptor)


def encode_index(entries: list[tuple[int, int]]) -> bytes:
    body = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    return body + struct.pack("<I", google_crc32c.value(body))


def chunk_of(fd: int, index: ShardIndex, position: int) -> bytes | None:
    entry = index.entry(position)
    return None if entry is None else os.pread(fd, entry[1], entry[0])


def test_chunks_are_found_again(fd: int) -> None:
    chunks = {4: b"four" * 1000, 0: b"zero", 7: bytes(100_000)}
    writer = ShardWriter(fd, 9)
    for position, chunk in chunks.items():
        writer.append(position, chunk)
    assert writer.chunk_entry(0) == (4000, 4)
    assert writer.chunk_entry(1) is None
    size = writer.finish()
    assert size == os.fstat(fd).st_size == 104_004 + index_size(9)
    index = read_index(fd, 9)
    assert len(index) == 9
    assert index.present().tolist() == [0, 4, 7]
    assert {i: chunk_of(fd, index, i) for i in range(9)} == {i: chunks.get(i) for i in range(9)}
    assert os.pread(fd, index_size(9), size - index_size(9)) == index.encode()
    for position in (-1, 9):
        with pytest.raises(IndexError):
            index.entry(position)


@settings(deadline=None, max_examples=50)
@given(
    chunk_count=st.integers(1, 700),
    sizes=st.lists(st.sampled_from([1, 7, 4096, 300_000]), max_size=700),
    buffer_bytes=st.sampled_from([1, 5000, 2**20]),
    most_at_once=st.sampled_from([1, 4095, 10**9]),
    order=st.randoms(use_true_random=False),
    kind=st.sampled_from([bytes, bytearray, memoryview]),
)
def test_any_sizes_in_any_order_by_writes_of_any_length(
    tmp_path_factory: pytest.TempPathFactory,
    chunk_count: int,
    sizes: list[int],
    buffer_bytes: int,
    most_at_once: int,
    order: object,
    kind: type,
) -> None:
    positions = list(range(chunk_count))
    order.shuffle(positions)  # type: ignore[attr-defined] # random.Random
    chunks = {p: bytes([p % 251]) * min(n, 20 * most_at_once) for p, n in zip(positions, sizes, strict=False)}

    def write_some(fd: int, pieces: list[memoryview], offset: int) -> int:
        """A kernel that stops early, as it may for a full disk, a signal or more than 2 GiB."""
        return os.pwrite(fd, b"".join(pieces)[:most_at_once], offset)

    path = tmp_path_factory.mktemp("any") / "shard"
    with path.open("w+b") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard, "_BUFFER_BYTES", buffer_bytes)
        if most_at_once < 10**9:
            patch.setattr(shard.os, "pwritev", write_some)
        writer = ShardWriter(file.fileno(), chunk_count)
        for position, chunk in chunks.items():
            writer.append(position, kind(chunk))
        writer.finish()
        index = read_index(file.fileno(), chunk_count)
        assert {int(p): chunk_of(file.fileno(), index, int(p)) for p in index.present()} == chunks


def test_buffers_that_are_not_bytes_may_be_reused_at_once(fd: int) -> None:
    buffer = bytearray(b"first")
    writer = ShardWriter(fd, 2)
    writer.append(0, buffer)
    buffer[:] = b"other"
    writer.append(1, memoryview(np.arange(3, dtype="<u2")))
    writer.finish()
    index = read_index(fd, 2)
    assert chunk_of(fd, index, 0) == b"first"
    assert chunk_of(fd, index, 1) == bytes([0, 0, 1, 0, 2, 0])


def test_the_descriptor_keeps_its_offset(fd: int) -> None:
    os.lseek(fd, 3, os.SEEK_SET)
    writer = ShardWriter(fd, 1)
    writer.append(0, b"chunk")
    writer.finish()
    read_index(fd, 1)
    assert os.lseek(fd, 0, os.SEEK_CUR) == 3
    assert os.pread(fd, 5, 0) == b"chunk"


def test_misuse_is_refused_and_changes_nothing(fd: int) -> None:
    writer = ShardWriter(fd, 3)
    writer.append(1, b"once")
    with pytest.raises(ValueError, match="added before"):
        writer.append(1, b"twice")
    for position in (-1, 3):
        with pytest.raises(ValueError, match="in a shard of 3"):
            writer.append(position, b"outside")
    with pytest.raises(ValueError, match="empty"):
        writer.append(2, b"")
    writer.finish()
    with pytest.raises(ValueError, match="finished"):
        writer.append(2, b"late")
    with pytest.raises(ValueError, match="finished"):
        writer.finish()
    index = read_index(fd, 3)
    assert index.present().tolist() == [1]
    assert chunk_of(fd, index, 1) == b"once"


def test_a_shard_without_chunks(fd: int) -> None:
    assert ShardWriter(fd, 5).finish() == index_size(5)
    assert read_index(fd, 5).present().size == 0
    assert (read_index(fd, 5).entries == ShardIndex.empty(5).entries).all()


def test_a_full_disk_ends_the_shard() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        writer = ShardWriter(full.fileno(), 2)
        with pytest.raises(OSError, match="No space") as caught:
            writer.append(0, bytearray(100))
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(ValueError, match="earlier error"):
            writer.append(1, b"more")
        with pytest.raises(ValueError, match="earlier error"):
            writer.finish()


def test_copying_does_not_compress_again(fd: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "_BUFFER_BYTES", 1000)
    chunks = {p: os.urandom(700 * p + 1) for p in (0, 2, 3, 8)}
    first = ShardWriter(fd, 9)
    for position in (8, 0, 3, 2):
        first.append(position, chunks[position])
    first.finish()
    index = read_index(fd, 9)
    with (tmp_path / "grown").open("w+b") as file:
        second = ShardWriter(file.fileno(), 9)
        second.append(5, b"new")
        second.append(3, b"replaced")
        second.copy_from(fd, index, [p for p in index.present() if p != 3])
        with pytest.raises(ValueError, match="no chunk at position 1"):
            second.copy_from(fd, index, [1])
        with pytest.raises(ValueError, match="added before"):
            second.copy_from(fd, index, [8])
        second.finish()
        grown = read_index(file.fileno(), 9)
        copied = {int(p): chunk_of(file.fileno(), grown, int(p)) for p in grown.present()}
    assert copied == {**chunks, 3: b"replaced", 5: b"new"}


def test_copying_from_a_shard_cut_off_meanwhile(fd: int, tmp_path: Path) -> None:
    writer = ShardWriter(fd, 1)
    writer.append(0, bytes(5000))
    writer.finish()
    index = read_index(fd, 1)
    os.truncate(fd, 4000)
    with (tmp_path / "copy").open("w+b") as file:
        copy = ShardWriter(file.fileno(), 1)
        with pytest.raises(ShardError, match="ends at byte 4000"):
            copy.copy_from(fd, index, [0])
        with pytest.raises(ValueError, match="earlier error"):
            copy.finish()


@pytest.mark.parametrize(
    ("entries", "file_size", "sound"),
    [
        ([(0, 10), (MISSING, MISSING)], 46, True),
        ([(0, 10), (10, 0)], 46, True),
        ([(0, 11)], 30, False),  # reaches into the index
        ([(11, 0)], 30, False),
        ([(MISSING, 5)], 10**6, False),
        ([(5, MISSING)], 10**6, False),
        ([(2**63, 2**63)], None, False),  # the sum wraps around to 0
        ([(2**62, 2**62 - 1)], None, True),
        ([(1, 2**63 - 1)], None, False),
    ],
)
def test_entries_must_lie_inside_the_file(entries: list[tuple[int, int]], file_size: int | None, sound: bool) -> None:
    tail = encode_index(entries)
    if sound:
        index = ShardIndex.parse(tail, len(entries), file_size)
        assert [index.entry(i) or (MISSING, MISSING) for i in range(len(entries))] == entries
        assert index.encode() == tail
    else:
        with pytest.raises(ShardError, match="outside the shard"):
            ShardIndex.parse(tail, len(entries), file_size)


def test_wrong_size_and_checksum_are_named() -> None:
    tail = encode_index([(0, 10), (MISSING, MISSING)])
    with pytest.raises(ShardError, match="has 36 bytes, not 52"):
        ShardIndex.parse(tail, 3)
    with pytest.raises(ShardError, match="has 35 bytes; its index alone has 36"):
        ShardIndex.parse(tail, 2, 35)
    for place in range(len(tail)):
        damaged = bytearray(tail)
        damaged[place] ^= 4
        with pytest.raises(ShardError, match="checksum"):
            ShardIndex.parse(damaged, 2)


@settings(deadline=None)
@given(
    body=st.binary(max_size=200),
    sealed=st.booleans(),
    chunk_count=st.integers(0, 12),
    file_size=st.none() | st.integers(0, 2**63 - 1),
)
def test_any_bytes_are_an_index_or_refused(body: bytes, sealed: bool, chunk_count: int, file_size: int | None) -> None:
    if sealed:  # with the right length and checksum, so that the entries themselves are looked at
        body = body.ljust(16 * chunk_count, b"\0")[: 16 * chunk_count]
        body += struct.pack("<I", google_crc32c.value(body))
    try:
        index = ShardIndex.parse(body, chunk_count, file_size)
    except ShardError:
        return
    assert index.encode() == body
    present = set(index.present().tolist())
    for position in range(chunk_count):
        entry = index.entry(position)
        assert (entry is not None) == (position in present)
        if entry is not None and file_size is not None:
            assert sum(entry) <= file_size - len(body)


@pytest.mark.parametrize("size", [0, 1, 19, 20, 35])
def test_files_too_short_for_their_index(fd: int, size: int) -> None:
    os.pwrite(fd, bytes(size), 0)
    with pytest.raises(ShardError):
        read_index(fd, 2)
    with pytest.raises(ShardError):
        read_index(fd, 2**40)  # nothing is allocated for it
    with pytest.raises(ShardError):
        read_index(fd, 2, size=10**6)  # longer than it is
