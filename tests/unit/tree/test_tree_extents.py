"""Room in advance, holes, copies between files, files without a name, and files that somebody outside reads."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable

import pytest
from tree_bench import CALLER, MIB, Bench, run

from vfsd.store.catalogue import ROOT_INO
from vfsd.tiers import Warmth
from vfsd.tiers.allocation import KEEP_SIZE, PUNCH_HOLE
from vfsd.tree import without_privileges


async def error_of(work: Awaitable[object]) -> int | None:
    try:
        await work
    except OSError as error:
        return error.errno
    return None


def test_room_in_advance_is_taken_from_the_budget(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("x", b"of the source")
        program = await bench.mount()
        handle = await program.open(b"x", os.O_RDWR)
        await program.tree.extents.allocate(handle, KEEP_SIZE, 0, 4 * MIB)
        assert (await program.stat(b"x")).size == 13
        assert program.tree.tiers.usage()["ram"].bytes == 4 * MIB
        await program.tree.extents.allocate(handle, 0, 0, 8 * MIB)
        assert (await program.stat(b"x")).size == 8 * MIB
        assert (await program.stat(b"x")).blocks * 512 == 8 * MIB
        await program.tree.extents.allocate(handle, PUNCH_HOLE | KEEP_SIZE, MIB, 7 * MIB)
        assert program.tree.tiers.usage()["ram"].bytes == MIB
        assert (await program.read(b"x"))[:14] == b"of the source\0"
        assert await error_of(program.tree.extents.allocate(handle, PUNCH_HOLE, 0, MIB)) == errno.EOPNOTSUPP
        program.close(handle)
        assert (bench.source / "x").read_bytes() == b"of the source"

    run(act)


def test_room_that_ram_has_not_is_taken_in_the_cache(bench: Bench) -> None:
    async def act() -> None:
        program = await bench.mount()
        await program.create(b"x", b"bytes")
        handle = await program.open(b"x", os.O_RDWR)
        await program.tree.extents.allocate(handle, 0, 0, 2 * bench.ram_budget)
        usage = program.tree.tiers.usage()
        assert (usage["ram"].bytes, usage["cache"].bytes) == (0, 2 * bench.ram_budget)
        assert await program.tier(b"x") == "cache"
        assert (await program.read(b"x"))[:6] == b"bytes\0"
        assert await error_of(program.tree.extents.allocate(handle, 0, 0, 1 << 60)) in (errno.ENOSPC, errno.EFBIG)
        program.close(handle)

    run(act)


def test_holes_are_found_where_nobody_writes(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("sparse", b"")
        with (bench.source / "sparse").open("r+b") as file:
            file.truncate(4 * MIB)
            file.seek(2 * MIB)
            file.write(b"x" * MIB)
        program = await bench.mount()
        seek = program.tree.extents.seek
        handle = await program.open(b"sparse")
        assert await seek(handle, 5, os.SEEK_DATA) == 2 * MIB
        assert await seek(handle, 2 * MIB, os.SEEK_HOLE) == 3 * MIB
        assert await error_of(seek(handle, 4 * MIB, os.SEEK_HOLE)) == errno.ENXIO
        writer = await program.open(b"sparse", os.O_RDWR)
        await program.tree.contents.write(writer, 0, b"y")
        assert await seek(handle, 5, os.SEEK_DATA) == 5
        assert await seek(handle, 5, os.SEEK_HOLE) == 4 * MIB
        program.close(writer)
        assert await seek(handle, 5 * 4096, os.SEEK_DATA) == 2 * MIB
        program.close(handle)

    run(act)


def test_copies_between_files(bench: Bench) -> None:
    async def act() -> None:
        data = os.urandom(3 * MIB + 7)
        bench.put_source("x", data)
        program = await bench.mount()
        await program.create(b"y", b"start")
        source, target = await program.open(b"x"), await program.open(b"y", os.O_WRONLY)
        assert await program.tree.extents.copy(source, 5, target, 5, 1 << 40) == len(data) - 5
        assert await program.read(b"y") == b"start" + data[5:]
        assert await program.tree.extents.copy(source, len(data), target, 0, 10) == 0
        assert await error_of(program.tree.extents.copy(target, 0, source, 0, 10)) == errno.EOPNOTSUPP
        program.close(source)
        program.close(target)
        assert (bench.source / "x").read_bytes() == data

    run(act)


def test_a_file_without_a_name_is_gone_after_a_crash_unless_it_got_one(bench: Bench) -> None:
    async def act() -> None:
        program = await bench.mount()
        names, contents = program.tree.names, program.tree.contents
        for name in (None, b"named"):
            found = await names.tmpfile(ROOT_INO, 0o640, CALLER)
            handle = await contents.open(found.ino, os.O_RDWR)
            await contents.write(handle, 0, b"bytes")
            if name is not None:
                assert (await names.link(found.ino, ROOT_INO, name)).nlink == 1
                with pytest.raises(FileExistsError):
                    await names.link(found.ino, ROOT_INO, name)
        assert await program.names() == {b"named"}
        bench.kill()
        program = await bench.mount()
        assert await program.contents() == {b"named": b"bytes"}
        assert len(bench.tier_files()) == 1

    run(act)


def test_a_file_without_a_name_goes_with_its_last_handle(bench: Bench) -> None:
    async def act() -> None:
        program = await bench.mount()
        found = await program.tree.names.tmpfile(ROOT_INO, 0o640, CALLER)
        handle = await program.tree.contents.open(found.ino, os.O_RDWR)
        await program.tree.contents.write(handle, 0, b"bytes")
        program.close(handle)
        program.tree.names.forget(found.ino, 1)
        assert not bench.tier_files()
        assert found.ino not in program.tree.layers.nodes
        assert await error_of(program.tree.names.link(found.ino, ROOT_INO, b"late")) == errno.ESTALE

    run(act)


def test_a_write_takes_privileges_away(bench: Bench) -> None:
    assert without_privileges(0o6755) == 0o755
    assert without_privileges(0o2644) == 0o2644  # a mandatory lock of old, no program

    async def act() -> None:
        program = await bench.mount()
        await program.create(b"x", b"bytes", 0o6755)
        await program.mkdir(b"d")
        await program.setattr(b"d", mode=0o6755)
        program.tree.attributes.drop_privileges(await program.node(b"d"))
        assert (await program.stat(b"d")).mode & 0o7777 == 0o6755
        before = await program.stat(b"x")
        program.tree.attributes.drop_privileges(await program.node(b"x"))
        after = await program.stat(b"x")
        assert after.mode & 0o7777 == 0o755
        assert after.ctime > before.ctime
        assert after.mtime == before.mtime

    run(act)


def test_what_somebody_outside_reads_keeps_its_room(bench: Bench) -> None:
    async def act() -> None:
        program = await bench.mount()
        tiers = program.tree.tiers
        for name in (b"unlinked", b"moved", b"stored"):
            await program.create(name, bytes(2 * MIB))
        handles = {name: await program.open(name) for name in (b"unlinked", b"moved", b"stored")}
        backings = {name: await program.tree.backings.of(handle) for name, handle in handles.items()}
        assert all(backings.values())
        for name in handles:  # what is read outside counts as read
            assert tiers.room.policy.rank((await program.node(name)).ino)[0] is Warmth.CONSUMED
        await program.unlink(b"unlinked")
        for handle in handles.values():
            program.close(handle)
        await tiers.move_to_cache((await program.node(b"moved")).data)  # type: ignore[arg-type]  # it has some
        await bench.flush()
        assert tiers.drop_clean("ram") == 0
        assert tiers.usage()["ram"].bytes == 6 * MIB
        for name in (b"moved", b"unlinked"):
            backings[name].release()  # type: ignore[union-attr]  # see above
        assert tiers.usage()["ram"].bytes == 2 * MIB
        backings[b"stored"].release()  # type: ignore[union-attr]
        tiers.drop_clean("ram")
        assert tiers.usage()["ram"].bytes == 0

    run(act)


def test_who_has_no_backing_file(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("x", bytes(MIB))
        program = await bench.mount()
        of = program.tree.backings.of
        reader, writer = await program.open(b"x"), await program.open(b"x", os.O_RDWR)
        assert await of(writer) is None
        assert await of(reader) is None  # as long as somebody writes
        program.close(writer)
        found = await of(reader)
        assert program.tree.source is not None
        assert (found is not None) == program.tree.source.shielded
        if found is not None:
            with found.opened() as fd:
                assert os.pread(fd, 10, 0) == bytes(10)
                with pytest.raises(OSError, match="Read-only file system"):
                    os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR))
        program.close(reader)

    run(act)
