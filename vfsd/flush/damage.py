"""What can be damaged in a store, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import final

from vfsd.errors import shown_path


@final
class Damage(StrEnum):
    """Whose damage it is."""

    FILE = "file"
    LEVEL = "level"
    COPY = "copy"
    METADATA = "metadata"
    RECEIPT = "receipt"
    STORE = "store"

    @property
    def told(self) -> str:
        """What it means for the user's files."""
        return _TOLD[self]


_TOLD = {
    Damage.FILE: "",
    Damage.LEVEL: "; it is a smaller copy for viewers: no file is concerned",
    Damage.COPY: "; every file can still be rebuilt, but other readers may see wrong pixels",
    Damage.METADATA: "; it is what other readers need: no file is concerned",
    Damage.RECEIPT: "; no file is concerned",
    Damage.STORE: "; no file is concerned",
}


@final
@dataclass(frozen=True, slots=True)
class Damaged:
    """A file that the store cannot give back as it was (`path` in the tree), or an object (key in the store), and why."""

    path: bytes
    reason: str
    kind: Damage = Damage.FILE
    ino: int = 0

    @property
    def told(self) -> str:
        """The reason, and what it means."""
        return self.reason + self.kind.told


def described(damaged: Damaged) -> str:
    """One line for people."""
    return f"{shown_path(damaged.path)}: {shown_path(damaged.told)}"
