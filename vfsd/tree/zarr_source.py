"""A source that is somebody else's OME-Zarr: the tree of TIFFs that `ZarrView` makes of it, as a source of the tree.

What `Source` says of files and folders on a disk, this says of the view's: names, attributes, and for the few files that
are shown as they are also descriptors. The TIFFs have none: `made` gives what reads any range of them. Modes are the
folder's own (files without execution), owners and group as well; times are those of the metadata that made them.

Every call may sleep: the tree calls them in threads. Nothing is ever written.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import final

from vfsd.errors import UnfitError
from vfsd.store.foreign import Folder, ForeignError, RealFile, VirtualFile, ZarrView
from vfsd.tree.source import MTIME_STEP_NS, SourceEntry

# No device has this number: what is made while it is read is on none.
NO_DEVICE = 0


@final
class ZarrSource:
    """See the module.

    Raises
    ------
    UnfitError
        The folder is no OME-Zarr, with the path and the reason.
    """

    makes_files = True
    shielded = False

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            self._view = ZarrView(root)
            self._found = self._view.folder.stat(b"")
        except (ForeignError, OSError) as error:
            where = error.path if isinstance(error, ForeignError) and error.path else None
            raise UnfitError(
                f"cannot be shown as TIFFs: {error.reason if isinstance(error, ForeignError) else error.strerror}",
                path=root if where is None else os.fsencode(root) + b"/" + where,
                remedy="Mount its files as they are with --zarr-as files",
            ) from error

    def close(self) -> None:
        """Let go of the folder."""
        self._view.close()

    def stat(self, path: bytes) -> os.stat_result:
        """`lstat` of an object."""
        return self._status(path, self._view.current(path))

    def stat_at_once(self, path: bytes) -> os.stat_result | None:
        """Never known without asking."""
        return None

    def open_at_once(self, path: bytes) -> int | None:
        """Never known without asking."""
        return None

    def entry(self, path: bytes) -> SourceEntry:
        """One object with all that a listing would say of it."""
        return SourceEntry(path.rpartition(b"/")[2], self.stat(path), None)

    def scan(self, path: bytes) -> ZarrScan:
        """A reading of all names in a folder."""
        names = self._view.names(path, fresh=True)
        above = path + b"/" if path else b""
        entries = (SourceEntry(name, self._status(above + name, shown), None) for name, shown in names.items())
        return ZarrScan(self.stat(path).st_mtime_ns, entries)

    def hard_links(self) -> Mapping[int, list[bytes]]:
        """There are none."""
        return {}

    def open(self, path: bytes) -> int:
        """A descriptor of a file that is shown as it is; raises EOPNOTSUPP for one that is made."""
        shown = self._view.find(path)
        if isinstance(shown, RealFile):
            return self._view.folder.open(shown.path)
        raise OSError(errno.EOPNOTSUPP, "is made while it is read, and has no descriptor", path)

    def made(self, path: bytes) -> VirtualFile | None:
        """What reads a file that is made while it is read; None for one that is shown as it is."""
        shown = self._view.current(path)
        if isinstance(shown, Folder):
            raise OSError(errno.ESTALE, "became a folder in the source", path)
        return shown if isinstance(shown, VirtualFile) else None

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """None."""
        return {}

    def _status(self, path: bytes, shown: Folder | VirtualFile | RealFile) -> os.stat_result:
        root = self._found
        if isinstance(shown, RealFile):
            return shown.found
        folder = isinstance(shown, Folder)
        mode = stat.S_IFDIR | stat.S_IMODE(root.st_mode) if folder else stat.S_IFREG | root.st_mode & 0o666
        size, blocks = (shown.size, -(-shown.size // 512)) if isinstance(shown, VirtualFile) else (0, 0)
        seconds, mtime = shown.mtime / 1e9, shown.mtime
        links = 2 if folder else 1
        return os.stat_result(
            (mode, 0, NO_DEVICE, links, root.st_uid, root.st_gid, size, int(seconds), int(seconds), int(seconds)),
            {
                **{"st_atime_ns": mtime, "st_mtime_ns": mtime, "st_ctime_ns": mtime},
                **{"st_blocks": blocks, "st_rdev": 0},
            },
        )


@final
class ZarrScan:
    """The names of a folder, all read; as `SourceScan`."""

    def __init__(self, mtime: int, entries: Iterator[SourceEntry]) -> None:
        self.mtime = 0 if abs(time.time_ns() - mtime) < MTIME_STEP_NS else mtime
        self._entries = entries

    def close(self) -> None:
        """There is nothing to let go of."""

    def read(self, count: int) -> list[SourceEntry]:
        """Up to `count` more entries, none at the end."""
        return [entry for _, entry in zip(range(count), self._entries, strict=False)]
