"""Taking up requests: in their order without tasks, and never one behind another that waits."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest
import trio

from vfsd.fuse.kernel.device import Device
from vfsd.fuse.kernel.workers import KEPT, MOST_WAITING, Workers


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another task does, without a word to us."""
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - what is tested has no event for tests
            await trio.sleep(0.001)


class Echo:
    """Answers by noting what it was asked; what begins with "wait" waits for its event."""

    def __init__(self) -> None:
        self.done: list[bytes] = []
        self.begun: list[bytes] = []
        self.tasks: set[trio.lowlevel.Task] = set()
        self.may_go = trio.Event()
        self.cancels: dict[bytes, Callable[[], None]] = {}

    async def answer(self, request: memoryview, room: memoryview) -> None:
        asked = bytes(request)
        self.begun.append(asked)
        self.tasks.add(trio.lowlevel.current_task())
        try:
            if asked.startswith(b"wait"):
                await self.may_go.wait()
        except trio.Cancelled:
            self.done.append(asked + b" given up")
            raise
        assert bytes(request) == asked, "its buffer was used for another request while it waited"
        self.done.append(asked)

    def waits(self, request: memoryview, cancel: Callable[[], None]) -> None:
        self.cancels[bytes(request)] = cancel

    def waits_no_more(self, request: memoryview) -> None:
        del self.cancels[bytes(request)]


class Line:
    """Workers at one end of a socket that keeps messages apart, as the device does."""

    def __init__(self, echo: Echo) -> None:
        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.device = Device(theirs.detach())
        self.workers = Workers(self.device, echo)

    async def served(self, count: int, done: list[bytes]) -> None:
        await until(lambda: len(done) >= count)


def run(act: Callable[[Echo, Line], object]) -> None:
    async def whole() -> None:
        echo = Echo()
        line = Line(echo)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(line.workers.run)
                await act(echo, line)  # type: ignore[misc]  # every act is a coroutine function
                nursery.cancel_scope.cancel()
        finally:
            line.device.close()
            line.ours.close()

    trio.run(whole)


def test_what_needs_no_waiting_is_answered_by_one_task() -> None:
    async def act(echo: Echo, line: Line) -> None:
        asked = [b"%d" % number for number in range(200)]
        for one in asked:
            line.ours.send(one)
        await line.served(len(asked), echo.done)
        assert echo.done == asked
        assert len(echo.tasks) == 1

    run(act)


def test_others_go_on_while_one_waits() -> None:
    async def act(echo: Echo, line: Line) -> None:
        line.ours.send(b"wait 1")
        line.ours.send(b"at once")
        line.ours.send(b"wait 2")
        line.ours.send(b"at once too")
        await line.served(2, echo.done)
        assert echo.done == [b"at once", b"at once too"]
        assert set(echo.cancels) == {b"wait 1", b"wait 2"}
        echo.may_go.set()
        await line.served(4, echo.done)
        assert not echo.cancels
        line.ours.send(b"afterwards")
        await line.served(5, echo.done)

    run(act)


def test_one_that_waits_can_be_given_up_alone() -> None:
    async def act(echo: Echo, line: Line) -> None:
        line.ours.send(b"wait 1")
        line.ours.send(b"wait 2")
        await line.served(2, echo.begun)
        await until(lambda: len(echo.cancels) == 2)
        echo.cancels[b"wait 1"]()
        await line.served(1, echo.done)
        assert echo.done == [b"wait 1 given up"]
        echo.may_go.set()
        await line.served(2, echo.done)
        for number in range(3):  # whoever was given up works again
            line.ours.send(b"%d" % number)
        await line.served(5, echo.done)

    run(act)


def test_many_wait_and_few_workers_are_kept() -> None:
    async def act(echo: Echo, line: Line) -> None:
        for number in range(MOST_WAITING + 20):
            line.ours.send(b"wait %d" % number)
        await line.served(MOST_WAITING, echo.begun)
        await trio.sleep(0.01)
        assert len(echo.begun) == MOST_WAITING  # the others stay with the kernel
        echo.may_go.set()
        await line.served(MOST_WAITING + 20, echo.done)
        line.ours.send(b"last")
        await line.served(MOST_WAITING + 21, echo.done)
        await until(lambda: line.workers.count <= KEPT + 1)

    run(act)


def test_an_answer_that_nobody_wants_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    reader, writer = os.pipe()
    device = Device(writer)
    device.answer(2, b"body")
    device.fail(4, 5)
    assert len(os.read(reader, 100)) == 36
    os.close(reader)
    device.close()
    device.close()
    assert not caplog.records
