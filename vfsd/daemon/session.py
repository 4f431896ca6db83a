"""The life of one mount, from the first answer to the last flushed byte.

Three ways lead out, and all end in `_finish`: somebody asks to unmount (flush first, so that a failure leaves
a usable mount), somebody unmounts behind our back, or a signal comes (then RAM is copied to disk before all
else, since a shutdown kills what takes long). Whatever happens, nothing that is not in the store is removed:
if anything is kept, the state folder stays, with `result.json` saying why. All state here belongs to the trio
thread.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

import vfsd
from vfsd.daemon.holders import find_holders
from vfsd.daemon.log_file import fields
from vfsd.daemon.mountinfo import mount_at, read_mounts
from vfsd.daemon.operation import Operation
from vfsd.daemon.outcome import FlushSummary, Outcome
from vfsd.daemon.registry import write_file_durably
from vfsd.daemon.reporter import describe_error
from vfsd.daemon.signals import Signals
from vfsd.daemon.verdict import after_failure, after_flush, after_timeout, busy, names_of
from vfsd.errors import BusyError, UnfitError

if TYPE_CHECKING:
    from vfsd.daemon.stack import Stack
    from vfsd.flush import FlushProgress, FlushResult
    from vfsd.fuse import Transport

log = logging.getLogger("vfsd.daemon")

# Desktop indexers and just-closed programs hold a mount for an instant: ask again before calling it busy.
BUSY_PATIENCE_SECONDS = 1.0
BUSY_PAUSE_SECONDS = 0.1
# The last lines to clients are sent within this; then the process ends, whether or not they read them.
FAREWELL_SECONDS = 5.0

FlushFunction = Callable[[Sequence[bytes] | None, Callable[["FlushProgress"], None]], Awaitable["FlushResult"]]


class MountState(StrEnum):
    """Where a mount is in its life, as `vfsd status` shows it."""

    STARTING = "starting"
    MOUNTED = "mounted"
    FLUSHING = "flushing"
    UNMOUNTING = "unmounting"
    FINISHING = "finishing"
    UNMOUNTED = "unmounted"
    FAILED = "failed"


class Session:
    """One mount being served.

    Parameters
    ----------
    stack : Stack
        Open, its tree started. The session closes it.
    transport : Transport
        Not yet mounted.
    flush : callable
        `await flush(paths, on_progress)`, paths None for everything.
    serve_control : callable, optional
        `await serve_control(session, stop)`: serves clients until `stop` is set.
    background : sequence of callables
        Further work for the life of the mount; cancelled before the stack is closed.
    leave : callable
        Ends the process at once with a code (a second signal).
    """

    def __init__(
        self,
        stack: Stack,
        transport: Transport,
        flush: FlushFunction,
        *,
        serve_control: Callable[[Session, trio.Event], Awaitable[None]] | None = None,
        background: Sequence[Callable[[], Awaitable[None]]] = (),
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._stack = stack
        self._transport = transport
        self._flush = flush
        self._serve_control = serve_control
        self._background = background
        self.describe: dict[str, Callable[[], object]] = {}
        """Further entries of `status`, by name."""
        self.warm: Callable[[Operation, Sequence[bytes]], Awaitable[None]] | None = None
        """Makes files ready and ends the operation, whatever happens."""
        self.rest: Callable[[], Awaitable[None]] | None = None
        """Ends what is done for programs that read, once there are none; comes back when nothing of it runs."""
        self._leave = leave
        self.state = MountState.STARTING
        self._unmounted = trio.Event()
        self._over = trio.Event()
        self._farewell_said = trio.Event()
        self._flushing = trio.Lock()
        self._ending: Operation | None = None
        self._running: Operation | None = None
        self._flushed_before_unmount: FlushSummary | None = None
        self._signals = Signals(self._secure, lambda: self.begin_unmount(None), self._leave_now)
        self._nursery: trio.Nursery | None = None
        self._serving = trio.CancelScope()
        self._housekeeping = trio.CancelScope()
        self._problem: BaseException | None = None
        self._last_status: dict[str, Any] | None = None

    @property
    def socket_path(self) -> Path:
        """Where clients ask."""
        return self._stack.places.socket

    @property
    def operation(self) -> dict[str, Any] | None:
        """How far the flush is that runs now, None without one."""
        return None if self._running is None else self._running.snapshot()

    async def wait_unmounted(self) -> None:
        """Until the kernel has let go of the mount; the last flush may still run."""
        await self._unmounted.wait()

    # What clients ask for.

    def status(self) -> dict[str, Any]:
        """The figures of this mount, for `vfsd status --json`."""
        if self._last_status is not None:
            return {**self._last_status, "state": str(self.state)}
        stack, record = self._stack, self._stack.record
        tiers: dict[str, dict[str, int | None]] = {
            name: {"bytes": usage.bytes, "files": usage.files, "budget": usage.budget}
            for name, usage in stack.tiers.usage().items()
        }
        stored = stack.store.usage()
        tiers["store"] = {"bytes": stored.bytes, "files": stored.files, "budget": None}
        dirty = stack.tree.dirty()
        return {
            "version": vfsd.__version__,
            "id": record.mount_id,
            "pid": os.getpid(),
            "started": record.started,
            "source": record.source,
            "store": record.store,
            "mountpoint": record.mountpoint,
            "transport": self._transport.name,
            "state": str(self.state),
            "read_only": record.read_only,
            "ingest": record.ingest,
            "tiers": tiers,
            "pressure": stack.tiers.pressure(),
            "dirty": {"files": dirty.files, "bytes": dirty.bytes},
            "open_handles": stack.tree.open_handles(),
            **{name: tell() for name, tell in self.describe.items()},
            "operation": self.operation,
            "state_directory": record.state_directory,
            "ram_directory": record.ram_directory,
            "cache_directory": record.cache_directory,
        }

    def begin_flush(self, paths: Sequence[bytes] | None) -> Operation:
        """Flush `paths` (plate-relative; None: everything) while mounted."""
        operation = Operation("flush")
        if self._unmounted.is_set() or self._nursery is None:
            operation.finish(
                Outcome(
                    BusyError.exit_code,
                    str(self.state),
                    "the mount is gone; its daemon is flushing what it left",
                )
            )
        else:
            self._nursery.start_soon(self._run_flush, operation, paths)
        return operation

    def begin_warm(self, paths: Sequence[bytes]) -> Operation:
        """Make files ready that are about to be read, while mounted."""
        operation = Operation("warm")
        if self._unmounted.is_set() or self._nursery is None or self.warm is None:
            operation.finish(Outcome(BusyError.exit_code, str(self.state), "the mount is gone"))
        else:
            self._nursery.start_soon(self.warm, operation, paths)
        return operation

    def begin_unmount(self, timeout: float | None) -> Operation:
        """Flush, unmount, flush the rest. An unmount that is under way is joined, with its time limit."""
        if self._ending is None:
            self._ending = Operation("umount")
            assert self._nursery is not None, "nobody can ask before the mount answers"
            limit = math.inf if timeout is None else timeout
            self._nursery.start_soon(self._run_unmount, self._ending, limit)
        return self._ending

    # The life.

    async def run(self, when_ready: Callable[[], None]) -> Outcome:
        """Mount, serve until the end, flush what is left, close the stack.

        `when_ready` is called once the mount answers. Errors before that leave no mount and an open stack.

        Raises
        ------
        UnfitError
            If it cannot be mounted.
        """
        self._transport.mount()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._serve)
                nursery.start_soon(self._signals.obey)
                nursery.start_soon(self._keep_house)
                self._announce()
                await self._wait_until_answering()
                if self.state is MountState.STARTING:
                    self._enter(MountState.MOUNTED)
                log.info("event=mounted %s", fields(**names_of(self._stack.record)))
                when_ready()
                nursery.start_soon(self._control)
                await self._unmounted.wait()
                outcome = await self._finish()
                self._over.set()
                with trio.move_on_after(FAREWELL_SECONDS):
                    await self._farewell_said.wait()
                nursery.cancel_scope.cancel()
        except BaseException:
            if not self._over.is_set():
                self._detach()
            raise
        return outcome

    def _detach(self) -> None:
        """Let the kernel's mount go, whatever state it is in; but only ours, not what may be mounted there by now."""
        record = self._stack.record
        mount = mount_at(os.fsencode(record.mountpoint), read_mounts())
        if record.device is not None and (mount is None or mount.device != record.device):
            return
        try:
            self._transport.unmount_lazily()
        except Exception as error:
            log.warning("event=detach-failed %s", fields(error=describe_error(error)[1]))

    async def _serve(self) -> None:
        """Answer the kernel until somebody unmounts. An error of the transport ends the mount, not us."""
        try:
            with self._serving:
                await self._transport.serve()
        except Exception as error:
            log.exception("event=transport-failed %s", fields(error=describe_error(error)[1]))
            self._problem = error
            self._detach()
        finally:
            self._unmounted.set()

    async def _keep_house(self) -> None:
        """What the tree and the tiers do in the background, until they are closed."""
        with self._housekeeping:
            async with trio.open_nursery() as nursery:
                for work in (self._stack.tree.housekeep, self._stack.tiers.run, *self._background):
                    nursery.start_soon(self._background_work, work)

    @staticmethod
    async def _background_work(work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:
            # The mount goes on without it: every fsync, write and flush does what must be done.
            log.exception("event=background-work-failed %s", fields(error=describe_error(error)[1]))

    def _announce(self) -> None:
        mount = mount_at(os.fsencode(self._stack.record.mountpoint), read_mounts())
        self._stack.announce(None if mount is None else mount.device)

    async def _wait_until_answering(self) -> None:
        """Until a look at the mount point comes back through the kernel and us."""
        mountpoint = self._stack.record.mountpoint
        problem: list[OSError] = []

        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                try:
                    await trio.to_thread.run_sync(os.stat, mountpoint, abandon_on_cancel=True)
                except OSError as error:
                    problem.append(error)
                nursery.cancel_scope.cancel()

            nursery.start_soon(ask)
            await self._unmounted.wait()
            nursery.cancel_scope.cancel()
        if self._unmounted.is_set():
            cause = "" if self._problem is None else f": {describe_error(self._problem)[1]}"
            raise UnfitError(f"the mount ended before it answered{cause}", path=mountpoint)
        if problem:
            raise UnfitError(f"is mounted, but does not answer: {problem[0].strerror}", path=mountpoint)

    async def _control(self) -> None:
        try:
            if self._serve_control is not None:
                await self._serve_control(self, self._over)
        except Exception as error:
            # Without it `vfsd umount` cannot ask, but umount(8) and signals still lead to a flush.
            log.exception("event=control-failed %s", fields(error=error))
        finally:
            self._farewell_said.set()

    async def _secure(self) -> int:
        return 0 if self._stack.record.read_only else await self._stack.tree.secure()

    def _leave_now(self, name: str) -> None:
        """A second signal: everything stays as it is on disk and in tmpfs, for the next mount."""
        self._record_outcome(Outcome(8, MountState.FAILED, f"stopped by a second {name} before the flush was done"))
        log.warning("event=left-at-once %s", fields(signal=name))
        if not self._unmounted.is_set():
            self._detach()
        self._leave(8)

    # Flushing and unmounting.

    async def _flush_once(self, operation: Operation, paths: Sequence[bytes] | None = None) -> FlushSummary:
        """One flush at a time; on a read-only mount there is nothing to flush."""
        if self._stack.record.read_only:
            return FlushSummary(0, 0, 0, 0.0, (), (), True, None)
        async with self._flushing:
            self._running = operation
            try:
                result = await self._flush(paths, operation.publish)
            finally:
                self._running = None
        summary = FlushSummary.of(result)
        log.info(
            "event=flushed %s",
            fields(
                files=summary.files,
                bytes=summary.bytes,
                stored_bytes=summary.stored_bytes,
                seconds=round(summary.seconds, 3),
                kept=len(summary.kept),
            ),
        )
        return summary

    async def _run_flush(self, operation: Operation, paths: Sequence[bytes] | None) -> None:
        self._enter_while_mounted(MountState.FLUSHING, operation)
        try:
            summary = await self._flush_once(operation, paths)
            outcome = after_flush(self._stack.record, summary, MountState.MOUNTED)
        except Exception as error:
            outcome = self._failure(error, None, MountState.MOUNTED)
        self._enter_while_mounted(MountState.MOUNTED, operation)
        operation.finish(outcome)

    async def _run_unmount(self, operation: Operation, limit: float) -> None:
        """Flush and unmount; `_finish` does the rest. After a failure it stays mounted, signals apart."""
        if self._unmounted.is_set():
            return
        refusal = await self._flush_before_unmount(operation, limit)
        if refusal is None or self._signals.came:
            self._enter_while_mounted(MountState.UNMOUNTING, operation)
            refusal = await self._unmount()
        if refusal is None or self._unmounted.is_set():
            return
        if self._signals.came:
            self._detach()
            self._serving.cancel()
            return
        log.warning("event=still-mounted %s", fields(exit_code=refusal.exit_code, why=refusal.message))
        self._ending = self._flushed_before_unmount = None
        self._enter_while_mounted(MountState.MOUNTED, operation)
        operation.finish(refusal)

    async def _flush_before_unmount(self, operation: Operation, limit: float) -> Outcome | None:
        """None if everything is in the store, else why it stays mounted."""
        self._enter_while_mounted(MountState.FLUSHING, operation)
        await self._signals.secured()
        try:
            with trio.move_on_after(limit) as scope:
                summary = await self._flush_once(operation)
        except Exception as error:
            return self._failure(error, None, MountState.MOUNTED)
        if scope.cancelled_caught:
            return after_timeout(self._stack.record, limit)
        self._flushed_before_unmount = summary
        return None if summary.complete else after_flush(self._stack.record, summary, MountState.MOUNTED)

    async def _unmount(self) -> Outcome | None:
        """None once the kernel has let go, else why it did not."""
        deadline = trio.current_time() + BUSY_PATIENCE_SECONDS
        while not self._unmounted.is_set():
            try:
                await self._transport.request_unmount()
            except BusyError as error:
                if trio.current_time() < deadline:
                    await trio.sleep(BUSY_PAUSE_SECONDS)
                    continue
                return await self._busy(error)
            except Exception as error:
                return self._failure(error, self._flushed_before_unmount, MountState.MOUNTED)
            await self._unmounted.wait()
        return None

    async def _busy(self, error: BusyError) -> Outcome:
        mountpoint = os.fsencode(self._stack.record.mountpoint)
        holders = tuple(await trio.to_thread.run_sync(find_holders, mountpoint))
        return busy(self._stack.record, error, self._flushed_before_unmount, holders)

    async def _finish(self) -> Outcome:
        """After the unmount: flush what came meanwhile, then remove the folders, or keep them and say why."""
        operation = self._ending = self._ending or Operation("finish")
        self._enter(MountState.FINISHING, operation)
        self._stack.announce(None)
        before, clean = self._flushed_before_unmount, False
        if self.rest is not None:
            await self.rest()
        try:
            summary = await self._flush_once(operation)
            total = summary if before is None else before.then(summary)
            clean = summary.complete and self._stack.tree.dirty().files == 0
            outcome = after_flush(self._stack.record, total, MountState.UNMOUNTED if clean else MountState.FAILED)
            if not clean and summary.complete and not self._stack.record.read_only:
                still_open = self._stack.tree.open_handles() > 0
                cause = "files were still open" if still_open else "files changed while they were flushed"
                outcome = self._failure(UnfitError(cause), total, MountState.FAILED)
        except Exception as error:
            outcome = self._failure(error, before, MountState.FAILED)
        if self._stack.record.read_only and self._stack.continued:
            clean = False  # what an earlier mount left is still to be flushed by a later one
        if outcome.exit_code != 0:
            self._record_outcome(outcome)
        try:
            self._last_status = self.status()
            self._housekeeping.cancel()
            self._stack.close(clean=clean)
        except Exception as error:
            log.exception("event=close-failed %s", fields(error=error))
        self._enter(MountState.UNMOUNTED if outcome.exit_code == 0 else MountState.FAILED, operation)
        log.info("event=ended %s", fields(exit_code=outcome.exit_code, clean=clean))
        operation.finish(outcome)
        return outcome

    def _failure(self, error: BaseException, summary: FlushSummary | None, state: MountState) -> Outcome:
        """An error instead of a result, logged."""
        log.error("event=failed %s", fields(error=describe_error(error)[1]), exc_info=error)
        return after_failure(self._stack.record, error, self._stack.tree.dirty(), summary, state)

    # Where it is.

    def _enter(self, state: MountState, operation: Operation | None = None) -> None:
        self.state = state
        if operation is not None:
            operation.enter(state)

    def _enter_while_mounted(self, state: MountState, operation: Operation) -> None:
        """Unless the mount is gone: then `_finish` says where we are. An unmount outranks a flush."""
        if self._unmounted.is_set() or (self._ending is not None and operation is not self._ending):
            operation.enter(str(self.state))
        else:
            self._enter(state, operation)

    def _record_outcome(self, outcome: Outcome) -> None:
        """result.json: what `vfsd umount`, `status` and `recover` tell when we are gone."""
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        document = {**names_of(self._stack.record), **outcome.to_json(), "ended": ended}
        try:
            write_file_durably(self._stack.places.result, json.dumps(document, indent=1))
        except OSError as error:
            log.error("event=result-not-written %s", fields(error=error))
