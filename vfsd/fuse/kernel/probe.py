"""Whether this machine gives us FUSE passthrough: asked of the kernel itself, by a file system that is mounted nowhere.

`fsopen(2)` makes one without a mount point; the kernel greets its daemon, us, and we register a file of no name. Nothing of it
is left when the descriptors are closed, and nobody sees it meanwhile.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from dataclasses import dataclass

from vfsd.errors import UnfitError
from vfsd.fuse.kernel.device import DEVICE, Device, MountGone
from vfsd.fuse.kernel.negotiation import BUFFER_BYTES, agree
from vfsd.fuse.kernel.parsing import Malformed, parse_body, parse_header
from vfsd.fuse.kernel.protocol import Opcode

# The numbers are the same on every architecture (Linux 5.2).
_FSOPEN, _FSCONFIG = 430, 431
_FSOPEN_CLOEXEC = 1
_FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 1, 6
# The kernel greets as soon as the file system is made; so long is enough on any machine that is not stuck.
_PATIENCE = 2.0

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


@dataclass(frozen=True, slots=True)
class Lacking:
    """Why there is no passthrough here, and how to get it."""

    cause: str
    remedy: str


_NEEDS_ROOT = Lacking("only root may have the kernel read files by itself", "Mount as root (CAP_SYS_ADMIN)")
_NO_KERNEL = Lacking(
    f"the kernel, Linux {platform.release()}, offers no passthrough",
    "Use Linux 6.9 or newer, with CONFIG_FUSE_PASSTHROUGH",
)


def passthrough_lacks() -> Lacking | None:
    """None where passthrough works. Takes a few milliseconds."""
    try:
        device = Device(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Lacking(f"{DEVICE} cannot be opened: {error.strerror}", "Load the module fuse, or give access to it")
    try:
        return _ask(device)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            return _NEEDS_ROOT
        if error.errno == errno.ENOSYS:
            return _NO_KERNEL
        return Lacking(f"asking the kernel failed: {error.strerror}", "Mount with --transport pyfuse3")
    except (MountGone, Malformed, UnfitError, ValueError):
        return _NO_KERNEL
    finally:
        device.close()


def _ask(device: Device) -> Lacking | None:
    context = _checked(_syscall(_FSOPEN, b"fuse", ctypes.c_uint(_FSOPEN_CLOEXEC)))
    try:
        given = {"fd": device.fd, "rootmode": "40000", "user_id": os.geteuid(), "group_id": os.getegid()}
        for key, value in given.items():
            _configure(context, _FSCONFIG_SET_STRING, key.encode(), str(value).encode())
        _configure(context, _FSCONFIG_CMD_CREATE, None, None)
        return None if _greet(device) and _registers(device) else _NO_KERNEL
    finally:
        os.close(context)


def _configure(context: int, command: int, key: bytes | None, value: bytes | None) -> None:
    _checked(_syscall(_FSCONFIG, ctypes.c_int(context), ctypes.c_uint(command), key, value, ctypes.c_int(0)))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _greet(device: Device) -> bool:
    """The first exchange; whether the kernel agreed to passthrough."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    if not device.wait(_PATIENCE):
        return False
    message = buffer[: device.read(buffer)]
    request = parse_header(message)
    if request.opcode != Opcode.INIT:
        return False
    parse_body(request, message)
    agreement = agree(request.data, stack_depth=1)
    device.answer(request.unique, agreement.answer)
    return agreement.passthrough


def _registers(device: Device) -> bool:
    file = os.memfd_create("vfsd-probe", os.MFD_CLOEXEC)
    try:
        device.unregister(device.register(file))
    finally:
        os.close(file)
    return True
