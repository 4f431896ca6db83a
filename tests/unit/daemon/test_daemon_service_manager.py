"""What systemd is told: on a real socket, by a session in the states of its life."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from vfsd.daemon.service_manager import MORE_TIME_MICROSECONDS, ServiceManager
from vfsd.daemon.session import MountState, Session


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(os.fspath(tmp_path / "notify"))
        bound.setblocking(False)
        yield bound


def heard(listener: socket.socket) -> list[str]:
    """Everything said so far, one line an item."""
    lines: list[str] = []
    while True:
        try:
            lines += listener.recv(65536).decode().split("\n")
        except BlockingIOError:
            return lines


def manager_at(listener: socket.socket, **environment: str) -> ServiceManager:
    manager = ServiceManager.of_this_process({"NOTIFY_SOCKET": listener.getsockname(), **environment})
    assert manager is not None
    return manager


def session_that(state: MountState, operation: dict[str, Any] | None = None) -> Session:
    return cast(Session, SimpleNamespace(state=state, operation=operation))


def test_outside_a_unit_there_is_nobody_to_tell() -> None:
    assert ServiceManager.of_this_process({}) is None
    assert ServiceManager.of_this_process({"NOTIFY_SOCKET": "relative"}) is None


def test_its_variables_are_not_left_to_children(tmp_path: Path) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "s"), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    ServiceManager.of_this_process(environment)
    assert environment == {"HOME": "/"}


def test_a_life(listener: socket.socket) -> None:
    manager = manager_at(listener)
    manager.ready("the plate is mounted")
    assert heard(listener) == ["READY=1", "STATUS=the plate is mounted"]
    manager.look(session_that(MountState.MOUNTED))
    assert heard(listener) == ["STATUS=mounted"]
    manager.look(session_that(MountState.MOUNTED))
    assert heard(listener) == []  # nothing new, no watchdog
    flushing = {"kind": "umount", "stage": "writing", "files_done": 2, "bytes_done": 5_000_000, "bytes_total": 10**7}
    manager.look(session_that(MountState.FLUSHING, flushing))
    more_time = f"EXTEND_TIMEOUT_USEC={MORE_TIME_MICROSECONDS}"
    assert heard(listener) == ["STATUS=flushing: writing, 2 files, 5.0 MB of 10.0 MB", more_time]
    manager.look(session_that(MountState.FLUSHING, flushing))
    assert heard(listener) == []  # no byte has moved: no more time
    manager.look(session_that(MountState.FLUSHING, {**flushing, "bytes_done": 6_000_000}))
    assert more_time in heard(listener)
    manager.look(session_that(MountState.FINISHING))
    assert heard(listener) == ["STATUS=finishing", "STOPPING=1"]
    manager.look(session_that(MountState.UNMOUNTED))
    assert heard(listener) == ["STATUS=unmounted"]  # once is enough


def test_the_watchdog_hears_of_us_at_every_look(listener: socket.socket) -> None:
    manager = manager_at(listener, WATCHDOG_USEC="500000", WATCHDOG_PID=str(os.getpid()))
    for _ in range(3):
        manager.look(session_that(MountState.MOUNTED))
    assert heard(listener).count("WATCHDOG=1") == 3


@pytest.mark.parametrize(
    "environment",
    [{"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}],
)
def test_another_s_watchdog_is_not_fed(listener: socket.socket, environment: dict[str, str]) -> None:
    manager = manager_at(listener, **environment)
    manager.look(session_that(MountState.MOUNTED))
    assert heard(listener) == ["STATUS=mounted"]


def test_a_socket_that_is_full_or_gone_holds_nobody_up(listener: socket.socket, tmp_path: Path) -> None:
    manager = manager_at(listener)
    for _ in range(5000):
        manager.ready("x" * 1000)
    (tmp_path / "notify").unlink()
    manager.ready("nobody hears this")


def test_names_of_the_abstract_kind() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(f"\0vfsd-test-{os.getpid()}")
        manager = ServiceManager.of_this_process({"NOTIFY_SOCKET": f"@vfsd-test-{os.getpid()}"})
        assert manager is not None
        manager.ready("hello")
        assert bound.recv(100) == b"READY=1\nSTATUS=hello"
