"""`save`: an array on the GPU becomes a Zarr array on disk; its pixels cross PCIe compressed.

The array is one of the store's own kind (sharded, Blosc-LZ4, `vfsd.store.geometry`), which zarr-python, tensorstore and
`vfsd.load` open. It is written beside its place and renamed in when it is whole and synced.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np

from vfsd.codec import BloscParameters, ShardWriter, compress
from vfsd.errors import UnfitError, UsageProblem
from vfsd.gpu.device import Device, DeviceArray
from vfsd.gpu.encoder import compress_array
from vfsd.store.geometry import ITEM_SIZES, ArrayGeometry

_SHARD_PLANES: Final = 64  # of the store's stacks: big enough to be worth one read (geometry.STACK_SHARD_PLANES)


def save(path: str | os.PathLike[str], array: Any) -> None:
    """Write planes as a Zarr v3 array.

    Parameters
    ----------
    path : path
        The array's folder, which must not exist.
    array : cupy, torch or numpy array, shape (n, y, x) or (y, x)
        Whole numbers or floats of 1 to 8 bytes. On a GPU it is compressed there.

    Raises
    ------
    UsageProblem
        The array is of another kind.
    UnfitError
        There is something under `path`.
    OSError
        The disk failed or is full; nothing is left under `path`.
    """
    if not isinstance(array, np.ndarray):
        from vfsd.gpu.cuda import array_on_device

        device, planes = array_on_device(array)
        write_planes(Path(path), device, planes)
    else:
        write_planes(Path(path), None, array)


def write_planes(folder: Path, device: Device | None, array: DeviceArray) -> None:
    """`save` for an array whose device is known; None: numpy's."""
    planes = array.reshape((1, *array.shape)) if array.ndim == 2 else array
    name = planes.dtype.name
    if planes.ndim != 3 or name not in ITEM_SIZES or planes.size == 0:
        raise UsageProblem(f"an array of shape {array.shape} and type {name} is no stack of planes")
    if os.path.lexists(folder):
        raise UnfitError("is there already", path=folder)
    count, height, width = planes.shape
    geometry = ArrayGeometry(
        ("file",),
        (count,),
        (min(count, _SHARD_PLANES),),
        height,
        width,
        height,
        width,
        name,
        BloscParameters(planes.itemsize),
    )
    work = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
    work.mkdir()
    try:
        for first in range(0, count, geometry.shard_extents[0]):
            part = planes[first : first + geometry.shard_extents[0]]
            key = geometry.shard_key(geometry.shard_grid_position((first,)))
            _write_shard(work / key, geometry, _frames(device, part))
        _write_synced(work / "zarr.json", json.dumps(geometry.document(), indent=2).encode())
        _sync_folder(work)
        os.rename(work, folder)
        _sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _frames(device: Device | None, planes: DeviceArray) -> list[bytes]:
    if device is not None:
        return compress_array(device, planes)
    little = np.ascontiguousarray(planes, planes.dtype.newbyteorder("<"))
    return [compress(plane, BloscParameters(little.itemsize)) for plane in little]


def _write_shard(path: Path, geometry: ArrayGeometry, frames: list[bytes]) -> None:
    with path.open("xb") as file:
        writer = ShardWriter(file.fileno(), geometry.chunks_per_shard)
        for position, frame in enumerate(frames):
            writer.append(position, frame)
        writer.finish()
        os.fsync(file.fileno())


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
