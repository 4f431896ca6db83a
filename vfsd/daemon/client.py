"""A command's side of the control socket: ask a daemon, follow what it does.

Built on http.client, so that `vfsd status` stays quick. A daemon that does not answer within `ANSWER_SECONDS`
raises `DaemonSilent`; one that is gone raises `DaemonGone`. The other end must run as the owner of the mount
or as root, so that nobody can put a socket of his own in a daemon's place.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from vfsd.daemon.outcome import HEARTBEAT_SECONDS
from vfsd.daemon.unix_socket import connect_to, peer_uid
from vfsd.errors import BusyError, UnfitError, UsageProblem

# Said within three seconds: connecting to a hanging daemon succeeds at once, so this is all of the wait.
ANSWER_SECONDS = 2.5
# A working daemon sends a line every HEARTBEAT_SECONDS; one that swaps or sits in a slow system call may miss
# many.
SILENCE_SECONDS = 15 * HEARTBEAT_SECONDS
# No line of the protocol is longer: a result names at most a thousand kept files.
LARGEST_ANSWER = 64 << 20


class DaemonSilent(BusyError):
    """The daemon is there and does not answer."""


class DaemonGone(UnfitError):
    """Nobody listens: the daemon has ended, or died."""


class UnixConnection(HTTPConnection):
    """HTTP to a socket in the file system."""

    def __init__(self, path: Path, owner: int, timeout: float) -> None:
        super().__init__("vfsd.local", timeout=timeout)
        self._path = path
        self._owner = owner
        self._patience = timeout

    def connect(self) -> None:
        """Connect, and refuse whoever is neither the mount's owner nor root."""
        self.sock = connect_to(self._path, self._patience)
        uid = peer_uid(self.sock)
        if uid not in (self._owner, 0):
            self.close()
            raise UnfitError(f"is served by user {uid}, not by the owner of the mount", path=self._path)


class DaemonClient:
    """Talks to one daemon. Each request is a connection of its own.

    Parameters
    ----------
    path : Path
        Its control socket.
    owner : int
        The user who made the mount.
    """

    def __init__(self, path: Path, owner: int) -> None:
        self._path = path
        self._owner = owner

    def status(self) -> dict[str, Any]:
        """GET /status.

        Raises
        ------
        DaemonSilent, DaemonGone, UnfitError
        """
        with _Translated(self._path):
            connection = UnixConnection(self._path, self._owner, ANSWER_SECONDS)
            try:
                connection.request("GET", "/status", headers={"Connection": "close"})
                return _checked(connection.getresponse())
            finally:
                connection.close()

    def flush(self, paths: Sequence[bytes] | None) -> Iterator[dict[str, Any]]:
        """POST /flush; yields progress and the result, as `Operation.follow` makes them."""
        names = None if paths is None else [os.fsdecode(path) for path in paths]
        return self._follow("/flush", {"paths": names}, SILENCE_SECONDS)

    def warm(self, paths: Sequence[bytes]) -> Iterator[dict[str, Any]]:
        """POST /warm; the same. b"" is the whole plate."""
        return self._follow("/warm", {"paths": [os.fsdecode(path) for path in paths]}, SILENCE_SECONDS)

    def unmount(self, timeout: float | None) -> Iterator[dict[str, Any]]:
        """POST /umount; the same. Asking again joins an unmount that is under way."""
        # A daemon that works gives up at the time limit; one that is silent beyond it does not work.
        patience = SILENCE_SECONDS if timeout is None else min(SILENCE_SECONDS, timeout + ANSWER_SECONDS)
        return self._follow("/umount", {"timeout": timeout}, patience)

    def _follow(self, route: str, document: dict[str, Any], patience: float) -> Iterator[dict[str, Any]]:
        with _Translated(self._path):
            connection = UnixConnection(self._path, self._owner, patience)
            try:
                body = json.dumps(document)
                connection.request("POST", route, body, {"Connection": "close", "Content-Type": "application/json"})
                response = connection.getresponse()
                if response.status != 200:
                    _checked(response)
                while line := response.readline(LARGEST_ANSWER):
                    item = _object(line)
                    yield item
                    if item.get("event") == "result":
                        return
            finally:
                connection.close()
        raise DaemonGone("the daemon ended without a result", path=self._path)


def _checked(response: http.client.HTTPResponse) -> dict[str, Any]:
    body = response.read(LARGEST_ANSWER)
    if response.length:
        raise http.client.IncompleteRead(body, response.length)
    document = _object(body)
    if response.status == 400:
        raise UsageProblem(str(document.get("error")))
    if response.status != 200:
        raise UnfitError(f"the daemon answered: {document.get('error')}")
    return document


def _object(text: bytes) -> dict[str, Any]:
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    return document


class _Translated:
    """Errors of sockets and HTTP inside the block leave it as ours."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        match error:
            case TimeoutError() | BlockingIOError():
                raise DaemonSilent("the daemon does not answer") from error
            case FileNotFoundError() | ConnectionError():
                raise DaemonGone("the daemon is gone") from error
            case PermissionError():
                raise UnfitError("the daemon belongs to another user", remedy="Ask them, or use sudo") from error
            case HTTPException() | ValueError():
                # A connection that breaks in the middle of an answer shows as one of these as well.
                raise DaemonGone(f"the daemon's answer broke off ({type(error).__name__})") from error
            case socket.error():
                raise UnfitError(f"the daemon cannot be asked: {error.strerror}", path=self._path) from error
