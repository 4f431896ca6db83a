"""The tmpfs folder that holds a mount's bytes in RAM, and its size.

Root gets a tmpfs of its own, made to measure; where mounting is not permitted (a container), and for
everybody else, it is a private folder in /dev/shm. A folder that a killed daemon left is found and used again
with all its files. `release_ram` removes everything, so it is called only when nothing is kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vfsd.daemon.folders import ensure_private_tree, free_bytes, remove_if_empty, total_bytes
from vfsd.daemon.mountinfo import filesystem_type, mount_at, read_mounts
from vfsd.daemon.places import Places
from vfsd.daemon.sizes import format_size
from vfsd.errors import UnfitError

# Whoever fills a whole file may ask for huge pages: what is made of a stored image takes a third of the time. Other writers get
# small pages, so that a file with holes takes only what was written.
HUGE_PAGES = "huge=advise"
# The tmpfs is larger than the budget by this much and a 64th, so that the budget is what writers meet and not
# ENOSPC: pages are counted whole (4 KiB a file), and a file being spilled or hydrated is briefly there twice.
SLACK = 64 << 20
LINGER = Path("/var/lib/systemd/linger")
# systemd-logind leaves the shared memory of system users alone (logind.conf(5), RemoveIPC).
LAST_SYSTEM_UID = 999
LOGIND = Path("/run/systemd/seats")
BOOTED_WITH_SYSTEMD = Path("/run/systemd/system")


@dataclass(frozen=True, slots=True)
class RamFolder:
    """The folder, its budget in bytes, and what the user should know about it."""

    directory: Path
    budget: int
    warnings: tuple[str, ...]


def prepare_ram(places: Places, requested: int | None) -> RamFolder:
    """Make or find the RAM folder; `requested` is --ram in bytes, None for the default.

    Raises
    ------
    UnfitError
        If the folder belongs to somebody else or cannot be made.
    """
    from vfsd.tiers.memory import available_bytes, default_ram_budget

    warnings: list[str] = []
    available = available_bytes()
    own_tmpfs = False
    if places.ram_is_default and places.roots.uid == 0:
        wanted = default_ram_budget(available, None) if requested is None else requested
        own_tmpfs = _own_tmpfs(places, wanted)
        if own_tmpfs:
            return RamFolder(places.ram, wanted, ())
    directory = _plain_folder(places)
    kind = filesystem_type(directory)
    if kind not in ("tmpfs", "ramfs"):
        warnings.append(f"the RAM folder {directory} is on {kind or 'an unknown file system'}, not in RAM (tmpfs)")
    size = total_bytes(directory)
    limit = size if size > 0 else None
    if requested is None:
        budget = default_ram_budget(available, limit)
    else:
        budget = requested if limit is None else min(requested, limit)
        if budget < requested:
            warnings.append(f"only {format_size(budget)} of RAM are used: {directory} is no larger than that")
    if directory.is_relative_to("/dev/shm") and logout_empties_shared_memory(places.roots.uid):
        if requested is None:
            budget = 0
        warnings.append(
            "you do not linger, so your files in /dev/shm are deleted when you log out: "
            + (
                "new files go to the disk cache instead of RAM. "
                if requested is None
                else "what is not flushed is lost then. "
            )
            + "To have them in RAM: loginctl enable-linger"
        )
    return RamFolder(directory, budget, tuple(warnings))


def logout_empties_shared_memory(uid: int, linger: Path = LINGER) -> bool:
    """Whether systemd-logind removes this user's files in /dev/shm at the last logout (RemoveIPC)."""
    import pwd

    if uid <= LAST_SYSTEM_UID or not (LOGIND.exists() and BOOTED_WITH_SYSTEMD.exists()):
        return False
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return True
    return not (linger / name).exists()


def release_ram(directory: Path) -> None:
    """Remove the RAM folder with all in it, its tmpfs if it is one, and the folder above if that is empty."""
    shutil.rmtree(directory, ignore_errors=True)
    if mount_at(os.fsencode(directory), read_mounts()) is not None:
        # Lazily, as this process may still have mappings of its files; they are gone when it ends.
        subprocess.run(["umount", "-l", "--", directory], check=False, capture_output=True)
        remove_if_empty(directory)
    if directory.name == "ram":
        remove_if_empty(directory.parent)


def _plain_folder(places: Places) -> Path:
    if not places.ram_is_default:
        try:
            places.ram.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnfitError(f"cannot be made: {error.strerror}", path=places.ram.parent) from error
        return ensure_private_tree(places.ram)
    return ensure_private_tree(places.roots.shared_memory, places.mount_id, "ram")


def _own_tmpfs(places: Places, budget: int) -> bool:
    """Mount a tmpfs for this budget at `places.ram`, or resize the one there; False if forbidden."""
    options = f"size={budget + budget // 64 + SLACK}"
    try:
        places.roots.runtime.mkdir(mode=0o755, parents=True, exist_ok=True)
        ensure_private_tree(places.roots.runtime / places.mount_id, "ram")
    except OSError:
        return False
    mount = mount_at(os.fsencode(places.ram), read_mounts())
    if mount is not None and mount.filesystem == "tmpfs":
        # What a killed daemon left. The kernel refuses a size below what is in it: then the old size stays.
        _run_mount("-o", f"remount,{options}", "--", os.fspath(places.ram))
        return True
    options += ",mode=0700,nosuid,nodev,noexec"
    target = ("--", "vfsd", os.fspath(places.ram))
    made = _run_mount("-t", "tmpfs", "-o", f"{options},{HUGE_PAGES}", *target)
    made = made or _run_mount("-t", "tmpfs", "-o", options, *target)  # a kernel without huge pages
    if not made:
        remove_if_empty(places.ram)
        remove_if_empty(places.ram.parent)
    return made


def _run_mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def default_cache_budget(directory: Path, already_there: int) -> int:
    """80 % of what is free on the cache's disk, what already lies in the cache counted as free.

    The rest stays for the store, which is usually on the same disk and needs room before the cache gives any
    back.
    """
    return (free_bytes(directory) + already_there) * 4 // 5
