"""What the RAM tier may hold: each source of pressure alone, a real control group, the kernel's own trigger."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from tier_bench import MIB, Tiers, run, until

from vfsd.tiers.pressure import PSI, Reading, limit_of, measure, open_stalls, watch

GIB = 1 << 30
CALM = Reading(used=2 * GIB, total=16 * GIB, available=9 * GIB, headroom=None, tmpfs_free=8 * GIB, stalling=False)


def test_nothing_presses() -> None:
    limit = limit_of(CALM, 4 * GIB)
    assert (limit.bytes, limit.cause) == (4 * GIB, "budget")


def test_another_program_takes_the_memory_and_gives_it_back() -> None:
    taken = limit_of(replace(CALM, available=GIB), 4 * GIB)
    assert taken.cause == "memory"
    assert taken.bytes == 2 * GIB + GIB - 16 * GIB // 10
    spilled = limit_of(replace(CALM, used=GIB, available=2 * GIB), 4 * GIB)
    assert spilled.bytes == taken.bytes  # what is spilled becomes available: the limit stays where it is
    assert limit_of(CALM, 4 * GIB).bytes == 4 * GIB


def test_a_control_group_presses_before_its_limit() -> None:
    limit = limit_of(replace(CALM, headroom=0), 4 * GIB)
    assert limit.cause == "cgroup"
    assert 1.8 * GIB < limit.bytes < 2 * GIB
    small = limit_of(replace(CALM, used=0, headroom=200 * MIB), 4 * GIB)
    assert small.bytes < 128 * MIB  # the daemon's own buffers have room


def test_stalls_take_a_part_of_what_is_there() -> None:
    limit = limit_of(replace(CALM, stalling=True), 4 * GIB)
    assert (limit.bytes, limit.cause) == (2 * GIB * 7 // 8, "stalls")


def test_a_tmpfs_that_others_fill() -> None:
    limit = limit_of(replace(CALM, tmpfs_free=64 * MIB), 4 * GIB)
    assert (limit.bytes, limit.cause) == (2 * GIB + 64 * MIB, "tmpfs")


def test_a_limit_is_never_negative() -> None:
    assert limit_of(replace(CALM, used=0, available=0), 4 * GIB).bytes == 0


def test_this_machine_can_be_measured(tiers: Tiers) -> None:
    folder = os.open(tiers.ram, os.O_RDONLY)
    try:
        reading = measure(folder, 5, False)
    finally:
        os.close(folder)
    assert reading.used == 5
    assert 0 < reading.available < reading.total
    assert reading.tmpfs_free > 0


def test_the_watch_tells_at_once_of_a_stall_and_goes_on_after_an_error() -> None:
    told: list[bool] = []
    looks = 0

    class Stall:
        """A trigger that speaks once, after the first look."""

        spoken = False

        async def wait(self) -> None:
            await until(lambda: bool(told))
            if self.spoken:
                await trio.sleep_forever()
            self.spoken = True

        def close(self) -> None:
            pass

    def look(folder: int, used: int, stalling: bool) -> Reading:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise OSError(5, "no look")
        return replace(CALM, stalling=stalling)

    async def act() -> None:
        async with trio.open_nursery() as nursery:

            def tell(reading: Reading) -> None:
                told.append(reading.stalling)
                if reading.stalling:
                    nursery.cancel_scope.cancel()

            await watch(-1, lambda: 0, tell, stalls=Stall(), look=look)  # type: ignore[arg-type]  # a trigger of our own

    run(act)
    assert told[-1] is True
    assert told[0] is False


def memory_group() -> Path:
    """The folder of our own memory control group of version 1."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return Path("/sys/fs/cgroup/memory" + path)
    pytest.skip("no memory control group of version 1")


@contextlib.contextmanager
def small_group(limit: int) -> Iterator[Path]:
    """A control group of our own with this much memory; skips where none can be made."""
    group = memory_group() / f"vfsd-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        yield group
    finally:
        for _ in range(100):  # the kernel lets go of ended processes with a delay
            with contextlib.suppress(OSError):
                group.rmdir()
            if not group.exists():
                break
            time.sleep(0.05)


HOG = """
import mmap, os, sys
open(sys.argv[1], "w").write(str(os.getpid()))
fd = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
block = os.urandom(1 << 20)
for number in range(96):
    os.pwrite(fd, block, number << 20)
pages = mmap.mmap(fd, 96 << 20)
while True:
    for offset in range(0, 96 << 20, 4096):
        pages[offset]
"""


def test_the_kernel_says_that_programs_stall(tmp_path: Path) -> None:
    if not PSI.exists():
        pytest.skip("this kernel has no pressure-stall information")
    stalls = open_stalls()
    if stalls is None:
        pytest.skip("no trigger may be set here")
    with contextlib.closing(stalls), small_group(48 * MIB) as group:
        hog = subprocess.Popen([sys.executable, "-c", HOG, group / "cgroup.procs", tmp_path / "pages"])
        try:
            run(stalls.wait)
        finally:
            hog.kill()
            hog.wait()


def test_no_trigger_where_the_kernel_has_none(tmp_path: Path) -> None:
    assert open_stalls(tmp_path / "missing") is None


IN_A_GROUP = """
import os, sys, trio
from pathlib import Path
open(sys.argv[1], "w").write(str(os.getpid()))
from vfsd.tiers import TierFiles
MIB = 1 << 20

async def main():
    tiers = TierFiles(Path(sys.argv[2]), Path(sys.argv[3]), 1024 * MIB, 4096 * MIB)
    block = os.urandom(MIB)
    async with trio.open_nursery() as nursery:
        tiers.look()
        nursery.start_soon(tiers.run)
        files = []
        for ino in range(10, 70):
            file = tiers.create(ino, 1)
            for offset in range(0, 8 * MIB, MIB):
                await tiers.write(file, offset, block)
            files.append(file)
        usage = tiers.usage()
        assert usage["ram"].bytes < 256 * MIB, usage
        assert usage["ram"].bytes + usage["cache"].bytes >= 480 * MIB, usage
        assert tiers.limit.cause in ("cgroup", "stalls"), tiers.limit  # a group that fills its limit stalls as well
        for file in files:
            assert bytes(await tiers.read(file, 7 * MIB, MIB)) == block
        nursery.cancel_scope.cancel()
    print("survived", usage["ram"].bytes >> 20)

trio.run(main)
"""


def test_a_real_control_group_is_not_filled(tmp_path: Path, tiers: Tiers) -> None:
    """480 MiB are written by a process that may use 256 MiB: it is not killed, and all bytes are there."""
    cache = tmp_path / "cache-of-group"
    cache.mkdir()
    ram = tiers.ram / "of-group"
    ram.mkdir()
    try:
        with small_group(256 * MIB) as group:
            done = subprocess.run(
                [sys.executable, "-c", IN_A_GROUP, group / "cgroup.procs", ram, cache],
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
    finally:
        for path in ram.iterdir():
            path.unlink()
        ram.rmdir()
    assert done.returncode == 0, done.stderr
    assert "survived" in done.stdout
