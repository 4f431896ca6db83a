"""How many syncs calls cost, counted with strace at the daemon: an fsync is nearly free on one machine and 20 ms on another."""

from __future__ import annotations

import mmap
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from blackbox.daemons import Mount, Mounted, Plate, wait_until

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(shutil.which("strace") is None, reason="no strace"),
]

SYNC = re.compile(r"\b(fsync|fdatasync|syncfs|sync)\(\d+<([^>]*)>")
AT_ONCE = 100


class Syncs:
    """The syncs of a process, as strace writes them."""

    def __init__(self, log: Path, mount: Mount) -> None:
        self._log = log
        self._read = 0
        status = mount.status()
        self._state, self._cache, self._store = (
            status["state_directory"], status["cache_directory"], status["store"]
        )  # fmt: skip

    def since_last(self) -> Counter[str]:
        """What was synced since the last call, by what it was."""
        with self._log.open() as log:
            log.seek(self._read)
            text = log.read()
            self._read = log.tell()
        return Counter(self._kind(match[2]) for match in SYNC.finditer(text))

    def _kind(self, path: str) -> str:
        if path == self._cache:
            return "cache folder"
        if path.startswith(self._cache + "/"):
            return "file"
        if path.startswith(self._state + "/journal"):
            return "journal"
        return "store" if path.startswith(self._store) else path


@contextmanager
def counting(mount: Mount, folder: Path) -> Iterator[Syncs]:
    log = folder / "strace"
    syncs = Syncs(log, mount)
    command = ["strace", "-f", "-y", "-e", "trace=fsync,fdatasync,syncfs,sync", "-o", str(log), "-p", str(mount.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        try:
            assert tracer.stderr is not None
            told = tracer.stderr.readline()
            if "ttached" not in told:
                pytest.skip(f"strace cannot attach: {told}")
            wait_until(log.exists, "strace writes")
            yield syncs
        finally:
            tracer.terminate()
            tracer.communicate()


def put(path: Path, data: bytes, flags: int = 0, *, sync: bool = False) -> None:
    """Create or overwrite a file, perhaps with an fsync."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o644)
    try:
        os.write(fd, data)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def test_what_calls_cost(plate: Plate, mounted: Mounted, tmp_path: Path) -> None:
    with mounted(plate("demo")) as mount, counting(mount, tmp_path) as syncs:
        new = mount.path / "new"
        for name in ("one", "two"):
            put(mount.path / name, b"bytes")
        (mount.path / "d").mkdir()
        assert syncs.since_last() == {}, "create, write, close"

        put(new, b"bytes", sync=True)
        assert syncs.since_last() == {"file": 1, "cache folder": 1, "journal": 1}, "fsync of a new file"

        put(new, b"again", sync=True)
        assert syncs.since_last() == {"file": 1}, "a later fsync"

        fd = os.open(mount.path, os.O_RDONLY)
        os.fsync(fd)
        assert syncs.since_last() == {}, "fsync of a directory in which nothing happened"
        (mount.path / "d").rmdir()
        os.fsync(fd)
        os.close(fd)
        assert syncs.since_last() == {"journal": 1}, "fsync of a directory"

        put(mount.path / "next", b"next version")
        os.rename(mount.path / "next", new)
        assert syncs.since_last() == {"file": 1, "cache folder": 1, "journal": 1}, "rename over a synced file"

        for number in range(AT_ONCE):
            put(mount.path / f"many{number}", b"bytes")
        fds = [os.open(mount.path / f"many{number}", os.O_WRONLY) for number in range(AT_ONCE)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(os.fsync, fds))
        for fd in fds:
            os.close(fd)
        found = syncs.since_last()
        assert found.pop("file") == AT_ONCE
        assert found["cache folder"] < AT_ONCE / 2, found
        assert found["journal"] < AT_ONCE / 2, found


def test_other_ways_to_sync(plate: Plate, mounted: Mounted, tmp_path: Path) -> None:
    with mounted(plate("demo")) as mount, counting(mount, tmp_path) as syncs:
        put(mount.path / "data", b"bytes")
        fd = os.open(mount.path / "data", os.O_RDWR)
        os.fdatasync(fd)
        assert syncs.since_last()["file"] == 1
        with mmap.mmap(fd, 5) as mapped:
            mapped[0:5] = b"BYTES"
            mapped.flush()  # msync(MS_SYNC)
        assert syncs.since_last()["file"] == 1
        os.close(fd)
        for flag in (os.O_SYNC, os.O_DSYNC):
            path = mount.path / f"flag{flag}"
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | flag)
            os.write(fd, b"first")
            found = syncs.since_last()
            assert found["file"] >= 1
            assert found["journal"] >= 1
            assert os.getxattr(path, "user.vfsd.tier") == b"cache"
            os.write(fd, b"second")
            assert syncs.since_last()["file"] >= 1
            os.close(fd)


def test_the_syncs_of_a_flush_do_not_grow_with_its_files(plate: Plate, mounted: Mounted, tmp_path: Path) -> None:
    with mounted(plate("demo")) as mount, counting(mount, tmp_path) as syncs:
        counts = []
        for round_, files in enumerate((100, 400)):
            (mount.path / f"round{round_}").mkdir()
            for number in range(files):
                put(mount.path / f"round{round_}" / f"{number}", b"%d" % number)
            syncs.since_last()
            mount.flush()
            counts.append(sum(syncs.since_last().values()))
        assert counts[1] <= counts[0] + 2, counts
