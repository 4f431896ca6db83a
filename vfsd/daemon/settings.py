"""The settings of a mount, in one table: what each is called, how its text is read, what it is without being set.

The command line, `-o`, the environment and the configuration files all read this table, so that a setting is
added in one place and means the same everywhere. Where a value comes from is the business of
`daemon/configuration.py`; what it does, of whoever reads `MountOptions`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from vfsd.daemon.sizes import parse_levels, parse_size
from vfsd.errors import UsageProblem, shown_path

TRUE = frozenset({"true", "yes", "on", "1"})
FALSE = frozenset({"false", "no", "off", "0"})


class Kind(enum.Enum):
    """How a setting is written."""

    FLAG = "true or false"
    SIZE = "a size, as 8G"
    PATH = "a path"
    LEVELS = 'a number, or "auto"'
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `name` is that of TOML keys; options have dashes for its underscores, `VFSD_…` has it in capitals."""

    name: str
    kind: Kind
    help: str
    default: str
    """What it is when nobody sets it, in words."""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    field: str = ""
    """The field of `MountOptions`, where it is not the name."""
    one_mount: bool = False
    """Whether it belongs to one mount, and so into no file that holds for all."""

    @property
    def option(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        return f"VFSD_{self.name.upper()}"

    @property
    def target(self) -> str:
        """The field of `MountOptions` that it sets."""
        return self.field or self.name

    def read(self, text: str) -> Any:
        """The value that `text` means.

        Raises
        ------
        UsageProblem
            If it means none; the message does not name the setting.
        """
        if not text or "\0" in text:
            raise UsageProblem(f"needs a value: {self.kind.value}")
        if self.choices and text not in self.choices:
            raise UsageProblem(f"{shown_path(text)!r} is none of: {', '.join(self.choices)}")
        return _READERS[self.kind](text)


def _flag(text: str) -> bool:
    if text.lower() in TRUE | FALSE:
        return text.lower() in TRUE
    raise UsageProblem(f"{shown_path(text)!r} is neither true nor false")


_READERS: dict[Kind, Callable[[str], Any]] = {
    Kind.FLAG: _flag,
    Kind.SIZE: parse_size,
    # Made absolute, its symbolic links left alone; nothing on disk is looked at.
    Kind.PATH: lambda text: Path.cwd() / text,
    Kind.LEVELS: parse_levels,
    Kind.TEXT: str,
}

SETTINGS = (
    Setting("store", Kind.PATH, "Where new files go in the end.", "SOURCE.vfs", "DIR", one_mount=True),
    Setting("ingest", Kind.FLAG, "Also take the source's own files into the store.", "no", one_mount=True),
    Setting("ram", Kind.SIZE, "The most RAM for files, as 8G.", "half of what is free", "SIZE"),
    Setting("ram_dir", Kind.PATH, "A folder on a tmpfs for these.", "a tmpfs of our own", "DIR"),
    Setting(
        "cache",
        Kind.PATH,
        "A folder on a local disk for what RAM has no room for.",
        "in the state folder",
        "DIR",
        field="cache_dir",
    ),
    Setting("cache_size", Kind.SIZE, "The most disk space for these.", "80 % of what is free", "SIZE"),
    Setting("keep_in_ram", Kind.SIZE, "New data up to this stays in RAM where it fits.", "1G", "SIZE"),
    Setting("stream_above", Kind.SIZE, "New data beyond this goes to the store at once.", "10G", "SIZE"),
    Setting("read_only", Kind.FLAG, "Nothing can be changed or added.", "no"),
    Setting("allow_other", Kind.FLAG, "Let other users in, by the files' permissions.", "no"),
    Setting("prefetch", Kind.FLAG, "Make ready what a program is about to open.", "yes"),
    Setting(
        "transport",
        Kind.TEXT,
        "How to talk to the kernel.",
        "auto",
        choices=("auto", "pyfuse3", "kernel"),
    ),
    Setting("plate_format", Kind.TEXT, "Which instrument took the plate.", "found by names and metadata", "NAME"),
    Setting(
        "pattern", Kind.TEXT, "What names mean, as '{row}{column}_s{field}_w{channel}.tif'.", "by instrument", "PATTERN"
    ),
    Setting(
        "zarr_as",
        Kind.TEXT,
        "How to show a source that is OME-Zarr: its images as TIFFs, or its files.",
        "tiff",
        choices=("tiff", "files"),
        one_mount=True,
    ),
    Setting(
        "labels",
        Kind.TEXT,
        "Names of label images, as '{image}_{label}.tif'; none.",
        "mask, label and the like in the name",
        "PATTERN",
    ),
    Setting("archive", Kind.FLAG, "Compress new images for few bytes, not for speed.", "no"),
    Setting("levels", Kind.LEVELS, "Halve new images N times for viewers.", "auto", "N"),
    Setting(
        "verify",
        Kind.TEXT,
        "Before anything is given up: rebuild what was written, compare its digests, or neither.",
        "full",
        choices=("full", "digest", "off"),
    ),
)
BY_NAME = {setting.name: setting for setting in SETTINGS}


def nearest(name: str, known: Iterable[str], *, likeness: float = 0.6) -> str | None:
    """The known name that a misspelt one was probably meant to be; likeness: from 0 to 1, as difflib's ratio."""
    found = get_close_matches(name, list(known), n=1, cutoff=likeness)
    return found[0] if found else None
