"""Commands of vfsd as forks of a process that has imported all of it: the same program, without the second that imports take.

For tests that start hundreds of daemons. The caller has no threads and no event loop.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from blackbox.daemons import Vfsd

from crash.faults import PLAN, install

POLL = 0.005


def preload() -> None:
    """Import whatever a command may need."""
    import vfsd

    for module in pkgutil.walk_packages(vfsd.__path__, "vfsd."):
        if not module.name.endswith(("__main__", "decode_worker")) and not module.name.startswith("vfsd.gpu"):
            importlib.import_module(module.name)
    for name in ("hypercorn.trio", "hypercorn.config", "starlette.applications", "starlette.routing", "numcodecs"):
        importlib.import_module(name)
    gc.freeze()  # so that a collection in a child does not copy everything


class Forked:
    """A running command; like `subprocess.Popen`, as far as it goes. `prepare` is called in the new process.

    Attributes
    ----------
    returncode : int or None
        Its exit code, negative for a signal, once `poll` or `wait` have seen it end.
    """

    def __init__(
        self, vfsd: Vfsd, *arguments: str | Path, log: Path, prepare: Callable[[], None] = lambda: None
    ) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _be_the_command([os.fspath(argument) for argument in arguments], vfsd.environment, log, prepare)

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, seconds: float) -> int:
        """The exit code, when it has ended; raises subprocess.TimeoutExpired."""
        limit = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > limit:
                raise subprocess.TimeoutExpired("vfsd", seconds)
            time.sleep(POLL)
        return code

    def send_signal(self, number: int) -> None:
        """Signal it, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As a crash would end it."""
        self.send_signal(signal.SIGKILL)


def _be_the_command(
    arguments: list[str], environment: Mapping[str, str], log: Path, prepare: Callable[[], None]
) -> None:
    """Never returns."""
    code = 70
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir("/")
        null, output = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for source, target in ((null, 0), (output, 1), (output, 2)):
            os.dup2(source, target)
        sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
        os.environ.clear()
        os.environ.update(environment)
        if plan := os.environ.pop(PLAN, ""):
            install(json.loads(plan))
        prepare()
        from vfsd.cli import main

        code = main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
