"""A daemon or machine that stops between the commit of the catalogue and the release: the next mount finishes, never half."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio
from plate_bench import Bench, Contents, Session, assert_sound
from test_flush_meanwhile import A01, ACTS, STORED, Act, prepare

from vfsd.flush import flush as flush_module
from vfsd.store import Transaction
from vfsd.tree.journal import Journal

JOURNAL = "journal.sqlite"


class Stopped(BaseException):
    """Nobody runs any more."""


def stop(*_: object, **__: object) -> None:
    raise Stopped


def keep_what_is_synced(bench: Bench, patch: pytest.MonkeyPatch) -> Path:
    """A folder that has at any time what a power failure would leave of the journal."""
    durable = bench.folder / "durable"
    durable.mkdir()
    fsync = Journal._fsync

    def fsync_and_keep(journal: Journal) -> None:
        fsync(journal)
        for end in ("", "-wal"):
            shutil.copyfile(f"{journal.path}{end}", durable / (JOURNAL + end))

    patch.setattr(Journal, "_fsync", fsync_and_keep)
    return durable


def cut_power(bench: Bench, durable: Path) -> None:
    """RAM is empty; of the journal there is what was synced."""
    for name in ("", "-wal", "-changes", "-shm"):
        (bench.folder / "state" / (JOURNAL + name)).unlink(missing_ok=True)
    for path in durable.iterdir():
        shutil.copyfile(path, bench.folder / "state" / path.name)
    shutil.rmtree(bench.folder / "ram")
    (bench.folder / "ram").mkdir()


async def look(session: Session) -> tuple[Contents, dict[bytes, Any]]:
    return await session.contents(), await session.shape()


async def flush_and_stop(
    session: Session, patch: pytest.MonkeyPatch, act: Act | None
) -> tuple[Contents, dict[bytes, Any]]:
    """Flush; `act` happens while the new catalogue is published, and then everything stops. Returns what was seen last."""
    patch.setattr(flush_module, "release", stop)
    patch.setattr(Transaction, "close", lambda _: None)
    seen: list[tuple[Contents, dict[bytes, Any]]] = []

    async def act_and_look() -> None:
        if act is not None:
            await act(session)
        seen.append(await look(session))

    with contextlib.suppress(BaseExceptionGroup, Stopped):
        await session.flush_while(Transaction, "publish", act_and_look)
    return seen[0]


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_a_kill_before_the_release_changes_nothing_that_is_seen(
    act: Act, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)

    async def fill() -> None:
        async with bench.mounted() as session:
            await session.write_all(STORED)
            await session.flush_all()

    async def flush_and_die() -> tuple[Contents, dict[bytes, Any]]:
        async with bench.mounted() as session:
            await prepare(session)
            with monkeypatch.context() as patch:
                return await flush_and_stop(session, patch, act)

    async def go_on() -> tuple[Contents, dict[bytes, Any]]:
        async with bench.mounted() as session:
            assert session.tree.lost == []
            seen = await look(session)
            await session.flush_all()
            session.tree.tiers.drop_clean()
            assert await look(session) == seen
            return seen

    trio.run(fill)
    seen = trio.run(flush_and_die)
    assert trio.run(go_on) == seen
    assert_sound(bench.store, seen[0])


@pytest.mark.parametrize("in_cache", [False, True], ids=["in RAM", "synced"])
def test_power_lost_between_commit_and_release_loses_nothing_that_was_flushed(
    in_cache: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the journal says may be older than the catalogue: names that were deleted, moved and made again since."""
    bench = Bench(tmp_path)

    async def fill() -> None:
        async with bench.mounted() as session:
            await session.write_all(STORED)
            await session.flush_all()

    async def flush_and_die() -> tuple[Contents, dict[bytes, Any]]:
        async with bench.mounted() as session:
            await session.unlink(b"still")
            await session.write(b"gone", b"gone")
            await session.write(b"moving/early", b"early")
            await session.tree.journal.sync()
            await session.unlink(b"gone")
            await session.write(b"still", b"made again")
            await session.rename(b"moving/early", b"late")
            await prepare(session)
            if in_cache:
                for path in (b"four", A01, b"late", b"still"):
                    await session.tree.contents.fsync(await session.node(path))
            with monkeypatch.context() as patch:
                return await flush_and_stop(session, patch, None)

    async def go_on() -> tuple[Contents, dict[bytes, Any]]:
        async with bench.mounted() as session:
            assert session.tree.lost == []
            seen = await look(session)
            await session.flush_all()
            session.tree.tiers.drop_clean()
            assert await look(session) == seen
            return seen

    trio.run(fill)
    durable = keep_what_is_synced(bench, monkeypatch)
    seen = trio.run(flush_and_die)
    cut_power(bench, durable)
    found = trio.run(go_on)
    assert found == seen
    assert_sound(bench.store, seen[0])


def test_power_lost_after_the_release_but_before_the_journal_knew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tier files of what was stored are dropped at once when room is needed, and the durable journal still names them."""
    bench = Bench(tmp_path)

    async def flush_and_die() -> Contents:
        async with bench.mounted() as session:
            await session.write_all({b"a": b"a" * 5000, b"d/b": b"b"})
            for path in (b"a", b"d/b"):
                await session.tree.contents.fsync(await session.node(path))
            seen = await session.contents()
            with monkeypatch.context() as patch:
                sync = Journal.sync
                committed: list[int] = []

                async def sync_before_only(journal: Journal) -> None:
                    if session.tree.store.catalogue.generation > generation:
                        committed.append(1)
                        session.tree.tiers.drop_clean()
                        raise Stopped
                    await sync(journal)

                generation = session.tree.store.catalogue.generation
                patch.setattr(Journal, "sync", sync_before_only)
                with contextlib.suppress(BaseExceptionGroup, Stopped):
                    await session.flush()
                assert committed
            return seen

    async def go_on() -> Contents:
        async with bench.mounted() as session:
            assert session.tree.lost == []
            return await session.contents()

    durable = keep_what_is_synced(bench, monkeypatch)
    seen = trio.run(flush_and_die)
    cut_power(bench, durable)
    assert trio.run(go_on) == seen


def test_names_that_came_and_went_during_a_flush_leave_nothing(tmp_path: Path) -> None:
    """A whiteout of such a name would hide what the source may have under it later."""
    bench = Bench(tmp_path, source=True)
    (tmp_path / "plate" / "day").mkdir()
    (tmp_path / "plate" / "day" / "one").write_bytes(b"one")

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all({b"day/new": b"new", b"day/going": b"going"})

            async def act() -> None:
                for _ in range(2):
                    await session.write(b"day/temporary", b"bytes")
                    await session.unlink(b"day/temporary")
                await session.unlink(b"day/going")

            assert (await session.flush_while(Transaction, "publish", act)).complete
            day = (await session.node(b"day")).ino
            assert [(parent, ino) for parent, _, ino in session.tree.journal.all_entries()] == [(day, 0)]  # of "going"
            await session.flush_all()
            (tmp_path / "plate" / "day" / "temporary").write_bytes(b"of the source")
        async with bench.mounted() as session:
            found = await session.contents()
            assert found == {b"day/one": b"one", b"day/new": b"new", b"day/temporary": b"of the source"}

    trio.run(run)
