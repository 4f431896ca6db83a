"""What a backend must do: keep objects under names. The three built-in ones are the tiers of a tree (`tier_backends`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class StorageBackend(ABC):
    """A place for objects. Names are text with slashes; every method may be called from any thread.

    A class of somebody else's is made with no arguments, when it is first asked for, and kept.

    Example
    -------
    >>> class Dictionary(StorageBackend):
    ...     def __init__(self):
    ...         self.kept = {}
    ...     def save(self, data, path, *, overwrite=False, **options):
    ...         if path in self.kept and not overwrite:
    ...             raise FileExistsError(path)
    ...         self.kept[path] = data
    ...     def load(self, path, **options):
    ...         return self.kept[path]
    ...     def exists(self, path):
    ...         return path in self.kept
    ...     def delete(self, path):
    ...         del self.kept[path]
    ...     def list_files(self, directory):
    ...         return sorted(self.kept)
    """

    @abstractmethod
    def save(self, data: Any, path: str, *, overwrite: bool = False, **options: Any) -> None:
        """Keep `data` under a name; FileExistsError where there is something, unless `overwrite`."""

    @abstractmethod
    def load(self, path: str, **options: Any) -> Any:
        """What was saved; FileNotFoundError."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether there is something."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove it; FileNotFoundError."""

    @abstractmethod
    def list_files(self, directory: str) -> list[str]:
        """The names below a folder, whole."""
