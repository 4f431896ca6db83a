"""Names behave as on ext4, whichever layer they begin in: links, renames, removals, listings, limits, special files.

Each act is done to a folder on the mount and to its twin on the local disk, and both must show the same; at the
end of the module everything must be there again after a flush and a remount (see `blackbox.layers`).
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from blackbox.acts import error_of, some_bytes
from blackbox.layers import Both, Stage
from blackbox.linux_calls import RENAME_EXCHANGE, RENAME_NOREPLACE, DirectoryStream, rename2

pytestmark = pytest.mark.fuse


def kinds(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IFMT(path.lstat().st_mode) for path in folder.iterdir()}


# --- links


def test_hard_links_are_one_file(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        os.link(root / "one.bin", root / "full" / "other name")
        with (root / "full" / "other name").open("ab") as file:
            file.write(b"more")
        first, second = (root / "one.bin").stat(), (root / "full" / "other name").stat()
        (root / "two too.bin").chmod(0o600)
        return [
            first.st_ino == second.st_ino,
            first.st_nlink,
            (root / "one.bin").read_bytes() == (root / "full" / "other name").read_bytes(),
            oct((root / "two.bin").stat().st_mode),
            (root / "two.bin").stat().st_nlink,
            error_of(lambda: os.link(root / "full", root / "full too")),
            error_of(lambda: os.link(root / "one.bin", root / "text")),
            error_of(lambda: os.link(root / "absent", root / "x")),
        ]

    both.agree(act)


def test_link_counts_follow_the_names(both: Both) -> None:
    def act(root: Path) -> list[int]:
        counts = []
        for name in ("b", "c", "d"):
            os.link(root / "one.bin", root / name)
            counts.append((root / "one.bin").stat().st_nlink)
        (root / "one.bin").unlink()
        counts.append((root / "d").stat().st_nlink)
        (root / "b").rename(root / "c")  # two names of one file: nothing happens
        counts.append((root / "c").stat().st_nlink)
        (root / "text").rename(root / "c")
        counts.append((root / "d").stat().st_nlink)
        (root / "two.bin").unlink()
        counts.append((root / "two too.bin").stat().st_nlink)
        return counts

    both.agree(act)


def test_a_link_to_a_symbolic_link_is_that_link(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        os.link(root / "link", root / "link too", follow_symlinks=False)
        return [os.readlink(root / "link too"), (root / "link too").lstat().st_nlink]

    both.agree(act)


def test_an_unlinked_open_file_cannot_be_linked_back(both: Both) -> None:
    def act(root: Path) -> str | None:
        with (root / "one.bin").open("r+b") as file:
            (root / "one.bin").unlink()
            return error_of(lambda: os.link(f"/proc/self/fd/{file.fileno()}", root / "back", follow_symlinks=True))

    both.agree(act)


# --- renames


def test_rename_without_replacing(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        rename2(root / "one.bin", root / "three.bin", RENAME_NOREPLACE)
        return [
            error_of(lambda: rename2(root / "two.bin", root / "three.bin", RENAME_NOREPLACE)),
            error_of(lambda: rename2(root / "two.bin", root / "two.bin", RENAME_NOREPLACE)),
            error_of(lambda: rename2(root / "two.bin", root / "full", RENAME_NOREPLACE)),
            error_of(lambda: rename2(root / "two.bin", root / "x", RENAME_NOREPLACE | RENAME_EXCHANGE)),
            kinds(root),
        ]

    both.agree(act)


def test_exchange_of_two_names(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        rename2(root / "one.bin", root / "text", RENAME_EXCHANGE)
        rename2(root / "full", root / "link", RENAME_EXCHANGE)
        rename2(root / "empty", root / "two.bin", RENAME_EXCHANGE)
        rename2(root / "link" / "inside", root / "one.bin", RENAME_EXCHANGE)
        rename2(root / "link" / "deep", root / "empty", RENAME_EXCHANGE)
        return [
            error_of(lambda: rename2(root / "text", root / "absent", RENAME_EXCHANGE)),
            error_of(lambda: rename2(root / "link", root / "link" / "empty", RENAME_EXCHANGE)),
            error_of(lambda: rename2(root / "link" / "empty", root / "link", RENAME_EXCHANGE)),
            (root / "text").stat().st_size,
            kinds(root),
            kinds(root / "link"),
            [(root / name).lstat().st_nlink for name in ("", "link", "two.bin")],
        ]

    both.agree(act)


def test_directories_move_across(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        (root / "full" / "deep").rename(root / "empty" / "deep")
        (root / "full").rename(root / "empty" / "deep" / "full")
        (root / "new").mkdir()
        (root / "empty").rename(root / "new")
        (root / "new" / "deep" / "full" / "added").write_bytes(b"added")
        return [
            (root / "new" / "deep" / "full" / "inside").read_bytes(),
            (root / "new" / "deep" / "bottom").read_bytes(),
            [(root / name).stat().st_nlink for name in ("", "new", "new/deep", "new/deep/full")],
            error_of(lambda: (root / "new").rename(root / "new" / "deep" / "x")),
            error_of(lambda: (root / "new").rename(root / "text")),
            error_of(lambda: (root / "text").rename(root / "new")),
            sorted(kinds(root)),
        ]

    both.agree(act)


def test_rename_over_directories(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        (root / "made").mkdir()
        refused = error_of(lambda: (root / "made").rename(root / "full"))
        (root / "full").rename(root / "empty")
        (root / "made").rename(root / "empty" / "made")
        return [refused, sorted(kinds(root)), sorted(kinds(root / "empty")), (root / "empty").stat().st_nlink]

    both.agree(act)


# --- removals and whiteouts


def test_removing_directories(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        before = root.stat().st_nlink
        refusals = [
            error_of(lambda: (root / "full").rmdir()),
            error_of(lambda: (root / "text").rmdir()),
            error_of(lambda: (root / "full").unlink()),
            error_of(lambda: os.rmdir(root / "full" / ".")),
            error_of(lambda: os.rmdir(root / "full" / "..")),
            error_of(lambda: (root / "absent").rmdir()),
        ]
        (root / "empty").rmdir()
        shutil.rmtree(root / "full")
        return [refusals, before - root.stat().st_nlink, sorted(kinds(root))]

    both.agree(act)


def test_a_directory_in_the_place_of_a_file(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        (root / "one.bin").unlink()
        (root / "one.bin").mkdir()
        (root / "one.bin" / "below").write_bytes(b"below")
        (root / "link").unlink()
        (root / "link").mkdir()
        return [kinds(root), (root / "one.bin" / "below").read_bytes()]

    both.agree(act)


def test_a_file_in_the_place_of_a_directory(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        shutil.rmtree(root / "full")
        (root / "full").write_bytes(b"a file now")
        (root / "empty").rmdir()
        (root / "empty").symlink_to("text")
        return [kinds(root), (root / "empty").read_bytes()[:4], error_of(lambda: (root / "full" / "inside").stat())]

    both.agree(act)


def test_a_directory_that_was_removed_and_made_again_is_empty(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        for _ in range(2):
            shutil.rmtree(root / "full")
            (root / "full").mkdir()
        (root / "full" / "inside").mkdir()  # a name that the old one had, for another kind
        return [sorted(kinds(root / "full")), (root / "full").stat().st_nlink]

    both.agree(act)


def test_it_is_still_empty_after_a_flush(both: Both, stage: Stage) -> None:
    def act(root: Path) -> None:
        shutil.rmtree(root / "full")
        (root / "full").mkdir()
        (root / "text").unlink()

    both.agree(act)
    stage.mount.flush()
    both.agree(lambda root: [sorted(kinds(root)), sorted(kinds(root / "full"))])
    both.agree(lambda root: (root / "full" / "inside").write_bytes(b"new"))
    stage.mount.flush()
    both.agree(
        lambda root: [(root / "full" / "inside").read_bytes(), error_of(lambda: (root / "full" / "deep").stat())]
    )


def test_a_removed_directory_that_is_open_shows_nothing(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        descriptor = os.open(root / "empty", os.O_RDONLY | os.O_DIRECTORY)
        try:
            (root / "empty").rmdir()
            return [
                os.listdir(descriptor),
                os.fstat(descriptor).st_nlink,
                error_of(lambda: os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))),
                error_of(lambda: os.mkdir("new", dir_fd=descriptor)),
            ]
        finally:
            os.close(descriptor)

    both.agree(act)


# --- limits


def test_names_of_255_bytes(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        for name in ("n" * 255, "µ" * 127 + "x"):
            (root / name).write_bytes(b"long")
            (root / name).rename(root / "full" / name)
        (root / ("d" * 255)).mkdir()
        (root / ("s" * 255)).symlink_to("n" * 255)
        too_long = root / ("n" * 256)
        return [
            sorted(os.listdir(root / "full")),
            error_of(lambda: too_long.write_bytes(b"")),
            error_of(lambda: too_long.stat()),
            error_of(lambda: too_long.mkdir()),
            error_of(lambda: too_long.symlink_to("x")),
            error_of(lambda: (root / "text").rename(too_long)),
            error_of(lambda: os.link(root / "text", too_long)),
            error_of(lambda: os.mkfifo(too_long)),
            error_of(lambda: too_long.unlink()),
            error_of(lambda: too_long.rmdir()),
        ]

    both.agree(act)


def test_paths_of_4096_bytes(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        here = os.getcwd()
        os.chdir(root)
        try:
            path = "/".join(["p" * 249] * 16)
            os.makedirs(path)
            longest = path + "/" + "f" * (4095 - len(path) - 1)
            with open(longest, "wb") as file:
                file.write(b"far down")
            with open(longest, "rb") as file:
                seen = [len(longest), file.read(), error_of(lambda: os.stat(longest + "x")), os.stat(path).st_nlink]
            os.unlink(longest)
            for _ in range(2):  # so that it can be looked at from outside
                os.rmdir(path)
                path = os.path.dirname(path)
            return seen
        finally:
            os.chdir(here)

    both.agree(act)


def test_targets_of_symbolic_links(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        longest = "t" * 4095
        (root / "long").symlink_to(longest)
        (root / "loop").symlink_to("loop")
        os.symlink(b"\xff\x01 odd", os.fsencode(root / "odd"))
        return [
            os.readlink(root / "long") == longest,
            (root / "long").lstat().st_size,
            error_of(lambda: (root / "loop").stat()),
            error_of(lambda: os.symlink("t" * 4096, root / "longer")),
            error_of(lambda: os.symlink("", root / "nothing")),
            error_of(lambda: os.readlink(root / "text")),
            (root / "link").stat().st_ino == (root / "one.bin").stat().st_ino,
        ]

    both.agree(act)


def test_odd_ways_to_say_a_path(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        return [
            (root / "full" / ".." / "text").stat().st_size,
            os.stat(f"{root}//full/./deep/../inside").st_size,
            error_of(lambda: os.stat(f"{root}/text/")),
            error_of(lambda: os.stat(f"{root}/text/..")),
            error_of(lambda: os.mkdir(f"{root}/full/.")),
            error_of(lambda: os.rename(f"{root}/full/.", f"{root}/x")),
            error_of(lambda: os.unlink(f"{root}/link/")),
            os.path.samefile(root / "full" / "..", root),
        ]

    both.agree(act)


def test_the_root_s_parent_is_outside(stage: Stage) -> None:
    root = stage.mount.path
    assert os.path.samefile(root / "..", root.parent)
    assert (root / "..").stat().st_dev != root.stat().st_dev
    entries = {entry.name: entry.inode() for entry in os.scandir(root)}
    assert "." not in entries
    assert ".." not in entries
    with DirectoryStream(root) as stream:
        assert {stream.next(), stream.next()} == {".", ".."}


# --- directories


def test_link_counts_of_directories(both: Both) -> None:
    def act(root: Path) -> list[int]:
        counts = [root.stat().st_nlink, (root / "full").stat().st_nlink]
        (root / "a").mkdir()
        (root / "a" / "b").mkdir()
        counts += [root.stat().st_nlink, (root / "a").stat().st_nlink]
        (root / "a" / "b").rename(root / "full" / "b")
        counts += [(root / "a").stat().st_nlink, (root / "full").stat().st_nlink]
        (root / "full" / "b").rmdir()
        (root / "a" / "file").touch()
        counts += [(root / "full").stat().st_nlink, (root / "a").stat().st_nlink]
        return counts

    both.agree(act)


def test_a_listing_stays_right_while_entries_come_and_go(both: Both) -> None:
    """POSIX: what was there all the time is listed once; what came or went meanwhile may be."""

    both.not_compared()  # what is left depends on the order of the listing

    def act(root: Path) -> list[Any]:
        folder = root / "many"
        folder.mkdir()
        names = {f"name {number:04} {'x' * 60}" for number in range(600)}
        for name in names:
            (folder / name).touch()
        with DirectoryStream(folder) as stream:
            begun = [name for name in (stream.next() for _ in range(100)) if name not in (None, ".", "..")]
            gone = set(sorted(names - set(begun))[::3])
            for name in gone:
                (folder / name).unlink()
            come = {f"late {number}" for number in range(50)}
            for name in come:
                (folder / name).touch()
            seen = begun + stream.rest()
        assert len(seen) == len(set(seen))
        assert names - gone <= set(seen) <= names | come
        return [sorted(os.listdir(folder)) == sorted((names - gone) | come)]

    both.agree(act)


def test_positions_in_a_listing_lead_back(both: Both) -> None:
    both.not_compared()  # what is left depends on the order of the listing

    def act(root: Path) -> list[bool]:
        folder = root / "many"
        folder.mkdir()
        for number in range(300):
            (folder / f"name {number:04} {'x' * 90}").touch()
        with DirectoryStream(folder) as stream:
            for _ in range(120):
                stream.next()
            position = stream.tell()
            rest = stream.rest()
            (folder / "late").touch()
            for name in rest[10:20]:
                (folder / name).unlink()
            stream.seek(position)
            again = stream.rest()
            kept = [name for name in rest if name not in rest[10:20]]
            stream.rewind()
            return [[name for name in again if name in set(kept)] == kept, "late" in stream.rest()]

    assert both.agree(act) == [True, True]


# --- special files


def test_pipes_and_sockets(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        os.mkfifo(root / "pipe", 0o640)
        reader = os.open(root / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(root / "pipe", os.O_WRONLY)
        os.write(writer, b"through the pipe")
        read = os.read(reader, 100)
        os.close(writer)
        os.close(reader)
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        name = f"/proc/self/fd/{descriptor}/socket"  # the name of a socket must be short
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind(name)
            server.listen()
            client.connect(name)
            client.sendall(b"hello")
            accepted, _ = server.accept()
            with accepted:
                heard = accepted.recv(5)
        os.close(descriptor)
        (root / "pipe").rename(root / "full" / "pipe")
        os.link(root / "full" / "pipe", root / "pipe too")
        found = (root / "pipe too").lstat()
        return [read, heard, kinds(root), found.st_size, found.st_nlink, oct(found.st_mode)]

    both.agree(act)


@pytest.mark.root
def test_devices(both: Both) -> None:
    """The kernel lets nobody open them here (FUSE mounts of vfsd are nodev): they can be made, listed and copied."""

    def act(root: Path) -> list[Any]:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(root / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 65_537))
        return [(kinds(root)["null"], (root / name).lstat().st_rdev) for name in ("null", "disk")]

    both.agree(act)


def test_files_made_by_mknod(both: Both) -> None:
    def act(root: Path) -> list[Any]:
        os.mknod(root / "plain", stat.S_IFREG | 0o640)
        (root / "plain").write_bytes(some_bytes(5000, 9))
        return [oct((root / "plain").stat().st_mode), error_of(lambda: os.mknod(root / "plain", stat.S_IFREG | 0o600))]

    both.agree(act)
