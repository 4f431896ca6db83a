"""vfsd with faults: `python -m crash.faults mount ...` is `python -m vfsd mount ...` that fails or dies where it is told to.

Nothing of this is in the program: this module wraps, in the process that it starts, the system calls that change files and
the named steps below, and then runs the command. Without a plan in the environment it wraps nothing.

A *point* is a place that can fail. Its label is `call@module:function` for a system call (of `CALLS`, made by that function
of vfsd or on its behalf; `call@thread:` where a thread was given nothing but the call), and the name of a step for those of
`STEPS`. A plan names points by pattern, as in file names.

    faulty = with_faults(vfsd, Fault("fsync@vfsd.store.*", "EIO", nth=2))     # in a test: this vfsd fails once
    faulty = with_faults(vfsd, Fault("flush.release", "kill", after="mount.ready"))
"""

from __future__ import annotations

import errno
import fnmatch
import functools
import importlib
import inspect
import json
import os
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from blackbox.daemons import Vfsd

PLAN = "VFSD_TEST_FAULTS"
"""The environment variable with the plan, as JSON."""

ROOMS = ("vfsd.tree", "vfsd.tiers", "vfsd.store", "vfsd.flush", "vfsd.codec", "vfsd.daemon")

# Calls of the module os that change something, or make it durable. `open` is a point where it may make a file.
CALLS = (
    *("open", "mkdir", "rename", "replace", "link", "symlink", "unlink", "rmdir"),
    *("write", "pwrite", "pwritev", "sendfile", "copy_file_range", "ftruncate", "posix_fallocate"),
    *("fsync", "fdatasync", "utime", "setxattr"),
)
# Of these the first argument after the descriptor is data, of which a short write takes the first half.
WRITES = ("write", "pwrite", "pwritev")
# Statements of SQLite after which something is durable or visible that was not before.
STATEMENTS = {"COMMIT": "commit", "PRAGMA wal_checkpoint": "checkpoint"}

STEPS = {
    "mount.open_stack": "vfsd.daemon.stack:open_stack",
    "mount.ready": "vfsd.daemon.session:Session._wait_until_answering",
    "umount.finish": "vfsd.daemon.session:Session._finish",
    "umount.remove": "vfsd.daemon.stack:Stack.remove_folders",
    "recovery.store": "vfsd.store.intents:recover_work",
    "recovery.journal": "vfsd.tree.rows:Rows._replay",
    "recovery.tree": "vfsd.tree.recovery:Recovery.run",
    "recovery.strangers": "vfsd.tiers.files:TierFiles.remove_strangers",
    "journal.change": "vfsd.tree.changelog:ChangeLog.append",
    "journal.commit": "vfsd.tree.rows:Rows.commit",
    "journal.sync": "vfsd.tree.journal:Journal.sync",
    "file.copy_up": "vfsd.tree.contents:Contents._copy_up",
    "file.hydrate": "vfsd.tree.contents:Contents.hydrate",
    "file.sync": "vfsd.tree.contents:Contents.fsync",
    "spill.copy": "vfsd.tiers.folders:TierFolders.copy_to_cache",
    "spill.switch": "vfsd.tiers.moves:Moves._switch_to_cache",
    "flush.plan": "vfsd.flush.selection:select",
    "flush.analyse": "vfsd.flush.items:Item.analyse",
    "flush.write_shard": "vfsd.flush.writing:ObjectWriter.write_shard",
    "flush.write_plain": "vfsd.flush.writing:ObjectWriter.write_plain",
    "flush.sync": "vfsd.store.transaction:Transaction.sync",
    "flush.sync_file_system": "vfsd.store.storage:sync_file_system",
    "flush.verify": "vfsd.flush.verification:Verification.finish",
    "flush.catalogue": "vfsd.flush.assembly:Assembly.finish",
    "flush.receipt": "vfsd.flush.receipt:put_receipt",
    "flush.publish": "vfsd.store.transaction:Transaction.publish",
    "flush.intents": "vfsd.store.intents:write_intents",
    "flush.carry_out": "vfsd.store.intents:carry_out",
    "flush.undo": "vfsd.store.intents:undo",
    "flush.adopt": "vfsd.store.store:Store.adopt_catalogue",
    "flush.release": "vfsd.flush.release:release",
    "flush.finish": "vfsd.store.intents:finish",
}
"""Steps by name, each a function of vfsd: what happens between system calls, or is made of many."""

KILL, KILL_AFTER, SHORT, SKIP = "kill", "kill after", "short", "skip"


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, and where.

    Attributes
    ----------
    at : str
        A pattern for the labels of points.
    do : str
        `kill` (SIGKILL before it is done) or `kill after`, the name of an errno (raised instead of doing it), `short` (a
        write takes only half of its bytes, an error ENOSPC where there is nothing to halve), or `skip` (it is not done, and
        nobody is told: for trying whether a test notices).
    nth, times : int
        The first of the points, counted from 1, that fails, and how many; 0: all from there on.
    after : str
        Count only once a point that matches this was passed.
    """

    at: str
    do: str
    nth: int = 1
    times: int = 1
    after: str = ""


def with_faults(vfsd: Vfsd, *faults: Fault, record: Path | None = None, reached: Path | None = None) -> Vfsd:
    """vfsd as it is, with faults.

    Parameters
    ----------
    record : Path, optional
        Gets the label of each point that was passed, a line each.
    reached : Path, optional
        Gets the label of each point at which something was made to go wrong.
    """
    plan = {"faults": [asdict(fault) for fault in faults], "record": _name(record), "reached": _name(reached)}
    return replace(vfsd, module="crash.faults", environment=environment_with(vfsd.environment, plan))


def environment_with(environment: Mapping[str, str], plan: Mapping[str, Any]) -> dict[str, str]:
    """An environment in which `python -m crash.faults` is found and follows a plan."""
    tests = str(Path(__file__).parents[1])
    paths = [tests, environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(paths).rstrip(os.pathsep), PLAN: json.dumps(plan)}


def _name(path: Path | None) -> str:
    return "" if path is None else os.fspath(path)


# --- in the process that is to fail


class Faults:
    """A plan at work: counts points, and says what is to happen at each."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self._waiting = [Fault(**given) for given in plan["faults"]]
        self._counts = [0] * len(self._waiting)
        self._armed = [not fault.after for fault in self._waiting]
        self._lock = threading.Lock()
        self._write, self._open, self._close = os.write, os.open, os.close  # as they are before they are wrapped
        self._record, self._reached = plan["record"], plan["reached"]

    def _note(self, path: str, line: str) -> None:
        """Add a line to a file; opened for each, as a daemon closes whatever it inherits."""
        if path:
            fd = self._open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._write(fd, line.encode() + b"\n")
            self._close(fd)

    def wants(self, label: str) -> bool:
        """Whether a point can matter at all."""
        if self._record:
            return True
        return any(
            fnmatch.fnmatchcase(label, pattern) for fault in self._waiting for pattern in (fault.at, fault.after)
        )

    def pass_point(self, label: str) -> str:
        """A point is passed: what is to go wrong there, or ""."""
        with self._lock:
            self._note(self._record, label)
            for number, fault in enumerate(self._waiting):
                if not self._armed[number]:
                    continue
                if not fnmatch.fnmatchcase(label, fault.at):
                    continue
                self._counts[number] += 1
                past = self._counts[number] - fault.nth
                if past >= 0 and (fault.times == 0 or past < fault.times):
                    self._note(self._reached, f"{fault.do} {label}")
                    return fault.do
            return ""

    def passed(self, label: str) -> None:
        """A point lies behind us: faults that wait for it count from here on."""
        with self._lock:
            for number, fault in enumerate(self._waiting):
                if not self._armed[number] and fnmatch.fnmatchcase(label, fault.after):
                    self._armed[number] = True

    def before(self, label: str) -> str:
        """Do what is to go wrong before a point; returns what is left to do."""
        do = self.pass_point(label)
        if do == KILL:
            die()
        if do and do not in (KILL_AFTER, SHORT, SKIP):
            number = getattr(errno, do)
            raise OSError(number, os.strerror(number), f"made to fail: {label}")
        return do

    def after(self, label: str, do: str) -> None:
        """... and after it."""
        if do == KILL_AFTER:
            die()
        self.passed(label)


def die() -> None:
    """SIGKILL ourselves, and do nothing else meanwhile."""
    os.kill(os.getpid(), signal.SIGKILL)
    while True:
        time.sleep(1)


def _place() -> str:
    """`module:function` of the innermost function of vfsd's rooms that is calling; "" if it is none of vfsd's calls."""
    frame = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(ROOMS):
            return f"{module}:{frame.f_code.co_qualname}"
        frame = frame.f_back
    # A thread that was given nothing but the call.
    return "" if threading.current_thread() is threading.main_thread() else "thread:"


def _wrap_call(faults: Faults, name: str) -> None:
    original = getattr(os, name)

    @functools.wraps(original)
    def call(*arguments: Any, **named: Any) -> Any:
        if name == "open" and not (arguments[1] if len(arguments) > 1 else named.get("flags", 0)) & os.O_CREAT:
            return original(*arguments, **named)
        place = _place()
        if not place:
            return original(*arguments, **named)
        label = f"{name}@{place}"
        do = faults.before(label)
        if do == SKIP:
            return None
        if do == SHORT:
            return _write_short(original, name, arguments, label)
        result = original(*arguments, **named)
        faults.after(label, do)
        return result

    setattr(os, name, call)
    for supported in (os.supports_dir_fd, os.supports_fd, os.supports_follow_symlinks):
        if original in supported:
            supported.add(call)


def _write_short(original: Callable[..., int], name: str, arguments: tuple[Any, ...], label: str) -> int:
    if name in WRITES:
        descriptor, data, *rest = arguments
        data = b"".join(data) if name == "pwritev" else data
        half = memoryview(data).cast("B")[: len(memoryview(data).cast("B")) // 2]
        if len(half):
            return original(descriptor, [half] if name == "pwritev" else half, *rest)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"made to fail: {label}")


class _Connection(sqlite3.Connection):
    """SQLite's own, whose commits are points."""

    faults: Faults

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        for beginning, name in STATEMENTS.items():
            if statement.startswith(beginning):
                label = f"{name}@{_place()}"
                try:
                    do = self.faults.before(label)
                except OSError as error:
                    raise _as_sqlite_error(error) from error
                found = super().execute(statement, *values)
                self.faults.after(label, do)
                return found
        return super().execute(statement, *values)


def _as_sqlite_error(error: OSError) -> sqlite3.Error:
    full = error.errno == errno.ENOSPC
    problem = sqlite3.OperationalError("database or disk is full" if full else "disk I/O error")
    problem.sqlite_errorname = "SQLITE_FULL" if full else "SQLITE_IOERR"
    return problem


def find_step(target: str) -> tuple[Any, str, Callable[..., Any]]:
    """(what holds it, its name, the function) of a step's `module:function`; raises AttributeError or ImportError."""
    module, _, qualified = target.partition(":")
    holder: Any = importlib.import_module(module)
    *outer, name = qualified.split(".")
    for part in outer:
        holder = getattr(holder, part)
    function = inspect.getattr_static(holder, name)
    if not inspect.isfunction(function):
        raise AttributeError(f"{target} is no function")
    return holder, name, function


def _wrap_step(faults: Faults, step: str, target: str) -> None:
    holder, name, function = find_step(target)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapped(*arguments: Any, **named: Any) -> Any:
            if (do := faults.before(step)) == SKIP:
                return None
            result = await function(*arguments, **named)
            faults.after(step, do)
            return result

    else:

        @functools.wraps(function)
        def wrapped(*arguments: Any, **named: Any) -> Any:
            if (do := faults.before(step)) == SKIP:
                return None
            result = function(*arguments, **named)
            faults.after(step, do)
            return result

    setattr(holder, name, wrapped)
    for module in [module for name, module in sys.modules.items() if name.startswith(ROOMS)]:
        for key, value in list(vars(module).items()):
            if value is function:
                setattr(module, key, wrapped)


def install(plan: Mapping[str, Any]) -> Faults:
    """Wrap what the plan speaks of, in this process."""
    # Whether it works with directory descriptors it decides when it is imported.
    assert shutil.rmtree.avoids_symlink_attacks
    faults = Faults(plan)
    for step, target in STEPS.items():
        if faults.wants(step):
            _wrap_step(faults, step, target)
    for name in CALLS:
        _wrap_call(faults, name)
    _Connection.faults = faults
    sqlite3.connect = functools.partial(sqlite3.connect, factory=_Connection)
    return faults


def main() -> int:
    """Run one command of vfsd with the faults of the environment."""
    # Not to those whom the daemon starts.
    plan = os.environ.pop(PLAN, "")
    if plan:
        install(json.loads(plan))
    from vfsd.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
