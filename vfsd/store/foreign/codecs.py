"""How the chunks of somebody else's Zarr arrays are encoded, and their bytes again.

`parse_v2` and `parse_v3` take what the array's metadata says and give a `Pipeline`; what they do not know they refuse by
name, before a byte is read. `Pipeline.decode` gives a chunk's elements as they lay in memory before; whether part of them
needs less than all, `raw` (no compression) and `ranged` (Blosc) say.

Chunks are believed in nothing: no codec gets to make more than the chunk's size (a stage in between: not much more), and
damaged ones end in `ChunkError`. Blosc is ours, gzip, zlib, bz2 and xz are Python's own, for zstd, lz4, delta and
checksums numcodecs is imported when it is first needed (50 ms). Safe in any thread; the GIL is released where it matters.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from vfsd.codec import decompress_into, parse_header
from vfsd.store.foreign.folder import ForeignError

_Bytes = NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview
# Decodes to at most so many bytes, or to exactly so many: `decode(data, limit, exact)`.
Decode = Callable[[Buffer, int, bool], Buffer]

# What a codec may add to bytes that it cannot make smaller, with room to spare.
OVERHEAD: Final = 1 << 20
# xz may ask for a dictionary of gigabytes.
_XZ_MEMORY: Final = 256 << 20


class ChunkError(ValueError):
    """A chunk's bytes are not what its codec makes."""


@final
@dataclass(frozen=True, slots=True)
class Pipeline:
    """The codecs of an array's chunks.

    Attributes
    ----------
    stages : sequence of (str, Decode)
        From bytes to bytes, in the order of encoding.
    order : tuple of int
        The axes in the order in which a chunk has them, slowest first.
    big_endian : bool
        The byte order of its elements.
    filters : sequence of dict
        numcodecs' filters of whole elements, in the order of encoding.
    obstacle : str, optional
        Why no chunk can be decoded.
    """

    stages: Sequence[tuple[str, Decode]]
    order: tuple[int, ...]
    big_endian: bool = False
    filters: Sequence[Mapping[str, Any]] = ()
    obstacle: str | None = None

    @property
    def ranged(self) -> bool:
        """Whether a chunk is a Blosc frame, of which a part can be decoded by itself."""
        return not self.filters and [name for name, _ in self.stages] == ["blosc"]

    @property
    def raw(self) -> bool:
        """Whether a chunk's bytes lie there as they are."""
        return not self.filters and not self.stages

    @property
    def name(self) -> str:
        """Its codecs, for people."""
        if self.obstacle is not None:
            return "unknown"
        names = [str(one.get("id", "?")) for one in self.filters] + [name for name, _ in self.stages]
        return "+".join(names) or "uncompressed"

    def decode(self, data: Buffer, size: int, dtype: np.dtype[Any]) -> _Bytes:
        """All bytes of a chunk of `size` bytes; raises ChunkError."""
        limit = size + size // 8 + OVERHEAD
        try:
            for number, (_, stage) in reversed(list(enumerate(self.stages))):
                last = number == 0 and not self.filters
                data = stage(data, size if last else limit, last)
            for description in reversed(self.filters):
                data = np.ascontiguousarray(_numcodec(description).decode(data)).data.cast("B")
        except ChunkError:
            raise
        except Exception as error:  # whatever a codec makes of damaged bytes
            raise ChunkError(f"cannot be decoded ({self.name}): {error}") from error
        if len(data) != size:
            raise ChunkError(f"decodes to {len(data)} bytes instead of {size}")
        return np.frombuffer(data, np.uint8)


# --- Zarr v2


def parse_v2(document: Mapping[str, Any], dimensions: int, big_endian: bool) -> Pipeline:
    """The codecs of a `.zarray`: `filters`, `compressor`, `order`; raises ForeignError."""
    order = document.get("order", "C")
    if order not in ("C", "F"):
        raise ForeignError(f"has the order {order!r}, which is neither C nor F")
    axes = tuple(range(dimensions)) if order == "C" else tuple(reversed(range(dimensions)))
    filters = document.get("filters")
    if filters is None:
        filters = []
    if not isinstance(filters, list) or not all(isinstance(one, dict) for one in filters):
        raise ForeignError("has filters that are no list of codecs")
    for one in filters:
        if not isinstance(one.get("id"), str) or one["id"] not in _FILTERS:
            raise ForeignError(f"is encoded by the filter {one.get('id')!r}, which vfsd does not know")
    compressor = document.get("compressor")
    stages: list[tuple[str, Decode]] = []
    if compressor is not None:
        if not isinstance(compressor, dict):
            raise ForeignError("has a compressor that is no codec")
        stages.append(_stage(compressor.get("id"), compressor))
    return Pipeline(tuple(stages), axes, big_endian, tuple(filters))


# --- Zarr v3


def parse_v3(codecs: object, dimensions: int) -> Pipeline:
    """The codecs of an array or of the chunks in its shards; raises ForeignError."""
    if not isinstance(codecs, list) or not codecs:
        raise ForeignError("has no list of codecs")
    order = tuple(range(dimensions))
    stages: list[tuple[str, Decode]] = []
    big_endian: bool | None = None
    for codec in codecs:
        name, configuration = codec_of(codec)
        if name == "transpose" and big_endian is None:
            turn = configuration.get("order")
            if turn == "F":
                turn = list(reversed(range(dimensions)))
            if turn == "C":
                turn = list(range(dimensions))
            if not isinstance(turn, list) or sorted(map(str, turn)) != sorted(map(str, range(dimensions))):
                raise ForeignError(f"is transposed by {turn!r}, which is no order of {dimensions} axes")
            order = tuple(order[int(axis)] for axis in turn)
        elif name == "bytes" and big_endian is None:
            big_endian = is_big_endian(configuration)
        elif name in ("sharding_indexed", "vlen-utf8", "vlen-bytes"):
            raise ForeignError(f"has the codec {name!r} where vfsd does not know it")
        elif big_endian is None:
            raise ForeignError(f"is encoded by the codec {name!r}, which vfsd does not know")
        else:
            stages.append(_stage(name.removeprefix("numcodecs."), configuration))
    if big_endian is None:
        raise ForeignError("has no codec that makes bytes of its elements")
    return Pipeline(tuple(stages), order, big_endian)


def codec_of(codec: object) -> tuple[str, dict[str, Any]]:
    """Name and configuration of an entry of `codecs`; raises ForeignError."""
    if isinstance(codec, str):
        return codec, {}
    if not isinstance(codec, dict) or not isinstance(codec.get("name"), str):
        raise ForeignError("has a codec without a name")
    configuration = codec.get("configuration", {})
    if not isinstance(configuration, dict):
        raise ForeignError(f"has a codec {codec['name']!r} whose configuration is none")
    return codec["name"], configuration


def is_big_endian(configuration: Mapping[str, Any]) -> bool:
    """What the codec `bytes` says; raises ForeignError."""
    endian = configuration.get("endian", "little")
    if endian not in ("little", "big"):
        raise ForeignError(f"has the byte order {endian!r}")
    return bool(endian == "big")


# --- the codecs


def _stage(name: object, configuration: Mapping[str, Any]) -> tuple[str, Decode]:
    known = _STAGES.get(name) if isinstance(name, str) else None
    if isinstance(name, str) and known is not None:
        return name, known
    if isinstance(name, str) and name in _CHECKSUMS:
        description = {**configuration, "id": name}
        return name, lambda data, limit, exact: _numcodec(description).decode(bytes(data))
    raise ForeignError(f"is compressed by the codec {name!r}, which vfsd does not know")


def _blosc(data: Buffer, limit: int, exact: bool) -> Buffer:
    size = parse_header(data).nbytes
    _fits(size, limit, exact)
    out = np.empty(size, np.uint8)
    decompress_into(data, out.data)
    return out.data


def _deflate(window: int) -> Decode:
    def decode(data: Buffer, limit: int, exact: bool) -> Buffer:
        pieces: list[bytes] = []
        size, rest = 0, bytes(data)
        while rest:  # gzip: one member after the other
            stream = zlib.decompressobj(window)
            pieces.append(stream.decompress(rest, limit - size + 1))
            size += len(pieces[-1])
            _fits(size, limit, exact=False)
            if not stream.eof:
                raise ChunkError("is cut short")
            rest = stream.unused_data
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    return decode


def _bz2(data: Buffer, limit: int, exact: bool) -> Buffer:
    import bz2

    stream = bz2.BZ2Decompressor()
    out = stream.decompress(bytes(data), limit + 1)
    _fits(len(out), limit, exact=False)
    return out


def _lzma(data: Buffer, limit: int, exact: bool) -> Buffer:
    import lzma

    stream = lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
    out = stream.decompress(bytes(data), limit + 1)
    _fits(len(out), limit, exact=False)
    return out


def _zstd(data: Buffer, limit: int, exact: bool) -> Buffer:
    from numcodecs import zstd

    size = zstd_content_size(data)
    if size is None:  # written as a stream: only one that is told apart by its end can be decoded
        if not exact:
            raise ChunkError("a zstd frame that does not say its size")
        size = limit
    _fits(size, limit, exact)
    out = np.empty(size, np.uint8)
    zstd.decompress(bytes(data), out)
    return out.data


def zstd_content_size(data: Buffer) -> int | None:
    """What a zstd frame says of its content's bytes (RFC 8878, 3.1.1.1); None where it does not, or more follow."""
    head = bytes(data[:18])
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        raise ChunkError("is no zstd frame")
    flags = head[4]
    single, code = bool(flags & 0x20), flags >> 6
    length = (int(single), 2, 4, 8)[code]
    start = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    if length == 0:
        return None
    return int.from_bytes(head[start : start + length], "little") + (256 if length == 2 else 0)


def _lz4(data: Buffer, limit: int, exact: bool) -> Buffer:
    from numcodecs import lz4

    if len(data) < 4:
        raise ChunkError("is cut short")
    _fits(struct.unpack_from("<I", data)[0], limit, exact)
    decoded: bytes = lz4.decompress(bytes(data))
    return decoded


def _crc32c(data: Buffer, limit: int, exact: bool) -> Buffer:
    import google_crc32c

    content = bytes(data[:-4])
    if len(data) < 4 or google_crc32c.value(content).to_bytes(4, "little") != bytes(data[-4:]):
        raise ChunkError("does not match its checksum")
    return content


def _fits(size: int, limit: int, exact: bool) -> None:
    if size > limit or (exact and size != limit):
        raise ChunkError(f"decodes to {size} bytes instead of {limit}" if exact else "decodes to more than a chunk has")


def _numcodec(description: Mapping[str, Any]) -> Any:
    import numcodecs

    return numcodecs.get_codec(dict(description))


# numcodecs' that neither grow nor run code of the file's choosing (pickle would).
_FILTERS: Final = frozenset({"delta", "shuffle", "crc32", "crc32c", "adler32", "fletcher32"})
_CHECKSUMS: Final = frozenset({"shuffle", "crc32", "adler32", "fletcher32"})
_STAGES: Final[Mapping[str, Decode]] = {
    "blosc": _blosc,
    "gzip": _deflate(31),
    "zlib": _deflate(15),
    "bz2": _bz2,
    "lzma": _lzma,
    "zstd": _zstd,
    "lz4": _lz4,
    "crc32c": _crc32c,
}
