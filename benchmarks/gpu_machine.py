"""The machine that `benchmarks.gpu` measures: clocks on the GPU, its ceilings, and a way to run where little is installed.

`prepare_imports` makes vfsd importable with numpy and numcodecs alone: it builds the C extension with any C compiler, or
puts numcodecs in its place (slower; said), and computes CRC-32C in Python. Call it before anything of vfsd is imported.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

ROOT = Path(__file__).parent.parent
WARM_UPS = 2


def prepare_imports() -> list[str]:
    """Returns what was done, one sentence each."""
    import numcodecs  # before anything stands in for what it looks for itself

    notes = [f"numcodecs {numcodecs.__version__}, numpy {np.__version__}, Python {platform.python_version()}"]
    try:
        importlib.import_module("google_crc32c")
    except ImportError:
        module: Any = types.ModuleType("google_crc32c")
        module.value = crc32c
        sys.modules["google_crc32c"] = module
        notes.append("google_crc32c is missing: shards' checksums are computed in Python")
    try:
        importlib.import_module("xxhash")
    except ImportError:
        hashes: Any = types.ModuleType("xxhash")
        hashes.xxh3_128 = lambda: hashlib.blake2b(digest_size=16)  # of what is written here, and asked for by nobody
        sys.modules["xxhash"] = hashes
        notes.append("xxhash is missing: the shards written for this run are not hashed by it")
    if not any((ROOT / "vfsd" / "codec").glob(f"_inner*{sysconfig.get_config_var('EXT_SUFFIX')}")):
        notes.append(_provide_extension())
    return notes


def crc32c(data: bytes) -> int:
    """The Castagnoli CRC (RFC 3720, appendix B.4), a byte at a time."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def _crc_entry(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC = [_crc_entry(number) for number in range(256)]


def _provide_extension() -> str:
    """The C extension in a folder of its own, or numcodecs in its place."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    include = sysconfig.get_path("include")
    reason = "no C compiler" if compiler is None else "no Python.h"
    if compiler is not None and (Path(include) / "Python.h").exists():
        folder = Path(tempfile.mkdtemp(prefix="vfsd-inner-"))
        library = folder / f"_inner{sysconfig.get_config_var('EXT_SUFFIX')}"
        source = ROOT / "vfsd" / "codec" / "_inner.c"
        command = [compiler, "-O3", "-shared", "-fPIC", f"-I{include}", str(source), "-o", str(library)]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        if built.returncode == 0:
            spec = importlib.util.spec_from_file_location("vfsd.codec._inner", library)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules["vfsd.codec._inner"] = module
            return "the C extension was built for this run"
        reason = built.stderr.strip().splitlines()[-1] if built.stderr.strip() else "the compiler failed"
    sys.modules["vfsd.codec._inner"] = _numcodecs_in_its_place()
    return f"there is no C extension ({reason}): the CPU decodes by numcodecs"


def _numcodecs_in_its_place() -> types.ModuleType:
    from numcodecs import blosc

    module: Any = types.ModuleType("vfsd.codec._inner")

    class FrameError(ValueError):
        """As the extension's; numcodecs says no more."""

    def decode_frame(frame: Any, out: Any) -> bool:
        target = np.frombuffer(out, np.uint8)
        content = bytes(frame)
        if len(content) < 16 or int.from_bytes(content[4:8], "little") != target.size:
            raise FrameError("damaged Blosc frame")
        if int.from_bytes(content[12:16], "little") > len(content) or content[0] != 2:
            raise FrameError("damaged Blosc frame")
        try:
            blosc.decompress(content, target)
        except RuntimeError as error:
            raise FrameError("damaged Blosc frame") from error
        return True

    module.stands_in = True
    module.FrameError = FrameError
    module.LzwError = FrameError
    module.decode_frame = decode_frame
    for name in ("decode_range", "halve", "lzw_decode", "lzw_encode", "parse_header"):
        setattr(module, name, None)
    loaded: types.ModuleType = module
    return loaded


class Machine(Protocol):
    """What is measured on. `benchmarks.gpu` and the tests have one each."""

    device: Any

    def facts(self) -> dict[str, Any]:
        """What it is, for the report."""

    def seconds(self, work: Callable[[], None], stream: Any) -> float:
        """How long the device takes for what `work` gives to the stream."""

    def copy_on_device(self, source: Any, target: Any, stream: Any) -> None:
        """Copy an array to another one of its size."""

    def has_nvcomp(self) -> str:
        """Empty, or why not."""


class CudaMachine:
    """A real one."""

    def __init__(self) -> None:
        from vfsd.gpu.cuda import cuda_device

        self.device = cuda_device()  # says what is missing
        import cupy

        self.cupy = cupy

    def facts(self) -> dict[str, Any]:
        runtime = self.cupy.cuda.runtime
        properties = runtime.getDeviceProperties(self.device.number)
        return {
            "gpu": self.device.name,
            "multiprocessors": int(properties["multiProcessorCount"]),
            "l2_bytes": int(properties["l2CacheSize"]),
            "memory_bytes": int(properties["totalGlobalMem"]),
            "shared_limit": self.device.shared_limit,
            "driver": int(runtime.driverGetVersion()),
            "runtime": int(runtime.runtimeGetVersion()),
            "cupy": self.cupy.__version__,
        }

    def seconds(self, work: Callable[[], None], stream: Any) -> float:
        before, behind = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        before.record(stream)
        work()
        behind.record(stream)
        behind.synchronize()
        return float(self.cupy.cuda.get_elapsed_time(before, behind)) / 1e3

    def copy_on_device(self, source: Any, target: Any, stream: Any) -> None:
        kind = 3  # cudaMemcpyDeviceToDevice
        self.cupy.cuda.runtime.memcpyAsync(target.data.ptr, source.data.ptr, source.nbytes, kind, stream.ptr)

    def has_nvcomp(self) -> str:
        from vfsd.gpu import nvcomp
        from vfsd.gpu.device import NoDeviceError

        try:
            nvcomp.library()
        except NoDeviceError as error:
            return str(error)
        return ""


def median_seconds(machine: Machine, works: list[Callable[[], None]], stream: Any, rounds: int) -> dict[str, float]:
    """The median over works in turn, each another input, after some that do not count; lowest and highest with it."""
    for work in works[:WARM_UPS]:
        machine.seconds(work, stream)
    times = [machine.seconds(works[number % len(works)], stream) for number in range(max(rounds, len(works)))]
    return {"seconds": statistics.median(times), "least": min(times), "most": max(times)}


def wall_seconds(work: Callable[[], object], rounds: int) -> dict[str, float]:
    """The same by the clock on the wall; `work` waits for its own end."""
    work()
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(times), "least": min(times), "most": max(times)}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
