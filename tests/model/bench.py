"""Mounts for the model, and folders in them that begin in the layer asked for.

Flushing and unmounting are asked for as the commands do, but from this process: they are done often, and starting a
program takes longer than what it asks for.

One mount serves many examples: each gets a folder of its own, and a plain directory that holds the same. When all are used
up the mount ends, its store is verified, every folder is compared once more after mounting again, and a new one is made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from blackbox.daemons import DONE, LOG_TROUBLE, Mount, Vfsd, default_store, open_log, unmount_with

from model.acts import Side, write_all
from model.looking import Witness
from model.places import contents, noise
from vfsd.daemon.flushing import flush_mount
from vfsd.daemon.registry import find_mount
from vfsd.daemon.unmounting import unmount

LAYERS = ("source", "overlay", "store")
# So little that several files at once do not fit: spills are everyday.
RAM = "2M"
# Enough that preparing a mount costs little an example; few enough that catalogue and journal stay small.
FOLDERS = 10
EARLY = 1_000_000_000_123_456_789


def build_template(root: Path) -> None:
    """A small tree with one of everything, all of it old."""
    held = contents()
    for folder in ("p/TimePoint_2", "p/q", "stack", "empty", "deep/deeper/deepest"):
        (root / folder).mkdir(parents=True)
    files = {
        "p/P_A01_s1_w1.TIF": "image 0",
        "p/P_A01_s2_w1.TIF": "image 1",
        "p/P_B01_s1_w1.TIF": "zlib",
        "p/TimePoint_2/P_A01_s1_w1.TIF": "image 2",
        "p/q/m1.tif": "other shape",
        "pages.tif": "pages",
        "Text.csv": "text",
        "deep/deeper/deepest/noise": "noise",
        "deep/nothing": "nothing",
    }
    for name, kind in files.items():
        (root / name).write_bytes(held[kind])
    for number in range(17):
        (root / "stack" / f"s{number:02}.tif").write_bytes(held["image of a stack"][:-8] + noise(number, 8))
    top = os.fsencode(root)
    fd = os.open(top + b"/\xff\xfe caf\xe9", os.O_WRONLY | os.O_CREAT, 0o600)
    write_all(fd, b"at the end", 300_000)
    os.close(fd)
    os.link(root / "p/P_A01_s1_w1.TIF", root / "p/q/linked.TIF")
    os.link(root / "Text.csv", root / "deep/Text.csv")
    os.symlink("p/P_A01_s1_w1.TIF", root / "to a file")
    os.symlink("deep/deeper", root / "to a folder")
    os.symlink("nowhere", root / "deep/to nowhere")
    os.mkfifo(root / "deep/fifo", 0o620)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(os.fspath(root / "deep/s"))
    os.chmod(root / "Text.csv", 0o4751)
    os.chmod(root / "deep/deeper", 0o3775)
    os.setxattr(root / "Text.csv", "user.origin", b"of long ago")
    os.setxattr(root / "deep", "user.origin", b"a folder's")
    for folder, _, names in os.walk(root, topdown=False):
        for name in [*names, *(n for n in os.listdir(folder) if os.path.islink(f"{folder}/{n}")), "."]:
            os.utime(os.path.join(folder, name), ns=(EARLY, EARLY), follow_symlinks=False)


def copy_tree(source: Path, to: Path) -> None:
    subprocess.run(["cp", "-a", source, to], check=True)


@dataclass(frozen=True, slots=True)
class Pair:
    """A folder of the mount and the plain directory beside it."""

    mount: bytes
    plain: bytes


class Bench:
    """See the module; `pair` gives the folders of one example.

    Attributes
    ----------
    sound : bool
        Nothing went wrong in this mount yet; if something did, the next example gets a new one.
    """

    def __init__(self, vfsd: Vfsd, folder: Path, layer: str) -> None:
        self._vfsd, self._folder, self._layer = vfsd, folder, layer
        self._template = folder / "template"
        self._template.mkdir()
        build_template(self._template)
        self._mount: Mount | None = None
        self._free: list[Pair] = []
        self._used: list[Pair] = []
        self._threads = ThreadPoolExecutor(1)
        self._flush: Future[dict[str, Any]] | None = None
        self.sound = True

    def pair(self) -> Pair:
        """A folder that was not used yet, of the starting layer."""
        if not self.sound or not self._free:
            self.end()
            self._begin()
        pair = self._free.pop()
        self._used.append(pair)
        return pair

    # --- a life

    def _begin(self) -> None:
        self.sound = True
        self._home = Path(tempfile.mkdtemp(dir=self._folder))
        for name in ("plate", "plain", "mnt"):
            (self._home / name).mkdir()
        names = [f"{number:03}" for number in range(FOLDERS)]
        if self._layer == "source":
            self._fill(self._home / "plate", names)
        self.mount()
        if self._layer != "source":
            self._fill(self._home / "mnt", names)
        if self._layer == "store":
            self.mount_again()
        self._fill(self._home / "plain", names)
        self._used = []
        self._free = [
            Pair(os.fsencode(self._home / "mnt" / name), os.fsencode(self._home / "plain" / name))
            for name in reversed(names)
        ]

    def _fill(self, where: Path, names: list[str]) -> None:
        for name in names:
            (where / name).mkdir()
            copy_tree(self._template, where / name / "root")
            os.utime(where / name, ns=(EARLY, EARLY))

    def end(self, *, judge: bool = True) -> None:
        """Unmount, verify, mount again and compare, as far as all went well; then take everything away."""
        if self._mount is None:
            return
        try:
            if self.sound and judge:
                self._judge()
        finally:
            self._finish_flush(check=False)
            mount, self._mount = self._mount, None
            self._free = []
            mount.end()
            if mount.log is not None:
                mount.log.close()
            mount.remove_state()
            shutil.rmtree(self._home, ignore_errors=True)

    def _judge(self) -> None:
        assert self._mount is not None
        store = self._mount.store
        self.unmount()
        self._vfsd.expect(DONE, "verify", store)
        self.mount()
        for pair in self._used:
            Witness(Side(pair.mount), Side(pair.plain)).compare_all()
        self.unmount()

    # --- what happens to a mount

    def mount(self) -> None:
        if self._mount is not None and self._mount.log is not None:
            self._mount.log.close()
        source, where = self._home / "plate", self._home / "mnt"
        self._vfsd.expect(DONE, "mount", source, where, "--ram", RAM)
        record = find_mount(where).record
        assert record is not None
        store = default_store(source)
        log = open_log(store, self._vfsd.environment)
        self._mount = Mount(self._vfsd, where, source, store, record.pid, psutil.Process(record.pid), log)

    def unmount(self) -> None:
        assert self._mount is not None
        self._finish_flush()
        outcome = unmount(self._mount.path, None, _nothing, _nothing)
        assert outcome["exit_code"] == DONE, outcome
        assert not self._mount.is_mounted()
        self._mount.wait_for_daemon()
        self.assert_untroubled()

    def mount_again(self) -> None:
        """Unmount, with all that flushes, and mount."""
        self.unmount()
        self.mount()

    def kill_and_mount_again(self) -> None:
        """End the daemon as a crash would."""
        assert self._mount is not None
        self._finish_flush()
        self.assert_untroubled()
        self._mount.kill()
        while self._mount.is_mounted():
            assert unmount_with("fusermount3", "-uz", self._mount.path).returncode == 0
        self.mount()

    def flush(self, *paths: Path) -> None:
        assert self._mount is not None
        self._finish_flush()
        outcome = flush_mount(self._mount.path, paths, _nothing)
        assert outcome["exit_code"] == DONE, outcome

    def begin_flush(self) -> None:
        """Flush while the next acts go on."""
        assert self._mount is not None
        self._finish_flush()
        self._flush = self._threads.submit(flush_mount, self._mount.path, (), _nothing)

    def _finish_flush(self, *, check: bool = True) -> None:
        running, self._flush = self._flush, None
        if running is not None and (check or running.exception() is None):
            outcome = running.result()
            assert not check or outcome["exit_code"] == DONE, outcome

    def assert_untroubled(self) -> None:
        """The daemon lives, and its log speaks of no error since it was last asked."""
        assert self._mount is not None
        if self._mount.log is not None:
            lines = self._mount.log.read().decode(errors="surrogateescape").splitlines()
            trouble = [line for line in lines if LOG_TROUBLE.search(line)]
            assert not trouble, "the daemon logged:\n" + "\n".join(trouble)


def _nothing(_: object) -> None:
    """Progress is not looked at."""


@contextlib.contextmanager
def bench_on(layer: str, folder: Path, environment: dict[str, str]) -> Iterator[Bench]:
    """A bench whose mounts are gone at the end."""
    bench = Bench(Vfsd(environment), folder, layer)
    try:
        yield bench
        bench.end()
    finally:
        bench.sound = False
        bench.end()
