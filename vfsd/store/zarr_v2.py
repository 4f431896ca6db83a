"""The store's images in the terms of older readers: documents of Zarr v2 and OME-NGFF 0.4, and the names of chunks there.

Only documents and names: Blosc frames are the same in both formats. One kind of array cannot be said in Zarr v2, that of
colour pixels whose samples lie side by side (`is_sayable`): its chunks must be turned and compressed anew.
Specifications: https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html, https://ngff.openmicroscopy.org/0.4/.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from vfsd.codec import compress, decompress_into, parse_header
from vfsd.codec.blosc import FrameError
from vfsd.store.geometry import ArrayGeometry, Document

NGFF_VERSION: Final = "0.4"
# numcodecs' numbers.
_SHUFFLES: Final = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
GROUP: Final[Document] = {"zarr_format": 2}


def encode_v2(document: Mapping[str, Any]) -> bytes:
    """The bytes of a document: ASCII, indented for people."""
    return json.dumps(document, indent=2, allow_nan=False).encode("ascii") + b"\n"


def group_attributes(attributes: Mapping[str, Any]) -> Document:
    """A group's `.zattrs` from the attributes of OME-Zarr 0.5: no `ome` around them, and a version in each."""
    ome = attributes.get("ome", {})
    others = {name: value for name, value in attributes.items() if name != "ome"}
    found: Document = {name: value for name, value in ome.items() if name != "version"}
    for name in ("plate", "well", "image-label", "omero"):
        if name in found:
            found[name] = {**found[name], "version": NGFF_VERSION}
    if "multiscales" in found:
        found["multiscales"] = [{**one, "version": NGFF_VERSION} for one in found["multiscales"]]
    return {**found, **others}


def is_sayable(geometry: ArrayGeometry) -> bool:
    """Whether the chunks can stay as they are: Zarr v2 knows no order of axes but all forwards or all backwards."""
    return geometry.samples == 1 or geometry.planar


def array_document(geometry: ArrayGeometry) -> Document:
    """An array's `.zarray`."""
    blosc = geometry.blosc
    return {
        "zarr_format": 2,
        "shape": list(geometry.shape),
        "chunks": list(geometry.chunk_shape),
        "dtype": np.dtype(geometry.dtype).newbyteorder("<").str,
        "compressor": {
            "id": "blosc",
            "cname": blosc.cname,
            "clevel": blosc.clevel,
            "shuffle": _SHUFFLES[blosc.shuffle],
            "blocksize": blosc.blocksize,
        },
        "fill_value": 0.0 if geometry.dtype.startswith("float") else 0,
        "filters": None,
        "order": "C",
        "dimension_separator": "/",
    }


def chunk_name(geometry: ArrayGeometry, plane: Sequence[int], tile: int) -> str:
    """The name of a tile's chunk in the array's folder."""
    row, column = divmod(tile, geometry.tile_grid[1])
    places = dict(zip(geometry.leading, plane, strict=True)) | {"y": row, "x": column}
    return "/".join(str(places.get(axis, 0)) for axis in geometry.axes)  # samples are never divided


def chunk_bytes(geometry: ArrayGeometry, frame: bytes) -> bytes:
    """A chunk for Zarr v2: the frame itself, or, where the format cannot say how its pixels lie, one of them in order.

    Raises
    ------
    FrameError
        It is no frame of a chunk of this array.
    """
    size = parse_header(frame).nbytes
    if size != geometry.tile_bytes:
        raise FrameError(f"it decodes to {size} bytes instead of {geometry.tile_bytes}")
    if is_sayable(geometry):
        return frame
    pixels = np.empty((geometry.tile_height, geometry.tile_width, geometry.samples), geometry.dtype)
    decompress_into(frame, pixels.reshape(-1).view(np.uint8).data)
    return compress(np.ascontiguousarray(np.moveaxis(pixels, 2, 0)).reshape(-1).view(np.uint8).data, geometry.blosc)
