"""Every operation moves the times and link counts that it moves in a local folder, and no others.

The same operations are done in a folder beside and in folders of the mount that begin in the source, in the store and in the
overlay; what changed in `stat` of everything concerned must be equal. Access times are left out: each file system has its own
habit with those.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from blackbox.daemons import Mounted

pytestmark = pytest.mark.fuse

# Longer than a tick of the kernel's clock for file times (10 ms at the slowest setting): two operations never share one.
TICK_SECONDS = 0.012

Seen = dict[str, object]


def build(folder: Path) -> None:
    """What `perform` expects to find."""
    (folder / "sub").mkdir(parents=True)
    (folder / "f").write_bytes(bytes(10_000))
    (folder / "sub" / "in").touch()


def stat_of(path: Path) -> os.stat_result | str:
    try:
        return path.lstat()
    except OSError as problem:
        return errno.errorcode[problem.errno or 0]


def change(before: os.stat_result | str, after: os.stat_result | str) -> tuple[object, ...]:
    """What an operation did to one path: which times moved, and what is there now."""
    if isinstance(after, str):
        return (after,)
    if isinstance(before, str):
        return (before, oct(after.st_mode), after.st_nlink)
    moved = [name for name in ("st_mtime_ns", "st_ctime_ns") if getattr(before, name) != getattr(after, name)]
    return (*moved, oct(after.st_mode), after.st_nlink, None if stat.S_ISDIR(after.st_mode) else after.st_size)


class Observer:
    """Does operations and notes what each changed."""

    def __init__(self) -> None:
        self.seen: Seen = {}

    def __call__(self, name: str, act: Callable[[], object], *paths: Path) -> None:
        before = [stat_of(path) for path in paths]
        time.sleep(TICK_SECONDS)
        try:
            act()
            result = "done"
        except OSError as problem:
            result = errno.errorcode[problem.errno or 0]
        changes = [change(one, stat_of(path)) for one, path in zip(before, paths, strict=True)]
        assert name not in self.seen
        self.seen[name] = (result, changes)


def use(path: Path, flags: int, act: Callable[[int], object] = lambda fd: None) -> Callable[[], None]:
    """Open a file, do something with its descriptor, close it."""

    def do() -> None:
        fd = os.open(path, flags)
        try:
            act(fd)
        finally:
            os.close(fd)

    return do


def write_mapped(fd: int) -> None:
    with mmap.mmap(fd, 0) as pages:
        pages[:1] = b"z"
        pages.flush()


def perform(d: Path) -> Seen:
    """All operations in a folder as `build` makes it."""
    note = Observer()
    change_bytes(note, d)
    change_attributes(note, d)
    change_names(note, d)
    note.seen |= change_unlinked(d)
    return note.seen


def change_bytes(note: Observer, d: Path) -> None:
    f = d / "f"
    note("open to read", use(f, os.O_RDONLY), d, f)
    note("open to write", use(f, os.O_RDWR), d, f)
    note("open to make, there already", use(f, os.O_WRONLY | os.O_CREAT), d, f)
    note("write", use(f, os.O_WRONLY, lambda fd: os.write(fd, b"q")), d, f)
    note("write nothing", use(f, os.O_WRONLY, lambda fd: os.write(fd, b"")), d, f)
    note("write mapped", use(f, os.O_RDWR, write_mapped), d, f)
    note("truncate to its size", lambda: os.truncate(f, f.stat().st_size), d, f)
    note("truncate", lambda: os.truncate(f, 5), d, f)
    note("extend", lambda: os.truncate(f, 5000), d, f)
    note("ftruncate to its size", use(f, os.O_RDWR, lambda fd: os.ftruncate(fd, 5000)), f)
    note("open and truncate", use(f, os.O_WRONLY | os.O_TRUNC), d, f)
    note("open and truncate nothing", use(f, os.O_WRONLY | os.O_TRUNC), d, f)
    note("ftruncate nothing", use(f, os.O_RDWR, lambda fd: os.ftruncate(fd, 0)), f)


def change_attributes(note: Observer, d: Path) -> None:
    f, sub = d / "f", d / "sub"
    note("chmod", lambda: f.chmod(0o640), d, f)
    note("chmod to its mode", lambda: f.chmod(0o640), d, f)
    note("chown to nobody else", lambda: os.chown(f, -1, -1), d, f)
    note("chown to its owner", lambda: os.chown(f, f.stat().st_uid, f.stat().st_gid), d, f)
    note("chmod a folder", lambda: sub.chmod(0o700), d, sub)
    note("times to now", lambda: os.utime(f), d, f)
    note("times to what they are", lambda: os.utime(f, ns=(f.stat().st_atime_ns, f.stat().st_mtime_ns)), d, f)
    note("setxattr", lambda: os.setxattr(f, "user.a", b"1"), d, f)
    note("setxattr, the same value", lambda: os.setxattr(f, "user.a", b"1"), d, f)
    note("removexattr", lambda: os.removexattr(f, "user.a"), d, f)
    note("removexattr, not there", lambda: os.removexattr(f, "user.a"), d, f)


def change_names(note: Observer, d: Path) -> None:
    f, g, sub = d / "f", d / "g", d / "sub"
    note("link", lambda: os.link(f, g), d, f)
    note("rename to another name of it", lambda: os.rename(f, g), d, f, g)
    note("unlink one name", lambda: os.unlink(g), d, f)
    note("rename", lambda: os.rename(f, g), d, f, g)
    note("rename into a folder", lambda: os.rename(g, sub / "g"), d, sub, sub / "g")
    note("rename to itself", lambda: os.rename(sub / "g", sub / "g"), sub, sub / "g")
    note("rename over", lambda: os.rename(sub / "g", sub / "in"), d, sub, sub / "in")
    note("rmdir, not empty", lambda: os.rmdir(sub), d, sub)
    note("mkdir", lambda: os.mkdir(sub / "d"), sub, sub / "d")
    note("mkdir, there already", lambda: os.mkdir(sub / "d"), sub, sub / "d")
    note("rename a folder up", lambda: os.rename(sub / "d", d / "d"), d, sub, d / "d")
    note("rmdir", lambda: os.rmdir(d / "d"), d)
    note("symlink", lambda: os.symlink("x", d / "l"), d, d / "l")
    note("times of a symlink", lambda: os.utime(d / "l", ns=(1, 1), follow_symlinks=False), d, d / "l")
    note("link a symlink", lambda: os.link(d / "l", d / "l2", follow_symlinks=False), d, d / "l")
    note("mkfifo", lambda: os.mkfifo(d / "p"), d, d / "p")


def change_unlinked(d: Path) -> Seen:
    """An open file that loses its last name is still there for whoever has it open."""
    seen: Seen = {}
    path = d / "open"
    with path.open("wb") as file:
        first = os.fstat(file.fileno())
        time.sleep(TICK_SECONDS)
        path.unlink()
        second = os.fstat(file.fileno())
        time.sleep(TICK_SECONDS)
        os.fchmod(file.fileno(), 0o600)
        seen["unlink while open"] = change(first, second)
        seen["fchmod without a name"] = change(second, os.fstat(file.fileno()))
    return seen


def test_operations_move_the_times_that_they_move_in_a_local_folder(tmp_path: Path, mounted: Mounted) -> None:
    build(tmp_path / "beside")
    if (tmp_path / "beside").stat().st_nlink != 3:
        pytest.skip("the local file system does not count the folders in a folder, as Btrfs")
    build(tmp_path / "plate" / "source")
    before = os.umask(0o022)
    try:
        expected = perform(tmp_path / "beside")
        with mounted(tmp_path / "plate") as mount:
            build(mount.path / "store")
            mount.flush()
            build(mount.path / "overlay")
            for layer in ("source", "store", "overlay"):
                found = perform(mount.path / layer)
                differing = {name: (found[name], expected[name]) for name in expected if found[name] != expected[name]}
                assert not differing, layer
    finally:
        os.umask(before)
