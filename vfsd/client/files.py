"""What saving and loading needs of a tree: whole files written at once, bytes seen without a copy, names, tiers.

`mounted.MountFiles` has it of a mount, `embedded.TreeFiles` of a tree in this process. Paths are the tree's (`paths`); every
method may be called from any thread, and raises `OSError` with the path.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vfsd.tiers import TierName

Part = bytes | memoryview
Target = TierName | str
"""`ram`, `cache` or `store`."""

TIER = "user.vfsd.tier"
LOCATION = "user.vfsd.location"
MARK = "user.vfsd.content"
"""The codec that wrote a file whose name does not say it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a folder. What a symbolic link leads to counts; one that leads nowhere is neither."""

    name: bytes
    is_file: bool
    is_directory: bool
    is_link: bool


class Files(ABC):
    """See the module."""

    @abstractmethod
    def write(self, path: bytes, parts: Sequence[Part], *, overwrite: bool, mark: str | None) -> None:
        """A file of these bytes, there as a whole or not at all; FileExistsError unless `overwrite`."""

    @abstractmethod
    def view(self, path: bytes) -> memoryview:
        """A file's bytes, read-only; mapped where the tier's file can be, and kept as long as the view lives."""

    @abstractmethod
    def mark(self, path: bytes) -> str | None:
        """What `write` was given."""

    @abstractmethod
    def tier(self, path: bytes) -> str:
        """`ram`, `cache`, `source` or `store`: where the bytes are."""

    @abstractmethod
    def location(self, path: bytes) -> dict[str, Any]:
        """Where they lie, as `user.vfsd.location` says it."""

    @abstractmethod
    def move(self, path: bytes, tier: Target) -> None:
        """Move a file's bytes to a tier now."""

    def store_together(self, paths: Sequence[bytes]) -> None:
        """Into the store by one flush, where that is less work than one after the other."""
        for path in paths:
            self.move(path, "store")

    @abstractmethod
    def stat(self, path: bytes) -> os.stat_result:
        """As stat(2): what a symbolic link leads to."""

    @abstractmethod
    def entries(self, path: bytes) -> list[Entry]:
        """What is in a folder, in no order."""

    @abstractmethod
    def make_directory(self, path: bytes) -> None:
        """One folder; its parent must be there."""

    @abstractmethod
    def remove(self, path: bytes) -> None:
        """A file or symbolic link, or an empty folder."""

    @abstractmethod
    def rename(self, old: bytes, new: bytes, *, overwrite: bool) -> None:
        """Move a name; FileExistsError unless `overwrite`."""

    @abstractmethod
    def symlink(self, target: bytes, path: bytes) -> None:
        """A symbolic link to `target`, which is taken as it is."""

    @abstractmethod
    def flush(self) -> None:
        """Everything new into the store, verified; FlushIncomplete."""

    def close(self) -> None:
        """Nothing more will be asked."""
        return None
