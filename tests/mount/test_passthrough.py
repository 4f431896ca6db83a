"""Files that the kernel reads by itself: nothing is copied by us, nothing can be written through them, nobody reads old bytes
who opens now, and whoever has old ones open keeps them."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from blackbox.acts import some_bytes
from blackbox.daemons import Mount, Mounted, Vfsd, mount_plate, wait_until

from vfsd.fuse.kernel.probe import passthrough_lacks

pytestmark = [pytest.mark.fuse, pytest.mark.root]

MIB = 1 << 20
# Large enough to be read by the kernel itself, and no round number.
SIZE = 3 * MIB + 777
UNDER_SIGNALS = """
import signal, sys
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
with open(sys.argv[1], "wb", buffering=0) as file:
    for _ in range(64):
        assert file.write(bytes(1 << 20)) == 1 << 20
signal.setitimer(signal.ITIMER_REAL, 0)
"""
ENDLESS = """
import sys
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        file.write(bytes(1 << 20))
        file.seek(0)
"""
A, B = some_bytes(SIZE, 1), some_bytes(SIZE, 2)


@pytest.fixture
def plate_folder(tmp_path: Path, transport: str) -> Path:
    if transport != "kernel":
        pytest.skip("only the kernel transport has passthrough")
    if (lacks := passthrough_lacks()) is not None:
        pytest.skip(f"no passthrough here: {lacks.cause}")
    folder = tmp_path / "plate"
    folder.mkdir()
    for name in ("a", "b", "c", "linked"):
        (folder / name).write_bytes(A)
    os.link(folder / "linked", folder / "linked too")
    return folder


class FewDescriptors(Vfsd):
    """Commands that may have few files open."""

    def command(self, *arguments: str | bytes | Path) -> list[str | bytes | Path]:
        return ["prlimit", "--nofile=256:256", *super().command(*arguments)]


def read_by_daemon(mount: Mount) -> int:
    """Bytes that the daemon has read and written by system calls so far."""
    figures = dict(line.split(": ") for line in Path(f"/proc/{mount.pid}/io").read_text().splitlines())
    return int(figures["rchar"]) + int(figures["wchar"])


@contextlib.contextmanager
def not_through_us(mount: Mount) -> Iterator[None]:
    """What is read in the block is not read by the daemon."""
    before = read_by_daemon(mount)
    yield
    assert read_by_daemon(mount) - before < MIB


def test_reads_of_every_tier_are_the_kernels(plate_folder: Path, mounted: Mounted) -> None:
    with mounted(plate_folder) as mount:
        assert mount.status()["transport"] == "kernel"
        assert mount.status()["passthrough"] == "yes"
        (mount.path / "ram").write_bytes(B)
        (mount.path / "cache").write_bytes(B)
        os.setxattr(mount.path / "cache", "user.vfsd.tier", b"cache")
        for name, expected in (("a", A), ("ram", B), ("cache", B)):
            with not_through_us(mount), (mount.path / name).open("rb") as file:
                assert file.read() == expected
                with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
                    assert view[:] == expected
                assert os.pread(file.fileno(), 100, SIZE - 50) == expected[-50:]
        mount.flush()
        os.setxattr(mount.path / "ram", "user.vfsd.tier", b"store")
        assert (mount.path / "ram").read_bytes() == B  # this hydrates it
        with not_through_us(mount):
            assert (mount.path / "ram").read_bytes() == B


def test_old_readers_keep_the_old_bytes_and_new_ones_see_the_new(plate_folder: Path, mounted: Mounted) -> None:
    """The one difference from a disk: a reader that the kernel serves does not follow a file to its new bytes."""
    with mounted(plate_folder) as mount:
        path = mount.path / "a"
        with path.open("rb", buffering=0) as old, mmap.mmap(old.fileno(), 0, prot=mmap.PROT_READ) as view:
            number = os.fstat(old.fileno()).st_ino
            with path.open("r+b", buffering=0) as writer:
                os.pwrite(writer.fileno(), b"changed", 0)
                assert os.pread(writer.fileno(), 7, 0) == b"changed"
                with path.open("rb", buffering=0) as new:
                    assert os.pread(new.fileno(), 7, 0) == b"changed"
                    os.pwrite(writer.fileno(), b"again", 0)
                    assert os.pread(new.fileno(), 7, 0) == b"agained"
                    assert os.fstat(new.fileno()).st_ino == number
                assert os.stat(path).st_ino == os.fstat(writer.fileno()).st_ino == number
            assert os.pread(old.fileno(), 7, 0) == A[:7]
            assert view[: SIZE // 2] == A[: SIZE // 2]
            assert path.read_bytes() == b"agained" + A[7:]
            assert os.pread(old.fileno(), SIZE, 0) == A
        assert path.read_bytes() == b"agained" + A[7:]
        assert (plate_folder / "a").read_bytes() == A


def test_a_reader_of_a_file_in_ram_sees_what_is_written_there(plate_folder: Path, mounted: Mounted) -> None:
    with mounted(plate_folder) as mount:
        path = mount.path / "new"
        path.write_bytes(B)
        with path.open("rb", buffering=0) as reader, not_through_us(mount):
            assert reader.read(SIZE) == B
            with path.open("r+b", buffering=0) as writer:
                os.pwrite(writer.fileno(), b"changed", 0)
                assert os.pread(reader.fileno(), 7, 0) == b"changed"
            with path.open("ab", buffering=0) as writer:
                writer.write(b"the end")
            assert os.pread(reader.fileno(), 100, SIZE) == b"the end"


def test_cutting_and_replacing_what_is_being_read(plate_folder: Path, mounted: Mounted) -> None:
    with mounted(plate_folder) as mount:
        for name, act in (
            ("a", lambda path: os.truncate(path, 10)),
            ("b", lambda path: path.write_bytes(b"0123456789")),
            ("c", lambda path: os.rename(mount.path / "other", path)),
        ):
            (mount.path / "other").write_bytes(b"0123456789")
            path = mount.path / name
            with path.open("rb", buffering=0) as old:
                assert old.read(3) == A[:3]
                act(path)
                assert path.stat().st_size == 10
                assert os.pread(old.fileno(), SIZE, 0) == A
                assert len(path.read_bytes()) == 10
            assert path.stat().st_size == len(path.read_bytes()) == 10
        (mount.path / "other").unlink(missing_ok=True)


def test_the_names_of_one_file_lead_to_the_same_bytes(plate_folder: Path, mounted: Mounted) -> None:
    with mounted(plate_folder) as mount:
        one, other = mount.path / "linked", mount.path / "linked too"
        assert one.stat().st_ino == other.stat().st_ino
        with one.open("rb", buffering=0) as old, other.open("rb") as too:
            assert too.read(5) == A[:5]
            with other.open("r+b") as writer:
                writer.write(b"through the other name")
            assert os.pread(old.fileno(), 7, 0) == A[:7]
            for path in (one, other):
                assert path.read_bytes() == b"through the other name" + A[22:]
            os.truncate(one, 5)
            for path in (other, one):
                assert path.stat().st_size == 5
                assert path.read_bytes() == b"throu"
        for path in (one, other):
            assert path.read_bytes() == b"throu"


def test_an_open_file_follows_its_name_and_its_end(plate_folder: Path, mounted: Mounted) -> None:
    with mounted(plate_folder) as mount:
        with (mount.path / "a").open("rb", buffering=0) as file:
            (mount.path / "a").rename(mount.path / "moved")
            assert os.pread(file.fileno(), 5, 0) == A[:5]
            os.fchmod(file.fileno(), 0o600)
            assert (mount.path / "moved").stat().st_mode & 0o777 == 0o600
            with (mount.path / "moved").open("r+b") as writer:
                writer.write(b"new")
            os.fchmod(file.fileno(), 0o640)  # through the node that the kernel knew before
            assert (mount.path / "moved").stat().st_mode & 0o777 == 0o640
            (mount.path / "moved").unlink()
            assert os.fstat(file.fileno()).st_nlink == 0
            assert os.pread(file.fileno(), SIZE, 0) == A
        assert not (mount.path / "moved").exists()


def test_what_is_read_keeps_its_room_in_ram(plate_folder: Path, mounted: Mounted) -> None:
    """RAM that the kernel still reads from is not given to others, though its file is gone or elsewhere."""
    with mounted(plate_folder, "--ram", "64M") as mount:

        def ram() -> int:
            return int(mount.status()["tiers"]["ram"]["bytes"])

        def is_in_ram(name: str) -> bool:
            with contextlib.suppress(OSError):
                os.setxattr(mount.path / name, "user.vfsd.tier", b"ram")
            return os.getxattr(mount.path / name, "user.vfsd.tier") == b"ram"

        (mount.path / "gone").write_bytes(bytes(8 * MIB))
        (mount.path / "spilled").write_bytes(bytes(8 * MIB))
        # programs that stall for memory elsewhere on this machine, as those of other tests do, move files to the disk
        wait_until(lambda: is_in_ram("gone") and is_in_ram("spilled"), "both are in RAM")
        with (mount.path / "gone").open("rb") as gone, (mount.path / "spilled").open("rb") as spilled:
            (mount.path / "gone").unlink()
            os.setxattr(mount.path / "spilled", "user.vfsd.tier", b"cache")
            assert ram() >= 16 * MIB
            assert len(gone.read()) == len(spilled.read()) == 8 * MIB
        wait_until(lambda: ram() < MIB, "the room is given back")


def test_many_open_files(plate_folder: Path, vfsd: Vfsd, tmp_path: Path) -> None:
    """More than the daemon may have descriptors; none is kept for a file that the kernel reads."""
    for number in range(400):
        with (plate_folder / f"{number}").open("wb") as file:
            file.truncate(MIB)
            file.write(b"%d" % number)
    (tmp_path / "mnt").mkdir()
    mount = mount_plate(FewDescriptors(vfsd.environment), plate_folder, tmp_path / "mnt", ["--transport", "kernel"])
    try:
        with contextlib.ExitStack() as opened:
            files = [opened.enter_context((mount.path / f"{number}").open("rb")) for number in range(400)]
            for number, file in enumerate(files):
                assert file.read(len(str(number))) == b"%d" % number
        mount.umount()
        assert not mount.log_trouble()
    finally:
        mount.end()
        mount.remove_state()


def test_readers_outlive_a_killed_daemon(plate_folder: Path, mounted: Mounted) -> None:
    with mounted(plate_folder) as mount:
        (mount.path / "new").write_bytes(B)
        with (mount.path / "new").open("rb", buffering=0) as reader:
            assert reader.read(10) == B[:10]
            mount.kill()
            assert os.pread(reader.fileno(), SIZE, 0) == B
            with mounted(plate_folder) as again:
                assert (again.path / "new").read_bytes() == B
                assert os.pread(reader.fileno(), SIZE, 0) == B


def test_a_killed_program_does_not_wait_for_its_write(plate_folder: Path, mounted: Mounted) -> None:
    """Requests of programs that are being killed are given up; others finish theirs, whatever signals come."""
    with mounted(plate_folder) as mount:
        done = subprocess.run([sys.executable, "-c", UNDER_SIGNALS, mount.path / "signals"], check=False, timeout=60)
        assert done.returncode == 0
        assert (mount.path / "signals").stat().st_size == 64 * MIB
        program = subprocess.Popen([sys.executable, "-c", ENDLESS, mount.path / "endless"])
        wait_until(lambda: (mount.path / "endless").exists() and (mount.path / "endless").stat().st_size, "it writes")
        program.send_signal(signal.SIGKILL)
        assert program.wait(30) == -signal.SIGKILL
        assert (mount.path / "endless").stat().st_size == MIB


@pytest.fixture
def overlaid(plate_folder: Path, tmp_path: Path) -> Iterator[Path]:
    """The plate, seen through an overlay file system."""
    for name in ("upper", "work", "merged"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={plate_folder},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    done = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, tmp_path / "merged"], check=False)
    if done.returncode != 0:
        pytest.skip("no overlay file system here")
    yield tmp_path / "merged"
    subprocess.run(["umount", tmp_path / "merged"], check=True)


def test_a_source_on_a_stacked_file_system_is_served_by_us(overlaid: Path, mounted: Mounted) -> None:
    """The kernel registers no files of an overlay below a file system that may itself lie below one."""
    with mounted(overlaid) as mount:
        assert (mount.path / "a").read_bytes() == A
        with (mount.path / "a").open("r+b") as file:
            file.write(b"changed")
        assert (mount.path / "a").read_bytes() == b"changed" + A[7:]
