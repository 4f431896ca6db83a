"""What must be true before anything is made: source, mount point, FUSE, and no folder inside another.

Each check raises `UnfitError` with the path, the cause and the way out, and changes nothing, except that dead
vfsd mounts in the way are cleared. Paths that come back are absolute and without symbolic links. Folders are
compared by device and inode number as well as by name, so that a bind mount does not hide that two are one.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from vfsd.daemon.dead_mounts import Pulse, clear_dead_mounts, probe
from vfsd.daemon.mountinfo import VFSD_TYPE, mount_at, read_mounts, resolve_mountpoint
from vfsd.daemon.registry import known_mounts
from vfsd.errors import BusyError, PathLike, UnfitError, shown_path

FUSE_DEVICE = Path("/dev/fuse")
FUSE_CONF = Path("/etc/fuse.conf")
CONTAINER_REMEDY = "in a container: --device /dev/fuse --cap-add SYS_ADMIN"


def check_fuse(*, allow_other: bool, device: Path = FUSE_DEVICE, conf: Path = FUSE_CONF) -> None:
    """This machine lets this user make FUSE mounts (with `allow_other`, such that others may enter)."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        remedy = {
            errno.ENOENT: f"Load it with 'modprobe fuse'; {CONTAINER_REMEDY}",
            errno.ENODEV: "Load the kernel's module with 'modprobe fuse'",
            errno.EACCES: "Ask the administrator for access to it (usually mode 0666)",
            errno.EPERM: CONTAINER_REMEDY,
        }
        raise UnfitError(
            f"FUSE cannot be used: {error.strerror}", path=device, remedy=remedy.get(error.errno or 0)
        ) from error
    if shutil.which("fusermount3") is None:
        raise UnfitError("fusermount3 is not installed", remedy="Install the package 'fuse3'")
    if allow_other and os.geteuid() != 0 and not others_may_be_allowed(conf):
        raise UnfitError(
            "does not allow users to let others into their mounts",
            path=conf,
            remedy="The administrator can add the line 'user_allow_other' there",
        )


def others_may_be_allowed(conf: Path = FUSE_CONF) -> bool:
    """Whether ordinary users may use allow_other."""
    try:
        lines = conf.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def check_source(path: Path) -> Path:
    """`path` is a folder whose files we may list and reach; returns it resolved."""
    resolved = Path(os.path.realpath(path))
    try:
        if not stat.S_ISDIR(resolved.stat().st_mode):
            raise UnfitError("is not a folder", path=path, remedy="Name the plate's folder")
        with os.scandir(resolved) as entries:
            next(entries, None)
    except FileNotFoundError as error:
        raise UnfitError("does not exist", path=path) from error
    except OSError as error:
        raise UnfitError(f"cannot be read: {error.strerror}", path=path) from error
    if not os.access(resolved, os.R_OK | os.X_OK):
        raise UnfitError("cannot be read: Permission denied", path=path)
    return resolved


def clear_mountpoint(path: Path) -> tuple[Path, bool]:
    """`path` resolved, after clearing dead vfsd mounts from it; and whether there was one.

    Raises
    ------
    UnfitError
        If a living vfsd mount is there, or a dead mount of another program.
    """
    mounts = read_mounts()
    resolved = resolve_mountpoint(path, mounts)
    cleared = clear_dead_mounts(resolved)
    mount = mount_at(os.fsencode(resolved), read_mounts())
    if mount is None or not mount.filesystem.startswith("fuse"):
        return resolved, cleared
    if mount.filesystem == VFSD_TYPE:
        raise UnfitError(
            f"is already a vfsd mount{_served_by(resolved)}",
            path=path,
            remedy=f"Unmount it first: vfsd umount {shown_path(path)}",
        )
    if probe(resolved) is Pulse.DEAD:
        raise UnfitError(
            f"is a dead mount of another program ({mount.filesystem})",
            path=path,
            remedy=f"Clear it with: fusermount3 -u {shown_path(path)}",
        )
    return resolved, cleared


def _served_by(mountpoint: Path) -> str:
    for one in known_mounts():
        if one.mountpoint == mountpoint and one.mount is not None and one.record is not None:
            what = one.record.source if one.record.source is not None else one.record.store
            return f" of {shown_path(what)}, served by process {one.record.pid}"
    return ""


def check_mountpoint(path: Path, source: Path) -> None:
    """`path` (resolved, nothing of ours mounted there) is an empty folder, or the source itself."""
    try:
        found = path.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise UnfitError("is not a folder, so nothing can be mounted there", path=path)
        if not os.path.samestat(found, source.stat()):
            with os.scandir(path) as entries:
                if next(entries, None) is not None:
                    raise UnfitError("is not empty", path=path, remedy="Choose an empty folder to mount at")
    except FileNotFoundError as error:
        raise UnfitError("does not exist", path=path, remedy=f"Make it first: mkdir {shown_path(path)}") from error
    except OSError as error:
        raise UnfitError(f"cannot be used as a mount point: {error.strerror}", path=path) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise UnfitError("is not writable for you, which FUSE asks of a mount point", path=path)


def refuse_nesting(named: Mapping[str, Path], *, may_coincide: Sequence[frozenset[str]] = ()) -> None:
    """No folder of `named` (what it is → path, existing or not) lies inside another one.

    Parameters
    ----------
    may_coincide : sequence of frozenset of str
        Pairs of names that may be one and the same folder, such as a mount point over its source.

    Raises
    ------
    UnfitError
        Naming both.
    """
    for (one, first), (other, second) in combinations(named.items(), 2):
        first_in_second, second_in_first = is_inside(first, second), is_inside(second, first)
        if first_in_second and second_in_first and frozenset({one, other}) in may_coincide:
            continue
        if first_in_second or second_in_first:
            inner, outer = (one, other) if first_in_second else (other, one)
            relation = "is the same folder as" if first_in_second and second_in_first else "lies inside"
            raise UnfitError(
                f"the {inner} {relation} the {outer} {shown_path(named[outer])}",
                path=named[inner],
                remedy=f"Choose another place for the {inner if inner != 'source' else outer}",
            )


def is_inside(inner: Path, outer: Path) -> bool:
    """Whether `inner` is `outer` or lies below it, by name or by identity of a folder above it."""
    inner, outer = Path(os.path.realpath(inner)), Path(os.path.realpath(outer))
    if inner.is_relative_to(outer):
        return True
    try:
        target = outer.stat()
    except OSError:
        return False
    for folder in (inner, *inner.parents):
        try:
            if os.path.samestat(folder.stat(), target):
                return True
        except OSError:
            continue
    return False


def check_store_belongs(store: PathLike, recorded: Path | None, source: Path) -> None:
    """The store at `store`, made for the plate at `recorded`, may be used with `source`: both are one folder.

    Raises
    ------
    UnfitError
        If it holds another plate.
    """
    if recorded is None or Path(os.path.realpath(recorded)) == source:
        return
    try:
        if os.path.samestat(recorded.stat(), source.stat()):
            return
    except OSError:
        # The recorded folder is gone: a plate that was moved, or another one. We cannot know, so the user
        # must say.
        remedy = (
            f"If the plate was moved, make a symbolic link from the old place to the new one: "
            f"ln -s {shown_path(source)} {shown_path(recorded)}; otherwise choose another place with --store"
        )
    else:
        remedy = "Choose another place with --store"
    raise UnfitError(f"is the store of another source, {shown_path(recorded)}", path=store, remedy=remedy)


def busy_store(store: PathLike, error: BusyError | None = None) -> BusyError:
    """The error for a store in use: by which mount, if we can see that; else `error`, what its lock said."""
    for one in known_mounts():
        if one.alive and one.record is not None and is_inside(Path(one.record.store), Path(os.fsdecode(store))):
            where, process = shown_path(one.mountpoint), f"process {one.record.pid}"
            if one.mount is None:
                text = f"is still being flushed by {process}, after the unmount of {where}"
                return BusyError(text, path=store, remedy=f"Wait for it with: vfsd umount {where}")
            text = f"is in use by the mount at {where} ({process})"
            return BusyError(text, path=store, remedy=f"Use that one, or unmount it: vfsd umount {where}")
    return error if error is not None else BusyError("is in use by another vfsd process", path=store)
