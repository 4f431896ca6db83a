"""A plate in a store, for benchmarks that read: made once, mounted as often as wanted, its arrays known to peers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cold import files_below, make_cold
from benchmarks.measure import mounted, run_vfsd


@dataclass(frozen=True, slots=True)
class StoredPlate:
    """The raw files, and the store that has them as well."""

    raw: Path
    store: Path
    mountpoint: Path

    @classmethod
    def convert(cls, raw: Path, work: Path, *options: str) -> StoredPlate:
        """Store a plate, without levels unless asked for: nothing here reads them."""
        store = work / "plate.vfs"
        run_vfsd("convert", raw, store, *(options or ("--levels", "0")))
        return cls(raw, store, work / "mnt")

    def images(self) -> list[Path]:
        """The raw TIFFs, in the order of their names."""
        return [path for path in files_below(self.raw) if path.suffix.lower() in (".tif", ".tiff")]

    def mounted_path(self, path: Path) -> Path:
        """Where the mount of the store has a raw file."""
        return self.mountpoint / path.relative_to(self.raw)

    def forget(self) -> None:
        """Neither the raw files nor the store are in the page cache any more."""
        make_cold(files_below(self.raw, self.store))

    @contextmanager
    def mount(self, *options: str) -> Iterator[int]:
        """The store alone, mounted read-only; gives the daemon's process id."""
        with mounted(self.store, self.mountpoint, "--read-only", *options) as pid:
            yield pid

    def arrays(self) -> list[Path]:
        """The full-size array of each field."""
        return sorted(path.parent for path in (self.store / "images").rglob("0/zarr.json"))


def open_tensorstore(path: Path) -> Any:
    """An array, opened as a program does."""
    import tensorstore

    return tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}, read=True, open=True
    ).result()


def open_zarr(path: Path) -> Any:
    """The same with zarr-python."""
    import zarr

    return zarr.open_array(path, mode="r")


def read_all(path: Path, buffer: bytearray) -> int:
    """Read a file into a buffer that takes it whole; its bytes."""
    count = 0
    with path.open("rb", buffering=0) as file:
        while got := file.readinto(memoryview(buffer)[count:]):
            count += got
    return count


def checksum(pixels: Any) -> int:
    """Something that needs every pixel: a read is finished when this is."""
    return int(np.asarray(pixels).sum(dtype=np.uint64))
