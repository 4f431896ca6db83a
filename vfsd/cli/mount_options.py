"""The options of `-o`, as mount(8) and fstab write them: `ro,allow_other,ram=8G,store=/data/plate1.vfs`.

Every option has one of three meanings: a setting of vfsd, an option for the kernel, or one that mount(8) and
its friends use and that means nothing to us. Anything else is a usage error: a misspelt option must not pass
for a set one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vfsd.daemon.configuration import Layer, option_layer
from vfsd.daemon.settings import BY_NAME, Kind, Setting, nearest
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
    """What the options set, and what the kernel is to be told."""

    settings: Layer
    kernel: tuple[str, ...] = ()


def parse_mount_options(arguments: Iterable[str], *, sloppy: bool = False) -> GivenOptions:
    """Read the values of all `-o`; the last of contradicting ones counts, as for mount(8).

    Parameters
    ----------
    arguments : iterable of str
        Lists of options, separated by commas.
    sloppy : bool
        Leave out what is not known, as `mount -s` asks.

    Raises
    ------
    UsageProblem
        For an unknown option, a missing or an unexpected value.
    """
    settings: dict[str, str | bool] = {}
    kernel: list[str] = []
    for option in (option for argument in arguments for option in split_options(argument)):
        key, has_value, value = option.partition("=")
        name = key.replace("-", "_")
        if key.startswith(NO_MEANING_PREFIXES) or (has_value and key in NO_MEANING_KEYS):
            continue
        if name in REFUSED:
            raise UsageProblem(f"the mount option {shown_path(key)!r} is not supported: {REFUSED[name]}")
        setting, truth = _setting(name)
        if setting is not None and setting.kind is not Kind.FLAG:
            if not value:
                raise UsageProblem(f"the mount option {key!r} needs a value, as in {key}=…")
            settings[setting.name] = value
        elif setting is not None and (truth or not has_value):
            settings[setting.name] = value if has_value else truth
        elif key in ("ro", "rw") and not has_value:
            settings["read_only"] = key == "ro"
        elif key in KERNEL and not has_value:
            kernel.append(key)
        elif not sloppy and (has_value or key not in NO_MEANING):
            meant = nearest(name, [*BY_NAME, *KERNEL])
            raise UsageProblem(
                f"unknown mount option {shown_path(option)!r}",
                remedy=None if meant is None else f"Did you mean {meant}?",
            )
    return GivenOptions(option_layer(settings, "-o"), tuple(kernel))


def split_options(argument: str) -> list[str]:
    """The options of one list. A value in double quotes may hold commas, as mount(8) has it."""
    return [option.replace('"', "") for option in re.findall(r'(?:"[^"]*"|[^,"]|")+', argument) if option]


def _setting(name: str) -> tuple[Setting | None, bool]:
    """The setting that an option without its value means, and whether it turns it on."""
    if name in BY_NAME:
        return BY_NAME[name], True
    opposite = BY_NAME.get(name.removeprefix("no").removeprefix("_")) if name.startswith("no") else None
    return (opposite, False) if opposite is not None and opposite.kind is Kind.FLAG else (None, False)
