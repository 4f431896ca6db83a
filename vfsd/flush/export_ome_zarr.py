"""A store's images for programs that read no Zarr v3: OME-Zarr 0.4, Zarr v2, a file for each chunk.

Every group and array below `images/` is written again under the same path; compressed chunks are copied as they are, absent
ones stay absent. What has its name is whole (`export_folder`); started again it goes on: what is there with the same bytes
stays. The store is only read.

Memory: one chunk, and the index of one shard.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from vfsd.codec import FrameError
from vfsd.errors import FlushIncomplete, StoredDataDamaged, shown_path
from vfsd.flush.damage import Damage, Damaged
from vfsd.flush.export_folder import ExportFolder
from vfsd.store import Store
from vfsd.store.geometry import ArrayGeometry, GeometryError
from vfsd.store.stored import ShardIndexes
from vfsd.store.zarr_v2 import GROUP, NGFF_VERSION, array_document, chunk_bytes, chunk_name, encode_v2, group_attributes

log = logging.getLogger("vfsd.export")

IMAGES = b"images"
DOCUMENT = b"zarr.json"
# Our own documents are far smaller; a plate of 1,536 wells with all that is missing has some megabytes.
MOST_DOCUMENT_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class OmeZarrReport:
    """What is there now: images (arrays with their levels), files, their bytes; how many files an earlier run had written."""

    arrays: int
    files: int
    bytes: int
    found: int
    failed: tuple[Damaged, ...]


def export_ome_zarr(
    root: Path, directory: Path, *, on_progress: Callable[[int, int, int], None] | None = None
) -> OmeZarrReport:
    """Write the images of a store below `directory`: a new or empty folder, or one where this was interrupted.

    `on_progress` hears shards done, shards in all, and bytes written.

    Raises
    ------
    UnfitError
        The directory holds something else, or cannot be written.
    FlushIncomplete
        Its disk failed or is full: what is there is whole, and the same command goes on.
    """
    with contextlib.closing(Store.open(root, writable=False)) as store:
        folder = ExportFolder(directory, root, {"store": store.id, "ome_zarr": NGFF_VERSION})
        export = _Export(store, folder, on_progress)
        try:
            return export.run()
        except OSError as problem:
            raise FlushIncomplete(
                f"{problem.strerror or problem}; {export.files:,} files are there, each whole",
                path=directory,
                remedy="Remove the cause, and the same command goes on from there",
            ) from problem


@final
class _Export:
    def __init__(self, store: Store, folder: ExportFolder, on_progress: Callable[[int, int, int], None] | None) -> None:
        self._storage = store.storage
        self._shards = ShardIndexes(store.storage)
        self._folder = folder
        self._on_progress = on_progress
        self.files = 0
        self._arrays = self._bytes = self._found = 0
        self._shards_done = self._shards_total = 0
        self._failed: list[Damaged] = []

    def run(self) -> OmeZarrReport:
        folders: dict[bytes, list[bytes]] = {}
        for key, _ in self._storage.list_keys(IMAGES):
            folder, _, name = key.rpartition(b"/")
            folders.setdefault(folder, []).append(name)
        self._shards_total = sum(len(names) - (DOCUMENT in names) for names in folders.values())
        for folder in sorted(folders):
            try:
                self._write_folder(folder, sorted(folders[folder]))
            except (StoredDataDamaged, GeometryError, ValueError, KeyError, TypeError) as problem:
                self._fail(folder, problem)
        self._folder.finish()
        return OmeZarrReport(self._arrays, self.files, self._bytes, self._found, tuple(self._failed))

    def _write_folder(self, folder: bytes, names: list[bytes]) -> None:
        """A group or an array, of which the store has these objects."""
        if DOCUMENT not in names:
            raise StoredDataDamaged("has no zarr.json")
        document = self._document(folder + b"/" + DOCUMENT)
        target = folder[len(IMAGES) + 1 :]
        if document.get("node_type") != "array":
            self._put(target + b"/.zgroup", encode_v2(GROUP))
            attributes = group_attributes(document.get("attributes", {}))
            if attributes:
                self._put(target + b"/.zattrs", encode_v2(attributes))
            return
        geometry = ArrayGeometry.from_document(document)
        self._put(target + b"/.zarray", encode_v2(array_document(geometry)))
        self._arrays += 1
        for name in names:
            if name == DOCUMENT:
                continue
            try:
                for chunk, data in self._chunks(folder + b"/" + name, geometry, name):
                    self._put(target + b"/" + chunk.encode(), data)
            except (StoredDataDamaged, FrameError, GeometryError) as problem:
                self._fail(folder + b"/" + name, problem)
            self._shards_done += 1
            if self._on_progress is not None:
                self._on_progress(self._shards_done, self._shards_total, self._bytes)

    def _document(self, key: bytes) -> dict[str, Any]:
        size = self._storage.size(key)
        if size > MOST_DOCUMENT_BYTES:
            raise StoredDataDamaged(f"is a document of {size} bytes", path=key)
        document = json.loads(self._storage.read_range(key, 0, size))
        if not isinstance(document, dict):
            raise StoredDataDamaged("is no document of Zarr", path=key)
        return document

    def _chunks(self, key: bytes, geometry: ArrayGeometry, name: bytes) -> Iterator[tuple[str, bytes]]:
        """Name and bytes of every chunk of a shard that the array has room for."""
        grid = geometry.parse_shard_key(os.fsdecode(name))
        index = self._shards.index(key, geometry.chunks_per_shard)
        for position in map(int, index.present()):
            plane, tile = geometry.plane_at(grid, position)
            if all(at < extent for at, extent in zip(plane, geometry.extents, strict=True)):
                frame = self._shards.chunk(key, geometry.chunks_per_shard, position)
                assert frame is not None, "it is among those present"
                yield chunk_name(geometry, plane, tile), chunk_bytes(geometry, frame)

    def _put(self, path: bytes, data: bytes) -> None:
        """A file of the export, whole or not at all."""
        target = self._folder.path + b"/" + path
        if _same(target, data):
            self._found += 1
        else:
            beside = self._folder.own + b"/part"
            with open(beside, "wb") as file:
                file.write(data)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(beside, target)
        self.files += 1
        self._bytes += len(data)

    def _fail(self, path: bytes, problem: Exception) -> None:
        self._failed.append(Damaged(path, str(problem), Damage.COPY))
        log.error("export_failed path=%s reason=%s", shown_path(path), problem)


def _same(path: bytes, data: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size == len(data) and file.read() == data
    except FileNotFoundError:
        return False
