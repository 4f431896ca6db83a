"""Names of backends to backends: the three that are tiers, those of entry points (`vfsd.backends`), those registered by code."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Final

from vfsd.client.backend import StorageBackend
from vfsd.client.tier_backends import DiskStorageBackend, MemoryStorageBackend, TierBackend, ZarrStorageBackend
from vfsd.client.tree_storage import TreeStorage
from vfsd.errors import StorageResolutionError, UsageProblem

ENTRY_POINTS: Final = "vfsd.backends"
AUTO: Final = "auto"
BUILT_IN: Final[Mapping[str, type[TierBackend]]] = {
    "memory": MemoryStorageBackend,
    "disk": DiskStorageBackend,
    "zarr": ZarrStorageBackend,
}


class StorageRegistry:
    """See the module. The built-in backends are those of `storage`, a `FileManager`'s tree; without one they cannot be had.

    Example
    -------
    >>> from vfsd.client.registry import StorageRegistry
    >>> registry = StorageRegistry()
    >>> sorted(registry.names())[:4]
    ['auto', 'disk', 'memory', 'zarr']
    """

    def __init__(self, storage: TreeStorage | None = None) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._classes: dict[str, type[StorageBackend]] = dict(BUILT_IN)
        self._made: dict[str, StorageBackend] = {}
        self._offered = {point.name: point for point in entry_points(group=ENTRY_POINTS)}

    def register_backend(self, name: str, backend_class: type[StorageBackend]) -> None:
        """A backend under a name of its own, or instead of another one.

        Raises
        ------
        UsageProblem
            It is no class derived from `StorageBackend`, or the name is "auto".
        """
        if not (isinstance(backend_class, type) and issubclass(backend_class, StorageBackend)):
            raise UsageProblem(f"the backend {name!r} is no class derived from StorageBackend")
        if name == AUTO or not name:
            raise UsageProblem(f"no backend may be called {name!r}")
        with self._lock:
            self._classes[name] = backend_class
            self._made.pop(name, None)

    def names(self) -> list[str]:
        """All that are known, and "auto"."""
        return [AUTO, *sorted({*self._classes, *self._offered})]

    def get_backend(self, name: str) -> StorageBackend:
        """The backend of a name; always the same one.

        Raises
        ------
        StorageResolutionError
            There is none; the message lists those that are known.
        """
        with self._lock:
            made = self._made.get(name)
            known = self._classes.get(name)
        if made is not None:
            return made
        if known is None:
            known = self._offered_class(name)
        if issubclass(known, TierBackend):
            if self._storage is None:
                raise StorageResolutionError(
                    f"the backend {name!r} is a tier of a tree", remedy="Ask a FileManager for it"
                )
            made = known(self._storage)
        else:
            made = known()
        with self._lock:
            return self._made.setdefault(name, made)

    def tier_of(self, name: str) -> str | None:
        """The tier that a name means; None for "auto". Raises StorageResolutionError for anything else."""
        if name == AUTO:
            return None
        backend = self.get_backend(name)
        if not isinstance(backend, TierBackend):
            raise StorageResolutionError(f"the backend {name!r} is no tier of a tree")
        return str(backend.tier)

    def _offered_class(self, name: str) -> type[StorageBackend]:
        point = self._offered.get(name)
        if point is None:
            raise StorageResolutionError(
                f"no backend is called {name!r}", remedy=f"Known are: {', '.join(self.names())}"
            )
        try:
            found: Any = point.load()
        except Exception as error:  # a package of somebody else's
            raise StorageResolutionError(
                f"the backend {name!r} cannot be imported from {point.value} ({error})"
            ) from error
        self.register_backend(name, found)
        checked: type[StorageBackend] = found
        return checked
