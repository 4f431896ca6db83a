"""What mounting refuses before it makes anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vfsd.daemon.checks import (
    check_fuse,
    check_mountpoint,
    check_source,
    check_store_belongs,
    clear_mountpoint,
    is_inside,
    others_may_be_allowed,
    refuse_nesting,
)
from vfsd.daemon.dead_mounts import Pulse, probe
from vfsd.daemon.holders import find_holders
from vfsd.errors import UnfitError, VfsdError

MAY_COINCIDE = [frozenset({"source", "mount point"})]


def refused(error: pytest.ExceptionInfo[VfsdError], path: Path) -> None:
    assert error.value.exit_code == 2
    assert str(path) in str(error.value)


def test_fuse_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnfitError, match="modprobe fuse") as caught:
        check_fuse(allow_other=False, device=tmp_path / "fuse")
    refused(caught, tmp_path / "fuse")
    (tmp_path / "fuse").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnfitError, match="fusermount3"):
        check_fuse(allow_other=False, device=tmp_path / "fuse")


@pytest.mark.parametrize(
    ("text", "allowed"), [("user_allow_other\n", True), ("#user_allow_other\n", False), ("", False), ("\xff", False)]
)
def test_allow_other_by_the_administrator(tmp_path: Path, text: str, allowed: bool) -> None:
    (tmp_path / "fuse.conf").write_text(text, encoding="latin-1")
    assert others_may_be_allowed(tmp_path / "fuse.conf") is allowed
    assert not others_may_be_allowed(tmp_path / "missing")


def test_source_must_be_a_folder_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("missing", "file", "loop", "file/x"):
        with pytest.raises(UnfitError) as caught:
            check_source(tmp_path / name)
        refused(caught, tmp_path / name)
    (tmp_path / "plate").mkdir()
    (tmp_path / "link").symlink_to("plate")
    assert check_source(tmp_path / "link") == (tmp_path / "plate").resolve()


def test_mountpoint_must_be_an_empty_folder_or_the_source(tmp_path: Path) -> None:
    source, full = tmp_path / "plate", tmp_path / "full"
    for folder in (source, full):
        folder.mkdir()
        (folder / "file").touch()
    for path in (full, full / "file", tmp_path / "missing"):
        with pytest.raises(UnfitError) as caught:
            check_mountpoint(path, source)
        refused(caught, path)
    (tmp_path / "empty").mkdir()
    check_mountpoint(tmp_path / "empty", source)
    check_mountpoint(source, source)
    assert clear_mountpoint(tmp_path / "empty") == ((tmp_path / "empty").resolve(), False)


@pytest.mark.parametrize(
    ("store", "mountpoint", "fine"),
    [
        ("plate.vfs", "mnt", True),
        ("plate.vfs", "plate", True),
        ("plate/x.vfs", "mnt", False),
        ("plate", "mnt", False),
        (".", "mnt", False),
        ("mnt/x.vfs", "mnt", False),
        ("plate.vfs", "plate.vfs/mnt", False),
        ("plate.vfs", "plate/mnt", False),
        ("link/x.vfs", "mnt", False),
        ("mnt/../plate/x.vfs", "mnt", False),
        ("plate.vfs", ".", False),
    ],
)
def test_nothing_lies_inside_anything_else(tmp_path: Path, store: str, mountpoint: str, fine: bool) -> None:
    for name in ("plate", "mnt"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("plate")
    named = {"store": tmp_path / store, "source": tmp_path / "plate", "mount point": tmp_path / mountpoint}
    if fine:
        refuse_nesting(named, may_coincide=MAY_COINCIDE)
        return
    with pytest.raises(UnfitError) as caught:
        refuse_nesting(named, may_coincide=MAY_COINCIDE)
    assert "Choose another place" in str(caught.value)


def test_folders_with_like_names_are_not_nested(tmp_path: Path) -> None:
    assert not is_inside(tmp_path / "plate1", tmp_path / "plate")
    assert not is_inside(tmp_path / "plate", tmp_path / "plate1")
    assert is_inside(tmp_path / "missing" / "deep", tmp_path)


def test_folder_is_recognised_under_another_name(tmp_path: Path) -> None:
    # /proc/self/cwd gives a folder a second name, as a bind mount would.
    (tmp_path / "plate").mkdir()
    folder = os.open(tmp_path / "plate", os.O_PATH)
    try:
        assert is_inside(Path(f"/proc/self/fd/{folder}/x.vfs"), tmp_path / "plate")
    finally:
        os.close(folder)


def test_store_of_another_source(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    store = tmp_path / "one.vfs"
    check_store_belongs(store, None, one)
    check_store_belongs(store, one, one)
    with pytest.raises(UnfitError, match="another source") as caught:
        check_store_belongs(store, one, other)
    refused(caught, store)
    with pytest.raises(UnfitError, match="ln -s"):
        check_store_belongs(store, tmp_path / "gone", one)
    # The remedy that the message names.
    (tmp_path / "gone").symlink_to(one)
    check_store_belongs(store, tmp_path / "gone", one)


def test_probe_of_folders_that_are_there_or_not(tmp_path: Path) -> None:
    assert probe(tmp_path) is Pulse.ANSWERS
    assert probe(tmp_path / "missing") is Pulse.ANSWERS


def test_holders_are_found_by_open_files_and_working_folders(tmp_path: Path) -> None:
    import subprocess
    import sys

    folder = tmp_path / "mnt"
    folder.mkdir()
    held = folder / "open \n file"
    held.touch()
    program = "import sys; print(flush=True); sys.stdin.read()"
    with held.open() as file:
        children = [
            subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[file.fileno()]
            ),
            subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder
            ),
        ]
    try:
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()
        found = {holder.pid: holder for holder in find_holders(os.fsencode(folder))}
        assert found[children[0].pid].path == str(held)
        assert found[children[1].pid].path == str(folder)
        assert "python" in found[children[0].pid].name
        assert find_holders(os.fsencode(tmp_path / "mn")) == []
    finally:
        for child in children:
            child.communicate()
