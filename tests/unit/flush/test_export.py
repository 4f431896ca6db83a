"""An export that is killed, interrupted or runs out of room goes on where it stopped, and never leaves half a file."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trio
from plate_bench import CALLER, Bench, Contents, pixels, plate_files, tiff

from vfsd.errors import FlushIncomplete, UnfitError
from vfsd.flush import export_store
from vfsd.store import StoredFiles
from vfsd.store.stored import StoredFile

FILES: Contents = {
    **plate_files(sites=1),
    b"d/f": b"bytes",
    b"d/lzw.tif": tiff(pixels(1), compression="lzw"),
    b"e": b"",
}
Looks = dict[bytes, tuple[object, ...]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with everything that a tree can have."""
    bench = Bench(tmp_path)

    async def act() -> None:
        async with bench.mounted() as session:
            await session.write_all(FILES)
            root, names = (await session.node(b"")).ino, session.tree.names
            await names.symlink(root, b"link", b"d/\xff", CALLER)
            await names.mknod(root, b"fifo", stat.S_IFIFO | 0o640, 0, CALLER)
            await session.link(b"d/f", b"hard")
            await session.setxattr(b"d/f", b"user.note", b"\x00\xff")
            await session.setattr(b"d/f", mode=0o400, mtime=1_000_000_000_123_456_789)
            await session.setattr(b"d", mode=0o500, mtime=9)
            await session.setattr(b"", mode=0o750, mtime=11)
            await session.flush_all()

    trio.run(act)
    return bench.store


def looks(folder: Path) -> Looks:
    """Everything below a folder, and the folder, with what can be seen of it but the time of the last access."""
    seen: Looks = {}
    root = os.fsencode(folder)
    for path in [
        root,
        *(os.path.join(above, name) for above, *below in os.walk(root) for part in below for name in part),
    ]:
        found = os.lstat(path)
        bytes_of = None
        if stat.S_ISREG(found.st_mode):
            bytes_of = Path(os.fsdecode(path)).read_bytes()
        target = os.readlink(path) if stat.S_ISLNK(found.st_mode) else None
        xattrs = {name: os.getxattr(path, name) for name in os.listxattr(path, follow_symlinks=False) if target is None}
        links = 0 if stat.S_ISDIR(found.st_mode) else found.st_nlink
        seen[path[len(root) :]] = (
            found.st_mode, links, found.st_uid, found.st_gid, found.st_mtime_ns, bytes_of, target, xattrs,
        )  # fmt: skip
    return seen


class Stopped(BaseException):
    """Nobody runs any more."""


def test_it_goes_on_where_it_stopped(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not export_store(store, tmp_path / "whole").failed
    whole = looks(tmp_path / "whole")
    rebuild, count = StoredFile.rebuild, 0

    for stop_at in range(1, len(FILES) + 1):
        written = 0

        def stopping(self: StoredFile, fd: int, stop_at: int = stop_at) -> None:
            nonlocal written
            written += 1
            if written == stop_at:
                os.write(fd, b"half of it")
                raise Stopped
            rebuild(self, fd)

        out = tmp_path / f"out{stop_at}"
        with monkeypatch.context() as patch:
            patch.setattr(StoredFile, "rebuild", stopping)
            patch.setattr(os, "unlink", lambda *_: None)  # killed: nothing is cleaned up
            with pytest.raises(Stopped):
                export_store(store, out)
        there = {path: look for path, look in looks(out).items() if b".vfsd-export" not in path and look[5] is not None}
        assert len({look[5] for look in there.values()}) >= stop_at - 1
        assert all(look == whole[path] or look[1] == 1 for path, look in there.items())
        count = 0

        def counted(self: StoredFile, fd: int) -> None:
            nonlocal count
            count += 1
            rebuild(self, fd)

        with monkeypatch.context() as patch:
            patch.setattr(StoredFile, "rebuild", counted)
            report = export_store(store, out)
        assert not report.failed
        assert count == len(FILES) - (stop_at - 1)
        assert report.found == stop_at - 1
        assert looks(out) == whole


def test_what_is_there_and_not_right_is_written_again(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that the machine lost in a power failure, or that somebody changed, behind an export that did not end."""
    export_store(store, tmp_path / "whole")
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("vfsd.flush.export_folder.sync_file_system", stop)
        with pytest.raises(Stopped):
            export_store(store, out)
    (out / "d").chmod(0o700)
    os.truncate(out / "d/lzw.tif", 100)
    (out / "e").unlink()
    (out / "link").unlink()
    (out / "link").symlink_to("elsewhere")
    found = (out / "P_A01_s1_w1.TIF").stat()
    content = bytearray((out / "P_A01_s1_w1.TIF").read_bytes())
    content[500] ^= 1
    (out / "P_A01_s1_w1.TIF").write_bytes(content)
    os.utime(out / "P_A01_s1_w1.TIF", ns=(found.st_atime_ns, found.st_mtime_ns))
    report = export_store(store, out)
    assert report.found == len(FILES) - 3
    assert looks(out) == looks(tmp_path / "whole")


def stop(*_: object) -> None:
    raise Stopped


def test_only_its_own_are_gone_on_with(store: Path, tmp_path: Path) -> None:
    other = Bench(tmp_path / "other") if (tmp_path / "other").mkdir() is None else None
    assert other is not None

    async def act() -> None:
        async with other.mounted() as session:
            await session.write(b"x", b"x")
            await session.flush_all()

    trio.run(act)
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vfsd.flush.export_folder.sync_file_system", stop)
        with pytest.raises(Stopped):
            export_store(store, out)
    before = looks(out)
    with pytest.raises(UnfitError, match="no export of this store"):
        export_store(other.store, out)
    assert looks(out) == before
    export_store(store, out)
    for folder in (out, tmp_path / "theirs"):
        folder.mkdir(exist_ok=True)
        (folder / "mine").touch()
        with pytest.raises(UnfitError, match="not empty"):
            export_store(store, folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "vfsd-test", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("may not mount a tmpfs here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.root
def test_full_disk_is_said_and_gone_on_from(tmp_path: Path, small_disk: Path) -> None:
    bench = Bench(tmp_path)
    noise = np.random.default_rng(1).integers(0, 256, 3 << 18, np.uint8).tobytes()
    files: Contents = {b"%d" % number: noise[number:] for number in range(4)}

    async def act() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()

    trio.run(act)
    out = small_disk / "out"
    with pytest.raises(FlushIncomplete, match="No space left on device; 2 of 4 files are there") as said:
        export_store(bench.store, out)
    assert said.value.exit_code == 3
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    report = export_store(bench.store, out)
    assert (report.files, report.found) == (4, 2)
    assert {os.fsencode(path.name): path.read_bytes() for path in out.iterdir()} == files


def test_stored_files_are_described_only_when_they_are_written(store: Path, tmp_path: Path) -> None:
    """What is there already costs a look at the disk, no look at the store."""
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vfsd.flush.export_folder.sync_file_system", stop)
        with pytest.raises(Stopped):
            export_store(store, out)
        patch.undo()
        patch.setattr(StoredFiles, "describe", stop)
        export_store(store, out)
