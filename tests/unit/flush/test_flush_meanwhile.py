"""What programs do while a flush runs: nothing of it is lost, undone or brought back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from plate_bench import CALLER, Bench, Contents, Session, assert_sound, pixels, plate_files, plate_path, tiff

from vfsd.flush import flush as flush_module
from vfsd.flush.assembly import Assembly
from vfsd.flush.writing import ObjectWriter
from vfsd.store import Transaction

Act = Callable[[Session], Awaitable[None]]

A01 = b"pl/" + plate_path("A01")
STORED: Contents = {**plate_files(b"old"), b"old/text": b"text", b"moving/plain": b"plain", b"still": b"s"}
FRESH: Contents = {
    **plate_files(b"pl"),
    b"d/one": b"one",
    b"d/two": b"two",
    b"d/e/three": b"three",
    b"four": b"4" * 9000,
}


async def prepare(session: Session) -> None:
    """Something of every kind for the flush: new files, renamed ones, changed attributes."""
    await session.write_all(FRESH)
    await session.rename(b"moving", b"moved")
    await session.rename(b"old/text", b"text")
    await session.rename(b"old/" + plate_path("A01"), b"old/" + plate_path("D05"))
    await session.setattr(b"still", mode=0o600)


async def delete_new(session: Session) -> None:
    for path in (b"four", A01, b"d/one"):
        await session.unlink(path)


async def rename_new(session: Session) -> None:
    await session.rename(b"four", b"vier")
    await session.rename(A01, b"pl/" + plate_path("C07"))


async def delete_new_folder(session: Session) -> None:
    await session.rmtree(b"d")


async def rename_new_folder(session: Session) -> None:
    await session.rename(b"d", b"folder")
    await session.rename(b"pl", b"plate")


async def replace_new(session: Session) -> None:
    await session.unlink(b"four")
    await session.write(b"four", b"another four")
    await session.rename(b"d/one", b"d/two")


async def overwrite(session: Session) -> None:
    for path in (b"four", A01, b"text", b"moved/plain", b"still", b"old/" + plate_path("D05")):
        await session.write(path, b"overwritten")


async def overwrite_with_the_same_size(session: Session) -> None:
    await session.write(b"four", b"5" * 9000)
    await session.write(A01, tiff(pixels(12345)))


async def append(session: Session) -> None:
    for path in (b"four", A01, b"text"):
        handle = await session.tree.contents.open((await session.node(path)).ino, os.O_WRONLY)
        await session.tree.contents.write(handle, (await session.node(path)).size(), b"more")
        session.tree.contents.release(handle)


async def cut(session: Session) -> None:
    for path in (b"four", A01):
        await session.setattr(path, size=7)


async def change_attributes(session: Session) -> None:
    for path in (b"four", A01, b"text", b"moved/plain", b"moved", b"d", b"still", b""):
        await session.setattr(path, mode=0o640, mtime=1_234_567_890_123_456_789)
        await session.setxattr(path, b"user.while", b"flushing")


async def link(session: Session) -> None:
    await session.link(b"four", b"cuatro")
    await session.link(b"text", b"texto")
    await session.unlink(b"four")


async def rename_moved_again(session: Session) -> None:
    await session.rename(b"moved", b"elsewhere")
    await session.rename(b"text", b"old/text")
    await session.rename(b"old", b"older")


async def delete_stored(session: Session) -> None:
    await session.rmtree(b"moved")
    await session.rmtree(b"old")
    await session.unlink(b"still")


async def spill(session: Session) -> None:
    for path in (b"four", A01, b"d/one"):
        data = (await session.node(path)).data
        assert data is not None
        await session.tree.tiers.move_to_cache(data)


async def make_more(session: Session) -> None:
    await session.write_all({b"d/new": b"new", b"pl/" + plate_path("E09"): tiff(pixels(77)), b"n/m/o": b"deep"})
    await session.tree.names.symlink((await session.node(b"d")).ino, b"link", b"one", CALLER)


ACTS: list[Act] = [
    delete_new, rename_new, delete_new_folder, rename_new_folder, replace_new, overwrite, overwrite_with_the_same_size,
    append, cut, change_attributes, link, rename_moved_again, delete_stored, spill, make_more,
]  # fmt: skip
STAGES: dict[str, tuple[type, str]] = {
    "looking": (ObjectWriter, "write_plain"),
    "completing": (Assembly, "complete"),
    "committing": (Transaction, "publish"),
}


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
@pytest.mark.parametrize("stage", STAGES)
def test_nothing_done_during_a_flush_is_lost(act: Act, stage: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def look(session: Session) -> tuple[Contents, dict[bytes, Any]]:
        return await session.contents(), await session.shape()

    async def fill() -> None:
        async with bench.mounted() as session:
            await session.write_all(STORED)
            await session.flush_all()

    async def flush_and_act() -> tuple[Contents, dict[bytes, Any]]:
        async with bench.mounted() as session:
            await prepare(session)
            result = await session.flush_while(*STAGES[stage], lambda: act(session))
            assert result.complete, result.kept
            seen = await look(session)
            session.tree.tiers.drop_clean()
            assert await look(session) == seen
            return seen

    async def flush_rest() -> tuple[Contents, dict[bytes, Any]]:
        async with bench.mounted() as session:
            seen = await look(session)
            await session.flush_all()
            session.tree.tiers.drop_clean()
            assert await look(session) == seen
            return seen

    trio.run(fill)
    seen = trio.run(flush_and_act)
    assert trio.run(flush_rest) == seen
    assert_sound(bench.store, seen[0])
    assert bench.stored_alone() == seen


def test_file_that_changed_waits_and_one_that_went_is_forgotten(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all({b"changing": b"1", b"going": b"2", b"staying": b"3"})

            async def act() -> None:
                await session.write(b"changing", b"0")
                await session.unlink(b"going")

            result = await session.flush_while(ObjectWriter, "write_plain", act)
            assert result.complete
            assert [waiting.path for waiting in result.waiting] == [b"changing"]
            assert result.files == 1
            assert (await session.flush_all()).files == 1

    trio.run(run)
    assert_sound(bench.store, {b"changing": b"0", b"staying": b"3"})


def test_renamed_files_are_read_while_the_change_is_published(tmp_path: Path) -> None:
    """The objects lie elsewhere already, and the tree does not know it yet."""
    bench = Bench(tmp_path)

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all(STORED)
            await session.flush_all()
            session.tree.tiers.drop_clean()
            await session.rename(b"old", b"new")
            await session.rename(b"still", b"moved")
            expected = {path.replace(b"old/", b"new/"): data for path, data in STORED.items()}
            expected[b"moved"] = expected.pop(b"still")

            async def read() -> None:
                assert await session.contents() == expected

            await session.flush_while(Transaction, "publish", read, after=True)
            session.tree.tiers.drop_clean()
            await read()

    trio.run(run)


@pytest.mark.parametrize("released", [False, True], ids=["before the release", "before the old objects went"])
def test_killed_after_the_commit(released: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal still has rows of what is in the store by now: they are done again, and nothing is lost by it."""
    bench = Bench(tmp_path)

    class Killed(BaseException):
        pass

    def stop(*_: object, **__: object) -> None:
        raise Killed

    async def fill() -> None:
        async with bench.mounted() as session:
            await session.write_all(STORED)
            await session.flush_all()

    async def flush_and_die() -> None:
        async with bench.mounted() as session:
            await prepare(session)
            await session.write(b"old/" + plate_path("B02"), b"other bytes")
            await session.unlink(b"old/" + plate_path("A01", 2))
            seen.update(await session.contents())
            with monkeypatch.context() as patch:
                if not released:
                    patch.setattr(flush_module, "release", stop)
                patch.setattr(Transaction, "close", lambda _: None)
                with contextlib.suppress(BaseExceptionGroup, Killed):
                    await session.flush()

    async def go_on() -> None:
        async with bench.mounted() as session:
            assert await session.contents() == seen
            await session.flush_all()
            session.tree.tiers.drop_clean()
            assert await session.contents() == seen

    seen: Contents = {}
    trio.run(fill)
    trio.run(flush_and_die)
    trio.run(go_on)
    assert_sound(bench.store, seen)


def test_open_file_waits(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write(b"open", b"so far")
            handle = await session.tree.contents.open((await session.node(b"open")).ino, os.O_RDWR)
            result = await session.flush()
            assert result.complete
            assert [waiting.path for waiting in result.waiting] == [b"open"]
            assert session.tree.dirty().files == 1
            assert_sound(bench.store, {})
            session.tree.contents.release(handle)
            await session.flush_all()

    trio.run(run)
    assert_sound(bench.store, {b"open": b"so far"})


def test_file_that_is_open_and_deleted_stays_readable(tmp_path: Path) -> None:
    bench, data = Bench(tmp_path), tiff(pixels(1))

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all({A01: data, b"plain": b"plain"})
            await session.flush_all()
            session.tree.tiers.drop_clean()
            handles = [await session.tree.contents.open((await session.node(path)).ino, 0) for path in (A01, b"plain")]
            await session.unlink(A01)
            await session.unlink(b"plain")
            await session.flush()
            await session.flush()
            session.tree.tiers.drop_clean()
            assert bytes(await session.tree.contents.read(handles[0], 0, 1 << 20)) == data
            assert bytes(await session.tree.contents.read(handles[1], 0, 1 << 20)) == b"plain"
            for handle in handles:
                session.tree.contents.release(handle)
            await session.flush()

    trio.run(run)
    assert_sound(bench.store, {})


def test_only_what_is_asked_for_is_flushed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all({b"a/x": b"1", b"a/y": b"2", b"ab/z": b"3", b"c": b"4"})
            assert (await session.flush(paths=[b"a", b"c"])).files == 3
            assert session.tree.dirty().files == 1
            assert_sound(bench.store, {b"a/x": b"1", b"a/y": b"2", b"c": b"4"})
            await session.flush_all()

    trio.run(run)
    assert_sound(bench.store, {b"a/x": b"1", b"a/y": b"2", b"ab/z": b"3", b"c": b"4"})


@pytest.mark.parametrize("stage", STAGES)
def test_an_open_file_that_was_moved_and_loses_its_name_meanwhile(stage: str, tmp_path: Path) -> None:
    """The flush puts it under its new name, and others where it was; by itself it was renamed, or with its folder."""
    bench, data = Bench(tmp_path), tiff(pixels(1))
    kept: Contents = {A01: data, b"plain": b"plain", b"d/plain": b"below", b"d/" + plate_path("A01"): tiff(pixels(3))}
    others: Contents = {A01: tiff(pixels(2)), b"plain": b"PLAIN", b"d/plain": b"BELOW", b"d/" + plate_path("A01"): data}

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all(kept)
            await session.flush_all()
            session.tree.tiers.drop_clean()
            contents = session.tree.contents
            handles = {path: await contents.open((await session.node(path)).ino, 0) for path in kept}
            await session.rename(A01, b"pl/" + plate_path("C07"))
            await session.rename(b"plain", b"other")
            await session.rename(b"d", b"e")
            await session.write_all(others)

            async def lose_names() -> None:
                for path in (b"pl/" + plate_path("C07"), b"other", b"e/plain", b"e/" + plate_path("A01")):
                    await session.unlink(path)

            await session.flush_while(*STAGES[stage], lose_names)
            for _ in range(2):
                session.tree.tiers.drop_clean()
                for path, handle in handles.items():
                    assert bytes(await contents.read(handle, 0, 1 << 20)) == kept[path], path
                await session.flush()
            for handle in handles.values():
                contents.release(handle)
            await session.flush_all()

    trio.run(run)
    assert_sound(bench.store, others)
