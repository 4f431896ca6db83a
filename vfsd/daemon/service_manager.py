"""Telling systemd how a mount is doing: ready, what goes on, still alive, ending (the protocol of sd_notify(3)).

While bytes move each message also asks for more time, so that a flush of hours is never taken for a daemon that
hangs; one that really hangs sends nothing, and is killed after the unit's own limit with nothing lost. Outside a
unit of Type=notify all of this is nothing.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Self

import trio

from vfsd.daemon.log_file import fields
from vfsd.daemon.sizes import format_count, format_size

if TYPE_CHECKING:
    from vfsd.daemon.session import Session

log = logging.getLogger("vfsd.daemon")

# A person looking at `systemctl status` sees a second-old figure as the present.
LOOK_SECONDS = 1.0
# Each sign of progress buys this much: more than the longest single step, a large shard on a slow disk.
MORE_TIME_MICROSECONDS = 300_000_000
ENDING_STATES = frozenset({"unmounting", "finishing", "unmounted", "failed"})


class ServiceManager:
    """The other end of the socket that systemd gave us.

    Parameters
    ----------
    address : str
        A path, or "@" and a name of the abstract kind.
    watchdog_seconds : float, optional
        How long we may be silent before we are taken for dead.
    """

    def __init__(self, address: str, watchdog_seconds: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._look_seconds = min(LOOK_SECONDS, watchdog_seconds / 2) if watchdog_seconds else LOOK_SECONDS
        self._watchdog = bool(watchdog_seconds)
        self._told: dict[str, Any] | None = None
        self._stopping = False

    @classmethod
    def of_this_process(cls, environ: MutableMapping[str, str] = os.environ) -> Self | None:
        """The service manager that started us, None without one; its variables are taken from our children."""
        address = environ.pop("NOTIFY_SOCKET", "")
        limit, process = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", str(os.getpid()))
        if not address.startswith(("/", "@")):
            return None
        seconds = int(limit) / 1e6 if limit.isascii() and limit.isdigit() and process == str(os.getpid()) else None
        return cls(address, seconds or None)

    def ready(self, text: str) -> None:
        """The mount answers."""
        self._send("READY=1", f"STATUS={text}")

    async def watch(self, session: Session) -> None:
        """Until cancelled: say what `session` does, and that its loop turns."""
        while True:
            self.look(session)
            await trio.sleep(self._look_seconds)

    def look(self, session: Session) -> None:
        """Say what is new."""
        lines = ["WATCHDOG=1"] if self._watchdog else []
        now = {"state": str(session.state), **(session.operation or {})}
        if now != self._told:
            self._told = now
            lines.append(f"STATUS={_in_words(now)}")
            if session.operation is not None:
                lines.append(f"EXTEND_TIMEOUT_USEC={MORE_TIME_MICROSECONDS}")
        if now["state"] in ENDING_STATES and not self._stopping:
            self._stopping = True
            lines.append("STOPPING=1")
        if lines:
            self._send(*lines)

    def _send(self, *lines: str) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)  # the loop that serves the kernel must never wait for systemd
                sender.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            # It will hear the next one; a mount does not depend on being watched.
            log.warning("event=service-manager-not-told %s", fields(error=error))


def _in_words(now: dict[str, Any]) -> str:
    if "stage" not in now:
        return str(now["state"])
    done, total = now.get("bytes_done", 0), now.get("bytes_total", 0)
    of = f" of {format_size(total)}" if total else ""
    return f"{now['state']}: {now['stage']}, {format_count(now.get('files_done', 0), 'file')}, {format_size(done)}{of}"
