"""A small plate for a long run, its mounts, and the checks that every mount of it ends with.

The end is always the same: everything is flushed and unmounted, the store verified, the daemon logged no trouble, and the
source is what it was. Whatever happens, no mount and no daemon stays.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blackbox.daemons import DONE, Mount, Vfsd, mount_plate
from blackbox.trees import assert_same_tree, read_tree

# What a run leaves behind may be gigabytes to flush; a command that hangs shall end nevertheless.
COMMAND_SECONDS = 900.0
# Enough for the traceback of a crash with all its threads.
LOG_LINES = 200
MEMORY_FIGURE = re.compile(r"^(VmHWM|RssAnon|RssFile|RssShmem):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Bench:
    """A source with a file in a folder (`BEGINS`), and where it is mounted."""

    vfsd: Vfsd
    source: Path
    mountpoint: Path

    @contextmanager
    def mounted(self, *options: str) -> Iterator[Mount]:
        """Mount for the block; then flush, unmount, verify the store, and look into the daemon's log."""
        mount = mount_plate(self.vfsd, self.source, self.mountpoint, options)
        try:
            yield mount
            print(f"daemon: {memory_of(mount.pid)}", flush=True)
            print(f"umount: {self._run('umount', mount.path)}", flush=True)
            mount.wait_for_daemon()
            print(f"verify: {self._run('verify', mount.store)}", flush=True)
        finally:
            mount.end()
            end_of_log = _end_of_log(mount)
            trouble = mount.log_trouble()
            mount.remove_state()
            if trouble:
                print(*trouble, "The log ends with:", *end_of_log, sep="\n", flush=True)
        assert not trouble, "the daemon logged trouble: see above"

    def _run(self, *arguments: str | Path) -> str:
        done = self.vfsd.expect(DONE, *arguments, timeout=COMMAND_SECONDS)
        return next(iter((done.out + done.err).splitlines()), "")


def _end_of_log(mount: Mount) -> list[str]:
    if mount.log is None:
        return []
    lines = mount.log.read().decode(errors="replace").splitlines()
    mount.log.seek(0)
    return lines[-LOG_LINES:]


# The folder of the plate that begins in the source.
BEGINS = "begins"
# Another, with files of random bytes, the first of them empty.
SCRIBBLED, SCRIBBLED_FILES = "scribbled", 8


def memory_of(pid: int) -> str:
    """What the kernel says of a process's memory."""
    figures = MEMORY_FIGURE.findall(Path(f"/proc/{pid}/status").read_text())
    return ", ".join(f"{name} {int(kib) * 1024 / 1e6:.0f} MB" for name, kib in figures)


@contextmanager
def flushed_meanwhile(mount: Mount) -> Iterator[None]:
    """Flush again and again as long as the block runs; every flush must succeed."""
    done = threading.Event()
    outcomes: list[int] = []

    def flush() -> None:
        while not done.is_set():
            outcome = mount.vfsd("flush", mount.path, timeout=COMMAND_SECONDS)
            outcomes.append(outcome.code)
            if outcome.code != DONE:
                print(outcome, flush=True)

    thread = threading.Thread(target=flush)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        print(f"  flushed {len(outcomes)} times meanwhile", flush=True)
    assert set(outcomes) == {DONE}, "a flush failed: see above"


@contextmanager
def bench(folder: Path | None) -> Iterator[Bench]:
    """A fresh plate below `folder` (default: the system's temporary one); all of it goes at the end."""
    top = Path(tempfile.mkdtemp(prefix="vfsd-conformance-", dir=folder))
    try:
        top.chmod(0o755)  # other users must be able to walk to the mount
        made = Bench(Vfsd({**os.environ, "XDG_STATE_HOME": str(top / "state")}), top / "plate", top / "mnt")
        made.mountpoint.mkdir()
        (made.source / BEGINS).mkdir(parents=True)
        (made.source / BEGINS / "notes.txt").write_text("This file is of the source.\n")
        (made.source / SCRIBBLED).mkdir()
        for number in range(SCRIBBLED_FILES):
            (made.source / SCRIBBLED / str(number)).write_bytes(os.urandom(number * 100_000))
        before = read_tree(made.source)
        yield made
        assert_same_tree(read_tree(made.source), before, "the source after the run")
    finally:
        shutil.rmtree(top, ignore_errors=True)
