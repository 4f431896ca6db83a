"""The source changes underneath, or was odd from the start: the file concerned fails and is named, the rest goes on."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blackbox.acts import EARLY_NS, error_of, some_bytes
from blackbox.daemons import Mount, Mounted, wait_until
from blackbox.trees import assert_same_tree, read_tree

pytestmark = pytest.mark.fuse

SIZE = 300_000


def lay_out(folder: Path) -> Path:
    (folder / "data" / "deep").mkdir(parents=True)
    for name in ("data/one.bin", "data/two.bin", "data/deep/three.bin", "other.bin"):
        (folder / name).write_bytes(some_bytes(SIZE, len(name)))
    age(folder)
    return folder


def age(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        os.utime(path, ns=(EARLY_NS, EARLY_NS), follow_symlinks=False)


@contextmanager
def put_back(source: Path, aside: Path) -> Iterator[None]:
    """The source is compared after each test: whatever happened to it is undone."""
    shutil.copytree(source, aside, symlinks=True)
    try:
        yield
    finally:
        for path in list(source.iterdir()):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.copytree(aside, source, symlinks=True, dirs_exist_ok=True)
        times = os.stat(aside)
        os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))


def assert_others_live(mount: Mount) -> None:
    """Reading, writing and listing go on where nothing happened."""
    assert (mount.path / "other.bin").read_bytes() == some_bytes(SIZE, len("other.bin"))
    (mount.path / "new").write_bytes(b"new")
    assert (mount.path / "new").read_bytes() == b"new"
    (mount.path / "new").unlink()
    assert "other.bin" in os.listdir(mount.path)


def read_through(path: Path) -> str | None:
    """The error of reading a file to its end, or None."""
    return error_of(path.read_bytes)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return lay_out(tmp_path / "plate")


def test_a_file_vanishes(source: Path, mounted: Mounted, tmp_path: Path) -> None:
    with put_back(source, tmp_path / "aside"), mounted(source) as mount:
        mount.expect_in_log(r"path=data/(one|two)\.bin cause=is no longer in the source")
        path = mount.path / "data" / "one.bin"
        os.listdir(path.parent)
        (source / "data" / "one.bin").unlink()
        (source / "data" / "two.bin").unlink()
        with (mount.path / "data" / "deep" / "three.bin").open("rb") as file:
            assert read_through(path) in ("ENOENT", "ESTALE")
            assert error_of(lambda: (mount.path / "data" / "two.bin").open("r+b").close()) in ("ENOENT", "ESTALE")
            assert file.read() == some_bytes(SIZE, len("data/deep/three.bin"))
        assert_others_live(mount)
        wait_until(lambda: not path.exists(), "the name is gone", 15)
        assert os.listdir(path.parent) == ["deep"]


def test_a_file_that_is_open_vanishes(source: Path, mounted: Mounted, tmp_path: Path) -> None:
    """Like a local file: whoever has it open reads on."""
    with put_back(source, tmp_path / "aside"), mounted(source) as mount:
        with (mount.path / "data" / "one.bin").open("rb", buffering=0) as file:
            first = file.read(1000)
            (source / "data" / "one.bin").unlink()
            assert first + file.read() == some_bytes(SIZE, len("data/one.bin"))
        assert_others_live(mount)


def test_a_file_shrinks(source: Path, mounted: Mounted, tmp_path: Path) -> None:
    """Never bytes of nowhere: the new, shorter contents, or an error."""
    with put_back(source, tmp_path / "aside"), mounted(source) as mount:
        mount.expect_in_log(r"one\.bin")
        path, expected = mount.path / "data" / "one.bin", some_bytes(SIZE, len("data/one.bin"))
        with path.open("rb", buffering=0) as file:
            assert file.read(10) == expected[:10]
            os.truncate(source / "data" / "one.bin", 5000)
            try:
                rest = file.read()
            except OSError as error:
                assert error.errno in (errno.EIO, errno.ESTALE)
            else:
                assert expected[10:].startswith(rest[: 5000 - 10])
        wait_until(lambda: path.stat().st_size == 5000, "the new size shows", 15)
        assert path.read_bytes() == expected[:5000]
        with path.open("r+b") as file:
            file.seek(4000)
            file.write(b"written")
        assert path.read_bytes() == expected[:4000] + b"written" + expected[4007:5000]
        assert_others_live(mount)


def test_a_file_turns_into_a_directory_and_a_directory_into_a_file(
    source: Path, mounted: Mounted, tmp_path: Path
) -> None:
    with put_back(source, tmp_path / "aside"), mounted(source) as mount:
        mount.expect_in_log(r"one\.bin|deep")
        os.listdir(mount.path / "data" / "deep")
        (source / "data" / "one.bin").unlink()
        (source / "data" / "one.bin").mkdir()
        (source / "data" / "one.bin" / "inside").write_bytes(b"inside")
        shutil.rmtree(source / "data" / "deep")
        (source / "data" / "deep").write_bytes(b"a file now")
        assert read_through(mount.path / "data" / "one.bin") in ("EISDIR", "ESTALE", "EIO", "ENOENT")
        assert_others_live(mount)
        inside = mount.path / "data" / "one.bin" / "inside"
        wait_until(lambda: error_of(inside.read_bytes) is None, "the directory shows", 15)
        wait_until(lambda: error_of((mount.path / "data" / "deep").read_bytes) is None, "the file shows", 15)
        assert inside.read_bytes() == b"inside"
        assert (mount.path / "data" / "deep").read_bytes() == b"a file now"


def test_a_directory_vanishes(source: Path, mounted: Mounted, tmp_path: Path) -> None:
    with put_back(source, tmp_path / "aside"), mounted(source) as mount:
        mount.expect_in_log(r"data")
        os.listdir(mount.path / "data")
        (mount.path / "data" / "mine").write_bytes(b"made in the mount")
        shutil.rmtree(source / "data")
        assert read_through(mount.path / "data" / "one.bin") in ("ENOENT", "ESTALE")
        assert_others_live(mount)
        assert (mount.path / "data" / "mine").read_bytes() == b"made in the mount"
        wait_until(lambda: os.listdir(mount.path / "data") == ["mine"], "what the mount added stays", 15)


def test_a_changed_file_is_not_taken_for_the_one_that_was_open(source: Path, mounted: Mounted, tmp_path: Path) -> None:
    """Two files under one name: a handle shows bytes of one of them only."""
    with put_back(source, tmp_path / "aside"), mounted(source) as mount:
        mount.expect_in_log(r"one\.bin")
        old, new = some_bytes(SIZE, len("data/one.bin")), some_bytes(SIZE, 77)
        with (mount.path / "data" / "one.bin").open("rb", buffering=0) as file:
            assert file.read(100) == old[:100]
            (source / "data" / "next").write_bytes(new)
            (source / "data" / "next").rename(source / "data" / "one.bin")
            assert file.read() == old[100:]
        wait_until(lambda: (mount.path / "data" / "one.bin").read_bytes() == new, "the new one shows", 15)
        assert_others_live(mount)


def test_a_directory_s_times_follow_the_source(source: Path, mounted: Mounted, tmp_path: Path) -> None:
    with put_back(source, tmp_path / "aside"), mounted(source) as mount:
        folder = mount.path / "data"
        (folder / "mine").write_bytes(b"mine")  # from here on the mount has times of its own for it
        own = folder.stat().st_mtime_ns
        assert own > EARLY_NS
        (source / "data" / "late").write_bytes(b"late")
        wait_until(lambda: folder.stat().st_mtime_ns > own, "the folder's time moves", 15)
        assert folder.stat().st_mtime_ns == (source / "data").stat().st_mtime_ns
        os.utime(folder, ns=(EARLY_NS, EARLY_NS))
        assert folder.stat().st_mtime_ns == EARLY_NS  # what was set by hand stays, until something comes or goes
        mount.umount()
        with mounted(source) as again:
            assert (again.path / "data").stat().st_mtime_ns == EARLY_NS


def test_reading_leaves_the_source_s_access_times(source: Path, mounted: Mounted) -> None:
    paths = [source / "other.bin", source / "data" / "one.bin"]
    if os.geteuid() == 0:  # who does not own a directory cannot read it unnoticed
        paths += [source / "data", source / "data" / "deep"]
    with mounted(source) as mount:
        for path in paths:
            os.utime(path, ns=(1, path.stat().st_mtime_ns))
        read_tree(mount.path)
        assert {path.stat().st_atime_ns for path in paths} == {1}


def test_odd_things_in_the_source(tmp_path: Path, mounted: Mounted) -> None:
    source = lay_out(tmp_path / "plate")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"not of the plate")
    (source / "out").symlink_to(outside / "secret")
    (source / "out by steps").symlink_to("../outside")
    (source / "loop a").symlink_to("loop b")
    (source / "loop b").symlink_to("loop a")
    (source / "self").symlink_to(".")
    (source / "dangling").symlink_to("nowhere")
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
        server.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    age(source)
    with mounted(source) as mount:
        assert_same_tree(read_tree(mount.path), read_tree(source), "the mount")
        assert error_of(lambda: (mount.path / "loop a").read_bytes()) == "ELOOP"
        assert (mount.path / "self" / "self" / "other.bin").stat().st_size == SIZE
        assert os.readlink(mount.path / "out") == str(outside / "secret")
        assert (mount.path / "out").read_bytes() == b"not of the plate"  # the kernel follows it, in the caller's name
        assert stat.S_ISFIFO((mount.path / "pipe").stat().st_mode)
        (mount.path / "out").unlink()
        (mount.path / "pipe").rename(mount.path / "data" / "pipe")
        live = read_tree(mount.path)
        mount.umount()
    assert (outside / "secret").read_bytes() == b"not of the plate"
    with mounted(source) as again:
        assert_same_tree(read_tree(again.path), live, "the next mount")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_folders_that_may_not_be_read(source: Path, mounted: Mounted) -> None:
    (source / "closed").mkdir()
    (source / "closed" / "inside").write_bytes(b"inside")
    (source / "closed").chmod(0)
    try:
        with mounted(source) as mount:
            mount.expect_in_log("closed")
            assert error_of(lambda: os.listdir(mount.path / "closed")) == "EACCES"
            assert error_of(lambda: (mount.path / "closed" / "inside").read_bytes()) == "EACCES"
            assert_others_live(mount)
    finally:
        (source / "closed").chmod(0o755)


def test_a_hundred_thousand_names_in_one_folder(tmp_path: Path, mounted: Mounted) -> None:
    source = tmp_path / "plate"
    (source / "many").mkdir(parents=True)
    (source / "first").write_bytes(b"one file")
    count = 100_000
    folder = os.open(source / "many", os.O_RDONLY | os.O_DIRECTORY)
    here = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    for number in range(count):
        if number % 2:
            os.close(os.open(f"image {number:06}.tif", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
        else:
            # ext4 takes 65,000 links of one file
            os.link("first", f"image {number:06}.tif", src_dir_fd=here, dst_dir_fd=folder)
    os.close(folder)
    os.close(here)
    with mounted(source) as mount:
        found = os.listdir(mount.path / "many")
        assert len(found) == len(set(found)) == count
        assert (mount.path / "many" / "image 000500.tif").read_bytes() == b"one file"
        (mount.path / "many" / "image 000501.tif").unlink()
        assert len(os.listdir(mount.path / "many")) == count - 1
