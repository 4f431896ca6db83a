"""Shards that we write are read by zarr-python and tensorstore, and we read what zarr-python writes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from vfsd.codec import BloscParameters, ShardWriter, compress, decompress_into, decompress_range, read_index

FILL = 7
PLANES = 5  # planes a shard, one inner chunk each


def write_array(root: Path, planes: np.ndarray, absent: set[int], parameters: BloscParameters) -> None:
    """`planes` (n, y, x) as a sharded Zarr v3 array, `PLANES` planes a shard; those absent have no chunk."""
    bytes_codec = {"name": "bytes", "configuration": {"endian": "little"}}
    inner = [1, *planes.shape[1:]]
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(planes.shape),
        "data_type": planes.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [PLANES, *planes.shape[1:]]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": FILL,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": inner,
                    "codecs": [bytes_codec, parameters.codec_document()],
                    "index_codecs": [bytes_codec, {"name": "crc32c"}],
                    "index_location": "end",
                },
            }
        ],
        "attributes": {},
    }
    root.mkdir()
    (root / "zarr.json").write_text(json.dumps(document))
    for number in range(-(-len(planes) // PLANES)):
        wanted = range(number * PLANES, min((number + 1) * PLANES, len(planes)))
        with (root / f"c.{number}.0.0").open("wb") as file:
            writer = ShardWriter(file.fileno(), PLANES)
            for plane in reversed([p for p in wanted if p not in absent]):
                writer.append(plane - number * PLANES, compress(planes[plane], parameters))
            writer.finish()


def example_planes(dtype: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    planes = rng.poisson(60, (12, 210, 190)).astype(dtype)
    planes[4] = FILL  # a constant plane that equals the fill value is present all the same
    return planes


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("shuffle", ["shuffle", "bitshuffle", "noshuffle"])
def test_zarr_and_tensorstore_read_our_shards(tmp_path: Path, dtype: str, shuffle: str) -> None:
    import tensorstore
    import zarr

    planes = example_planes(dtype)
    absent = {0, 6, 11}
    parameters = BloscParameters(planes.dtype.itemsize, shuffle=shuffle)
    write_array(tmp_path / "array", planes, absent, parameters)
    expected = planes.copy()
    expected[sorted(absent)] = FILL

    array = zarr.open_array(tmp_path / "array", mode="r")
    assert array.dtype == planes.dtype
    assert np.array_equal(array[...], expected)

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{tmp_path / 'array'}/"}}
    read = tensorstore.open(spec, read=True).result().read().result()
    assert np.array_equal(read, expected)


def test_we_read_shards_of_zarr(tmp_path: Path) -> None:
    import zarr
    from zarr.codecs import BloscCodec

    planes = example_planes("uint16")[:PLANES]
    array = zarr.create_array(
        tmp_path / "array",
        shape=planes.shape,
        dtype=planes.dtype,
        chunks=(1, *planes.shape[1:]),
        shards=planes.shape,
        compressors=BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=2, blocksize=32768),
        fill_value=FILL,
    )
    array[...] = planes
    fd = os.open(tmp_path / "array" / "c" / "0" / "0" / "0", os.O_RDONLY)
    try:
        index = read_index(fd, PLANES)
        assert index.present().tolist() == [0, 1, 2, 3], "zarr-python drops a chunk that is all fill value"
        for position in index.present():
            entry = index.entry(int(position))
            assert entry is not None
            frame = os.pread(fd, entry[1], entry[0])
            plane = np.empty(planes.shape[1:], planes.dtype)
            decompress_into(frame, plane)
            assert np.array_equal(plane, planes[position])
            rows = np.empty((20, planes.shape[2]), planes.dtype)
            decompress_range(frame, 50 * planes.shape[2] * 2, rows.nbytes, rows)
            assert np.array_equal(rows, planes[position, 50:70])
    finally:
        os.close(fd)
