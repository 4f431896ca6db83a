"""Where the bytes of a Zarr array lie, for arrays whose chunks the GPU decodes: v2 and v3, sharded or not, Blosc-LZ4.

Any other array is `UnsupportedArray`, with the reason; the caller then takes the CPU path. Metadata is somebody else's:
whatever it holds, the answer is one of the two. Nothing here reads more than the metadata file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np

Index = tuple[int, ...]

_MAX_METADATA: Final = 16 << 20  # bytes; a metadata file with long attributes has thousands
_MAX_AXES: Final = 32  # numpy 1's limit; beyond any image
_MAX_EXTENT: Final = (1 << 63) - 1
_MAX_CHUNK: Final = 2_147_483_631  # what a Blosc frame holds
_MAX_SHARD_CHUNKS: Final = 1 << 24  # an index of 256 MiB
_WIDTHS: Final = (8, 16, 32, 64)
_V3_TYPES: Final = frozenset(
    (
        "bool",
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
        *(f"{s}int{n}" for s in ("", "u") for n in _WIDTHS),
    )
)


class UnsupportedArray(ValueError):
    """An array, or a part of one, that the GPU does not decode; the message says why."""


@final
@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """One array's chunks.

    Parameters
    ----------
    folder : Path
        The array's.
    shape, chunk_shape : tuple of int
        The array's, and that of a chunk that is decoded at once (a shard's inner chunk).
    shard_chunks : tuple of int or None
        Chunks of a shard along each axis; None where each chunk is a file.
    index_first : bool
        Whether a shard's index stands at its beginning.
    dtype : dtype
        Of the stored elements, with their byte order.
    fill : numpy scalar
        What a missing chunk is full of, in native byte order.
    order : tuple of int
        The axes in the order in which a chunk's bytes have them, slowest first.
    key_prefix, separator : str
        Of the chunk files' names: `c/0/0` or `0.0`.
    """

    folder: Path
    shape: Index
    chunk_shape: Index
    shard_chunks: Index | None
    index_first: bool
    dtype: np.dtype[Any]
    fill: Any
    order: Index
    key_prefix: str
    separator: str

    @property
    def chunk_bytes(self) -> int:
        """Decoded bytes of a chunk."""
        return math.prod(self.chunk_shape) * self.dtype.itemsize

    def file_of(self, chunk: Sequence[int]) -> tuple[Path, int]:
        """The file that holds a chunk, and the chunk's position in its index (0 for a file of one chunk)."""
        if self.shard_chunks is None:
            grid, position = tuple(chunk), 0
        else:
            grid = tuple(c // n for c, n in zip(chunk, self.shard_chunks, strict=True))
            position = 0
            for c, n in zip(chunk, self.shard_chunks, strict=True):
                position = position * n + c % n
        words = [*([self.key_prefix] if self.key_prefix else []), *map(str, grid)]
        name = self.separator.join(words) if words else "0"  # an array without axes
        return self.folder / name, position


def read_layout(folder: Path) -> ArrayLayout:
    """The layout of the array in a folder.

    Raises
    ------
    FileNotFoundError
        There is no array.
    UnsupportedArray
        See the module.
    """
    for name, parse in (("zarr.json", _parse_v3), (".zarray", _parse_v2)):
        path = folder / name
        try:
            with path.open("rb") as file:
                text = file.read(_MAX_METADATA + 1)
        except FileNotFoundError:
            continue
        if len(text) > _MAX_METADATA:
            raise UnsupportedArray(f"its {name} is over {_MAX_METADATA} bytes")
        try:
            document = json.loads(text)
            return _checked(parse(folder, document))
        except UnsupportedArray:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise UnsupportedArray(f"its {name} is not understood ({error})") from error
    raise FileNotFoundError(f"{folder} holds no Zarr array")


def _checked(layout: ArrayLayout) -> ArrayLayout:
    axes = len(layout.shape)
    if axes > _MAX_AXES or len(layout.chunk_shape) != axes or sorted(layout.order) != list(range(axes)):
        raise UnsupportedArray("its shapes contradict each other")
    if any(not 0 <= n <= _MAX_EXTENT for n in layout.shape) or any(n < 1 for n in layout.chunk_shape):
        raise UnsupportedArray("an extent is out of its bounds")
    if layout.chunk_bytes > _MAX_CHUNK or math.prod(layout.shape) * layout.dtype.itemsize > _MAX_EXTENT:
        raise UnsupportedArray("it is larger than can be addressed")
    if layout.shard_chunks is not None:
        if len(layout.shard_chunks) != axes or any(n < 1 for n in layout.shard_chunks):
            raise UnsupportedArray("its shards are no whole number of chunks")
        if math.prod(layout.shard_chunks) > _MAX_SHARD_CHUNKS:
            raise UnsupportedArray("its shards have too many chunks")
    return layout


def _shape(value: Any) -> Index:
    if not isinstance(value, list) or not all(type(n) is int for n in value):
        raise UnsupportedArray("a shape is no list of whole numbers")
    return tuple(value)


def _parse_v3(folder: Path, document: Mapping[str, Any]) -> ArrayLayout:
    if document.get("node_type") != "array" or document.get("zarr_format") != 3:
        raise UnsupportedArray("it is no array")
    if document.get("storage_transformers"):
        raise UnsupportedArray("it has storage transformers")
    name = document["data_type"]
    if name not in _V3_TYPES:
        raise UnsupportedArray(f"its data type is {name!r}")
    grid = document["chunk_grid"]
    if grid["name"] != "regular":
        raise UnsupportedArray(f"its chunk grid is {grid['name']!r}")
    outer = _shape(grid["configuration"]["chunk_shape"])
    codecs = document["codecs"]
    chunk_shape, shard_chunks, index_first = outer, None, False
    if len(codecs) == 1 and _name(codecs[0]) == "sharding_indexed":
        sharding = codecs[0]["configuration"]
        chunk_shape = _shape(sharding["chunk_shape"])
        if len(chunk_shape) != len(outer) or any(o % n for o, n in zip(outer, chunk_shape, strict=True)):
            raise UnsupportedArray("its shards are no whole number of chunks")
        shard_chunks = tuple(o // n for o, n in zip(outer, chunk_shape, strict=True))
        location = sharding.get("index_location", "end")
        if location not in ("start", "end"):
            raise UnsupportedArray(f"its shards have their index at {location!r}")
        index_first = location == "start"
        _check_index_codecs(sharding["index_codecs"])
        codecs = sharding["codecs"]
    order = tuple(range(len(outer)))
    if codecs and _name(codecs[0]) == "transpose":
        order, codecs = _shape(codecs[0]["configuration"]["order"]), codecs[1:]
    if [_name(codec) for codec in codecs] != ["bytes", "blosc"]:
        raise UnsupportedArray(f"its codecs are {', '.join(map(_name, codecs)) or 'none'}, not blosc")
    _check_compressor(codecs[1]["configuration"])
    kind = np.dtype(name)
    if kind.itemsize > 1:
        endian = codecs[0]["configuration"]["endian"]
        kind = kind.newbyteorder({"little": "<", "big": ">"}[endian])
    encoding = document.get("chunk_key_encoding", {"name": "default"})
    settings = {} if isinstance(encoding, str) else encoding.get("configuration") or {}
    default = _name(encoding) == "default"
    if not default and _name(encoding) != "v2":
        raise UnsupportedArray(f"its chunk keys are encoded by {_name(encoding)!r}")
    separator = settings.get("separator", "/" if default else ".")
    return ArrayLayout(
        folder,
        _shape(document["shape"]),
        chunk_shape,
        shard_chunks,
        index_first,
        kind,
        _fill(document.get("fill_value"), kind),
        order,
        "c" if default else "",
        _separator(separator),
    )


def _parse_v2(folder: Path, document: Mapping[str, Any]) -> ArrayLayout:
    if document.get("zarr_format") != 2:
        raise UnsupportedArray("it is no array")
    if document.get("filters"):
        raise UnsupportedArray("it has filters")
    compressor = document["compressor"]
    if not compressor or compressor["id"] != "blosc":
        raise UnsupportedArray(f"its compressor is {compressor and compressor['id']}, not blosc")
    _check_compressor(compressor)
    name = document["dtype"]
    if not isinstance(name, str) or np.dtype(name).kind not in "biufc":
        raise UnsupportedArray(f"its data type is {name!r}")
    kind = np.dtype(name)
    chunks = _shape(document["chunks"])
    axes = tuple(range(len(chunks)))
    if document["order"] not in ("C", "F"):
        raise UnsupportedArray(f"its order is {document['order']!r}")
    return ArrayLayout(
        folder,
        _shape(document["shape"]),
        chunks,
        None,
        False,
        kind,
        _fill(document.get("fill_value"), kind),
        axes if document["order"] == "C" else axes[::-1],
        "",
        _separator(document.get("dimension_separator", ".")),
    )


def _name(codec: Any) -> str:
    return str(codec if isinstance(codec, str) else codec["name"])


def _separator(value: Any) -> str:
    if value not in (".", "/"):
        raise UnsupportedArray(f"its chunk keys are separated by {value!r}")
    return str(value)


def _check_compressor(settings: Mapping[str, Any]) -> None:
    if settings["cname"] not in ("lz4", "lz4hc"):
        raise UnsupportedArray(f"it is compressed by {settings['cname']}, not lz4")


def _check_index_codecs(codecs: Sequence[Any]) -> None:
    names = [_name(codec) for codec in codecs]
    if names != ["bytes", "crc32c"] or codecs[0]["configuration"]["endian"] != "little":
        raise UnsupportedArray(f"its shards' index is encoded by {', '.join(names)}")


def _fill(value: Any, kind: np.dtype[Any]) -> Any:
    """A fill value of either version; null is 0. Complex numbers are pairs; a float may be given by its bits."""
    native = kind.newbyteorder("=")
    if value is None:
        return native.type(0)
    if kind.kind == "c":
        real, imaginary = value
        return native.type(complex(_real(real), _real(imaginary)))
    if kind.kind == "f":
        if isinstance(value, str) and value.startswith("0x"):
            return np.array(int(value, 16), f"u{kind.itemsize}").view(native)[()]
        return native.type(_real(value))
    if kind.kind == "b" and isinstance(value, bool):
        return native.type(value)
    if type(value) is not int:
        raise UnsupportedArray(f"its fill value is {value!r}")
    return np.array(value, native)[()]


def _real(value: Any) -> float:
    if isinstance(value, str):
        names = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
        if value not in names:
            raise UnsupportedArray(f"its fill value is {value!r}")
        return names[value]
    return float(value)
