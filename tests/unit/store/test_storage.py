"""Objects by key: cached descriptors and indexes never outlive the object that they are of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vfsd.codec.shard import ShardWriter
from vfsd.errors import StoredDataDamaged
from vfsd.store import storage as storage_module
from vfsd.store.storage import LocalStorage
from vfsd.store.stored import ShardIndexes


def put(root: Path, key: bytes, data: bytes) -> None:
    """Replace an object as a transaction does: another file under the same name."""
    path = os.fsencode(root) + b"/" + key
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(os.fsdecode(path + b".new")).write_bytes(data)
    os.rename(path + b".new", path)


def put_shard(root: Path, key: bytes, chunk: bytes) -> None:
    fd = os.memfd_create("shard")
    try:
        writer = ShardWriter(fd, 1)
        writer.append(0, chunk)
        size = writer.finish()
        put(root, key, os.pread(fd, size, 0))
    finally:
        os.close(fd)


def test_reader_of_a_replaced_object_leaves_no_old_descriptor_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that began before a commit ends after it: later reads must see the new object."""
    storage = LocalStorage(tmp_path)
    put(tmp_path, b"a", b"old")
    opened = LocalStorage.open_object

    def overtaken(self: LocalStorage, key: bytes) -> int:
        fd = opened(self, key)
        put(tmp_path, b"a", b"new")
        self.forget()
        return fd

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "open_object", overtaken)
        assert storage.read_range(b"a", 0, 3) == b"old"
    assert storage.read_range(b"a", 0, 3) == b"new"
    storage.forget()


def test_reader_of_a_replaced_shard_leaves_no_old_index_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(tmp_path)
    shards = ShardIndexes(storage)
    put_shard(tmp_path, b"s", b"an old, long chunk")
    read = LocalStorage.read_range

    def overtaken(self: LocalStorage, key: bytes, offset: int, length: int) -> bytes:
        data = read(self, key, offset, length)
        put_shard(tmp_path, b"s", b"new")
        self.forget()
        shards.forget()
        return data

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "read_range", overtaken)
        shards.index(b"s", 1)
    assert shards.chunk(b"s", 1, 0) == b"new"
    storage.forget()


def test_descriptors_are_few_and_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "OPEN_OBJECTS", 4)
    before = len(os.listdir("/proc/self/fd"))
    storage = LocalStorage(tmp_path)
    for number in range(20):
        put(tmp_path, b"o/%d" % number, b"%d" % number)
    for _ in range(2):
        for number in range(20):
            assert storage.read_range(b"o/%d" % number, 0, 1) == b"%d" % (number // 10 or number)
    assert len(os.listdir("/proc/self/fd")) == before + 4
    storage.forget()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("key", [b"none", b"a/below", b"link"])
def test_what_is_no_object_is_missing(key: bytes, tmp_path: Path) -> None:
    put(tmp_path, b"a", b"x")
    os.symlink(b"a", os.fsencode(tmp_path) + b"/link")
    storage = LocalStorage(tmp_path)
    with pytest.raises(StoredDataDamaged, match="missing"):
        storage.size(key)
    with pytest.raises(StoredDataDamaged, match="missing"):
        storage.open_object(key)


def test_short_object_is_said_to_be_short(tmp_path: Path) -> None:
    put(tmp_path, b"a", b"abc")
    storage = LocalStorage(tmp_path)
    with pytest.raises(StoredDataDamaged, match="cut short"):
        storage.read_range(b"a", 1, 3)
    storage.forget()


@pytest.mark.parametrize(
    ("key", "free"),
    [(b"files/new", True), (b"files/a", True), (b"files/folder", False), (b"files/a/x", False), (b"x/y/z", True)],
)
def test_free_paths(key: bytes, free: bool, tmp_path: Path) -> None:
    put(tmp_path, b"files/a", b"")
    put(tmp_path, b"files/folder/b", b"")
    assert LocalStorage(tmp_path).is_free_path(key) is free
