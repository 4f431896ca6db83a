"""The options of `-o`, as mount(8) and fstab write them: `ro,allow_other,ram=8G,store=/data/plate1.vfs`.

Every option has one of three meanings: a setting of vfsd, an option for the kernel, or one that mount(8) and
its friends use and that means nothing to us. Anything else is a usage error: a misspelt option must not pass
for a set one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vfsd.daemon.sizes import parse_levels, parse_size
from vfsd.errors import UsageProblem, shown_path

# Passed on to the kernel, which understands them for FUSE.
KERNEL = frozenset({"noatime", "nodiratime", "nosuid", "nodev", "noexec", "sync", "dirsync"})
# What FUSE does anyway, or what only mount(8), systemd and fstab care about.
NO_MEANING = frozenset(
    {
        *(
            "rw",
            "defaults",
            "default_permissions",
            "atime",
            "diratime",
            "relatime",
            "norelatime",
            "strictatime",
        ),
        *(
            "suid",
            "dev",
            "exec",
            "async",
            "auto",
            "noauto",
            "user",
            "nouser",
            "users",
            "owner",
            "group",
            "nofail",
        ),
        *("_netdev", "lazytime", "nolazytime", "silent", "loud", "iversion", "noiversion", "mand", "nomand"),
    }
)
NO_MEANING_KEYS = frozenset({"user", "comment", "subtype", "fsname"})
NO_MEANING_PREFIXES = ("x-", "X-")
REFUSED = {
    "auto_unmount": "after a crash it would show an empty folder in the plate's place",
    "max_read": "vfsd chooses it with the transport",
    "nonempty": "a mount over files would hide them; mount over the source itself if that is meant",
}


@dataclass(frozen=True, slots=True)
class GivenOptions:
    """What the options set; None where they say nothing."""

    read_only: bool | None = None
    allow_other: bool | None = None
    ingest: bool | None = None
    store: Path | None = None
    ram: int | None = None
    ram_dir: Path | None = None
    cache: Path | None = None
    cache_size: int | None = None
    keep_in_ram: int | None = None
    stream_above: int | None = None
    transport: str | None = None
    plate_format: str | None = None
    pattern: str | None = None
    levels: int | None = None
    kernel: tuple[str, ...] = ()


def parse_mount_options(arguments: Iterable[str]) -> GivenOptions:
    """Read the values of all `-o`; the last of contradicting ones counts, as for mount(8).

    Raises
    ------
    UsageProblem
        For an unknown option, a missing or an unexpected value.
    """
    given = GivenOptions()
    for argument in arguments:
        for option in argument.split(","):
            if option:
                given = replace(given, **_meaning(option, given))
    return given


def _meaning(option: str, given: GivenOptions) -> dict[str, Any]:
    """The fields that one option sets."""
    key, has_value, value = option.partition("=")
    name = key.replace("-", "_")
    if key.startswith(NO_MEANING_PREFIXES) or (has_value and key in NO_MEANING_KEYS):
        return {}
    if name in REFUSED:
        raise UsageProblem(f"the mount option {shown_path(key)!r} is not supported: {REFUSED[name]}")
    if name in ("ram", "cache_size", "keep_in_ram", "stream_above"):
        return {name: parse_size(_needed(key, value))}
    if name in ("store", "ram_dir", "cache"):
        return {name: Path.cwd() / _needed(key, value)}
    if name == "levels":
        return {name: parse_levels(_needed(key, value))}
    if name in ("transport", "plate_format", "pattern"):
        return {name: _needed(key, value)}
    if has_value:
        raise UsageProblem(f"unknown mount option {shown_path(option)!r}")
    if key in ("ro", "rw"):
        return {"read_only": key == "ro"}
    if name in ("allow_other", "ingest"):
        return {name: True}
    if key in KERNEL:
        return {"kernel": (*given.kernel, key)}
    if key in NO_MEANING:
        return {}
    raise UsageProblem(f"unknown mount option {shown_path(option)!r}")


def _needed(key: str, value: str) -> str:
    if not value:
        raise UsageProblem(f"the mount option {key!r} needs a value, as in {key}=…")
    return value
