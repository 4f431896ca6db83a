"""The thread that a tree in this process lives on: trio's loop, and the way in from every other thread.

All state of the tree belongs to this thread. `run` hands it an async function and waits for the answer; any number of threads may
do so at once, and their requests take turns wherever one awaits. A thread that is interrupted while it waits leaves its request
to be finished. A process that was forked has the memory, but not the thread: it is told so.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple, Unpack, final

import trio

from vfsd.client.opening import OpenTree
from vfsd.errors import UnfitError

log = logging.getLogger("vfsd.client")

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


@final
class TreeThread:
    """See the module.

    Parameters
    ----------
    open_ : callable
        Opens the parts, on the thread; its errors are raised here.
    """

    def __init__(self, open_: Callable[[], OpenTree]) -> None:
        self._open = open_
        self._process = os.getpid()
        self._ready = threading.Event()
        self._problem: BaseException | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._ending: trio.Event | None = None
        self._clean = False
        self._idle = threading.Condition()
        self._running = 0
        self._closing = False
        self.parts: OpenTree | None = None
        # a daemon: a program that forgets to close ends all the same, and what it saved stays in the state folder
        self._thread = threading.Thread(target=self._main, name="vfsd-tree", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._problem is not None:
            self._thread.join()
            raise self._problem

    def run(self, act: Callable[[Unpack[Arguments]], Awaitable[T]], *arguments: *Arguments) -> T:
        """Run an async function on the thread and return what it does.

        Raises
        ------
        UnfitError
            The tree is closed, or this process was forked from the one that has it.
        """
        if os.getpid() != self._process:
            raise UnfitError(
                "this tree belongs to the process that opened it",
                remedy="Mount the plate, and use FileManager(MOUNTPOINT) in each process",
            )
        with self._idle:
            if self._closing:
                raise UnfitError("this tree is closed", remedy="Open it again with FileManager.open")
            self._running += 1
        try:
            found: T = trio.from_thread.run(act, *arguments, trio_token=self._token)
            return found
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def soon(self, act: Callable[[], None]) -> None:
        """Run something on the thread when it has time; nothing once it has ended. May be called by a finalizer."""
        if self._token is None or os.getpid() != self._process:
            return
        try:
            self._token.run_sync_soon(act)
        except trio.RunFinishedError:
            return

    def begin_closing(self) -> bool:
        """Nothing more is taken on, and what was is finished; False if it was closed before."""
        if os.getpid() != self._process:
            return False
        with self._idle:
            if self._closing:
                return False
            self._closing = True
            self._idle.wait_for(lambda: self._running == 0)
            return True

    def finish(self, last: Callable[[], Awaitable[bool]]) -> None:
        """Run `last` on the thread, which says whether nothing but the store is needed any more, and end it.

        Raises
        ------
        Exception
            What `last` raised; everything was kept.
        """
        assert self._token is not None
        try:
            self._clean = trio.from_thread.run(last, trio_token=self._token)
        finally:
            trio.from_thread.run_sync(self._end, trio_token=self._token)
            self._thread.join()
        if self._problem is not None:
            raise self._problem

    def _end(self) -> None:
        assert self._ending is not None
        self._ending.set()

    def _main(self) -> None:
        try:
            trio.run(self._live)
        except BaseException as error:
            log.debug("tree_thread_ended error=%r", error)
            self._problem = error
        finally:
            self._ready.set()

    async def _live(self) -> None:
        self.parts = parts = self._open()
        try:
            await parts.tree.start()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._background, parts.tree.housekeep)
                nursery.start_soon(self._background, parts.tiers.run)
                self._token, self._ending = trio.lowlevel.current_trio_token(), trio.Event()
                self._ready.set()
                await self._ending.wait()
                nursery.cancel_scope.cancel()
        finally:
            parts.close(clean=self._clean)

    @staticmethod
    async def _background(work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:
            # the tree goes on without it, as a mount does: every save and flush does what must be done
            log.exception("background_work_failed error=%s", error)
