"""What goes into a store comes out of it: every kind of file, in its place, whatever was there before."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trio
from plate_bench import (
    CALLER,
    Bench,
    assert_sound,
    group_locations,
    pixels,
    plate_files,
    plate_path,
    tiff,
    zarr_array,
)

from vfsd.flush import placing
from vfsd.store import Store, geometry

SHAPE = (30, 40)


def stack_files(directory: bytes, count: int, *, seed: int = 0, **options: object) -> dict[bytes, bytes]:
    return {directory + b"/i%03d.tif" % n: tiff(pixels(seed + n, SHAPE), **options) for n in range(count)}


def hyperstack(pages: int, shape: tuple[int, ...], *, seed: int = 1, **options: object) -> bytes:
    return tiff(np.stack([pixels(seed + page, shape) for page in range(pages)]), photometric="minisblack", **options)


def rgb(seed: int, *, planar: bool) -> bytes:
    shape = (3, 30, 40) if planar else (30, 40, 3)
    options = {"planarconfig": "separate" if planar else "contig", "photometric": "rgb"}
    return tiff(pixels(seed, shape, "uint8"), **options)


KINDS: dict[str, Callable[[], dict[bytes, bytes]]] = {
    "plate": lambda: plate_files(b"a/plate") | {b"a/plate/P.HTD": b'"HTSInfoFile", Version 1.0\n"EndFile"\n'},
    "plate at the root": lambda: plate_files(),
    "compressed plate": lambda: {plate_path("A01", site): tiff(pixels(site), compression="zlib") for site in (1, 2)},
    "lzw plate": lambda: {plate_path("A01", site): tiff(pixels(site), compression="lzw") for site in (1, 2)},
    "lzw and others in a plate": lambda: {
        plate_path("A01", 1): tiff(pixels(1), compression="lzw", predictor=True, byteorder=">"),
        plate_path("A01", 2): tiff(pixels(2), compression="zlib"),
        plate_path("A01", 3): tiff(pixels(3)),
    },
    "lzw stack": lambda: stack_files(b"ls", 4, compression="lzw", rowsperstrip=7, byteorder=">"),
    "lzw pages": lambda: {b"lp/pages.tif": hyperstack(5, (32, 36), compression="lzw", predictor=True)},
    "two shapes in a plate": lambda: plate_files() | {plate_path("C03", 1): tiff(pixels(9, (20, 25)))},
    "projection": lambda: plate_files() | {plate_path("A01", 1, z=0): tiff(pixels(8))},
    "big-endian": lambda: stack_files(b"be", 4, byteorder=">"),
    "strips": lambda: stack_files(b"strips", 4, rowsperstrip=7),
    "big-endian strips": lambda: stack_files(b"bs", 4, byteorder=">", rowsperstrip=7),
    "bigtiff": lambda: stack_files(b"big", 4, bigtiff=True),
    "more than one shard": lambda: stack_files(b"many", 70),
    "rgb": lambda: {b"rgb/%02d.tif" % n: rgb(n, planar=False) for n in range(4)},
    "planar rgb": lambda: {b"planar/%02d.tif" % n: rgb(n, planar=True) for n in range(4)},
    "floats": lambda: {b"f/%02d.tif" % n: tiff(pixels(n, SHAPE, "float32")) for n in range(4)},
    "pages": lambda: {b"p/pages.tif": hyperstack(5, (32, 36))},
    "pages in two shards": lambda: {b"p/pages.tif": hyperstack(70, (19, 19), byteorder=">")},
    "few": lambda: stack_files(b"few", 3) | {b"few/pages.tif": hyperstack(3, (30, 30))},
    "no images": lambda: {b"empty": b"", b"empty.tif": b"", b"deep/er/text": b"text", b"cut.tif": b"II*\0\x08"},
    "odd names": lambda: {
        b"\xff\xfe/\xe4.tif": tiff(pixels(1)),
        b"n" * 255: b"long",
        (b"d" * 250) + b"/" + plate_path("A01"): tiff(pixels(2)),
        b"\xe4\xf6/" + plate_path("A01"): tiff(pixels(2)),
        b"~5": b"tilde",
        b"~5 is no file/~6": b"tilde",
        b"line\nbreak/\x1b[31m": b"red",
        b"plate.ome.zarr/" + plate_path("A01"): tiff(pixels(3)),
        b"plate/" + plate_path("A01"): tiff(pixels(4)),
    },
    "long path": lambda: {b"/".join([b"f" * 200] * 16) + b"/" + plate_path("A01"): tiff(pixels(1))},
}


@pytest.mark.parametrize("kind", KINDS)
def test_files_come_back(kind: str, tmp_path: Path) -> None:
    bench, files = Bench(tmp_path), KINDS[kind]()

    async def fill() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            result = await session.flush_all()
            assert result.files == len(files)
            assert result.bytes == sum(map(len, files.values()))
            session.tree.tiers.drop_clean()
            assert await session.contents() == files

    trio.run(fill)
    assert_sound(bench.store, files)
    assert bench.stored_alone()[0] == files


def test_each_kind_lies_where_it_belongs(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    names = ("plate", "big-endian", "rgb", "planar rgb", "pages", "few", "compressed plate")
    files: dict[bytes, bytes] = {}
    for name in names:
        files |= KINDS[name]()

    async def fill() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()

    trio.run(fill)
    assert_sound(bench.store, files)
    assert group_locations(bench.store) == {
        b"images/a/plate.ome.zarr": 8,
        b"images/plate.ome.zarr": 2,
        b"images/be.stacks/30x40_uint16.ome.zarr": 4,
        b"images/rgb.stacks/30x40x3_uint8.ome.zarr": 4,
        b"images/planar.stacks/30x40x3_uint8_planar.ome.zarr": 4,
        b"images/p.stacks/pages.tif.ome.zarr": 5,
    }
    plain = {os.fsencode(path.relative_to(bench.store / "files")) for path in (bench.store / "files").rglob("*.*")}
    assert plain == {path for path in files if path.startswith(b"few/") or path.endswith(b"HTD") or b"/" not in path}


def test_fewer_or_smaller_planes_stay_plain_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "FEWEST_PLANES", 16)
    monkeypatch.setattr(placing, "FEWEST_BYTES", 1 << 20)
    bench = Bench(tmp_path)
    large = (100, 400)
    files = {b"few/%d.tif" % n: tiff(pixels(n, large)) for n in range(15)}
    files |= {b"small/%d.tif" % n: tiff(pixels(n)) for n in range(40)}
    files |= {b"enough/%d.tif" % n: tiff(pixels(n, large)) for n in range(16)}
    files |= {
        b"few.tif": hyperstack(15, large),
        b"small.tif": hyperstack(40, (9, 9)),
        b"pages.tif": hyperstack(16, large),
    }

    async def fill() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()

    trio.run(fill)
    assert_sound(bench.store, files)
    assert set(group_locations(bench.store)) == {
        b"images/enough.stacks/100x400_uint16.ome.zarr",
        b"images/plate.stacks/pages.tif.ome.zarr",
    }


def test_large_multi_page_file_is_read_page_by_page(tmp_path: Path) -> None:
    """Over 64 MiB a file is never held in memory as a whole; here it lies in two shards as well."""
    bench = Bench(tmp_path)
    page = pixels(1, (800, 800))
    data = tiff(np.stack([page + n for n in range(66)]), photometric="minisblack", byteorder=">")
    assert 80 << 20 < len(data) < 90 << 20

    async def fill() -> None:
        async with bench.mounted() as session:
            await session.write(b"stacks/large.tif", data)
            tracemalloc.start()
            assert (await session.flush_all()).files == 1
            assert tracemalloc.get_traced_memory()[1] < 40 << 20  # for each worker a page, pieces, and what waits
            tracemalloc.stop()
            session.tree.tiers.drop_clean()
            assert await session.read(b"stacks/large.tif") == data
            # its group goes along when it is renamed: nothing is read, nothing is written
            await session.rename(b"stacks/large.tif", b"renamed.tif")
            assert (await session.flush_all()).stored_bytes < 64 << 10
            session.tree.tiers.drop_clean()
            assert await session.read(b"renamed.tif") == data

    trio.run(fill)
    assert list(group_locations(bench.store)) == [b"images/plate.stacks/renamed.tif.ome.zarr"]
    array = zarr_array(bench.store, b"images/plate.stacks/renamed.tif.ome.zarr")
    np.testing.assert_array_equal(array[65], page + 65)
    assert_sound(bench.store)


OTHER_SHAPE = tiff(pixels(77, (20, 25)))
SAME_SHAPE = tiff(pixels(78))
OVERWRITES = {
    "same shape": (tiff(pixels(1)), SAME_SHAPE),
    "other shape": (tiff(pixels(1)), OTHER_SHAPE),
    "other byte order": (tiff(pixels(1)), tiff(pixels(79), byteorder=">")),
    "planes to plain": (tiff(pixels(1)), b"no image any more"),
    "planes to nothing": (tiff(pixels(1)), b""),
    "plain to planes": (b"not yet an image", SAME_SHAPE),
    "planes to compressed": (tiff(pixels(1)), tiff(pixels(2), compression="zlib")),
    "compressed to planes": (tiff(pixels(2), compression="zlib"), SAME_SHAPE),
    "planes to lzw": (tiff(pixels(1)), tiff(pixels(2), compression="lzw")),
    "lzw to compressed": (tiff(pixels(1), compression="lzw"), tiff(pixels(2), compression="zlib")),
}


@pytest.mark.parametrize("case", OVERWRITES)
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "among others"])
def test_overwritten_file(case: str, alone: bool, tmp_path: Path) -> None:
    first, second = OVERWRITES[case]
    bench, name = Bench(tmp_path), b"pl/" + plate_path("A01")
    others = {} if alone else plate_files(b"pl", wells=("A01", "A02"))

    async def act() -> None:
        async with bench.mounted() as session:
            await session.write_all(others | {name: first})
            await session.flush_all()
            assert_sound(bench.store, others | {name: first})
            await session.write(name, second)
            await session.flush_all()
            session.tree.tiers.drop_clean()
            assert await session.contents() == others | {name: second}

    trio.run(act)
    assert_sound(bench.store, others | {name: second})
    assert bench.stored_alone()[0] == others | {name: second}


def test_deleted_files_leave_absent_chunks_and_then_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    files = plate_files(b"pl", wells=("A01",)) | stack_files(b"st", 66) | {b"p/t.tif": KINDS["pages"]()[b"p/pages.tif"]}
    files |= {b"plain/er/file": b"x", b"plain/other": b"y"}

    async def act() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()
            for gone in (b"pl/" + plate_path("A01", 1, 1), b"st/i064.tif", b"st/i065.tif", b"st/i003.tif"):
                await session.unlink(gone)
                del files[gone]
            await session.rmtree(b"plain/er")
            del files[b"plain/er/file"]
            await session.flush_all()
            assert_sound(bench.store, files)
            assert not zarr_array(bench.store, b"images/pl.ome.zarr", "A/1/1")[0, 0, 0].any()
            assert not list((bench.store / "images/st.stacks").rglob("c.1.0.0"))
            for folder in (b"pl", b"st", b"p", b"plain"):
                await session.rmtree(folder)
            await session.flush_all()

    trio.run(act)
    assert_sound(bench.store, {})
    assert not list((bench.store / "images").iterdir())
    assert not list((bench.store / "files").iterdir())


def test_plate_grows_along_every_axis(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    rounds = [
        plate_files(wells=("A01",), sites=1, channels=1),
        {plate_path("A01", 1, 3): tiff(pixels(20))},
        {plate_path("A01", 1, 2): tiff(pixels(21)), plate_path("B01", 1, 1): tiff(pixels(22))},
        {plate_path("A01", 1, 1, time=4): tiff(pixels(23)), plate_path("A01", 9, 1): tiff(pixels(24))},
        {plate_path("A01", 1, 1, z=7): tiff(pixels(25)), plate_path("A01", 1, 2, z=3, time=2): tiff(pixels(26))},
        {plate_path("P24", 1, 1, plate="p"): tiff(pixels(27))},
    ]
    files: dict[bytes, bytes] = {}

    async def grow() -> None:
        for fresh in rounds:
            async with bench.mounted() as session:
                await session.write_all(fresh)
                await session.flush_all()
                files.update(fresh)
            assert_sound(bench.store, files)

    trio.run(grow)
    assert group_locations(bench.store) == {b"images/plate.ome.zarr": len(files)}
    assert bench.stored_alone()[0] == files


def test_stack_grows_over_its_shards_and_fills_gaps(tmp_path: Path) -> None:
    bench, files = Bench(tmp_path), stack_files(b"st", 60)

    async def act() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()
            for number in (0, 30, 59):
                await session.unlink(b"st/i%03d.tif" % number)
                del files[b"st/i%03d.tif" % number]
            fresh = {b"st/j%03d.tif" % n: tiff(pixels(500 + n, SHAPE)) for n in range(12)}
            await session.write_all(fresh)
            files.update(fresh)
            await session.flush_all()

    trio.run(act)
    assert_sound(bench.store, files)
    assert group_locations(bench.store) == {b"images/st.stacks/30x40_uint16.ome.zarr": 69}
    assert zarr_array(bench.store, b"images/st.stacks/30x40_uint16.ome.zarr").shape[0] == 69


@pytest.mark.parametrize("together", [True, False], ids=["one flush", "two flushes"])
def test_second_file_of_a_position_stays_plain(together: bool, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first, second = {plate_path("A01"): tiff(pixels(1))}, {b"P_A01_s01_w1.tif": tiff(pixels(2))}

    async def act() -> None:
        async with bench.mounted() as session:
            await session.write_all(first)
            if not together:
                await session.flush_all()
            await session.write_all(second)
            await session.flush_all()

    trio.run(act)
    assert_sound(bench.store, first | second)
    assert sum(group_locations(bench.store).values()) == 1


def test_spare_keys_never_meet_names_of_the_tree(tmp_path: Path) -> None:
    """A file whose own key is blocked gets `files/~<number>`, and so may a user's file be called."""
    bench = Bench(tmp_path)
    called_alike = {b"~%x" % number: b"called like a spare key %d" % number for number in range(2, 40)}
    called_alike |= {b"~%x~2/x" % number: b"in a folder called like one" for number in range(2, 40)}

    async def act() -> dict[bytes, bytes]:
        async with bench.mounted() as session:
            await session.write_all({b"blocked": b"a file"} | called_alike)
            await session.flush_all()
            await session.unlink(b"blocked")
            await session.write(b"blocked/inner", b"now a folder")
            ino = (await session.node(b"blocked/inner")).ino
            await session.write(b"~%x/x" % ino, b"a folder called like its spare key")
            await session.flush_all()
            await session.rmtree(b"blocked")
            await session.write(b"blocked", b"a file again")
            await session.flush_all()
            return await session.contents()

    files = trio.run(act)
    assert_sound(bench.store, files)
    assert len(files) == len(called_alike) + 2
    assert files.items() >= called_alike.items()


def test_folder_and_file_take_turns(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    image = stack_files(b"x", 4)

    async def act() -> None:
        async with bench.mounted() as session:
            for number in range(3):
                await session.write(b"x", b"file %d" % number)
                await session.flush_all()
                assert_sound(bench.store, {b"x": b"file %d" % number})
                await session.unlink(b"x")
                await session.write_all(image | {b"x/deep/plain": b"plain"})
                await session.flush_all()
                assert_sound(bench.store, image | {b"x/deep/plain": b"plain"})
                await session.rmtree(b"x")

    trio.run(act)


def test_everything_but_bytes_comes_back_too(tmp_path: Path) -> None:
    """Modes, times, attributes, symbolic links, FIFOs, hard links: in the store, and in an export."""
    from vfsd.flush import export_store

    bench = Bench(tmp_path)

    async def act() -> dict[bytes, tuple[object, ...]]:
        async with bench.mounted() as session:
            await session.write_all({b"d/f": b"bytes", b"d/i.tif": tiff(pixels(1)), b"e/x": b""})
            root, names = (await session.node(b"")).ino, session.tree.names
            await names.symlink(root, b"link", b"d/\xff", CALLER)
            await names.mknod(root, b"fifo", stat.S_IFIFO | 0o640, 0, CALLER)
            await session.link(b"d/f", b"hard")
            await session.setxattr(b"d/f", b"user.note", b"\x00\xff")
            await session.setxattr(b"d", b"user.folder", b"yes")
            await session.setattr(b"d/f", mode=0o4711, mtime=1_000_000_000_123_456_789, atime=1)
            await session.setattr(b"d/i.tif", mode=0o400, mtime=5)
            await session.setattr(b"e", mode=0o1770, mtime=7)
            await session.setattr(b"d", mode=0o500, mtime=9)
            await session.setattr(b"", mode=0o750, mtime=11)
            await session.flush_all()
            return await session.shape()

    shape = trio.run(act)
    assert bench.stored_alone()[1] == shape
    report = export_store(bench.store, tmp_path / "out")
    assert not report.failed
    assert report.files == 3
    for path, looks in shape.items():
        found = os.lstat(os.fsencode(tmp_path / "out") + b"/" + path)
        mode, nlink, uid, gid, _, size, mtime, target, xattrs = looks
        assert (found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns) == (mode, uid, gid, mtime), path
        if not stat.S_ISDIR(found.st_mode):
            assert (found.st_nlink, found.st_size) == (nlink, size), path
        if target is not None:
            assert os.readlink(os.fsencode(tmp_path / "out") + b"/" + path) == target
        with contextlib.suppress(OSError):  # a file system without user attributes
            exported = os.fsencode(tmp_path / "out") + b"/" + path
            listed = {os.fsencode(name): os.getxattr(exported, name) for name in os.listxattr(exported)}
            assert listed == xattrs or stat.S_ISLNK(found.st_mode)


def test_receipt_names_each_file_and_is_there_only_with_its_commit(tmp_path: Path) -> None:
    import xxhash

    bench = Bench(tmp_path)
    damaged = bytearray(tiff(pixels(3), compression="zlib"))
    damaged[-400:-300] = bytes(100)
    files = plate_files(wells=("A01",), sites=1) | {b"t.txt": b"text", plate_path("A02"): bytes(damaged), b"\xff": b"f"}

    async def act() -> Path:
        async with bench.mounted() as session:
            await session.write_all(files)
            result = await session.flush_all()
            assert result.receipt is not None
            written = json.loads(result.receipt.read_text())
            assert written["totals"]["files"] == len(files)
            assert written["complete"] is True
            assert written["totals"]["stored_bytes"] == result.stored_bytes
            assert (await session.flush_all()).receipt is None
            return result.receipt

    receipt = trio.run(act)
    assert list((bench.store / "receipts").iterdir()) == [receipt]
    entries = {entry.get("path_hex") or entry["path"]: entry for entry in json.loads(receipt.read_text())["files"]}
    for path, data in files.items():
        entry = entries[path.hex() if path == b"\xff" else path.decode()]
        assert (entry["size"], entry["xxh3_128"]) == (len(data), xxhash.xxh3_128_hexdigest(data))
        if entry["stored"] == "plain":
            assert (bench.store / entry["location"]).read_bytes() == data if path != b"\xff" else True
        else:
            assert (bench.store / entry["array"] / "zarr.json").exists()
    # a compressed file whose pixels are damaged has no place in the plate, and says why
    assert entries[plate_path("A02").decode()]["stored"] == "plain"
    assert "array" not in entries[plate_path("A02").decode()]
    assert entries[plate_path("A02").decode()]["notes"]


def test_hostile_numbers_of_a_plate_keep_nothing_from_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More planes than any array may have: such files are stored, as something else than a plate."""
    monkeypatch.setattr(geometry, "MAX_CHUNKS_PER_SHARD", 100)
    bench = Bench(tmp_path)
    files = {plate_path("A01", 1, channel): tiff(pixels(channel)) for channel in range(1, 12)}
    files |= {plate_path("A01", 1, 1, z=z): tiff(pixels(z)) for z in range(2, 12)}

    async def act() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()

    trio.run(act)
    assert_sound(bench.store, files)


def test_catalogue_row_is_never_taken_over_silently(tmp_path: Path) -> None:
    import sqlite3

    from vfsd.store import InodeRecord, Kind
    from vfsd.store.builder import CatalogueBuilder
    from vfsd.store.catalogue import PlaneRecord

    root = InodeRecord(1, Kind.DIRECTORY, 0o755, 0, 0, 2, 0, 0, 0, 0)
    builder = CatalogueBuilder.create(tmp_path / "c.sqlite", root)
    builder.put_inode(InodeRecord(5, Kind.PLAIN, 0o644, 0, 0, 1, 3, 0, 0, 0, location=b"files/a"))
    builder.put_planes([PlaneRecord(5, 0, 1, "", (0, 0, 0))])
    with pytest.raises(sqlite3.IntegrityError):
        builder.put_inode(InodeRecord(6, Kind.PLAIN, 0o644, 0, 0, 1, 3, 0, 0, 0, location=b"files/a"))
    with pytest.raises(sqlite3.IntegrityError):
        builder.put_planes([PlaneRecord(6, 0, 1, "", (0, 0, 0))])
    builder.put_inode(InodeRecord(5, Kind.PLAIN, 0o600, 0, 0, 1, 3, 0, 0, 0, location=b"files/b"))
    assert builder.read().owner_of_location(b"files/b") == 5
    builder.abandon()


def test_store_that_was_never_finished_is_made_anew(tmp_path: Path) -> None:
    for name in ("images", "files", "receipts"):
        (tmp_path / "s.vfs" / name).mkdir(parents=True)
    (tmp_path / "s.vfs" / "catalog.sqlite").write_bytes(struct.pack("<I", 7))
    Store.create(tmp_path / "s.vfs", source=None).close()
    assert_sound(tmp_path / "s.vfs", {})
