"""What programs do to a tree, one act a function: done to a local folder and to a mount, and compared.

An act gets the root of a folder that `build_source` made, changes what is below it, and returns what it saw
on its way. Acts do not depend on each other, nor on the clock; times that they set are set to the nanosecond.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blackbox.pictures import noisy_picture, simple_tiff
from blackbox.trees import digest_file

Act = Callable[[Path], list[Any]]
ACTS: list[Act] = []

# Times that no clock gives by chance, to the nanosecond, before and after 2038.
EARLY_NS = 981_173_106_123_456_789
LATE_NS = 4_102_444_800_987_654_321

MIB = 1 << 20


def act(function: Act) -> Act:
    ACTS.append(function)
    return function


def some_bytes(count: int, seed: int) -> bytes:
    """Bytes that tell their place: a shifted, repeated or missing piece shows."""
    return noisy_picture((count,), "uint8", seed=seed).tobytes()


def build_source(folder: Path) -> Path:
    """A small plate with one of everything that acts below look for."""
    (folder / "data" / "deep" / "deeper").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "images").mkdir()
    (folder / "notes.txt").write_bytes(b"line one\nline two\n" * 300)
    for number, name in enumerate(("one", "two", "three")):
        (folder / "data" / f"{name}.bin").write_bytes(some_bytes(150_000 + number, number))
    (folder / "data" / "deep" / "four.bin").write_bytes(some_bytes(70_000, 7))
    (folder / "data" / "deep" / "deeper" / "five.bin").write_bytes(some_bytes(5_000, 8))
    for number in range(4):
        (folder / "images" / f"field_{number}.tif").write_bytes(simple_tiff(noisy_picture((64, 96), seed=number)))
    (folder / "link").symlink_to("data/one.bin")
    (folder / "script.sh").write_text("#!/bin/sh\n")
    (folder / "script.sh").chmod(0o755)
    for path in sorted(folder.rglob("*"), reverse=True):
        os.utime(path, ns=(EARLY_NS, EARLY_NS), follow_symlinks=False)
    return folder


def error_of(operation: Callable[[], Any]) -> str | None:
    """The name of the error that an operation gives, or None."""
    try:
        operation()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))
    return None


def write_at(path: Path, offset: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        assert os.pwrite(descriptor, data, offset) == len(data)
    finally:
        os.close(descriptor)


@act
def create_files(root: Path) -> list[Any]:
    (root / "new.txt").write_bytes(b"new\n")
    (root / "data" / "new.bin").write_bytes(some_bytes(3 * MIB + 17, 21))
    (root / "data" / "nothing.bin").touch()
    os.close(os.open(root / "private", os.O_CREAT | os.O_WRONLY, 0o600))
    again = error_of(lambda: os.close(os.open(root / "new.txt", os.O_CREAT | os.O_EXCL | os.O_WRONLY)))
    over = error_of(lambda: os.close(os.open(root / "notes.txt", os.O_CREAT | os.O_EXCL | os.O_WRONLY)))
    nowhere = error_of(lambda: (root / "nowhere" / "file").write_bytes(b""))
    inside_file = error_of(lambda: (root / "notes.txt" / "file").write_bytes(b""))
    long_name = error_of(lambda: (root / ("n" * 256)).write_bytes(b""))
    return [again, over, nowhere, inside_file, long_name]


@act
def write_at_any_offset(root: Path) -> list[Any]:
    for path in (root / "data" / "one.bin", root / "fresh.bin"):
        path.touch()
        for offset in (0, 1, 4095, 4096, 131_071, 149_990, 70_001):
            write_at(path, offset, some_bytes(257, offset))
    with (root / "data" / "two.bin").open("r+b") as file:
        file.seek(100)
        file.write(b"middle")
        file.seek(0)
        return [file.read(200), file.seek(0, os.SEEK_END)]


@act
def write_sparse(root: Path) -> list[Any]:
    hole = root / "sparse.bin"
    hole.touch()
    write_at(hole, 5 * MIB, b"far out")
    write_at(root / "data" / "three.bin", 2 * MIB, b"far behind the old end")
    with hole.open("rb") as file:
        file.seek(2 * MIB)
        return [file.read(100)]


@act
def truncate(root: Path) -> list[Any]:
    os.truncate(root / "data" / "one.bin", 1000)
    os.truncate(root / "data" / "two.bin", 400_000)
    os.truncate(root / "data" / "three.bin", 0)
    (root / "new.bin").write_bytes(some_bytes(9_000, 1))
    os.truncate(root / "new.bin", 5_000)
    os.truncate(root / "new.bin", 20_000)
    with (root / "notes.txt").open("r+b") as file:
        file.truncate(4)
        file.seek(8)
        file.write(b"after a hole")
    return [error_of(lambda: os.truncate(root / "data", 0)), (root / "notes.txt").read_bytes()]


@act
def open_truncating(root: Path) -> list[Any]:
    (root / "data" / "one.bin").write_bytes(b"short now")
    with (root / "data" / "two.bin").open("wb"):
        pass
    return [(root / "data" / "two.bin").read_bytes()]


@act
def append(root: Path) -> list[Any]:
    for path in (root / "notes.txt", root / "log.txt"):
        for number in range(20):
            with path.open("ab") as file:
                file.write(b"entry %d\n" % number)
    first = os.open(root / "both.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    second = os.open(root / "both.txt", os.O_WRONLY | os.O_APPEND)
    try:
        for number in range(10):
            os.write(first, b"first %d\n" % number)
            os.write(second, b"second %d\n" % number)
    finally:
        os.close(first)
        os.close(second)
    return [(root / "both.txt").read_bytes()]


@act
def rename_files(root: Path) -> list[Any]:
    (root / "new.txt").write_bytes(b"new over old")
    (root / "new.txt").rename(root / "notes.txt")
    (root / "data" / "one.bin").rename(root / "data" / "two.bin")
    (root / "data" / "three.bin").rename(root / "moved.bin")
    (root / "other.txt").write_bytes(b"other")
    (root / "data" / "deep" / "four.bin").rename(root / "other.txt")
    (root / "script.sh").rename(root / "empty" / "script.sh")
    (root / "moved.bin").rename(root / "moved.bin")
    return [
        error_of(lambda: (root / "not there").rename(root / "x")),
        error_of(lambda: (root / "other.txt").rename(root / "data")),
        error_of(lambda: (root / "data" / "one.bin").stat()),
    ]


@act
def save_as_editors_do(root: Path) -> list[Any]:
    """Write beside, sync, rename over: old name, new bytes, and a reader of the old ones keeps them."""
    with (root / "notes.txt").open("rb") as reader:
        for turn in range(3):
            beside = root / ".notes.txt.tmp"
            with beside.open("wb") as file:
                file.write(b"version %d\n" % turn)
                os.fsync(file.fileno())
            beside.replace(root / "notes.txt")
        return [reader.read(), (root / "notes.txt").read_bytes()]


@act
def rename_directories(root: Path) -> list[Any]:
    (root / "data").rename(root / "moved")
    (root / "moved" / "new.txt").write_bytes(b"into the moved one")
    (root / "moved" / "deep").rename(root / "images" / "deep")
    (root / "made").mkdir()
    (root / "made" / "inside.txt").write_bytes(b"inside")
    (root / "made").rename(root / "empty")
    (root / "data").mkdir()
    return [
        sorted(os.listdir(root / "data")),
        error_of(lambda: (root / "images").rename(root / "moved")),
        error_of(lambda: (root / "images").rename(root / "images" / "deep" / "x")),
        error_of(lambda: (root / "images").rename(root / "notes.txt")),
        (root / "images" / "deep" / "deeper" / "five.bin").read_bytes()[:20],
    ]


@act
def rename_a_directory_twice_and_back(root: Path) -> list[Any]:
    (root / "data").rename(root / "a")
    (root / "a" / "deep").rename(root / "b")
    (root / "a").rename(root / "data")
    (root / "b").rename(root / "data" / "deep")
    return []


@act
def unlink_and_create_again(root: Path) -> list[Any]:
    (root / "data" / "one.bin").unlink()
    missing = error_of(lambda: (root / "data" / "one.bin").stat())
    (root / "data" / "two.bin").unlink()
    (root / "data" / "two.bin").write_bytes(b"another file of the same name")
    (root / "new.txt").write_bytes(b"new")
    (root / "new.txt").unlink()
    (root / "link").unlink()
    return [
        missing,
        sorted(path.name for path in (root / "data").iterdir()),
        error_of(lambda: (root / "data").unlink()),
        error_of(lambda: (root / "never").unlink()),
    ]


@act
def remove_a_directory_and_make_it_again(root: Path) -> list[Any]:
    shutil.rmtree(root / "data")
    gone = error_of(lambda: (root / "data").stat())
    (root / "data").mkdir()
    shutil.rmtree(root / "images")
    (root / "images").write_bytes(b"a file where a folder was")
    return [gone, [path.name for path in (root / "data").iterdir()]]


@act
def make_and_remove_directories(root: Path) -> list[Any]:
    (root / "made" / "inside").mkdir(parents=True)
    (root / "made" / "inside").chmod(0o2750)
    (root / "gone").mkdir()
    (root / "gone").rmdir()
    (root / "empty").rmdir()
    return [
        error_of(lambda: (root / "data").rmdir()),
        error_of(lambda: (root / "made").rmdir()),
        error_of(lambda: (root / "notes.txt").rmdir()),
        error_of(lambda: (root / "data").mkdir()),
        error_of(lambda: (root / "nowhere" / "below").mkdir()),
    ]


@act
def make_symlinks(root: Path) -> list[Any]:
    (root / "to file").symlink_to("data/two.bin")
    (root / "to nothing").symlink_to("/nowhere/at all")
    os.symlink(b"./odd//\xff\xfe", os.fsencode(root / "odd"))
    (root / "data" / "up").symlink_to("..")
    (root / "link").unlink()
    (root / "link").symlink_to("data/three.bin")
    os.utime(root / "to file", ns=(EARLY_NS, LATE_NS), follow_symlinks=False)
    return [
        (root / "to file").read_bytes()[:30],
        error_of(lambda: (root / "to nothing").read_bytes()),
        digest_file(root / "data" / "up" / "link"),
        error_of(lambda: (root / "link").symlink_to("x")),
    ]


@act
def make_hard_links(root: Path) -> list[Any]:
    (root / "new.bin").write_bytes(some_bytes(40_000, 3))
    (root / "new too.bin").hardlink_to(root / "new.bin")
    (root / "data" / "deep" / "one too.bin").hardlink_to(root / "data" / "one.bin")
    write_at(root / "data" / "deep" / "one too.bin", 10, b"through the other name")
    (root / "third.bin").hardlink_to(root / "data" / "two.bin")
    (root / "data" / "two.bin").unlink()
    (root / "new.bin").rename(root / "new too.bin")
    return [
        (root / "data" / "one.bin").read_bytes()[:40],
        (root / "data" / "one.bin").samefile(root / "data" / "deep" / "one too.bin"),
        (root / "data" / "one.bin").stat().st_nlink,
        (root / "third.bin").stat().st_nlink,
        error_of(lambda: (root / "data too").hardlink_to(root / "data")),
        error_of(lambda: (root / "third.bin").hardlink_to(root / "notes.txt")),
    ]


@act
def change_attributes(root: Path) -> list[Any]:
    (root / "notes.txt").chmod(0o600)
    (root / "data").chmod(0o750)
    (root / "new.txt").write_bytes(b"new")
    (root / "new.txt").chmod(0o4711)
    os.utime(root / "new.txt", ns=(EARLY_NS, LATE_NS))
    os.utime(root / "data" / "one.bin", ns=(LATE_NS, LATE_NS + 1))
    os.utime(root / "data" / "deep", ns=(EARLY_NS, EARLY_NS + 2))
    os.utime(root / "empty", ns=(0, 0))
    os.utime(root / "script.sh", ns=(1, -1_000_000_001))
    names = ["new.txt", "data/one.bin", "data/deep", "empty", "script.sh"]
    return [((root / name).stat().st_mtime_ns, oct((root / name).stat().st_mode)) for name in names]


@act
def use_an_unlinked_file(root: Path) -> list[Any]:
    seen: list[Any] = []
    for path in (root / "data" / "one.bin", root / "made.bin"):
        with path.open("a+b") as file:
            file.write(some_bytes(10_000, 4))
            file.flush()
            path.unlink()
            file.write(b"after it was unlinked")
            file.flush()
            seen += [os.fstat(file.fileno()).st_nlink, os.fstat(file.fileno()).st_size]
            file.seek(9_000)
            seen.append(file.read())
            path.write_bytes(b"another one")
            file.seek(0)
            seen.append(len(file.read()))
    return seen


@act
def synchronise(root: Path) -> list[Any]:
    with (root / "safe.bin").open("wb") as file:
        file.write(some_bytes(100_000, 5))
        file.flush()
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    for folder in (root, root / "data"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(descriptor)
        os.close(descriptor)
    with (root / "data" / "two.bin").open("rb") as file:
        os.fsync(file.fileno())
    return []


@act
def write_through_a_mapping(root: Path) -> list[Any]:
    for path in (root / "data" / "one.bin", root / "mapped.bin"):
        with path.open("a+b") as file:
            file.truncate(200_000)
            with mmap.mmap(file.fileno(), 200_000) as view:
                view[12_345:12_351] = b"mapped"
                view[199_990:] = b"at the end"
                view.flush()
    with (
        (root / "data" / "two.bin").open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view,
    ):
        return [view[100:200], len(view)]


@act
def make_special_files(root: Path) -> list[Any]:
    os.mkfifo(root / "pipe", 0o640)
    with socket.socket(socket.AF_UNIX) as server:
        # A socket's name must be short; only its last part may count against the limit.
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        server.bind(f"/proc/self/fd/{descriptor}/socket")
        os.close(descriptor)
    return [stat.S_ISFIFO((root / "pipe").stat().st_mode), stat.S_ISSOCK((root / "socket").stat().st_mode)]


@act
def attach_extended_attributes(root: Path) -> list[Any]:
    (root / "new.txt").write_bytes(b"new")
    for path in (root / "new.txt", root / "notes.txt", root / "data"):
        os.setxattr(path, "user.comment", b"seen by \xff\0 me")
        os.setxattr(path, "user.empty", b"")
        os.setxattr(path, "user.long", b"x" * 1000)
        os.removexattr(path, "user.long")
    return [
        error_of(lambda: os.getxattr(root / "new.txt", "user.absent")),
        error_of(lambda: os.setxattr(root / "new.txt", "user.empty", b"", os.XATTR_CREATE)),
        own_attributes(root),
    ]


@act
def fill_a_directory(root: Path) -> list[Any]:
    folder = root / "many"
    folder.mkdir()
    for number in range(1500):
        (folder / f"{number:05}").touch()
    half = sorted(folder.iterdir())[::2]
    for path in half:
        path.unlink()
    shutil.copytree(folder, root / "copy")
    shutil.rmtree(root / "copy")
    return [len(list(folder.iterdir()))]


def own_attributes(root: Path) -> dict[str, dict[str, bytes]]:
    """The extended attributes that a user set, by path; vfsd's own and the system's are left out."""
    found = {}
    for path in sorted(root.rglob("*")):
        names = [n for n in os.listxattr(path, follow_symlinks=False) if n.startswith("user.")]
        values = {n: os.getxattr(path, n, follow_symlinks=False) for n in names if "vfsd" not in n}
        if values:
            found[path.relative_to(root).as_posix()] = values
    return found
