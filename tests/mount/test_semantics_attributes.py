"""Attributes behave as on ext4, whichever layer a file begins in: rights, owners, times, extended attributes.

Each act is done to a folder on the mount and to its twin on the local disk, and both must show the same; at the
end of the module everything must be there again after a flush and a remount (see `blackbox.layers`).
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blackbox.acts import EARLY_NS, LATE_NS, MIB, error_of, write_at
from blackbox.daemons import wait_until
from blackbox.layers import Both, Stage

pytestmark = pytest.mark.fuse

NOBODY = 65_534
DAY_NS = 86_400 * 10**9


def modes(root: Path, *names: str) -> list[str]:
    return [oct((root / name).lstat().st_mode) for name in names]


def as_nobody(act: Callable[[], list[Any]]) -> list[Any]:
    """What an act returns that is done by a process without any rights."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writing, json.dumps(act()).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return list(json.loads(said))


# --- rights


def test_the_umask_counts(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        seen = []
        for mask in (0o022, 0o077, 0o000, 0o777):
            before = os.umask(mask)
            try:
                folder = root / f"{mask:03o}"
                folder.mkdir(0o777)
                seen += modes(root, folder.name)
                folder.chmod(0o700)
                os.close(os.open(folder / "file", os.O_CREAT | os.O_WRONLY, 0o666))
                os.mkfifo(folder / "pipe", 0o666)
                os.symlink("x", folder / "link")
                seen += modes(folder, "file", "pipe", "link")
            finally:
                os.umask(before)
        return seen

    both.agree(act)


def test_every_mode_bit_is_kept(both: Both) -> None:
    def act(root: Path) -> list[str]:
        seen = []
        for mode in (0o0000, 0o7777, 0o4755, 0o2755, 0o1777, 0o6111, 0o0644):
            for name in ("one.bin", "full"):
                (root / name).chmod(mode)
                seen += modes(root, name)
        (root / "full").chmod(0o755)
        return seen

    both.agree(act)


@pytest.mark.root
def test_directories_hand_their_group_down(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        folder = root / "full"
        os.chown(folder, 0, 1234)
        folder.chmod(0o2775)
        (folder / "file").touch()
        (folder / "sub").mkdir()
        (folder / "sub" / "deeper").mkdir()
        os.mkfifo(folder / "pipe")
        (folder / "link").symlink_to("x")
        (root / "text").rename(folder / "text")  # what moves in keeps its own
        names = ["file", "sub", "sub/deeper", "pipe", "link", "text", "inside"]
        return [modes(folder, *names), [(folder / name).lstat().st_gid for name in names]]

    both.agree(act)


@pytest.mark.root
def test_owners(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        (root / "one.bin").chmod(0o6755)
        os.chown(root / "one.bin", 1000, -1)
        seen = modes(root, "one.bin")  # suid and sgid are gone
        os.chown(root / "one.bin", -1, 2000)
        os.chown(root / "link", 3000, 3000, follow_symlinks=False)
        os.chown(root / "full", 4000, 4_294_967_294)
        found = [(root / name).lstat() for name in ("one.bin", "link", "full", "two.bin")]
        return [seen, [(status.st_uid, status.st_gid) for status in found]]

    both.agree(act)


@pytest.mark.root
def test_writing_takes_suid_away(both: Both) -> None:
    def act(root: Path) -> list[str]:
        def write_and_cut() -> list[str]:
            file = os.open(root / "one.bin", os.O_WRONLY)
            os.write(file, b"x")
            written = oct(os.fstat(file).st_mode)
            os.ftruncate(file, 3)
            return [written, oct(os.fstat(file).st_mode)]

        seen = []
        for mode in (0o6777, 0o2777, 0o4767):
            (root / "one.bin").chmod(mode)
            seen += as_nobody(write_and_cut)
        return seen

    both.agree(act)


@pytest.mark.root
def test_rights_and_the_sticky_bit_bind_others(both: Both) -> None:
    def acts(root: str) -> list[Callable[[], Any]]:
        return [
            lambda: os.unlink(root + "/sticky/hers"),
            lambda: os.rename(root + "/sticky/hers", root + "/sticky/mine"),
            lambda: os.close(os.open(root + "/sticky/own", os.O_CREAT | os.O_WRONLY)),
            lambda: os.unlink(root + "/sticky/own"),
            lambda: os.close(os.open(root + "/private", os.O_RDONLY)),
            lambda: os.close(os.open(root + "/readable", os.O_WRONLY)),
            lambda: os.listdir(root + "/closed"),
            lambda: os.stat(root + "/closed/inside"),
            lambda: os.close(os.open(root + "/readable", os.O_RDONLY)),
            lambda: os.chmod(root + "/readable", 0o777),
            lambda: os.utime(root + "/readable"),
            lambda: os.utime(root + "/writable"),
            lambda: os.utime(root + "/writable", (1, 1)),
            lambda: os.chown(root + "/readable", NOBODY, NOBODY),
            lambda: os.setxattr(root + "/readable", "user.x", b""),
            lambda: os.truncate(root + "/readable", 0),
            lambda: os.mkdir(root + "/new"),
            lambda: os.rename(root + "/readable", root + "/new"),
        ]

    def act(root: Path) -> list[Any]:
        (root / "sticky").mkdir()
        (root / "sticky").chmod(0o1777)
        (root / "sticky" / "hers").write_bytes(b"hers")
        (root / "one.bin").rename(root / "private")
        (root / "private").chmod(0o600)
        (root / "two.bin").rename(root / "readable")
        (root / "readable").chmod(0o644)
        (root / "text").rename(root / "writable")
        (root / "writable").chmod(0o666)
        (root / "full").rename(root / "closed")
        (root / "closed").chmod(0o700)
        return as_nobody(lambda: [error_of(do) for do in acts(str(root))])

    both.agree(act)


# --- times


def test_times_to_the_nanosecond(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        seen = []
        for name in ("one.bin", "full", "link", "new"):
            path = root / name
            if name == "new":
                path.touch()
            for times in ((EARLY_NS, LATE_NS), (LATE_NS, EARLY_NS + 1), (0, 1), (-1, -1_500_000_000)):
                os.utime(path, ns=times, follow_symlinks=False)
                found = path.lstat()
                seen.append((found.st_atime_ns, found.st_mtime_ns))
        return seen

    both.agree(act)


def test_one_time_may_be_left_alone(both: Both) -> None:
    """`touch -a` and `touch -m` (UTIME_OMIT)."""

    def act(root: Path) -> list[Any]:
        path = root / "one.bin"
        subprocess.run(["touch", "-a", "-d", "2001-02-03 04:05:06.789 UTC", path], check=True)
        first = path.stat()
        subprocess.run(["touch", "-m", "-d", "2011-02-03 04:05:06.789 UTC", path], check=True)
        second = path.stat()
        return [first.st_atime_ns, first.st_mtime_ns, second.st_atime_ns, second.st_mtime_ns]

    both.agree(act)


def moved(path: Path, act: Callable[[], Any]) -> str:
    """Which times an act moved to now: letters of "amc"; capitals where a time is not one that a clock could show."""
    before = path.lstat()
    began = time.time_ns()
    act()
    after, ended = path.lstat(), time.time_ns()
    seen = ""
    for letter, name in (("a", "st_atime_ns"), ("m", "st_mtime_ns"), ("c", "st_ctime_ns")):
        value = getattr(after, name)
        if value != getattr(before, name):
            # the kernel's own clock for times lags by up to a tick (10 ms)
            seen += letter if began - 10**8 <= value <= ended else letter.upper()
    return seen


def old(path: Path) -> Path:
    """The same path, last read and written long ago, in this order: a read moves no time."""
    now = time.time_ns()
    os.utime(path, ns=(now - 3600 * 10**9, now - 2 * 3600 * 10**9), follow_symlinks=False)
    return path


def test_which_times_each_act_moves(both: Both) -> None:
    def act(root: Path) -> dict[str, str]:
        one, two, full = root / "one.bin", root / "two.bin", root / "full"
        acts: dict[str, tuple[Path, Callable[[], Any]]] = {
            "chmod": (one, lambda: one.chmod(0o640)),
            "chmod to the same": (one, lambda: one.chmod(0o640)),
            "write": (one, lambda: write_at(one, 5, b"x")),
            "append": (one, lambda: write_at(one, one.stat().st_size, b"x")),
            "cut": (one, lambda: os.truncate(one, 100)),
            "cut to the same size": (one, lambda: os.truncate(one, 100)),
            "cut by opening": (one, lambda: os.close(os.open(one, os.O_WRONLY | os.O_TRUNC))),
            "cut by opening, empty before": (one, lambda: os.close(os.open(one, os.O_WRONLY | os.O_TRUNC))),
            "open for writing": (two, lambda: os.close(os.open(two, os.O_RDWR))),
            "link": (two, lambda: os.link(two, root / "linked")),
            "unlink of another name": (two, lambda: (root / "linked").unlink()),
            "rename": (two, lambda: two.rename(two)),
            "setxattr": (two, lambda: os.setxattr(two, "user.a", b"b")),
            "removexattr": (two, lambda: os.removexattr(two, "user.a")),
            "create in": (full, lambda: (full / "new").touch()),
            "write below": (full, lambda: (full / "new").write_bytes(b"new")),
            "rename in": (full, lambda: (full / "new").rename(full / "newer")),
            "unlink in": (full, lambda: (full / "newer").unlink()),
            "mkdir in": (full, lambda: (full / "sub").mkdir()),
            "rmdir in": (full, lambda: (full / "sub").rmdir()),
            "symlink in": (full, lambda: (full / "sym").symlink_to("x")),
            "rename out": (full, lambda: (full / "sym").rename(root / "sym")),
            "failed create in": (full, lambda: error_of(lambda: (full / "inside").mkdir())),
            "chmod of": (full, lambda: full.chmod(0o711)),
        }
        return {name: moved(old(path), do) for name, (path, do) in acts.items()}

    both.agree(act)


def test_change_times_are_never_in_the_future(both: Both) -> None:
    def act(root: Path) -> list[bool]:
        seen = []
        for name in ("one.bin", "new", "full"):
            path = root / name
            if name == "new":
                path.write_bytes(b"new")
            write_at(path, 0, b"x") if name != "full" else None
            os.utime(path, ns=(LATE_NS, LATE_NS))
            seen.append(path.stat().st_ctime_ns <= time.time_ns())
            seen.append(path.stat().st_mtime_ns == LATE_NS)
        return seen

    assert all(both.agree(act))


# --- access times


def read_all(path: Path, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_RDONLY | flags)
    while os.read(descriptor, MIB):
        pass
    os.close(descriptor)


def set_times(path: Path, *, read_ago: int, written_ago: int) -> None:
    now = time.time_ns()
    os.utime(path, ns=(now - read_ago, now - written_ago), follow_symlinks=False)


def relatime_here(folder: Path) -> bool:
    """Whether the local disk is mounted with the rule that vfsd follows."""
    path = folder / "probe"
    path.write_bytes(b"probe")
    set_times(path, read_ago=3 * DAY_NS, written_ago=4 * DAY_NS)
    read_all(path)
    moved = path.stat().st_atime_ns > time.time_ns() - DAY_NS
    path.unlink()
    return moved


@pytest.mark.parametrize(
    ("read_ago", "written_ago", "flags", "moves"),
    [
        (2 * 3600, 3600, 0, True),  # written since it was read
        (3600, 2 * 3600, 0, False),  # read since it was written
        (2 * 86_400, 3 * 86_400, 0, True),  # not read for a day
        (2 * 86_400, 3600, os.O_NOATIME, False),
    ],
    ids=["written since", "read since", "a day ago", "O_NOATIME"],
)
def test_reads_move_access_times_as_relatime_says(
    both: Both, read_ago: int, written_ago: int, flags: int, moves: bool
) -> None:
    second = 10**9

    def act(root: Path) -> list[bool]:
        seen = []
        for name in ("one.bin", "full", "fresh"):
            path = root / name
            if name == "fresh":
                path.write_bytes(b"fresh" * 1000)
                read_all(path, os.O_NOATIME)
            set_times(path, read_ago=read_ago * second, written_ago=written_ago * second)
            if read_ago < written_ago:  # setting times is a change, too: it must lie before the last read
                now = time.time_ns()
                os.utime(path, ns=(now + 3600 * second, now - written_ago * second))
            before = path.stat()
            if path.is_dir():
                if flags:
                    seen.append(False)
                    continue
                os.listdir(path)
            else:
                read_all(path, flags)
            after = path.stat()
            assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
            seen.append(after.st_atime_ns != before.st_atime_ns)
        return seen

    if not relatime_here(both.local):
        pytest.skip("the local disk is mounted with another rule for access times")
    seen = both.agree(act)
    if "ago" not in str(moves):
        assert set(seen) <= {moves, False}


def test_reading_what_the_kernel_has_cached_counts_as_well(both: Both) -> None:
    path = both.mounted / "cached"
    path.write_bytes(b"c" * 100_000)
    before = path.stat().st_atime_ns
    read_all(path)
    wait_until(lambda: path.stat().st_atime_ns > before, "the access time moves", 10)
    path.unlink()


def test_reading_alone_changes_nothing_that_is_stored(both: Both, stage: Stage) -> None:
    stage.mount.flush()
    receipts = len(list((stage.mount.store / "receipts").iterdir()))
    for path in (both.mounted / "one.bin", both.mounted / "full" / "inside"):
        read_all(path)
    os.listdir(both.mounted / "full")
    stage.mount.flush()
    found = sorted((stage.mount.store / "receipts").iterdir())[receipts:]
    assert all(b"one.bin" not in receipt.read_bytes() for receipt in found)


# --- extended attributes


def test_extended_attributes(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        seen: list[Any] = []
        for name in ("one.bin", "full", "two too.bin"):
            path = root / name
            os.setxattr(path, "user.a", b"\0\xff binary")
            os.setxattr(path, "user.empty", b"")
            os.setxattr(path, "user.a", b"replaced", os.XATTR_REPLACE)
            os.setxattr(path, "user." + "n" * 250, b"longest name")
            seen += [
                sorted(os.listxattr(path)),
                os.getxattr(path, "user.a"),
                os.getxattr(path, "user.empty"),
                error_of(lambda path=path: os.setxattr(path, "user.a", b"", os.XATTR_CREATE)),
                error_of(lambda path=path: os.setxattr(path, "user.b", b"", os.XATTR_REPLACE)),
                error_of(lambda path=path: os.getxattr(path, "user.absent")),
                error_of(lambda path=path: os.removexattr(path, "user.absent")),
                error_of(lambda path=path: os.setxattr(path, "user." + "n" * 251, b"")),
                error_of(lambda path=path: os.getxattr(path, "user." + "n" * 251)),
                error_of(lambda path=path: os.setxattr(path, "user.", b"")),
                error_of(lambda path=path: os.setxattr(path, "", b"")),
                error_of(lambda path=path: os.setxattr(path, "nonsense", b"")),
                error_of(lambda path=path: os.setxattr(path, "nonsense.x", b"")),
                error_of(lambda path=path: os.setxattr(path, "user.big", b"x" * 65_537)),
            ]
            os.removexattr(path, "user.empty")
            seen.append(sorted(os.listxattr(path)))
        seen.append(os.getxattr(root / "two.bin", "user.a"))  # the other name of "two too.bin"
        seen.append(error_of(lambda: os.setxattr(root / "link", "user.a", b"", follow_symlinks=False)))
        seen.append(error_of(lambda: os.getxattr(root / "link", "user.a", follow_symlinks=False)))
        os.mkfifo(root / "pipe")
        seen.append(error_of(lambda: os.setxattr(root / "pipe", "user.a", b"")))
        return seen

    both.agree(act)


def test_sizes_of_extended_attributes(both: Both) -> None:
    path = both.mounted / "one.bin"
    for number in range(20):  # ext4 takes no more than 4 KiB in all
        os.setxattr(path, f"user.{number}", bytes([number]) * 65_536)
    assert error_of(lambda: os.setxattr(path, "user.large", b"x" * 65_537)) == "E2BIG"
    assert [os.getxattr(path, f"user.{number}") for number in range(20)] == [bytes([n]) * 65_536 for n in range(20)]
    for name in os.listxattr(path):
        os.removexattr(path, name)


def test_the_list_of_names_has_a_limit(both: Both) -> None:
    """No program could list more than 64 KiB of names (listxattr(2))."""
    path = both.mounted / "full"
    for number in range(300):
        refusal = error_of(lambda number=number: os.setxattr(path, f"user.{number:0250}", b""))
        if refusal is not None:
            break
    assert refusal == "ENOSPC"
    assert len(os.listxattr(path)) == number == 65_536 // 256
    for name in os.listxattr(path):
        os.removexattr(path, name)


def test_other_namespaces_are_refused(both: Both) -> None:
    path = both.mounted / "one.bin"
    for name in ("trusted.x", "security.x", "system.posix_acl_access", "system.posix_acl_default"):
        assert error_of(lambda name=name: os.setxattr(path, name, b"x")) in ("ENOTSUP", "EPERM", "EINVAL")
        assert error_of(lambda name=name: os.getxattr(path, name)) in ("ENOTSUP", "ENODATA", "EPERM")
    assert os.listxattr(path) == []


# --- the whole


def test_figures_of_the_file_system(stage: Stage) -> None:
    path = stage.mount.path / "01"
    before = os.statvfs(path)
    assert before.f_frsize == before.f_bsize == 4096
    assert before.f_namemax == 255
    assert 0 < before.f_bavail <= before.f_bfree <= before.f_blocks
    assert 0 < before.f_favail <= before.f_ffree <= before.f_files
    assert os.statvfs(stage.mount.path).f_blocks > 0


def test_block_counts_are_sensible(both: Both) -> None:
    for name in ("one.bin", "new"):
        path = both.mounted / name
        if name == "new":
            path.write_bytes(b"n" * 50_000)
        found = path.stat()
        assert found.st_blksize == 4096
        assert found.st_size <= found.st_blocks * 512 < found.st_size + 64 * 1024
    (both.mounted / "new").unlink()
