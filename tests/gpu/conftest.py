"""The kernels compiled for the CPU, once a session; without g++ what needs them is skipped."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "codec"))  # sample_buffers

from cpu_device import CpuDevice, compile_kernels

from vfsd.gpu.loader import Loader


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    try:
        return compile_kernels(tmp_path_factory.mktemp("kernels"))
    except FileNotFoundError:
        pytest.skip("no g++")


@pytest.fixture
def device(kernels: ctypes.CDLL) -> CpuDevice:
    return CpuDevice(kernels, order=2)


@pytest.fixture
def loader(device: CpuDevice) -> Iterator[Loader]:
    loader = Loader(device)
    yield loader
    loader.close()
