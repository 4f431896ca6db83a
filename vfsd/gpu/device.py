"""What the decoder needs of a GPU, and the two errors of having none.

`Device` is the whole of it: memory, pinned memory, streams, copies, launches. `vfsd.gpu.cuda.CudaDevice` is the GPU; the
tests have one that runs the same kernels on the CPU, so that all of this room but that module runs without a GPU.
Nothing here imports cupy.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vfsd.errors import UnfitError

DeviceArray = Any
"""An array in the device's memory: cupy's, or numpy's in the tests. C-contiguous where this room makes it."""

Argument = np.uint32 | np.uint64
"""What a kernel takes: numbers, and addresses as 64-bit numbers."""


class NoDeviceError(UnfitError):
    """`device="cuda"` was asked for, and this machine cannot."""


class Event(Protocol):
    """A moment in a stream's work."""

    def synchronize(self) -> None:
        """Wait until it has passed."""


class Device(Protocol):
    """A GPU, or what stands in for one. Not for two threads at once.

    Work that is given to a stream runs in order, later than the call; the host memory that it uses must stay as it is
    until then. Streams do not wait for each other.
    """

    name: str
    shared_limit: int
    """Bytes of shared memory that one block can have."""

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any] | type) -> DeviceArray:
        """A new C-contiguous array, its address divisible by 256, of no particular content."""

    def pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """Host memory that copies run to and from at full speed."""

    def stream(self) -> Any:
        """A new stream."""

    def on(self, stream: Any) -> AbstractContextManager[object]:
        """Array operations inside go to this stream."""

    def record(self, stream: Any) -> Event:
        """The moment at which everything given to the stream so far is done."""

    def upload(self, source: NDArray[np.uint8], target: DeviceArray, stream: Any) -> None:
        """Copy bytes to the beginning of a device array of bytes."""

    def download(self, source: DeviceArray, target: NDArray[np.uint8], stream: Any) -> None:
        """Copy bytes from the beginning of a device array of bytes until `target` is full."""

    def address(self, array: DeviceArray) -> int:
        """Where an array begins."""

    def launch(
        self, kernel: str, grid: tuple[int, int], threads: int, shared: int, arguments: Sequence[Argument], stream: Any
    ) -> None:
        """Run a kernel of `vfsd/gpu/kernels`: blocks along x and y, threads a block, bytes of shared memory."""

    def synchronize(self) -> None:
        """Wait for everything."""
