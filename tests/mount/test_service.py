"""A mount as a service: a daemon in the foreground tells a socket, as systemd's, what goes on in its life."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from blackbox.daemons import DONE, Vfsd, wait_until

pytestmark = pytest.mark.fuse


def test_the_service_manager_hears_of_a_whole_life(vfsd: Vfsd, tmp_path: Path, transport: str) -> None:
    plate, mountpoint = tmp_path / "plate", tmp_path / "mnt"
    plate.mkdir()
    mountpoint.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(os.fspath(tmp_path / "notify"))
        listener.setblocking(False)
        lines: list[str] = []

        def heard(line: str) -> bool:
            while True:
                try:
                    lines.extend(listener.recv(65536).decode().split("\n"))
                except BlockingIOError:
                    return line in lines

        # The variable of the process number is for whoever is started by systemd itself, as a mount in the foreground is.
        watched = {"NOTIFY_SOCKET": os.fspath(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        service = Vfsd({**vfsd.environment, **watched})
        daemon = service.start("mount", "--foreground", "--transport", transport, plate, mountpoint)
        try:
            wait_until(lambda: heard("READY=1") or daemon.poll() is not None, "READY=1")
            (mountpoint / "new.txt").write_bytes(b"new")
            wait_until(lambda: heard("STATUS=mounted") and heard("WATCHDOG=1"), "that it lives")
            # What a unit's ExecStop= does; the answer is the unit's result.
            vfsd.expect(DONE, "umount", mountpoint)
        finally:
            daemon.terminate()
            daemon.communicate(timeout=60)
        assert daemon.returncode == 0
        assert any(line.startswith("STATUS=") and "plate" in line for line in lines)
    assert (tmp_path / "plate.vfs/files/new.txt").read_bytes() == b"new"
