"""vfsd killed again and again while programs write: `python -m crash.rounds --rounds 1000`, or `make crash`.

A *round*: mount, compare everything with what the writers of the round before were told, let writers work, and end the daemon by
SIGKILL at a random moment or at a chosen point of the program (`faults`). Rounds make chains: the same mount goes on to be
killed, also while it recovers; now and then it is unmounted instead, the store verified and exported, and that compared as
well. Each chain has its own tiers, small enough that files spill, are demoted, and are stored all the time.

The seed is printed; `--seed` and `--rounds` bring the same choices again (what the processes do between them is theirs). A
failure ends the run, or with `--keep-going` the chain, and says what differs, after which kill, in which round.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blackbox.daemons import (
    DONE,
    INCOMPLETE,
    INTERRUPTED,
    LOG_TROUBLE,
    Vfsd,
    default_store,
    mounted_at,
    state_folders,
    unmount_with,
    wait_until,
)
from blackbox.trees import assert_same_tree, read_tree

from crash.ends import End, choose_end, choose_fault
from crash.expected import File, Files, differences, look, perform, settle
from crash.faults import SKIP, Fault, with_faults
from crash.forked import Forked, preload
from crash.workload import Told, is_of, read_log, start_writer

WRITERS = 3
# Seconds that writers work in a round: a few hundred acts, in which something of everything happens.
WORK = 0.15, 0.6
CHAIN = 9
MOST_DEATHS_IN_RECOVERY = 3
# A kill that a plan has for a point that is never passed comes from outside after this.
PATIENCE = 0.7
# What a killed daemon's successor may say of trouble.
ANNOUNCED = ()


class Loss(AssertionError):
    """Something is not as it must be after a crash."""


@dataclass(slots=True)
class Counts:
    """What a run has done."""

    rounds: int = 0
    deaths: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    in_progress: Counter[str] = field(default_factory=Counter)
    idle: int = 0
    clean: int = 0
    acts: int = 0
    files: int = 0

    def __str__(self) -> str:
        def listed(counts: Counter[str]) -> str:
            return ", ".join(f"{name} {count}" for name, count in counts.most_common())

        kills = sum(self.deaths.values())
        return (
            f"{self.rounds} rounds, {kills} kills: {listed(self.deaths)}; {self.clean} clean unmounts\n"
            f"acts under way when it was killed: {sum(self.in_progress.values())} ({listed(self.in_progress)}); "
            f"kills with nothing under way: {self.idle}\n"
            f"compared after mounting: {self.files} files and folders, after {self.acts} answered acts\n"
            f"points ({len(self.points)}): {listed(self.points)}"
        )


class Chain:
    """One source, its store and what must be in them, through several rounds."""

    def __init__(self, folder: Path, seed: str, counts: Counts, sabotage: Sequence[Fault] = ()) -> None:
        self.folder = folder
        self.counts = counts
        self.chance = random.Random(seed)
        self._seed = seed
        self._sabotage = sabotage
        self.source, self.mountpoint = folder / "plate", folder / "mnt"
        self.store = default_store(self.source)
        self._vfsd = Vfsd({**os.environ, "XDG_STATE_HOME": str(folder / "state")})
        self._log = folder / "log"
        self._options = self._choose_options()
        self._make_source()
        self._before = read_tree(self.source)
        self.mountpoint.mkdir()
        self._writers = {number: self._own_of(look(self.source), number) for number in range(WRITERS)}
        self._shared = self._of_nobody(look(self.source))
        self._daemon: Forked | None = None
        self._last = "nothing"
        self._round = 0

    def _choose_options(self) -> list[str]:
        chance = self.chance
        transports = ("pyfuse3", "kernel") if os.geteuid() == 0 else ("pyfuse3",)
        options = ["--transport", chance.choice(transports)]
        options += ["--ram", chance.choice(("1M", "1M", "2M", "64M"))]
        options += chance.choice(([], ["--keep-in-ram", "100K"]))
        options += chance.choice(([], [], ["--stream-above", "500K"]))
        options += chance.choice(([], [], ["--cache-size", "1M"]))
        options += chance.choice(([], [], ["--ingest"]))
        return options

    def _make_source(self) -> None:
        self._must_do("demo-plate", self.source, "--wells", "3", "--fields", "1", "--channels", "2", "--size", "64")
        (self.source / "shared").mkdir()
        for number in range(WRITERS):
            own = self.source / f"w{number}"
            own.mkdir()
            for name, size in (("small", 100), ("large", 150_000), ("hole", 0)):
                (own / name).write_bytes(self.chance.randbytes(size))
            os.truncate(own / "hole", 70_000)
            os.link(own / "small", own / "small-too")
            os.symlink("small", own / "symlink")
            for folder in ("folder", "folder/inside"):
                (own / folder).mkdir()
                (own / folder / "file").write_bytes(self.chance.randbytes(3000))
            (self.source / "shared" / f"w{number}-source").write_bytes(self.chance.randbytes(20_000))

    def _must_do(self, *arguments: str | Path) -> None:
        """A command that must succeed."""
        log = self.folder / "command.log"
        if Forked(self._vfsd, *arguments, log=log).wait(120) != DONE:
            raise Loss(f"vfsd {arguments[0]} fails:\n{log.read_text(errors='replace')[-4000:]}")

    @staticmethod
    def _own_of(files: Files, number: int) -> Files:
        return {path: node for path, node in files.items() if is_of(number, path)}

    @staticmethod
    def _of_nobody(files: Files) -> Files:
        return {path: node for path, node in files.items() if not any(is_of(n, path) for n in range(WRITERS))}

    # --- one round

    def round(self) -> None:
        """Mount, compare, work, end."""
        self._round += 1
        self.counts.rounds += 1
        end = choose_end(self.chance)
        self._start(end)
        try:
            self._compare_mount()
        except OSError:
            # The point lay in what the comparison made it do.
            if not self._has_died():
                raise
            self._note_death(end.stage, end.fault)
            end = End("moment", None, "")
            self._start(end)
            self._compare_mount()
        with self._work() as logs:
            clean = self._end(end)
        told = {number: read_log(log) for number, log in logs.items()}
        self._take(told)
        if clean:
            self._check_clean()
        else:
            self._count(end, told)

    def _start(self, end: End) -> None:
        """Mount; perhaps die on the way there, several times."""
        if self._last != "nothing" and self.chance.random() < 0.35:
            for _ in range(self.chance.randrange(1, MOST_DEATHS_IN_RECOVERY + 1)):
                fault = choose_fault(self.chance, "recovery")
                self._spawn(with_faults(self._vfsd, fault, reached=self._reached))
                if self._mounted():
                    self._kill()
                    self._note_death("recovered", fault)
                    continue
                self._note_death("recovery", fault)
        faults = [*self._sabotage, *([] if end.fault is None else [end.fault])]
        self._spawn(with_faults(self._vfsd, *faults, reached=self._reached) if faults else self._vfsd)
        if not self._mounted():
            raise Loss(f"it does not mount again:\n{self._log_text()}")

    @property
    def _reached(self) -> Path:
        return self.folder / "reached"

    def _spawn(self, vfsd: Vfsd) -> None:
        self._reached.unlink(missing_ok=True)
        self._log.write_bytes(b"")
        arguments = ("mount", self.source, self.mountpoint, "--foreground", *self._options)
        self._daemon = Forked(vfsd, *arguments, log=self._log)

    def _mounted(self) -> bool:
        """Whether the daemon answers, in the end; False if it died before."""
        daemon = self._daemon
        assert daemon is not None
        wait_until(lambda: daemon.poll() is not None or b"is mounted at" in self._log.read_bytes(), "it mounts or ends")
        if daemon.poll() is None:
            return True
        if daemon.returncode != -signal.SIGKILL:
            raise Loss(f"it ended with {daemon.returncode} while it mounted:\n{self._log_text()}")
        return False

    def _has_died(self) -> bool:
        """Whether the daemon is gone by a kill, as far as can be told within a moment."""
        assert self._daemon is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._daemon.wait(5)
        return self._daemon.returncode == -signal.SIGKILL

    def _kill(self) -> None:
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait(60)

    def _log_text(self) -> str:
        return self._log.read_text(errors="replace")[-6000:]

    def _trouble(self) -> list[str]:
        lines = self._log.read_text(errors="replace").splitlines()
        return [line for line in lines if LOG_TROUBLE.search(line) and not any(word in line for word in ANNOUNCED)]

    @contextlib.contextmanager
    def _work(self) -> Iterator[dict[int, Path]]:
        """Writers work during the block, and are over after it."""
        logs = {number: self.folder / f"log{self._round}.{number}" for number in self._writers}
        seed = f"{self._seed}/{self._round}"
        pids = {
            start_writer(self.mountpoint, number, files, f"{seed}/{number}", logs[number]): number
            for number, files in self._writers.items()
        }
        self._pids = set(pids)
        try:
            yield logs
        finally:
            self._stop_writers()

    def _stop_writers(self) -> None:
        """Told to stop, they finish what they are doing; one that nobody answers is killed."""
        for pid in self._pids:
            os.kill(pid, signal.SIGTERM)
        for pid in self._pids:
            if not _ended(pid, 20):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                self._pids = set()
                raise Loss("a writer hangs")
        self._pids = set()

    def _end(self, end: End) -> bool:
        """Let writers work, then end the daemon; whether it ended by itself, with everything stored."""
        daemon = self._daemon
        assert daemon is not None
        time.sleep(self.chance.uniform(*WORK))
        asked = self._ask(end)
        if end.fault is None and end.stage == "moment":
            time.sleep(self.chance.uniform(0, 0.25))
            daemon.kill()
        elif end.stage == "stop":
            self._terminate()
        elif end.stage != "clean" and end.ask != "umount":
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(PATIENCE)
        if end.ask == "umount":
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(60)
        if daemon.poll() is None:
            daemon.kill()
        daemon.wait(60)
        if asked is not None:
            asked.wait(60)
        expected = (0, INCOMPLETE, INTERRUPTED) if end.stage == "stop" else (0, -signal.SIGKILL)
        if daemon.returncode not in expected:
            raise Loss(f"it ended with {daemon.returncode}:\n{self._log_text()}")
        return daemon.returncode == 0 and end.stage != "stop"

    def _terminate(self) -> None:
        """As a machine that goes down ends it, with programs at work; perhaps it has no patience."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGTERM)
        if self.chance.random() < 0.5:
            time.sleep(self.chance.uniform(0, 0.2))
            self._daemon.send_signal(signal.SIGTERM)
        self._daemon.wait(60)

    def _ask(self, end: End) -> Forked | None:
        """Ask the daemon to flush, or to unmount."""
        assert self._daemon is not None
        if end.ask == "flush":
            return Forked(self._vfsd, "flush", self.mountpoint, log=self.folder / "flush.log")
        if end.ask == "umount":
            # A mount that is in use stays busy; with nobody there everything must be stored.
            self._stop_writers()
            self._daemon.send_signal(signal.SIGTERM)
        return None

    # --- what came of it

    def _take(self, told: dict[int, Told]) -> None:
        """What the writers were told is what must be there."""
        for number, one in told.items():
            if one.trouble:
                raise Loss(f"writer {number} met trouble before the daemon died: {one.trouble}\n{self._log_text()}")
            files = self._writers[number]
            for answered in one.done:
                act = answered.act
                perform(files, act)
                path = act[2] if act[0] == "rename" else act[1]
                node = files.get(path)
                if isinstance(node, File):
                    node.mtime = answered.mtime
            self.counts.acts += len(one.done)
        self._told = told

    def _count(self, end: End, told: dict[int, Told]) -> None:
        under_way = [str(one.under_way[0]) for one in told.values() if one.under_way is not None]
        self.counts.in_progress.update(under_way)
        reached = self._note_death(end.stage, end.fault)
        if not under_way and not reached:
            self.counts.idle += 1

    def _note_death(self, stage: str, fault: Fault | None) -> bool:
        """Count a kill; whether it was at the point that was chosen."""
        reached = self._reached.read_text().strip() if self._reached.exists() else ""
        self._last = f"{stage}: {reached or 'from outside'}"
        if reached:
            self.counts.points[reached.split(" ")[-1]] += 1
        self.counts.deaths[stage if reached or fault is None else "moment"] += 1
        return bool(reached)

    def _compare_mount(self) -> None:
        if trouble := self._trouble():
            raise Loss("it says at its start:\n" + "\n".join(trouble))
        self._compare(look(self.mountpoint), "the mount")
        if trouble := self._trouble():
            raise Loss("it says while it is read:\n" + "\n".join(trouble))

    def _compare(self, found: Files, where: str) -> None:
        lines: list[str] = []
        for number, files in self._writers.items():
            own = self._own_of(found, number)
            act = self._under_way(number)
            wrong = differences(own, files) if act is None else settle(own, files, act, self._told[number].written)
            lines += [f"writer {number}: {line}" for line in wrong]
        lines += differences(self._of_nobody(found), self._shared)
        self.counts.files += len(found)
        self._told: dict[int, Told] = {}
        if lines:
            log = self._log_text()
            raise Loss(f"{where} after {self._last}:\n" + "\n".join(lines[:12]) + f"\n--- log\n{log}")
        for files in self._writers.values():
            for path, node in files.items():
                there = found[path]
                if isinstance(node, File) and isinstance(there, File):
                    node.mtime = there.mtime

    def _under_way(self, number: int) -> tuple | None:
        told = getattr(self, "_told", {})
        return told[number].under_way if number in told else None

    def _check_clean(self) -> None:
        """After an unmount: everything is in the store, and nothing is left outside it."""
        self.counts.clean += 1
        self._last = "a clean unmount"
        if trouble := self._trouble():
            raise Loss("it said:\n" + "\n".join(trouble))
        left = state_folders(self.store, self._vfsd.environment)
        if left or mounted_at(self.mountpoint):
            raise Loss(f"left behind: {left}\n{self._log_text()}")
        inside = [str(path.relative_to(self.store)) for path in self.store.rglob("*")]
        if strays := [path for path in inside if path.startswith("work") or path.endswith((".part", ".new"))]:
            raise Loss(f"left in the store: {strays}")
        self._must_do("verify", self.store)
        if self.chance.random() < 0.5 and "--ingest" in self._options:
            exported = self.folder / "exported"
            self._must_do("export", self.store, exported)
            self._compare(look(exported), "the export")
            shutil.rmtree(exported)
        assert_same_tree(read_tree(self.source), self._before, "the source")

    def finish(self) -> None:
        """The last word: one more mount, compared, unmounted, verified; the source is what it was."""
        self._spawn(self._vfsd)
        if not self._mounted():
            raise Loss("it does not mount")
        self._compare_mount()
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGTERM)
        if self._daemon.wait(60) != 0:
            raise Loss(f"it ended with {self._daemon.returncode}:\n{self._log_text()}")
        self._check_clean()

    def clear(self) -> None:
        """Leave nothing behind, whatever happened."""
        if self._daemon is not None and self._daemon.poll() is None:
            self._kill()
        while mounted_at(self.mountpoint) is not None:
            if unmount_with("fusermount3", "-uz", self.mountpoint).returncode != 0:
                break
        for state in state_folders(self.store, self._vfsd.environment):
            if mounted_at(state / "ram") is not None:
                unmount_with("umount", "-l", state / "ram")
            shutil.rmtree(state, ignore_errors=True)


def _ended(pid: int, seconds: float) -> bool:
    """Wait for a process of ours to end."""
    limit = time.monotonic() + seconds
    while True:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return True
        if time.monotonic() > limit:
            return False
        time.sleep(0.005)


def run_chain(
    number: int,
    rounds: int,
    seed: int,
    folder: Path,
    counts: Counts,
    *,
    keep: bool = False,
    sabotage: Sequence[Fault] = (),
) -> None:
    """One chain of rounds in a folder of its own, removed afterwards (after a failure kept, if that is wanted)."""
    inside = folder / f"chain{number}"
    inside.mkdir()
    chain = Chain(inside, f"{seed}/{number}", counts, sabotage)
    failed = True
    try:
        for _ in range(rounds):
            chain.round()
        chain.finish()
        failed = False
    except (AssertionError, OSError) as error:
        raise Loss(f"seed {seed}, chain {number}, its round {chain._round}, {chain._options}: {error}") from error
    finally:
        if not (failed and keep):
            chain.clear()
            shutil.rmtree(inside, ignore_errors=True)


def main() -> int:
    options = argparse.ArgumentParser(description="vfsd killed again and again while programs write")
    options.add_argument("--rounds", type=int, default=int(os.environ.get("ROUNDS") or 1000))
    options.add_argument(
        "--seed", type=int, default=int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    )
    options.add_argument("--chain", type=int, help="only this chain of the seed's")
    options.add_argument("--keep-going", action="store_true", help="after a failure go on with the next chain")
    options.add_argument("--skip", help="these points of the program are not done: something must be found wrong")
    options.add_argument("--keep", action="store_true", help="leave folders and state of what failed")
    given = options.parse_args()
    print(f"seed {given.seed}", flush=True)
    preload()
    counts, failures, began = Counts(), 0, time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="vfsd-crash-"))
    sabotage = [Fault(given.skip, SKIP, times=0, after="mount.ready")] if given.skip else []
    number = 0 if given.chain is None else given.chain - 1
    while counts.rounds < given.rounds:
        number += 1
        try:
            rounds = min(CHAIN, given.rounds - counts.rounds)
            run_chain(number, rounds, given.seed, folder, counts, keep=given.keep, sabotage=sabotage)
        except Loss as loss:
            failures += 1
            print(f"FAILED: {loss}\n", flush=True)
            if not given.keep_going:
                break
        if given.chain is not None:
            break
        if number % 10 == 0:
            print(
                f"{counts.rounds} rounds, {sum(counts.deaths.values())} kills, {time.monotonic() - began:.0f} s",
                flush=True,
            )
    print(f"{counts}\n{failures} failures, {time.monotonic() - began:.0f} s", flush=True)
    if not counts.in_progress:
        print("nothing was under way at any kill: this proved nothing", flush=True)
        return 1
    if not given.keep:
        shutil.rmtree(folder, ignore_errors=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
