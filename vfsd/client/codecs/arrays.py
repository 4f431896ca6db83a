"""`.npy` and `.npz`: any array without objects, as it is: shape, type, byte order, and the order of its axes in memory.

An `.npy` is decoded without a copy. Arrays of other libraries (torch, cupy, jax, zarr, dask) are taken to the host first.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vfsd.client.codecs.codec import Codec, Part, refuse_options
from vfsd.errors import DamagedFile, UnfitData

_MAGIC: Final = b"\x93NUMPY"
# A header names a type and a shape. numpy itself refuses longer ones, since it parses them as Python.
_LONGEST_HEADER: Final = 10_000
# What the members of one .npz may take when they are unpacked, beside 1000 times its size: deflate ends at 1,032.
_MOST_EXPANSION: Final = 1032


def is_array(data: Any) -> bool:
    """Whether something is an array of any library, or a numpy scalar."""
    if isinstance(data, (np.ndarray, np.generic)):
        return True
    if isinstance(data, (type, str, bytes, bytearray, memoryview)) or is_frame(data):
        return False
    return hasattr(data, "shape") and hasattr(data, "dtype")


def is_frame(data: Any) -> bool:
    """Whether something is a table of pandas."""
    return type(data).__module__.partition(".")[0] == "pandas"


def host_array(data: Any) -> NDArray[Any]:
    """Any library's array as numpy's, on the host; without a copy where it is there already.

    Raises
    ------
    UnfitData
        It holds Python objects, or cannot be had as an array.
    MemoryError
        It is on a GPU, and the host has no room for it.
    """
    if isinstance(data, np.ma.MaskedArray):
        raise UnfitData("a masked array has no file type", remedy="Save data.filled() and data.mask")
    try:
        if isinstance(data, (np.ndarray, np.generic)):
            found = np.asarray(data)
        elif hasattr(data, "detach"):  # torch: off the graph, then off the GPU
            found = data.detach().cpu().numpy()
        elif hasattr(data, "compute"):  # dask
            found = np.asarray(data.compute())
        elif hasattr(data, "get") and hasattr(data, "device"):  # cupy refuses __array__
            found = data.get()
        elif type(data).__module__.partition(".")[0] == "zarr":
            found = np.asarray(data[...])
        else:
            found = np.asarray(data)
    except (TypeError, ValueError) as error:
        raise UnfitData(f"cannot be had as an array of numpy's ({error})") from error
    if found.dtype.hasobject:
        raise UnfitData(
            "an array of Python objects has no file type", remedy="Give it a numeric type, or save it with pickle"
        )
    return found


def raw_bytes(array: NDArray[Any]) -> Part:
    """The bytes of a C-contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data if array.size and array.dtype.itemsize else b""


def _npy_parts(data: Any) -> Sequence[Part]:
    array = host_array(data)
    header = np.lib.format.header_data_from_array_1_0(array)
    head = io.BytesIO()
    np.lib.format.write_array_header_2_0(head, header)
    if header["fortran_order"]:
        array = array.T
    return [head.getvalue(), raw_bytes(np.asarray(array, order="C"))]


def _encode_npy(data: Any, **options: Any) -> Sequence[Part]:
    refuse_options(options)
    return _npy_parts(data)


def _decode_npy(data: memoryview) -> NDArray[Any]:
    start = io.BytesIO(bytes(data[: _LONGEST_HEADER + 12]))
    try:
        version = np.lib.format.read_magic(start)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(start, max_header_size=_LONGEST_HEADER)
        elif version in ((2, 0), (3, 0)):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(start, max_header_size=_LONGEST_HEADER)
        else:
            raise ValueError(f"version {version[0]}.{version[1]} is not known")
    except Exception as error:  # numpy parses it as Python, which fails in many ways
        raise DamagedFile(f"is no .npy file ({error})") from error
    if dtype.hasobject:
        raise DamagedFile("holds Python objects, which are never unpickled")
    count = math.prod(shape)
    there = len(data) - start.tell()
    if any(extent < 0 for extent in shape) or count * dtype.itemsize > there:
        raise DamagedFile(
            f"is cut short: {count * dtype.itemsize} bytes of pixels are declared, {max(there, 0)} are there"
        )
    if count * dtype.itemsize == 0:
        found = np.empty(shape, dtype)
        found.flags.writeable = False
        return found
    flat = np.frombuffer(data, dtype, count, start.tell())
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _is_npz(data: Any) -> bool:
    return (
        isinstance(data, Mapping) and bool(data) and all(isinstance(key, str) and is_array(data[key]) for key in data)
    )


def _encode_npz(data: Mapping[str, Any], *, compressed: bool = False, **options: Any) -> Sequence[Part]:
    refuse_options(options)
    target = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(target, "w", kind) as archive:
        for name, array in data.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                for part in _npy_parts(array):
                    member.write(part)
    return [target.getbuffer()]


def _decode_npz(data: memoryview) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > (len(data) + 1) * _MOST_EXPANSION:
                raise DamagedFile("declares more than it can hold")
            return {
                member.filename.removesuffix(".npy"): _decode_npy(memoryview(archive.read(member)))
                for member in members
            }
    except DamagedFile:
        raise
    except Exception as error:  # damaged archives make zipfile raise errors of struct, zlib and its own
        raise DamagedFile(f"is no .npz file ({error})") from error


CODECS: Final = (
    Codec("npy", (".npy",), is_array, _encode_npy, _decode_npy, (_MAGIC,), unnamed=True),
    Codec("npz", (".npz",), _is_npz, _encode_npz, _decode_npz),
)
