"""Frames that the GPU's kernels write: c-blosc and our own decoders read them, and they are as small as c-blosc's."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import zarr
from batches import decode_batch
from cpu_device import CpuDevice
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc
from sample_buffers import contents

import vfsd
from vfsd.codec import BloscParameters, compress, decompress_into, parse_header
from vfsd.errors import UnfitError, UsageProblem
from vfsd.gpu.encoder import MOST_ENCODED, FrameEncoder, FrameGeometry, compress_array
from vfsd.gpu.engines import ENGINES
from vfsd.gpu.saving import write_planes
from vfsd.plates.demo_scene import Scene


def encode(device: CpuDevice, parts: list[bytes], typesize: int) -> list[bytes]:
    joined = b"".join(parts)
    data = device.empty((len(joined),), np.uint8)
    data[:] = np.frombuffer(joined, np.uint8)
    frames = FrameEncoder(device, None).encode(data, len(parts), typesize)
    whole = frames.data.tobytes()
    return [whole[begin : begin + size] for begin, size in zip(frames.offsets, frames.sizes, strict=True)]


@settings(max_examples=100, deadline=None)
@given(content=contents.filter(bool), typesize=st.integers(1, 8), order=st.integers(0, 2), seed=st.integers(0, 255))
def test_everybody_reads_what_was_compressed(
    kernels: ctypes.CDLL, content: bytes, typesize: int, order: int, seed: int
) -> None:
    parts = [content, bytes([seed]) * len(content), content[::-1]]
    frames = encode(CpuDevice(kernels, order), parts, typesize)
    assert frames == encode(CpuDevice(kernels, (order + 1) % 3), parts, typesize)
    for frame, part in zip(frames, parts, strict=True):
        assert len(frame) == parse_header(frame).cbytes <= len(part) + 16
        assert blosc.decompress(frame) == part
        out = np.empty(len(part), np.uint8)
        decompress_into(frame, out.data)
        assert out.tobytes() == part
    decoded = decode_batch(CpuDevice(kernels), ENGINES["window-fused"], frames, [len(content)] * 3)
    assert [part for part in decoded if part is not None] in (parts, [])


@pytest.mark.parametrize("typesize", range(1, 9))
def test_a_ragged_last_block_stays_short_enough_to_be_compressed(typesize: int) -> None:
    for nbytes in (1, typesize, 200 * typesize, 2160 * 2160 * typesize, 10**6 + 1, 2**31 - 17):
        geometry = FrameGeometry.of(nbytes, typesize)
        full, left = divmod(nbytes, geometry.blocksize)
        assert geometry.blocks == full + (left > 0)
        assert geometry.largest <= MOST_ENCODED
        assert geometry.streams_per_block == 1 or geometry.blocksize % typesize == 0


def demo_plane() -> np.ndarray:
    """A plane of the simulated plate."""
    plane = np.empty((512, 512), "<u2")
    scene = Scene(512, 1, 1, plane.dtype, 3)
    rng = np.random.default_rng(3)
    scene.draw_plane(plane, rng, scene.scatter_cells(rng, 1.0), channel=0, z=0, time=0, response=0.5)
    return plane


def planes() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "demo": demo_plane(),
        "poisson": rng.poisson(256, (512, 512)).astype("<u2"),
        "dim": rng.poisson(40, (512, 512)).astype("<u2"),
        "float": np.sin(np.arange(256 * 256) / 900).astype("<f4").reshape(256, 256),
        "mask": (np.arange(512 * 512).reshape(512, 512) // 37 % 5).astype("u1"),
        "constant": np.full((512, 512), 7, "<u2"),
    }


@pytest.mark.parametrize("name", ["demo", "poisson", "dim", "float", "mask", "constant"])
def test_frames_are_as_small_as_on_the_cpu(kernels: ctypes.CDLL, name: str) -> None:
    plane = planes()[name]
    (frame,) = compress_array(CpuDevice(kernels), plane)
    assert blosc.decompress(frame) == plane.tobytes()
    theirs = compress(plane, BloscParameters(plane.itemsize))
    # c-blosc's streams of single bytes are of 64 KiB, ours of 32: what little a mask becomes is there twice.
    assert len(frame) <= 1.05 * len(theirs) + plane.nbytes // 1000


@pytest.mark.parametrize("name", ["demo", "float", "mask"])
def test_a_saved_array_is_zarrs(kernels: ctypes.CDLL, tmp_path: Path, name: str) -> None:
    plane = np.ascontiguousarray(planes()[name][:100, :90])
    stack = np.stack([plane, plane[::-1], plane * 0] * 23)
    device = CpuDevice(kernels)
    for number, (gpu, array) in enumerate(((device, stack), (None, stack), (device, plane))):
        folder = tmp_path / str(number)
        write_planes(folder, gpu, array)
        expected = array.reshape(-1, *plane.shape)
        np.testing.assert_array_equal(zarr.open_array(folder, mode="r")[...], expected)
        np.testing.assert_array_equal(vfsd.load(folder, device="cpu"), expected)
        with pytest.raises(UnfitError):
            write_planes(folder, gpu, array)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2"]
    with pytest.raises(UsageProblem):
        write_planes(tmp_path / "x", device, plane[0])
