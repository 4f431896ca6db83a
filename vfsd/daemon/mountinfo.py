"""What is mounted where, read from /proc/self/mountinfo.

Nothing here touches a mount point: `stat` of a mount whose daemon died gives ENOTCONN, and of one whose
daemon hangs it never returns. Paths are raw bytes, unescaped from the kernel's octal form (proc(5),
mountinfo). Lines that cannot be parsed are skipped, never an error: the file belongs to the kernel and may
grow fields.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")
VFSD_TYPE = "fuse.vfsd"
# The kernel escapes space, tab, newline and backslash (and '#' in some fields) as three octal digits.
ESCAPE = re.compile(rb"\\([0-3][0-7]{2})")
# As many symbolic links as the kernel itself follows in one path (path_resolution(7)).
MOST_LINKS = 40


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo: `device` is "major:minor", `root` the part of the file system mounted there."""

    number: int
    parent: int
    device: str
    root: bytes
    mountpoint: bytes
    filesystem: str
    source: bytes
    super_options: bytes

    @property
    def user_id(self) -> int | None:
        """The user who made this FUSE mount; None for other file systems."""
        for option in self.super_options.split(b","):
            key, _, value = option.partition(b"=")
            if key == b"user_id" and value.isdigit():
                return int(value)
        return None


def unescape(field: bytes) -> bytes:
    """The bytes that the kernel wrote as `field`."""
    return ESCAPE.sub(lambda match: bytes((int(match[1], 8),)), field)


def parse_mountinfo(text: bytes) -> list[Mount]:
    """The mounts in the kernel's order; malformed lines are left out."""
    mounts = []
    for line in text.split(b"\n"):
        fields = line.split(b" ")
        try:
            # Optional fields (shared:1 …) end at a lone "-", after at least six fixed ones.
            separator = fields.index(b"-", 6)
            number, parent = int(fields[0]), int(fields[1])
            filesystem, source, super_options = fields[separator + 1 : separator + 4]
        except ValueError:
            continue
        mounts.append(
            Mount(
                number,
                parent,
                os.fsdecode(fields[2]),
                unescape(fields[3]),
                unescape(fields[4]),
                os.fsdecode(unescape(filesystem)),
                unescape(source),
                super_options,
            )
        )
    return mounts


def read_mounts() -> list[Mount]:
    """The mounts that this process sees; none where /proc is missing."""
    try:
        return parse_mountinfo(MOUNTINFO.read_bytes())
    except OSError:
        return []


def topmost(mounts: Sequence[Mount]) -> Mount | None:
    """Of mounts stacked on one path, the one that a look-up reaches."""
    covered = {mount.parent for mount in mounts}
    visible = [mount for mount in mounts if mount.number not in covered]
    return visible[-1] if visible else None


def mount_at(path: bytes, mounts: Sequence[Mount]) -> Mount | None:
    """The mount whose mount point is exactly `path` (absolute, without symbolic links)."""
    return topmost([mount for mount in mounts if mount.mountpoint == path])


def mount_holding(path: bytes, mounts: Sequence[Mount]) -> Mount | None:
    """The mount on which `path` lies (absolute, without symbolic links)."""
    while True:
        found = mount_at(path, mounts)
        if found is not None or path in (b"/", b""):
            return found
        path = path.rpartition(b"/")[0] or b"/"


def filesystem_type(path: Path, mounts: Sequence[Mount] | None = None) -> str:
    """The type of the file system that holds `path`, such as "ext4" or "nfs4"; "" when nobody can say."""
    real = os.fsencode(os.path.realpath(path))
    mount = mount_holding(real, read_mounts() if mounts is None else mounts)
    return "" if mount is None else mount.filesystem


def resolve_mountpoint(path: Path, mounts: Sequence[Mount]) -> Path:
    """`path` without symbolic links, found without touching anything that is mounted at its end.

    Only the folders above the last name are looked at, so that a dead or hanging mount at the end is never
    asked.
    """
    current = Path.cwd() / path
    points = {mount.mountpoint for mount in mounts}
    for _ in range(MOST_LINKS):
        if current.name in ("", ".."):
            return Path(os.path.realpath(current))
        current = Path(os.path.realpath(current.parent)) / current.name
        if os.fsencode(current) in points:
            break
        try:
            target = current.readlink()
        except OSError:
            break
        current = current.parent / target
    return current
