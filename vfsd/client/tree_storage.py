"""Objects on a tree: encoded, written whole, moved to the tier that was asked for, and mapped to be loaded.

What holds: a name that is taken is an error, unless it is to be overwritten or has the very same bytes and another tier is asked
for, which moves them. A missing folder is an error. Whatever fails leaves what was there.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from vfsd.client.codecs import CODECS, Codec
from vfsd.client.conversion import KINDS, convert
from vfsd.client.files import Files, Part
from vfsd.client.paths import Name, failure, not_found, tree_path
from vfsd.errors import UsageProblem, VfsdError
from vfsd.tiers import TierName

log = logging.getLogger("vfsd.client")

# Reading and writing through a mount waits for another process most of the time; more threads than this gain nothing.
BATCH_THREADS: Final = 8

Tier = TierName | str


@final
class TreeStorage:
    """See the module. `root` is where the tree is mounted, if it is."""

    def __init__(self, files: Files, root: Path | None = None) -> None:
        self.files = files
        self._root = root

    def path(self, name: Name) -> bytes:
        """The path that a name means."""
        return tree_path(name, self._root)

    # --- saving

    def save(
        self,
        data: Any,
        name: Name,
        tier: Tier | None = None,
        *,
        overwrite: bool = False,
        allow_pickle: bool = False,
        **options: Any,
    ) -> None:
        """Save one object; with a tier its bytes are there afterwards."""
        path = self.path(name)
        self._write(data, path, tier, overwrite=overwrite, allow_pickle=allow_pickle, **options)
        if tier is not None:
            self._move_written(path, tier)

    def save_many(
        self,
        items: Sequence[tuple[Name, Any]],
        tier: Tier | None = None,
        *,
        overwrite: bool = False,
        allow_pickle: bool = False,
        **options: Any,
    ) -> None:
        """Save objects on several threads, and flush them together; of the first that fails the error is raised."""
        paths = [self.path(name) for name, _ in items]
        if len(set(paths)) < len(paths):
            raise UsageProblem("a name is there twice in one batch")

        def write(number: int) -> None:
            self._write(
                items[number][1], paths[number], tier, overwrite=overwrite, allow_pickle=allow_pickle, **options
            )

        _each(write, len(paths), "were saved")
        if tier == "store":
            self.files.store_together(paths)
        elif tier is not None:
            for path in paths:
                self._move_written(path, tier)

    def _write(
        self, data: Any, path: bytes, tier: Tier | None, *, overwrite: bool, allow_pickle: bool, **options: Any
    ) -> None:
        if not path:
            raise failure(errno.EISDIR, path, "is the root of the tree")
        codec, marked = CODECS.to_save(data, path, allow_pickle=allow_pickle)
        parts = _with_path(path, codec.encode, data, **options)
        mark = codec.name if marked else None
        try:
            self.files.write(path, parts, overwrite=overwrite, mark=mark)
        except FileExistsError:
            if tier is None or not self._is_same(path, parts, mark) or self.files.tier(path) == tier:
                raise

    def _is_same(self, path: bytes, parts: Sequence[Part], mark: str | None) -> bool:
        """Whether a file has these bytes already."""
        try:
            there = self.files.view(path)
        except OSError:
            return False
        offset = 0
        for part in parts:
            view = memoryview(part).cast("B")
            if len(there) < offset + len(view) or not _equal(there[offset : offset + len(view)], view):
                return False
            offset += len(view)
        return offset == len(there) and self.files.mark(path) == mark

    def _move_written(self, path: bytes, tier: Tier) -> None:
        """What was just written is in RAM, or, where RAM is short, in the cache: that it stays there is the tiers' policy."""
        if tier == "ram" and self.files.tier(path) == "cache":
            return
        self.files.move(path, tier)

    # --- loading

    def load(
        self,
        name: Name,
        tier: Tier | None = None,
        *,
        as_: str | None = None,
        copy: bool = False,
        allow_pickle: bool = False,
    ) -> Any:
        """Load one object; with a tier its bytes move there first, unless they are the source's: those stay."""
        if as_ is not None and as_ not in KINDS:
            raise UsageProblem(f"as_ is one of {', '.join(KINDS)}, not {as_!r}")
        path = self.path(name)
        if tier is not None and self.files.tier(path) != tier:
            try:
                self.files.move(path, tier)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
        data = self.files.view(path)
        if as_ == "bytes":
            return bytes(data)
        found = self._decode(path, data, allow_pickle=allow_pickle)
        lazily = as_ in (None, "zarr", "dask") and tier == "store"
        if lazily and isinstance(found, np.ndarray):
            found = self._stored_array(path, found)
        if as_ is not None:
            return _with_path(path, convert, found, as_, data)
        if copy and isinstance(found, np.ndarray):
            return np.array(found)
        return found

    def load_many(self, names: Sequence[Name], tier: Tier | None = None, **options: Any) -> list[Any]:
        """Load objects on several threads; in the order of their names."""
        found: list[Any] = [None] * len(names)

        def load(number: int) -> None:
            found[number] = self.load(names[number], tier, **options)

        _each(load, len(names), "were loaded")
        return found

    def _decode(self, path: bytes, data: memoryview, *, allow_pickle: bool) -> Any:
        codec: Codec = CODECS.to_load(path, lambda: self.files.mark(path), data, allow_pickle=allow_pickle)
        return _with_path(path, codec.decode, data)

    def _stored_array(self, path: bytes, found: np.ndarray[Any, Any]) -> Any:
        """An array of the store's tier: the store's own, lazily, if the file is all of it; else one in memory."""
        location = self.files.location(path)
        if "array" in location and not location["dirty"] and "store" in location:
            import zarr

            try:
                stored = zarr.open_array(Path(location["store"]) / location["array"], mode="r")
            except Exception as error:  # whatever zarr stumbles over, the bytes themselves are here
                log.warning("array_not_opened path=%s error=%s", os.fsdecode(path), error)
            else:
                if stored.shape == found.shape:
                    return stored
        return convert(found, "zarr")

    def metadata(self, name: Name) -> dict[str, Any]:
        """What a TIFF says of itself."""
        from vfsd.client.codecs.tiff import read_metadata

        path = self.path(name)
        found: dict[str, Any] = _with_path(path, read_metadata, self.files.view(path))
        return found

    def exists(self, name: Name) -> bool:
        """Whether there is anything under a name."""
        try:
            self.files.stat(self.path(name))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def delete(self, name: Name) -> None:
        """Remove a file, a symbolic link, or an empty folder."""
        path = self.path(name)
        if not path:
            raise failure(errno.EBUSY, path, "is the root of the tree")
        self.files.remove(path)

    def copy(self, old: Name, new: Name, *, overwrite: bool = False) -> None:
        """A second file with the same bytes."""
        source, target = self.path(old), self.path(new)
        if source == target:
            raise failure(errno.EEXIST, target, "is the file itself")
        self.files.write(target, [self.files.view(source)], overwrite=overwrite, mark=self.files.mark(source))

    def move(self, old: Name, new: Name, *, overwrite: bool = False) -> None:
        """Another name; bytes stay where they are."""
        source, target = self.path(old), self.path(new)
        if not source or not target:
            raise failure(errno.EBUSY, source, "is the root of the tree")
        try:
            self.files.rename(source, target, overwrite=overwrite)
        except FileNotFoundError:
            if not self.exists(old):
                raise
            raise not_found(target, "its folder does not exist") from None


def _equal(one: memoryview, other: memoryview) -> bool:
    """Bytes compared by numpy: a memoryview's own comparison goes element by element."""
    return bool(np.array_equal(np.frombuffer(one, np.uint8), np.frombuffer(other, np.uint8))) if len(one) else True


def _with_path(path: bytes, act: Any, *arguments: Any, **options: Any) -> Any:
    """Errors of codecs know no file: they get its name here."""
    try:
        return act(*arguments, **options)
    except VfsdError as error:
        if error.path is None:
            error.path = path
        raise


def _each(act: Any, count: int, done: str) -> None:
    """For each number, on threads; the first error in the order of numbers, with a note on how far the rest is."""
    if count <= 1:
        for number in range(count):
            act(number)
        return
    with ThreadPoolExecutor(min(BATCH_THREADS, count), thread_name_prefix="vfsd-batch") as pool:
        running = [pool.submit(act, number) for number in range(count)]
        problems = [future.exception() for future in running]
    failed = [problem for problem in problems if problem is not None]
    if failed:
        failed[0].add_note(f"{count - len(failed)} of the {count} of the batch {done}")
        raise failed[0]
