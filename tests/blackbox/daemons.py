"""vfsd as a user runs it: commands in processes of their own, mounts, the daemons behind them, their logs.

A command is `python -m vfsd ...`; what it prints is decoded so that no byte is lost. A traceback at the
terminal fails whichever test caused it. Daemons are found through `vfsd status` and ended by their process
id, never by name; mounts are found in /proc/self/mountinfo, as `stat` cannot tell a dead from a missing one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import psutil

# Generous: a slow, shared machine is no failure, a command that hangs is.
COMMAND_SECONDS = 120.0
# A daemon that was told to go, or whose mount is gone, has nothing left to do but to finish its flush.
DAEMON_SECONDS = 60.0
POLL_SECONDS = 0.02

DONE, USAGE, UNFIT, INCOMPLETE, DIFFERENT, BUSY, INTERRUPTED = 0, 1, 2, 3, 4, 5, 8
"""The exit codes of every command."""

LOG_TROUBLE = re.compile(r"level=(?:error|critical)|Traceback|Fatal Python error", re.IGNORECASE)
"""Lines are `time level=... logger=... event key=value`; a crash of the interpreter writes its own."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished command left: its exit code and what it printed."""

    command: tuple[str, ...]
    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one object that `--json` prints; anything else on standard output is a failure."""
        value = json.loads(self.out)
        assert isinstance(value, dict), f"{self}: not one JSON object"
        return value

    def must_name(self, *words: str | Path) -> None:
        """A refusal says what it is about."""
        for word in words:
            assert str(word) in self.err, f"{word!s} is not named: {self}"

    def __str__(self) -> str:
        command = " ".join(self.command)
        return f"`vfsd {command}` exited with {self.code}\n--- out\n{self.out}\n--- err\n{self.err}"


@dataclass(frozen=True, slots=True)
class Vfsd:
    """Runs vfsd commands; every one must end in time and without a traceback.

    `module` is what is run: another one than the program stands for one with faults.
    """

    environment: Mapping[str, str]
    module: str = "vfsd"

    def command(self, *arguments: str | bytes | Path) -> list[str | bytes | Path]:
        return [sys.executable, "-m", self.module, *arguments]

    def __call__(self, *arguments: str | bytes | Path, timeout: float = COMMAND_SECONDS) -> Outcome:
        """Run one command to its end, whatever its exit code."""
        finished = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            encoding="utf-8",
            errors="surrogateescape",
        )
        shown = tuple(ascii(os.fsdecode(a))[1:-1] for a in arguments)
        outcome = Outcome(shown, finished.returncode, finished.stdout, finished.stderr)
        assert "Traceback (most recent call last)" not in outcome.err + outcome.out, str(outcome)
        assert outcome.code >= 0, f"ended by signal {-outcome.code}: {outcome}"
        return outcome

    def expect(self, code: int, *arguments: str | bytes | Path, timeout: float = COMMAND_SECONDS) -> Outcome:
        """Run one command that must exit with `code`; a refusal must also say something."""
        outcome = self(*arguments, timeout=timeout)
        assert outcome.code == code, f"should exit with {code}: {outcome}"
        if code != DONE:
            assert (outcome.err + outcome.out).strip(), f"a refusal without a word: {outcome}"
        return outcome

    def start(self, *arguments: str | bytes | Path) -> subprocess.Popen[bytes]:
        """A command that the test itself waits for or signals: it hears Ctrl-C, also where the tests run in the background."""
        return subprocess.Popen(
            self.command(*arguments),
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


def wait_until(condition: Callable[[], Any], what: str, seconds: float = DAEMON_SECONDS) -> Any:
    """Poll until `condition` gives something true, and return that; fail with `what` at the limit."""
    limit = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < limit, f"not within {seconds:.0f} s: {what}"
        time.sleep(POLL_SECONDS)


def mounted_at(path: Path) -> str | None:
    """The file system type mounted on a path, from the kernel's own table; None where nothing is."""
    wanted = os.fsencode(path.parent.resolve() / path.name)
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        point = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), before.split(b" ")[4])
        if point == wanted:
            return after.split(b" ")[0].decode()
    return None


def unmount_with(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)


def store_id(store: Path) -> str | None:
    """What a store calls itself, or None where there is no store."""
    try:
        return str(json.loads((store / "vfs.json").read_text())["id"])
    except (OSError, ValueError, KeyError):
        return None


def state_parent(environment: Mapping[str, str]) -> Path:
    """Where daemons of this user keep their state, as the documentation has it."""
    if os.geteuid() == 0:
        return Path("/var/lib/vfsd")
    return Path(environment.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "vfsd"


def runtime_parent() -> Path:
    """Where daemons of this user keep the RAM tier."""
    return Path("/run/vfsd" if os.geteuid() == 0 else f"/dev/shm/vfsd-{os.geteuid()}")


def state_folders(store: Path, environment: Mapping[str, str]) -> list[Path]:
    """What a mount of `store` keeps outside it: folders named by the store's id."""
    own = store_id(store)
    if own is None:
        return []
    found = [parent / own for parent in (state_parent(environment), runtime_parent())]
    return [folder for folder in found if folder.is_dir()]


def open_log(store: Path, environment: Mapping[str, str]) -> BinaryIO | None:
    """A daemon's log, held open so that it can be read after the daemon has tidied it away."""
    for folder in state_folders(store, environment):
        for log in sorted(folder.glob("*.log")):
            return log.open("rb")
    return None


@dataclass(slots=True)
class Mount:
    """One mounted plate or store, and the daemon behind it."""

    vfsd: Vfsd
    path: Path
    source: Path | None
    store: Path
    pid: int
    daemon: psutil.Process
    log: BinaryIO | None
    announced: list[re.Pattern[str]] = field(default_factory=list)

    def status(self) -> dict[str, Any]:
        return self.vfsd.expect(DONE, "status", self.path, "--json").json()

    def is_mounted(self) -> bool:
        return mounted_at(self.path) is not None

    def umount(self, *options: str | Path, code: int = DONE) -> Outcome:
        """`vfsd umount`, with the exit code it must have; after success mount and daemon are gone."""
        outcome = self.vfsd.expect(code, "umount", self.path, *options)
        if code == DONE:
            assert not self.is_mounted(), f"still mounted: {outcome}"
            self.wait_for_daemon()
        return outcome

    def flush(self, *paths: str | Path) -> Outcome:
        return self.vfsd.expect(DONE, "flush", self.path, *paths)

    def kill(self) -> None:
        """End the daemon as a crash would."""
        self.daemon.kill()
        self.wait_for_daemon()

    def wait_for_daemon(self, seconds: float = DAEMON_SECONDS) -> None:
        wait_until(self.daemon_ended, f"daemon {self.pid} of {self.path} ends", seconds)

    def daemon_ended(self) -> bool:
        try:
            return not self.daemon.is_running() or self.daemon.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def expect_in_log(self, pattern: str) -> None:
        """Announce lines of trouble that this test causes on purpose."""
        self.announced.append(re.compile(pattern, re.IGNORECASE))

    def log_trouble(self) -> list[str]:
        """Lines of the daemon's log that speak of an error nobody announced; the log is closed with this."""
        if self.log is None:
            return []
        with self.log as log:
            lines = log.read().decode(errors="surrogateescape").splitlines()
        lines = [line for line in lines if LOG_TROUBLE.search(line)]
        return [line for line in lines if not any(pattern.search(line) for pattern in self.announced)]

    def end(self) -> None:
        """Leave nothing behind, in whatever state the test left it."""
        if self.is_mounted() and not self.daemon_ended():
            # Whatever it says, the next steps do without it.
            with contextlib.suppress(subprocess.TimeoutExpired, AssertionError):
                self.vfsd("umount", self.path, "--timeout", "20", timeout=DAEMON_SECONDS)
        while self.is_mounted():
            if unmount_with("fusermount3", "-uz", self.path).returncode != 0:
                break
        for end_it in (lambda: None, self.daemon.terminate, self.daemon.kill):
            if self.daemon_ended():
                break
            try:
                end_it()
                self.daemon.wait(10)
            except (psutil.NoSuchProcess, psutil.TimeoutExpired):
                continue

    def remove_state(self) -> None:
        """Take away what a killed daemon left, so that no test leaves anything outside its own folder."""
        for folder in state_folders(self.store, self.vfsd.environment):
            if mounted_at(folder / "ram") is not None:
                unmount_with("umount", "-l", folder / "ram")
            shutil.rmtree(folder, ignore_errors=True)


Mounted = Callable[..., contextlib.AbstractContextManager[Mount]]
"""The `mounted` fixture: `with mounted(source, *options, at=None, store=None) as mount`."""

Plate = Callable[..., Path]
"""The `plate` fixture: `plate(name=None, to="plate")` gives the folder of a fresh copy."""


def default_store(source: Path) -> Path:
    """Where `mount` puts a store when nobody says: beside the source."""
    return source.with_name(source.name + ".vfs")


def mount_plate(
    vfsd: Vfsd,
    source: Path,
    mountpoint: Path,
    options: Sequence[str | Path],
    *,
    store: Path | None = None,
) -> Mount:
    """Mount a plate or a store, and find the daemon behind it.

    Raises
    ------
    AssertionError
        The command refused, or the kernel knows of no mount when it returns.
    """
    where = [] if store is None else ["--store", store]
    vfsd.expect(DONE, "mount", source, mountpoint, *where, *options)
    assert mounted_at(mountpoint) is not None, f"{mountpoint}: `vfsd mount` returned before the mount was there"
    status = vfsd.expect(DONE, "status", mountpoint, "--json").json()
    pid = int(status["pid"])
    alone = (source / "vfs.json").is_file()
    kept = source if alone else store or default_store(source)
    return Mount(
        vfsd=vfsd,
        path=mountpoint,
        source=None if alone else source,
        store=kept,
        pid=pid,
        daemon=psutil.Process(pid),
        log=open_log(kept, vfsd.environment),
    )
