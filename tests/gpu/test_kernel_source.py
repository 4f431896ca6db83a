"""The kernels' text: what Python and it must agree on, and whether the compilers of the GPU take it."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from vfsd.gpu import decoder, encoder, frames
from vfsd.gpu.source import DECODE, ENCODE, kernel_source


def constants(text: str) -> dict[str, int]:
    """Enumerators that are given by a number."""
    return {name: int(value, 0) for name, value in re.findall(r"^\s*(\w+) = (0x[0-9a-fA-F]+|\d+),", text, re.MULTILINE)}


def struct_bytes(text: str, name: str) -> int:
    """Size of a struct of u8, u32 and u64 members, none of which needs padding."""
    body = re.search(rf"struct {name} {{(.*?)}};", text, re.DOTALL)
    assert body
    sizes = {"u8": 1, "u32": 4, "u64": 8, "Sequence": 16}
    known = constants(text)
    total = 0
    for kind, members in re.findall(r"(u8|u32|u64|Sequence) ([^;]+);", body[1]):
        for member in members.split(","):
            extent = re.search(r"\[(\w+)\]", member)
            total += sizes[kind] * (known[extent[1]] if extent else 1)
    return total


def test_python_and_the_kernels_agree_on_sizes_and_constants() -> None:
    text = kernel_source(DECODE)
    known = constants(text)
    for name in ("DECODE_WARPS", "FUSED_WARPS", "ORIGINS", "MOST_FUSED_STREAMS", "UNSHUFFLE_THREADS"):
        assert known[name] == getattr(decoder, name)
    assert struct_bytes(text, "WarpScratch") == decoder.WARP_SCRATCH_BYTES
    assert struct_bytes(text, "Chunk") == frames.CHUNK.itemsize
    assert struct_bytes(text, "Stream") == frames.STREAM_BYTES
    assert {known["BAD_START"], known["BAD_STREAM_SIZE"], known["BAD_STREAM"]} == set(decoder.REASONS)
    text = kernel_source(ENCODE)
    known = constants(text)
    assert 2 << known["HASH_BITS"] == encoder.TABLE_BYTES
    assert known["MOST_ENCODED"] == encoder.MOST_ENCODED


def test_the_text_is_whole_and_takes_no_header() -> None:
    for name in (DECODE, ENCODE):
        text = kernel_source(name)
        assert "#include" not in text
        assert text.count("DEVICE u32 ballot") == 1


@pytest.mark.parametrize("name", [DECODE, ENCODE])
def test_nvcc_compiles_it_without_spilling_registers(name: str, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc")
    (tmp_path / "all.cu").write_text(kernel_source(name))
    command = [nvcc, "-arch=sm_90", "-std=c++17", "-Xptxas", "-v", "-cubin", "-o", "all.cubin", "all.cu"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "spill" in result.stderr
    assert set(re.findall(r"(\d+) bytes spill", result.stderr)) == {"0"}


@pytest.mark.parametrize("name", [DECODE, ENCODE])
def test_nvrtc_compiles_it(name: str) -> None:
    """As cupy does it; needs the library, no GPU."""
    for library in ("libnvrtc.so.13", "libnvrtc.so.12"):
        try:
            nvrtc = ctypes.CDLL(library)
            break
        except OSError:
            continue
    else:
        pytest.skip("no NVRTC")
    program = ctypes.c_void_p()
    source = kernel_source(name).encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"all.cu", 0, None, None) == 0
    options = (ctypes.c_char_p * 2)(b"-std=c++17", b"-arch=compute_70" if library.endswith("12") else b"-arch=sm_90")
    status = nvrtc.nvrtcCompileProgram(program, 2, options)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()


def test_a_row_of_the_table_is_laid_out_as_c_does_it() -> None:
    offsets = [frames.CHUNK.fields[name][1] for name in frames.CHUNK.names or ()]  # type: ignore[index]
    sizes = [frames.CHUNK[name].itemsize for name in frames.CHUNK.names or ()]
    assert offsets == list(np.cumsum(sizes) - sizes)
    assert all(offset % size == 0 for offset, size in zip(offsets, sizes, strict=True))
