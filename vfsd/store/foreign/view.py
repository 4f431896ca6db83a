"""Somebody else's OME-Zarr as a tree of TIFFs: which folders and files there are, and what is in them.

A plate shows `A/01/A01_f0.ome.tif` (row, column, field) and beside it `A01_f0.tif`, the same as an ImageJ hyperstack; an
image by itself has the folder's name. Label images are files of their own (`A01_f0_label_nuclei.ome.tif`), series of
bioformats2raw have `_s<number>`. A folder in which every folder is Zarr shows each, and its own files as they are.

Only metadata are read to list a folder, and only those of what is in it. What cannot be shown is left out, and said once
in the log with its path (`problems` has it, too): nothing that is wrong with one image touches another. Every call may sleep;
callable from any thread, one at a time a folder.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Final, final

from vfsd.errors import shown_path
from vfsd.images import SynthesisError
from vfsd.store.foreign.folder import ABSENT, ForeignError, ForeignFolder, Identity, Json
from vfsd.store.foreign.image import ForeignImage, below, group_metadata, read_image
from vfsd.store.foreign.reading import ChunkReader
from vfsd.store.foreign.virtual_file import VirtualFile, hyperstack, ome_tiff
from vfsd.store.recent import Recent
from vfsd.store.zarr_folders import may_be_zarr

log = logging.getLogger("vfsd.foreign")

SUFFIXES: Final = (b".ome.zarr", b".zarr")
OME_SUFFIX, IMAGEJ_SUFFIX = b".ome.tif", b".tif"
# What bioformats2raw keeps of the original metadata; its place is given by its layout, version 3.
ORIGINAL_METADATA: Final = b"OME/METADATA.ome.xml"
# Longer names the kernel does not let through.
LONGEST_NAME: Final = 255
# Seconds for which a folder that was just read is not read again: a lookup of each of its names follows.
LISTING_LASTS: Final = 1.0
KEPT_LISTINGS: Final = 64
# Images whose metadata are kept as long as these are the same: a plate of 384 wells and 9 fields needs 25 MB.
KEPT_IMAGE_BYTES: Final = 32 << 20
# Problems that are remembered, so that each is said once.
MOST_PROBLEMS: Final = 10_000
# Images that a well or a folder of series can list; more are no acquisition, and would be a listing without end.
MOST_IMAGES: Final = 100_000


@final
@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of the view: when its names last changed (ns), and what reads them."""

    mtime: int
    read: Callable[[], Iterator[tuple[bytes, Shown]]]


@final
@dataclass(frozen=True, slots=True)
class RealFile:
    """A file that is shown as it is: its path in the folder, and its attributes."""

    path: bytes
    found: os.stat_result


Shown = Folder | VirtualFile | RealFile


@final
@dataclass(frozen=True, slots=True)
class _Known:
    """The files of an image."""

    files: list[tuple[bytes, VirtualFile]]

    @property
    def weight(self) -> int:
        """Bytes that they take, about."""
        return 2048 + sum(len(file.tiff.first) for _, file in self.files)


@final
class ZarrView:
    """See the module. Paths are raw bytes without a leading slash; b"" is the root.

    Raises
    ------
    ForeignError
        The folder is no OME-Zarr and no folder of such.
    OSError
        It cannot be opened.
    """

    def __init__(self, root: Path) -> None:
        self.folder = ForeignFolder(root)
        self._said: dict[tuple[bytes, str], None] = {}
        self._reader = ChunkReader(self.folder)
        self._images: Recent[_Known] = Recent(lambda known: known.weight, KEPT_IMAGE_BYTES)
        self._lock = threading.Lock()  # for `_listings` only, never held while a folder is read
        self._listings: dict[bytes, tuple[float, dict[bytes, Shown]]] = {}
        try:
            self.root: Folder = self._root()
        except BaseException:
            self.folder.close()
            raise

    def close(self) -> None:
        """Let go of the folder."""
        self.folder.close()

    @property
    def problems(self) -> list[tuple[bytes, str]]:
        """What was met so far that cannot be shown: its path in the folder, and why."""
        return list(self._said)

    def find(self, path: bytes) -> Shown:
        """What is under a path; raises FileNotFoundError, NotADirectoryError."""
        if not path:
            return self._fresh_root()
        above, _, name = path.rpartition(b"/")
        found = self.names(above).get(name)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return found

    def current(self, path: bytes) -> Shown:
        """As `find`, but never an image whose metadata were changed since."""
        shown = self.find(path)
        if isinstance(shown, VirtualFile) and shown.versions != self._versions(
            shown.image.path, shown.image.array.path
        ):
            self.names(path.rpartition(b"/")[0], fresh=True)
            shown = self.find(path)
        return shown

    def names(self, path: bytes, *, fresh: bool = False) -> Mapping[bytes, Shown]:
        """What is in a folder, by name; with `fresh` whatever was read a moment ago."""
        with self._lock:
            read, listing = self._listings.get(path, (0.0, {}))
            if not fresh and listing and monotonic() - read < LISTING_LASTS:
                return listing
        folder = self.find(path)
        if not isinstance(folder, Folder):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        listing = {}
        for name, shown in folder.read():
            if name in listing or not name or len(name) > LONGEST_NAME or b"/" in name or name in (b".", b".."):
                self._say(
                    path + b"/" + name, "cannot be shown under this name: it is taken, or none that a file can have"
                )
            else:
                listing[name] = shown
        with self._lock:
            self._listings[path] = monotonic(), listing
            while len(self._listings) > KEPT_LISTINGS:
                del self._listings[next(iter(self._listings))]
        return listing

    def _say(self, path: bytes, problem: ForeignError | SynthesisError | str) -> None:
        reason = str(problem)
        if isinstance(problem, ForeignError):
            reason, path = problem.reason, path if problem.path is None else problem.path
        said = (path, reason)
        if said not in self._said and len(self._said) < MOST_PROBLEMS:
            self._said[said] = None
            log.warning("not_shown path=%s reason=%s", shown_path(path) or ".", shown_path(reason))

    # --- what is what

    def _fresh_root(self) -> Folder:
        try:
            self.root = self._root()
        except ForeignError as error:  # it was sound when it was mounted
            self._say(error.path or b"", error)
        return self.root

    def _root(self) -> Folder:
        name = _without_suffix(os.fsencode(self.folder.root.name))
        try:
            metadata, mtime = group_metadata(self.folder, b"")
        except ForeignError:
            found = self.folder.stat(b"")
            if _has_group(self.folder, b"") or not is_collection(self.folder):
                raise
            return Folder(found.st_mtime_ns, self._collection)
        return self._group(b"", name, metadata, mtime)

    def _group(self, path: bytes, name: bytes, metadata: Json, mtime: int) -> Folder:
        if isinstance(metadata.get("plate"), dict):
            return Folder(mtime, lambda: self._plate(path, metadata["plate"], mtime))
        if isinstance(metadata.get("well"), dict):
            return Folder(mtime, lambda: self._well(path, name))
        if "multiscales" in metadata:
            return Folder(mtime, lambda: self._image(path, name))
        if "bioformats2raw.layout" in metadata:
            return Folder(mtime, lambda: self._series(path, name))
        raise ForeignError("is a Zarr group, but neither a plate nor an image of OME-Zarr", path)

    def _collection(self) -> Iterator[tuple[bytes, Shown]]:
        for name in self.folder.names(b""):
            try:
                found = self.folder.stat(name)
                if stat.S_ISREG(found.st_mode):
                    yield name, RealFile(name, found)
                if not stat.S_ISDIR(found.st_mode):
                    continue
                metadata, mtime = group_metadata(self.folder, name)
                below_it = self._group(name, _without_suffix(name), metadata, mtime)
                if isinstance(metadata.get("plate"), dict):
                    yield _without_suffix(name), below_it
                else:
                    yield from below_it.read()
            except ForeignError as error:
                self._say(name, error)
            except OSError as error:
                self._say(name, f"cannot be looked at: {error.strerror}")

    def _plate(self, path: bytes, plate: Json, mtime: int) -> Iterator[tuple[bytes, Shown]]:
        rows: dict[bytes, list[tuple[bytes, bytes]]] = {}
        wells = plate.get("wells")
        if not isinstance(wells, list):
            self._say(path, "the plate has no list of wells")
            return
        for well in wells:
            try:
                place = below(path, well.get("path") if isinstance(well, dict) else None, path)
            except ForeignError as error:
                self._say(path, error)
                continue
            parts = place[len(path) + 1 if path else 0 :].split(b"/")
            if len(parts) != 2:
                self._say(place, "is the path of a well, but no row and column")
                continue
            rows.setdefault(parts[0], []).append((parts[1], place))
        digits = 3 if any(len(column) > 2 and column.isdigit() for row in rows.values() for column, _ in row) else 2
        for row, listed in rows.items():
            yield row, Folder(mtime, self._row_reader(row, dict(listed), digits))

    def _row_reader(
        self, row: bytes, wells: dict[bytes, bytes], digits: int
    ) -> Callable[[], Iterator[tuple[bytes, Shown]]]:
        def read() -> Iterator[tuple[bytes, Shown]]:
            padded = {column: column.zfill(digits) if column.isdigit() else column for column in wells}
            if len(set(padded.values())) < len(padded):  # "1" and "01" are two wells here
                padded = {column: column for column in wells}
            absent: list[bytes] = []
            for column, path in wells.items():
                if not _has_group(self.folder, path):
                    absent.append(column)
                    continue
                try:
                    mtime = group_metadata(self.folder, path)[1]
                except ForeignError as error:
                    self._say(path, error)
                    continue
                yield padded[column], Folder(mtime, partial(self._well, path, row + padded[column]))
            if absent:
                first = path.rpartition(b"/")[0] + b"/" + min(absent)
                self._say(
                    first, f"{len(absent)} wells of row {shown_path(row)} are listed, but not there; this is the first"
                )

        return read

    def _well(self, path: bytes, name: bytes) -> Iterator[tuple[bytes, Shown]]:
        try:
            well = group_metadata(self.folder, path)[0].get("well")
            images = well.get("images") if isinstance(well, dict) else None
            if not isinstance(images, list):
                raise ForeignError("the well has no list of images", path)
        except ForeignError as error:
            self._say(path, error)
            return
        for image in images[:MOST_IMAGES]:
            try:
                place = below(path, image.get("path") if isinstance(image, dict) else None, path)
            except ForeignError as error:
                self._say(path, error)
                continue
            field = place[len(path) + 1 if path else 0 :].replace(b"/", b"_")
            yield from self._image(place, name + (b"_f" if field.isdigit() else b"_") + field)

    def _series(self, path: bytes, name: bytes) -> Iterator[tuple[bytes, Shown]]:
        """A bioformats2raw.layout: the images that its group OME lists, or 0, 1, … as far as they are there."""
        at = path + b"/" if path else b""
        try:
            found = self.folder.stat(at + ORIGINAL_METADATA)
            if stat.S_ISREG(found.st_mode):
                metadata_name = ORIGINAL_METADATA.rpartition(b"/")[2]
                yield name + b"_" + metadata_name if path else metadata_name, RealFile(at + ORIGINAL_METADATA, found)
        except OSError:
            pass
        listed: object = None
        if _has_group(self.folder, at + b"OME"):
            try:
                listed = group_metadata(self.folder, at + b"OME")[0].get("series")
            except ForeignError as error:
                self._say(at + b"OME", error)
        numbers: list[object] = listed if isinstance(listed, list) else [*self._numbered(at)]
        for number, series in enumerate(numbers[:MOST_IMAGES]):
            try:
                place = below(path, series, path)
            except ForeignError as error:
                self._say(path, error)
                continue
            yield from self._image(place, name if len(numbers) == 1 else name + b"_s%d" % number)

    def _numbered(self, at: bytes) -> list[str]:
        numbers: list[str] = []
        while len(numbers) < MOST_IMAGES and _has_group(self.folder, at + b"%d" % len(numbers)):
            numbers.append(str(len(numbers)))
        return numbers

    def _image(self, path: bytes, name: bytes) -> Iterator[tuple[bytes, Shown]]:
        """The files of one image and of its labels."""
        yield from self._files(path, name)
        labels = path + b"/labels" if path else b"labels"
        if not _has_group(self.folder, labels):
            return
        try:
            listed = group_metadata(self.folder, labels)[0].get("labels", [])
            if not isinstance(listed, list):
                raise ForeignError("has labels that are no list", labels)
            for label in listed[:MOST_IMAGES]:
                place = below(labels, label, labels)
                shown = place[len(labels) + 1 :].replace(b"/", b"_")
                yield from self._files(place, name + b"_label_" + shown)
        except ForeignError as error:
            self._say(labels, error)

    def _files(self, path: bytes, name: bytes) -> Iterator[tuple[bytes, Shown]]:
        known = self._images.find((path, name))
        if known is None or known.files[0][1].versions != self._versions(path, known.files[0][1].image.array.path):
            try:
                image = read_image(self.folder, path, shown_path(name))
            except ForeignError as error:
                self._say(path, error)
                return
            versions = self._versions(path, image.array.path)
            known = _Known(self._made(image, name, versions))
            newest = max((version[3] for version in versions if version is not None), default=0)
            if known.files and newest == image.mtime:  # else it was changed a moment ago
                self._images.put((path, name), known)
        yield from known.files

    def _versions(self, path: bytes, array: bytes) -> tuple[Identity | None, ...]:
        """Of all documents that say something of an image."""
        documents = (
            *(path + b"/" + name if path else name for name in (b"zarr.json", b".zgroup", b".zattrs")),
            *(array + name for name in (b"/zarr.json", b"/.zarray")),
        )
        return tuple(self.folder.version(document) for document in documents)

    def _made(
        self, image: ForeignImage, name: bytes, versions: tuple[Identity | None, ...]
    ) -> list[tuple[bytes, VirtualFile]]:
        """The one or two files of an image."""
        files: list[tuple[bytes, VirtualFile]] = []
        obstacle = image.array.pipeline.obstacle
        if obstacle is not None:
            self._say(image.array.path, f"can be listed, but not read: {obstacle}")
        try:
            files.append((name + OME_SUFFIX, VirtualFile(ome_tiff(image), image, self._reader, versions)))
        except SynthesisError as error:
            self._say(image.path, error)
        try:
            files.append((name + IMAGEJ_SUFFIX, VirtualFile(hyperstack(image), image, self._reader, versions)))
        except SynthesisError as error:  # there is the other file, with the same pixels
            log.debug("no_hyperstack path=%s reason=%s", shown_path(image.path), error)
        return files


def _without_suffix(name: bytes) -> bytes:
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def _has_group(folder: ForeignFolder, path: bytes) -> bool:
    """Whether there is the metadata of a Zarr group, sound or not."""
    for name in (b"zarr.json", b".zgroup", b".zattrs"):
        try:
            folder.stat(path + b"/" + name if path else name)
        except OSError as error:
            if error.errno not in ABSENT:
                return True
            continue
        return True
    return False


def is_collection(folder: ForeignFolder) -> bool:
    """Whether every folder in a folder is called Zarr, and there is one."""
    found = False
    for name in folder.names(b""):
        try:
            if name.startswith(b".") or not stat.S_ISDIR(folder.stat(name).st_mode):
                continue
        except OSError:
            continue
        found = True
    return found and may_be_zarr(folder.root)


def is_ome_zarr(root: Path) -> bool:
    """Whether a folder is OME-Zarr, or one of which every folder is: then it is shown as TIFFs.

    Zarr that says nothing of images is not; Zarr whose metadata cannot be read counts, so that somebody hears why.
    """
    folder = ForeignFolder(root)
    try:
        if not _has_group(folder, b""):
            return is_collection(folder) and any(
                _is_of_images(folder, name) for name in folder.names(b"") if _has_group(folder, name)
            )
        return _is_of_images(folder, b"")
    finally:
        folder.close()


def _is_of_images(folder: ForeignFolder, path: bytes) -> bool:
    try:
        metadata, _ = group_metadata(folder, path)
    except ForeignError:
        return True
    return bool(metadata.keys() & {"plate", "well", "multiscales", "bioformats2raw.layout"})
