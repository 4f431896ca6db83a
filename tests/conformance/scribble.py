"""Random changes of files by several processes, each held against a copy in memory: `python -m conformance.scribble`.

Each worker has a file that begins in the source, and changes it in every way that touches bytes: writes, appends, cuts, holes,
shared mappings, replacement by rename, moves between tiers. It reads back what it expects, at random and in whole. At the
end each writes what it expects beside the mount, so that `--check` can look again after a flush and another mount.

The seed is printed with a difference; with one worker and no flushes meanwhile it gives the same steps again.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import mmap
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Small enough for thousands of steps, large enough that the files of all workers have no room in the RAM tier.
LARGEST = 3 << 20
TIERS = (b"ram", b"cache", b"store")
# What moving a file may say: it is open, has no bytes to move, or lies where it cannot be moved from.
MAY_SAY = (errno.EBUSY, errno.EOPNOTSUPP)


class Difference(Exception):
    """A file is not what it must be."""


class Scribbler:
    """One file and what must be in it.

    Every act leaves file and copy equal; `look` and `look_at_all` compare.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.expected = bytearray(path.read_bytes())
        self.fd = os.open(path, os.O_RDWR)
        self.acts: list[Callable[[], None]] = (
            [self.write] * 6
            + [self.append, self.look, self.look] * 2
            + [self.write_mapped, self.cut, self.extend, self.reopen, self.start_anew, self.replace, self.look_at_all]
            + [self.sync, self.move, self.link]
        )

    def run(self, seconds: float) -> int:
        """Act until the time is over; the number of acts."""
        end = time.monotonic() + seconds
        done = 0
        while time.monotonic() < end:
            self.random.choice(self.acts)()
            done += 1
        self.look_at_all()
        os.close(self.fd)
        return done

    def _data(self, most: int) -> bytes:
        return self.random.randbytes(min(most, 1 + int(self.random.paretovariate(0.3)) * 64))

    def _place(self) -> int:
        return self.random.randrange(len(self.expected) + 1)

    def _put(self, offset: int, data: bytes) -> None:
        if offset > len(self.expected):
            self.expected.extend(bytes(offset - len(self.expected)))
        self.expected[offset : offset + len(data)] = data

    def write(self) -> None:
        offset = self._place()
        data = self._data(LARGEST - offset)
        if os.pwrite(self.fd, data, offset) != len(data):
            raise Difference("a short write")
        self._put(offset, data)

    def append(self) -> None:
        data = self._data(max(1, LARGEST - len(self.expected)))
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        self._put(len(self.expected), data)

    def write_mapped(self) -> None:
        if not self.expected:
            return
        with mmap.mmap(self.fd, 0) as pages:
            for _ in range(self.random.randrange(1, 8)):
                offset = self.random.randrange(len(self.expected))
                data = self._data(len(self.expected) - offset)
                pages[offset : offset + len(data)] = data
                self._put(offset, data)
            if self.random.random() < 0.5:
                pages.flush()

    def cut(self) -> None:
        size = self._place()
        os.ftruncate(self.fd, size)
        del self.expected[size:]

    def extend(self) -> None:
        size = self.random.randrange(len(self.expected), LARGEST + 1) if len(self.expected) < LARGEST else LARGEST
        os.truncate(self.path, size)
        del self.expected[size:]
        self.expected.extend(bytes(size - len(self.expected)))

    def reopen(self) -> None:
        os.close(self.fd)
        time.sleep(self.random.random() / 20)  # closed for a while, so that a flush can take it
        self.fd = os.open(self.path, os.O_RDWR)

    def start_anew(self) -> None:
        if self.random.random() < 0.7:
            return
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR | os.O_TRUNC)
        self.expected.clear()

    def replace(self) -> None:
        """As editors save: a new file takes the name; sometimes the old one is still looked at."""
        newer = self.path.with_suffix(".new")
        data = self._data(LARGEST)
        newer.write_bytes(data)
        older, kept = self.fd, bytes(self.expected)
        os.rename(newer, self.path)
        self.fd = os.open(self.path, os.O_RDWR)
        found = os.pread(older, len(kept) + 1, 0) if self.random.random() < 0.5 else kept
        os.close(older)
        self.expected[:] = data
        if found != kept:
            raise Difference(
                f"an open file whose name was taken: {len(found)} of {len(kept)} bytes, {_first(found, kept, 0)}"
            )

    def sync(self) -> None:
        os.fsync(self.fd)

    def link(self) -> None:
        other = self.path.with_suffix(".link")
        os.link(self.path, other)
        if self.random.random() < 0.5:
            os.rename(other, self.path)  # two names of one file: nothing happens, and both stay
        os.unlink(other)

    def move(self) -> None:
        held = self.random.random() < 0.5
        if not held:
            os.close(self.fd)
        try:
            os.setxattr(self.path, "user.vfsd.tier", self.random.choice(TIERS))
        except OSError as refusal:
            if refusal.errno not in MAY_SAY:
                raise
        finally:
            if not held:
                self.fd = os.open(self.path, os.O_RDWR)

    def look(self) -> None:
        offset = self._place()
        size = self.random.randrange(1, 200_000)
        found = os.pread(self.fd, size, offset)
        if found != self.expected[offset : offset + size]:
            raise Difference(
                f"{size} bytes at {offset} of {len(self.expected)}: {_first(found, self.expected, offset)}"
            )

    def look_at_all(self) -> None:
        found = self.path.read_bytes()
        if found != self.expected:
            raise Difference(f"whole: {len(found)} of {len(self.expected)} bytes, {_first(found, self.expected, 0)}")
        if os.fstat(self.fd).st_size != len(self.expected):
            raise Difference("another size in stat than to be read")


def _first(found: bytes, expected: bytes | bytearray, offset: int) -> str:
    wanted = expected[offset : offset + len(found)]
    for place, (one, other) in enumerate(zip(found, wanted, strict=False)):
        if one != other:
            return f"first difference at {offset + place}: {one} instead of {other}"
    return f"the same as far as {offset + min(len(found), len(wanted))}"


def work(path: Path, seed: int, seconds: float, kept: Path) -> None:
    """One worker; exits with 1 after a difference."""
    scribbler = Scribbler(path, seed)
    try:
        done = scribbler.run(seconds)
    except (Difference, OSError) as problem:
        print(f"difference: {path.name}, seed {seed}: {problem}", flush=True)
        raise SystemExit(1) from problem
    finally:
        with contextlib.suppress(OSError):
            kept.write_bytes(scribbler.expected)
    print(f"{path.name}: {done} acts", flush=True)


def check(files: list[Path], kept: Path) -> int:
    """Compare every file with what its worker expected; the number that differ."""
    different = 0
    for path in files:
        if path.read_bytes() != (kept / path.name).read_bytes():
            print(f"difference: {path.name} is not what was written", flush=True)
            different += 1
    return different


def main() -> int:
    options = argparse.ArgumentParser(description="random changes of files, compared with a copy in memory")
    options.add_argument("folder", type=Path, help="where the files are: one worker for each")
    options.add_argument("kept", type=Path, help="folder for what must be in them, not on the mount")
    options.add_argument("--seconds", type=float, default=10)
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    options.add_argument("--check", action="store_true", help="only compare with what an earlier run left")
    given = options.parse_args()
    files = sorted(given.folder.iterdir())
    if given.check:
        return int(check(files, given.kept) > 0)
    given.kept.mkdir(exist_ok=True)
    workers = [
        multiprocessing.Process(target=work, args=(path, given.seed + number, given.seconds, given.kept / path.name))
        for number, path in enumerate(files)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return int(any(worker.exitcode for worker in workers))


if __name__ == "__main__":
    sys.exit(main())
