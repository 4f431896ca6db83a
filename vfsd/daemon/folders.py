"""Folders that only their owner may enter.

A private folder is made 0700 and checked through a descriptor opened with O_NOFOLLOW, so that a name somebody
else planted in a world-writable place (/dev/shm) is refused, never followed. What belongs to another user is
never used, changed or removed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from vfsd.daemon.mountinfo import Mount, filesystem_type
from vfsd.errors import UnfitError

# File systems whose files live on another machine. SQLite's write-ahead log and flock are wrong or slow
# there, and state must survive exactly what this machine survives. Local FUSE file systems (mergerfs,
# gocryptfs) are fine.
NETWORK_FILESYSTEMS = frozenset(
    {
        *(
            "9p",
            "afs",
            "beegfs",
            "ceph",
            "cifs",
            "coda",
            "davfs",
            "glusterfs",
            "gpfs",
            "lustre",
            "ncpfs",
            "nfs",
            "nfs4",
        ),
        *("orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "wekafs"),
        *(
            "fuse.ceph",
            "fuse.davfs2",
            "fuse.gcsfuse",
            "fuse.glusterfs",
            "fuse.juicefs",
            "fuse.mount-s3",
            "fuse.rclone",
        ),
        *("fuse.s3fs", "fuse.smbnetfs", "fuse.sshfs"),
    }
)


def ensure_private_directory(path: Path) -> None:
    """Make `path` (not its parents) if it is missing, durably; afterwards it is a real folder of ours with mode 0700.

    Raises
    ------
    UnfitError
        If it is a symbolic link or no folder, belongs to another user, or cannot be made.
    """
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
            sync_directory(path.parent)  # what is synced in it later must be found after a power failure
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError as error:
        raise UnfitError(
            "is not a folder (or is a symbolic link), so it cannot hold private data", path=path
        ) from error
    except OSError as error:
        raise UnfitError(f"cannot be made or entered: {error.strerror}", path=path) from error
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid():
            raise UnfitError(
                f"belongs to user {found.st_uid}, not to you (user {os.geteuid()})",
                path=path,
                remedy="Somebody else made it; ask them or the administrator to remove it",
            )
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the names in a folder durable, where we may open it and its file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def ensure_private_tree(root: Path, *names: str) -> Path:
    """`root` and each of `names` below it, all private; returns the last. Makes missing parents."""
    try:
        missing = [parent for parent in root.parents if not parent.exists()]
        root.parent.mkdir(parents=True, exist_ok=True)
        for made in missing:
            sync_directory(made.parent)
    except OSError as error:
        raise UnfitError(f"cannot be made: {error.strerror}", path=root.parent) from error
    current = root
    ensure_private_directory(current)
    for name in names:
        current = current / name
        ensure_private_directory(current)
    return current


def refuse_network_filesystem(path: Path, what: str, remedy: str, mounts: Sequence[Mount] | None = None) -> None:
    """Raise UnfitError if `path` (which exists) lies on a network file system; `what` names its use."""
    kind = filesystem_type(path, mounts)
    if kind in NETWORK_FILESYSTEMS:
        raise UnfitError(f"lies on a network file system ({kind}); {what} needs a local disk", path=path, remedy=remedy)


def remove_if_empty(path: Path) -> None:
    """Remove the folder if nothing is in it; otherwise, or where it cannot be, leave it."""
    try:
        path.rmdir()
    except OSError:
        return


def is_private_to(path: Path, owners: Sequence[int]) -> bool:
    """Whether `path` is a real folder of one of `owners` that nobody else can write to."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid in owners and not found.st_mode & 0o022


def free_bytes(path: Path) -> int:
    """What an ordinary user may still write to the file system of `path`."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def total_bytes(path: Path) -> int:
    """The size of the file system of `path`; 0 for one without a limit."""
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize
