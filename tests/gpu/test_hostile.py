"""Damaged frames: refused by name, exactly where the CPU decoder refuses them, and never to anybody else's harm."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from batches import decode_batch
from cpu_device import FLAGS, HERE, CpuDevice
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_buffers import KINDS, make_content

import vfsd.codec
from vfsd.codec import BloscParameters, FrameError, compress, decompress_into
from vfsd.gpu.decoder import describe_error
from vfsd.gpu.engines import ENGINES

CODEC = Path(vfsd.codec.__file__).parent
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
ROUNDS = 5  # mutations of each of 225 samples


def build_driver(folder: Path) -> Path:
    gcc, gxx = shutil.which("gcc"), shutil.which("g++")
    if gcc is None or gxx is None:
        pytest.skip("no gcc or g++")
    (folder / "empty.cpp").write_text("int main() { return 0; }\n")
    probe = [gxx, *SANITIZERS, "empty.cpp", "-o", "empty"]
    if subprocess.run(probe, cwd=folder, capture_output=True, check=False).returncode != 0:
        pytest.skip("g++ has no sanitizer libraries here")
    reference, program = folder / "reference.o", folder / "driver"
    common = ["-O1", "-g", *SANITIZERS]
    subprocess.run(
        [gcc, "-std=c11", *common, f"-I{CODEC}", "-c", HERE / "reference_decoder.c", "-o", reference], check=True
    )
    subprocess.run([gxx, *common, *FLAGS, HERE / "hostile_driver.cpp", reference, "-o", program], check=True)
    return program


def test_no_damaged_frame_makes_a_kernel_step_out_of_bounds(tmp_path: Path) -> None:
    program = build_driver(tmp_path)
    shuffles, sizes = ("noshuffle", "shuffle", "bitshuffle"), (130, 5000, 20_000)
    with (tmp_path / "samples").open("wb") as file:
        for size, kind, shuffle, typesize in itertools.product(sizes, KINDS, shuffles, (1, 2, 4, 8, 17)):
            content = make_content(kind, size, typesize)
            frame = compress(content, BloscParameters(typesize, shuffle=shuffle, blocksize=4096))
            file.write(struct.pack("=II", len(frame), len(content)) + frame + content)
    result = subprocess.run(
        [program, tmp_path / "samples", str(ROUNDS), "7"],
        env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    tried, decoded, refused = (int(word) for word in result.stdout.split())
    assert tried == 225 * ROUNDS
    # It would prove nothing if every damage were refused, or none.
    assert tried // 20 < decoded
    assert tried // 20 < refused


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    typesize=st.sampled_from([1, 2, 4, 8]),
    shuffle=st.sampled_from(["noshuffle", "shuffle", "bitshuffle"]),
    blows=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.one_of(st.none(), st.floats(0, 1)),
    engine=st.sampled_from(["window-fused-all", "window", "window-apart", "sequence-fused"]),
)
def test_the_same_frames_are_refused_as_on_the_cpu(
    kernels: ctypes.CDLL,
    kind: str,
    typesize: int,
    shuffle: str,
    blows: list[tuple[float, int]],
    cut: float | None,
    engine: str,
) -> None:
    content = make_content(kind, 9000, typesize)
    sound = compress(content, BloscParameters(typesize, shuffle=shuffle, blocksize=2048))  # type: ignore[arg-type]
    frame = bytearray(sound)
    for place, value in blows:
        frame[int(place * (len(frame) - 1))] = value
    if cut is not None:
        del frame[int(cut * len(frame)) :]
    before, result, behind = decode_batch(
        CpuDevice(kernels), ENGINES[engine], [sound, bytes(frame), sound], [len(content)] * 3
    )
    assert before == behind == content
    expected = np.empty(len(content), np.uint8)
    try:
        decompress_into(frame, expected.data)
    except FrameError:
        assert not isinstance(result, bytes)
        if result is not None:
            assert describe_error(result).startswith("damaged Blosc frame: a ")
    else:
        assert result in (expected.tobytes(), None)
