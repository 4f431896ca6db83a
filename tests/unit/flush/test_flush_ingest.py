"""Plates as sources: taken in whole or in part, again and again, while they change."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import trio
from plate_bench import CALLER, Bench, Contents, assert_sound, pixels, plate_files, plate_path, tiff

from vfsd.flush import convert_plate, export_store
from vfsd.flush.progress import FlushProgress
from vfsd.store import Store
from vfsd.tree.source import Source

PLATE: Contents = {
    **plate_files(),
    b"P.HTD": b'"HTSInfoFile", Version 1.0\n',
    b"docs/notes": b"notes",
    b"docs/deep/er": b"deeper",
    b"empty": b"",
}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """With a source that has attributes of every kind."""
    made = Bench(tmp_path, source=True)
    assert made.source is not None
    for path, data in PLATE.items():
        put(made, path, data)
    root = os.fsencode(made.source)
    os.symlink(b"docs/notes", root + b"/link")
    os.link(root + b"/docs/notes", root + b"/docs/second name")
    os.mkfifo(root + b"/fifo")
    for name, path in ((b"user.root", b""), (b"user.folder", b"docs"), (b"user.file", b"docs/deep/er")):
        os.setxattr(root + b"/" + path, name, b"\x00\xff")
    os.chmod(root + b"/docs/deep/er", 0o440)
    os.chmod(root + b"/docs/deep", 0o750)
    for path in (b"docs/deep/er", b"docs/deep", b"docs", b""):
        os.utime(root + b"/" + path, ns=(10**18, 10**18 + 123_456_789))
    return made


def put(bench: Bench, path: bytes, data: bytes) -> None:
    assert bench.source is not None
    target = os.fsencode(bench.source) + b"/" + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    Path(os.fsdecode(target)).write_bytes(data)


def attributes_on_disk(root: Path) -> dict[bytes, tuple[Any, ...]]:
    """What a session's `shape` says, from a real folder."""
    top = os.fsencode(root)
    paths = [b"", *(os.fsencode(path.relative_to(root)) for path in root.rglob("*"))]
    found: dict[bytes, tuple[Any, ...]] = {}
    for path in paths:
        at = top + b"/" + path if path else top
        seen = os.lstat(at)
        link = stat.S_ISLNK(seen.st_mode)
        xattrs = {} if link else {os.fsencode(name): os.getxattr(at, name) for name in os.listxattr(at)}
        size = 0 if stat.S_ISDIR(seen.st_mode) else seen.st_size
        target = os.readlink(at) if link else None
        nlink = 0 if stat.S_ISDIR(seen.st_mode) else seen.st_nlink  # some file systems count no subdirectories
        found[path] = (seen.st_mode, nlink, seen.st_uid, seen.st_gid, 0, size, seen.st_mtime_ns, target, xattrs)
    return found


def shape_alone(bench: Bench) -> dict[bytes, tuple[Any, ...]]:
    shape = bench.stored_alone()[1]
    return {path: (looks[0], 0 if looks[0] & stat.S_IFDIR else looks[1], *looks[2:]) for path, looks in shape.items()}


def contents_on_disk(root: Path) -> Contents:
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return {os.fsencode(path.relative_to(root)): path.read_bytes() for path in files}


def convert(bench: Bench) -> Any:
    told: list[FlushProgress] = []
    source = bench.source
    assert source is not None

    async def run() -> Any:
        return await convert_plate(source, bench.store, on_progress=told.append)

    return trio.run(run)


def test_converted_plate_is_the_plate(bench: Bench, tmp_path: Path) -> None:
    assert bench.source is not None
    before = attributes_on_disk(bench.source)
    result = convert(bench)
    assert result.complete
    assert result.source_replaceable is True
    assert attributes_on_disk(bench.source) == before
    contents = contents_on_disk(bench.source)
    assert_sound(bench.store, contents)
    assert bench.stored_alone()[0] == contents
    assert shape_alone(bench) == before
    report = export_store(bench.store, tmp_path / "out")
    assert not report.failed
    assert attributes_on_disk(tmp_path / "out") == before
    assert contents_on_disk(tmp_path / "out") == contents


def test_converting_again_goes_on(bench: Bench) -> None:
    assert bench.source is not None
    convert(bench)
    again = convert(bench)
    assert again.files == 0
    assert again.source_replaceable is True
    put(bench, plate_path("C03"), tiff(pixels(31)))
    put(bench, b"docs/new/file", b"new")
    assert convert(bench).files == 2
    assert_sound(bench.store, contents_on_disk(bench.source))


def test_source_that_changed_after_it_was_taken_in_is_an_obstacle(bench: Bench) -> None:
    """The store has the older bytes: nobody may be told that it replaces the source."""
    convert(bench)
    put(bench, b"docs/deep/er", b"written later")
    result = convert(bench)
    assert result.source_replaceable is False
    assert [obstacle.path for obstacle in result.obstacles] == [b"docs/deep/er"]
    assert_sound(bench.store, bench.stored_alone()[0])
    assert bench.stored_alone()[0][b"docs/deep/er"] == b"deeper"


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> set[bytes]:
    """Files of the source put in here fail when they are read: a descriptor of a directory does that."""
    paths: set[bytes] = set()
    opened = Source.open

    def failing(self: Source, path: bytes) -> int:
        return os.open(self.root, os.O_RDONLY) if path in paths else opened(self, path)

    monkeypatch.setattr(Source, "open", failing)
    return paths


def test_file_of_the_source_that_cannot_be_read(bench: Bench, unreadable: set[bytes]) -> None:
    assert bench.source is not None
    unreadable |= {plate_path("A01"), b"docs/notes"}
    result = convert(bench)
    assert not result.complete
    assert result.source_replaceable is False
    assert {kept.path for kept in result.kept} <= {plate_path("A01"), b"docs/notes", b"docs/second name"}
    assert len(result.kept) == 2
    contents = contents_on_disk(bench.source)
    for path in (plate_path("A01"), b"docs/notes", b"docs/second name"):
        del contents[path]
    assert_sound(bench.store, contents)
    unreadable.clear()
    assert convert(bench).source_replaceable is True
    assert_sound(bench.store, contents_on_disk(bench.source))


def test_attributes_survive_a_flush_of_what_is_beside(bench: Bench) -> None:
    """A file is made, and attributes are changed: rows for their folders come into being, and must lose nothing."""
    assert bench.source is not None
    expected: dict[bytes, Any] = {}

    async def act() -> None:
        async with bench.mounted() as session:
            await session.write(b"docs/deep/new", b"new")
            await session.setattr(b"docs/notes", mode=0o600)
            await session.setattr(b"docs/deep/er", mtime=123_456)
            await session.flush_all()
            expected.update(await session.shape())
        async with bench.mounted() as session:
            seen = await session.shape()
            seen[b""] = (*seen[b""][:-1], expected[b""][-1])  # the root's attributes are first read with a commit
            assert seen == expected
            assert await session.xattrs(b"docs/deep/er") == {b"user.file": b"\x00\xff"}
            assert await session.xattrs(b"docs") == {b"user.folder": b"\x00\xff"}
            assert await session.xattrs(b"") == {b"user.root": b"\x00\xff"}
            assert (await session.node(b"docs/deep")).attributes().mode == stat.S_IFDIR | 0o750
            assert (await session.node(b"")).attributes().mtime == 10**18 + 123_456_789
            assert await session.read(b"docs/notes") == b"notes"

    trio.run(act)
    assert_sound(bench.store)


def test_touched_file_of_the_source_can_still_be_taken_in(bench: Bench) -> None:
    """Its time was changed through the tree: that is no change of the source."""
    assert bench.source is not None

    async def act() -> None:
        async with bench.mounted() as session:
            await session.setattr(b"docs/deep/er", mtime=99)
            await session.rename(plate_path("A01"), plate_path("H12"))
            await session.rename(b"docs", b"papers")
            await session.flush_all()
        async with bench.mounted() as session:
            result = await session.flush_all(ingest=True)
            assert result.source_replaceable is True
            assert (await session.node(b"papers/deep/er")).attributes().mtime == 99

    trio.run(act)
    contents = {path.replace(b"docs", b"papers"): data for path, data in contents_on_disk(bench.source).items()}
    contents[plate_path("H12")] = contents.pop(plate_path("A01"))
    assert_sound(bench.store, contents)
    assert bench.stored_alone()[0] == contents


def test_source_that_changed_behind_the_tree_is_taken_in_as_it_is(bench: Bench) -> None:
    assert bench.source is not None

    async def act() -> None:
        async with bench.mounted() as session:
            await session.contents()
            put(bench, b"docs/deep/er", b"longer than it was")
            put(bench, b"empty", b"no more")
            assert (await session.flush_all(ingest=True)).source_replaceable is True

    trio.run(act)
    assert_sound(bench.store, contents_on_disk(bench.source))


def test_deleted_stays_deleted(bench: Bench) -> None:
    """With the source, on the store alone, and with the source again; before and after it was taken in."""
    assert bench.source is not None
    gone = [plate_path("A01"), b"docs/notes", b"docs/second name", b"empty", b"docs/deep/er"]

    async def delete(path: bytes, *, source: bool, ingest: bool) -> None:
        async with bench.mounted(source=source) as session:
            await session.unlink(path)
            await session.flush_all(ingest=ingest)

    async def names(*, source: bool) -> set[bytes]:
        async with bench.mounted(source=source) as session:
            return set(await session.contents())

    async def act() -> None:
        await delete(gone[0], source=True, ingest=False)
        await delete(gone[1], source=True, ingest=False)
        await delete(gone[2], source=True, ingest=True)
        await delete(gone[3], source=False, ingest=False)
        await delete(gone[4], source=True, ingest=True)
        expected = PLATE.keys() - {*gone}
        assert await names(source=True) == expected
        assert await names(source=False) == expected

    trio.run(act)
    assert_sound(bench.store, {path: data for path, data in PLATE.items() if path not in gone})


def test_what_is_done_while_the_source_is_taken_in(bench: Bench) -> None:
    from vfsd.store import Transaction

    async def act() -> Contents:
        async with bench.mounted() as session:

            async def meanwhile() -> None:
                await session.unlink(plate_path("A01"))
                await session.rename(plate_path("B02"), plate_path("G07"))
                await session.write(b"docs/deep/er", b"changed")
                await session.setattr(b"empty", mode=0o600)
                await session.rename(b"docs", b"papers")
                await session.tree.names.symlink((await session.node(b"")).ino, b"new", b"x", CALLER)

            flush = session.flush
            session.flush = lambda **options: flush(ingest=True, **options)  # type: ignore[method-assign]
            await session.flush_while(Transaction, "publish", meanwhile)
            session.flush = flush  # type: ignore[method-assign]
            return await session.contents()

    async def rest(expected: Contents) -> None:
        async with bench.mounted() as session:
            assert await session.contents() == expected
            assert (await session.node(b"empty")).attributes().mode == stat.S_IFREG | 0o600
            await session.flush_all(ingest=True)

    expected = trio.run(act)
    trio.run(rest, expected)
    assert_sound(bench.store, expected)
    assert bench.stored_alone()[0] == expected


def test_store_goes_on_alone(bench: Bench) -> None:
    """After it was taken in, the plate is changed without its source, and looks the same with it."""
    convert(bench)

    async def change() -> tuple[Any, ...]:
        async with bench.mounted(source=False) as session:
            await session.write(plate_path("A01"), tiff(pixels(55)))
            await session.rename(b"docs", b"papers")
            await session.write(b"docs/notes", b"other notes")
            await session.unlink(b"P.HTD")
            await session.flush_all()
            return await session.contents(), await session.shape()

    async def look() -> tuple[Any, ...]:
        async with bench.mounted() as session:
            return await session.contents(), await session.shape()

    seen = trio.run(change)
    assert_sound(bench.store, seen[0])
    assert bench.stored_alone() == seen
    assert trio.run(look) == seen


def test_export_refuses_and_reports(bench: Bench, tmp_path: Path) -> None:
    from vfsd.errors import UnfitError

    async def act() -> None:
        async with bench.mounted() as session:
            await session.setattr(b"docs/notes", mode=0o600)
            await session.write(b"new", b"new")
            await session.flush_all()

    trio.run(act)
    with pytest.raises(UnfitError, match="inside"):
        export_store(bench.store, bench.store / "inside")
    assert not (bench.store / "inside").exists()
    report = export_store(bench.store, tmp_path / "out")
    assert report.files == 1
    assert [failed.path for failed in report.failed] == [b"docs/notes", b"docs/second name"]
    with pytest.raises(UnfitError, match="not empty"):
        export_store(bench.store, tmp_path / "out")


def test_two_names_of_one_file_stay_one(bench: Bench, tmp_path: Path) -> None:
    convert(bench)
    with_links = bench.stored_alone()[1]
    assert with_links[b"docs/notes"][1] == 2
    export_store(bench.store, tmp_path / "out")
    assert (tmp_path / "out/docs/notes").samefile(tmp_path / "out/docs/second name")
    with pytest.MonkeyPatch.context() as patch:  # a file system without hard links gets two files

        def refuse(*_: Any, **__: Any) -> None:
            raise PermissionError(1, "Operation not permitted")

        patch.setattr(os, "link", refuse)
        patch.setattr(os, "chown", refuse)
        report = export_store(bench.store, tmp_path / "out2")
    assert not report.failed
    assert (tmp_path / "out2/docs/second name").read_bytes() == b"notes"


def test_store_is_one_plates(bench: Bench, tmp_path: Path) -> None:
    from vfsd.errors import BusyError, UnfitError

    convert(bench)
    (tmp_path / "other").mkdir()

    async def other() -> None:
        await convert_plate(tmp_path / "other", bench.store)

    async def same() -> None:
        await convert_plate(tmp_path / "plate", bench.store)

    with pytest.raises(UnfitError, match="another source"):
        trio.run(other)
    store = Store.open(bench.store, writable=True)
    with pytest.raises(BusyError):
        trio.run(same)
    store.close()
