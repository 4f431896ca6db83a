"""What `--verify` asks for, what the receipt says then, and when it says that the source may go."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
from pathlib import Path
from typing import Any

import pytest
import trio
from plate_bench import Bench, Contents, assert_sound, pixels, plate_files, plate_path, tiff

from vfsd.flush import FlushResult, Verify, convert_plate, verify_store
from vfsd.store import Transaction
from vfsd.store.storage import LocalStorage
from vfsd.store.stored import StoredFile

A01 = plate_path("A01")
FILES: Contents = {**plate_files(wells=("A01",), sites=1), b"odd \xff\n": b"bytes", b"notes": b"text"}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, source=True)
    for path, data in FILES.items():
        place(bench, path).write_bytes(data)
    return bench


def place(bench: Bench, path: bytes) -> Path:
    assert bench.source is not None
    return Path(os.fsdecode(os.fsencode(bench.source) + b"/" + path))


def convert(bench: Bench, verify: Verify = Verify.FULL) -> FlushResult:
    assert bench.source is not None
    source = bench.source
    return trio.run(lambda: convert_plate(source, bench.store, verify=verify))


def receipt(result: FlushResult) -> dict[str, Any]:
    assert result.receipt is not None
    document = json.loads(result.receipt.read_text())
    assert isinstance(document, dict)
    return document


def resident_pages(path: Path) -> int:
    """How many pages of a file are in memory (mincore)."""
    size = path.stat().st_size
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as m,
    ):
        pages = -(-size // mmap.PAGESIZE)
        known = (ctypes.c_ubyte * pages)()
        view = (ctypes.c_char * size).from_buffer(m)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(size), known) == 0
        del view
        return sum(page & 1 for page in known)


def test_what_was_written_is_read_back_from_the_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the sync, and before anything is compared, nothing of the objects is in memory any more."""
    left: list[int] = []
    sync = Transaction.sync

    def sync_and_look(self: Transaction, keys: Any = None) -> None:
        sync(self, keys)
        fresh = (bench.store / "work" / str(self.generation) / "new").iterdir()
        left.extend(resident_pages(path) for path in fresh if path.stat().st_size and keys is not None)

    need_forgetting(bench)
    monkeypatch.setattr(Transaction, "sync", sync_and_look)
    convert(bench)
    assert left
    assert not any(left)


def need_forgetting(bench: Bench) -> None:
    probe = bench.folder / "probe"
    probe.write_bytes(bytes(1 << 16))
    os.sync()
    with probe.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident_pages(probe):
        pytest.skip("this file system keeps what it is asked to forget")


@pytest.mark.parametrize("digests", [False, True])
def test_verify_reads_the_disk_although_everything_is_in_memory(
    digests: bool, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(bench)
    need_forgetting(bench)
    for path in bench.store.rglob("*"):
        if path.is_file():
            path.read_bytes()
    open_object, left = LocalStorage.open_object, dict[bytes, int]()

    def open_and_look(self: LocalStorage, key: bytes) -> int:
        path = Path(os.fsdecode(self.path(key)))
        if path.stat().st_size:
            left.setdefault(key, resident_pages(path))
        return open_object(self, key)

    monkeypatch.setattr(LocalStorage, "open_object", open_and_look)
    assert verify_store(bench.store, digests=digests).ok
    assert left
    assert not any(left.values())


@pytest.mark.parametrize("how", Verify)
def test_receipt_says_how_it_was_verified(how: Verify, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    rebuilt: list[bytes] = []
    check = StoredFile.check
    monkeypatch.setattr(StoredFile, "check", lambda self: (rebuilt.append(self.record.digest), check(self)))
    result = convert(bench, how)
    document = receipt(result)
    assert len(rebuilt) == (len(FILES) if how is Verify.FULL else 0)
    assert result.verify is how
    assert document["verified"] == how.told
    assert {entry["verified"] for entry in document["files"]} == {how.told}
    assert document["source_replaceable"] is result.source_replaceable is (how is not Verify.OFF)
    assert bool(document["obstacles"]) is (how is Verify.OFF)
    odd = next(entry for entry in document["files"] if "path_hex" in entry)
    assert bytes.fromhex(odd["path_hex"]) == b"odd \xff\n"
    assert odd["path"].isascii()
    assert odd["path"].isprintable()
    assert (
        sum(entry["size"] for entry in document["files"])
        == document["totals"]["bytes"]
        == sum(map(len, FILES.values()))
    )
    assert_sound(bench.store, FILES)
    # what nobody verified is verified by the next flush that does
    rebuilt.clear()
    again = convert(bench)
    assert again.source_replaceable is True
    assert len(rebuilt) == (len(FILES) if how is Verify.OFF else 0)
    rebuilt.clear()
    assert convert(bench).source_replaceable is True
    assert not rebuilt


def test_what_was_never_verified_and_is_damaged_stands_against_it(bench: Bench) -> None:
    convert(bench, Verify.OFF)
    (bench.store / "files/notes").write_bytes(b"TEXT")
    for _ in range(2):
        result = convert(bench)
        assert result.source_replaceable is False
        assert [obstacle.path for obstacle in result.obstacles] == [b"notes"]


@pytest.mark.parametrize("how", [Verify.FULL, Verify.DIGEST])
@pytest.mark.parametrize("key", ["shard", "plain", "document"])
def test_disk_that_does_not_keep_what_is_written(how: Verify, key: str, tmp_path: Path) -> None:
    """Another byte on the disk than was written: the flush keeps everything, whatever it is in."""
    bench = Bench(tmp_path)
    sync = Transaction.sync
    ends = {"shard": b"/0/c.0.0.0.0.0", "plain": b"files/b", "document": b"/zarr.json"}[key]

    def spoil(self: Transaction, keys: Any = None) -> None:
        sync(self, keys)
        for name, serial in self._pending.items():
            if name.endswith(ends) and name not in spoiled:
                spoiled.add(name)
                path = bench.store / "work" / str(self.generation) / "new" / str(serial)
                content = path.read_bytes()
                path.write_bytes(bytes([content[0] ^ 1]) + content[1:])

    async def run() -> None:
        async with bench.mounted() as session:
            from vfsd.flush import flush_tree

            await session.write_all({A01: tiff(pixels(1)), b"b": b"bytes"})
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Transaction, "sync", spoil)
                try:
                    complete = (await flush_tree(session.tree, verify=how)).complete
                except OSError as error:
                    complete = False
                    assert "read back" in str(error)
            assert spoiled
            # a file that does not come back as planes is stored as it is; nothing else is made up for
            assert not complete or (key == "shard" and how is Verify.FULL)
            assert verify_store(bench.store, digests=True).ok
            assert await session.read(A01) == tiff(pixels(1))
            await session.flush_all()

    spoiled: set[bytes] = set()
    trio.run(run)
    assert_sound(bench.store, {A01: tiff(pixels(1)), b"b": b"bytes"})


@pytest.mark.parametrize("how", [Verify.FULL, Verify.DIGEST])
def test_disk_that_does_not_keep_what_is_copied_for_want_of_links(how: Verify, tmp_path: Path) -> None:
    """A plate that is renamed: its shards get other keys, by copies that nothing else would look at."""
    bench = Bench(tmp_path)
    sync, spoiled = Transaction.sync, set[bytes]()

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    def spoil(self: Transaction, keys: Any = None) -> None:
        sync(self, keys)
        for name, serial in self._pending.items():
            if name.endswith(b"/0/c.0.0.0.0.0") and name not in spoiled:
                spoiled.add(name)
                path = bench.store / "work" / str(self.generation) / "new" / str(serial)
                content = path.read_bytes()
                path.write_bytes(bytes([content[0] ^ 1]) + content[1:])

    async def run() -> None:
        from vfsd.flush import flush_tree

        async with bench.mounted() as session:
            await session.write_all({b"day/" + A01: tiff(pixels(1))})
            await session.flush_all()
            await session.rename(b"day", b"night")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "link", refuse)
                patch.setattr(Transaction, "sync", spoil)
                with pytest.raises(OSError, match="read back"):
                    await flush_tree(session.tree, verify=how)
                patch.setattr(Transaction, "sync", sync)
                assert spoiled
                assert verify_store(bench.store, digests=True).ok
                await session.flush_all()

    trio.run(run)
    assert_sound(bench.store, {b"night/" + A01: tiff(pixels(1))})
    assert verify_store(bench.store, digests=True).ok


@pytest.mark.parametrize("change", ["bytes alone", "time", "gone", "new"])
def test_source_that_changes_while_it_is_stored_may_not_go(
    change: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After everything was read, stored and verified, and before the receipt says anything."""
    from vfsd.flush.verification import Verification

    finish = Verification.finish
    notes = place(bench, b"notes")
    found = notes.stat()

    async def finish_and_change(self: Verification) -> Any:
        if change == "bytes alone":
            notes.write_bytes(b"TEXT")
            os.utime(notes, ns=(found.st_atime_ns, found.st_mtime_ns))
        elif change == "time":
            os.utime(notes, ns=(1, 1))
        elif change == "gone":
            notes.unlink()
        else:
            place(bench, b"new").write_bytes(b"new")
        return await finish(self)

    monkeypatch.setattr(Verification, "finish", finish_and_change)
    result = convert(bench)
    assert result.source_replaceable is False
    assert [obstacle.path for obstacle in result.obstacles] == [b"new" if change == "new" else b"notes"]
    assert receipt(result)["source_replaceable"] is False


def test_folder_of_the_source_that_cannot_be_read_again_stands_against_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came into it meanwhile cannot be told."""
    from vfsd.flush.verification import Verification
    from vfsd.tree.source import Source

    finish = Verification.finish

    def fail(self: Source, path: bytes) -> Any:
        raise OSError(errno.EIO, "broken")

    async def finish_and_break(self: Verification) -> Any:
        place(bench, b"new").write_bytes(b"new")
        monkeypatch.setattr(Source, "scan", fail)
        return await finish(self)

    monkeypatch.setattr(Verification, "finish", finish_and_break)
    result = convert(bench)
    assert result.source_replaceable is False
    assert [(obstacle.path, obstacle.reason) for obstacle in result.obstacles] == [(b"", "broken")]


def test_receipt_of_a_large_plate_takes_little_memory(tmp_path: Path) -> None:
    """An entry at a time: what is written does not gather in memory."""
    import tracemalloc

    from vfsd.flush.receipt import _Writer
    from vfsd.store import Store

    root = tmp_path / "s.vfs"
    store = Store.create(root, source=None)
    transaction = store.begin()
    writer = _Writer(transaction, b"receipts/x.json")
    entry = {"path": "a/name/of/usual/length.TIF", "xxh3_128": "0" * 32, "index": [[0, 0, 0]], "stored": "planes"}
    tracemalloc.start()
    writer.begin({"format": "x"})
    writer.array("files", ({**entry, "size": number} for number in range(50_000)))
    writer.end()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    writer.close()
    path = root / "work/1/new/1"
    assert len(json.loads(path.read_bytes())["files"]) == 50_000
    assert writer.written.size == path.stat().st_size
    assert peak < 4 << 20
    transaction.close()
    store.close()
