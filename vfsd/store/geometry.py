"""The shape of one Zarr array of planes: where each plane lies, and the `zarr.json` that says so to others.

An array has *leading* axes (t, c, z of a field; `file` of a stack; `page` of a multi-page file), then the
plane. It is sharded: one inner chunk is one plane, or one tile of a big one; one shard file holds as many
planes as `shard_extents` says. A chunk's decoded bytes are the file's own pixels, little-endian: interleaved
RGB gets Zarr's core `transpose` codec instead of being copied into another order.

Promises: `from_document(document())` is the same geometry; a document that this module did not write is
`GeometryError`, whatever it holds; sizes are bounded before anything is allocated by them. It never touches a
file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar, final

import numpy as np

from vfsd.codec.blosc import MAX_BUFFERSIZE, BloscParameters

Index = tuple[int, ...]
Document = dict[str, Any]
_T = TypeVar("_T")

# A camera's plane (4096 x 4096 x 16 bit is 32 MiB) is decoded whole, since clients read it whole; slides and
# mosaics above that are tiled, so that a look at a part does not decode gigabytes.
TILE_LIMIT: Final = 32 << 20
TILE_EDGE: Final = 2048  # 8 MiB of 16 bit: some hundred LZ4 streams, and worth one read of a disk

# A stack grows a file at a time, and its last shard is rewritten until it is full: small enough for that, big
# enough to be worth one read of a pipeline.
STACK_SHARD_PLANES: Final = 64
STACK_SHARD_BYTES: Final = 256 << 20

# A shard's index has 16 bytes a chunk and is read whole: 16 MiB. 4 channels of 2,000 slices make 8,000
# chunks.
MAX_CHUNKS_PER_SHARD: Final = 1 << 20
MAX_EXTENT: Final = (1 << 31) - 1  # along one axis: right in readers that hold it in an int
MAX_ARRAY_BYTES: Final = (1 << 63) - 1  # readers compute offsets in signed 64 bit
MAX_SAMPLES: Final = (1 << 16) - 1  # TIFF 6.0: SamplesPerPixel is a SHORT

# What a TIFF sample of whole bytes can be, by its Zarr v3 name, and its bytes.
ITEM_SIZES: Final[Mapping[str, int]] = {
    **{"uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "float16": 2, "uint32": 4, "int32": 4, "float32": 4},
    **{"uint64": 8, "int64": 8, "float64": 8},
}

_FIELD_AXES: Final = ("t", "c", "z")  # in NGFF's order: time, channel, space
_SEQUENCE_AXES: Final = ("file", "page")  # no physical meaning; alone
_BEFORE_SAMPLES: Final = frozenset(("t", *_SEQUENCE_AXES))


class GeometryError(ValueError):
    """A shape that cannot be stored as planes, or a document that is none of ours."""


@final
@dataclass(frozen=True, slots=True)
class ArrayGeometry:
    """The geometry of one array.

    A *grid position* is the place of a shard along the leading axes; the others have one shard only.

    Parameters
    ----------
    leading : tuple of str
        Names of the leading axes, in order: some of "t", "c", "z", or one of "file" and "page".
    extents : tuple of int
        Planes along each leading axis; only these ever grow.
    shard_extents : tuple of int
        Planes of one shard along each leading axis: fixed for the life of the array, may exceed `extents`.
    height, width : int
        Pixels of a plane.
    tile_height, tile_width : int
        Pixels of an inner chunk: the plane's own when it is not tiled. Tiles at the lower and right edge are
        padded with zeros, since all inner chunks have one shape.
    dtype : str
        Zarr name of the pixel type; bytes are little-endian.
    blosc : BloscParameters
        How chunks are compressed.
    samples : int
        Samples of a pixel: 1, or 3 for RGB; above 1 they are the array's axis "c".
    planar : bool
        Whether each sample is a plane of its own in the file (sample, y, x), not interleaved (y, x, sample).

    Raises
    ------
    GeometryError
        If a value is out of its bounds or does not fit the others.
    """

    leading: tuple[str, ...]
    extents: Index
    shard_extents: Index
    height: int
    width: int
    tile_height: int
    tile_width: int
    dtype: str
    blosc: BloscParameters
    samples: int = 1
    planar: bool = False

    def __post_init__(self) -> None:
        named = tuple(name for name in _FIELD_AXES if name in self.leading)
        if not self.leading or (self.leading != named and self.leading not in [(n,) for n in _SEQUENCE_AXES]):
            raise GeometryError(f"planes are not stored along the axes {self.leading!r}")
        if len(self.extents) != len(self.leading) or len(self.shard_extents) != len(self.leading):
            raise GeometryError("each leading axis has one extent and one shard extent")
        for name, extent, shard in zip(self.leading, self.extents, self.shard_extents, strict=True):
            _check_extent(f"axis {name}", extent)
            _check_extent(f"shard along {name}", shard, MAX_CHUNKS_PER_SHARD)
        for name in ("height", "width", "tile_height", "tile_width"):
            _check_extent(name, getattr(self, name))
        _check_extent("samples", self.samples, MAX_SAMPLES)
        dtype_name(self.dtype)
        if self.samples == 1 and self.planar:
            raise GeometryError("one sample a pixel has no planar order")
        if self.samples > 1 and "c" in self.leading:
            raise GeometryError("an array has one channel axis: samples and channels cannot both be it")
        if self.tile_height > self.height or self.tile_width > self.width:
            raise GeometryError("a tile is larger than its plane")
        if self.blosc.typesize != self.itemsize:
            raise GeometryError(f"{self.dtype} is not shuffled by {self.blosc.typesize!r} bytes")
        if self.tile_bytes > MAX_BUFFERSIZE:
            raise GeometryError(f"a chunk of {self.tile_bytes} bytes is more than Blosc takes")
        if self.chunks_per_shard > MAX_CHUNKS_PER_SHARD:
            raise GeometryError(f"a shard of {self.chunks_per_shard} chunks is over {MAX_CHUNKS_PER_SHARD}")
        if math.prod(self.extents) * self.plane_bytes > MAX_ARRAY_BYTES:
            raise GeometryError("the array is larger than readers can address")

    @property
    def itemsize(self) -> int:
        """Bytes of one sample."""
        return ITEM_SIZES[self.dtype]

    @property
    def pixel_type(self) -> np.dtype[Any]:
        """The numpy type of a sample, little-endian."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def bands(self) -> int:
        """How many images follow each other in the bytes of one plane: the samples if planar, else 1."""
        return self.samples if self.planar else 1

    @property
    def pixel_bytes(self) -> int:
        """Bytes of one pixel within a band."""
        return self.itemsize * self.samples // self.bands

    @property
    def plane_bytes(self) -> int:
        """Bytes of one plane with all its samples, in the file's order."""
        return self.height * self.width * self.samples * self.itemsize

    @property
    def tile_bytes(self) -> int:
        """Decoded bytes of one inner chunk, padding included."""
        return self.tile_height * self.tile_width * self.samples * self.itemsize

    @property
    def tile_grid(self) -> tuple[int, int]:
        """Rows and columns of a plane's tiles."""
        return -(-self.height // self.tile_height), -(-self.width // self.tile_width)

    @property
    def tiles(self) -> int:
        """Inner chunks of one plane; 1 when it is not tiled."""
        return math.prod(self.tile_grid)

    def tile_place(self, tile: int) -> tuple[int, int, int, int]:
        """Top, left, height and width, in pixels, of what a tile covers of its plane, without padding."""
        if not 0 <= tile < self.tiles:
            raise GeometryError(f"a plane of {self.tiles} tiles has no tile {tile}")
        row, column = divmod(tile, self.tile_grid[1])
        top, left = row * self.tile_height, column * self.tile_width
        return top, left, min(self.tile_height, self.height - top), min(self.tile_width, self.width - left)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of all axes of the array: its `dimension_names`."""
        return self._with_samples(self.leading, "c", ("y", "x"))

    @property
    def shape(self) -> Index:
        """Shape of the array."""
        return self._with_samples(self.extents, self.samples, (self.height, self.width))

    @property
    def chunk_shape(self) -> Index:
        """Shape of an inner chunk."""
        one_plane = (1,) * len(self.leading)
        return self._with_samples(one_plane, self.samples, (self.tile_height, self.tile_width))

    @property
    def shard_shape(self) -> Index:
        """Shape of a shard: whole chunks, so it reaches beyond the array where tiles are padded."""
        rows, columns = self.tile_grid
        plane = rows * self.tile_height, columns * self.tile_width
        return self._with_samples(self.shard_extents, self.samples, plane)

    @property
    def _sample_axis(self) -> int:
        """Where samples stand: after time or a sequence, before space (NGFF 0.5, "multiscales" metadata)."""
        return sum(name in _BEFORE_SAMPLES for name in self.leading)

    def _with_samples(self, leading: tuple[_T, ...], samples: _T, plane: tuple[_T, _T]) -> tuple[_T, ...]:
        if self.samples == 1:
            return leading + plane
        return (*leading[: self._sample_axis], samples, *leading[self._sample_axis :], *plane)

    @property
    def chunks_per_shard(self) -> int:
        """Entries of a shard's index."""
        return math.prod(self.shard_extents) * self.tiles

    def shard_grid_position(self, index: Sequence[int]) -> Index:
        """The grid position of a plane's shard."""
        within = _within(index, self.extents, "plane")
        return tuple(i // shard for i, shard in zip(within, self.shard_extents, strict=True))

    def shard_key(self, grid_position: Sequence[int]) -> str:
        """A shard's file name in the array's folder (Zarr v3, "default" key encoding, separator ".")."""
        grid = self._with_samples(self._checked_grid(grid_position), 0, (0, 0))
        return ".".join(("c", *map(str, grid)))

    def parse_shard_key(self, key: str) -> Index:
        """The grid position of a file name, the inverse of `shard_key`; GeometryError if it is no shard."""
        numbers = key.split(".")[1:]
        # ten digits hold any place in a grid, and keep int() from working on a name of any length
        plausible = all(n.isascii() and n.isdigit() and len(n) <= 10 for n in numbers)
        if plausible and len(numbers) == len(self.axes):
            grid = list(map(int, numbers[:-2]))
            if self.samples > 1:
                del grid[self._sample_axis]
            if self.shard_key(grid) == key:
                return tuple(grid)
        raise GeometryError(f"{key!r} is no shard of an array of {self.extents} planes")

    def positions_in_shard(self, index: Sequence[int]) -> range:
        """Positions of a plane's tiles in the index of its shard, in the order of the tiles.

        That index lists inner chunks in C order (Zarr v3, sharding codec), and tiles are its last two axes.
        """
        place = 0
        within = _within(index, self.extents, "plane")
        for i, shard in zip(within, self.shard_extents, strict=True):
            place = place * shard + i % shard
        return range(place * self.tiles, (place + 1) * self.tiles)

    def plane_at(self, grid_position: Sequence[int], position: int) -> tuple[Index, int]:
        """Index of the plane, and which of its tiles, at a position of a shard.

        The inverse of `shard_grid_position` and `positions_in_shard`. In the last shard along an axis the
        index may lie beyond `extents`: room that the array has not grown into.

        Raises
        ------
        GeometryError
            If there is no such shard or position.
        """
        if not 0 <= position < self.chunks_per_shard:
            raise GeometryError(f"a shard of {self.chunks_per_shard} chunks has no position {position}")
        place, tile = divmod(position, self.tiles)
        index: list[int] = []
        grid = self._checked_grid(grid_position)
        for number, shard in zip(reversed(grid), reversed(self.shard_extents), strict=True):
            place, within = divmod(place, shard)
            index.insert(0, number * shard + within)
        return tuple(index), tile

    def _checked_grid(self, grid_position: Sequence[int]) -> Index:
        grid = tuple(-(-n // shard) for n, shard in zip(self.extents, self.shard_extents, strict=True))
        return _within(grid_position, grid, "shard")

    def grown_to(self, extents: Sequence[int]) -> ArrayGeometry:
        """The same array with room for more planes: shards that exist keep their names and positions.

        Raises
        ------
        GeometryError
            If it would shrink along an axis.
        """
        grown = replace(self, extents=tuple(extents))
        if any(new < old for new, old in zip(grown.extents, self.extents, strict=True)):
            raise GeometryError(f"an array of {self.extents} planes does not shrink to {grown.extents}")
        return grown

    def document(self) -> Document:
        """The array's `zarr.json` (Zarr v3; its codecs are in the core specification)."""
        codecs: list[Document] = [_codec("bytes", endian="little"), self.blosc.codec_document()]
        if self.samples > 1 and not self.planar:
            others = [n for n in range(len(self.axes)) if n != self._sample_axis]
            codecs.insert(0, _codec("transpose", order=[*others, self._sample_axis]))
        sharding = _codec(
            "sharding_indexed",
            chunk_shape=list(self.chunk_shape),
            codecs=codecs,
            index_codecs=[_codec("bytes", endian="little"), {"name": "crc32c"}],
            index_location="end",
        )
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": _codec("regular", chunk_shape=list(self.shard_shape)),
            "chunk_key_encoding": _codec("default", separator="."),
            "fill_value": 0.0 if self.dtype.startswith("float") else 0,
            "codecs": [sharding],
            "attributes": {},
            "dimension_names": list(self.axes),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> ArrayGeometry:
        """The geometry that wrote a `zarr.json`; attributes are for display and ignored.

        Raises
        ------
        GeometryError
            If anything in it is not what `document` writes.
        """
        try:
            geometry = _parse_document(document)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise GeometryError(f"this is no array of planes: {error}") from error
        expected = geometry.document()
        for key in sorted({*expected, *document} - {"attributes"}):
            if key not in document or key not in expected or document[key] != expected[key]:
                raise GeometryError(f"this is no array of planes: its {key!r} is not one that vfsd writes")
        return geometry


def dtype_name(dtype: np.dtype[Any] | str) -> str:
    """The Zarr name of a pixel type of either byte order; GeometryError if it is not stored as planes."""
    name = dtype if isinstance(dtype, str) else dtype.newbyteorder("=").name
    if name not in ITEM_SIZES:
        raise GeometryError(f"pixels of type {name!r} are not stored as planes")
    return name


def _check_extent(name: str, value: int, limit: int = MAX_EXTENT) -> None:
    # bool is an int in Python, but `true` in a document is no extent
    if type(value) is not int or not 1 <= value <= limit:
        raise GeometryError(f"{name} cannot be {value!r}")


def _within(index: Sequence[int], extents: Index, what: str) -> Index:
    if len(index) == len(extents) and all(0 <= i < n for i, n in zip(index, extents, strict=True)):
        return tuple(index)
    raise GeometryError(f"no {what} {tuple(index)} among {extents}")


def _codec(name: str, **configuration: Any) -> Document:
    return {"name": name, "configuration": configuration}


def _parse_document(document: Mapping[str, Any]) -> ArrayGeometry:
    """Read out the values that a geometry is made of; what stands around them is compared by the caller."""
    axes, shape = document["dimension_names"], document["shape"]
    shard_shape = document["chunk_grid"]["configuration"]["chunk_shape"]
    sharding = document["codecs"][0]["configuration"]
    chunk_shape = sharding["chunk_shape"]
    if not 3 <= len(axes) == len(shape) == len(shard_shape) == len(chunk_shape) <= 5:
        raise GeometryError("its axes and shapes do not fit each other")
    # channels are one a chunk; a chunk that has several holds the samples of a pixel
    sample_axis = axes.index("c") if "c" in axes and chunk_shape[axes.index("c")] != 1 else None
    samples = 1 if sample_axis is None else chunk_shape[sample_axis]
    leading = [n for n in range(len(axes) - 2) if n != sample_axis]
    codecs = sharding["codecs"]
    blosc = codecs[-1]["configuration"]
    if any(type(blosc[name]) is not int for name in ("typesize", "clevel", "blocksize")):
        raise GeometryError("its compressor is none of ours")
    return ArrayGeometry(
        leading=tuple(axes[n] for n in leading),
        extents=tuple(shape[n] for n in leading),
        shard_extents=tuple(shard_shape[n] for n in leading),
        height=shape[-2],
        width=shape[-1],
        tile_height=chunk_shape[-2],
        tile_width=chunk_shape[-1],
        dtype=document["data_type"],
        blosc=BloscParameters(**{name: blosc[name] for name in BloscParameters.__dataclass_fields__}),
        samples=samples,
        planar=sample_axis is not None and codecs[0]["name"] != "transpose",
    )


def image_geometry(
    leading: Sequence[tuple[str, int]],
    plane: tuple[int, int],
    dtype: np.dtype[Any] | str,
    *,
    samples: int = 1,
    planar: bool = False,
    tile_limit: int = TILE_LIMIT,
    shard_extents: Sequence[int] | None = None,
) -> ArrayGeometry:
    """The array of one multi-page file, or of anything else that has leading axes.

    Parameters
    ----------
    leading : sequence of (str, int)
        Axes of the pages and their extents, the last one fastest: `[("page", n)]` when nobody says what the
        pages are, else some of t, c, z in this order; with samples none may be "c".
    plane : tuple of int
        Height and width in pixels.
    dtype : numpy.dtype or str
        Pixel type, of either byte order.
    samples, planar
        As in `ArrayGeometry`.
    tile_limit : int
        Bytes above which a plane is tiled.
    shard_extents : sequence of int, optional
        Planes of a shard along each axis; by default 64 planes or 256 MiB, filled from the last axis.

    Raises
    ------
    GeometryError
        If the planes cannot be stored like this.
    """
    name, (height, width) = dtype_name(dtype), plane
    for what, extent in (("height", height), ("width", width), ("samples", samples)):
        _check_extent(what, extent)
    pixel_bytes = ITEM_SIZES[name] * samples
    tile_height, tile_width = _tile_shape(height, width, pixel_bytes, tile_limit)
    extents = tuple(extent for _, extent in leading)
    return ArrayGeometry(
        leading=tuple(axis for axis, _ in leading),
        extents=extents,
        shard_extents=tuple(shard_extents or _shard_extents(extents, height * width * pixel_bytes)),
        height=height,
        width=width,
        tile_height=tile_height,
        tile_width=tile_width,
        dtype=name,
        blosc=BloscParameters(typesize=ITEM_SIZES[name]),
        samples=samples,
        planar=planar and samples > 1,
    )


def plate_geometry(
    extents: tuple[int, int, int],
    plane: tuple[int, int],
    dtype: np.dtype[Any] | str,
    *,
    tile_limit: int = TILE_LIMIT,
) -> ArrayGeometry:
    """The array of one field of a plate: axes t, c, z, y, x, one shard a time point.

    `extents` are its time points, channels and slices now. These channels and slices are what a shard holds
    for the life of the array; later ones go into further shards. Planes have one sample a pixel. Else as
    `image_geometry`.
    """
    leading = list(zip(_FIELD_AXES, extents, strict=True))
    return image_geometry(leading, plane, dtype, tile_limit=tile_limit, shard_extents=(1, *extents[1:]))


def label_geometry(extents: tuple[int, int], plane: tuple[int, int], dtype: np.dtype[Any] | str) -> ArrayGeometry:
    """The array of one label image of a field: axes t, z, y, x, one shard a time point. `extents`: time points, slices.

    It has no axis c: a label holds for all channels of its image, and viewers that split those align what is left.
    """
    leading = [("t", extents[0]), ("z", extents[1])]
    return image_geometry(leading, plane, dtype, shard_extents=(1, extents[1]))


def stack_geometry(
    count: int,
    plane: tuple[int, int],
    dtype: np.dtype[Any] | str,
    *,
    samples: int = 1,
    planar: bool = False,
    tile_limit: int = TILE_LIMIT,
) -> ArrayGeometry:
    """The array of `count` single-plane files: axes file, y, x, or file, c, y, x when a pixel has samples.

    A shard has room for 64 planes or 256 MiB, however many there are now. Else as `image_geometry`.
    """
    full = [("file", STACK_SHARD_PLANES)]
    roomy = image_geometry(full, plane, dtype, samples=samples, planar=planar, tile_limit=tile_limit)
    return replace(roomy, extents=(count,))


def _tile_shape(height: int, width: int, pixel_bytes: int, limit: int) -> tuple[int, int]:
    """Height and width of a plane's tiles: its own up to `limit` bytes, else 2048 halved until that holds."""
    if height * width * pixel_bytes <= limit:
        return height, width
    edge = TILE_EDGE
    while edge > 1 and edge * edge * pixel_bytes > limit:
        edge //= 2
    if height < edge:  # of something long and thin the tiles are so as well, not tiny ones by the thousand
        return height, min(width, edge * edge // height)
    if width < edge:
        return min(height, edge * edge // width), width
    return edge, edge


def _shard_extents(extents: Index, plane_bytes: int) -> list[int]:
    """Planes of a shard along each axis, filled from the last one."""
    room = max(1, min(STACK_SHARD_PLANES, STACK_SHARD_BYTES // plane_bytes))
    filled: list[int] = []
    for extent in reversed(extents):
        filled.insert(0, min(extent, room))
        room = max(1, room // max(1, extent))
    return filled
