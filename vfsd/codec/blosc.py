"""Blosc 1 frames: one compressed buffer each, as Zarr's core codec `blosc` stores them.

Compression goes through numcodecs (c-blosc). Decoding is our own for LZ4, which is what we write: it decodes
into a buffer given, or only the blocks that a range touches, which numcodecs cannot. Frames of other codecs
(zstd, zlib, blosclz), which somebody else's arrays may hold, are checked here and decoded by numcodecs.

It never trusts a length in a frame: damaged or hostile bytes give `FrameError`, never a fault, and never take
more memory than the output and a few blocks.

numcodecs has two ways into c-blosc. By default the main thread takes the global one: a lock shared with
forked children, a pool of threads that outlives the call, and BLOSC_* environment variables that override the
parameters. All other threads take the contextual one, which has none of these; it runs outside the GIL, so
that two threads compress two planes at once. We want the second everywhere: the first use here sets
`numcodecs.blosc.use_threads = False` for the process, and `set_nthreads` then has no effect.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from vfsd.codec import _inner
from vfsd.codec._inner import FrameError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Buffer

__all__ = [
    "MAX_BUFFERSIZE",
    "BloscParameters",
    "FrameError",
    "FrameHeader",
    "compress",
    "cut_blocks",
    "decompress_into",
    "decompress_range",
    "parse_header",
]

Compressor = Literal["lz4", "lz4hc", "blosclz", "zlib", "zstd"]
Shuffle = Literal["noshuffle", "shuffle", "bitshuffle"]

MAX_BUFFERSIZE: Final = 2_147_483_631
"""The most bytes that one frame holds: INT_MAX less the header's 16 (c-blosc's BLOSC_MAX_BUFFERSIZE)."""

_MAX_TYPESIZE: Final = 255  # one byte in the header; c-blosc silently takes anything larger for 1
_MAX_BLOCKSIZE: Final = 715_827_542  # c-blosc's BLOSC_MAX_BLOCKSIZE; larger requests are silently cut to it
_HEADER: Final = struct.Struct("<BBBBIII")
_NOT_SPLIT: Final = 0x10  # header flag: each block is one stream
_CODEC_NAMES: Final = ("blosclz", "lz4", "snappy", "zlib", "zstd")  # by the upper three bits of the flags
_SHUFFLE_CODES: Final[dict[Shuffle, int]] = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


@dataclass(frozen=True, slots=True)
class BloscParameters:
    """How a buffer is compressed; the whole of what a Zarr array says about it.

    Parameters
    ----------
    typesize : int
        Bytes of an element, 1 to 255: what the shuffle takes apart.
    cname : str
        The compressor.
    clevel : int
        0 (copy) to 9.
    shuffle : str
        "noshuffle", "shuffle" (bytes) or "bitshuffle".
    blocksize : int
        Bytes of one compressed stream; 0 leaves the choice to Blosc. c-blosc multiplies it by `typesize`
        when it splits a block into byte planes, and never makes a block smaller than 64 KiB, so the default
        gives streams of 32 KiB for elements of 2, 4 and 8 bytes, and of 64 KiB for single bytes. Small
        streams are what allows a range to be read without decoding the plane, and a GPU to decode hundreds
        of them at once.
    """

    typesize: int
    cname: Compressor = "lz4"
    clevel: int = 5
    shuffle: Shuffle = "shuffle"
    blocksize: int = 32768

    def __post_init__(self) -> None:
        if not 1 <= self.typesize <= _MAX_TYPESIZE:
            raise ValueError(f"typesize is 1 to {_MAX_TYPESIZE}, not {self.typesize}")
        if self.cname not in get_args(Compressor):
            raise ValueError(f"cname is one of {', '.join(get_args(Compressor))}, not {self.cname!r}")
        if not 0 <= self.clevel <= 9:
            raise ValueError(f"clevel is 0 to 9, not {self.clevel}")
        if self.shuffle not in _SHUFFLE_CODES:
            raise ValueError(f"shuffle is one of {', '.join(_SHUFFLE_CODES)}, not {self.shuffle!r}")
        if not 0 <= self.blocksize <= _MAX_BLOCKSIZE:
            raise ValueError(f"blocksize is 0 to {_MAX_BLOCKSIZE}, not {self.blocksize}")

    def codec_document(self) -> dict[str, object]:
        """The entry of a Zarr v3 array's `codecs` (core codec `blosc`)."""
        return {
            "name": "blosc",
            "configuration": {
                "cname": self.cname,
                "clevel": self.clevel,
                "shuffle": self.shuffle,
                "typesize": self.typesize,
                "blocksize": self.blocksize,
            },
        }


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """The first 16 bytes of a frame, found sound.

    `nbytes` is the size of the content, `cbytes` that of the whole frame, `blocksize` what a block holds
    before compression, all in bytes; `versionlz` is the version of the compressor's own format.
    """

    version: int
    versionlz: int
    flags: int
    typesize: int
    nbytes: int
    blocksize: int
    cbytes: int

    @property
    def block_count(self) -> int:
        return -(-self.nbytes // self.blocksize) if self.nbytes else 0

    @property
    def codec_name(self) -> str:
        """The compressor's family ("lz4" for lz4hc too: the streams are the same)."""
        code = self.flags >> 5
        return _CODEC_NAMES[code] if code < len(_CODEC_NAMES) else f"codec {code}"


def parse_header(frame: Buffer) -> FrameHeader:
    """Read a frame's header.

    Parameters
    ----------
    frame : bytes-like
        The frame, or at least its first 16 bytes.

    Raises
    ------
    FrameError
        The bytes are no sound header of a Blosc 1 frame; a Blosc 2 frame is refused by name.
    """
    return FrameHeader(*_inner.parse_header(frame))


def compress(buffer: Buffer, parameters: BloscParameters) -> bytes:
    """Compress a buffer into one frame; the GIL is released, and nothing is copied on the way in.

    Parameters
    ----------
    buffer : bytes-like
        Bytes, a memoryview or an array of any dtype, C-contiguous, of at most `MAX_BUFFERSIZE` bytes.
    parameters : BloscParameters
        How.

    Raises
    ------
    ValueError
        The buffer is too large for a frame, or not contiguous.
    """
    try:
        source = np.frombuffer(memoryview(buffer), np.uint8)
    except BufferError as error:
        raise ValueError(str(error)) from error
    if source.nbytes > MAX_BUFFERSIZE:
        raise ValueError(
            f"{source.nbytes} bytes are more than a Blosc frame holds ({MAX_BUFFERSIZE}): use smaller chunks"
        )
    frame: bytes = _contextual_blosc().compress(
        source,
        parameters.cname.encode("ascii"),
        parameters.clevel,
        _SHUFFLE_CODES[parameters.shuffle],
        parameters.blocksize,
        parameters.typesize,
    )
    return frame


def decompress_into(frame: Buffer, out: Buffer) -> None:
    """Decode a whole frame into a buffer of the caller's.

    Parameters
    ----------
    frame : bytes-like
        The frame; bytes behind its end are ignored.
    out : writable bytes-like
        Of exactly the content's size; must not overlap `frame`. Undefined after an error, but nothing
        outside it is touched.

    Raises
    ------
    FrameError
        The frame is damaged, cut off, of Blosc 2, or its content is not of the size of `out`.
    """
    if not _inner.decode_frame(frame, out):
        _decode_by_numcodecs(frame, 0, out)


def decompress_range(frame: Buffer, offset: int, length: int, out: Buffer) -> None:
    """Decode a part of a frame's content; only the blocks that it touches are looked at.

    Parameters
    ----------
    frame : bytes-like
        The frame; bytes behind its end are ignored.
    offset, length : int
        The part, in bytes of the content.
    out : writable bytes-like
        Of exactly `length` bytes; must not overlap `frame`. Undefined after an error.

    Raises
    ------
    FrameError
        The frame is damaged in its header or in a block touched, or the part lies outside its content.
    ValueError
        `offset` is negative, or `out` is not of `length` bytes.
    """
    size = memoryview(out).nbytes
    if size != length:
        raise ValueError(f"the output has {size} bytes for a range of {length}")
    if not _inner.decode_range(frame, offset, out):
        _decode_by_numcodecs(frame, offset, out)


@functools.cache
def _contextual_blosc() -> ModuleType:
    """numcodecs.blosc, imported late (50 ms) and kept off its global context: see the head of this file."""
    from numcodecs import blosc

    blosc.use_threads = False
    module: ModuleType = blosc
    return module


def _decode_by_numcodecs(frame: Buffer, offset: int, out: Buffer) -> None:
    """The part of a frame of another codec that fills `out`: the blocks touched, as a frame of their own.

    c-blosc takes its lengths from the frame and is never told how long that really is, so the frame it gets
    is one built here: a copy that nobody can change meanwhile, with a header that is true.
    """
    blosc = _contextual_blosc()
    content = bytes(frame)
    header = parse_header(content)
    if header.cbytes > len(content):
        raise FrameError("damaged Blosc frame: it ends before the size that its header gives")
    if header.codec_name not in blosc.list_compressors():
        raise FrameError(f"Blosc frame compressed by {header.codec_name}, which cannot be read here")
    target = np.frombuffer(memoryview(out), np.uint8)
    first = offset // header.blocksize
    last = (offset + target.nbytes - 1) // header.blocksize
    begin = first * header.blocksize
    size = min((last + 1) * header.blocksize, header.nbytes) - begin
    blocks = target if size == target.nbytes else np.empty(size, np.uint8)
    try:
        blosc.decompress(_cut_blocks(content, header, first, last, size), blocks)
    except RuntimeError as error:
        raise FrameError(f"damaged Blosc frame: a {header.codec_name} stream is damaged") from error
    if blocks is not target:
        target[:] = blocks[offset - begin : offset - begin + target.nbytes]


def _cut_blocks(content: bytes, header: FrameHeader, first: int, last: int, size: int) -> bytes:
    """Blocks `first` to `last`, which hold `size` bytes, as a frame of their own."""
    starts = np.frombuffer(content, "<i4", header.block_count, _HEADER.size)
    touched = starts[first : last + 1]
    low, high = int(touched.min()), int(touched.max())
    if low < _HEADER.size + starts.nbytes or high > header.cbytes:
        raise FrameError("damaged Blosc frame: a block begins outside the frame")
    behind = starts[starts > high]
    end = int(behind.min()) if behind.size else header.cbytes
    return cut_blocks(header, touched - low, content[low:end], size)


def cut_blocks(header: FrameHeader, starts: NDArray[np.integer[Any]], blocks: bytes, size: int) -> bytes:
    """Consecutive blocks of a frame, which hold `size` bytes, as a frame of their own.

    Parameters
    ----------
    starts : ndarray of int
        Where each begins in `blocks`.
    blocks : bytes
        Their compressed bytes, and what may lie between them.
    """
    # A ragged last block alone becomes a full block of its own size, which must say that it is not split.
    ragged = size < header.blocksize
    table = (starts + _HEADER.size + 4 * len(starts)).astype("<i4").tobytes()
    head = _HEADER.pack(
        header.version,
        header.versionlz,
        header.flags | _NOT_SPLIT if ragged else header.flags,
        header.typesize,
        size,
        size if ragged else header.blocksize,
        _HEADER.size + len(table) + len(blocks),
    )
    return b"".join((head, table, blocks))
