"""What programs do while vfsd is killed: several processes, each with names of its own in folders that they share.

A writer says in its log what it is about to do, does it, and says that it is done; the log is a file beside the mount, each entry
one write. So what a writer was told survives whatever happens to mount and writer. It goes on until the mount is gone, or it
is told to stop by a signal.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import pickle
import random
import signal
import stat
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crash.expected import Act, File, Files, Folder, Symlink, below, data_of, look, perform

# What a call may say when nobody serves the mount any more, or somebody who is about to leave; EIO comes from msync of pages
# that can go nowhere.
GONE = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ESHUTDOWN)
# What moving a file may say: it is open, nothing is to be moved, or it cannot be moved there now.
NO_MOVE = (errno.EBUSY, errno.EOPNOTSUPP, errno.ENOSPC, errno.ENOENT)
# Files are large enough that a RAM tier of a MiB has no room for a writer's, small enough that all are read in a moment.
LARGEST = 200_000
MOST_FILES = 10
MOST_OPEN = 3
PICTURE = 64

SHARED_FOLDERS = (b"shared", b"TimePoint_1")
"""Folders that all writers use; the second is a plate's."""


@dataclass(frozen=True, slots=True)
class Answered:
    """An act that was answered: the file's mtime after it, and when it began and ended (CLOCK_MONOTONIC, ns)."""

    act: Act
    mtime: int | None
    began: int
    ended: int


@dataclass(frozen=True, slots=True)
class Told:
    """What a log has: every act that was answered, and the one that was not, with the time at which it began.

    Of a write that was not answered in full, `written` bytes were.
    """

    done: list[Answered]
    under_way: Act | None
    began: int
    written: int
    trouble: str
    stopped: bool


def read_log(path: Path) -> Told:
    """What a writer was told; the last entry may be missing."""
    done: list[Answered] = []
    under_way: Act | None = None
    trouble, stopped, written, began = "", False, 0, 0
    for kind, value, moment in _entries(path):
        if kind == "begin":
            under_way, began = value, moment
        elif kind == "done":
            assert under_way is not None
            done.append(Answered(under_way, value, began, moment))
            under_way = None
        elif kind == "refused":
            under_way = None
        elif kind == "partly":
            written = value
        elif kind == "trouble":
            trouble = value
        elif kind == "stopped":
            stopped = True
    return Told(done, under_way, began, written, trouble, stopped)


def _entries(path: Path) -> Iterator[tuple[str, Any, int]]:
    with path.open("rb") as log, contextlib.suppress(EOFError, pickle.UnpicklingError):
        while True:
            yield pickle.load(log)


def is_of(writer: int, path: bytes) -> bool:
    """Whether a path belongs to a writer."""
    own, row = b"w%d" % writer, b"_%c" % (ord("B") + writer)
    parts = path.split(b"/")
    return any(part.startswith(own) for part in parts) or (len(parts) > 1 and row in parts[1][:6])


class Stop(Exception):
    """The writer was told to stop."""


class Writer:
    """One process' work: acts chosen at random from those that can be done now."""

    def __init__(self, root: Path, number: int, files: Files, seed: int | str, log: Path) -> None:
        self._root = os.fsencode(root)
        self._device = os.stat(root).st_dev
        self._number = number
        self._files = files
        self._random = random.Random(seed)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._open: dict[int, tuple[File, int]] = {}
        self._stop = False
        self._serial = self._random.randrange(1 << 30)

    # --- the log

    def _tell(self, kind: str, value: object) -> None:
        os.write(self._log, pickle.dumps((kind, value, time.monotonic_ns())))

    def run(self) -> None:
        """Work until the mount is gone or SIGTERM comes."""
        signal.signal(signal.SIGTERM, self._told_to_stop)
        choices, weights = zip(*self._choices(), strict=True)
        try:
            while not self._stop:
                for act in self._random.choices(choices, weights)[0]() or ():
                    self.act(*act)
        except OSError as error:
            if error.errno not in GONE and not self._is_unmounted():
                self._tell("trouble", f"{error!r}\n{traceback.format_exc(limit=-3)}")
        except BaseException:
            self._tell("trouble", traceback.format_exc(limit=-3))
        else:
            for _, fd in self._open.values():
                os.close(fd)
        self._tell("stopped", None)

    def _is_unmounted(self) -> bool:
        """Whether the mount is no longer there, so that we look at the folder beneath it."""
        try:
            return os.stat(self._root).st_dev != self._device
        except OSError as error:
            return error.errno in GONE

    def _told_to_stop(self, *_: object) -> None:
        self._stop = True

    def act(self, *act: object) -> None:
        """Say what is to be done, do it, and say that it is done."""
        self._tell("begin", act)
        try:
            mtime = self._do(act)
        except OSError as error:
            if act[0] != "tier" or error.errno not in NO_MOVE:
                raise
            self._tell("refused", None)
            return
        perform(self._files, act)
        self._tell("done", mtime)

    # --- doing

    def _path(self, path: bytes) -> bytes:
        return self._root + b"/" + path

    def _do(self, act: tuple[Any, ...]) -> int | None:
        """Returns the file's mtime when the act is done, None for what is no file's."""
        kind, path, *rest = act
        full = self._path(path)
        if kind == "create":
            fd = os.open(full, os.O_RDWR | os.O_CREAT | os.O_EXCL, rest[0])
            os.close(fd)
        elif kind == "mkdir":
            os.mkdir(full)
        elif kind == "symlink":
            os.symlink(rest[0], full)
        elif kind == "link":
            os.link(full, self._path(rest[0]))
        elif kind == "rename":
            os.rename(full, self._path(rest[0]))
            return self._mtime(rest[0])
        elif kind == "unlink":
            os.unlink(full)
            return None
        elif kind == "rmdir":
            os.rmdir(full)
            return None
        elif kind == "chmod":
            os.chmod(full, rest[0])
        elif kind == "utime":
            os.utime(full, ns=(rest[0], rest[0]))
        elif kind == "setxattr":
            os.setxattr(full, rest[0], rest[1])
        elif kind == "removexattr":
            os.removexattr(full, rest[0])
        elif kind == "tier":
            os.setxattr(full, b"user.vfsd.tier", rest[0])
        elif kind == "read":
            self._compare(path)
        elif kind == "fsync_folder":
            fd = os.open(full, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(fd)
            os.close(fd)
        else:
            self._do_with_bytes(kind, path, rest)
        return self._mtime(path)

    def _do_with_bytes(self, kind: str, path: bytes, rest: list[Any]) -> None:
        if kind == "resize" and rest[0] == 0 and rest[1]:
            os.close(os.open(self._path(path), os.O_WRONLY | os.O_TRUNC))
            return
        fd = self._fd(path)
        if kind == "write":
            data = data_of(*rest[1])
            self._write_all(os.pwrite(fd, data, rest[0]), data)
        elif kind == "append":
            again = os.open(self._path(path), os.O_WRONLY | os.O_APPEND)
            data = data_of(*rest[0])
            self._write_all(os.write(again, data), data)
            os.close(again)
        elif kind == "resize":
            os.ftruncate(fd, rest[0])
        elif kind == "fsync":
            (os.fsync if rest[0] else os.fdatasync)(fd)
        elif kind == "mapped":
            data, node = data_of(*rest[1]), self._files[path]
            assert isinstance(node, File)
            with mmap.mmap(fd, len(node.data)) as pages:
                pages[rest[0] : rest[0] + len(data)] = data
                pages.flush()
        else:
            raise AssertionError(kind)

    def _write_all(self, written: int, data: bytes) -> None:
        """A write that takes less than all has met the daemon's death; what it took was answered."""
        if written < len(data):
            self._tell("partly", written)
            raise OSError(errno.ENOTCONN, "a short write")

    def _mtime(self, path: bytes) -> int | None:
        found = os.lstat(self._path(path))
        return found.st_mtime_ns if stat.S_ISREG(found.st_mode) else None

    def _fd(self, path: bytes) -> int:
        """A descriptor for reading and writing, kept for a while."""
        node = self._files[path]
        assert isinstance(node, File)
        if id(node) not in self._open:
            while len(self._open) >= MOST_OPEN:
                _, fd = self._open.pop(next(iter(self._open)))
                os.close(fd)
            self._open[id(node)] = node, os.open(self._path(path), os.O_RDWR)
        return self._open[id(node)][1]

    def _compare(self, path: bytes) -> None:
        node = self._files[path]
        assert isinstance(node, File)
        with open(self._path(path), "rb", buffering=0) as file:
            found = file.readall()
        if found != node.data:
            raise AssertionError(f"{path!r} is not what was written: {len(found)} bytes of {len(node.data)}")

    # --- choosing

    def _choices(self) -> list[tuple[Any, int]]:
        return [
            (self._new_file, 8), (self._new_picture, 5), (self._write, 14), (self._append, 6), (self._resize, 4),
            (self._mapped, 4), (self._sync, 6), (self._sync_folder, 1), (self._rename, 6), (self._replace, 5),
            (self._unlink, 5), (self._link, 2), (self._symlink, 1), (self._mkdir, 2), (self._rmdir, 2),
            (self._chmod, 2), (self._utime, 2), (self._xattr, 3), (self._read, 5), (self._move, 4),
            (self._close, 6), (self._pause, 3),
        ]  # fmt: skip

    def _some(self, kind: type) -> bytes | None:
        found = [path for path, node in self._files.items() if isinstance(node, kind)]
        return self._random.choice(found) if found else None

    def _file(self) -> bytes:
        path = self._some(File)
        return self._any_name() if path is None else path

    def _any_name(self) -> bytes:
        """A file, made if there is none."""
        for act in self._new_file():
            self.act(*act)
        path = self._some(File)
        assert path is not None
        return path

    def _name(self, picture: bool = False) -> bytes:
        """A path where nothing of ours is."""
        self._serial += 1
        if picture:
            well = b"%c%02d" % (ord("B") + self._number, 3 + self._random.randrange(3))
            name = b"TimePoint_1/demo_%s_s%d_w%d.TIF" % (well, 1 + self._serial % 3, 1 + self._random.randrange(2))
            if name not in self._files:
                return name
        folders = [path for path, node in self._files.items() if isinstance(node, Folder)]
        folder = self._random.choice([*SHARED_FOLDERS, b"w%d" % self._number, *folders])
        names = (b"w%d-%d.bin", b"w%d-%d.txt", b"w%d-%d.TIF", b"w%d-%d \xff\xfe")
        return folder + b"/" + self._random.choice(names) % (self._number, self._serial)

    def _data(self, most: int = LARGEST) -> tuple[str, int, int]:
        size = min(most, 1 + int(self._random.paretovariate(0.4) * 100))
        return "noise", self._random.randrange(1 << 30), size

    def _new_file(self) -> list[Act]:
        files = sum(isinstance(node, File) for node in self._files.values())
        if files >= MOST_FILES:
            return self._unlink()
        path = self._name()
        acts: list[Act] = [("create", path, self._random.choice((0o644, 0o600, 0o640)))]
        if self._random.random() < 0.8:
            acts.append(("write", path, self._random.choice((0, 0, 5000)), self._data()))
        return acts

    def _new_picture(self) -> list[Act]:
        path = self._name(picture=True)
        picture = "picture", self._random.randrange(1 << 30), PICTURE
        return [("create", path, 0o644), ("write", path, 0, picture)]

    def _write(self) -> list[Act]:
        path = self._file()
        size = len(self._files[path].data)
        offset = self._random.choice((0, self._random.randrange(size + 1), min(size + 3000, LARGEST)))
        return [("write", path, offset, self._data(max(1, LARGEST - offset)))]

    def _append(self) -> list[Act]:
        path = self._file()
        return [("append", path, self._data(max(1, LARGEST - len(self._files[path].data))))]

    def _resize(self) -> list[Act]:
        path = self._file()
        size = self._random.choice((0, 0, self._random.randrange(LARGEST)))
        return [("resize", path, size, self._random.random() < 0.6)]

    def _mapped(self) -> list[Act]:
        path = self._file()
        size = len(self._files[path].data)
        if size == 0:
            return []
        offset = self._random.randrange(size)
        return [("mapped", path, offset, self._data(size - offset))]

    def _sync(self) -> list[Act]:
        return [("fsync", self._file(), self._random.random() < 0.6)]

    def _sync_folder(self) -> list[Act]:
        return [("fsync_folder", self._random.choice(SHARED_FOLDERS))]

    def _rename(self) -> list[Act]:
        path = self._random.choice([p for p in self._files if p != b"w%d" % self._number] or [self._any_name()])
        target = self._name(picture=path.endswith(b".TIF"))
        return [] if target.startswith(path + b"/") else [("rename", path, target)]

    def _replace(self) -> list[Act]:
        """As programs save: beside, perhaps synced, then over the old name."""
        path, beside = self._file(), self._name()
        acts: list[Act] = [("create", beside, 0o644), ("write", beside, 0, self._data())]
        if self._random.random() < 0.4:
            acts.append(("fsync", beside, True))
        return [*acts, ("rename", beside, path)]

    def _unlink(self) -> list[Act]:
        path = self._some(self._random.choice((File, File, File, Symlink)))
        return [] if path is None else [("unlink", path)]

    def _link(self) -> list[Act]:
        return [("link", self._file(), self._name())]

    def _symlink(self) -> list[Act]:
        return [("symlink", self._name(), b"../some/where \xff")]

    def _mkdir(self) -> list[Act]:
        if sum(isinstance(node, Folder) for node in self._files.values()) > 4:
            return []
        return [("mkdir", self._name() + b".d")]

    def _rmdir(self) -> list[Act]:
        path = self._some(Folder)
        if path is None or path == b"w%d" % self._number or below(self._files, path):
            return []
        return [("rmdir", path)]

    def _chmod(self) -> list[Act]:
        return [("chmod", self._file(), self._random.choice((0o600, 0o644, 0o664, 0o755)))]

    def _utime(self) -> list[Act]:
        return [("utime", self._file(), self._random.randrange(10**18, 2 * 10**18))]

    def _xattr(self) -> list[Act]:
        path = self._file()
        name = b"user.note%d" % self._random.randrange(3)
        if name in self._files[path].xattrs and self._random.random() < 0.4:
            return [("removexattr", path, name)]
        return [("setxattr", path, name, self._random.randbytes(self._random.randrange(1, 200)))]

    def _read(self) -> list[Act]:
        return [("read", self._file())]

    def _move(self) -> list[Act]:
        path = self._file()
        if self._random.random() < 0.7:
            self._close()
        return [("tier", path, self._random.choice((b"ram", b"cache", b"cache", b"store", b"store")))]

    def _close(self) -> list[Act]:
        for _, fd in self._open.values():
            os.close(fd)
        self._open.clear()
        return []

    def _pause(self) -> list[Act]:
        time.sleep(self._random.random() / 50)
        return []


def start_writer(root: Path, number: int, files: Files, seed: int | str, log: Path) -> int:
    """A writer in a process of its own; returns the process' id. The caller has no threads."""
    pid = os.fork()
    if pid:
        return pid
    try:
        Writer(root, number, files, seed, log).run()
    finally:
        os._exit(0)


def find_own(root: Path, number: int) -> Files:
    """What a writer has in a folder, as it is there."""
    return {path: node for path, node in look(root).items() if is_of(number, path)}
