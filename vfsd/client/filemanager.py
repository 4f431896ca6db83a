"""`FileManager`: the API of scripts, on a mount or on a tree in this process."""

from __future__ import annotations

import errno
import fnmatch
import os
import secrets
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

from vfsd.client.backend import StorageBackend
from vfsd.client.files import Entry, Files
from vfsd.client.mounted import MountFiles
from vfsd.client.paths import TEMPORARY_PREFIX, Name, failure, join_path, split_path
from vfsd.client.registry import AUTO, StorageRegistry
from vfsd.client.tier_backends import TierBackend
from vfsd.client.tree_storage import TreeStorage
from vfsd.errors import UsageProblem
from vfsd.plates.natural_order import natural_key

if TYPE_CHECKING:
    from vfsd.client.plate_images import PlateImages


@final
class FileManager:
    """One tree, and names for its tiers: `memory` (RAM), `disk` (the cache), `zarr` (the store), `auto` (the tiers' policy).

    Names are relative to the tree's root; an absolute one is below the root as well, with or without the mount point. May be
    used from any thread.

    Parameters
    ----------
    root : path
        Where a plate is mounted, or a folder in there.

    Raises
    ------
    UnfitError
        Nothing is mounted there.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        files = MountFiles(Path(root))
        self._set_up(files, files.root)

    def _set_up(self, files: Files, root: Path) -> None:
        self._name = root.name or "plate"
        self._files = files
        self._storage = TreeStorage(files, root)
        self.registry = StorageRegistry(self._storage)

    @classmethod
    def open(
        cls,
        source: str | os.PathLike[str],
        store: str | os.PathLike[str] | None = None,
        *,
        ram: int | None = None,
        cache: int | None = None,
    ) -> FileManager:
        """A tree in this process, without a mount: to be used in a `with` block, or closed.

        Parameters
        ----------
        source : path
            The plate, which is never written to; or a store, which is then all there is.
        store : path, optional
            Where everything new goes; by default beside the plate, as `vfsd mount` has it.
        ram, cache : int, optional
            The most that the tiers may hold, in bytes.

        Raises
        ------
        UnfitError
            The places are not fit.
        BusyError
            A mount or another process has the store.
        """
        from vfsd.client.embedded import TreeFiles

        manager = cls.__new__(cls)
        files = TreeFiles(Path(source), None if store is None else Path(store), ram=ram, cache=cache)
        manager._set_up(files, Path(os.path.abspath(source)))
        return manager

    def flush(self) -> None:
        """Store everything new now, verified; raises FlushIncomplete where something could not be."""
        self._files.flush()

    def close(self) -> None:
        """Let go of the tree; one in this process is flushed, and the flush verified.

        Raises
        ------
        FlushIncomplete
            Not everything reached the store; what did not is kept, and the next one to open the tree finds it.
        """
        self._files.close()

    def __enter__(self) -> FileManager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- objects

    def save(
        self,
        data: Any,
        path: Name,
        backend: str = AUTO,
        *,
        overwrite: bool = False,
        allow_pickle: bool = False,
        **options: Any,
    ) -> None:
        """Save an object under a name, whole or not at all.

        Parameters
        ----------
        data : object
            Arrays of numpy, torch, cupy, jax, zarr or dask, tables, text, bytes, what JSON has, or what a registered codec takes.
        path : path
            Its suffix says the file type; without one the object's type does.
        backend : str
            Where its bytes are to be: "memory", "disk", "zarr", "auto", or a registered backend's name.
        overwrite : bool
            Replace what is there.
        allow_pickle : bool
            Objects that no file type takes are pickled.
        **options
            Of the file type: for TIFFs what `tifffile.imwrite` takes (`imagej`, `ome`, `metadata`, `compression`, …),
            `compressed` for .npz, `indent` for .json.

        Raises
        ------
        FileExistsError
            There is something; the same bytes may be saved to another tier, which moves them.
        FileNotFoundError
            Its folder does not exist.
        UnfitData
            The object does not fit the name.
        StorageResolutionError
            No such backend.
        """
        foreign = self._foreign(backend)
        if foreign is not None:
            foreign.save(data, os.fsdecode(path), overwrite=overwrite, **options)
            return
        tier = self.registry.tier_of(backend)
        self._storage.save(data, path, tier, overwrite=overwrite, allow_pickle=allow_pickle, **options)

    def load(
        self, path: Name, backend: str = AUTO, *, as_: str | None = None, copy: bool = False, allow_pickle: bool = False
    ) -> Any:
        """Load what was saved, or any file of the plate.

        Parameters
        ----------
        path : path
            A file.
        backend : str
            The tier that its bytes are to be in: they move there first. From "zarr" an array is zarr's.
        as_ : str, optional
            "numpy", "torch", "cupy", "jax", "zarr", "dask", "pandas" or "bytes".
        copy : bool
            A numpy array of one's own, to be written to. Without it .npy and uncompressed TIFFs are read-only views of the
            tier's memory, which stays as long as they are used.
        allow_pickle : bool
            Load what was saved with `allow_pickle`. A pickle from elsewhere is never loaded.

        Raises
        ------
        FileNotFoundError
            There is nothing.
        DamagedFile
            The file is not what its name says.
        MissingPackage
            `as_` names a library that is not installed.
        """
        foreign = self._foreign(backend)
        if foreign is not None:
            from vfsd.client.conversion import convert

            found = foreign.load(os.fsdecode(path))
            return found if as_ is None else convert(found, as_)
        tier = self.registry.tier_of(backend)
        return self._storage.load(path, tier, as_=as_, copy=copy, allow_pickle=allow_pickle)

    def save_batch(
        self,
        data: Mapping[Any, Any] | Sequence[Any],
        paths: Sequence[Name] | None = None,
        backend: str = AUTO,
        *,
        overwrite: bool = False,
        allow_pickle: bool = False,
        **options: Any,
    ) -> None:
        """Save many objects, by threads and, for "zarr", in one flush: a mapping of names to them, or they and their names.

        Raises
        ------
        Exception
            As `save`, of the first that failed, with a note on how many were saved.
        """
        if isinstance(data, Mapping):
            if paths is not None:
                raise UsageProblem("a mapping has the names already")
            items = list(data.items())
        else:
            if paths is None or len(paths) != len(data):
                raise UsageProblem("a batch has as many names as objects")
            items = list(zip(paths, data, strict=True))
        foreign = self._foreign(backend)
        if foreign is not None:
            for path, one in items:
                foreign.save(one, os.fsdecode(path), overwrite=overwrite, **options)
            return
        tier = self.registry.tier_of(backend)
        self._storage.save_many(items, tier, overwrite=overwrite, allow_pickle=allow_pickle, **options)

    def load_batch(self, paths: Sequence[Name], backend: str = AUTO, **options: Any) -> list[Any]:
        """Load many, by threads, in the order of their names; `options` as of `load`."""
        foreign = self._foreign(backend)
        if foreign is not None:
            return [self.load(path, backend, **options) for path in paths]
        return self._storage.load_many(paths, self.registry.tier_of(backend), **options)

    def metadata(self, path: Name) -> dict[str, Any]:
        """What a TIFF says of itself: "axes", "shape", "pages", and "imagej" (a dict), "ome" (XML) or "description"."""
        return self._storage.metadata(path)

    def _foreign(self, backend: str) -> StorageBackend | None:
        """The backend if it is not a tier of the tree."""
        if backend == AUTO:
            return None
        found = self.registry.get_backend(backend)
        return None if isinstance(found, TierBackend) else found

    # --- names

    def exists(self, path: Name, backend: str = AUTO) -> bool:
        """Whether there is a file or folder; in a tree the tiers share their names."""
        foreign = self._foreign(backend)
        return self._storage.exists(path) if foreign is None else foreign.exists(os.fsdecode(path))

    def tier(self, path: Name) -> str:
        """`ram`, `cache`, `source` or `store`: where a file's bytes are now."""
        return self._files.tier(self._storage.path(path))

    def stat(self, path: Name) -> os.stat_result:
        """As `os.stat`."""
        return self._files.stat(self._storage.path(path))

    def list_dir(self, path: Name = "") -> list[str]:
        """The names in a folder, in natural order (s2 before s10)."""
        names = [one.name for one in self._entries(self._storage.path(path))]
        return [os.fsdecode(name) for name in sorted(names, key=natural_key)]

    def list_files(
        self,
        path: Name = "",
        backend: str = AUTO,
        *,
        pattern: str | None = None,
        extensions: str | Iterable[str] | None = None,
        recursive: bool = False,
    ) -> list[str]:
        """The files in a folder, as names that `load` takes, in natural order.

        Parameters
        ----------
        pattern : str, optional
            The last name must match it, as a shell has it ("*_w1*").
        extensions : str or iterable of str, optional
            One of these suffixes, case ignored.
        recursive : bool
            Those of the folders below as well; symbolic links to folders are not followed.
        """
        wanted = None if extensions is None else {extensions} if isinstance(extensions, str) else set(extensions)
        suffixes = (
            None
            if wanted is None
            else tuple(one.lower() if one.startswith(".") else f".{one.lower()}" for one in wanted)
        )
        foreign = self._foreign(backend)
        if foreign is not None:
            found = [os.fsencode(name) for name in foreign.list_files(os.fsdecode(path))]
        else:
            found = self._walk(self._storage.path(path), recursive)

        def is_wanted(one: bytes) -> bool:
            name = os.fsdecode(one.rpartition(b"/")[2])
            matches = pattern is None or fnmatch.fnmatchcase(name, pattern)
            return matches and (suffixes is None or name.lower().endswith(suffixes))

        return [os.fsdecode(one) for one in sorted(filter(is_wanted, found), key=natural_key)]

    def plates(self, path: Name = "") -> list[PlateImages]:
        """The plates in a folder and those below it, by what names and vendor metadata say: images by well, field and channel."""
        from vfsd.client.plate_images import find_plates

        def read(wanted: bytes, offset: int, size: int) -> bytes:
            return bytes(self._files.view(wanted)[offset : offset + size])

        folder = self._storage.path(path)
        return find_plates(
            self, sorted(self._walk(folder, True)), read, os.fsdecode(split_path(folder)[1]) or self._name
        )

    def _walk(self, folder: bytes, recursive: bool) -> list[bytes]:
        found: list[bytes] = []
        waiting = [folder]
        while waiting:
            here = waiting.pop()
            for one in self._entries(here):
                if one.is_file:
                    found.append(join_path(here, one.name))
                elif recursive and one.is_directory and not one.is_link:
                    waiting.append(join_path(here, one.name))
        return found

    def _entries(self, folder: bytes) -> list[Entry]:
        return [one for one in self._files.entries(folder) if not one.name.startswith(TEMPORARY_PREFIX)]

    def ensure_directory(self, path: Name) -> str:
        """Make a folder and those above it, where they are missing; its path in the tree."""
        whole = self._storage.path(path)
        made = b""
        for name in whole.split(b"/") if whole else []:
            made = join_path(made, name)
            try:
                self._files.make_directory(made)
            except FileExistsError:
                continue
        if whole and not _is_directory(self._files, whole):
            raise failure(errno.ENOTDIR, whole)
        return os.fsdecode(whole)

    def delete(self, path: Name, backend: str = AUTO) -> None:
        """Remove a file, a symbolic link, or an empty folder; with all its tiers."""
        foreign = self._foreign(backend)
        if foreign is None:
            self._storage.delete(path)
        else:
            foreign.delete(os.fsdecode(path))

    def copy(self, source: Name, target: Name, *, overwrite: bool = False) -> None:
        """A second file with the same bytes; FileExistsError unless `overwrite`."""
        self._storage.copy(source, target, overwrite=overwrite)

    def move(self, source: Name, target: Name, *, overwrite: bool = False) -> None:
        """Another name for a file or folder, whose bytes stay where they are; FileExistsError unless `overwrite`."""
        self._storage.move(source, target, overwrite=overwrite)

    def create_symlink(self, target: Name, path: Name, *, overwrite: bool = False) -> None:
        """A symbolic link at `path` to `target` of this tree."""
        link, leads_to = self._storage.path(path), self._storage.path(target)
        above = link.count(b"/")
        text = b"../" * above + leads_to or b"."
        if not overwrite:
            self._files.symlink(text, link)
            return
        beside = join_path(split_path(link)[0], TEMPORARY_PREFIX + secrets.token_hex(8).encode())
        self._files.symlink(text, beside)
        try:
            self._files.rename(beside, link, overwrite=True)
        except BaseException:
            self._files.remove(beside)
            raise


def _is_directory(files: Files, path: bytes) -> bool:
    return stat.S_ISDIR(files.stat(path).st_mode)
