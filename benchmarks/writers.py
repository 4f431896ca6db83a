"""Peers that write the planes of fields into Zarr arrays of the layout that vfsd writes: shards of a field, chunks of a plane.

The codec is the same. Levels, where asked for, are halved by the same code as ours, so that only the writing differs.
None of them compares anything with what was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.planes import SIDE, Image, Pixels, block_of, extents_of, pixels_of
from vfsd.codec.halve import halve_by_mean

Fields = Sequence[Sequence[Image]]
Writer = Callable[[Path, Fields, bool], None]
SMALLEST_SIDE = 256
"""Levels are made until a side is at most this, as `vfsd` makes them."""

CODEC = {"cname": "lz4", "clevel": 5, "shuffle": "shuffle", "typesize": 2, "blocksize": 32768}


def levels_of(block: Pixels) -> Iterator[Pixels]:
    """The block, and then each level that is made of the one before."""
    yield block
    while block.shape[-1] > SMALLEST_SIDE:
        planes = [halve_by_mean(plane) for plane in block.reshape(-1, *block.shape[-2:])]
        block = np.stack(planes).reshape(*block.shape[:-2], *planes[0].shape)
        yield block


def arrays_of(folder: Path, fields: Fields, levels: bool) -> Iterator[tuple[Path, Pixels]]:
    """Where each array of each field goes, and what it holds."""
    for number, images in enumerate(fields):
        block = block_of(images)
        for level, smaller in enumerate(levels_of(block) if levels else [block]):
            yield folder / str(number) / str(level), smaller


def write_with_zarr(folder: Path, fields: Fields, levels: bool) -> None:
    """zarr-python, a whole shard in one assignment."""
    for path, block in arrays_of(folder, fields, levels):
        _zarr_array(path, block.shape)[...] = block


def write_with_zarr_by_planes(folder: Path, fields: Fields, levels: bool) -> None:
    """zarr-python, one plane after the other, as a program does that converts file by file; without levels."""
    for number, images in enumerate(fields):
        array = _zarr_array(folder / str(number), (*extents_of(images), SIDE, SIDE))
        for image in images:
            array[image.plane] = pixels_of(image)


def write_with_tensorstore(folder: Path, fields: Fields, levels: bool) -> None:
    """tensorstore, a whole shard in one write; the next field is read while it works."""
    pending: list[Any] = []
    for path, block in arrays_of(folder, fields, levels):
        pending.append(open_with_tensorstore(path, block.shape).write(block))
        while len(pending) > 4:
            pending.pop(0).result()
    for write in pending:
        write.result()


def _zarr_array(path: Path, shape: tuple[int, ...]) -> Any:
    import zarr
    from zarr.codecs import BloscCodec

    return zarr.create_array(
        store=path,
        shape=shape,
        shards=(1, *shape[1:]),
        chunks=(1, 1, 1, *shape[-2:]),
        dtype="uint16",
        compressors=BloscCodec(**CODEC),  # type: ignore[arg-type]  # the names are right, their types too general
    )


def open_with_tensorstore(path: Path, shape: tuple[int, ...]) -> Any:
    """A new array of tensorstore's."""
    import tensorstore

    chunk = {"name": "regular", "configuration": {"chunk_shape": [1, *shape[1:]]}}
    inner = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "blosc", "configuration": CODEC}]
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, 1, 1, *shape[-2:]],
            "codecs": inner,
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        },
    }
    metadata = {"shape": list(shape), "data_type": "uint16", "chunk_grid": chunk, "codecs": [sharding]}
    return tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}, "metadata": metadata}, create=True
    ).result()
