"""Arrays of every kind through the whole of the room, on a device whose kernels run on the CPU."""

from __future__ import annotations

import ctypes
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from cpu_device import CpuDevice
from zarr.codecs import BloscCodec, BytesCodec, ShardingCodec, TransposeCodec

import vfsd
from vfsd.gpu import ChunksDamaged, CpuPathWarning, NoDeviceError, loading
from vfsd.gpu.chunks import Job
from vfsd.gpu.cpu import CpuLoader
from vfsd.gpu.engines import ENGINES
from vfsd.gpu.layout import UnsupportedArray, read_layout
from vfsd.gpu.loader import Loader
from vfsd.gpu.selection import parse_selection

SELECTIONS: list[Any] = [..., (1,), (slice(1, 4), slice(3, 60, 2), -1), (..., slice(10, 20)), (0, 5, 7), (slice(2, 2),)]


def read(loader: Loader | CpuLoader, folder: Path, selection: Any) -> np.ndarray:
    layout = read_layout(folder)
    box = parse_selection(selection, layout.shape)
    nbytes = int(np.prod(box.shape, dtype=np.int64)) * layout.dtype.itemsize
    flat = loader.load([Job(layout, box, 0)], nbytes, layout.dtype)
    return flat.reshape(box.shape)[box.finish]


def image(dtype: str, seed: int = 0) -> np.ndarray:
    """Five planes of 70 x 75, the third of one value."""
    pixels = np.random.default_rng(seed).poisson(200, (5, 70, 75)) % 251
    pixels[2] = 3
    return pixels.astype(dtype)


def write_array(folder: Path, version: int, dtype: str, shuffle: str, sharded: bool, number: int) -> np.ndarray:
    pixels = image(dtype, number)
    common: dict[str, Any] = {"shape": pixels.shape, "chunks": (2, 32, 40), "zarr_format": version}
    if version == 2:
        from numcodecs import Blosc

        codec = Blosc("lz4", 5, {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}[shuffle])
        array = zarr.create_array(
            folder, **common, dtype=dtype, compressors=codec, fill_value=3, order="CF"[number % 2]
        )
    else:
        serializer = BytesCodec(endian="big") if dtype.startswith(">") else "auto"
        compressor = BloscCodec(cname="lz4", shuffle=shuffle, typesize=pixels.dtype.itemsize)  # type: ignore[arg-type]
        shards = (4, 64, 80) if sharded else None
        array = zarr.create_array(
            folder,
            **common,
            dtype=pixels.dtype.newbyteorder("=").name,
            shards=shards,
            compressors=compressor,
            serializer=serializer,
            fill_value=3,
        )
    array[...] = pixels
    return pixels


@pytest.mark.filterwarnings("ignore")
def test_arrays_of_others_are_read_whole_and_in_part(kernels: ctypes.CDLL, tmp_path: Path) -> None:
    kinds = itertools.product(("u1", "<u2", ">u2", "<f4", ">f8", "i8"), ((2, False), (3, False), (3, True)))
    for number, (dtype, (version, sharded)) in enumerate(kinds):
        shuffle = ("shuffle", "bitshuffle", "noshuffle")[number % 3 if dtype != "<u2" else 0]
        folder = tmp_path / str(number)
        pixels = write_array(folder, version, dtype, shuffle, sharded, number)
        loaders = [Loader(CpuDevice(kernels, number % 3), memory=memory) for memory in (1, 1 << 28)]
        for loader, selection in itertools.product((*loaders, CpuLoader()), SELECTIONS):
            got = read(loader, folder, selection)
            np.testing.assert_array_equal(got, pixels[selection], strict=False)
            assert got.dtype == pixels.dtype.newbyteorder("=")
        for loader in loaders:
            loader.close()


@pytest.mark.filterwarnings("ignore")
def test_transposed_chunks_and_an_index_in_front(loader: Loader, tmp_path: Path) -> None:
    pixels = image("<u2")
    inner = [TransposeCodec(order=(2, 0, 1)), BytesCodec(), BloscCodec(cname="lz4", typesize=2)]
    sharding = ShardingCodec(chunk_shape=(1, 35, 25), codecs=inner, index_location="start")
    array = zarr.create_array(
        tmp_path, shape=pixels.shape, chunks=(5, 70, 75), dtype="u2", serializer=sharding, compressors=None
    )
    array[...] = pixels
    np.testing.assert_array_equal(read(loader, tmp_path, ...), pixels)
    np.testing.assert_array_equal(read(CpuLoader(), tmp_path, (slice(1, 3), 7)), pixels[1:3, 7])


def test_a_damaged_chunk_is_named_and_all_others_are_there(loader: Loader, tmp_path: Path) -> None:
    pixels = image("<u2")
    array = zarr.create_array(
        tmp_path, shape=pixels.shape, chunks=(1, 70, 75), dtype="u2", compressors=BloscCodec(cname="lz4", typesize=2)
    )
    array[...] = pixels
    damages = {0: b"", 1: b"\x02\x01\x21\x02", 3: None, 4: b"\xff" * 12}
    for number, damage in damages.items():
        path = tmp_path / "c" / str(number) / "0" / "0"
        if damage is None:
            path.unlink()
        else:
            frame = path.read_bytes()
            path.write_bytes(frame[:16] + damage + frame[16 + len(damage) :] if number == 4 else damage)
    for reader in (loader, CpuLoader()):
        with pytest.raises(ChunksDamaged) as caught:
            read(reader, tmp_path, ...)
        assert sorted(failure.part.chunk[0] for failure in caught.value.failures) == [0, 1, 4]
        assert "c/0/0/0" in str(caught.value) or "c/1/0/0" in str(caught.value) or "c/4/0/0" in str(caught.value)
        result = caught.value.result.reshape(pixels.shape)
        np.testing.assert_array_equal(result[2], pixels[2])
        assert not result[[0, 1, 3, 4]].any()
    np.testing.assert_array_equal(read(loader, tmp_path, slice(2, 4)), [pixels[2], pixels[3] * 0])


def test_frames_of_another_codec_are_decoded_by_the_cpu(loader: Loader, tmp_path: Path) -> None:
    pixels = image("<u2")
    for number, cname in enumerate(("lz4", "zstd")):
        array = zarr.create_array(
            tmp_path / cname,
            shape=pixels.shape,
            chunks=(2, 70, 75),
            dtype="u2",
            compressors=BloscCodec(cname=cname, typesize=2),  # type: ignore[arg-type]
        )
        array[...] = pixels + number
    swapped = tmp_path / "lz4" / "c" / "1" / "0" / "0"
    swapped.write_bytes((tmp_path / "zstd" / "c" / "1" / "0" / "0").read_bytes())
    expected = pixels.copy()
    expected[2:4] += 1
    np.testing.assert_array_equal(read(loader, tmp_path / "lz4", ...), expected)
    with pytest.raises(UnsupportedArray, match="zstd"):
        read_layout(tmp_path / "zstd")


def test_metadata_that_is_not_understood_is_refused_by_its_reason(tmp_path: Path) -> None:
    pixels = image("<u2")
    zarr.create_array(
        tmp_path, shape=pixels.shape, chunks=(1, 70, 75), dtype="u2", compressors=BloscCodec(cname="lz4", typesize=2)
    )
    path = tmp_path / "zarr.json"
    sound = json.loads(path.read_text())
    for change in (
        {"data_type": "string"},
        {"shape": [5, 70]},
        {"shape": [5, 70, -1]},
        {"codecs": []},
        {"codecs": [{"name": "bytes"}, {"name": "zstd"}]},
        {"codecs": "bytes"},
        {"chunk_grid": {"name": "rectangular"}},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 1, 1]}}},
        {"fill_value": [1]},
        {"chunk_key_encoding": {"name": "x"}},
        {"storage_transformers": [{"name": "x"}]},
    ):
        path.write_text(json.dumps(sound | change))
        with pytest.raises(UnsupportedArray):
            read_layout(tmp_path)
    path.write_text("[" * 100_000)
    with pytest.raises(UnsupportedArray):
        read_layout(tmp_path)


def test_vfsd_load_stacks_in_the_given_order(
    kernels: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = {}
    for number in range(3):
        pixels[number] = image("<u2", number)
        array = zarr.create_array(
            tmp_path / str(number),
            shape=(5, 70, 75),
            chunks=(1, 70, 75),
            dtype="u2",
            compressors=BloscCodec(cname="lz4" if number else "zstd", typesize=2),  # type: ignore[arg-type]
        )
        array[...] = pixels[number]
    device = CpuDevice(kernels)
    for gpu in (None, device):
        monkeypatch.setattr(loading, "_gpu", lambda name, gpu=gpu: gpu)
        np.testing.assert_array_equal(vfsd.load(tmp_path / "1", (slice(1, 3), 4)), pixels[1][1:3, 4])
        names = [tmp_path / "2", tmp_path / "1", tmp_path / "2"]
        np.testing.assert_array_equal(vfsd.load(names, 1), [pixels[2][1], pixels[1][1], pixels[2][1]])
        batches = list(vfsd.iterate(names, batch=2))
        np.testing.assert_array_equal(np.concatenate(batches), [pixels[2], pixels[1], pixels[2]])
    device.launches.clear()
    with pytest.warns(CpuPathWarning, match="zstd"):
        result = vfsd.load([tmp_path / "0", tmp_path / "1"])
    np.testing.assert_array_equal(result, [pixels[0], pixels[1]])
    assert device.launches


def test_without_a_gpu_cuda_is_an_error_and_auto_is_the_cpu(tmp_path: Path) -> None:
    pixels = image("<u2")
    array = zarr.create_array(
        tmp_path, shape=pixels.shape, chunks=(1, 70, 75), dtype="u2", compressors=BloscCodec(cname="lz4", typesize=2)
    )
    array[...] = pixels
    try:
        from vfsd.gpu.cuda import cuda_device

        cuda_device()
    except NoDeviceError as error:
        assert error.remedy
        with pytest.raises(NoDeviceError):
            vfsd.load(tmp_path, device="cuda")
        np.testing.assert_array_equal(vfsd.load(tmp_path, device="auto"), pixels)
    else:
        np.testing.assert_array_equal(vfsd.load(tmp_path, device="cuda", as_="numpy"), pixels)


def test_every_engine_has_a_loader(kernels: ctypes.CDLL, tmp_path: Path) -> None:
    pixels = image("<u2")
    array = zarr.create_array(
        tmp_path, shape=pixels.shape, chunks=(2, 70, 75), dtype="u2", compressors=BloscCodec(cname="lz4", typesize=2)
    )
    array[...] = pixels
    for name, engine in ENGINES.items():
        if not engine.nvcomp:
            loader = Loader(CpuDevice(kernels, 2), engine=name)
            np.testing.assert_array_equal(read(loader, tmp_path, ...), pixels)
            loader.close()


@pytest.mark.gpu
def test_a_gpu_decodes_as_the_cpu_does(tmp_path: Path) -> None:
    """On a real GPU: all engines, damaged frames, compression; the checks that `make gpu` begins with."""
    from benchmarks.gpu import Run, Sizes
    from benchmarks.gpu_checks import check_everything
    from benchmarks.gpu_machine import CudaMachine
    from vfsd.gpu import NoDeviceError

    try:
        machine = CudaMachine()
    except (ImportError, NoDeviceError) as error:
        pytest.skip(f"no GPU: {error}")
    assert check_everything(Run(machine, Sizes(), 1, tmp_path))["refused_by_cpu"]
