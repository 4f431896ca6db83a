"""The decoding kernels against c-blosc: every way, over all parameters that it takes."""

from __future__ import annotations

import ctypes
import itertools

import numpy as np
import pytest
from batches import decode_batch
from cpu_device import CpuDevice
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_buffers import KINDS, contents, lz4_parameters, make_content, other_parameters

from vfsd.codec import BloscParameters, compress
from vfsd.gpu.engines import ENGINES, Engine

OWN = {name: engine for name, engine in ENGINES.items() if not engine.nvcomp}


@pytest.mark.parametrize("engine", OWN.values(), ids=OWN)
def test_every_kind_of_frame_decodes_in_one_batch(engine: Engine, kernels: ctypes.CDLL) -> None:
    sizes = (1, 130, 5000, 70_000, 200_000)
    shuffles = ("noshuffle", "shuffle", "bitshuffle")
    expected, frames = [], []
    for size, kind, shuffle, typesize in itertools.product(sizes, KINDS, shuffles, (1, 2, 3, 4, 8, 17)):
        content = make_content(kind, size, typesize)
        expected.append(content)
        frames.append(compress(content, BloscParameters(typesize, shuffle=shuffle, blocksize=(0, 4096)[size % 3 == 0])))
    for order in range(3):
        assert decode_batch(CpuDevice(kernels, order), engine, frames, [len(e) for e in expected]) == expected


@settings(max_examples=150, deadline=None)
@given(
    content=contents.filter(bool),
    parameters=lz4_parameters,
    engine=st.sampled_from(sorted(OWN)),
    order=st.integers(0, 2),
    skew=st.sampled_from([0, 0, 8, 4, 1]),
)
def test_what_c_blosc_wrote_decodes(
    kernels: ctypes.CDLL, content: bytes, parameters: BloscParameters, engine: str, order: int, skew: int
) -> None:
    frame = compress(content, parameters)
    result = decode_batch(CpuDevice(kernels, order), OWN[engine], [frame, frame], [len(content)] * 2, skew)
    few = len(content) // 64 < len(content) / max(parameters.blocksize, 128) * 2  # blocks too small for the GPU
    assert result == [content, content] or (few and result == [None, None])


@settings(max_examples=30, deadline=None)
@given(content=contents.filter(bool), parameters=other_parameters)
def test_other_codecs_are_left_to_the_cpu(kernels: ctypes.CDLL, content: bytes, parameters: BloscParameters) -> None:
    frame = compress(content, parameters)
    (result,) = decode_batch(CpuDevice(kernels), OWN["window"], [frame], [len(content)])
    kept = frame[2] & 2
    assert result == (content if kept else None)


def test_little_shared_memory_means_planes_in_global_memory(kernels: ctypes.CDLL) -> None:
    content = np.random.default_rng(0).poisson(300, 100_000).astype("<u2").tobytes()
    frame = compress(content, BloscParameters(2))
    device = CpuDevice(kernels, shared_limit=32 * 1024)
    assert decode_batch(device, OWN["window-fused-all"], [frame], [len(content)]) == [content]
    assert not any("fused" in launch for launch in device.launches)
    device = CpuDevice(kernels, shared_limit=48 * 1024)
    assert decode_batch(device, OWN["window-fused-all"], [frame], [len(content)]) == [content]
    assert any("fused" in launch for launch in device.launches)
