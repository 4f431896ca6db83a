"""A flush whose disk fails or is full, at every system call in turn: nothing is lost, and the next flush succeeds."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import trio
from crash.faults import CALLS, Fault, Faults, _wrap_call
from plate_bench import Bench, Contents, Session, assert_sound, pixels, plate_files, plate_path, tiff

from vfsd.flush import verify_store
from vfsd.store import Store

A01 = plate_path("A01")
MIB = 1 << 20


@contextlib.contextmanager
def failing(fault: Fault | None, noted: Path) -> Iterator[None]:
    """The calls of this process fail where the fault says; without one all that are made are noted."""
    originals = {name: getattr(os, name) for name in CALLS}
    sets = (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks)
    before = [set(supported) for supported in sets]
    plan = {"faults": [] if fault is None else [asdict(fault)]}
    faults = Faults({**plan, "record": str(noted) if fault is None else "", "reached": str(noted)})
    for name in CALLS:
        _wrap_call(faults, name)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)
        for supported, known in zip(sets, before, strict=True):
            supported.intersection_update(known)


def generation(store: Path) -> int:
    with contextlib.closing(Store.open(store, writable=False)) as opened:
        return opened.catalogue.generation


async def change(session: Session, files: Contents, turn: int) -> None:
    """Something of everything: an image replaced, a new one, a plain file, a name that goes, a folder renamed."""
    fresh = {
        A01: tiff(pixels(1000 + turn)),
        plate_path(f"C{turn % 24 + 1:02}"): tiff(pixels(2000 + turn)),
        b"notes/%d" % turn: b"some text " * turn,
        b"zip.tif": tiff(pixels(3000 + turn), compression="zlib"),
    }
    await session.write_all(fresh)
    files |= fresh
    gone = b"notes/%d" % (turn - 1)
    if gone in files:
        await session.unlink(gone)
        del files[gone]
    old, new = (b"moving%d/x" % (turn + step) for step in (0, 1))
    if old in files:
        await session.rename(b"moving%d" % turn, b"moving%d" % (turn + 1))
        files[new] = files.pop(old)


def test_whatever_call_of_a_flush_fails_nothing_is_lost(tmp_path: Path) -> None:
    bench, reached = Bench(tmp_path), tmp_path / "reached"
    files: Contents = {**plate_files(wells=("A01",), sites=1), b"moving1/x": b"x"}

    async def run() -> list[str]:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()
            await change(session, files, 1)
            with failing(None, reached):
                await session.flush_all()
            calls = [
                call for call in reached.read_text().split() if "@vfsd.tree" not in call and "@vfsd.tiers" not in call
            ]
            # each place that makes a call: the disk is full the first time, and broken the last time
            places = [
                (call, *fault) for call, count in Counter(calls).items() for fault in ((1, "ENOSPC"), (count, "EIO"))
            ]
            for turn, (call, nth, problem) in enumerate(places, 2):
                await change(session, files, turn)
                before = generation(bench.store)
                with failing(Fault(call, problem, nth=nth), reached):
                    try:
                        complete = (await session.flush()).complete
                    except OSError as error:
                        assert error.errno == getattr(errno, problem)
                        complete = False
                # what was committed is whole, the old state or the new one, and everything can be read
                assert generation(bench.store) in (before, before + 1)
                assert verify_store(bench.store, digests=True).ok, (call, nth)
                session.tree.tiers.drop_clean()
                assert await session.contents() == files, (call, nth)
                if complete:
                    continue  # what may be left in the way is for the next one, which begins in that state
                await session.flush_all()
                assert_sound_enough(bench.store, files)
            await change(session, files, len(places) + 2)
            await session.flush_all()
            return [call for call, _, _ in places]

    places = trio.run(run)
    assert_sound(bench.store, files)
    for call in ("open", "rename", "link", "unlink", "mkdir", "fsync", "pwrite", "write"):
        assert any(place.startswith(f"{call}@") for place in places), call


def assert_sound_enough(store: Path, files: Contents) -> None:
    """Quicker than `assert_sound`: nothing is left over, and everything is in the store."""
    assert not (store / "work").exists()
    assert verify_store(store, digests=True).ok
    with contextlib.closing(Store.open(store, writable=False)) as opened:
        assert {path for path, record in opened.catalogue.walk() if record.kind.is_file} == files.keys()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of 16 MiB of its own."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("no mkfs.ext4")
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, capture_output=True)
    folder.mkdir()
    mounted = subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no loop devices here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.root
def test_disk_that_fills_up_at_any_step(tmp_path: Path, small_disk: Path) -> None:
    """Less room each time, so that it is full at writing, at the receipt, at the catalogue, at its copy."""
    bench = Bench(tmp_path)
    bench.store = small_disk / "plate.vfs"
    ballast = small_disk / "ballast"
    files: Contents = plate_files()
    outcomes = []

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()
            for turn, room in enumerate([0, 8, 24, 40, 64, 96, 128, 160, 200, 240, 300, 400, 700], 1):
                await change(session, files, turn)
                fill(ballast, room << 10)
                before = generation(bench.store)
                try:
                    await session.flush()
                    outcomes.append(True)
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    outcomes.append(False)
                    assert generation(bench.store) == before
                assert verify_store(bench.store).ok
                session.tree.tiers.drop_clean()
                assert await session.contents() == files
                ballast.unlink()
                await session.flush_all()
                assert_sound_enough(bench.store, files)

    trio.run(run)
    assert_sound(bench.store, files)
    assert outcomes[0] is False
    assert outcomes[-1] is True
    assert outcomes.count(False) >= 3


def fill(ballast: Path, room: int) -> None:
    """Leave so many bytes of a disk free."""
    with ballast.open("wb") as file:
        free = os.statvfs(ballast).f_bavail * os.statvfs(ballast).f_frsize
        with contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(0, free - room))
