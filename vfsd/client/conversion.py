"""Arrays of one library as those of another: numpy, torch, cupy, jax, zarr, dask, pandas; each imported when it is asked for.

Without a copy where both sides can: numpy to dask, and to torch and jax where the array may be written to (neither knows
read-only ones, so of a mapped one they get a copy).
"""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np

from vfsd.client.codecs.arrays import host_array, is_array
from vfsd.client.codecs.packaged import imported
from vfsd.errors import UnfitData, UsageProblem

KINDS: Final = ("numpy", "torch", "cupy", "jax", "zarr", "dask", "pandas", "bytes")


def convert(data: Any, kind: str, raw: memoryview | None = None) -> Any:
    """`data` as another library's; `raw` are its file's bytes, if it came from a file.

    Raises
    ------
    UsageProblem
        No such kind.
    MissingPackage
        The library is not installed.
    UnfitData
        It is nothing that the library has.
    """
    if kind not in KINDS:
        raise UsageProblem(f"as_ is one of {', '.join(KINDS)}, not {kind!r}")
    if kind == "bytes":
        return bytes(raw) if raw is not None else bytes(data)
    if kind == "pandas":
        return _frame(data, raw)
    if not is_array(data):
        raise UnfitData(f"a {type(data).__name__} is no array, and cannot be had as {kind}'s")
    if kind == "numpy":
        return host_array(data)
    if kind == "zarr":
        return _zarr(data)
    if kind == "dask":
        return imported("dask.array", "as_='dask'").from_array(data if hasattr(data, "chunks") else host_array(data))
    module = imported(kind if kind != "jax" else "jax.numpy", f"as_={kind!r}")
    array = host_array(data)
    native = array.astype(array.dtype.newbyteorder("="), copy=not array.flags.writeable)
    if kind == "torch":
        return module.from_numpy(native)
    return module.asarray(native)


def _zarr(data: Any) -> Any:
    zarr = imported("zarr", "as_='zarr'")
    if isinstance(data, zarr.Array):
        return data
    array = host_array(data)
    if array.ndim and array.size:
        return zarr.array(
            np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)), chunks=array.shape
        )
    return zarr.array(array.astype(array.dtype.newbyteorder("="), copy=False))


def _frame(data: Any, raw: memoryview | None) -> Any:
    pandas = imported("pandas", "as_='pandas'")
    if isinstance(data, list) and raw is not None:
        return pandas.read_csv(io.BytesIO(raw))
    return pandas.DataFrame(data)
