"""How much the RAM tier may hold at this moment: its budget, or less while memory is short.

Four things press, each alone enough: the budget itself; what the machine has available, less a reserve; the limit of our
control group; and the kernel's own word that programs stall for memory (PSI). Each is put as one number, the bytes that the
tier may hold now, and the smallest counts: what is in the tier already is part of that number, so spilling does not move it,
and when the memory of another program comes back, so does the budget. A tmpfs that others fill as well is a fifth.

`measure` and `limit_of` are plain functions; `Stalls` is the kernel's trigger, and `watch` puts them together on the trio thread.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import trio

from vfsd.tiers.memory import CGROUPS, MEMBERSHIP, cgroup_headroom

log = logging.getLogger("vfsd.tiers")

Cause = Literal["budget", "memory", "cgroup", "stalls", "tmpfs"]

PSI = Path("/proc/pressure/memory")
# A machine that comes below this part of its memory begins to swap or to kill.
RESERVE = 0.10
# What a control group keeps free for the daemon's own buffers (a flush takes about 100 MB) and its neighbours, between two
# looks: over the limit the kernel kills. A part of it, and at least this many bytes.
GROUP_RESERVE, GROUP_RESERVE_LEAST = 0.05, 96 << 20
# Seconds between looks. tmpfs fills at 2 GB/s at most, a tenth of a usual machine's memory in that time.
INTERVAL = 0.25
# The kernel tells when tasks stalled for memory this long (µs) within a window (µs). Unprivileged processes may only
# choose windows of a multiple of two seconds (Documentation/accounting/psi.rst).
STALL, WINDOW = 150_000, 2_000_000
# While it tells so, the tier gives this part of what it holds, at each look.
GIVEN_WHILE_STALLING = 1 / 8
# A trigger speaks once a window: for that long it counts.
STALL_COUNTS_SECONDS = WINDOW / 1e6


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at memory, in bytes: what the tier held just before, the machine's total and available, room in the control
    group (None: no limit), room in the tmpfs; and whether programs stall."""

    used: int
    total: int
    available: int
    headroom: int | None
    tmpfs_free: int
    stalling: bool


@dataclass(frozen=True, slots=True)
class Limit:
    """What the RAM tier may hold now, in bytes, and what sets it."""

    bytes: int
    cause: Cause


def measure(
    tmpfs: int, used: int, stalling: bool, *, membership: Path = MEMBERSHIP, cgroups: Path = CGROUPS
) -> Reading:
    """Look at the machine's memory, our control group's, and the tmpfs behind a descriptor. May sleep for a moment.

    `used` is what the tier holds before the look: what is written meanwhile then errs to the careful side.
    """
    import psutil

    memory = psutil.virtual_memory()
    figures = os.fstatvfs(tmpfs)
    return Reading(
        used=used,
        total=int(memory.total),
        available=int(memory.available),
        headroom=cgroup_headroom(membership, cgroups),
        tmpfs_free=figures.f_bavail * figures.f_frsize,
        stalling=stalling,
    )


def limit_of(reading: Reading, configured: int, *, reserve: float = RESERVE) -> Limit:
    """What the RAM tier may hold now of a budget of `configured` bytes."""
    used = reading.used
    limits: list[Limit] = [
        Limit(configured, "budget"),
        Limit(used + reading.available - int(reading.total * reserve), "memory"),
        Limit(used + reading.tmpfs_free, "tmpfs"),
    ]
    if reading.headroom is not None:
        room = reading.headroom - max(GROUP_RESERVE_LEAST, int(GROUP_RESERVE * (reading.headroom + used)))
        limits.append(Limit(used + room, "cgroup"))
    if reading.stalling:
        limits.append(Limit(int(used * (1 - GIVEN_WHILE_STALLING)), "stalls"))
    lowest = min(limits, key=lambda limit: limit.bytes)  # the first of equals: the budget before anything else
    return Limit(max(0, lowest.bytes), lowest.cause)


@final
class Stalls:
    """The kernel's pressure-stall trigger: readable while programs wait for memory too long.

    An epoll descriptor around the trigger's is what trio can wait for: the trigger itself speaks by POLLPRI.
    """

    def __init__(self, path: Path = PSI) -> None:
        self._trigger = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(self._trigger, f"some {STALL} {WINDOW}\0".encode("ascii"))
            self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
            self._epoll.register(self._trigger, select.EPOLLPRI)
        except BaseException:
            os.close(self._trigger)
            raise

    async def wait(self) -> None:
        """Return at the next stall."""
        await trio.lowlevel.wait_readable(self._epoll.fileno())
        self._epoll.poll(0)

    def close(self) -> None:
        """Give the trigger back."""
        self._epoll.close()
        os.close(self._trigger)


def open_stalls(path: Path = PSI) -> Stalls | None:
    """The trigger, or None where the kernel has none or does not let us."""
    try:
        return Stalls(path)
    except OSError as error:
        log.info("no_pressure_trigger path=%s error=%s", path, error.strerror)
        return None


async def watch(
    tmpfs: int,
    used: Callable[[], int],
    told: Callable[[Reading], None],
    *,
    stalls: Stalls | None = None,
    look: Callable[[int, int, bool], Reading] = measure,
) -> None:
    """Tell of every look at memory, until cancelled; at once when programs begin to stall.

    Parameters
    ----------
    tmpfs : int
        A descriptor of the RAM tier's folder.
    used, told : callable
        What the tier holds, and who hears of each look; called on the trio thread.
    """
    stalled_at = -STALL_COUNTS_SECONDS
    woken = trio.Event()

    async def listen(stalls: Stalls) -> None:
        nonlocal stalled_at
        while True:
            await stalls.wait()
            stalled_at = trio.current_time()
            woken.set()

    async with trio.open_nursery() as nursery:
        if stalls is not None:
            nursery.start_soon(listen, stalls)
        while True:
            stalling = trio.current_time() - stalled_at < STALL_COUNTS_SECONDS
            try:
                reading = await trio.to_thread.run_sync(look, tmpfs, used(), stalling)
            except OSError as error:
                log.warning("memory_cannot_be_measured error=%s", error)
            else:
                told(reading)
            with trio.move_on_after(INTERVAL):
                await woken.wait()
            if woken.is_set():
                woken = trio.Event()
