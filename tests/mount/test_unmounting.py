"""How a mount ends: unmounted, busy, terminated, or killed; and that nothing written is lost by any of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys

import pytest
from blackbox.acts import error_of
from blackbox.daemons import BUSY, DONE, Mount, Mounted, Plate, Vfsd, mounted_at, unmount_with, wait_until
from blackbox.pictures import noisy_picture, write_tiff
from blackbox.stores import receipts
from blackbox.trees import assert_same_tree, read_tree

pytestmark = pytest.mark.fuse

MIB = 1 << 20

# Enough pixels that a flush is still going on when somebody asks about it.
SLOW_PICTURES = 30
SLOW_SHAPE = (2160, 2560)


def write_much(mount: Mount) -> None:
    """New pictures whose flush takes a while; one noise field, shifted, so that making them does not."""
    picture = noisy_picture(SLOW_SHAPE, seed=1)
    (mount.path / "new").mkdir()
    for number in range(SLOW_PICTURES):
        shifted = picture[:, number:]
        write_tiff(mount.path / "new" / f"{number:03}.tif", shifted[:, : SLOW_SHAPE[1] - SLOW_PICTURES])


def test_umount_of_a_busy_mount_leaves_it_usable(plate: Plate, mounted: Mounted) -> None:
    source = plate()
    with mounted(source) as mount:
        with (mount.path / "open.txt").open("w") as file:
            file.write("first half, ")
            file.flush()
            mount.umount(code=BUSY)
            assert mount.is_mounted()
            file.write("second half")
        (mount.path / "after.txt").write_text("after the refusal\n")
        assert (mount.path / "open.txt").read_text() == "first half, second half"
        mount.umount()
    with mounted(mount.store) as alone:
        assert (alone.path / "open.txt").read_text() == "first half, second half"
        assert (alone.path / "after.txt").read_text() == "after the refusal\n"


def test_umount_while_somebody_stands_in_it(plate: Plate, mounted: Mounted) -> None:
    with mounted(plate()) as mount:
        (mount.path / "new").mkdir()
        standing = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],
            cwd=mount.path / "new",
            stdin=subprocess.PIPE,
        )
        try:
            mount.umount(code=BUSY)
            assert mount.is_mounted()
        finally:
            standing.communicate()
        mount.umount()


def unmount_bare(mount: Mount, *command: str) -> list[str]:
    """Unmount behind the daemon's back; the states that `vfsd status` showed until the daemon had ended."""
    done = unmount_with(*command, mount.path)
    assert done.returncode == 0, done.stderr
    states = []

    def finished() -> bool:
        if mount.daemon_ended():
            return True
        assert mounted_at(mount.path) is None
        outcome = mount.vfsd("status", "--json")
        assert outcome.code == DONE, str(outcome)
        if str(mount.store) in outcome.out:
            states.append(outcome.out)
        return False

    wait_until(finished, "the daemon finishes its flush")
    return states


@pytest.mark.parametrize("command", ["fusermount3 -u", "umount -i"])
def test_bare_unmount_flushes_as_well(command: str, plate: Plate, mounted: Mounted, vfsd: Vfsd) -> None:
    if command.startswith("umount") and os.geteuid() != 0:
        pytest.skip("only root may call umount")
    source = plate()
    with mounted(source) as mount:
        write_much(mount)
        live = read_tree(mount.path)
        states = unmount_bare(mount, *command.split())
    assert states, "vfsd status showed nothing of the flush that went on"
    assert any(str(mount.pid) in state for state in states)
    assert receipts(mount.store)
    vfsd.expect(DONE, "verify", mount.store)
    with mounted(source) as mount:
        assert_same_tree(read_tree(mount.path), live, "the mount after a bare unmount")


def test_mounting_again_while_the_last_flush_runs(plate: Plate, mounted: Mounted, vfsd: Vfsd) -> None:
    """A script that unmounts and mounts in one breath: told to wait, or waited for; never another's data."""
    source = plate()
    with mounted(source) as mount:
        write_much(mount)
        live = read_tree(mount.path)
        assert unmount_with("fusermount3", "-u", mount.path).returncode == 0
        outcome = vfsd("mount", source, mount.path)
        assert outcome.code in (DONE, BUSY), str(outcome)
        mount.wait_for_daemon()
        if outcome.code == DONE:
            assert_same_tree(read_tree(mount.path), live, "the second mount")
            vfsd.expect(DONE, "umount", mount.path)
    with mounted(source) as mount:
        assert_same_tree(read_tree(mount.path), live, "the mount at last")


def test_terminated_daemon_flushes_first(plate: Plate, mounted: Mounted) -> None:
    """A shutdown sends SIGTERM: the daemon unmounts, flushes and ends."""
    source = plate()
    with mounted(source) as mount:
        (mount.path / "new.txt").write_text("new\n")
        mount.daemon.terminate()
        mount.wait_for_daemon()
        assert not mount.is_mounted()
    assert (mount.store / "files" / "new.txt").read_text() == "new\n"


def test_stale_mount_is_cleared_and_nothing_is_lost(plate: Plate, mounted: Mounted, vfsd: Vfsd) -> None:
    source = plate()
    with mounted(source) as mount:
        shutil.copytree(source, mount.path / "again")
        first = sorted(p for p in (mount.path / "again").rglob("*") if p.is_file())[0]
        first.unlink()
        (mount.path / "renamed").mkdir()
        live = read_tree(mount.path)
        mount.kill()
        wait_until(lambda: error_of(mount.path.stat) == "ENOTCONN", "the kernel notices")
    with mounted(source) as mount:
        assert_same_tree(read_tree(mount.path), live, "the mount after a crash")
        mount.umount()
    vfsd.expect(DONE, "verify", mount.store)
    with mounted(source) as mount:
        assert_same_tree(read_tree(mount.path), live, "the mount after crash and flush")


def test_open_file_of_a_killed_daemon_keeps_what_was_written(plate: Plate, mounted: Mounted) -> None:
    source = plate()
    written = noisy_picture((3 * MIB,), "uint8", seed=2).tobytes()
    with mounted(source) as mount:
        descriptor = os.open(mount.path / "open.bin", os.O_CREAT | os.O_WRONLY)
        os.write(descriptor, written)
        mount.kill()
        with pytest.raises(OSError, match=r"\[Errno"):
            os.write(descriptor, b"too late")
        # Closing asks the daemon once more, and nobody is left to answer.
        with contextlib.suppress(OSError):
            os.close(descriptor)
    with mounted(source) as mount:
        assert (mount.path / "open.bin").read_bytes() == written


def test_recover_lists_what_a_crash_left(plate: Plate, mounted: Mounted, vfsd: Vfsd) -> None:
    source = plate()
    with mounted(source) as mount:
        (mount.path / "new.txt").write_text("not flushed\n")
        mount.kill()
        unmount_with("fusermount3", "-uz", mount.path)
    listed = vfsd.expect(DONE, "recover", "--list")
    assert str(source) in listed.out or str(mount.store) in listed.out, str(listed)
    with mounted(source) as mount:
        assert (mount.path / "new.txt").read_text() == "not flushed\n"


def test_a_killed_mount_is_mounted_again_while_the_kernel_remembers_its_root(plate: Plate, mounted: Mounted) -> None:
    source = plate("demo")
    with mounted(source) as mount:
        (mount.path / "new").write_bytes(b"new")
        mount.path.stat()  # from here on the kernel answers this by itself
        mount.kill()
    with mounted(source) as mount:
        assert (mount.path / "new").read_bytes() == b"new"
