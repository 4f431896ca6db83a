"""Unix sockets by path, also where the path is longer than a socket's name may be.

A long path goes through a descriptor of its folder: /proc/self/fd/<n>/<name> is short whatever the folder is
called.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vfsd.daemon.places import LONGEST_SOCKET_NAME

# struct ucred of SO_PEERCRED: pid, uid, gid (unix(7)).
CREDENTIALS = struct.Struct("3i")
# Clients that may wait for their turn: a person, a script and a dashboard at once, with room to spare.
BACKLOG = 32


@contextmanager
def short_name(path: Path) -> Iterator[str]:
    """A name for `path` that fits into a socket address, valid inside the block."""
    name = os.fspath(path)
    if len(os.fsencode(name)) <= LONGEST_SOCKET_NAME:
        yield name
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listen_at(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0600, in place of whatever a dead daemon left there."""
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with short_name(path) as name:
            server.bind(name)
        # Between bind and chmod the folder's own 0700 keeps others out.
        path.chmod(0o600)
        server.listen(BACKLOG)
    except BaseException:
        server.close()
        raise
    return server


def connect_to(path: Path, timeout: float) -> socket.socket:
    """A connection to the socket at `path`; each later send or receive takes at most `timeout` seconds."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    client.settimeout(timeout)
    try:
        with short_name(path) as name:
            client.connect(name)
    except BaseException:
        client.close()
        raise
    return client


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end, as the kernel recorded it when they connected or listened."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return int(CREDENTIALS.unpack(data)[1])
