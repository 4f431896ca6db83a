"""The second engine: nvCOMP's LZ4 for the streams, our kernels for everything around them.

nvCOMP is the user's to install (`nvidia-libnvcomp-cu13` or `-cu12`). It is called through its C interface, of versions 5 and 6
(nvcomp/lz4.h). Which of its streams failed comes back as our own error numbers.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from typing import Any, Final

import numpy as np

from vfsd.gpu.device import Device, DeviceArray, NoDeviceError

# of frames.cuh
_METHOD: Final = 3
_COMPRESSED: Final = 2
_IN_PLANES: Final = 4
_BAD_STREAM: Final = 3
_CUDA_BACKEND: Final = 2  # NVCOMP_DECOMPRESS_BACKEND_CUDA


class _Options(ctypes.Structure):
    """nvcompBatchedLZ4DecompressOpts_t: bytes, no bit shuffle, both of which are 0."""

    _fields_ = (("backend", ctypes.c_int), ("rest", ctypes.c_int * 15))


def _options() -> _Options:
    """The hardware engine of newer GPUs is not asked: what damaged streams do there is undefined (nvcomp/lz4.h)."""
    return _Options(backend=_CUDA_BACKEND)


class _Alignments(ctypes.Structure):
    """nvcompAlignmentRequirements_t."""

    _fields_ = (("input", ctypes.c_size_t), ("output", ctypes.c_size_t), ("temp", ctypes.c_size_t))


@functools.cache
def library() -> ctypes.CDLL:
    """nvCOMP, checked to be one that can do this.

    Raises
    ------
    NoDeviceError
        It is not installed, or another version, or wants streams where Blosc does not put them.
    """
    try:
        found = importlib.import_module("nvidia.libnvcomp").load_library()
    except (ImportError, OSError) as error:
        raise NoDeviceError(f"there is no nvCOMP ({error})", remedy="Install nvidia-libnvcomp-cu13 or -cu12") from error
    names = ("nvcompBatchedLZ4DecompressGetTempSizeAsync", "nvcompBatchedLZ4DecompressGetTempSize")
    if found is None or not hasattr(found, "nvcompBatchedLZ4DecompressGetRequiredAlignments"):
        raise NoDeviceError("this nvCOMP has another interface", remedy="Versions 5 and 6 are known here")
    checked: ctypes.CDLL = found
    if not any(hasattr(checked, name) for name in names):
        raise NoDeviceError("this nvCOMP has another interface", remedy="Versions 5 and 6 are known here")
    alignments = _Alignments()
    if checked.nvcompBatchedLZ4DecompressGetRequiredAlignments(_options(), ctypes.byref(alignments)) != 0:
        raise NoDeviceError("nvCOMP does not say what it needs")
    if alignments.input > 1 or alignments.output > 1:
        raise NoDeviceError(f"nvCOMP wants streams at multiples of {alignments.input} and {alignments.output} bytes")
    return checked


def decode_streams(
    device: Device,
    stream: Any,
    rows: DeviceArray,
    count: int,
    source: np.uint64,
    out: np.uint64,
    planes: np.uint64,
    errors: DeviceArray,
) -> None:
    """Decode the compressed streams that `plan` found, and take them out of the table.

    Parameters
    ----------
    rows, count
        The table (struct Stream of frames.cuh) as bytes, and how many rows it has.
    source, out, planes
        Where the input, the output and the planes begin.
    errors : device array of uint32
        One for each chunk.
    """
    nvcomp = library()
    with device.on(stream):
        table = rows[: 32 * count].view(np.uint64).reshape(count, 4)
        numbers = rows[: 32 * count].view(np.uint32).reshape(count, 8)
        kinds = numbers[:, 7]
        chosen = ((kinds & _METHOD) == _COMPRESSED).nonzero()[0]
        streams = int(chosen.size)
        if not streams:
            return
        compressed = table[chosen, 0] + source
        targets = table[chosen, 1] + _choose(kinds[chosen] & _IN_PLANES, planes, out)
        csizes = numbers[chosen, 4].astype(np.uint64)
        usizes = numbers[chosen, 5].astype(np.uint64)
        written = device.empty((streams,), np.uint64)
        statuses = device.empty((streams,), np.int32)
        largest = int(usizes.max())
        needed = ctypes.c_size_t()
        _check(_temporary_size(nvcomp, streams, largest, int(usizes.sum()), needed))
        temporary = device.empty((needed.value + 16,), np.uint8)
        pointers = [ctypes.c_void_p(device.address(array)) for array in (compressed, csizes, usizes, written)]
        _check(
            nvcomp.nvcompBatchedLZ4DecompressAsync(
                *pointers,
                ctypes.c_size_t(streams),
                ctypes.c_void_p(device.address(temporary)),
                ctypes.c_size_t(needed.value),
                ctypes.c_void_p(device.address(targets)),
                _options(),
                ctypes.c_void_p(device.address(statuses)),
                ctypes.c_void_p(int(stream.ptr)),
            )
        )
        failed = ((statuses != 0) | (written != usizes)).nonzero()[0]
        if int(failed.size):
            errors[numbers[chosen[failed], 6]] = _BAD_STREAM
        numbers[chosen, 7] = kinds[chosen] & ~np.uint32(_METHOD)


def _choose(flags: DeviceArray, yes: np.uint64, no: np.uint64) -> DeviceArray:
    """`yes` where a flag is set, else `no`."""
    distance = np.uint64((int(yes) - int(no)) % (1 << 64))
    return (flags != 0).astype(np.uint64) * distance + no  # modulo 2^64


def _temporary_size(nvcomp: ctypes.CDLL, streams: int, largest: int, total: int, size: Any) -> int:
    arguments = [ctypes.c_size_t(streams), ctypes.c_size_t(largest), _options(), ctypes.byref(size)]
    name = "nvcompBatchedLZ4DecompressGetTempSizeAsync"
    if hasattr(nvcomp, name):
        return int(getattr(nvcomp, name)(*arguments, ctypes.c_size_t(total)))
    return int(nvcomp.nvcompBatchedLZ4DecompressGetTempSize(*arguments, ctypes.c_size_t(total), ctypes.c_void_p(0)))


def _check(status: int) -> None:
    if status != 0:
        raise NoDeviceError(f"nvCOMP failed with status {status}")
