"""The control socket: a real server and a real client, over a real socket, with a session that only tells."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from vfsd.daemon import client as client_module
from vfsd.daemon.client import DaemonClient, DaemonGone, DaemonSilent
from vfsd.daemon.control import serve_control
from vfsd.daemon.operation import Operation
from vfsd.daemon.outcome import FlushSummary, Outcome
from vfsd.daemon.unix_socket import connect_to, listen_at
from vfsd.errors import UnfitError, UsageProblem

SUMMARY = FlushSummary(2, 20, 10, 0.5, ("/r",), ((b"\xff.tif", "why"),), False, None)


class Told:
    """A session that remembers what it was asked; its operations end when a test says so."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.operation: Operation | None = None
        self.outcome: Outcome | None = Outcome(3, "mounted", "kept", SUMMARY)

    def status(self) -> dict[str, Any]:
        return {"state": "mounted", "mountpoint": os.fsdecode(b"/mnt/\xff")}

    def begin_flush(self, paths: Sequence[bytes] | None) -> Operation:
        self.asked.append(paths)
        return self._begin("flush")

    def begin_unmount(self, timeout: float | None) -> Operation:
        self.asked.append(timeout)
        return self._begin("umount")

    def begin_warm(self, paths: Sequence[bytes]) -> Operation:
        self.asked.append(paths)
        return self._begin("warm")

    def _begin(self, kind: str) -> Operation:
        if self.operation is None or self.operation.outcome is not None:
            self.operation = Operation(kind)
        if self.outcome is not None:
            self.operation.finish(self.outcome)
        return self.operation


@contextmanager
def serving(path: Path) -> Iterator[Told]:
    """A server in a thread of its own, stopped at the end of the block."""
    told, started = Told(), threading.Event()
    tokens: list[tuple[trio.lowlevel.TrioToken, trio.Event]] = []
    problems: list[BaseException] = []

    async def run() -> None:
        stop = trio.Event()
        listener = listen_at(path)
        tokens.append((trio.lowlevel.current_trio_token(), stop))
        started.set()
        with listener:
            await serve_control(told, listener, stop)

    def thread() -> None:
        try:
            trio.run(run)
        except BaseException as error:
            problems.append(error)
            started.set()

    worker = threading.Thread(target=thread)
    worker.start()
    started.wait(20)
    try:
        yield told
    finally:
        if tokens:
            tokens[0][0].run_sync_soon(tokens[0][1].set)
        worker.join(20)
    assert not worker.is_alive()
    assert not problems


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


def asking(path: Path) -> DaemonClient:
    return DaemonClient(path, os.geteuid())


def test_status_flush_and_unmount(path: Path) -> None:
    with serving(path) as told:
        assert asking(path).status() == told.status()
        items = list(asking(path).flush([b"a/\xff b.tif"]))
        assert items[-1]["event"] == "result"
        assert items[-1]["exit_code"] == 3
        assert os.fsencode(items[-1]["flush"]["kept"][0]["path"]) == b"\xff.tif"
        list(asking(path).flush(None))
        list(asking(path).unmount(None))
        list(asking(path).unmount(2.5))
        assert told.asked == [[b"a/\xff b.tif"], None, None, 2.5]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_path_longer_than_a_socket_name_may_be(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(4):
        folder = folder / ("long " * 10)
    folder.mkdir(parents=True)
    with serving(folder / "control.sock"):
        assert asking(folder / "control.sock").status()["state"] == "mounted"


def test_progress_comes_before_the_result_and_a_second_client_joins(path: Path) -> None:
    with serving(path) as told:
        told.outcome = None
        first = asking(path).unmount(None)
        item = next(first)
        assert item["event"] == "progress"
        assert item["kind"] == "umount"
        second = asking(path).unmount(None)
        assert next(second)["event"] == "progress"
        told.outcome = Outcome(0, "unmounted", "done")
        third = list(asking(path).unmount(None))
        assert third[-1]["state"] == "unmounted"
        assert list(first)[-1] == list(second)[-1] == third[-1]


def test_client_that_leaves_ends_nothing(path: Path) -> None:
    with serving(path) as told:
        told.outcome = None
        follower = asking(path).unmount(None)
        next(follower)
        follower.close()
        assert asking(path).status()["state"] == "mounted"
        assert told.operation is not None
        assert told.operation.outcome is None


def raw(path: Path, request: bytes) -> bytes:
    with connect_to(path, 10.0) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def post(path: Path, route: str, body: bytes) -> tuple[int, Any]:
    head = f"POST {route} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = raw(path, head.encode() + body)
    status, _, rest = answer.partition(b"\r\n")
    return int(status.split()[1]), rest.rpartition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    ("route", "body", "code"),
    [
        ("/flush", b"{", 400),
        ("/flush", b"[]", 400),
        ("/flush", b"[" * 100_000, 400),
        ("/flush", b'{"paths": "a"}', 400),
        ("/flush", b'{"paths": [1]}', 400),
        ("/flush", b'{"paths": ["../x"]}', 400),
        ("/flush", b'{"paths": ["/etc/passwd"]}', 400),
        ("/flush", b'{"paths": ["a\\u0000b"]}', 400),
        ("/flush", b'{"paths": ["\\ud800"]}', 400),
        ("/warm", b"{}", 400),
        ("/warm", b'{"paths": null}', 400),
        ("/warm", b'{"paths": ["../elsewhere"]}', 400),
        ("/umount", b'{"timeout": "soon"}', 400),
        ("/umount", b'{"timeout": -1}', 400),
        ("/umount", b'{"timeout": NaN}', 400),
        ("/umount", b'{"timeout": true}', 400),
        ("/status", b"", 405),
        ("/nothing", b"", 404),
    ],
)
def test_requests_that_make_no_sense_are_refused_and_start_nothing(
    path: Path, route: str, body: bytes, code: int
) -> None:
    with serving(path) as told:
        status, answer = post(path, route, body)
        assert status == code
        assert json.loads(answer)["error"]
        assert told.asked == []


def test_server_outlives_garbage(path: Path) -> None:
    with serving(path):
        assert b"400" in raw(path, b"\x00\xff garbage\r\n\r\n")
        assert asking(path).status()["state"] == "mounted"


def test_refusal_reaches_the_user_as_a_usage_problem(path: Path) -> None:
    with serving(path), pytest.raises(UsageProblem, match="plate-relative"):
        list(asking(path).flush([b"../x"]))


def test_nobody_listens(tmp_path: Path, path: Path) -> None:
    with pytest.raises(DaemonGone):
        asking(path).status()
    listen_at(path).close()
    with pytest.raises(DaemonGone):
        asking(path).status()
    assert listen_at(path).close() is None  # a dead daemon's socket is replaced


def test_daemon_that_hangs_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Answers are awaited for 2.5 s; here for an instant, as nothing will ever come.
    assert client_module.ANSWER_SECONDS <= 3
    monkeypatch.setattr(client_module, "ANSWER_SECONDS", 0.01)
    monkeypatch.setattr(client_module, "SILENCE_SECONDS", 0.01)
    with listen_at(path):
        with pytest.raises(DaemonSilent):
            asking(path).status()
        with pytest.raises(DaemonSilent):
            list(asking(path).unmount(None))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull",
        b"garbage\r\n\r\n",
        b"\xff" * 100_000,
    ],
)
def test_daemon_that_dies_while_it_answers(path: Path, answer: bytes) -> None:
    with listen_at(path) as server:

        def die() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        for call in (lambda: asking(path).status(), lambda: list(asking(path).flush(None))):
            thread = threading.Thread(target=die)
            thread.start()
            with pytest.raises((DaemonGone, UnfitError)):
                call()
            thread.join()


def test_socket_of_somebody_else_is_not_believed(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may listen as somebody else")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path))
        os.seteuid(65534)
        try:
            server.listen()
        finally:
            os.seteuid(0)
        with pytest.raises(UnfitError, match="served by user 65534"):
            DaemonClient(path, 1000).status()
