"""The source may change underneath: what it has now is what is seen, and trouble with reading it loses nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from tree_bench import EARLY_NS, Bench, Program, run

from vfsd.tree import merging
from vfsd.tree.source import SourceEntry, SourceScan

LONG_AGO = -1000.0


def forget_looks(program: Program) -> None:
    """As if the last look at the source had been long ago."""
    for node in program.tree.layers.nodes.values():
        node.checked = node.names_checked = node.names_read = LONG_AGO


def test_a_file_that_grows_is_seen_to_grow_by_whoever_looks_it_up_or_lists_it(bench: Bench) -> None:
    """Its directory's mtime stays: programs that wait for the end of an acquisition compare sizes."""

    async def act() -> None:
        file = bench.put_source("day/x.tif", b"first")
        program = await bench.mount()
        names = program.tree.names
        directory = await program.ino(b"day")
        assert (await names.lookup(directory, b"x.tif")).size == 5
        with file.open("ab") as growing:
            growing.write(b"second")
        forget_looks(program)
        assert (await names.lookup(directory, b"x.tif")).size == 11
        with file.open("ab") as growing:
            growing.write(b"third")
        forget_looks(program)
        await names.listing(directory)
        found = names.entry(directory, b"x.tif")
        assert found is not None
        assert found.size() == 16
        assert await program.read(b"day/x.tif") == b"firstsecondthird"

    run(act)


def test_a_file_whose_mode_was_changed_here_still_follows_its_bytes(bench: Bench) -> None:
    async def act() -> None:
        file = bench.put_source("x.tif", b"first")
        program = await bench.mount()
        await program.setattr(b"x.tif", mode=0o600)
        with file.open("ab") as growing:
            growing.write(b"second")
        forget_looks(program)
        found = await program.stat(b"x.tif")
        assert (found.size, found.mode & 0o777) == (11, 0o600)
        assert not found.stable
        assert await program.read(b"x.tif") == b"firstsecond"

    run(act)


def test_names_come_and_go_with_the_source(bench: Bench) -> None:
    async def act() -> None:
        file = bench.put_source("x", b"x")
        program = await bench.mount()
        assert await program.names() == {b"x"}
        (bench.source / "y").write_bytes(b"y")
        file.unlink()
        os.utime(bench.source, ns=(EARLY_NS, EARLY_NS))
        forget_looks(program)
        with pytest.raises(FileNotFoundError):
            await program.ino(b"x")
        assert await program.names() == {b"y"}
        (bench.source / "y").unlink()
        (bench.source / "y").mkdir()
        forget_looks(program)
        assert (await program.node(b"y")).is_directory

    run(act)


def test_a_file_found_gone_when_opened_is_gone_at_the_next_lookup(bench: Bench) -> None:
    """The kernel looks the name up again after ESTALE, and a program then gets ENOENT."""

    async def act() -> None:
        file = bench.put_source("day/x", b"x")
        program = await bench.mount()
        ino = await program.ino(b"day/x")
        file.unlink()
        with pytest.raises(OSError, match="no longer in the source") as caught:
            await program.tree.contents.open(ino, os.O_RDONLY)
        assert caught.value.errno == errno.ESTALE
        with pytest.raises(FileNotFoundError):
            await program.ino(b"day/x")

    run(act)


def test_a_name_that_comes_within_the_step_of_a_clock_is_seen(bench: Bench) -> None:
    """The directory has the mtime that it had when it was read."""

    async def act() -> None:
        program = await bench.mount()
        assert await program.names() == set()
        read_at = bench.source.stat().st_mtime_ns
        (bench.source / "late").write_bytes(b"late")
        os.utime(bench.source, ns=(read_at, read_at))
        program.tree.layers.root.names_checked = LONG_AGO
        assert await program.read(b"late") == b"late"

    run(act)


def test_a_file_that_comes_back_is_written_for_good(bench: Bench) -> None:
    """The kernel still knows its number from before: writes to it must not go the way of an unlinked file's."""

    async def act() -> None:
        file = bench.put_source("day/x", b"before")
        program = await bench.mount()
        ino = await program.ino(b"day/x")
        file.unlink()
        forget_looks(program)
        assert await program.names(b"day") == set()
        bench.put_source("day/x", b"after!")
        forget_looks(program)
        assert await program.ino(b"day/x") == ino
        assert (await program.stat(b"day/x")).nlink == 1
        await program.write(b"day/x", 0, b"MINE")
        assert program.tree.dirty().files == 1
        bench.kill()
        assert await (await bench.mount()).read(b"day/x") == b"MINEr!"

    run(act)


def test_a_directory_that_comes_back_can_be_written_to(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("day/x", b"x")
        program = await bench.mount()
        await program.names(b"day")
        (bench.source / "day").rename(bench.folder / "away")
        forget_looks(program)
        assert await program.names() == set()
        (bench.folder / "away").rename(bench.source / "day")
        forget_looks(program)
        await program.create(b"day/new", b"new")
        assert await program.contents() == {b"day": None, b"day/new": b"new", b"day/x": b"x"}

    run(act)


def test_a_source_that_cannot_be_read_has_lost_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system that fails for a moment: names stay, and what the mount made is used as before."""

    async def act() -> None:
        bench.put_source("day/x", b"x")
        program = await bench.mount()
        await program.create(b"day/mine", b"mine")
        source = program.tree.source
        assert source is not None

        def fail(*args: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(source, "stat", fail)
        monkeypatch.setattr(source, "scan", fail)
        forget_looks(program)
        assert await program.names(b"day") == {b"x", b"mine"}
        assert await program.read(b"day/mine") == b"mine"
        monkeypatch.undo()
        forget_looks(program)
        assert await program.contents() == {b"day": None, b"day/mine": b"mine", b"day/x": b"x"}
        assert (await program.stat(b"day/x")).nlink == 1

    run(act)


def test_one_of_several_links_that_goes_leaves_the_others(bench: Bench) -> None:
    async def act() -> None:
        first = bench.put_source("a", b"bytes")
        os.link(first, bench.source / "b")
        program = await bench.mount()
        assert await program.ino(b"a") == await program.ino(b"b")
        first.unlink()
        forget_looks(program)
        assert await program.names() == {b"b"}
        assert await program.read(b"b") == b"bytes"
        await program.write(b"b", 0, b"B")
        bench.kill()
        assert await (await bench.mount()).contents() == {b"b": b"Bytes"}

    run(act)


def test_a_link_that_is_replaced_is_another_file(bench: Bench) -> None:
    async def act() -> None:
        first = bench.put_source("a", b"bytes")
        os.link(first, bench.source / "b")
        program = await bench.mount()
        assert await program.ino(b"a") == await program.ino(b"b")
        Path(bench.source / "new").write_bytes(b"other")
        Path(bench.source / "new").rename(first)
        forget_looks(program)
        await program.names()
        assert await program.contents() == {b"a": b"other", b"b": b"bytes"}
        assert await program.ino(b"a") != await program.ino(b"b")

    run(act)


def test_odd_objects_of_a_source_are_shown(bench: Bench) -> None:
    async def act() -> None:
        os.mkfifo(bench.source / "fifo")
        os.symlink(b"to \xff nowhere", os.fsencode(bench.source) + b"/link\xfe")
        program = await bench.mount()
        assert await program.names() == {b"fifo", b"link\xfe"}
        assert await program.tree.names.readlink(await program.ino(b"link\xfe")) == b"to \xff nowhere"
        with pytest.raises(OSError, match="Invalid argument"):
            await program.open(b"fifo")

    run(act)


# --- large directories are read in pieces


def _between_pieces(monkeypatch: pytest.MonkeyPatch, *acts: Callable[[], Awaitable[Any]]) -> None:
    """Read directories a name at a time; the acts happen one after each piece of the next reading."""
    pending = list(acts)
    read = SourceScan.read

    def read_and_act(scan: SourceScan, count: int) -> list[SourceEntry]:
        entries = read(scan, count)
        if pending:
            trio.from_thread.run(pending.pop(0))
        return entries

    monkeypatch.setattr(merging, "PIECE", 1)
    monkeypatch.setattr(SourceScan, "read", read_and_act)


def test_what_is_done_while_a_directory_is_read_again_stays_done(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        for number in range(6):
            bench.put_source(f"f{number}", b"source")
        program = await bench.mount()
        order = sorted(await program.names())
        forget_looks(program)
        removed, renamed, replaced = order[1], order[3], order[4]

        async def replace() -> None:
            await program.unlink(replaced)
            await program.create(replaced, b"mine")

        _between_pieces(
            monkeypatch,
            lambda: program.unlink(removed),
            lambda: program.rename(renamed, b"moved"),
            replace,
            lambda: program.create(b"new", b"new"),
        )
        expected = (set(order) - {removed, renamed}) | {b"moved", b"new"}
        await program.names()
        assert await program.names() == expected
        assert await program.read(b"moved") == b"source"
        assert await program.read(replaced) == b"mine"
        await program.unlink(replaced)
        bench.kill()
        program = await bench.mount()
        assert await program.names() == expected - {replaced}

    run(act)


def test_a_reading_that_fails_half_way_takes_no_name_away(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        for number in range(4):
            bench.put_source(f"f{number}", b"source")
        program = await bench.mount()
        before = await program.names()
        forget_looks(program)
        (bench.source / "f9").write_bytes(b"late")

        async def fail() -> None:
            raise OSError(errno.EIO, "Input/output error")

        async def nothing() -> None:
            pass

        _between_pieces(monkeypatch, nothing, fail)
        assert await program.names() >= before
        forget_looks(program)
        assert await program.names() == before | {b"f9"}

    run(act)


def test_names_that_go_from_a_directory_of_many_pieces_are_gone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        monkeypatch.setattr(merging, "PIECE", 3)
        for number in range(10):
            bench.put_source(f"f{number}", b"source")
        (bench.source / "g0").hardlink_to(bench.source / "f0")
        program = await bench.mount()
        assert len(await program.names()) == 11
        assert await program.ino(b"g0") == await program.ino(b"f0")
        for name in ("f0", "f5", "f9"):
            (bench.source / name).unlink()
        forget_looks(program)
        assert await program.names() == {b"g0", b"f1", b"f2", b"f3", b"f4", b"f6", b"f7", b"f8"}
        assert (await program.stat(b"g0")).nlink == 1

    run(act)


def test_a_removed_source_name_stays_hidden_when_something_is_made_and_removed_in_its_place(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("day/x", b"x")
        bench.put_source("day/y", b"y")
        program = await bench.mount()
        await program.unlink(b"day/x")
        await program.create(b"day/x", b"mine")
        await program.setattr(b"day/y", mode=0o600)
        await program.unlink(b"day/x")
        await program.unlink(b"day/y")
        assert await program.names(b"day") == set()
        await program.rmdir(b"day")
        await program.mkdir(b"day")
        await program.rmdir(b"day")
        forget_looks(program)
        assert await program.names() == set()
        bench.kill()
        assert await (await bench.mount()).names() == set()

    run(act)
