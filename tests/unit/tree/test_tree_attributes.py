"""Attributes: extended ones, and the figures of the whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable

import pytest
import trio
from tree_bench import MIB, Bench, run

from vfsd.tree.attributes import XATTR_CREATE, XATTR_REPLACE


async def error_of(act: Awaitable[object]) -> str:
    with pytest.raises(OSError, match=r".*") as caught:
        await act
    return errno.errorcode[caught.value.errno or 0]


def test_extended_attributes(bench: Bench) -> None:
    async def act() -> None:
        program = await bench.mount()
        ino = await program.create(b"x")
        attributes = program.tree.attributes
        await program.setxattr(b"x", b"user.empty", b"")
        await program.setxattr(b"x", b"user.large", b"v" * 65536)
        assert await attributes.getxattr(ino, b"user.empty") == b""
        assert set(await attributes.listxattr(ino)) == {b"user.empty", b"user.large"}
        assert await error_of(attributes.getxattr(ino, b"user.none")) == "ENODATA"
        assert await error_of(attributes.getxattr(ino, b"security.capability")) == "ENODATA"
        assert await error_of(attributes.removexattr(ino, b"user.none")) == "ENODATA"
        assert await error_of(program.setxattr(b"x", b"user.empty", b"", XATTR_CREATE)) == "EEXIST"
        assert await error_of(program.setxattr(b"x", b"user.none", b"", XATTR_REPLACE)) == "ENODATA"
        assert await error_of(program.setxattr(b"x", b"user.big", b"v" * 65537)) == "E2BIG"
        assert await error_of(program.setxattr(b"x", b"trusted.x", b"")) == "ENOTSUP"
        assert await error_of(program.setxattr(b"x", b"user.vfsd.location", b"")) == "EPERM"
        await attributes.removexattr(ino, b"user.large")
        bench.kill()
        program = await bench.mount()
        assert await program.tree.attributes.xattrs(await program.ino(b"x")) == {b"user.empty": b""}

    run(act)


def test_extended_attributes_set_at_the_same_time_are_all_kept(bench: Bench) -> None:
    async def act() -> None:
        file = bench.put_source("x", b"bytes")
        try:
            os.setxattr(file, "user.theirs", b"0")
        except OSError:
            pytest.skip("the file system of the test's folder has no extended attributes")
        program = await bench.mount()
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(program.setxattr, b"x", b"user.%d" % number, b"%d" % number)
        assert set(await program.tree.attributes.listxattr(await program.ino(b"x"))) == {
            b"user.theirs",
            *(b"user.%d" % number for number in range(5)),
        }
        assert os.listxattr(file) == ["user.theirs"]

    run(act)


def test_space_figures_count_what_can_be_dropped_as_free(bench: Bench) -> None:
    async def act() -> None:
        bench.ram_budget, bench.cache_budget = 4 * MIB, 8 * MIB
        program = await bench.mount()
        empty = program.tree.attributes.statfs()
        assert empty.free == 12 * MIB
        await program.create(b"x", b"x" * (2 * MIB))
        await program.create(b"y", b"y" * MIB)
        await program.setxattr(b"y", b"user.vfsd.tier", b"cache")
        dirty = program.tree.attributes.statfs()
        assert dirty.free == 9 * MIB
        assert (await bench.flush()).complete
        clean = program.tree.attributes.statfs()
        assert clean.free == 12 * MIB
        assert clean.total >= clean.free

    run(act)


def test_the_tier_that_a_file_is_in(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("source", b"s")
        program = await bench.mount()
        await program.create(b"new", b"n")
        assert await program.tier(b"source") == "source"
        assert await program.tier(b"new") == "ram"
        await program.setxattr(b"new", b"user.vfsd.tier", b"cache")
        assert await program.tier(b"new") == "cache"
        assert await error_of(program.setxattr(b"new", b"user.vfsd.tier", b"moon")) == "EINVAL"
        bench.kill()
        program = await bench.mount()
        assert await program.tier(b"new") == "cache"

    run(act)


def test_one_attribute_of_many_is_changed_by_itself(bench: Bench) -> None:
    """A program that hangs thousands of attributes on a file must not have all of them written for each one."""
    written: list[str] = []

    async def act() -> None:
        program = await bench.mount()
        await program.create(b"file")
        for number in range(50):
            await program.setxattr(b"file", b"user.%d" % number, b"v")
        database = program.tree.journal._rows.db
        database.set_trace_callback(written.append)
        await program.setxattr(b"file", b"user.7", b"new")
        await program.tree.attributes.removexattr(await program.ino(b"file"), b"user.8")
        program.tree.journal._rows.commit()
        database.set_trace_callback(None)
        assert sum(" xattr " in statement and "SELECT" not in statement for statement in written) < 10
        bench.kill()
        program = await bench.mount()
        found = await program.tree.attributes.xattrs(await program.ino(b"file"))
        assert found == {b"user.%d" % number: b"new" if number == 7 else b"v" for number in range(50) if number != 8}

    run(act)


def test_names_of_attributes_end_where_a_program_could_not_list_them(bench: Bench) -> None:
    async def act() -> None:
        program = await bench.mount()
        await program.create(b"file")
        long = [b"user.%0250d" % number for number in range(256)]  # 256 bytes each with the zero that ends it
        for name in long:
            await program.setxattr(b"file", name, b"")
        assert await error_of(program.setxattr(b"file", b"user.x", b"")) == "ENOSPC"
        await program.setxattr(b"file", long[0], b"other")
        ino = await program.ino(b"file")
        assert sorted(await program.tree.attributes.listxattr(ino)) == long
        await program.tree.attributes.removexattr(ino, long[0])
        await program.setxattr(b"file", b"user.x", b"")

    run(act)
