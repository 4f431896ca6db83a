"""The GPU, through cupy: the one module of this room that imports it, and only when a device is made.

Kernels are compiled by NVRTC at the first launch, and kept by cupy on disk. They need nothing beside NVRTC: no nvcc, no headers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from vfsd.gpu.device import Argument, DeviceArray, Event, NoDeviceError
from vfsd.gpu.source import DECODE, ENCODE, kernel_source

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Compute capability: match_any and the barriers between lanes came with 7.0 (Volta, 2017).
_LEAST_CAPABILITY: Final = 70
_OPTIONS: Final = ("-std=c++17",)
_ENCODE_KERNELS: Final = ("encode_streams", "pack_frames")
_SHARED_UNASKED: Final = 48 * 1024  # what a block gets of shared memory without asking for more
_HOST_TO_DEVICE: Final = 1  # cudaMemcpyKind
_DEVICE_TO_HOST: Final = 2


@final
class CudaDevice:
    """A `Device` (vfsd.gpu.device): the GPU of the given number.

    Raises
    ------
    NoDeviceError
        cupy is missing or does not fit the driver, or there is no such GPU, or it is older than 2017.
    """

    def __init__(self, number: int = 0) -> None:
        try:
            import cupy
        except ImportError as error:
            raise NoDeviceError(
                f"there is no cupy ({error})",
                remedy="Install the one for your CUDA, such as cupy-cuda13x or cupy-cuda12x, or use device='cpu'",
            ) from error
        try:
            count = int(cupy.cuda.runtime.getDeviceCount())
        except Exception as error:  # cupy's own, of many kinds: no driver, one that is too old, a library not found
            raise NoDeviceError(f"CUDA does not work here ({error})", remedy="device='auto' uses the CPU") from error
        if not 0 <= number < count:
            raise NoDeviceError(f"there is no GPU {number}: this machine has {count}")
        self._cupy = cupy
        self._device = cupy.cuda.Device(number)
        if int(self._device.compute_capability) < _LEAST_CAPABILITY:
            raise NoDeviceError(
                f"GPU {number} has compute capability {self._device.compute_capability}: 7.0 is the least that will do"
            )
        attributes = self._device.attributes
        self.number: Final = number
        self.shared_limit = int(attributes.get("MaxSharedMemoryPerBlockOptin", _SHARED_UNASKED))
        properties = cupy.cuda.runtime.getDeviceProperties(number)
        label = properties["name"]
        self.name = label.decode() if isinstance(label, bytes) else str(label)
        self._modules: dict[str, Any] = {}
        self._kernels: dict[str, Any] = {}
        self._shared: dict[str, int] = {}

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any] | type) -> DeviceArray:
        with self._device:
            return self._cupy.empty(tuple(shape), dtype)  # cupy's pool rounds to 512 bytes

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        with self._device:
            memory = self._cupy.cuda.alloc_pinned_memory(max(nbytes, 1))
        return np.frombuffer(memory, np.uint8, nbytes)

    def stream(self) -> Any:
        with self._device:
            stream = self._cupy.cuda.Stream(non_blocking=True)
            # Memory that the pool hands out may still be in use by work the caller gave to its own stream.
            stream.wait_event(self._cupy.cuda.get_current_stream().record())
        return stream

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        with self._device, stream:
            yield

    def record(self, stream: Any) -> Event:
        with self._device:
            event = self._cupy.cuda.Event(disable_timing=True)
            event.record(stream)
        done: Event = event
        return done

    def upload(self, source: NDArray[np.uint8], target: DeviceArray, stream: Any) -> None:
        self._copy(int(target.data.ptr), source.ctypes.data, source.nbytes, _HOST_TO_DEVICE, stream)

    def download(self, source: DeviceArray, target: NDArray[np.uint8], stream: Any) -> None:
        self._copy(target.ctypes.data, int(source.data.ptr), target.nbytes, _DEVICE_TO_HOST, stream)

    def _copy(self, to: int, source: int, nbytes: int, kind: int, stream: Any) -> None:
        if nbytes:
            with self._device:
                self._cupy.cuda.runtime.memcpyAsync(to, source, nbytes, kind, stream.ptr)

    def address(self, array: DeviceArray) -> int:
        return int(array.data.ptr)

    def launch(
        self, kernel: str, grid: tuple[int, int], threads: int, shared: int, arguments: Sequence[Argument], stream: Any
    ) -> None:
        with self._device, stream:
            function = self._kernel(kernel)
            if shared > self._shared.get(kernel, _SHARED_UNASKED):
                function.max_dynamic_shared_size_bytes = shared
                self._shared[kernel] = shared
            function(grid, (threads,), tuple(arguments), shared_mem=shared)

    def synchronize(self) -> None:
        self._device.synchronize()

    def _kernel(self, name: str) -> Any:
        if name not in self._kernels:
            self._kernels[name] = self._module(ENCODE if name in _ENCODE_KERNELS else DECODE).get_function(name)
        return self._kernels[name]

    def _module(self, source: str) -> Any:
        if source not in self._modules:
            code = kernel_source(source)
            self._modules[source] = self._cupy.RawModule(code=code, options=_OPTIONS, backend="nvrtc")
        return self._modules[source]


@functools.cache
def cuda_device(number: int = 0) -> CudaDevice:
    """The GPU of a number, made once; NoDeviceError as `CudaDevice`."""
    return CudaDevice(number)


def array_on_device(array: Any) -> tuple[CudaDevice, DeviceArray]:
    """A cupy or torch array (any with DLPack) on its GPU, C-contiguous and little-endian, with that GPU.

    NoDeviceError: there is none, or the array is not on one.
    """
    device = cuda_device()
    import cupy

    if not isinstance(array, cupy.ndarray):
        try:
            array = cupy.from_dlpack(array)
        except (BufferError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise NoDeviceError(
                f"the array is on no GPU ({error})", remedy="Give numpy's to compress on the CPU"
            ) from error
    owner = cuda_device(int(array.device.id)) if int(array.device.id) != device.number else device
    return owner, cupy.ascontiguousarray(array)
