"""Taking up requests: one worker leads, reading and answering; another takes over as soon as its request must wait.

Most requests are answered without any await that waits. The leader answers those in place, one after the other, without a
task or a turn of the event loop for each. Only when a handler really waits (`_noticing` sees that it yields to trio) is another
worker woken to lead, and the waiting one goes on as a task like any other.

After an answer the leader looks for the next request for a moment before it goes to sleep in the event loop: a program that
does one thing after the other asks again within microseconds. All else gets its turn at least every `TURN` seconds.
"""

from __future__ import annotations

import mmap
import types
from collections.abc import Callable, Coroutine, Generator
from time import perf_counter
from typing import Any, Protocol, TypeVar, cast, final

import trio

from vfsd.fuse.kernel.device import Device, MountGone
from vfsd.fuse.kernel.negotiation import BUFFER_BYTES, MOST_BYTES

R = TypeVar("R")

# Seconds that the leader waits for the next request before it gives the event loop back: a client that works at once
# comes back within it. Measured, 200 and 500 µs are worse: for everything else that is to be done, and for the next request.
PATIENCE = 50e-6
# Seconds after which everything else in this process gets a turn, at the latest; while requests wait for something, less.
TURN, TURN_WHEN_WAITING = 2e-3, 0.5e-3
# Requests that may wait at the same time; as many programs can hang in a write while room is made, and others go on.
MOST_WAITING = 128
# Workers kept for the next burst when it is quiet.
KEPT = 16


class Answers(Protocol):
    """Who answers requests."""

    def answer(self, request: memoryview, room: memoryview) -> Coroutine[Any, Any, None]:
        """Answer one request; whatever goes wrong in it is answered as well. `room` is a buffer to make the answer in."""

    def waits(self, request: memoryview, cancel: Callable[[], None]) -> None:
        """This request waits for something, and could be cancelled."""

    def waits_no_more(self, request: memoryview) -> None:
        """It is answered."""


@final
class _Resumed:
    """What is left of a coroutine that yielded once: the yielded thing first, then itself."""

    def __init__(self, coroutine: Coroutine[Any, Any, R], first: Any) -> None:
        self._coroutine = coroutine
        self._first = first
        self._begun = False

    def __iter__(self) -> _Resumed:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        if not self._begun:
            self._begun = True
            return self._first
        return self._coroutine.send(value)

    def throw(self, *problem: Any) -> Any:
        self._begun = True
        return self._coroutine.throw(*problem)

    def close(self) -> None:
        self._coroutine.close()


@types.coroutine
def _noticing(coroutine: Coroutine[Any, Any, R], when_it_waits: Callable[[], None]) -> Generator[Any, Any, R]:
    """Run a coroutine; `when_it_waits` is called once, before its first yield to the event loop."""
    try:
        first = coroutine.send(None)
    except StopIteration as done:
        return cast(R, done.value)
    when_it_waits()
    return cast(R, (yield from _Resumed(coroutine, first)))


@final
class Workers:
    """See the module.

    Attributes
    ----------
    count : int
        Workers that there are: one leads, some wait for something, some for work.
    """

    def __init__(self, device: Device, answers: Answers) -> None:
        self._device = device
        self._answers = answers
        self._idle = trio.lowlevel.ParkingLot()
        self._leading = False
        self.count = 0
        self._waiting = 0
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Serve until the mount is gone; what then still waits is cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._next_leader()

    def _next_leader(self) -> None:
        assert self._nursery is not None
        self._leading = True
        if self._idle:
            self._idle.unpark()
        else:
            self.count += 1
            self._nursery.start_soon(self._work)

    async def _work(self) -> None:
        assert self._nursery is not None
        # memory only as far as it was ever used
        buffer, room = memoryview(mmap.mmap(-1, BUFFER_BYTES)), memoryview(mmap.mmap(-1, MOST_BYTES))
        while True:
            try:
                await self._lead(buffer, room)
            except MountGone:
                self._nursery.cancel_scope.cancel()
                return
            # here another one leads: this one answered a request that had to wait
            if self.count > KEPT:
                self.count -= 1
                return
            await self._idle.park()

    async def _lead(self, buffer: memoryview, room: memoryview) -> None:
        """Read and answer as the leader, until a request waits; return when that one is answered."""
        device, answer, clock = self._device, self._answers.answer, perf_counter
        turn = clock()
        waiting: list[memoryview] = []

        def wait() -> None:
            waiting.append(request)
            self._answers.waits(request, scope.cancel)
            self._give_up_lead()

        try:
            with trio.CancelScope() as scope:
                while not waiting:
                    size = device.read(buffer)
                    if size:
                        request = buffer[:size]
                        await _noticing(answer(request, room), wait)
                        if clock() - turn > self._turn():
                            await trio.lowlevel.checkpoint()
                            turn = clock()
                    elif self._waiting or clock() - turn > self._turn() or not device.wait(PATIENCE):
                        await trio.lowlevel.wait_readable(device.fd)
                        turn = clock()
        finally:
            if waiting:
                self._answers.waits_no_more(waiting[0])
                self._wait_no_more()

    def _turn(self) -> float:
        return TURN_WHEN_WAITING if self._waiting else TURN

    def _give_up_lead(self) -> None:
        self._waiting += 1
        self._leading = False
        if self._waiting < MOST_WAITING:
            self._next_leader()

    def _wait_no_more(self) -> None:
        self._waiting -= 1
        if not self._leading:
            self._next_leader()
