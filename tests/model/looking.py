"""What is seen of a path or a handle on one side, in a form in which both sides must be equal.

Times of long ago (set by somebody) must be the same to the nanosecond; of times of this run only that they are of this run,
since two acts do not happen at the same moment. ctime cannot be set: it moves on one side when it moves on the other.
Excluded are: blocks and block size (each file system allocates as it likes), atime (asked for where it is set), the size
of directories, inode numbers (their being one or two is compared).
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields

from model.acts import Side, read_all
from model.places import names_below

# Clocks of the kernel and of a program differ by a tick.
_BEGIN = time.time_ns() - 10_000_000_000
_DAY = 86_400 * 10**9
NOW = -1
"""Stands for any time of this run."""

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Sight:
    """What a program sees of one file."""

    kind: int
    mode: int
    owner: tuple[int, int]
    links: int
    size: int
    mtime: int
    device: int
    target: bytes | None
    xattrs: Mapping[bytes, bytes]
    digest: str | None


@dataclass(frozen=True, slots=True)
class Marks:
    """What two sides cannot have in common, but must not contradict either."""

    ino: int
    ctime: int


def _digest(fd: int) -> str:
    # Not what the kernel still has of it, but what the file system says.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    digest, offset = hashlib.blake2b(digest_size=16), 0
    while piece := read_all(fd, CHUNK, offset):
        digest.update(piece)
        offset += len(piece)
    return digest.hexdigest()


def _xattrs(where: bytes | int) -> dict[bytes, bytes]:
    follow = isinstance(where, int)
    names = os.listxattr(where) if follow else os.listxattr(where, follow_symlinks=False)
    listed = [os.fsencode(name) for name in names]
    assert len(set(listed)) == len(listed), f"an attribute is listed twice: {listed}"
    names_of_user = [name for name in listed if name.startswith(b"user.")]
    if follow:
        return {name: os.getxattr(where, name) for name in names_of_user}
    return {name: os.getxattr(where, name, follow_symlinks=False) for name in names_of_user}


def _sight(found: os.stat_result, where: bytes | int, digest: str | None, count_folders: bool) -> Sight:
    kind = stat.S_IFMT(found.st_mode)
    folder = kind == stat.S_IFDIR
    recent = _BEGIN <= found.st_mtime_ns <= time.time_ns() + _DAY
    return Sight(
        kind=kind,
        mode=stat.S_IMODE(found.st_mode),
        owner=(found.st_uid, found.st_gid),
        links=1 if folder and not count_folders else found.st_nlink,
        size=0 if folder else found.st_size,
        mtime=NOW if recent else found.st_mtime_ns,
        device=found.st_rdev,
        target=os.readlink(where) if kind == stat.S_IFLNK else None,
        xattrs=_xattrs(where) if kind in (stat.S_IFREG, stat.S_IFDIR) else {},
        digest=digest,
    )


def look_at(path: bytes, *, contents: bool, count_folders: bool) -> tuple[Sight, Marks] | None:
    """What is under a path (a symbolic link itself), or None."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    digest = None
    if contents and stat.S_ISREG(found.st_mode):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except PermissionError:
            digest = "not permitted"
        else:
            try:
                digest = _digest(fd)
            finally:
                os.close(fd)
        found = os.lstat(path)
    return _sight(found, path, digest, count_folders), Marks(found.st_ino, found.st_ctime_ns)


def look_at_handle(fd: int, *, count_folders: bool) -> tuple[Sight, Marks]:
    """What an open file shows, whether it has a name or not."""
    found = os.fstat(fd)
    return _sight(found, fd, None, count_folders), Marks(found.st_ino, found.st_ctime_ns)


def counts_folders(folder: bytes) -> bool:
    """Whether this file system counts a directory's subdirectories in its links (overlayfs and btrfs do not)."""
    return os.stat(folder).st_nlink >= 2


class Witness:
    """Compares the two sides, and remembers what must move together."""

    def __init__(self, mount: Side, plain: Side) -> None:
        self._mount, self._plain = mount, plain
        self._count_folders = counts_folders(plain.root)
        self._ctimes: dict[tuple[int, int], tuple[int, int]] = {}

    def forget_change_times(self) -> None:
        """After a crash: then a ctime is that of the last record or of the bytes, and may go back by less than a tick."""
        self._ctimes.clear()

    def compare_path(self, path: bytes, *, contents: bool) -> None:
        """One path on both sides."""
        mount = look_at(self._mount.at(path), contents=contents, count_folders=self._count_folders)
        plain = look_at(self._plain.at(path), contents=contents, count_folders=self._count_folders)
        assert (mount is None) == (plain is None), f"{path!r}: {'missing' if mount is None else 'not expected'}"
        if mount is not None and plain is not None:
            self._compare(ascii(path), mount, plain)

    def compare_handle(self, slot: int) -> None:
        """One open handle on both sides."""
        mount = look_at_handle(self._mount.files[slot], count_folders=self._count_folders)
        plain = look_at_handle(self._plain.files[slot], count_folders=self._count_folders)
        self._compare(f"handle {slot}", mount, plain)

    def compare_all(self) -> None:
        """Every path below the roots, the roots themselves, every handle; and which names are one file."""
        directories, others = names_below(self._mount.root)
        expected_directories, expected_others = names_below(self._plain.root)
        assert directories == expected_directories, _differ("directories", directories, expected_directories)
        assert others == expected_others, _differ("names", others, expected_others)
        of_mount: dict[int, int] = {}
        for path in [*directories, *others]:
            self.compare_path(path, contents=True)
            numbers = os.lstat(self._mount.at(path)).st_ino, os.lstat(self._plain.at(path)).st_ino
            other = of_mount.setdefault(*numbers)
            assert other == numbers[1], f"{path!r} has the inode number of another file"
        assert len(set(of_mount.values())) == len(of_mount), "names of one file have several inode numbers"
        for slot in self._plain.files:
            self.compare_handle(slot)

    def _compare(self, what: str, mount: tuple[Sight, Marks], plain: tuple[Sight, Marks]) -> None:
        seen, expected = mount[0], plain[0]
        wrong = [
            f"{field.name} is {getattr(seen, field.name)!r}, should be {getattr(expected, field.name)!r}"
            for field in fields(Sight)
            if getattr(seen, field.name) != getattr(expected, field.name)
        ]
        assert not wrong, f"{what}: {'; '.join(wrong)}"
        # Inode numbers of the mount are never used again: with both numbers the same it is the same file as before.
        key, now = (mount[1].ino, plain[1].ino), (mount[1].ctime, plain[1].ctime)
        before = self._ctimes.get(key)
        self._ctimes[key] = now
        if before is not None:
            assert now[0] >= before[0], f"{what}: ctime went back by {before[0] - now[0]} ns"
            moved = now[0] != before[0], now[1] != before[1]
            # tmpfs gives a directory the time of what left it, in steps of a tick: there it may seem to stand still.
            assert moved[0] or not moved[1], f"{what}: ctime did not move"
            assert moved[1] or not moved[0] or stat.S_ISDIR(seen.kind), f"{what}: ctime moved"


def _differ(what: str, seen: list[bytes], expected: list[bytes]) -> str:
    return f"{what}: missing {sorted({*expected} - {*seen})}, not expected {sorted({*seen} - {*expected})}, {len(seen)}"
