"""Stores are opened by who may, and say what is the matter otherwise; damage in them is named, file by file."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from vfsd.errors import BusyError, StoredDataDamaged, UnfitError
from vfsd.store import Store, is_store
from vfsd.store.seal import check_copies


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "s.vfs"
    Store.create(path, source=tmp_path).close()
    return path


def test_making_a_store_is_nothing_to_be_told_of(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "new.vfs", source=None)
    assert store.notices == []
    store.close()


def test_new_store_is_a_store(root: Path, tmp_path: Path) -> None:
    assert is_store(root)
    assert not is_store(tmp_path)
    store = Store.open(root, writable=True)
    assert store.notices == []
    assert store.writable
    assert store.source == tmp_path
    assert store.usage().files == 0
    assert len(store.id) == 32
    store.close()
    store.close()


def test_store_has_one_writer_and_any_readers(root: Path) -> None:
    writer = Store.open(root, writable=True)
    with pytest.raises(BusyError, match=str(os.getpid())):
        Store.open(root, writable=True)
    reader = Store.open(root, writable=False)
    with pytest.raises(UnfitError, match="reading only"):
        reader.begin()
    reader.close()
    writer.close()
    Store.open(root, writable=True).close()


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ({"format": "vfsd-store", "version": 2, "id": "0" * 32}, "newer"),
        ({"format": "other", "version": 1, "id": "0" * 32}, "no vfsd store"),
        ({"format": "vfsd-store", "version": 1, "id": "x" * 32}, "no id"),
        ({"format": "vfsd-store", "version": "1", "id": "0" * 32}, "no version"),
        ([], "no vfsd store"),
        (None, "damaged"),
    ],
)
def test_header_that_is_not_ours_is_refused(root: Path, header: object, problem: str) -> None:
    (root / "vfs.json").write_text("{" if header is None else json.dumps(header))
    with pytest.raises(UnfitError, match=problem):
        Store.open(root, writable=False)


def test_folder_with_something_in_it_becomes_no_store(tmp_path: Path) -> None:
    for name in ("a file", "images"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "theirs").write_bytes(b"")
        (tmp_path / name / "theirs").with_name(name).touch()
        with pytest.raises(UnfitError, match="not empty"):
            Store.create(tmp_path, source=None)
    Store.create(tmp_path / "new", source=None).close()
    with pytest.raises(UnfitError, match="already"):
        Store.create(tmp_path / "new", source=None)


@pytest.mark.parametrize("key", ["catalog.sqlite", "catalog.copy.sqlite", "catalog.xxh3"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped"])
def test_damaged_catalogue_is_found_and_its_copy_is_as_good(root: Path, key: str, damage: str) -> None:
    damage_file(root / key, damage)
    for writable in (False, True):
        with contextlib.closing(Store.open(root, writable=writable)) as store:
            assert store.catalogue.generation == 0
            said = {found for found, _ in [*store.damaged, *check_copies(store.storage)]}
            assert os.fsencode(key) in said
            if key == "catalog.sqlite":
                assert any("copy is whole" in notice for notice in store.notices)
    with contextlib.closing(Store.open(root, writable=True)) as store:
        store.mend()
        assert not check_copies(store.storage)
    with contextlib.closing(Store.open(root, writable=False)) as store:
        assert not store.damaged
        assert not store.notices


def test_every_bit_of_the_seal_counts(root: Path) -> None:
    seal = root / "catalog.xxh3"
    whole = seal.read_bytes()
    for bit in range(len(whole) * 8):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        seal.write_bytes(flipped)
        with contextlib.closing(Store.open(root, writable=False)) as store:
            assert store.damaged or check_copies(store.storage), bit


def test_catalogue_without_a_whole_copy_is_refused(root: Path) -> None:
    for key in ("catalog.sqlite", "catalog.copy.sqlite"):
        damage_file(root / key, "flipped" if key == "catalog.sqlite" else "cut")
    for writable in (False, True, True):  # the third time: the lock was given back
        with pytest.raises(StoredDataDamaged, match="no copy of it is whole"):
            Store.open(root, writable=writable)
    for key in ("catalog.sqlite", "catalog.copy.sqlite"):
        (root / key).unlink()
    with pytest.raises(StoredDataDamaged, match="missing"):
        Store.open(root, writable=False)


def test_store_of_an_older_version_has_no_seal(root: Path) -> None:
    for key in ("catalog.copy.sqlite", "catalog.xxh3"):
        (root / key).unlink()
    with contextlib.closing(Store.open(root, writable=True)) as store:
        assert not store.damaged
        assert not check_copies(store.storage)
    (root / "catalog.sqlite").write_bytes(b"no database, and longer than a header of SQLite's would be" * 20)
    with pytest.raises(StoredDataDamaged, match="damaged"):
        Store.open(root, writable=False)
    (root / "catalog.sqlite").unlink()
    with pytest.raises(StoredDataDamaged, match="cannot be opened"):
        Store.open(root, writable=True)


def test_lock_of_a_dead_writer_is_taken_over_and_said(root: Path) -> None:
    Store.open(root, writable=True).close()
    with contextlib.closing(Store.open(root, writable=True)) as store:
        assert not store.notices
    script = "import os, sys; from pathlib import Path; from vfsd.store import Store\n"
    script += "Store.open(Path(sys.argv[1]), writable=True); os.kill(os.getpid(), 9)"
    died = subprocess.run([sys.executable, "-c", script, root], check=False)
    assert died.returncode == -9
    with contextlib.closing(Store.open(root, writable=True)) as store:
        assert [notice for notice in store.notices if "took over the lock of process" in notice]


def damage_file(path: Path, damage: str) -> None:
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
    else:
        path.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])


def test_catalogue_is_a_plain_database_file(root: Path) -> None:
    """Never in WAL mode: it may lie on a network file system, or in a folder that nobody may write."""
    db = sqlite3.connect(root / "catalog.sqlite")
    assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    db.close()
    assert {path.name for path in root.iterdir()} == {
        "catalog.copy.sqlite", "catalog.sqlite", "catalog.xxh3", "files", "images", "lock", "receipts", "vfs.json",
    }  # fmt: skip


def test_a_new_store_is_found_after_a_power_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its id leads to the state folder: files that were synced there would be lost with the store's own folder."""
    synced: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1])
    Store.create(tmp_path / "a" / "b.vfs", source=None).close()
    assert {str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b.vfs")} <= set(synced)
