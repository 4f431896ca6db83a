"""Names: what the source has and the mount changed, in one tree, and what a second mount makes of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable

import pytest
from tree_bench import CALLER, Bench, run

from vfsd.tree import RENAME_EXCHANGE, RENAME_NOREPLACE


async def error_of(act: Awaitable[object]) -> str:
    with pytest.raises(OSError, match=r".*") as caught:
        await act
    return errno.errorcode[caught.value.errno or 0]


def test_removed_source_names_stay_hidden_and_the_source_stays(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("day/one.tif", b"one")
        bench.put_source("day/two.tif", b"two")
        bench.put_source("old/x.tif", b"x")
        program = await bench.mount()
        await program.unlink(b"day/one.tif")
        await program.unlink(b"old/x.tif")
        await program.rmdir(b"old")
        expected = {b"day": None, b"day/two.tif": b"two"}
        assert await program.contents() == expected
        bench.kill()
        program = await bench.mount()
        assert await program.contents() == expected
        assert (await bench.flush()).complete
        bench.unmount()
        assert await (await bench.mount()).contents() == expected
        assert (bench.source / "day/one.tif").read_bytes() == b"one"

    run(act)


def test_a_source_directory_made_again_shows_only_what_is_new(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("day/one.tif", b"one")
        program = await bench.mount()
        await program.unlink(b"day/one.tif")
        await program.rmdir(b"day")
        await program.mkdir(b"day")
        await program.create(b"day/new.tif", b"new")
        expected = {b"day": None, b"day/new.tif": b"new"}
        assert await program.contents() == expected
        bench.kill()
        assert await (await bench.mount()).contents() == expected

    run(act)


def test_a_renamed_source_directory_keeps_its_files_where_they_are(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("a/b/one.tif", b"one")
        bench.put_source("a/two.tif", b"two")
        program = await bench.mount()
        one = await program.ino(b"a/b/one.tif")
        await program.rename(b"a", b"z")
        await program.rename(b"z/b", b"deep")
        expected = {b"deep": None, b"deep/one.tif": b"one", b"z": None, b"z/two.tif": b"two"}
        assert await program.contents() == expected
        assert await program.ino(b"deep/one.tif") == one
        assert await program.tier(b"deep/one.tif") == "source"
        await program.mkdir(b"a")
        assert await program.names(b"a") == set()
        bench.kill()
        program = await bench.mount()
        assert await program.contents() == expected | {b"a": None}

    run(act)


def test_rename_over_and_exchange(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("one", b"1")
        bench.put_source("two", b"2")
        bench.put_source("full/x", b"x")
        bench.put_source("dir/y", b"y")
        program = await bench.mount()
        assert await error_of(program.rename(b"one", b"two", RENAME_NOREPLACE)) == "EEXIST"
        assert await error_of(program.rename(b"dir", b"full")) == "ENOTEMPTY"
        assert await error_of(program.rename(b"one", b"full")) == "EISDIR"
        assert await error_of(program.rename(b"dir", b"one")) == "ENOTDIR"
        assert await error_of(program.rename(b"dir", b"dir/below")) == "EINVAL"
        assert await error_of(program.rename(b"none", b"two")) == "ENOENT"
        await program.rename(b"one", b"two")
        await program.rename(b"two", b"full", RENAME_EXCHANGE)
        expected = {b"full": b"1", b"two": None, b"two/x": b"x", b"dir": None, b"dir/y": b"y"}
        assert await program.contents() == expected
        bench.kill()
        assert await (await bench.mount()).contents() == expected

    run(act)


def test_a_directory_that_got_source_files_unseen_is_not_empty(bench: Bench) -> None:
    """rmdir and rename look at the source's directory now, not at what it had a moment ago."""

    async def act() -> None:
        for name in ("gone", "over"):
            (bench.source / name).mkdir()
        program = await bench.mount()
        await program.mkdir(b"mine")
        assert await program.names(b"gone") == await program.names(b"over") == set()
        (bench.source / "gone" / "late.tif").write_bytes(b"late")
        (bench.source / "over" / "late.tif").write_bytes(b"late")
        assert await error_of(program.rmdir(b"gone")) == "ENOTEMPTY"
        assert await error_of(program.rename(b"mine", b"over")) == "ENOTEMPTY"

    run(act)


def test_link_counts_of_directories(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("a/x", b"")
        bench.put_source("b/y", b"")
        program = await bench.mount()
        await program.mkdir(b"a/1")
        await program.mkdir(b"a/2")
        await program.rename(b"a/1", b"b/1")
        await program.rename(b"b/1", b"a/2")
        assert (await program.stat(b"a")).nlink == 3
        assert (await program.stat(b"b")).nlink == 2
        await program.rmdir(b"a/2")
        assert (await program.stat(b"a")).nlink == 2
        assert (await program.stat(b"")).nlink == 4

    run(act)


def test_an_unlinked_file_lives_while_it_is_open(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("old", b"source bytes")
        program = await bench.mount()
        ino = await program.create(b"new", b"new bytes")
        handles = [await program.open(name, os.O_RDWR) for name in (b"old", b"new")]
        await program.unlink(b"old")
        await program.unlink(b"new")
        assert await program.names() == set()
        await program.tree.contents.write(handles[1], 0, b"NEW")
        await program.tree.contents.write(handles[0], 0, b"SOURCE")
        assert await program.read_from(handles[0]) == b"SOURCE bytes"
        assert await program.read_from(handles[1]) == b"NEW bytes"
        assert program.tree.dirty().files == 0
        for handle in handles:
            program.close(handle)
        assert bench.tier_files() == set()
        program.tree.names.forget(ino, 10)
        assert ino not in program.tree.layers.nodes

    run(act)


def test_an_unlinked_source_file_does_not_come_back_to_life(bench: Bench) -> None:
    """Its attributes no longer follow the source, which still has it."""

    async def act() -> None:
        bench.put_source("old", b"source bytes")
        program = await bench.mount()
        handle = await program.open(b"old", os.O_RDWR)
        await program.unlink(b"old")
        handle.node.checked = -1000.0
        assert (await program.tree.attributes.getattr(handle.node.ino)).nlink == 0
        await program.tree.contents.write(handle, 0, b"x")
        program.close(handle)
        assert program.tree.dirty().files == 0
        assert bench.tier_files() == set()
        bench.kill()
        assert await (await bench.mount()).names() == set()

    run(act)


def test_a_removed_directory_that_is_open_stays_empty(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("day/x", b"x")
        program = await bench.mount()
        ino = await program.ino(b"day")
        await program.unlink(b"day/x")
        await program.rmdir(b"day")
        program.tree.layers.node(ino).checked = -1000.0
        assert (await program.tree.attributes.getattr(ino)).nlink == 0
        assert await program.tree.names.listing(ino) == []
        assert await error_of(program.tree.names.create(ino, b"late", 0o644, CALLER)) == "ENOENT"

    run(act)


def test_hard_links_of_the_mount(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("one", b"1")
        program = await bench.mount()
        await program.link(b"one", b"more")
        await program.write(b"more", 0, b"2")
        assert await program.read(b"one") == b"2"
        assert (await program.stat(b"one")).nlink == 2
        await program.unlink(b"one")
        assert (await program.node(b"more")).path() == b"more"
        bench.kill()
        program = await bench.mount()
        assert await program.contents() == {b"more": b"2"}
        assert (await program.stat(b"more")).nlink == 1
        await program.unlink(b"more")
        bench.kill()
        await bench.mount()
        assert bench.tier_files() == set()

    run(act)


def test_a_source_file_with_a_link_elsewhere_can_be_written_and_removed(bench: Bench) -> None:
    """Plates copied by `cp -al` have links outside the plate: they are no names in this tree."""

    async def act() -> None:
        file = bench.put_source("day/one.tif", b"one")
        os.link(file, bench.folder / "backup.tif")
        program = await bench.mount()
        await program.write(b"day/one.tif", 0, b"ONE")
        assert (await program.stat(b"day/one.tif")).nlink == 1
        await program.unlink(b"day/one.tif")
        assert program.tree.dirty().files == 0
        bench.kill()
        assert await (await bench.mount()).contents() == {b"day": None}
        assert bench.tier_files() == set()
        assert (bench.folder / "backup.tif").read_bytes() == b"one"

    run(act)


def test_all_known_names_of_a_hard_linked_source_file_are_kept_when_it_changes(bench: Bench) -> None:
    async def act() -> None:
        file = bench.put_source("a/one", b"bytes")
        (bench.source / "b").mkdir()
        os.link(file, bench.source / "b" / "same")
        program = await bench.mount()
        assert await program.ino(b"a/one") == await program.ino(b"b/same")
        await program.write(b"a/one", 0, b"BYTES")
        assert await program.read(b"b/same") == b"BYTES"
        await program.unlink(b"a/one")
        expected = {b"a": None, b"b": None, b"b/same": b"BYTES"}
        assert await program.contents() == expected
        bench.kill()
        program = await bench.mount()
        assert await program.contents() == expected
        assert (await bench.flush()).complete
        bench.unmount()
        assert await (await bench.mount()).contents() == expected

    run(act)


def test_all_names_of_a_source_file_change_with_it(bench: Bench) -> None:
    """Also those in folders that nobody looked into yet."""

    async def act() -> None:
        file = bench.put_source("a/one", b"bytes")
        (bench.source / "b").mkdir()
        os.link(file, bench.source / "b" / "same")
        program = await bench.mount()
        await program.write(b"a/one", 0, b"BYTES")
        assert await program.read(b"b/same") == b"BYTES"
        assert await program.ino(b"a/one") == await program.ino(b"b/same")
        assert (await program.stat(b"b/same")).nlink == 2
        bench.kill()
        program = await bench.mount()
        assert await program.read(b"b/same") == b"BYTES"
        assert await program.ino(b"a/one") == await program.ino(b"b/same")

    run(act)


def test_a_name_that_a_changed_source_file_gets_later_is_a_file_of_its_own(bench: Bench) -> None:
    async def act() -> None:
        file = bench.put_source("a/one", b"bytes")
        (bench.source / "b").mkdir()
        os.link(file, bench.source / "a" / "two")
        program = await bench.mount()
        await program.write(b"a/one", 0, b"BYTES")
        os.link(file, bench.source / "b" / "same")
        assert await program.read(b"b/same") == b"bytes"
        assert await program.ino(b"a/one") != await program.ino(b"b/same")
        ino = await program.ino(b"b/same")
        bench.kill()
        program = await bench.mount()
        assert await program.read(b"b/same") == b"bytes"
        assert await program.ino(b"b/same") == ino
        assert await program.read(b"a/one") == b"BYTES"

    run(act)


def test_names_that_are_refused(bench: Bench) -> None:
    async def act() -> None:
        program = await bench.mount()
        names = program.tree.names
        assert await error_of(names.create(1, b"n" * 256, 0o644, CALLER)) == "ENAMETOOLONG"
        assert await error_of(names.lookup(1, b"n" * 256)) == "ENAMETOOLONG"
        await program.create(b"n" * 255, b"long")
        assert await program.read(b"n" * 255) == b"long"
        assert await error_of(names.mkdir(1, b"n" * 255, 0o755, CALLER)) == "EEXIST"
        assert await error_of(names.unlink(1, b"none")) == "ENOENT"
        assert await error_of(program.rmdir(b"n" * 255)) == "ENOTDIR"
        await program.mkdir(b"d")
        assert await error_of(program.unlink(b"d")) == "EISDIR"
        await program.create(b"d/x")
        assert await error_of(program.rmdir(b"d")) == "ENOTEMPTY"
        assert await error_of(program.link(b"d", b"e")) == "EPERM"

    run(act)
