"""Daemons that are told to end, by a shutdown or a person: RAM comes to disk first, and every way out keeps everything."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from blackbox.acts import error_of
from blackbox.daemons import DONE, INCOMPLETE, INTERRUPTED, Mounted, Plate, Vfsd, mounted_at, unmount_with, wait_until
from crash.faults import Fault, with_faults

pytestmark = pytest.mark.fuse


def files_below(folder: str) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def test_sigterm_brings_ram_to_disk_although_nothing_can_be_flushed(
    plate: Plate, mounted: Mounted, vfsd: Vfsd, tmp_path: Path
) -> None:
    """The flush fails, and files are still open: what was written is on disk by then, and nothing new was begun."""
    source = plate()
    faulty = with_faults(vfsd, Fault("flush.publish", "EIO", times=0))
    with mounted(source, with_=faulty) as mount:
        mount.expect_in_log("made to fail")
        folders = mount.status()
        (mount.path / "new.txt").write_text("new\n")
        with (mount.path / "open.txt").open("w") as file:
            file.write("first, ")
            file.flush()
            if files_below(folders["ram_directory"]) != 2:
                pytest.skip("memory is short: nothing stays in RAM")
            mount.daemon.send_signal(signal.SIGTERM)
            mount.wait_for_daemon()
            assert files_below(folders["ram_directory"]) == 0
            assert files_below(folders["cache_directory"]) == 2
            error_of(file.close)
        left = vfsd("umount", mount.path)
        assert left.code == INCOMPLETE, str(left)
        left.must_name(mount.store)
    with mounted(source) as mount:
        mount.expect_in_log("made to fail")  # the same log
        assert (mount.path / "new.txt").read_text() == "new\n"
        assert (mount.path / "open.txt").read_text() == "first, "


def test_a_second_signal_ends_at_once_with_the_journal_ready(
    plate: Plate, mounted: Mounted, vfsd: Vfsd, transport: str, tmp_path: Path
) -> None:
    source, mountpoint = plate(), tmp_path / "mnt"
    mountpoint.mkdir()
    process = vfsd.start("mount", source, mountpoint, "--foreground", "--transport", transport)
    try:
        wait_until(lambda: mounted_at(mountpoint) is not None or process.poll() is not None, "the mount is there")
        (mountpoint / "d").mkdir()
        (mountpoint / "d" / "new.txt").write_text("new\n")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == INTERRUPTED, err
        assert b"Traceback" not in err, err
    finally:
        unmount_with("fusermount3", "-uz", mountpoint)
        if process.poll() is None:
            process.kill()
            process.communicate()
    told = vfsd("umount", mountpoint)
    assert told.code == INTERRUPTED, str(told)
    with mounted(source, at=mountpoint) as mount:
        assert (mount.path / "d" / "new.txt").read_text() == "new\n"
    vfsd.expect(DONE, "verify", mount.store)


def test_umount_tells_what_failed_after_the_mount_was_gone(plate: Plate, mounted: Mounted, vfsd: Vfsd) -> None:
    """Somebody unmounts behind the daemon's back; its last flush fails; who asks later gets that exit code."""
    source = plate()
    with mounted(source, with_=with_faults(vfsd, Fault("flush.publish", "ENOSPC", times=0))) as mount:
        mount.expect_in_log("made to fail")
        (mount.path / "new.txt").write_text("new\n")
        assert unmount_with("fusermount3", "-u", mount.path).returncode == 0
        told = vfsd("umount", mount.path)
        assert told.code == INCOMPLETE, str(told)
        mount.wait_for_daemon()
        again = vfsd("umount", mount.path)
        assert again.code == INCOMPLETE, str(again)
    with mounted(source) as mount:
        mount.expect_in_log("made to fail")
        assert (mount.path / "new.txt").read_text() == "new\n"
