"""What a killed daemon, a restart of the machine, and a full journal leave."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trio
from tree_bench import CALLER, EARLY_NS, MIB, Bench, Program, run

from vfsd.errors import UnfitError
from vfsd.flush import flush as flush_module
from vfsd.store.catalogue import ROOT_INO
from vfsd.tiers import syncing
from vfsd.tree import RENAME_EXCHANGE, rows
from vfsd.tree.node import Node
from vfsd.tree.recovery import Recovery

# --- kill -9


def test_a_killed_daemon_loses_nothing(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("day/one.tif", b"one")
        program = await bench.mount()
        await program.write(b"day/one.tif", 1, b"N")
        await program.mkdir(b"day/results")
        await program.create(b"day/results/table.csv", b"a,b")
        await program.setattr(b"day/results/table.csv", mtime=EARLY_NS, mode=0o600)
        await program.setxattr(b"day/results", b"user.note", b"\0value")
        await program.create(b"spilled", b"s" * 5000)
        await program.setxattr(b"spilled", b"user.vfsd.tier", b"cache")
        await program.write(b"spilled", 5000, b"more")
        before, stat = await program.contents(), await program.stat(b"day/results/table.csv")
        for _ in range(2):
            bench.kill()
            program = await bench.mount()
            assert program.tree.lost == []
            assert await program.contents() == before
            assert await program.stat(b"day/results/table.csv") == stat
            xattrs = await program.tree.attributes.xattrs(await program.ino(b"day/results"))
            assert xattrs == {b"user.note": b"\0value"}
            assert program.tree.dirty().files == 3
        used = program.tree.tiers.usage()
        assert used["ram"].files == 2
        assert used["cache"].files == 1

    run(act)


def test_tier_files_that_no_row_names_are_removed(bench: Bench) -> None:
    """Made just before a crash, copied but not yet moved, renamed but not yet recorded, or clean."""

    async def act() -> None:
        program = await bench.mount()
        ino = await program.create(b"x", b"bytes")
        bench.kill()
        name = f"{ino:x}.1"
        assert bench.tier_files() == {f"ram/{name}"}
        (bench.cache / name).write_bytes(b"half a cop")
        (bench.ram / f"{ino:x}.2").write_bytes(b"another version")
        (bench.ram / "4000000000000001.7").write_bytes(b"copied up, not recorded")
        program = await bench.mount()
        assert await program.contents() == {b"x": b"bytes"}
        assert bench.tier_files() == {f"ram/{name}"}

    run(act)


def test_tier_files_are_kept_where_the_journal_is_gone(bench: Bench) -> None:
    """Somebody removed a damaged journal to get going again: the files are all there is."""

    async def act() -> None:
        program = await bench.mount()
        ino = await program.create(b"x", b"bytes")
        bench.kill()
        for path in bench.state.glob("journal.sqlite*"):
            path.unlink()
        for _ in range(2):
            with pytest.raises(UnfitError, match="gone"):
                await bench.mount()
            bench.kill()
        assert bench.tier_files() == {f"ram/{ino:x}.1"}

    run(act)


def test_a_move_that_was_interrupted_after_its_row(bench: Bench) -> None:
    async def act() -> None:
        program = await bench.mount()
        ino = await program.create(b"x", b"bytes")
        await program.setxattr(b"x", b"user.vfsd.tier", b"cache")
        bench.kill()
        (bench.ram / f"{ino:x}.1").write_bytes(b"bytes")
        program = await bench.mount()
        assert await program.contents() == {b"x": b"bytes"}
        assert bench.tier_files() == {f"cache/{ino:x}.1"}

    run(act)


def test_inode_numbers_are_not_given_out_again(bench: Bench) -> None:
    async def act() -> None:
        seen: set[int] = set()
        for number in range(4):
            program = await bench.mount()
            made = [await program.create(b"%d-%d" % (number, n)) for n in range(3)]
            await program.unlink(b"%d-2" % number)
            assert not seen & set(made)
            seen |= set(made)
            if number % 2:
                assert (await bench.flush()).complete
            bench.kill()

    run(act)


def test_what_an_earlier_daemon_recorded_is_made_durable_by_the_first_sync(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And before tier files go that only an older, durable state of the journal may name."""

    async def act() -> None:
        program = await bench.mount()
        await program.create(b"x", b"bytes")
        bench.kill()
        order: list[str] = []
        fsync, fdatasync, unlink = os.fsync, os.fdatasync, os.unlink
        (bench.cache / "77.1").write_bytes(b"stranger")
        monkeypatch.setattr(os, "fsync", lambda fd: (order.append(_name_of(fd)), fsync(fd))[1])
        monkeypatch.setattr(os, "fdatasync", lambda fd: (order.append(_name_of(fd)), fdatasync(fd))[1])
        monkeypatch.setattr(os, "unlink", lambda *a, **k: (order.append(str(a[0])), unlink(*a, **k))[1])
        await bench.mount()
        assert order.index("journal.sqlite-wal") < order.index("77.1")

    run(act)


def _name_of(fd: int) -> str:
    return Path(os.readlink(f"/proc/self/fd/{fd}")).name


# --- the machine stopped


async def _restart(bench: Bench) -> Program:
    bench.unmount() if bench.tree is None else bench.restart_machine()
    return await bench.mount()


def test_what_was_synced_survives_the_machine(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("old.tif", b"old")
        program = await bench.mount()
        await program.mkdir(b"results")
        await program.create(b"results/new", b"synced")
        await program.write(b"old.tif", 0, b"OLD")
        await program.fsync(b"results/new")
        await program.fsync(b"old.tif")
        assert await program.tier(b"results/new") == "cache"
        program = await _restart(bench)
        assert program.tree.lost == []
        assert await program.contents() == {b"old.tif": b"OLD", b"results": None, b"results/new": b"synced"}

    run(act)


def test_what_was_only_in_ram_is_named_and_older_bytes_are_back(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("source.tif", b"source")
        program = await bench.mount()
        await program.create(b"stored", b"stored")
        assert (await bench.flush()).complete
        await program.write(b"stored", 0, b"X")
        await program.write(b"source.tif", 0, b"X")
        await program.truncate(b"source.tif", 2)
        await program.create(b"new", b"new")
        program = await _restart(bench)
        assert sorted(program.tree.lost) == [b"new", b"source.tif", b"stored"]
        assert await program.contents() == {b"source.tif": b"source", b"stored": b"stored"}
        assert (await program.stat(b"source.tif")).size == 6
        assert (await bench.flush()).complete

    run(act)


def test_a_new_file_in_the_cache_that_was_never_synced_is_named(bench: Bench) -> None:
    """Nobody can tell whether it is whole."""

    async def act() -> None:
        program = await bench.mount()
        for name in (b"spilled", b"synced", b"replaced"):
            await program.create(name, name)
            await program.setxattr(name, b"user.vfsd.tier", b"cache")
        await program.fsync(b"synced")
        await program.write(b"replaced", 0, b"again", os.O_TRUNC)
        bench.kill()
        program = await bench.mount()
        assert program.tree.losses.doubtful == []
        program = await _restart(bench)
        assert sorted(program.tree.losses.doubtful) == [b"replaced", b"spilled"]
        assert program.tree.lost == []
        assert await program.contents() == {b"spilled": b"spilled", b"synced": b"synced", b"replaced": b"again"}

    run(act)


def test_what_is_lost_is_said_until_somebody_was_told(bench: Bench) -> None:
    """Also by the mount after one that was killed before it could say anything."""

    async def act() -> None:
        bench.put_source("old", b"source")
        program = await bench.mount()
        await program.create(b"new-\xff", b"new")
        await program.write(b"old", 0, b"X")
        program = await _restart(bench)
        for _ in range(2):
            assert sorted(program.tree.lost) == [b"new-\xff", b"old"]
            assert program.tree.losses.older == {b"old"}
            bench.kill()
            program = await bench.mount()
        program.tree.told_of_losses()
        bench.kill()
        program = await bench.mount()
        assert program.tree.lost == []

    run(act)


def test_a_recovery_that_is_killed_half_way_is_done_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        bench.put_source("old", b"source")
        program = await bench.mount()
        await program.create(b"synced", b"synced")
        await program.fsync(b"synced")
        await program.write(b"synced", 0, b"cut", os.O_TRUNC)
        await program.create(b"new", b"new")
        await program.write(b"old", 0, b"X")
        bench.restart_machine()
        for step in ("_show_committed", "_adopt", "_remove", "_known_files"):
            with monkeypatch.context() as patch:
                patch.setattr(Recovery, step, _stop)
                with pytest.raises(RuntimeError, match="stopped here"):
                    await bench.mount()
            bench.kill()
        program = await bench.mount()
        assert sorted(program.tree.lost) == [b"new", b"old", b"synced"]
        assert await program.contents() == {b"old": b"source", b"synced": b"synced"}
        assert (await bench.flush()).complete

    run(act)


def _stop(*_: object, **__: object) -> None:
    raise RuntimeError("stopped here")


def test_a_half_copied_file_is_not_taken_for_the_lost_one(bench: Bench) -> None:
    """The machine stopped while a file moved to the cache: its copy there has the right size, and zeros."""

    async def act() -> None:
        program = await bench.mount()
        ino = await program.create(b"x", b"bytes")
        bench.restart_machine()
        (bench.cache / f"{ino:x}.1").write_bytes(bytes(5))
        program = await bench.mount()
        assert program.tree.lost == [b"x"]
        assert await program.contents() == {}

    run(act)


def test_a_copy_up_in_the_cache_that_was_never_synced_gives_way_to_the_durable_bytes(bench: Bench) -> None:
    async def act() -> None:
        bench.ram_budget = 0
        bench.put_source("source.tif", b"source")
        bench.put_source("truncated.tif", b"truncated")
        program = await bench.mount()
        for path in (b"source.tif", b"truncated.tif"):
            await program.write(path, 0, b"X", os.O_TRUNC if path == b"truncated.tif" else 0)
        await program.create(b"fresh", b"fresh")
        bench.restart_machine()
        for path in bench.cache.iterdir():
            if path.stat().st_size > 5:
                path.write_bytes(bytes(path.stat().st_size))  # the size was on the disk, the bytes were not
        program = await bench.mount()
        assert sorted(program.tree.lost) == [b"source.tif", b"truncated.tif"]
        found = await program.contents()
        assert found == {b"source.tif": b"source", b"truncated.tif": b"truncated", b"fresh": b"fresh"}

    run(act)


def test_a_killed_daemon_keeps_what_was_not_synced_yet(bench: Bench) -> None:
    async def act() -> None:
        bench.ram_budget = 0
        bench.put_source("source.tif", b"source")
        program = await bench.mount()
        await program.write(b"source.tif", 0, b"X")
        bench.kill()
        program = await bench.mount()
        assert await program.read(b"source.tif") == b"Xource"
        await program.tree.durability.settle()
        program = await _restart(bench)
        assert await program.read(b"source.tif") == b"Xource"

    run(act)


@pytest.mark.parametrize("ram_budget", [0, 16 * MIB])
@pytest.mark.parametrize("synced", [False, True])
def test_a_synced_version_stays_until_the_one_that_truncated_it_is_synced(
    bench: Bench, ram_budget: int, synced: bool
) -> None:
    async def act() -> None:
        bench.ram_budget = ram_budget
        program = await bench.mount()
        await program.create(b"x", b"synced version")
        await program.fsync(b"x")
        await program.write(b"x", 0, b"new", os.O_TRUNC)
        assert await program.read(b"x") == b"new"
        await program.create(b"another", b"")
        await program.fsync(b"another")  # a durability point of the journal is not one of the bytes
        assert len(bench.tier_files()) == 3
        if synced:
            await program.fsync(b"x")
            assert len(bench.tier_files()) == 2
        program = await _restart(bench)
        assert await program.read(b"x") == (b"new" if synced else b"synced version")
        assert len(bench.tier_files()) == 2
        await program.write(b"x", 0, b"again", os.O_TRUNC)
        bench.kill()
        program = await bench.mount()
        assert await program.read(b"x") == b"again"
        await program.fsync(b"x")
        assert len(bench.tier_files()) == 2

    run(act)


def test_a_stored_file_that_was_cut_shows_the_stores_bytes_again(bench: Bench) -> None:
    """And not what is left of a hydrated copy, which was never synced, and whose deletion was not either."""

    async def act() -> None:
        program = await bench.mount()
        ino = await program.create(b"x", b"stored")
        assert (await bench.flush()).complete
        program.tree.tiers.drop_clean()
        await program.read(b"x")
        await program.setxattr(b"x", b"user.vfsd.tier", b"cache")
        assert bench.tier_files() == {f"cache/{ino:x}.1"}
        await program.write(b"x", 0, b"cut", os.O_TRUNC)
        bench.restart_machine()
        (bench.cache / f"{ino:x}.1").write_bytes(bytes(6))
        program = await bench.mount()
        assert program.tree.lost == [b"x"]
        assert await program.contents() == {b"x": b"stored"}
        assert not [name for name in bench.tier_files() if name.startswith("cache")]

    run(act)


def test_what_a_flush_found_changing_is_not_given_up_for_what_it_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Synced, stored while it changed in place, synced again, then cut: the bytes that count are the cache's, not the store's."""

    async def act() -> None:
        program = await bench.mount()
        await program.create(b"x", b"first")
        await program.fsync(b"x")
        commit = flush_module._Flush._commit

        async def change_and_commit(flush: Any, *arguments: Any) -> None:
            await program.write(b"x", 0, b"FIRST")
            await commit(flush, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(flush_module._Flush, "_commit", change_and_commit)
            await bench.flush()
        assert program.tree.dirty().files == 1
        await program.fsync(b"x")
        await program.write(b"x", 0, b"cut", os.O_TRUNC)
        program = await _restart(bench)
        assert await program.contents() == {b"x": b"FIRST"}

    run(act)


def test_a_version_that_was_stored_after_all_counts(bench: Bench) -> None:
    """Synced, cut, stored, and cut again: the older file, if it is still there, is older than the store's."""

    async def act() -> None:
        program = await bench.mount()
        await program.create(b"x", b"synced")
        await program.fsync(b"x")
        await program.write(b"x", 0, b"stored", os.O_TRUNC)
        assert (await bench.flush()).complete
        await program.write(b"x", 0, b"unsynced", os.O_TRUNC)
        program = await _restart(bench)
        assert await program.contents() == {b"x": b"stored"}
        assert program.tree.lost == [b"x"]

    run(act)


@pytest.mark.parametrize("new_in", ["ram", "cache"])
@pytest.mark.parametrize("old_in", ["cache", "source", "store"])
def test_a_version_replaced_by_rename_is_kept_until_the_new_one_is_durable(
    bench: Bench, old_in: str, new_in: str
) -> None:
    async def act() -> None:
        bench.put_source("source", b"old")
        program = await bench.mount()
        await program.create(b"store", b"old")
        assert (await bench.flush()).complete
        await program.create(b"cache", b"old")
        await program.fsync(b"cache")
        await program.create(b"new", b"new")
        name = old_in.encode()
        if new_in == "cache":
            await program.setxattr(b"new", b"user.vfsd.tier", b"cache")
        await program.rename(b"new", name)
        durable = await program.tier(name) == "cache"
        assert durable == (new_in == "cache" or old_in == "cache")
        program = await _restart(bench)
        assert await program.read(name) == (b"new" if durable else b"old")

    run(act)


@pytest.mark.parametrize("old_in", ["source", "store"])
def test_a_durable_file_that_was_moved_and_then_replaced_by_rename_is_kept_too(bench: Bench, old_in: str) -> None:
    async def act() -> None:
        bench.put_source("source", b"old")
        program = await bench.mount()
        await program.create(b"store", b"old")
        assert (await bench.flush()).complete
        await program.rename(old_in.encode(), b"moved")
        await program.create(b"synced", b"")
        await program.fsync(b"synced")
        await program.create(b"new", b"new")
        await program.rename(b"new", b"moved")
        program = await _restart(bench)
        assert await program.read(b"moved") == b"new"

    run(act)


def test_a_version_that_was_cut_and_then_replaced_by_rename_is_kept_too(bench: Bench) -> None:
    async def act() -> None:
        program = await bench.mount()
        await program.create(b"x", b"synced")
        await program.fsync(b"x")
        await program.write(b"x", 0, b"cut", os.O_TRUNC)
        await program.create(b"new", b"new")
        await program.rename(b"new", b"x")
        program = await _restart(bench)
        assert await program.read(b"x") == b"new"

    run(act)


def test_a_lost_file_does_not_bring_back_what_was_moved_away_from_its_name(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("a", b"source")
        program = await bench.mount()
        await program.create(b"b", b"stored")
        assert (await bench.flush()).complete
        for name in (b"a", b"b"):
            await program.rename(name, name + b".bak")
            await program.create(name, b"new")
        program = await _restart(bench)
        assert await program.contents() == {b"a.bak": b"source", b"b.bak": b"stored"}
        await program.unlink(b"a.bak")
        assert await program.names() == {b"b.bak"}

    run(act)


def test_a_source_file_that_vanished_does_not_keep_a_tree_from_starting(bench: Bench) -> None:
    async def act() -> None:
        file = bench.put_source("x", b"source")
        program = await bench.mount()
        await program.write(b"x", 0, b"X")
        await program.create(b"y", b"y")
        await program.fsync(b"y")
        file.unlink()
        program = await _restart(bench)
        assert program.tree.lost == [b"x"]
        assert await program.read(b"y") == b"y"

    run(act)


def test_what_is_in_ram_is_secured_before_the_machine_stops(bench: Bench) -> None:
    """SIGTERM of a shutdown: all dirty bytes come to disk, synced, and nothing new is begun."""

    async def act() -> None:
        bench.put_source("source.tif", b"source")
        program = await bench.mount()
        await program.create(b"new", b"new")
        await program.create(b"spilled", b"spilled")
        await program.setxattr(b"spilled", b"user.vfsd.tier", b"cache")
        await program.create(b"cut", b"synced")
        await program.fsync(b"cut")
        await program.write(b"cut", 0, b"later", os.O_TRUNC)
        await program.write(b"source.tif", 0, b"S")
        handle = await program.open(b"new", os.O_WRONLY)
        assert await program.tree.secure() == 0
        assert program.tree.tiers.usage()["ram"].files == 0
        await program.tree.contents.write(handle, 3, b"er")
        for opening in (program.read(b"new"), program.create(b"another")):
            with pytest.raises(OSError, match="ending") as caught:
                await opening
            assert caught.value.errno == errno.ESHUTDOWN
        program = await _restart(bench)
        assert program.tree.lost == []
        found = await program.contents()
        assert found == {b"new": b"newer", b"spilled": b"spilled", b"cut": b"later", b"source.tif": b"Source"}

    run(act)


def test_a_full_cache_leaves_in_ram_what_it_cannot_take(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        program = await bench.mount()
        for number in range(3):
            await program.create(b"%d" % number, b"x" * 5000)
        move = program.tree.tiers.move_to_cache

        async def move_some(file: Any) -> None:
            if file.ino % 2:
                raise OSError(errno.ENOSPC, "full")
            await move(file)

        monkeypatch.setattr(program.tree.tiers, "move_to_cache", move_some)
        failed = await program.tree.secure()
        assert failed == program.tree.tiers.usage()["ram"].files > 0
        assert (await bench.flush()).complete

    run(act)


@pytest.mark.parametrize("before", ["new", "spilled", "synced"])
def test_a_failed_sync_of_a_file_is_not_followed_by_one_that_claims_success(
    bench: Bench, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel reports it once, and may then forget the bytes. Storing the file is the way out."""

    async def act() -> None:
        program = await bench.mount()
        await program.create(b"x", b"bytes")
        await program.create(b"y", b"other")
        if before == "spilled":
            await program.setxattr(b"x", b"user.vfsd.tier", b"cache")
        if before == "synced":
            await program.fsync(b"x")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _fail)
            with pytest.raises(OSError, match="Input/output"):
                await program.fsync(b"x")
        with pytest.raises(OSError, match="earlier") as caught:
            await program.fsync(b"x")
        assert caught.value.errno == errno.EIO
        await program.fsync(b"y")
        assert await program.read(b"x") == b"bytes"
        assert (await bench.flush()).complete
        await program.fsync(b"x")
        await program.write(b"x", 0, b"again", os.O_TRUNC)
        await program.fsync(b"x")

    run(act)


def _fail(fd: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("each_up_to", [64, 0])
def test_a_file_that_cannot_be_synced_keeps_no_other_from_the_disk(
    bench: Bench, each_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the daemon is told to stop: the first of three files has failed, and only that one counts as not synced."""

    async def act() -> None:
        monkeypatch.setattr(syncing, "SYNC_EACH_UP_TO", each_up_to)
        program = await bench.mount()
        for name in (b"1", b"2", b"3"):
            await program.create(name, b"synced")
            await program.fsync(name)
            await program.write(name, 0, b"later", os.O_TRUNC)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", _fail)
            with pytest.raises(OSError, match="Input/output"):
                await program.fsync(b"1")
        assert await program.tree.secure() == 1
        nodes = [await program.node(name) for name in (b"1", b"2", b"3")]
        assert [node.unsettled for node in nodes] == [True, False, False]
        program = await _restart(bench)
        assert await program.contents() == {b"1": b"synced", b"2": b"later", b"3": b"later"}

    run(act)


def test_a_file_that_is_synced_before_it_has_a_name_is_durable_with_it(bench: Bench) -> None:
    """O_TMPFILE, write, fsync, linkat, and fsync of the directory: how a file comes into being whole or not at all."""

    async def act() -> None:
        program = await bench.mount()
        ino = (await program.tree.names.tmpfile(ROOT_INO, 0o644, CALLER)).ino
        handle = await program.tree.contents.open(ino, os.O_RDWR)
        await program.tree.contents.write(handle, 0, b"synced")
        await program.tree.contents.fsync(program.tree.layers.node(ino))
        await program.tree.names.link(ino, ROOT_INO, b"named")
        await program.tree.journal.sync()
        unnamed = (await program.tree.names.tmpfile(ROOT_INO, 0o644, CALLER)).ino
        await program.tree.contents.fsync(program.tree.layers.node(unnamed))
        program = await _restart(bench)
        assert program.tree.lost == program.tree.losses.doubtful == []
        assert await program.contents() == {b"named": b"synced"}
        assert len(bench.tier_files()) == 1

    run(act)


def test_another_file_that_took_the_name_during_a_rename_is_synced_as_well(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two programs write beside under one name: what is renamed over a synced file is what was synced for it."""

    async def act() -> None:
        program = await bench.mount()
        await program.create(b"x", b"old")
        await program.fsync(b"x")
        await program.create(b"beside", b"first")
        fsync, raced = program.tree.durability.fsync, False

        async def fsync_while_another_comes(node: Node, *, data_only: bool = False) -> None:
            nonlocal raced
            await fsync(node, data_only=data_only)
            if not raced:
                raced = True
                await program.unlink(b"beside")
                await program.create(b"beside", b"second")

        monkeypatch.setattr(program.tree.durability, "fsync", fsync_while_another_comes)
        await program.rename(b"beside", b"x")
        assert raced
        assert await program.read(b"x") == b"second"
        program = await _restart(bench)
        assert await program.read(b"x") == b"second"

    run(act)


@pytest.mark.parametrize("doing", ["spilled", "flushed"])
def test_a_file_that_is_synced_while_it_is_spilled_or_flushed_is_durable(bench: Bench, doing: str) -> None:
    async def act() -> None:
        program = await bench.mount()
        data = os.urandom(3 * MIB)
        await program.create(b"x", data)
        await program.create(b"neighbour", b"n")
        node = await program.node(b"x")
        assert node.data is not None
        async with trio.open_nursery() as nursery:
            if doing == "spilled":
                nursery.start_soon(program.tree.tiers.spiller._moves.spill, node.data)
            else:
                nursery.start_soon(bench.flush)
            for _ in range(3):
                await trio.lowlevel.checkpoint()
            await program.fsync(b"x")
        program = await _restart(bench)
        found = await program.contents()
        assert found[b"x"] == data
        assert (b"neighbour" in found) == (doing == "flushed")

    run(act)


# --- the journal cannot be written


def _everything(program: Program) -> list[tuple[str, Callable[[], Coroutine[Any, Any, Any]]]]:
    names = program.tree.names
    return [
        ("mkdir", lambda: program.mkdir(b"late")),
        ("create", lambda: names.create(1, b"late", 0o644, CALLER)),
        ("symlink", lambda: names.symlink(1, b"late", b"to", CALLER)),
        ("link", lambda: program.link(b"day/one", b"late")),
        ("unlink", lambda: program.unlink(b"day/one")),
        ("unlink linked", lambda: program.unlink(b"day/linked")),
        ("rmdir", lambda: program.rmdir(b"empty")),
        ("rename", lambda: program.rename(b"day/one", b"moved")),
        ("rename over", lambda: program.rename(b"new", b"day/one")),
        ("rename directory", lambda: program.rename(b"day", b"moved")),
        ("rename over directory", lambda: program.rename(b"made", b"empty")),
        ("exchange", lambda: program.rename(b"new", b"day", RENAME_EXCHANGE)),
        ("chmod", lambda: program.setattr(b"day/one", mode=0o600)),
        ("times", lambda: program.setattr(b"new", mtime=7)),
        ("xattr", lambda: program.setxattr(b"day/one", b"user.x", b"x" * 60_000)),
        ("copy up", lambda: program.write(b"day/one", 0, b"X")),
        ("cut", lambda: program.truncate(b"day/one", 0)),
        ("move", lambda: program.setxattr(b"new", b"user.vfsd.tier", b"cache")),
    ]


async def _picture(program: Program) -> dict[bytes, Any]:
    """All that is seen of a tree."""
    seen: dict[bytes, Any] = {b"": await program.stat(b"")}
    for path, data in (await program.contents()).items():
        node = await program.node(path)
        seen[path] = data, await program.stat(path), await program.tree.attributes.xattrs(node.ino), node.path()
    return seen


@pytest.mark.parametrize("number", range(18))
@pytest.mark.parametrize("when", ["begin", "middle", "log", "read"])
def test_an_operation_that_cannot_be_recorded_has_not_happened(
    bench: Bench, number: int, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act() -> None:
        for path in ("day/one", "day/linked", "empty/x"):
            bench.put_source(path, path.encode())
        program = await bench.mount()
        await program.unlink(b"empty/x")
        await program.mkdir(b"made")
        await program.create(b"new", b"new")
        await program.link(b"day/linked", b"second")
        before = await _picture(program)
        files = bench.tier_files()
        name, operation = _everything(program)[number]
        _break(program, when, monkeypatch)
        with pytest.raises(OSError, match="full") as caught:
            await operation()
        monkeypatch.undo()
        assert caught.value.errno == errno.ENOSPC
        assert await _picture(program) == before, name
        assert bench.tier_files() == files, name
        await operation()
        after = await _picture(program)
        assert after != before or name == "move"
        bench.kill()
        program = await bench.mount()
        assert {path: seen[0] for path, seen in (await _picture(program)).items() if path} == {
            path: seen[0] for path, seen in after.items() if path
        }

    run(act)


def _break(program: Program, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal's disk is full: before a change, in its middle, when it is logged, or then after a part of it was read."""
    recorded = program.tree.journal._rows
    database, note, noted = recorded.db, recorded.note, []
    full = OSError(errno.ENOSPC, "full")

    class Full:
        """SQLite as it is, but for a commit, which fails."""

        def __getattr__(self, name: str) -> Any:
            return getattr(database, name)

        def execute(self, statement: str, *values: Any) -> Any:
            if statement == "COMMIT":
                error = sqlite3.OperationalError("database or disk is full")
                error.sqlite_errorname = "SQLITE_FULL"
                raise error
            return database.execute(statement, *values)

    def note_one(*arguments: Any) -> None:
        noted.append(arguments)
        if len(noted) == 2:
            raise full
        note(*arguments)

    def note_and_read(*arguments: Any) -> None:
        note(*arguments)
        recorded.select("SELECT 1")

    def append(number: int, operations: Any) -> None:
        raise full

    if when == "begin":
        monkeypatch.setattr(rows, "COMMIT_OPERATIONS", 1)
        monkeypatch.setattr(recorded, "db", Full())
    elif when == "middle":
        monkeypatch.setattr(recorded, "note", note_one)
    if when in ("middle", "log", "read"):
        monkeypatch.setattr(recorded._log, "append", append)
    if when == "read":
        monkeypatch.setattr(recorded, "note", note_and_read)
