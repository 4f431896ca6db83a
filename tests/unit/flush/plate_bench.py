"""A tree without a mount for tests of flush: a bench with a source, a store and tiers, and sessions on it.

A session does by path what a program does on a mount. `assert_sound` is the judge: whatever was done, the store must hold
exactly what the tree showed, in a form that others read.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import trio
import xxhash

from vfsd.codec.shard import read_index
from vfsd.flush import FlushProgress, FlushResult, flush_tree, verify_store
from vfsd.plates import find_labels, recognise_plates
from vfsd.store import GroupRecord, PlaneRecord, Store
from vfsd.store.pyramid import level_geometry
from vfsd.store.stored import array_key, group_geometry, group_levels, image_key, labelled_plate
from vfsd.tiers import TierFiles
from vfsd.tree import Caller, Changes, Tree
from vfsd.tree.node import Node

CALLER = Caller(os.getuid(), os.getgid())
ROOM = 1 << 30

Contents = dict[bytes, bytes]


class Session:
    """What a program would do on a mount, by path."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.progress: list[FlushProgress] = []

    async def node(self, path: bytes) -> Node:
        return await self.tree.layers.resolve(path)

    async def place(self, path: bytes) -> tuple[int, bytes]:
        directory, _, name = path.rpartition(b"/")
        return (await self.node(directory)).ino, name

    async def makedirs(self, path: bytes) -> None:
        parts = path.split(b"/") if path else []
        for depth in range(1, len(parts) + 1):
            parent, name = await self.place(b"/".join(parts[:depth]))
            with contextlib.suppress(FileExistsError):
                await self.tree.names.mkdir(parent, name, 0o755, CALLER)

    async def write(self, path: bytes, data: bytes, *, mode: int = 0o644) -> None:
        """Create or overwrite a file, as open(2) with O_CREAT | O_TRUNC does."""
        await self.makedirs(path.rpartition(b"/")[0])
        parent, name = await self.place(path)
        with contextlib.suppress(FileExistsError):
            await self.tree.names.create(parent, name, mode, CALLER)
        handle = await self.tree.contents.open((await self.node(path)).ino, os.O_WRONLY | os.O_TRUNC)
        for offset in range(0, len(data), 1 << 20):
            await self.tree.contents.write(handle, offset, data[offset : offset + (1 << 20)])
        self.tree.contents.release(handle)

    async def write_all(self, files: Mapping[bytes, bytes]) -> None:
        for path, data in files.items():
            await self.write(path, data)

    async def read(self, path: bytes) -> bytes:
        node = await self.node(path)
        handle = await self.tree.contents.open(node.ino, os.O_RDONLY)
        try:
            pieces = []
            while piece := bytes(await self.tree.contents.read(handle, sum(map(len, pieces)), 8 << 20)):
                pieces.append(piece)
            return b"".join(pieces)
        finally:
            self.tree.contents.release(handle)

    async def unlink(self, path: bytes) -> None:
        await self.tree.names.unlink(*await self.place(path))

    async def rmtree(self, path: bytes) -> None:
        node = await self.node(path)
        for name, child in list((await self.tree.layers.children(node)).items()):
            if child.is_directory:
                await self.rmtree(path + b"/" + name)
            else:
                await self.unlink(path + b"/" + name)
        await self.tree.names.rmdir(*await self.place(path))

    async def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        await self.tree.names.rename(*await self.place(old), *await self.place(new), flags)

    async def link(self, old: bytes, new: bytes) -> None:
        await self.tree.names.link((await self.node(old)).ino, *await self.place(new))

    async def setattr(self, path: bytes, **changes: int) -> None:
        await self.tree.attributes.setattr((await self.node(path)).ino, Changes(**changes))

    async def setxattr(self, path: bytes, name: bytes, value: bytes) -> None:
        await self.tree.attributes.setxattr((await self.node(path)).ino, name, value)

    async def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        return await self.tree.attributes.xattrs((await self.node(path)).ino)

    async def contents(self, directory: bytes = b"") -> Contents:
        """Every regular file below a directory, by path."""
        found: Contents = {}
        for name, child in sorted((await self.tree.layers.children(await self.node(directory))).items()):
            path = directory + b"/" + name if directory else name
            if child.is_directory:
                found |= await self.contents(path)
            elif child.record.kind.is_file:
                found[path] = await self.read(path)
        return found

    async def shape(self, directory: bytes = b"") -> dict[bytes, tuple[Any, ...]]:
        """What `stat`, readlink and listxattr say of everything, by path; the root is `b""`."""
        node = await self.node(directory)
        found = {directory: await self._looks(node)}
        for name, child in sorted((await self.tree.layers.children(node)).items()):
            path = directory + b"/" + name if directory else name
            if child.is_directory:
                found |= await self.shape(path)
            else:
                found[path] = await self._looks(child)
        return found

    async def _looks(self, node: Node) -> tuple[Any, ...]:
        seen = node.attributes()
        xattrs = await self.tree.attributes.xattrs(node.ino)
        size = 0 if node.is_directory else seen.size
        return seen.mode, seen.nlink, seen.uid, seen.gid, seen.rdev, size, seen.mtime, node.record.target, xattrs

    async def flush(self, *, paths: Sequence[bytes] | None = None, ingest: bool = False) -> FlushResult:
        """Flush, and check what it tells on the way and in the end."""
        self.progress = []
        result = await flush_tree(self.tree, paths=paths, ingest=ingest, on_progress=self.progress.append)
        assert_progress_is_sound(self.progress)
        return result

    async def flush_while(
        self, part: type, method: str, act: Callable[[], Awaitable[None]], *, after: bool = False
    ) -> FlushResult:
        """Flush; when a worker thread first comes to `part.method` (`after`: leaves it), it waits until `act` is done."""
        reached, go_on = threading.Event(), threading.Event()
        original = getattr(part, method)

        def waiting(*args: Any, **options: Any) -> Any:
            result = original(*args, **options) if after else None
            if not reached.is_set():
                reached.set()
                assert go_on.wait(30)
            return result if after else original(*args, **options)

        results: list[FlushResult] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(part, method, waiting)

            async def flush() -> None:
                results.append(await self.flush())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(flush)
                assert await trio.to_thread.run_sync(reached.wait, 30)
                try:
                    await act()
                finally:
                    go_on.set()
        return results[0]

    async def flush_all(self, *, ingest: bool = False) -> FlushResult:
        """Flush everything; nothing may be left to do."""
        result = await self.flush(ingest=ingest)
        assert result.complete, result.kept
        assert not result.waiting
        assert self.tree.dirty().files == 0
        assert self.tree.journal.is_empty()
        return result


class Bench:
    """Folders for one test; `mounted()` opens a session on them, as often as wanted."""

    def __init__(self, folder: Path, *, source: bool = False) -> None:
        self.folder = folder
        self.store = folder / "plate.vfs"
        self.source = folder / "plate" if source else None
        for name in ("state", "ram", "cache", *(["plate"] if source else [])):
            (folder / name).mkdir(exist_ok=True)

    @asynccontextmanager
    async def mounted(self, *, source: bool = True) -> AsyncIterator[Session]:
        """A session; `source=False`: on the store alone."""
        plate = self.source if source else None
        if (self.store / "vfs.json").exists():
            store = Store.open(self.store, writable=True)
        else:
            store = Store.create(self.store, source=plate)
        tiers = TierFiles(self.folder / "ram", self.folder / "cache", ROOM, ROOM)
        tree = Tree(plate, store, self.folder / "state", tiers, read_only=False)
        try:
            await tree.start()
            yield Session(tree)
        finally:
            tree.close()
            tiers.close()
            store.close()

    def stored_alone(self) -> tuple[Contents, dict[bytes, tuple[Any, ...]]]:
        """What a fresh tree on the store alone shows: contents, and attributes."""

        async def look() -> tuple[Contents, dict[bytes, tuple[Any, ...]]]:
            folder = self.folder / "alone"
            folder.mkdir(exist_ok=True)
            for name in ("state", "ram", "cache"):
                (folder / name).mkdir(exist_ok=True)
            with contextlib.closing(Store.open(self.store, writable=False)) as store:
                tiers = TierFiles(folder / "ram", folder / "cache", ROOM, ROOM)
                tree = Tree(None, store, folder / "state", tiers, read_only=True)
                try:
                    await tree.start()
                    session = Session(tree)
                    return await session.contents(), await session.shape()
                finally:
                    tree.close()
                    tiers.close()

        return trio.run(look)


# --- images


def pixels(seed: int, shape: tuple[int, ...] = (40, 50), dtype: str = "uint16") -> np.ndarray[Any, Any]:
    """Noise that is nowhere zero, so that an absent plane cannot pass for it."""
    values = np.random.default_rng(seed).integers(1, 200, shape)
    return values.astype(dtype)


def tiff(array: np.ndarray[Any, Any], **options: Any) -> bytes:
    """A TIFF as tifffile writes it, without anything that differs from run to run."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **{"metadata": None, "software": "test", **options})
    return buffer.getvalue()


def plate_path(well: str, site: int = 1, channel: int = 1, *, time: int = 1, z: int = 1, plate: str = "P") -> bytes:
    """The path of a plane of an ImageXpress export below its plate's directory."""
    folders = (f"TimePoint_{time}/" if time > 1 else "") + (f"ZStep_{z}/" if z != 1 else "")
    return f"{folders}{plate}_{well}_s{site}_w{channel}.TIF".encode()


def plate_files(
    directory: bytes = b"", *, wells: Sequence[str] = ("A01", "B02"), sites: int = 2, channels: int = 2, seed: int = 0
) -> Contents:
    """A small plate: one noisy TIFF for each well, site and channel."""
    return {
        (directory + b"/" if directory else b"") + plate_path(well, site, channel): tiff(
            pixels(seed + 100 * number + 10 * site + channel)
        )
        for number, well in enumerate(wells)
        for site in range(1, sites + 1)
        for channel in range(1, channels + 1)
    }


# --- the judge


def assert_progress_is_sound(told: Sequence[FlushProgress]) -> None:
    """What is done is never more than there is, and bytes done never become fewer."""
    done = 0
    for step in told:
        assert 0 <= step.files_done <= step.files_total, step
        assert done <= step.bytes_done <= step.bytes_total, step
        done = step.bytes_done
    assert told[-1].stage == "done"
    assert told[-1].files_done == told[-1].files_total
    assert told[-1].bytes_done == told[-1].bytes_total


@contextlib.contextmanager
def altered_catalogue(store: Path) -> Iterator[sqlite3.Connection]:
    """Rows of a catalogue that no vfsd would write; without seal and copy, which would be believed instead."""
    for name in ("catalog.xxh3", "catalog.copy.sqlite"):
        (store / name).unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(store / "catalog.sqlite")) as db, db:
        yield db


def keys_below(root: Path, folder: str) -> set[bytes]:
    """Keys of every object of a store below a folder of it."""
    return {os.fsencode(path.relative_to(root)) for path in (root / folder).rglob("*") if not path.is_dir()}


def assert_sound(store: Path, expected: Contents | None = None) -> None:
    """The store is whole, holds `expected` and nothing else, and its arrays hold exactly the planes of these files."""
    assert not (store / "work").exists()
    with contextlib.closing(sqlite3.connect(f"file:{store}/catalog.sqlite?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    report = verify_store(store)
    assert report.ok, report.damaged
    with contextlib.closing(Store.open(store, writable=False)) as opened:
        if expected is not None:
            _assert_catalogue_lists(opened, expected)
        known = _known_objects(opened, expected)
    assert keys_below(store, "files") | keys_below(store, "images") == known
    empty = [path for path in (store / "images").rglob("*") if path.is_dir() and not any(path.iterdir())]
    empty += [path for path in (store / "files").rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert not empty


def _assert_catalogue_lists(store: Store, expected: Contents) -> None:
    listed = {path: record for path, record in store.catalogue.walk() if record.kind.is_file}
    assert listed.keys() == expected.keys()
    for path, record in listed.items():
        assert record.digest == xxhash.xxh3_128_digest(expected[path]), path
        assert record.size == len(expected[path])


def _known_objects(store: Store, expected: Contents | None) -> set[bytes]:
    """Every object that the catalogue accounts for; checks on the way that arrays hold what it says."""
    catalogue = store.catalogue
    arrays: dict[bytes, Any] = {}
    known = {record.location for _, record in catalogue.walk() if record.location is not None}
    owners: dict[int, list[bytes]] = {}
    for path, record in catalogue.walk():
        owners.setdefault(record.ino, []).append(path)
    for group in catalogue.groups():
        planes = list(catalogue.planes_of_group(group.id))
        assert planes, f"{group.location!r} has no planes"
        geometry = group_geometry(group)
        positions: dict[tuple[str, bytes], list[int]] = {}
        for plane in planes:
            index = plane.index[: len(geometry.leading)]
            key = (
                array_key(group, plane.image) + b"/" + geometry.shard_key(geometry.shard_grid_position(index)).encode()
            )
            positions.setdefault((plane.image, key), []).extend(geometry.positions_in_shard(index))
            if expected is not None:
                folder = array_key(group, plane.image)
                if folder not in arrays:
                    arrays[folder] = zarr_array(store.root, image_key(group, plane.image))
                names = owners[plane.ino]
                at = dict(zip(geometry.leading, index, strict=True))
                _assert_plane(arrays[folder], at, expected[names[0]], plane.page)
                assert any(_belongs(store, group, plane, name) for name in names), f"{names} at {plane}"
        for (_, key), present in positions.items():
            with (store.root / os.fsdecode(key)).open("rb") as file:
                assert sorted(present) == list(read_index(file.fileno(), geometry.chunks_per_shard).present()), key
        known |= {key for _, key in positions}
        known |= _known_levels(store, group, planes)
        known |= _metadata_keys(group, {plane.image for plane in planes})
    return known


def _belongs(store: Store, group: GroupRecord, plane: PlaneRecord, path: bytes) -> bool:
    """Whether a plane lies where the file's name says."""
    directory, _, name = path.rpartition(b"/")
    document = json.loads(group.document)
    if group.form == "labels":
        return _labels_belong(store, group, document, plane, path)
    if group.form != "plate":
        return group.directory == directory and (group.form == "stack" or name in group.location)
    for plate in recognise_plates([path], _nothing_there, directory_name=store.plate_name):
        at = plate.images[path]
        image = f"{at.row_path}/{at.column_path}/{at.field_path()}"
        axes = group_geometry(group).leading
        numbers = {axis: document["numbers"][axis][number] for axis, number in zip(axes, plane.index, strict=False)}
        numbers.setdefault("c", document["channel"])  # of colour images, whose colours are along that axis
        z = at.z + plane.page  # the pages of one file are slices here: none of these files says otherwise
        wanted = {"t": at.time, "c": at.channel, "z": z}
        if (plate.root, image, wanted) == (group.directory, plane.image, numbers):
            return at.projection == document["projection"]
    return False


def _labels_belong(store: Store, group: GroupRecord, document: dict[str, Any], plane: PlaneRecord, path: bytes) -> bool:
    """The same of a label image: inside its image exactly where the store has that."""
    label = find_labels([path], _only_there, directory_name=store.plate_name).get(path)
    if label is None:
        return False  # another name of the file
    at = label.position
    image = f"{at.row_path}/{at.column_path}/{at.field_path()}"
    numbers = tuple(document["numbers"][axis][number] for axis, number in zip("tz", plane.index, strict=False))
    assert (label.plate.root, image, numbers) == (group.directory, plane.image, (at.time, at.z + plane.page))
    assert (label.name, at.channel) == (document["label"], document["channel"])
    geometry = group_geometry(group)
    size = geometry.height, geometry.width
    plates = {
        plate.location
        for plate in store.catalogue.groups()
        if plate.form == "plate"
        and (plate.directory, json.loads(plate.document)["projection"]) == (label.plate.root, at.projection)
        and (group_geometry(plate).height, group_geometry(plate).width) == size
        and image in store.catalogue.images(plate.id)
        and at.time in json.loads(plate.document)["numbers"]["t"]
        and at.z + plane.page in json.loads(plate.document)["numbers"]["z"]
    }
    inside = labelled_plate(group.location)
    return inside is None if not plates else inside is not None and inside[0] in plates


def _known_levels(store: Store, group: GroupRecord, planes: Sequence[PlaneRecord]) -> set[bytes]:
    """The shards of the levels; that their pixels are right is verified with the store."""
    positions: dict[tuple[int, bytes], list[int]] = {}
    full = group_geometry(group)
    for level, plane in itertools.product(range(1, group_levels(group)[0] + 1), planes):
        geometry, index = level_geometry(full, level), plane.index[: len(full.leading)]
        shard = geometry.shard_key(geometry.shard_grid_position(index)).encode()
        key = array_key(group, plane.image, level) + b"/" + shard
        positions.setdefault((level, key), []).extend(geometry.positions_in_shard(index))
    for (level, key), present in positions.items():
        with (store.root / os.fsdecode(key)).open("rb") as file:
            index_of_shard = read_index(file.fileno(), level_geometry(full, level).chunks_per_shard)
        assert sorted(present) == list(index_of_shard.present()), key
    return {key for _, key in positions}


def _metadata_keys(group: GroupRecord, images: set[str]) -> set[bytes]:
    if labelled_plate(group.location) is not None:
        folders = {image_key(group, image) for image in images}
        levels = range(group_levels(group)[0] + 1)
        parts = {folder.rpartition(b"/")[0] for folder in folders} | folders
        return {part + b"/zarr.json" for part in parts} | {
            folder + b"/%d/zarr.json" % level for folder in folders for level in levels
        }
    folders = {b""}
    for image, level in itertools.product(images, range(group_levels(group)[0] + 1)):
        parts = [*image.split("/"), str(level)] if image else [str(level)]
        folders |= {"/".join(parts[:depth]).encode() for depth in range(1, len(parts) + 1)}
    return {b"/".join(part for part in (group.location, folder, b"zarr.json") if part) for folder in folders}


def _assert_plane(array: Any, place: Mapping[str, int], content: bytes, page: int) -> None:
    expected = tifffile.TiffFile(io.BytesIO(content)).pages[page].asarray()
    axes = array.metadata.dimension_names
    at: list[Any] = [slice(None)] * array.ndim
    for name, number in place.items():
        at[axes.index(name)] = number
    seen = array[tuple(at)]
    if seen.ndim == 3 and seen.shape != expected.shape:
        seen = np.moveaxis(seen, 0, -1)
    np.testing.assert_array_equal(seen, expected)


def zarr_array(root: Path, location: bytes, image: str = "", level: int = 0) -> Any:
    """An array as zarr-python opens it."""
    import zarr

    return zarr.open_array(
        os.fsdecode(os.path.join(os.fsencode(root), location, image.encode(), b"%d" % level)), mode="r"
    )


def group_locations(root: Path) -> dict[bytes, int]:
    """Key of each image group, and how many planes it has."""
    with contextlib.closing(Store.open(root, writable=False)) as store:
        groups = store.catalogue.groups()
        return {group.location: len(list(store.catalogue.planes_of_group(group.id))) for group in groups}


def _only_there(path: bytes, offset: int, size: int) -> bytes:
    """Every file is there; none has anything to say."""
    if size:
        raise FileNotFoundError(path)
    return b""


def _nothing_there(path: bytes, offset: int, size: int) -> bytes:
    raise FileNotFoundError(path)
