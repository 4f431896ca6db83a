"""The two folders that tier files lie in: making, opening, naming and removing files there, by directory descriptor.

No accounting, no policy: who calls here has reserved what it needs. All but `TierFolders.open_for_reading` and
`copy_to_cache` are quick; removing a large file takes milliseconds, which is the caller's to know.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import final

from vfsd.tiers.copying import copy_bytes, copy_times, start_writing
from vfsd.tiers.tierfile import TierFile, TierName, parse_tier_file_name


@final
class TierFolders:
    """See the module. The folders are there and belong to this mount alone; `ram` lies on a tmpfs."""

    def __init__(self, ram: Path, cache: Path) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._descriptors: dict[TierName, int] = {"ram": os.open(ram, flags)}
        try:
            self._descriptors["cache"] = os.open(cache, flags)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the folders."""
        for folder in self._descriptors.values():
            os.close(folder)
        self._descriptors.clear()

    def descriptor(self, tier: TierName) -> int:
        """The folder's own descriptor."""
        return self._descriptors[tier]

    def make(self, file: TierFile) -> int:
        """A new, empty file under its name; returns its descriptor."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return os.open(file.name, flags, 0o600, dir_fd=self._descriptors[file.tier])

    def open(self, file: TierFile) -> int:
        """A descriptor for reading and writing.

        Raises
        ------
        OSError
            EIO when somebody removed it.
        """
        try:
            return os.open(file.name, os.O_RDWR | os.O_CLOEXEC, dir_fd=self._descriptors[file.tier])
        except FileNotFoundError as error:
            raise OSError(errno.EIO, f"its bytes are gone from the {file.tier} tier", file.name) from error

    def is_being_written(self, file: TierFile) -> bool:
        """Whether any descriptor that can write it is open somewhere; ours count as well.

        A read lease is granted only where there is none (fcntl(2), F_SETLEASE); it is given back at once.
        """
        try:
            fd = os.open(file.name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._descriptors[file.tier])
        except FileNotFoundError:
            return False
        try:
            fcntl.fcntl(
                fd, fcntl.F_SETSIG, signal.SIGURG
            )  # whoever opens it in between: ignored, where SIGIO would end us
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            return error.errno == errno.EAGAIN  # others: a file system without leases
        finally:
            os.close(fd)
        return False

    def open_for_reading(self, file: TierFile) -> int:
        """A descriptor of its own, also of a file that moves just now. May be called in any thread."""
        while True:
            tier, name = file.tier, file.name
            try:
                return os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._descriptors[tier])
            except FileNotFoundError:
                if (tier, name) == (file.tier, file.name):
                    raise  # else it moved between the look and the open

    def rename(self, tier: TierName, old: str, new: str) -> None:
        """Give a file of a tier another name."""
        folder = self._descriptors[tier]
        os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)

    def remove(self, tier: TierName, name: str) -> None:
        """Remove a file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptors[tier])

    def files(self, tier: TierName) -> Iterator[tuple[str, int, int]]:
        """Name, inode and version of each tier file in a folder; foreign files are left out."""
        for name in os.listdir(self._descriptors[tier]):
            parsed = parse_tier_file_name(name)
            if parsed is not None:
                yield name, *parsed

    def free_bytes(self, tier: TierName) -> int:
        """What the file system under a folder has free for us."""
        figures = os.fstatvfs(self._descriptors[tier])
        return figures.f_bavail * figures.f_frsize

    def total_bytes(self, tier: TierName) -> int:
        """The size of the file system under a folder."""
        figures = os.fstatvfs(self._descriptors[tier])
        return figures.f_blocks * figures.f_frsize

    def copy_to_cache(self, name: str, fd: int, size: int, unwanted: Callable[[], bool] = lambda: False) -> None:
        """The whole of a RAM file under its name in the cache folder, or nothing there. In a thread.

        Raises
        ------
        OSError
            From either file system.
        Abandoned
            `unwanted` became true.
        """
        folder = self._descriptors["cache"]
        target = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            copy_bytes(fd, target, size, unwanted)
            copy_times(fd, target)
            start_writing(target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            raise
        finally:
            os.close(target)
