"""Into the background: the parent knows whether the mount answers, and says why if it does not. Real forks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vfsd.daemon.background import last_lines, run_in_background
from vfsd.daemon.log_file import log_to_file
from vfsd.daemon.reporter import Reporter, describe_error
from vfsd.errors import BusyError, UnfitError


@dataclass
class Listener:
    """Remembers what it is told."""

    heard: list[tuple[object, ...]] = field(default_factory=list)

    def warning(self, text: str) -> None:
        self.heard.append(("warning", text))

    def log_lies_at(self, path: Path) -> None:
        self.heard.append(("log", path))

    def ready(self, text: str) -> None:
        self.heard.append(("ready", text))

    def failed(self, exit_code: int, text: str) -> None:
        self.heard.append(("failed", exit_code, text))


def run(work: Callable[[Reporter], int]) -> tuple[int, list[tuple[object, ...]]]:
    listener = Listener()
    return run_in_background(work, listener), listener.heard


class Tether:
    """Lets a child live until it is cut, and then tells how the child saw its world."""

    def __init__(self) -> None:
        self.down, self.up = os.pipe(), os.pipe()
        # The child closes what it inherits, so it gets to these by name.
        self.names = [f"/proc/{os.getpid()}/fd/{self.down[0]}", f"/proc/{os.getpid()}/fd/{self.up[1]}"]

    def in_the_child(self, look: Callable[[], str]) -> None:
        down, up = os.open(self.names[0], os.O_RDONLY), os.open(self.names[1], os.O_WRONLY)
        os.write(up, b"!")
        os.read(down, 1)
        os.write(up, look().encode())
        os.close(up)

    def cut(self) -> str:
        assert os.read(self.up[0], 1) == b"!"  # it has found our ends by their names: they may go
        os.write(self.down[1], b"x")
        for descriptor in (*self.down, self.up[1]):
            os.close(descriptor)
        with os.fdopen(self.up[0], "rb") as answer:
            return answer.read().decode()


def test_parent_returns_when_the_child_is_ready_and_the_child_goes_on() -> None:
    tether = Tether()

    def work(reporter: Reporter) -> int:
        reporter.warning("no linger")
        reporter.ready("it is mounted")

        def look() -> str:
            streams = {os.readlink(f"/proc/self/fd/{number}") for number in (0, 1, 2)}
            return f"{os.getsid(0) == os.getpid()} {Path.cwd()} {streams}"

        tether.in_the_child(look)
        return 0

    code, heard = run(work)
    assert code == 0
    assert heard == [("warning", "no linger"), ("ready", "it is mounted")]
    assert tether.cut() == "True / {'/dev/null'}"
    os.wait()


def test_child_keeps_nothing_open_that_the_caller_had(tmp_path: Path) -> None:
    tether = Tether()

    def work(reporter: Reporter) -> int:
        reporter.ready("")
        tether.in_the_child(
            lambda: repr(
                [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3, 100) if os.path.exists(f"/proc/self/fd/{fd}")]
            )
        )
        return 0

    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        assert run(work)[0] == 0
        assert str(tmp_path) not in tether.cut()
    os.wait()


def test_failure_is_told_with_its_code() -> None:
    def work(reporter: Reporter) -> int:
        reporter.failed(5, "the store is in use")
        return 5

    assert run(work) == (5, [("failed", 5, "the store is in use")])


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (BusyError("in use", path="/s"), 5, "/s: in use"),
        (OSError(13, "Permission denied", "/x\x1b"), 2, "/x\\x1b: Permission denied"),
        (ValueError("strange\nthing"), 2, "unexpected ValueError: strange thing"),
        (ExceptionGroup("two", [UnfitError("first"), OSError(5, "e")]), 2, "first"),
        (SystemExit(1), 2, "unexpected SystemExit: 1"),
    ],
)
def test_exception_in_the_child_becomes_one_sentence(error: BaseException, code: int, text: str) -> None:
    def work(reporter: Reporter) -> int:
        raise error

    assert run(work) == (code, [("failed", code, text)])
    assert describe_error(error) == (code, text)


def test_child_that_is_killed_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    def work(reporter: Reporter) -> int:
        log = tmp_path / "daemon.log"
        log.write_bytes(b"".join(b"line %d\n" % number for number in range(50)) + b"the \xff cause\n")
        reporter.log_lies_at(log)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    with pytest.raises(UnfitError) as caught:
        run(work)
    lines = str(caught.value).splitlines()
    assert "killed by signal 9" in lines[0]
    assert len(lines) == 11
    assert lines[-1].strip() == "the \\udcff cause"


def test_child_that_says_nothing_is_reported_with_its_code() -> None:
    with pytest.raises(UnfitError, match="ended with code 7"):
        run(lambda reporter: 7)


def test_log_lines_stay_one_line_and_crashes_are_written(tmp_path: Path) -> None:
    log = tmp_path / "daemon.log"

    def work(reporter: Reporter) -> int:
        import logging

        log_to_file(log)
        logger = logging.getLogger("vfsd.test")
        logger.info("event=opened path=%s", "a\nlevel=error forged\x1b[31m")
        try:
            raise ValueError("inner")
        except ValueError:
            logger.exception("event=broken")
        reporter.ready("")
        return 0

    run(work)
    os.wait()
    lines = log.read_text().splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("event=opened path=a\\nlevel=error forged\\x1b[31m")
    assert "logger=vfsd.test" in lines[0]
    assert "level=info" in lines[0]
    assert "level=error" in lines[1]
    assert "ValueError: inner" in lines[1]
    assert log.stat().st_mode & 0o777 == 0o600


def test_last_lines_of_what_is_not_there(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "missing", 3) == []
    (tmp_path / "empty").touch()
    assert last_lines(tmp_path / "empty", 3) == []
