"""The three built-in backends: the tiers of one tree. They share its names: one file, wherever its bytes are."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from vfsd.client.backend import StorageBackend
from vfsd.client.tree_storage import Tier, TreeStorage


class TierBackend(StorageBackend):
    """A tier of a tree. Saving puts bytes there; loading moves them there."""

    tier: ClassVar[Tier]

    def __init__(self, storage: TreeStorage) -> None:
        self._storage = storage

    def save(self, data: Any, path: str, *, overwrite: bool = False, **options: Any) -> None:
        self._storage.save(data, path, self.tier, overwrite=overwrite, **options)

    def load(self, path: str, **options: Any) -> Any:
        return self._storage.load(path, self.tier, **options)

    def exists(self, path: str) -> bool:
        return self._storage.exists(path)

    def delete(self, path: str) -> None:
        self._storage.delete(path)

    def list_files(self, directory: str) -> list[str]:
        folder = self._storage.path(directory)
        return [
            os.fsdecode(folder + b"/" + one.name if folder else one.name)
            for one in self._storage.files.entries(folder)
            if one.is_file
        ]


class MemoryStorageBackend(TierBackend):
    """`memory`: the RAM tier. What RAM has no room for is in the cache, as the tiers' policy has it."""

    tier = "ram"


class DiskStorageBackend(TierBackend):
    """`disk`: the cache tier, on a local disk."""

    tier = "cache"


class ZarrStorageBackend(TierBackend):
    """`zarr`: the store. Saving flushes the file, verified; loading an array gives zarr's."""

    tier = "store"
