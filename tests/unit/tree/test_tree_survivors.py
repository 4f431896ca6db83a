"""Programs that outlived a daemon and still write to a tier file through their own descriptors, as passthrough lets them."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tree_bench import Bench, run

WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
print("open", flush=True)
for line in sys.stdin:
    os.write(fd, line.encode())
    print("written", flush=True)
"""


class Writer:
    """A process that has a file open for writing."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        self.wait_for("written")

    def wait_for(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == word + "\n"


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        writer = Writer(process)
        writer.wait_for("open")
        yield writer
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) == 0


@pytest.mark.parametrize("tier", ["ram", "cache"])
def test_a_file_that_is_still_written_keeps_its_inode_until_its_writer_lets_go(bench: Bench, tier: str) -> None:
    async def act() -> None:
        program = await bench.mount()
        ino = await program.create(b"x", b"first\n")
        if tier == "cache":
            await program.setxattr(b"x", b"user.vfsd.tier", b"cache")
        await program.create(b"other", b"other")
        file = (bench.ram if tier == "ram" else bench.cache) / f"{ino:x}.1"
        with writing(file) as writer:
            bench.kill()
            writer.write("while nobody served")
            program = await bench.mount()
            before = file.stat().st_ino
            assert program.tree.open_handles() == 1
            assert await program.read(b"x") == b"first\nwhile nobody served\n"
            if tier == "ram":
                with pytest.raises(OSError, match="still writes") as caught:
                    await program.fsync(b"x")
                assert caught.value.errno == errno.EBUSY
                with pytest.raises(OSError, match="still writes"):
                    await program.setxattr(b"x", b"user.vfsd.tier", b"cache")
            else:
                await program.fsync(b"x")
            assert not [one for one in program.tree.tiers.room.spillable(being_written=True) if one.ino == ino]
            result = await bench.flush()
            assert [waiting.path for waiting in result.waiting] == [b"x"]
            assert result.files == 1
            writer.write("after the flush")
            assert (await program.stat(b"x")).size == file.stat().st_size
            await program.truncate(b"x", 0)
            writer.write("after the cut")
            assert await program.read(b"x") == b"after the cut\n"
            assert file.stat().st_ino == before
        result = await bench.flush()
        assert result.complete
        assert not result.waiting
        assert program.tree.open_handles() == 0
        program.tree.tiers.drop_clean()
        assert await program.read(b"x") == b"after the cut\n"

    run(act)


def test_a_file_that_is_unlinked_while_it_is_still_written_goes_with_its_writer(bench: Bench) -> None:
    async def act() -> None:
        program = await bench.mount()
        ino = await program.create(b"x", b"first\n")
        with writing(bench.ram / f"{ino:x}.1"):
            bench.kill()
            program = await bench.mount()
            await program.unlink(b"x")
            program.tree.contents.look_for_survivors()
            assert bench.tier_files() == {f"ram/{ino:x}.1"}
        program.tree.contents.look_for_survivors()
        assert bench.tier_files() == set()
        assert program.tree.open_handles() == 0

    run(act)


def test_nobody_is_taken_for_a_writer_that_only_reads(bench: Bench) -> None:
    async def act() -> None:
        program = await bench.mount()
        ino = await program.create(b"x", b"bytes")
        bench.kill()
        with (bench.ram / f"{ino:x}.1").open("rb"):
            program = await bench.mount()
            assert program.tree.open_handles() == 0
            await program.fsync(b"x")

    run(act)
