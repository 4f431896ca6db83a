"""Mountinfo: any path comes back from the kernel's escaping; nothing there is touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.daemon.mountinfo import (
    Mount,
    filesystem_type,
    mount_at,
    mount_holding,
    parse_mountinfo,
    read_mounts,
    resolve_mountpoint,
    unescape,
)

names = st.lists(st.binary(min_size=1, max_size=20).filter(lambda b: b"/" not in b and b"\0" not in b), max_size=4)
paths = names.map(lambda parts: b"/" + b"/".join(parts))


def escape(path: bytes) -> bytes:
    """What seq_path does: space, tab, newline, backslash (and '#' in sources) as octal."""
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\#" else bytes((byte,)) for byte in path)


def line(number: int, parent: int, point: bytes, kind: bytes = b"fuse.vfsd", optional: bytes = b"shared:7 ") -> bytes:
    options = b"rw,user_id=1000,group_id=1000"
    return b"%d %d 0:57 / %s rw,nosuid %s- %s %s %s\n" % (
        number,
        parent,
        escape(point),
        optional,
        kind,
        escape(point),
        options,
    )


@given(paths, paths, st.sampled_from([b"", b"shared:1 ", b"shared:1 master:2 ", b"unbindable "]))
def test_any_path_round_trips(first: bytes, second: bytes, optional: bytes) -> None:
    text = line(30, 1, first, optional=optional) + line(31, 1, second, optional=optional)
    mounts = parse_mountinfo(text)
    assert [mount.mountpoint for mount in mounts] == [first, second]
    assert [mount.source for mount in mounts] == [first, second]
    assert {mount.user_id for mount in mounts} == {1000}
    assert {mount.device for mount in mounts} == {"0:57"}


@given(st.binary(max_size=300))
def test_garbage_is_passed_over(text: bytes) -> None:
    good = line(30, 1, b"/mnt/plate 1")
    assert parse_mountinfo(good + text.replace(b"\n", b"") + b"\n" + good)[0].mountpoint == b"/mnt/plate 1"


@given(st.binary(max_size=50))
def test_unescape_undoes_escape(path: bytes) -> None:
    assert unescape(escape(path)) == path


def test_this_machines_own_table_is_read() -> None:
    mounts = read_mounts()
    assert any(mount.filesystem == "proc" for mount in mounts)
    assert mount_holding(b"/proc/self", mounts) == mount_at(b"/proc", mounts)
    assert filesystem_type(Path("/proc/self/status")) == "proc"


def test_the_topmost_of_stacked_mounts_counts() -> None:
    text = line(30, 1, b"/mnt/a", b"ext4") + line(31, 30, b"/mnt/a", b"fuse.vfsd") + line(32, 1, b"/mnt", b"tmpfs")
    mounts = parse_mountinfo(text)
    top = mount_at(b"/mnt/a", mounts)
    assert top is not None
    assert top.filesystem == "fuse.vfsd"
    assert mount_holding(b"/mnt/b/c", mounts) == mounts[2]
    assert mount_holding(b"/home", mounts) is None


def a_mount(point: Path) -> Mount:
    return Mount(1, 0, "0:57", b"/", os.fsencode(point), "fuse.vfsd", b"x", b"rw")


def test_symbolic_links_to_a_mount_point_are_followed_without_touching_it(tmp_path: Path) -> None:
    # A mount point that cannot be touched stands for one that hangs: nothing is there at all.
    point = tmp_path / "real" / "mnt"
    point.parent.mkdir()
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to(tmp_path / "dir" / "mnt")
    (tmp_path / "dir").symlink_to("real")
    (tmp_path / "up").symlink_to("real/../real/mnt")
    for name in ("one", "two", "up", "dir/mnt", "real/mnt", "real/mnt/", "real/../dir/mnt"):
        assert resolve_mountpoint(tmp_path / name, [a_mount(point)]) == point


def test_relative_paths_loops_and_the_root_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_mountpoint(Path("mnt"), []) == tmp_path.resolve() / "mnt"
    assert resolve_mountpoint(Path(".."), []) == tmp_path.parent.resolve()
    assert resolve_mountpoint(Path("/"), []) == Path("/")
    (tmp_path / "loop").symlink_to("loop")
    assert resolve_mountpoint(tmp_path / "loop", []).name == "loop"
