"""`load` and `iterate`: from names to arrays on the GPU, or on the CPU where there is none.

    import vfsd
    plane  = vfsd.load("/mnt/plate1/A01_s1_w1.tif", device="cuda")          # cupy, (y, x)
    planes = vfsd.load([one, other, …], device="cuda", as_="torch")           # (n, y, x), in this order
    stack  = vfsd.load("plate1.vfs/images/plate1.ome.zarr/A/1/0/0", (0, 1), device="auto")
    for planes in vfsd.iterate(names, batch=64, device="cuda"): …            # the next batch is loaded meanwhile

What the GPU does not decode is decoded by the CPU and copied, with one warning (`CpuPathWarning`) for each reason.
"""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vfsd.errors import UnfitError, UsageProblem
from vfsd.gpu.chunks import Job
from vfsd.gpu.cpu import CpuLoader, read_by_zarr
from vfsd.gpu.device import Device, NoDeviceError
from vfsd.gpu.finding import Finder, FoundArray, PlainFile
from vfsd.gpu.loader import DEFAULT_MEMORY, ChunksDamaged, Loader
from vfsd.gpu.selection import Box, Selection, parse_selection

Name = str | os.PathLike[str]
Kind = Literal["numpy", "cupy", "torch"]


class CpuPathWarning(UserWarning):
    """Something asked of the GPU went through the CPU."""


def load(
    what: Name | Sequence[Name],
    selection: Selection = ...,
    *,
    device: str = "auto",
    as_: Kind | None = None,
    memory: int = DEFAULT_MEMORY,
) -> Any:
    """Load an array, a plane, or many of them.

    Parameters
    ----------
    what : path or sequence of paths
        The folder of a Zarr array (v2 or v3; Blosc-LZ4 is decoded on the GPU), an image file of a mounted tree, or a file of a
        store that is not mounted (`plate1.vfs/<path in the tree>`). Of several, all of one shape and type, the result has a
        first axis more, in the given order.
    selection : int, slice, Ellipsis or tuple of them
        Of each array or plane.
    device : str
        "cuda", "cuda:<number>", "cpu", or "auto": the first GPU if there is one, else the CPU.
    as_ : str, optional
        "cupy", "torch" (through DLPack, without a copy) or "numpy"; by default what the device has.
    memory : int
        Bytes that a load may take of the GPU beside its result, and a third of that of pinned memory.

    Raises
    ------
    NoDeviceError
        "cuda" was asked for and cannot be had.
    ChunksDamaged
        Some chunks could not be decoded; it names them, and has all others.
    UnfitError, FileNotFoundError, IndexError
        What was named or selected is not there.
    """
    gpu = _gpu(device)
    result = _load(what, selection, gpu, memory)
    return _converted(result, gpu, as_)


def iterate(
    what: Sequence[Name],
    selection: Selection = ...,
    *,
    batch: int = 64,
    device: str = "auto",
    as_: Kind | None = None,
    memory: int = DEFAULT_MEMORY,
) -> Iterator[Any]:
    """`load` of `batch` names after another, the next one while the caller works on the one before; errors come in order."""
    if batch < 1:
        raise UsageProblem("a batch has one name at least")
    gpu = _gpu(device)
    groups = [what[first : first + batch] for first in range(0, len(what), batch)]
    with ThreadPoolExecutor(1, thread_name_prefix="vfsd-load") as ahead:
        coming = ahead.submit(_load, groups[0], selection, gpu, memory) if groups else None
        for number in range(len(groups)):
            assert coming is not None
            result = coming.result()
            if number + 1 < len(groups):
                coming = ahead.submit(_load, groups[number + 1], selection, gpu, memory)
            yield _converted(result, gpu, as_)


def _gpu(device: str) -> Device | None:
    """The GPU, or None for the CPU."""
    kind, _, number = device.partition(":")
    if kind == "cpu" and not number:
        return None
    if kind not in ("auto", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        raise UsageProblem(f"a device is cuda, cuda:<number>, cpu or auto, not {device!r}")
    from vfsd.gpu.cuda import cuda_device

    try:
        return cuda_device(int(number or 0))
    except NoDeviceError:
        if kind == "auto":
            return None
        raise


def _load(what: Name | Sequence[Name], selection: Selection, gpu: Device | None, memory: int) -> Any:
    single = isinstance(what, (str, os.PathLike))
    names = [what] if isinstance(what, (str, os.PathLike)) else list(what)
    if not names:
        raise UsageProblem("nothing was named")
    with Finder() as finder:
        found = [finder.find(Path(name)) for name in names]
    boxes = [_box(each, selection) if isinstance(each, FoundArray) else None for each in found]
    kinds = {_kind(each, box) for each, box in zip(found, boxes, strict=True)}
    if len(kinds) == 1 and None not in kinds:
        return _load_boxes(found, boxes, single, gpu, memory)
    return _load_each(found, selection, single, gpu, memory)


def _kind(found: FoundArray | PlainFile, box: Box | None) -> tuple[object, ...] | None:
    """What must be the same for one result; None for what no loader reads."""
    if box is None or not isinstance(found, FoundArray) or found.layout is None:
        return None
    return found.layout.dtype.str, box.shape, str(box.finish)  # slices have no hash before Python 3.12


def _box(found: FoundArray, selection: Selection) -> Box | None:
    if found.layout is None:
        return None
    axes = len(found.plane)
    own = parse_selection(selection, found.layout.shape[axes:])
    if not axes:
        return own
    for number, extent in zip(found.plane, found.layout.shape, strict=False):
        if not 0 <= number < extent:
            raise UnfitError("the array has no such plane", path=found.folder)
    return Box((*found.plane, *own.start), (*(1,) * axes, *own.shape), (*(0,) * axes, *own.finish))


def _load_boxes(
    found: Sequence[FoundArray | PlainFile], boxes: Sequence[Box | None], single: bool, gpu: Device | None, memory: int
) -> Any:
    """Everything by one loader, straight into one array."""
    jobs = []
    offset = 0
    shape: tuple[int, ...] = ()
    finish: tuple[int | slice, ...] = ()
    kind = np.dtype(np.uint8)
    for each, box in zip(found, boxes, strict=True):
        assert isinstance(each, FoundArray)
        assert each.layout is not None
        assert box is not None
        jobs.append(Job(each.layout, box, offset))
        shape, finish, kind = box.shape, box.finish, each.layout.dtype
        offset += math.prod(shape) * kind.itemsize
    with _lock:
        loader = CpuLoader() if gpu is None else _loader(gpu, memory)
        try:
            flat = loader.load(jobs, offset, kind)
        except ChunksDamaged as error:
            error.result = _finished(error.result, len(jobs), shape, finish, single)
            raise
    return _finished(flat, len(jobs), shape, finish, single)


def _finished(flat: Any, count: int, shape: tuple[int, ...], finish: tuple[int | slice, ...], single: bool) -> Any:
    stacked = flat.reshape((count, *shape))[(slice(None), *finish)]
    return stacked[0] if single else stacked


def _load_each(
    found: Sequence[FoundArray | PlainFile], selection: Selection, single: bool, gpu: Device | None, memory: int
) -> Any:
    """Each for itself, since they are of several kinds; then stacked."""
    parts: list[Any] = []
    for each in found:
        box = _box(each, selection) if isinstance(each, FoundArray) else None
        if box is not None:
            part = _load_boxes([each], [box], True, gpu, memory)
        else:
            part = _read_on_cpu(each, selection, gpu is not None)
            if gpu is not None:
                part = _uploaded(gpu, part)
        if parts and (part.shape != parts[0].shape or part.dtype != parts[0].dtype):
            raise UnfitError(
                f"{part.shape} of {part.dtype} does not stack with {parts[0].shape} of {parts[0].dtype}",
                path=each.path if isinstance(each, PlainFile) else each.folder,
            )
        parts.append(part)
    if single:
        return parts[0]
    if gpu is None:
        return np.stack(parts)
    stacked = gpu.empty((len(parts), *parts[0].shape), parts[0].dtype)
    with gpu.on(gpu.stream()):
        for number, part in enumerate(parts):
            stacked[number] = part
    gpu.synchronize()
    return stacked


def _read_on_cpu(found: FoundArray | PlainFile, selection: Selection, warn: bool) -> NDArray[Any]:
    if warn and found.reason not in _said:
        _said.add(found.reason)
        warnings.warn(f"decoded by the CPU: {found.reason}", CpuPathWarning, stacklevel=5)
    if isinstance(found, FoundArray):
        return read_by_zarr(found.folder, selection)
    import tifffile

    return np.ascontiguousarray(tifffile.imread(found.path)[selection])


def _uploaded(gpu: Device, part: NDArray[Any]) -> Any:
    target = gpu.empty(part.shape, part.dtype)
    if part.nbytes:
        contiguous = np.ascontiguousarray(part)
        gpu.upload(contiguous.reshape(-1).view(np.uint8), target.reshape(-1).view(np.uint8), gpu.stream())
        gpu.synchronize()
    return target


def _converted(result: Any, gpu: Device | None, as_: Kind | None) -> Any:
    if as_ == "torch":
        import torch

        return torch.from_dlpack(result)
    if as_ == "numpy":
        return result if gpu is None else result.get()
    if as_ == "cupy" and gpu is None:
        raise NoDeviceError("cupy arrays are on a GPU", remedy="Leave `as_` out to get numpy's on the CPU")
    if as_ not in (None, "cupy"):
        raise UsageProblem(f"as_ is numpy, cupy or torch, not {as_!r}")
    return result


def _loader(gpu: Device, memory: int) -> Loader:
    """The one of a GPU, which keeps its pinned memory; another one where `memory` is another."""
    key = id(gpu)  # a GPU's device lives as long as the process
    known = _loaders.get(key)
    if known is None or known[0] != memory:
        if known is not None:
            known[1].close()
        _loaders[key] = (memory, Loader(gpu, memory=memory))
    return _loaders[key][1]


_loaders: dict[int, tuple[int, Loader]] = {}
_lock = threading.Lock()  # held during a load: a loader is one thread's at a time
_said: set[str] = set()  # reasons for the CPU path that were given
