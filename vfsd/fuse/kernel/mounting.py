"""How a FUSE device comes to a mount point: by mount(2) where we may, by fusermount3 otherwise.

fusermount3 opens the device and mounts it with its own rights, and hands the descriptor back through a socket whose number
it finds in its environment (util/fusermount.c of libfuse).
"""

from __future__ import annotations

import array
import ctypes
import errno
import os
import socket
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from vfsd.errors import UnfitError
from vfsd.fuse.kernel.device import DEVICE
from vfsd.fuse.mount_point import as_option, shown_name

_FILESYSTEM = b"fuse.vfsd"
# mount(2): what fusermount3 gives every mount as well.
_MS_NOSUID, _MS_NODEV = 2, 4
_MS_OF_OPTION = {"ro": 1, "noexec": 8, "sync": 16, "dirsync": 128, "noatime": 1024, "nodiratime": 2048}
# The kernel's FUSE takes these itself.
_FUSE_OPTIONS = ("default_permissions", "allow_other")
# Under this name fusermount3 finds the socket.
_COMMFD = "_FUSE_COMMFD"

_libc = ctypes.CDLL(None, use_errno=True)


def mount(path: Path, name: str, options: Sequence[str]) -> int:
    """Mount at `path`; returns the device's descriptor, from which requests are to be read now.

    Raises
    ------
    UnfitError
        The kernel or fusermount3 refused.
    """
    if os.geteuid() == 0:
        fd = _mount_by_ourselves(path, name, options)
        if fd is not None:
            return fd
    return _mount_by_fusermount(path, name, options)


def _refused(path: Path, reason: str) -> UnfitError:
    return UnfitError(f"cannot be mounted ({reason})", path=path, remedy="vfsd doctor says what is missing")


def _mount_by_ourselves(path: Path, name: str, options: Sequence[str]) -> int | None:
    """None where root may not mount: in a container."""
    flags = _MS_NOSUID | _MS_NODEV
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from error
    data = [f"fd={fd}", f"rootmode={kind:o}", f"user_id={os.geteuid()}", f"group_id={os.getegid()}"]
    for option in options:
        flags |= _MS_OF_OPTION.get(option, 0)
        if option in _FUSE_OPTIONS:
            data.append(option)
    done = _libc.mount(
        shown_name(name).encode(), os.fsencode(path), _FILESYSTEM, ctypes.c_ulong(flags), ",".join(data).encode()
    )
    if done == 0:
        return fd
    number = ctypes.get_errno()
    os.close(fd)
    if number == errno.EPERM:
        return None
    raise _refused(path, os.strerror(number))


def _mount_by_fusermount(path: Path, name: str, options: Sequence[str]) -> int:
    given = ",".join((f"fsname={as_option(name)}", "subtype=vfsd", *options))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        try:
            child = subprocess.Popen(
                ["fusermount3", "-o", given, "--", os.fsencode(path)],
                env={**os.environ, _COMMFD: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise _refused(path, f"fusermount3: {error.strerror}") from error
        theirs.close()
        with child:
            fd = _received(ours)
            said = child.communicate()[1].decode(errors="replace").strip()
    if fd is None:
        raise _refused(path, said or f"fusermount3 exited with {child.returncode}")
    os.set_inheritable(fd, False)
    return fd


def _received(channel: socket.socket) -> int | None:
    """The descriptor that comes with one byte, or None when the other end only closes."""
    found = array.array("i")
    _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(found.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: found.itemsize])
    return found[0] if found else None
