"""A transaction happens as a whole or not at all, at whatever system call the machine stops."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vfsd.store import Store, Transaction, intents
from vfsd.store import transaction as transaction_module
from vfsd.store.builder import CatalogueBuilder

State = tuple[int, dict[str, bytes], frozenset[str]]

BEFORE = {
    b"files/kept": b"kept",
    b"files/replaced": b"old",
    b"files/left": b"left",
    b"files/right": b"right",
    b"files/folder/deep/removed": b"removed",
    b"images/a.ome.zarr/zarr.json": b"{}",
}


class Killed(BaseException):
    """The machine stops here; nothing of ours runs any more."""


def change(transaction: Transaction) -> None:
    transaction.put_bytes(b"files/replaced", b"new")
    transaction.put_bytes(b"files/fresh", b"fresh")
    transaction.put_bytes(b"images/b.ome.zarr/0/zarr.json", b"{ }")
    transaction.put_bytes(b"images/a.ome.zarr/1/c.0", b"shard")
    transaction.link(b"files/left", b"files/right")
    transaction.link(b"files/right", b"files/left")
    transaction.remove(b"files/folder/deep/removed")
    transaction.remove(b"files/never there")


AFTER = {
    b"files/kept": b"kept",
    b"files/replaced": b"new",
    b"files/fresh": b"fresh",
    b"files/left": b"right",
    b"files/right": b"left",
    b"images/a.ome.zarr/zarr.json": b"{}",
    b"images/a.ome.zarr/1/c.0": b"shard",
    b"images/b.ome.zarr/0/zarr.json": b"{ }",
}


def state(root: Path) -> State:
    """Generation, objects, and folders of a store."""
    with contextlib.closing(Store.open(root, writable=False)) as store:
        generation = store.catalogue.generation
    objects = [path for folder in ("files", "images", "work") for path in (root / folder).rglob("*")]
    files = {str(path.relative_to(root)): path.read_bytes() for path in objects if path.is_file()}
    return generation, files, frozenset(str(path.relative_to(root)) for path in objects if path.is_dir())


def next_catalogue(store: Store, generation: int) -> Path:
    build = store.root.with_suffix(".next")
    shutil.copyfile(store.catalogue_path(), build)
    builder = CatalogueBuilder(build)
    builder.begin()
    builder.set_meta("generation", generation)
    builder.finish()
    return build


def publish(root: Path, alter: Callable[[Transaction], None]) -> None:
    with contextlib.closing(Store.open(root, writable=True)) as store:
        transaction = store.begin()
        alter(transaction)
        build = next_catalogue(store, transaction.generation)
        transaction.publish(build)
        transaction.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with `BEFORE` in it."""
    path = tmp_path / "s.vfs"
    Store.create(path, source=None).close()

    def fill(transaction: Transaction) -> None:
        for key, data in BEFORE.items():
            transaction.put_bytes(key, data)

    publish(path, fill)
    return path


@contextlib.contextmanager
def killed_at(step: int) -> Iterator[list[str]]:
    """Every system call that changes names or waits for the disk counts; at number `step` it all stops, uncleaned."""
    calls: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transaction_module, "undo", lambda *_: None)
        for name in ("rename", "link", "unlink", "mkdir", "rmdir", "fsync"):
            original = getattr(os, name)

            def counted(*args: Any, name: str = name, original: Any = original, **options: Any) -> Any:
                if len(calls) == step:
                    raise Killed
                calls.append(name)
                return original(*args, **options)

            patch.setattr(os, name, counted)
        with contextlib.suppress(Killed):
            yield calls


def objects_of(state: State) -> dict[bytes, bytes]:
    return {os.fsencode(key): data for key, data in state[1].items()}


@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_killed_anywhere_it_is_the_old_state_or_the_new(
    root: Path, tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EOPNOTSUPP, "no links")))
    before = state(root)
    whole = tmp_path / "whole.vfs"
    shutil.copytree(root, whole)
    publish(whole, change)
    after = state(whole)
    assert objects_of(before) == BEFORE
    assert objects_of(after) == AFTER
    assert not any("folder" in name or "work" in name for name in after[2])
    seen = []
    for step in range(1000):
        copy = tmp_path / "copy.vfs"
        shutil.copytree(root, copy)
        with contextlib.closing(Store.open(copy, writable=True)) as store:
            transaction = store.begin()
            change(transaction)
            build = next_catalogue(store, transaction.generation)
            with killed_at(step) as calls:
                transaction.publish(build)
                transaction.close()
        with killed_at(step % 7):  # recovery may be stopped as well
            Store.open(copy, writable=True).close()
        Store.open(copy, writable=True).close()
        found = state(copy)
        assert found in (before, after), f"a mixture after {calls}"
        seen.append(found == after)
        publish(copy, change if found == before else lambda _: None)
        assert state(copy)[1:] == after[1:], "something is left over"
        shutil.rmtree(copy)
        if len(calls) < step:
            break
    assert seen == sorted(seen), "once committed, it stays so"
    assert not seen[0]
    assert seen[-1]


def test_reader_sees_a_whole_state_after_a_crash(root: Path) -> None:
    """A look at a store that nobody has repaired yet must not take a change half-way for damage."""
    before = objects_of(state(root))
    with contextlib.closing(Store.open(root, writable=True)) as store:
        transaction = store.begin()
        change(transaction)
        build = next_catalogue(store, transaction.generation)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transaction_module, "undo", lambda *_: None)
            original = os.rename

            def rename(old: Any, new: Any, **options: Any) -> None:
                if bytes(os.fsencode(new)).endswith(b"catalog.sqlite"):
                    raise Killed
                original(old, new, **options)

            patch.setattr(os, "rename", rename)
            with pytest.raises(Killed):
                transaction.publish(build)
            # while its writer lives, the store is left alone
            with contextlib.closing(Store.open(root, writable=False)) as reader:
                assert not reader.notices
    assert objects_of(state(root)) == before


@pytest.mark.parametrize("call", ["link", "rename", "mkdir", "fsync"])
@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_failing_disk_leaves_the_old_state(root: Path, call: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(root)
    calls = 0
    original = getattr(os, call)

    def failing(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args, **options)

    with contextlib.closing(Store.open(root, writable=True)) as store:
        transaction = store.begin()
        change(transaction)
        build = next_catalogue(store, transaction.generation)
        monkeypatch.setattr(os, call, failing)
        failed = False
        try:
            transaction.publish(build)
        except OSError:
            failed = True
        monkeypatch.undo()
        transaction.close()
        assert failed == (calls > number)
        assert transaction.committed != failed
        assert (store.root / "work").exists() is False
    if failed:
        assert state(root) == before
        publish(root, change)
    assert objects_of(state(root)) == AFTER


def test_what_cannot_be_undone_now_is_undone_before_the_next_change(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copies set aside are the only ones: whoever abandons the transaction must not throw them away."""
    before = objects_of(state(root))

    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with contextlib.closing(Store.open(root, writable=True)) as store:
        transaction = store.begin()
        change(transaction)
        build = next_catalogue(store, transaction.generation)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transaction_module, "undo", broken)
            patch.setattr(transaction_module, "sync_directory", broken)
            original = os.rename

            def rename(old: Any, new: Any, **options: Any) -> None:
                if bytes(os.fsencode(new)).endswith(b"catalog.sqlite"):
                    broken()
                original(old, new, **options)

            patch.setattr(os, "rename", rename)
            with pytest.raises(OSError, match="Input/output error"):
                transaction.publish(build)
        transaction.close()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(intents, "sync_directories", broken)
            with pytest.raises(OSError, match="Input/output error"):
                store.begin()
        store.begin().close()
    assert objects_of(state(root)) == before


def test_committed_change_survives_a_failing_sync(root: Path) -> None:
    with contextlib.closing(Store.open(root, writable=True)) as store:
        transaction = store.begin()
        change(transaction)
        build = next_catalogue(store, transaction.generation)
        with pytest.MonkeyPatch.context() as patch:

            def broken(*_: Any) -> None:
                raise OSError(errno.EIO, "Input/output error")

            patch.setattr(transaction_module, "sync_directory", broken)
            with pytest.raises(OSError, match="Input/output error"):
                transaction.publish(build)
        transaction.close()
        assert transaction.committed
        store.adopt_catalogue()
        # power loss may still bring the old catalogue back: what it needs is not thrown away yet
        assert (root / "work").exists()
        store.begin().close()
    assert objects_of(state(root)) == AFTER


def test_objects_read_through_a_transaction_and_drop_out_again(root: Path) -> None:
    with contextlib.closing(Store.open(root, writable=True)) as store:
        transaction = store.begin()
        transaction.put_bytes(b"files/replaced", b"newer")
        transaction.remove(b"files/kept")
        assert transaction.read_range(b"files/replaced", 1, 4) == b"ewer"
        assert transaction.size(b"files/replaced") == 5
        assert not transaction.exists(b"files/kept")
        assert transaction.keys_below(b"files") == BEFORE.keys() - {b"files/kept", b"images/a.ome.zarr/zarr.json"}
        transaction.drop(b"files/replaced")
        assert transaction.read_range(b"files/replaced", 0, 3) == b"old"
        transaction.keep_all()
        assert transaction.exists(b"files/kept")
        transaction.close()
        transaction.close()
    assert not (root / "work").exists()


def test_names_of_any_bytes_come_back(root: Path) -> None:
    odd = b"files/\xff\xfe:7\nP1:x/" + b"n" * 255
    with contextlib.closing(Store.open(root, writable=True)) as store:
        transaction = store.begin()
        transaction.put_bytes(odd, b"odd")
        build = next_catalogue(store, transaction.generation)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(transaction_module, "undo", lambda *_: None)
            original = os.rename

            def rename(old: Any, new: Any, **options: Any) -> None:
                if bytes(os.fsencode(new)).endswith(b"catalog.sqlite"):
                    raise Killed
                original(old, new, **options)

            patch.setattr(os, "rename", rename)
            with pytest.raises(Killed):
                transaction.publish(build)
        assert os.path.exists(os.fsencode(root) + b"/" + odd)
    assert objects_of(state(root)) == BEFORE


def test_a_damaged_catalogue_never_gets_a_seal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its copy is what a change begins from; a change that fails must not leave the damage as what was written."""
    root = tmp_path / "s.vfs"
    Store.create(root, source=None).close()
    whole = (root / "catalog.sqlite").read_bytes()
    (root / "catalog.sqlite").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    rename = os.rename

    def fail_at_the_catalogue(old: Any, new: Any, **options: Any) -> None:
        if os.path.basename(os.fsencode(old)) == b"catalogue":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(old, new, **options)

    with contextlib.closing(Store.open(root, writable=True)) as store:
        assert store.damaged
        transaction = store.begin()
        transaction.put_bytes(b"files/fresh", b"fresh")
        catalogue = next_catalogue(store, 1)
        with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
            patch.setattr(os, "rename", fail_at_the_catalogue)
            transaction.publish(catalogue)
        transaction.close()
    with contextlib.closing(Store.open(root, writable=False)) as store:
        assert not store.damaged
        assert store.catalogue_path().read_bytes() == whole
