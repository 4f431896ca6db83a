"""Functions run for a command: their result, their one error, and Ctrl-C, wherever it comes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest
import trio
import trio.lowlevel

from vfsd.daemon.running import run_until_done


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Also where the tests run in the background, and their shell has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_stops_a_function_where_it_waits() -> None:
    seen: list[str] = []

    async def work() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        seen.append("not wherever the main thread is")
        try:
            await trio.sleep_forever()
        finally:
            seen.append("cleared up")

    with pytest.raises(KeyboardInterrupt):
        run_until_done(work)
    assert seen == ["not wherever the main thread is", "cleared up"]


def test_ctrl_c_in_a_destructor_is_not_swallowed() -> None:
    class Odd:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass

    async def work() -> None:
        odd = Odd()
        del odd
        await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        run_until_done(work)


def test_a_second_ctrl_c_ends_what_does_not_wait() -> None:
    turns = 0

    async def work() -> None:
        nonlocal turns
        os.kill(os.getpid(), signal.SIGINT)
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()
                if turns == 100:
                    signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_until_done(work)
    assert turns == 100


def test_what_was_done_before_ctrl_c_counts() -> None:
    async def work() -> str:
        await trio.to_thread.run_sync(threading.Event().is_set)
        return "done"

    assert run_until_done(work) == "done"


def test_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def work() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        await trio.lowlevel.checkpoint()
        return "done"

    try:
        assert run_until_done(work) == "done"
    finally:
        signal.signal(signal.SIGINT, before)
