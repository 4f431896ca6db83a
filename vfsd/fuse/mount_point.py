"""The mount point of a mount that is served: unmounting it, its read-ahead, and how its names are written for others.

The same for every transport. Nothing here may look at the mount point before somebody answers the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import subprocess
from pathlib import Path
from typing import final

from vfsd.errors import BusyError, UnfitError

# Seconds for which the kernel may keep what only this mount can change.
STABLE_TIMEOUT = 3600.0
# Seconds for which it may keep that a name does not exist, where the source could make it exist.
ABSENT_TIMEOUT = 1.0
# Kernel read-ahead of the mount, KiB: at the default of 128 every read request is that small; 1024 measured best.
READ_AHEAD_KB = 1024

_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8
_libc = ctypes.CDLL(None, use_errno=True)


def shown_name(name: str) -> str:
    """What `df` shows as the source of the mount: for people, so bytes that are not ASCII are shown as %XX."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else f"%{byte:02X}" for byte in os.fsencode(name))


def as_option(name: str) -> str:
    """`shown_name` as a value among fusermount3's options."""
    return shown_name(name).replace("\\", "\\\\").replace(",", "\\,")


@final
class MountPoint:
    """See the module."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def raise_read_ahead(self) -> None:
        """Only root may, and only while the mount answers; without it reads are smaller, not wrong. In a thread."""
        with contextlib.suppress(OSError):
            device = os.lstat(self.path).st_dev
            knob = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
            knob.write_text(f"{READ_AHEAD_KB}\n")

    def unmount(self) -> None:
        """Unmount. In a thread.

        Raises
        ------
        BusyError
            Programs use the mount.
        UnfitError
            The kernel or fusermount3 refused for another reason.
        """
        if os.geteuid() == 0:
            if _libc.umount2(os.fsencode(self.path), _UMOUNT_NOFOLLOW) != 0:
                number = ctypes.get_errno()
                self._refused(number == errno.EBUSY, os.strerror(number))
            return
        done = subprocess.run(
            ["fusermount3", "-u", os.fsencode(self.path)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            self._refused("busy" in done.stderr.lower(), done.stderr.strip())

    def _refused(self, busy: bool, reason: str) -> None:
        if busy:
            raise BusyError("programs still use the mount", path=self.path)
        raise UnfitError(f"cannot be unmounted ({reason})", path=self.path)

    def detach(self) -> None:
        """Take the mount out of the tree at once; open files go on until they are closed."""
        if os.geteuid() == 0:
            _libc.umount2(os.fsencode(self.path), _MNT_DETACH | _UMOUNT_NOFOLLOW)
        else:
            subprocess.run(["fusermount3", "-uz", os.fsencode(self.path)], capture_output=True, check=False)
