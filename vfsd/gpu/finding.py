"""From what the caller names to arrays: an array's folder, a file in a mounted tree, a file of a store that is not mounted.

A stored file becomes the folder of its array and its place there; anything else that is a file is `PlainFile`, which the CPU
reads.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import final

from vfsd.errors import UnfitError
from vfsd.gpu.layout import ArrayLayout, Index, UnsupportedArray, read_layout
from vfsd.store import Kind, Store, is_store
from vfsd.store.catalogue import ROOT_INO

_LOCATION = "user.vfsd.location"


@final
@dataclass(frozen=True, slots=True)
class FoundArray:
    """An array, whole or a plane of it.

    Parameters
    ----------
    folder : Path
        The array's.
    layout : ArrayLayout or None
        None where only zarr-python reads it; `reason` says why.
    plane : tuple of int
        Fixed places along the first axes; () for the whole array.
    """

    folder: Path
    layout: ArrayLayout | None
    plane: Index
    reason: str = ""


@final
@dataclass(frozen=True, slots=True)
class PlainFile:
    """A file whose pixels are in no array."""

    path: Path
    reason: str


@final
class Finder:
    """What paths name; a store's catalogue is opened once, and an array's metadata read once, for all that is asked.

    To be used in a `with` block, on one thread. Nothing is remembered from one block to the next.
    """

    def __init__(self) -> None:
        self._stores = contextlib.ExitStack()
        self._open: dict[Path, Store] = {}
        self._layouts: dict[Path, ArrayLayout] = {}

    def __enter__(self) -> Finder:
        return self

    def __exit__(self, *_: object) -> None:
        self._stores.close()

    def find(self, path: Path) -> FoundArray | PlainFile:
        """What a path names.

        Raises
        ------
        FileNotFoundError
            There is nothing.
        UnfitError
            It is a folder without an array.
        """
        if path.is_dir():
            try:
                return FoundArray(path, self._layout(path), ())
            except UnsupportedArray as error:
                return FoundArray(path, None, (), str(error))
            except FileNotFoundError as error:
                raise UnfitError(
                    "holds no Zarr array",
                    path=path,
                    remedy="Name the array itself, such as …/A/1/0/0, or an image file",
                ) from error
        if path.exists():
            return self._in_mount(path)
        for folder in path.parents:
            if is_store(folder):
                return self._in_store(folder, path)
        raise FileNotFoundError(f"{path} does not exist")

    def _in_mount(self, path: Path) -> FoundArray | PlainFile:
        try:
            location = json.loads(os.getxattr(path, _LOCATION))
        except (OSError, ValueError):
            return PlainFile(path, "it is no file of a mounted tree")
        if location.get("dirty") or "array" not in location or "store" not in location:
            return PlainFile(path, f"its bytes are in the tier {location.get('tier')!r}")
        if location["planes"] != 1:
            return PlainFile(path, "it has several pages")
        return self._plane(path, Path(location["store"]) / location["array"], tuple(location["chunk"]))

    def _in_store(self, root: Path, path: Path) -> FoundArray | PlainFile:
        if root not in self._open:
            self._open[root] = self._stores.enter_context(contextlib.closing(Store.open(root, writable=False)))
        store = self._open[root]
        ino: int | None = ROOT_INO
        for name in path.relative_to(root).parts:
            ino = None if ino is None else store.catalogue.entry(ino, os.fsencode(name))
        record = store.catalogue.inode(ino) if ino else None
        if record is None:
            raise FileNotFoundError(f"{path} is in neither the file system nor the store's catalogue")
        if record.kind is not Kind.PLANES:
            if record.location is not None:
                return PlainFile(root / os.fsdecode(record.location), "it is no image of the store")
            raise UnfitError("has no bytes in the store", path=path)
        planes = store.files.describe(record).planes
        if len(planes) != 1:
            raise UnfitError("has several pages", path=path, remedy="Name its array instead")
        return self._plane(path, root / os.fsdecode(planes[0].array_key), planes[0].index)

    def _plane(self, path: Path, folder: Path, index: Index) -> FoundArray | PlainFile:
        try:
            layout = self._layout(folder)
        except (UnsupportedArray, OSError) as error:
            return PlainFile(path, str(error))
        # Samples of a pixel are an axis among the others: the file's own order is another one.
        if len(layout.shape) != len(index) + 2:
            return PlainFile(path, "its pixels have several samples")
        return FoundArray(folder, layout, index)

    def _layout(self, folder: Path) -> ArrayLayout:
        if folder not in self._layouts:
            self._layouts[folder] = read_layout(folder)
        return self._layouts[folder]
