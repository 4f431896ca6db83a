"""One array of somebody else's, Zarr v2 or v3: what its metadata says, and where its chunks lie.

`read_array` makes a `ForeignArray` of an array's folder or says in a `ForeignError` why not. All sizes are believed only as
numbers: nothing is allocated by them. Sources: the Zarr v2 and v3 core specifications, the codec `sharding_indexed` 1.0.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np

from vfsd.store.foreign.codecs import Pipeline, codec_of, is_big_endian, parse_v2, parse_v3
from vfsd.store.foreign.folder import ForeignError, ForeignFolder, Json

# Types that OME-TIFF has a name for, by numpy's kind and bytes.
PIXEL_TYPES: Final = frozenset({"u1", "u2", "u4", "i1", "i2", "i4", "f4", "f8"})
_V3_TYPES: Final = {
    **{f"{word}{8 * size}": f"{kind}{size}" for word, kind in (("uint", "u"), ("int", "i")) for size in (1, 2, 4, 8)},
    "float16": "f2",
    "float32": "f4",
    "float64": "f8",
}
_V2_TYPE: Final = re.compile(r"[<>|][a-zA-Z][0-9]{1,2}")
# NGFF has at most five axes; arrays of more are refused before anything is computed with them.
MOST_AXES: Final = 32
# The index of a shard is held in memory: 16 bytes a chunk.
MOST_CHUNKS_A_SHARD: Final = 1 << 22
# Numbers are 64-bit in every program that reads files.
_LARGEST: Final = 1 << 62


@final
@dataclass(frozen=True, slots=True)
class Sharding:
    """How the chunks of a shard are found: the shard's shape, whether its index comes first and has a checksum."""

    shape: tuple[int, ...]
    index_first: bool
    checksum: bool
    big_endian: bool

    def count(self, chunks: Sequence[int]) -> int:
        """How many chunks a shard has."""
        return math.prod(whole // part for whole, part in zip(self.shape, chunks, strict=True))


@final
@dataclass(frozen=True, slots=True)
class ForeignArray:
    """See the module.

    Attributes
    ----------
    path : bytes
        Of the array in its folder.
    mtime : int
        Of its metadata, in ns.
    shape, chunks : tuple of int
        In elements; the chunks are those that are compressed, so with shards the inner ones.
    dtype : numpy.dtype
        Of its elements, little-endian.
    fill : bytes
        One element, little-endian: what a chunk that is not there holds.
    dimension_names : tuple of str, or None
        As Zarr v3 has them.
    """

    path: bytes
    version: int
    mtime: int
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: bytes
    pipeline: Pipeline
    sharding: Sharding | None
    prefix: bytes
    separator: bytes
    dimension_names: tuple[str, ...] | None

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk, decoded."""
        return math.prod(self.chunks) * self.dtype.itemsize

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from an element of a decoded chunk to the next along each axis."""
        strides = [0] * len(self.chunks)
        step = self.dtype.itemsize
        for axis in reversed(self.pipeline.order):
            strides[axis] = step
            step *= self.chunks[axis]
        return tuple(strides)

    def object_of(self, place: Sequence[int]) -> tuple[bytes, int | None]:
        """Path of the file that holds the chunk at a place of the grid, and its number within a shard."""
        if self.sharding is None:
            return self._key(place), None
        counts = [whole // part for whole, part in zip(self.sharding.shape, self.chunks, strict=True)]
        outer = [at // count for at, count in zip(place, counts, strict=True)]
        number = 0
        for at, count in zip(place, counts, strict=True):
            number = number * count + at % count
        return self._key(outer), number

    def _key(self, place: Sequence[int]) -> bytes:
        parts = [b"%d" % at for at in place]
        name = self.separator.join([self.prefix, *parts] if self.prefix else parts or [b"0"])
        return self.path + b"/" + name if self.path else name

    def describe(self) -> dict[str, object]:
        """For people and programs."""
        found: dict[str, object] = {
            "zarr_format": self.version,
            "shape": list(self.shape),
            "chunks": list(self.chunks),
            "dtype": self.dtype.name,
            "codec": self.pipeline.name,
        }
        if self.sharding is not None:
            found["shards"] = list(self.sharding.shape)
        return found


def read_array(folder: ForeignFolder, path: bytes) -> ForeignArray:
    """The array at a path; raises ForeignError."""
    try:
        found = folder.document(path + b"/zarr.json")
        if found is not None:
            return _of_v3(found[0], path, found[1].st_mtime_ns)
        found = folder.document(path + b"/.zarray")
        if found is not None:
            return _of_v2(found[0], path, found[1].st_mtime_ns)
    except ForeignError as error:
        raise error if error.path is not None else ForeignError(error.reason, path) from error
    raise ForeignError("is no Zarr array: it has neither zarr.json nor .zarray", path)


def _of_v2(document: Json, path: bytes, mtime: int) -> ForeignArray:
    if document.get("zarr_format") != 2:
        raise ForeignError(f"is no Zarr v2 array: zarr_format is {document.get('zarr_format')!r}")
    shape = _sizes(document.get("shape"), "shape", least=0)
    chunks = _sizes(document.get("chunks"), "chunks", least=1, like=shape)
    name = document.get("dtype")
    if not isinstance(name, str) or not _V2_TYPE.fullmatch(name):
        raise ForeignError(f"has elements of type {name!r}, which vfsd does not know")
    dtype = _pixel_type(name[1:], name)
    separator = document.get("dimension_separator", ".")
    if separator not in (".", "/"):
        raise ForeignError(f"has the dimension_separator {separator!r}")
    pipeline = _pipeline(lambda: parse_v2(document, len(shape), name[0] == ">"), len(shape))
    fill = _fill(document.get("fill_value"), dtype)
    return ForeignArray(path, 2, mtime, shape, chunks, dtype, fill, pipeline, None, b"", separator.encode(), None)


def _of_v3(document: Json, path: bytes, mtime: int) -> ForeignArray:
    if document.get("zarr_format") != 3 or document.get("node_type") != "array":
        raise ForeignError("its zarr.json is not that of a Zarr v3 array")
    for key, value in document.items():
        if isinstance(value, dict) and value.get("must_understand") is True and key not in _V3_KEYS:
            raise ForeignError(f"needs the extension {key!r}, which vfsd does not know")
    if document.get("storage_transformers"):
        raise ForeignError("has storage transformers, which vfsd does not know")
    shape = _sizes(document.get("shape"), "shape", least=0)
    grid, configuration = codec_of(document.get("chunk_grid"))
    if grid != "regular":
        raise ForeignError(f"has a chunk grid {grid!r}, which vfsd does not know")
    outer = _sizes(configuration.get("chunk_shape"), "chunk_shape", least=1, like=shape)
    name = document.get("data_type")
    dtype = _pixel_type(_V3_TYPES.get(name, "") if isinstance(name, str) else "", name)
    encoding, keys = codec_of(document.get("chunk_key_encoding"))
    if encoding not in ("default", "v2"):
        raise ForeignError(f"has the chunk key encoding {encoding!r}, which vfsd does not know")
    separator = keys.get("separator", "/" if encoding == "default" else ".")
    if separator not in (".", "/"):
        raise ForeignError(f"has the separator {separator!r}")
    codecs = document.get("codecs")
    sharding, chunks = None, outer
    if isinstance(codecs, list) and codecs and codec_of(codecs[0])[0] == "sharding_indexed":
        if len(codecs) > 1:
            raise ForeignError("has codecs around its shards, which vfsd does not know")
        sharding, chunks, codecs = _sharding(codec_of(codecs[0])[1], outer)
    pipeline = _pipeline(lambda: parse_v3(codecs, len(shape)), len(shape))
    names = document.get("dimension_names")
    return ForeignArray(
        path,
        3,
        mtime,
        shape,
        chunks,
        dtype,
        _fill(document.get("fill_value"), dtype),
        pipeline,
        sharding,
        b"c" if encoding == "default" else b"",
        separator.encode(),
        tuple(map(str, names)) if isinstance(names, list) and len(names) == len(shape) else None,
    )


_V3_KEYS: Final = frozenset(
    {
        *("zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs"),
        *("attributes", "storage_transformers", "dimension_names"),
    }
)


def _sharding(configuration: Json, outer: tuple[int, ...]) -> tuple[Sharding, tuple[int, ...], object]:
    chunks = _sizes(configuration.get("chunk_shape"), "chunk_shape of its shards", least=1, like=outer)
    if any(whole % part for whole, part in zip(outer, chunks, strict=True)):
        raise ForeignError(f"has shards of {outer} that are not whole chunks of {chunks}")
    location = configuration.get("index_location", "end")
    if location not in ("start", "end"):
        raise ForeignError(f"has its shards' index at {location!r}")
    index_codecs = configuration.get("index_codecs")
    names = [codec_of(codec) for codec in index_codecs] if isinstance(index_codecs, list) else []
    if [name for name, _ in names] not in (["bytes"], ["bytes", "crc32c"]):
        raise ForeignError("has an index of its shards that is encoded in a way which vfsd does not know")
    sharding = Sharding(outer, location == "start", len(names) == 2, is_big_endian(names[0][1]))
    if sharding.count(chunks) > MOST_CHUNKS_A_SHARD:
        raise ForeignError(f"has {sharding.count(chunks)} chunks a shard: more than {MOST_CHUNKS_A_SHARD} are not read")
    return sharding, chunks, configuration.get("codecs")


def _pipeline(parse: Callable[[], Pipeline], axes: int) -> Pipeline:
    """The codecs; where they are not known the array has its sizes all the same, and only reading a chunk fails."""
    try:
        return parse()
    except ForeignError as error:
        return Pipeline((), tuple(range(axes)), obstacle=error.reason)


def _sizes(value: object, what: str, *, least: int, like: tuple[int, ...] | None = None) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(size) is int and least <= size < _LARGEST for size in value):
        raise ForeignError(f"has a {what} that is no list of sizes")
    if len(value) > MOST_AXES:
        raise ForeignError(f"has {len(value)} axes")
    if like is not None and len(value) != len(like):
        raise ForeignError(f"has a {what} of {len(value)} axes where the array has {len(like)}")
    return tuple(value)


def _pixel_type(code: str, name: object) -> np.dtype[Any]:
    if code in PIXEL_TYPES:
        return np.dtype("<" + code)
    shown = str(name)[:80]
    if code in ("u8", "i8"):
        raise ForeignError(f"has pixels of type {shown}: OME-TIFF knows no 64-bit integers")
    raise ForeignError(f"has elements of type {shown}, which are no pixels that OME-TIFF knows")


def _fill(value: object, dtype: np.dtype[Any]) -> bytes:
    """One element as bytes; raises ForeignError. `null` of Zarr v2, "undefined", is shown as zero."""
    size = dtype.itemsize
    try:
        if value is None:
            return bytes(size)
        if isinstance(value, str):
            if value.startswith("0x"):  # the bits of a floating-point number, Zarr v3
                return int(value, 16).to_bytes(size, "little")
            if dtype.kind == "f":
                return np.array(float(value), dtype).tobytes()
            return base64.b64decode(value, validate=True).ljust(size, b"\0")[:size]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        if dtype.kind != "f":
            if int(value) != value:
                raise ValueError
            return np.array(int(value), dtype).tobytes()
        with np.errstate(over="ignore"):
            return np.array(value, np.float64).astype(dtype).tobytes()
    except (ValueError, OverflowError, TypeError) as error:
        raise ForeignError(f"has the fill value {str(value)[:80]!r}, which is no {dtype.name}") from error
