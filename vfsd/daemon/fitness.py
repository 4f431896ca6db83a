"""Is this machine fit for vfsd: what commonly goes wrong, each with its remedy (`vfsd doctor`).

Every check only looks. A finding is "ok", "warning" (works, but worse than it could) or "problem" (does not
work).
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from vfsd.daemon.checks import check_fuse, others_may_be_allowed
from vfsd.daemon.folders import NETWORK_FILESYSTEMS, free_bytes, total_bytes
from vfsd.daemon.mountinfo import filesystem_type
from vfsd.daemon.places import LOCAL_STATE_REMEDY, Roots, own_roots
from vfsd.daemon.ram_folder import logout_empties_shared_memory
from vfsd.daemon.sizes import format_size
from vfsd.errors import UnfitError

# pyfuse3 (libfuse 3) and renameat2 work from long before 4.18 on.
OLDEST_KERNEL = (4, 18)
# Below this a plate's worth of open files goes through the descriptor cache all the time.
FEW_DESCRIPTORS = 4096
# One field of a plate, a few times over: less makes every write wait for the disk.
LITTLE_MEMORY = 1 << 30
LITTLE_DISK = 10 << 30


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    verdict: Verdict
    text: str
    remedy: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine_machine(roots: Roots | None = None) -> list[Finding]:
    """All findings, in the order in which a person would go through them."""
    roots = own_roots() if roots is None else roots
    checks: list[Callable[[Roots], Finding]] = [
        _kernel,
        _fuse,
        _pyfuse3,
        _passthrough,
        _allow_other,
        _memory,
        _tmpfs,
        _linger,
        _descriptors,
        _state_folder,
        _free_space,
        _gpu,
    ]
    return [check(roots) for check in checks]


def _kernel(roots: Roots) -> Finding:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers < OLDEST_KERNEL:
        return Finding("kernel", Verdict.PROBLEM, f"Linux {release} is too old", "Use Linux 4.18 or newer")
    return Finding("kernel", Verdict.OK, f"Linux {release}")


def _fuse(roots: Roots) -> Finding:
    try:
        check_fuse(allow_other=False)
    except UnfitError as error:
        return Finding("FUSE", Verdict.PROBLEM, error.message, error.remedy)
    return Finding("FUSE", Verdict.OK, f"/dev/fuse can be used, {_fusermount_version()}")


def _fusermount_version() -> str:
    try:
        done = subprocess.run(
            ["fusermount3", "--version"], check=False, capture_output=True, text=True, errors="replace"
        )
    except OSError:
        return "fusermount3 is there"
    return done.stdout.strip() or "fusermount3 is there"


def _pyfuse3(roots: Roots) -> Finding:
    try:
        import pyfuse3
    except ImportError as error:
        return Finding("pyfuse3", Verdict.PROBLEM, f"cannot be imported: {error}", "Install libfuse3 and pyfuse3")
    return Finding("pyfuse3", Verdict.OK, str(getattr(pyfuse3, "__version__", "is there")))


def _passthrough(roots: Roots) -> Finding:
    from vfsd.fuse.kernel.probe import passthrough_lacks

    lacks = passthrough_lacks()
    if lacks is None:
        return Finding("passthrough", Verdict.OK, "the kernel can read files by itself (--transport kernel)")
    return Finding("passthrough", Verdict.OK, f"{lacks.cause}; every read asks the daemon", lacks.remedy)


def _allow_other(roots: Roots) -> Finding:
    if roots.uid == 0 or others_may_be_allowed():
        return Finding("allow_other", Verdict.OK, "other users may be let into your mounts")
    return Finding(
        "allow_other",
        Verdict.OK,
        "only you can enter your mounts (needed for containers and other users alone)",
        "The administrator can add the line 'user_allow_other' to /etc/fuse.conf",
    )


def _memory(roots: Roots) -> Finding:
    from vfsd.tiers.memory import available_bytes

    available = available_bytes()
    if available < LITTLE_MEMORY:
        return Finding(
            "memory",
            Verdict.WARNING,
            f"only {format_size(available)} are available",
            "Give --ram and --cache with care",
        )
    return Finding("memory", Verdict.OK, f"{format_size(available)} available to vfsd")


def _tmpfs(roots: Roots) -> Finding:
    shared = Path("/dev/shm")
    if filesystem_type(shared) != "tmpfs":
        if roots.uid == 0:
            return Finding("tmpfs", Verdict.OK, "mounts get a tmpfs of their own under /run/vfsd")
        return Finding("tmpfs", Verdict.PROBLEM, "/dev/shm is no tmpfs", "Mount one there, or give --ram-dir a tmpfs")
    size, free = total_bytes(shared), free_bytes(shared)
    text = f"/dev/shm has {format_size(size)}, {format_size(free)} of it free"
    if free < LITTLE_MEMORY:
        return Finding(
            "tmpfs",
            Verdict.WARNING,
            text,
            "Remove what is not needed there, or enlarge it: mount -o remount,size=…",
        )
    return Finding("tmpfs", Verdict.OK, text)


def _linger(roots: Roots) -> Finding:
    if logout_empties_shared_memory(roots.uid):
        return Finding(
            "linger",
            Verdict.WARNING,
            "your files in /dev/shm are deleted when you log out, so new files go to the disk",
            "loginctl enable-linger",
        )
    return Finding("linger", Verdict.OK, "files in RAM outlive a logout")


def _descriptors(roots: Roots) -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < FEW_DESCRIPTORS:
        return Finding(
            "open files",
            Verdict.WARNING,
            f"a process may open only {hard} files",
            "Raise the hard limit (ulimit -Hn)",
        )
    return Finding(
        "open files", Verdict.OK, "no limit" if hard == resource.RLIM_INFINITY else f"up to {hard} a process"
    )


def _nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _state_folder(roots: Roots) -> Finding:
    folder = _nearest(roots.state)
    kind = filesystem_type(folder)
    if kind in NETWORK_FILESYSTEMS:
        return Finding("state folder", Verdict.PROBLEM, f"{roots.state} would lie on {kind}", LOCAL_STATE_REMEDY)
    if not os.access(folder, os.W_OK):
        return Finding("state folder", Verdict.PROBLEM, f"{folder} is not writable for you", LOCAL_STATE_REMEDY)
    return Finding("state folder", Verdict.OK, f"{roots.state} ({kind or 'unknown file system'})")


def _free_space(roots: Roots) -> Finding:
    free = free_bytes(_nearest(roots.state))
    text = f"{format_size(free)} free for the disk cache"
    if free < LITTLE_DISK:
        return Finding("disk", Verdict.WARNING, text, "Give --cache a folder on a larger disk")
    return Finding("disk", Verdict.OK, text)


def _gpu(roots: Roots) -> Finding:
    if shutil.which("nvidia-smi") is None and not Path("/dev/nvidiactl").exists():
        return Finding("GPU", Verdict.OK, "none found; nothing but GPU decoding needs one")
    from importlib.util import find_spec

    if find_spec("cupy") is None:
        return Finding("GPU", Verdict.OK, "found, without cupy", "For decoding on it: pip install 'vfsd[gpu]'")
    return Finding("GPU", Verdict.OK, "found, with cupy")
