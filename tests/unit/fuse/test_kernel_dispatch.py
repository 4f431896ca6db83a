"""What the kernel transport answers, without a kernel: every request once, whatever it says."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_talk import ROOT, Talk, message
from tree_bench import Bench, in_shared_memory, run

from vfsd.fuse.kernel import protocol as fuse
from vfsd.fuse.kernel.parsing import SHAPES
from vfsd.fuse.kernel.protocol import FAttr, FOpen, Opcode

UNANSWERED = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}
# Small numbers meet nodes and handles that are there.
NUMBERS = st.one_of(st.integers(0, 12), st.integers(0, 2**64 - 1))
WORDS = st.lists(NUMBERS.map(lambda number: number.to_bytes(8, "little")), max_size=11).map(b"".join)
NAMES = st.sampled_from([b"a\0", b"b\0", b".\0", b"..\0", b"user.x\0", b"\0", b"a/b\0", b"x" * 300 + b"\0"])
BODIES = st.one_of(st.binary(max_size=120), st.tuples(WORDS, st.lists(NAMES, max_size=2).map(b"".join)).map(b"".join))


@settings(suppress_health_check=list(HealthCheck), max_examples=60)
@given(
    st.lists(st.tuples(st.one_of(st.sampled_from(sorted(SHAPES)), st.integers(0, 99)), NUMBERS, BODIES), max_size=30)
)
def test_whatever_is_asked_is_answered_once(requests: list[tuple[int, int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder, in_shared_memory() as ram:
        bench = Bench(Path(folder), ram)
        bench.put_source("a", b"of the source")

        async def act() -> None:
            program = await bench.mount()
            with Talk(program.tree) as talk:
                for number, (opcode, nodeid, body) in enumerate(requests):
                    answers = await talk.send(message(opcode, nodeid, body, unique=2 * number + 2))
                    if opcode in UNANSWERED:
                        assert not answers
                    else:
                        assert [answer.unique for answer in answers] == [2 * number + 2]
            assert program.tree.open_handles() == 0

        run(act)
        bench.unmount()
        assert (bench.source / "a").read_bytes() == b"of the source"


def test_a_request_of_another_length_than_it_says_is_not_answered(bench: Bench) -> None:
    """Nobody could tell whose it is."""

    async def act() -> None:
        with Talk((await bench.mount()).tree) as talk:
            whole = message(Opcode.GETATTR, ROOT, bytes(16))
            for wrong in (b"", whole[:39], whole[:-1], whole + b"x"):
                assert await talk.send(wrong) == []

    run(act)


def test_a_file_is_made_written_read_and_released(bench: Bench) -> None:
    async def act() -> None:
        program = await bench.mount()
        with Talk(program.tree) as talk:
            created = fuse.fuse_create_in.pack(os.O_RDWR, 0o100644, 0o22, 0) + b"new\0"
            fh, _ = await talk.open(Opcode.CREATE, ROOT, created)
            written = fuse.fuse_write_in.pack(fh, 0, 5, 0, 0, 0, 0) + b"bytes"
            answer = await talk.ask(Opcode.WRITE, ROOT, written)
            assert fuse.fuse_write_out.unpack(answer.body)[0] == 5
            read = fuse.fuse_read_in.pack(fh, 1, 100, 0, 0, 0, 0)
            assert (await talk.ask(Opcode.READ, ROOT, read)).body == b"ytes"
            assert program.tree.open_handles() == 1
            assert (await talk.ask(Opcode.RELEASE, ROOT, fuse.fuse_release_in.pack(fh, 0, 0, 0))).error == 0
            assert program.tree.open_handles() == 0
            assert (await talk.ask(Opcode.READ, ROOT, read)).error == errno.EIO

    run(act)


def test_a_write_that_says_another_size_is_refused(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def act() -> None:
        program = await bench.mount()
        with Talk(program.tree) as talk:
            fh, _ = await talk.open(Opcode.CREATE, ROOT, fuse.fuse_create_in.pack(os.O_RDWR, 0o100644, 0, 0) + b"new\0")
            written = fuse.fuse_write_in.pack(fh, 0, 6, 0, 0, 0, 0) + b"bytes"
            assert (await talk.ask(Opcode.WRITE, ROOT, written)).error == errno.EINVAL
            assert await program.read(b"new") == b""

    run(act)
    assert "malformed_request" in caplog.text


def test_references_are_counted_and_given_back(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("d/x", b"x")
        program = await bench.mount()
        with Talk(program.tree) as talk:
            directory = await talk.entry(Opcode.LOOKUP, ROOT, b"d\0")
            below = await talk.entry(Opcode.LOOKUP, directory, b"x\0")
            fh, _ = await talk.open(Opcode.OPENDIR, directory, bytes(8))
            listed = (
                await talk.ask(Opcode.READDIRPLUS, directory, fuse.fuse_read_in.pack(fh, 0, 4096, 0, 0, 0, 0))
            ).body
            assert b"x" in listed
            node = program.tree.layers.node(below)
            assert node.lookups == 2
            assert await talk.send(message(Opcode.FORGET, below, fuse.fuse_forget_in.pack(1))) == []
            many = fuse.fuse_batch_forget_in.pack(2, 0) + fuse.fuse_forget_one.pack(below, 1) + bytes(16)
            assert await talk.send(message(Opcode.BATCH_FORGET, 0, many)) == []
            assert node.lookups == 0

    run(act)


def test_listings_fill_the_room_that_there_is(bench: Bench) -> None:
    async def act() -> None:
        names = {f"file {number:03}".encode() for number in range(100)}
        for name in names:
            bench.put_source(name.decode(), b"")
        program = await bench.mount()
        with Talk(program.tree) as talk:
            for opcode, fixed in ((Opcode.READDIR, 24), (Opcode.READDIRPLUS, 152)):
                fh, _ = await talk.open(Opcode.OPENDIR, ROOT, bytes(8))
                found: list[bytes] = []
                place = 0
                while body := (await talk.ask(opcode, ROOT, fuse.fuse_read_in.pack(fh, place, 1000, 0, 0, 0, 0))).body:
                    assert len(body) <= 1000
                    at = fixed - 24
                    while at < len(body):
                        _, place, length, _ = fuse.fuse_dirent.unpack_from(body, at)
                        found.append(body[at + 24 : at + 24 + length])
                        at += fixed + (length + 7 & ~7)
                assert sorted(found) == sorted(names | {b".", b".."})

    run(act)


def test_what_the_kernel_may_keep(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("old/x", b"x")
        program = await bench.mount()
        with Talk(program.tree) as talk:
            made = await talk.entry(Opcode.MKDIR, ROOT, fuse.fuse_mkdir_in.pack(0o755, 0) + b"new\0")
            old = await talk.entry(Opcode.LOOKUP, ROOT, b"old\0")
            for directory, keeps in ((old, 1), (made, 3600)):
                answer = await talk.ask(Opcode.LOOKUP, directory, b"absent\0")
                assert fuse.fuse_entry_out.unpack(answer.body)[:3] == (0, 0, keeps)
            answer = await talk.ask(Opcode.LOOKUP, old, b"x\0")
            assert fuse.fuse_entry_out.unpack(answer.body)[2] == 2

    run(act)


def test_times_before_1970_and_attributes_that_are_set(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("x", b"x")
        program = await bench.mount()
        with Talk(program.tree) as talk:
            node = await talk.entry(Opcode.LOOKUP, ROOT, b"x\0")
            wanted = FAttr.MODE | FAttr.ATIME | FAttr.MTIME | FAttr.SIZE
            body = fuse.fuse_setattr_in.pack(wanted, 0, 0, 7, 0, -5, -6, 0, 1, 2, 0, 0o100600, 0, 0, 0, 0)
            answer = await talk.ask(Opcode.SETATTR, node, body)
            fields = fuse.fuse_attr_out.unpack(answer.body)
            assert fields[4] == 7
            assert fields[6:8] == (-5, -6)
            assert fields[9:11] == (1, 2)
            assert fields[12] == 0o100600

    run(act)


def test_extended_attributes_by_size(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("x", b"x")
        program = await bench.mount()
        with Talk(program.tree) as talk:
            node = await talk.entry(Opcode.LOOKUP, ROOT, b"x\0")
            body = fuse.fuse_setxattr_in.pack(5, 0) + b"user.k\0value"
            assert (await talk.ask(Opcode.SETXATTR, node, body)).error == 0
            for size, expected in (
                (0, (0, fuse.fuse_getxattr_out.pack(5, 0))),
                (5, (0, b"value")),
                (4, (errno.ERANGE, b"")),
            ):
                answer = await talk.ask(Opcode.GETXATTR, node, fuse.fuse_getxattr_in.pack(size, 0) + b"user.k\0")
                assert (answer.error, answer.body) == expected
            again = fuse.fuse_setxattr_in.pack(5, 1) + b"user.k\0other"  # XATTR_CREATE
            assert (await talk.ask(Opcode.SETXATTR, node, again)).error == errno.EEXIST

    run(act)


def test_without_registrations_files_are_served_by_us(bench: Bench) -> None:
    """A socket registers no backing file, as a kernel without the right to does not."""

    async def act() -> None:
        bench.put_source("big", bytes(1 << 20))
        program = await bench.mount()
        with Talk(program.tree) as talk:
            talk.dispatch.passthrough.offered(True)
            node = await talk.entry(Opcode.LOOKUP, ROOT, b"big\0")
            fh, flags = await talk.open(Opcode.OPEN, node, fuse.fuse_open_in.pack(os.O_RDONLY, 0))
            assert not flags & FOpen.PASSTHROUGH
            read = fuse.fuse_read_in.pack(fh, 0, 4096, 0, 0, 0, 0)
            assert (await talk.ask(Opcode.READ, node, read)).body == bytes(4096)

    run(act)
