"""Power fails while programs write: `python -m crash.power --disks 5 --failures 20`; a part of `make crash`.

Source, store and state lie on an ext4 whose disk remembers each write and flush (`disk`). Writers work on a mount for a moment
and are flushed meanwhile; then, again and again, the disk is made as a power failure at one of these writes may have left it
(in half of the cases with any part of what no flush covers missing), the memory is gone, the machine starts anew, and vfsd
mounts what there is. It must have all that `durable` says; the source must be as it was, and the store verify.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from blackbox.daemons import DONE, LOG_TROUBLE, Vfsd, default_store, mounted_at, unmount_with, wait_until
from blackbox.trees import assert_same_tree, read_tree

from crash.disk import FLUSH, Recording, file_system_on, make_file_system, recorded_disk, why_no_disk
from crash.durable import Past, all_wrong
from crash.expected import Files, look
from crash.faults import SKIP, Fault, with_faults
from crash.forked import Forked, preload
from crash.rounds import Loss
from crash.workload import Told, is_of, read_log, start_writer

WRITERS = 2
# Room for the journal of ext4, the store, and the cache tier of writers with some MiB.
DISK_SIZE = 96 << 20
# Seconds of work recorded on a disk, after which power fails in it at many moments.
WORK = 1.2
# What a mount says of files whose newest bytes were only in RAM.
LOST = ("newest_bytes_lost", "bytes_lost", "source_object_gone")


@dataclass(slots=True)
class Counts:
    """What a run has done."""

    failures: int = 0
    writes: int = 0
    flushes: int = 0
    files: int = 0
    durable: int = 0
    lost: int = 0
    flushed_after: int = 0

    def __str__(self) -> str:
        return (
            f"power failed {self.failures} times, at some of {self.writes} writes and {self.flushes} flushes of disks; "
            f"{self.files} files and folders found, {self.durable} acts made something durable before; "
            f"{self.lost} files named as lost; {self.flushed_after} flushes afterwards"
        )


@dataclass(slots=True)
class Machine:
    """One source with its store and state on a disk of its own, and the memory that goes with the power."""

    folder: Path
    seed: str
    counts: Counts
    chance: random.Random = field(init=False)
    options: list[str] = field(init=False)
    receipts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.options = [
            "--ram",
            self.chance.choice(("1M", "64M")),
            *self.chance.choice(([], ["--keep-in-ram", "100K"])),
        ]
        self.at.mkdir()
        self.mountpoint.mkdir()
        self._start_anew()

    @property
    def at(self) -> Path:
        """Where the disk is mounted."""
        return self.folder / "disk"

    @property
    def mountpoint(self) -> Path:
        return self.folder / "mnt"

    @property
    def source(self) -> Path:
        return self.at / "plate"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def _vfsd(self) -> Vfsd:
        return Vfsd({**os.environ})

    def _start_anew(self) -> None:
        """The machine was started: another boot id, nothing in memory."""
        (self.folder / "boot_id").write_text(f"{self.chance.random()}\n")
        run = self.folder / "run"
        for ram in run.glob("*/ram"):
            if mounted_at(ram) is not None:
                unmount_with("umount", "-l", ram)
        shutil.rmtree(run, ignore_errors=True)

    def _prepare(self) -> None:
        """In a new process: all places of this user lie on our disk, or in our memory."""
        from vfsd.daemon import places
        from vfsd.tree import rows

        roots = places.Roots(os.geteuid(), self.at / "state", self.folder / "run", self.folder / "shm")
        places.roots_of = lambda uid, state_home=None: roots  # type: ignore[assignment]
        rows.BOOT_ID = self.folder / "boot_id"

    def command(self, *arguments: str | Path) -> Forked:
        """A command of vfsd on this machine."""
        return Forked(self._vfsd, *arguments, log=self.folder / "command.log", prepare=self._prepare)

    def must_do(self, *arguments: str | Path) -> None:
        """One that must succeed."""
        if self.command(*arguments).wait(60) != DONE:
            said = (self.folder / "command.log").read_text(errors="replace")
            raise Loss(f"vfsd {arguments[0]} fails:\n{said[-3000:]}")

    @contextmanager
    def mounted(self, *faults: Fault) -> Iterator[Forked]:
        """A mount for the block; at its end it is killed if it is still there."""
        self.log.write_bytes(b"")
        arguments = ("mount", self.source, self.mountpoint, "--foreground", *self.options)
        vfsd = with_faults(self._vfsd, *faults) if faults else self._vfsd
        daemon = Forked(vfsd, *arguments, log=self.log, prepare=self._prepare)
        try:
            wait_until(
                lambda: daemon.poll() is not None or b"is mounted at" in self.log.read_bytes(), "it mounts or ends"
            )
            if daemon.poll() is not None:
                raise Loss(f"it does not mount ({daemon.returncode}):\n{self.said()}")
            yield daemon
        finally:
            daemon.kill()
            daemon.wait(60)
            while mounted_at(self.mountpoint) is not None:
                unmount_with("fusermount3", "-uz", self.mountpoint)

    def said(self) -> str:
        """What the daemon said."""
        return self.log.read_text(errors="replace")

    # --- the work that is recorded

    def prepare_disk(self, base: Path) -> None:
        """A disk with a source and its store, all of it durable."""
        make_file_system(base, DISK_SIZE)
        with file_system_on(base, self.at):
            self.must_do("demo-plate", self.source, "--wells", "2", "--fields", "1", "--channels", "2", "--size", "64")
            (self.source / "shared").mkdir()
            for number in range(WRITERS):
                own = self.source / f"w{number}"
                own.mkdir()
                (own / "large").write_bytes(self.chance.randbytes(150_000))
                (own / "small").write_bytes(b"small")
                os.link(own / "small", own / "small-too")
                (own / "folder").mkdir()
                (own / "folder" / "file").write_bytes(self.chance.randbytes(3000))
            with self.mounted() as daemon:
                for number in range(WRITERS):
                    (self.mountpoint / f"w{number}" / "stored").write_bytes(self.chance.randbytes(90_000))
                daemon.send_signal(signal.SIGTERM)
                if daemon.wait(60) != 0:
                    raise Loss(f"the first unmount fails:\n{self.said()}")

    def work(self, *faults: Fault) -> tuple[Files, dict[int, Told]]:
        """Writers work, and are flushed now and then, until the daemon is killed; what was there, and what they were told.

        `receipts` then has the receipts of flushes that were reported as done, and when.
        """
        self.receipts.clear()
        logs = {number: self.folder / f"log.{number}" for number in range(WRITERS)}
        with self.mounted(*faults) as daemon:
            before = look(self.mountpoint)
            pids = [
                start_writer(self.mountpoint, number, own_of(before, number), f"{self.seed}/{number}", log)
                for number, log in logs.items()
            ]
            end = time.monotonic() + WORK
            while time.monotonic() < end:
                time.sleep(self.chance.uniform(0.1, 0.4))
                if self.command("flush", self.mountpoint).wait(60) == DONE:
                    there, now = os.listdir(default_store(self.source) / "receipts"), time.monotonic_ns()
                    self.receipts.update({name: min(self.receipts.get(name, now), now) for name in there})
            daemon.kill()
            daemon.wait(60)
            for pid in pids:
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)
        told = {number: read_log(log) for number, log in logs.items()}
        for number, one in told.items():
            if one.trouble:
                raise Loss(f"writer {number} met trouble: {one.trouble}\n{self.said()[-3000:]}")
        return before, told

    # --- after a power failure

    def check(self, before: Files, told: dict[int, Told], moment: int, source: dict) -> None:
        """Mount what is left, on a machine that was started anew; `moment`: when the power failed."""
        self._start_anew()
        pasts = [past_until(own_of(before, number), one, moment) for number, one in sorted(told.items())]
        with self.mounted() as daemon:
            found = look(self.mountpoint)
            said = self.said()
            trouble = [
                line
                for line in said.splitlines()
                if LOG_TROUBLE.search(line) and not any(word in line for word in LOST)
            ]
            wrong = all_wrong(pasts, [own_of(found, number) for number in sorted(told)], said)
            if wrong or trouble:
                raise Loss("\n".join([*wrong[:12], *trouble[:5], "--- log", said[-4000:]]))
            self.counts.files += len(found)
            self.counts.durable += sum(past.anchor for past in pasts)
            self.counts.lost += said.count("bytes_lost path=")
            if self.chance.random() < 0.25:
                daemon.send_signal(signal.SIGTERM)
                if daemon.wait(60) != 0:
                    raise Loss(f"it cannot be flushed afterwards:\n{self.said()[-4000:]}")
                self.counts.flushed_after += 1
        kept = os.listdir(default_store(self.source) / "receipts")
        reported = [name for name, since in self.receipts.items() if since <= moment]
        if gone := [name for name in reported if name not in kept]:
            raise Loss(f"flushes that were reported as done have not happened: {gone}")
        self.must_do("verify", default_store(self.source))
        assert_same_tree(read_tree(self.source), source, "the source")


def own_of(files: Files, number: int) -> Files:
    """What belongs to a writer."""
    return {path: node for path, node in files.items() if is_of(number, path)}


def past_until(files: Files, told: Told, moment: int) -> Past:
    """What a writer had been told when the power failed."""
    done = [answered.act for answered in told.done if answered.ended <= moment]
    later = [answered.act for answered in told.done if answered.began <= moment < answered.ended]
    under_way = later[0] if later else None
    if under_way is None and told.under_way is not None and told.began <= moment:
        under_way = told.under_way
    return Past(files, done, under_way)


def run_disk(
    number: int, failures: int, seed: int, folder: Path, counts: Counts, *, sabotage: Sequence[Fault] = ()
) -> None:
    """Record one disk, and let the power fail in it; raises Loss, and says where."""
    inside = folder / f"disk{number}"
    inside.mkdir()
    machine = Machine(inside, f"{seed}/{number}", counts)
    base = inside / "base"
    where = "before any failure"
    try:
        machine.prepare_disk(base)
        machine._start_anew()
        with recorded_disk(base, inside_folder(inside, "recorded")) as disk, file_system_on(disk, machine.at):
            source = read_tree(machine.source)
            before, told = machine.work(*sabotage)
        recording = Recording.read(base, inside / "recorded" / "log")
        flushes = [place for place, entry in enumerate(recording.entries) if entry[0] == FLUSH]
        counts.writes += len(recording.entries) - len(flushes)
        counts.flushes += len(flushes)
        for failure in range(failures):
            chance = random.Random(f"{seed}/{number}/{failure}")
            # At any write, or just after a flush: what was answered then is as new as can be.
            last = chance.choice((chance.randrange(len(recording.entries)), chance.choice(flushes)))
            lose = chance if chance.random() < 0.5 else None
            where = (
                f"failure {failure} after write {last} of {len(recording.entries)}, {'lossy' if lose else 'in order'}"
            )
            recording.image_at(inside / "left", last, lose)
            with file_system_on(inside / "left", machine.at):
                machine.check(before, told, recording.entries[last][1], source)
            counts.failures += 1
    except (AssertionError, OSError) as error:
        raise Loss(f"seed {seed}, disk {number}, {machine.options}, {where}: {error}") from error
    finally:
        machine._start_anew()
        shutil.rmtree(inside, ignore_errors=True)


def inside_folder(folder: Path, name: str) -> Path:
    """A new folder in another."""
    made = folder / name
    made.mkdir()
    return made


def main() -> int:
    options = argparse.ArgumentParser(description="power failures while programs write")
    options.add_argument("--disks", type=int, default=5)
    options.add_argument("--failures", type=int, default=20, help="of each disk")
    options.add_argument(
        "--seed", type=int, default=int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    )
    options.add_argument("--disk", type=int, help="only this disk of the seed's")
    options.add_argument("--skip", help="these points of the program are not done: something must be found lost")
    options.add_argument("--keep-going", action="store_true", help="after something was lost, go on with the next disk")
    given = options.parse_args()
    if reason := why_no_disk():
        print(f"power cannot fail here: {reason}", flush=True)
        return 0
    print(f"seed {given.seed}", flush=True)
    preload()
    sabotage = [Fault(given.skip, SKIP, times=0, after="mount.ready")] if given.skip else []
    counts, wrong, began = Counts(), 0, time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="vfsd-power-"))
    for number in range(1, given.disks + 1) if given.disk is None else [given.disk]:
        try:
            run_disk(number, given.failures, given.seed, folder, counts, sabotage=sabotage)
        except Loss as loss:
            wrong += 1
            print(f"FAILED: {loss}\n", flush=True)
            if not given.keep_going:
                break
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{counts}\n{wrong} disks with losses, {time.monotonic() - began:.0f} s", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
