"""A `Device` whose memory is numpy's and whose kernels are the GPU's own source, compiled for the CPU (cpu_warp.h)."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import vfsd.gpu

HERE = Path(__file__).parent
KERNELS = Path(vfsd.gpu.__file__).parent / "kernels"
FLAGS = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", f"-I{HERE}", f"-I{KERNELS}"]

# New memory is full of it: shows where nobody wrote, and as a row of the streams' table it is one that would be decoded.
POISON = 0xA6


def compile_kernels(folder: Path) -> ctypes.CDLL:
    """Build the kernels as a shared library; FileNotFoundError where there is no g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise FileNotFoundError("g++")
    library = folder / "kernels.so"
    subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", *FLAGS, str(HERE / "cpu_kernels.cpp"), "-o", str(library)], check=True
    )
    return ctypes.CDLL(str(library))


class DoneEvent:
    def synchronize(self) -> None:
        pass


class CpuDevice:
    """Everything happens at once and in order.

    `order` is the order in which lanes take their turns: 0 forwards, 1 backwards, 2 another one for each section.
    """

    name = "CPU"

    def __init__(self, library: ctypes.CDLL, order: int = 0, shared_limit: int = 227 * 1024) -> None:
        self.library = library
        self.order = order
        self.shared_limit = shared_limit
        self.launches: list[str] = []

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        kind = np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        memory = np.full(nbytes + 255, POISON, np.uint8)
        begin = -memory.ctypes.data % 256
        return memory[begin : begin + nbytes].view(kind).reshape(tuple(shape))

    def pinned(self, nbytes: int) -> np.ndarray:
        return np.full(nbytes, 0xEF, np.uint8)

    def stream(self) -> None:
        return None

    def on(self, stream: object) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def record(self, stream: object) -> DoneEvent:
        return DoneEvent()

    def upload(self, source: np.ndarray, target: np.ndarray, stream: object) -> None:
        target[: source.size] = source

    def download(self, source: np.ndarray, target: np.ndarray, stream: object) -> None:
        target[:] = source[: target.size]

    def address(self, array: np.ndarray) -> int:
        return int(array.ctypes.data)

    def launch(
        self, kernel: str, grid: tuple[int, int], threads: int, shared: int, arguments: Sequence[Any], stream: object
    ) -> None:
        assert shared <= self.shared_limit
        assert 0 < grid[0] < 2**31
        assert 0 < grid[1] < 2**16
        self.launches.append(kernel)
        words = (ctypes.c_uint64 * len(arguments))(*(int(argument) for argument in arguments))
        run = getattr(self.library, f"run_{kernel}")
        run(*(ctypes.c_uint32(n) for n in (*grid, shared, self.order)), words)

    def synchronize(self) -> None:
        pass


class CpuMachine:
    """A `benchmarks.gpu_machine.Machine` without a GPU; its figures mean nothing."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.device = CpuDevice(library)

    def facts(self) -> dict[str, Any]:
        return {"gpu": "none"}

    def seconds(self, work: Callable[[], None], stream: object) -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    def copy_on_device(self, source: np.ndarray, target: np.ndarray, stream: object) -> None:
        target[:] = source

    def has_nvcomp(self) -> str:
        return "no GPU"
