"""LZW-compressed TIFFs in a store: planes and a skeleton, the files encoded anew; nothing kept twice, nothing lost."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import trio
from plate_bench import Bench, assert_sound, group_locations, keys_below, pixels, plate_path, tiff

from vfsd.errors import StoredDataDamaged
from vfsd.flush import items
from vfsd.store import Kind, Store, stored

LZW = plate_path("A01")
DEFLATE = plate_path("A01", 2)
PLAIN = plate_path("B01")
FILES = {
    LZW: tiff(pixels(1), compression="lzw", predictor=True, rowsperstrip=11),
    DEFLATE: tiff(pixels(2), compression="zlib"),
    PLAIN: tiff(pixels(3)),
}


def filled(folder: Path, files: dict[bytes, bytes]) -> tuple[Bench, dict[str, Any]]:
    """A store of these files, and the receipt of it."""
    bench = Bench(folder)

    async def fill() -> Path:
        async with bench.mounted() as session:
            await session.write_all(files)
            result = await session.flush_all()
            assert result.receipt is not None
            return result.receipt

    return bench, json.loads(trio.run(fill).read_text())


def test_the_receipt_says_how_each_was_stored(tmp_path: Path) -> None:
    bench, receipt = filled(tmp_path, FILES)
    assert_sound(bench.store, FILES)
    assert keys_below(bench.store, "files") == {b"files/" + DEFLATE}
    entries = {entry["path"].encode(): entry for entry in receipt["files"]}
    assert entries[LZW]["stored"] == entries[PLAIN]["stored"] == "planes"
    assert "LZW" in entries[LZW]["compression"]
    assert "compression" not in entries[PLAIN]
    assert entries[DEFLATE]["stored"] == "plain"
    assert entries[DEFLATE]["kept_whole_because"] == "compressed (deflate)"
    assert entries[DEFLATE]["costs_bytes"] == len(FILES[DEFLATE])
    assert receipt["kept_whole_beside_planes"] == {"files": 1, "bytes": len(FILES[DEFLATE])}


@pytest.mark.parametrize("whole", [True, False], ids=["at once", "in pieces"])
def test_renamed_and_moved_files_are_encoded_again(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:  # as files of over 64 MiB are read and compared
        monkeypatch.setattr(items, "WHOLE_FILE", 0)
        monkeypatch.setattr("vfsd.flush.shards.WHOLE_FILE", 0)
        monkeypatch.setattr(stored, "PIECE", 300)
    bench, _ = filled(tmp_path, FILES)

    async def move() -> None:
        async with bench.mounted() as session:
            await session.rename(LZW, plate_path("C05", 4))
            await session.rename(PLAIN, b"elsewhere.tif")
            await session.flush_all()

    trio.run(move)
    moved = {plate_path("C05", 4): FILES[LZW], b"elsewhere.tif": FILES[PLAIN], DEFLATE: FILES[DEFLATE]}
    assert_sound(bench.store, moved)
    assert bench.stored_alone()[0] == moved
    assert group_locations(bench.store) == {b"images/plate.ome.zarr": 2}


def test_any_range_is_what_the_file_has(tmp_path: Path) -> None:
    files = {
        plate_path("A01"): tiff(pixels(1, (90, 70)), compression="lzw", rowsperstrip=13, byteorder=">"),
        plate_path("A02"): tiff(pixels(2, (90, 70)), compression="lzw", predictor=True),
    }
    bench, _ = filled(tmp_path, files)
    with contextlib.closing(Store.open(bench.store, writable=False)) as store:
        for path, record in store.catalogue.walk():
            if record.kind is not Kind.PLANES:
                continue
            found, content = store.files.describe(record), files[path]
            for offset in range(0, len(content), 1777):
                size = min(3001, len(content) - offset)
                assert found.read_range(offset, size) == content[offset : offset + size]
            assert found.digest() == record.digest


def test_a_damaged_shard_is_said_and_never_encoded_into_something_else(tmp_path: Path) -> None:
    bench, _ = filled(tmp_path, {LZW: FILES[LZW]})
    (shard,) = (bench.store / "images").rglob("0/c.*")
    content = bytearray(shard.read_bytes())
    content[100:200] = bytes(100)
    shard.write_bytes(content)
    with contextlib.closing(Store.open(bench.store, writable=False)) as store:
        record = next(record for _, record in store.catalogue.walk() if record.kind is Kind.PLANES)
        found = store.files.describe(record)
        with pytest.raises(StoredDataDamaged):
            found.check()
