"""The headers of many Blosc frames at once, as the table of chunks that the kernels take.

The rules are those of `vfsd/codec/blosc_decode.h`. What is not for the GPU (another codec, a damaged header, blocks so small
that their table outweighs them) is left out and goes to the CPU decoder, which says what is wrong with it, if anything is.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

# struct Chunk of vfsd/gpu/kernels/frames.cuh
CHUNK: Final = np.dtype(
    [
        ("frame", "<u8"),
        ("out", "<u8"),
        ("planes", "<u8"),
        ("cbytes", "<u4"),
        ("nbytes", "<u4"),
        ("blocksize", "<u4"),
        ("typesize", "<u4"),
        ("flags", "<u4"),
        ("first_block", "<u4"),
        ("first_stream", "<u4"),
        ("streams_per_block", "<u4"),
    ]
)
STREAM_BYTES: Final = 32  # struct Stream

BYTE_SHUFFLE: Final = 0x01
KEPT: Final = 0x02
BIT_SHUFFLE: Final = 0x04
_RESERVED: Final = 0x08
_NOT_SPLIT: Final = 0x10
_LZ4: Final = 1
_HEADER: Final = 16
_MAX_NBYTES: Final = 2_147_483_631  # c-blosc's BLOSC_MAX_BUFFERSIZE
_MAX_BLOCKSIZE: Final = 715_827_542  # c-blosc's BLOSC_MAX_BLOCKSIZE
_MAX_SPLITS: Final = 16
_MIN_SPLIT_PLANE: Final = 128

# A kept frame is cut into pieces for a warp each; its own block size may be that of the whole chunk.
_KEPT_BLOCK: Final = 32768
# A stream's row is 32 bytes: below this many bytes of content a stream, the rows would be more than half of it, and a
# frame made to do harm could ask for a hundred times its own size.
_LEAST_STREAM: Final = 64


class ParsedFrames(NamedTuple):
    """What `parse_frames` found.

    `table`: an entry of dtype `CHUNK` for each frame that the GPU decodes, numbered through; `out` and `planes` are not set.
    `rows`: which of the frames these are. `others`: those that are not among them.
    """

    table: NDArray[Any]
    rows: NDArray[np.intp]
    others: NDArray[np.intp]


def parse_frames(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], sizes: NDArray[np.int64], contents: NDArray[np.int64]
) -> ParsedFrames:
    """Read the headers of frames that lie in one buffer.

    Parameters
    ----------
    data : ndarray of uint8
        The buffer.
    offsets, sizes : ndarray of int64
        Where each frame begins, and how many bytes of the buffer belong to it.
    contents : ndarray of int64
        How many bytes each one must decode to.
    """
    header = np.zeros((len(offsets), 4), "<u4")
    whole = sizes >= _HEADER
    places = offsets[whole][:, None] + np.arange(_HEADER)
    header[whole] = data[places].view("<u4")
    first, nbytes, blocksize, cbytes = (header[:, column].astype(np.int64) for column in range(4))
    version, codec_version, flags, typesize = (first >> shift & 0xFF for shift in (0, 8, 16, 24))

    kept = (flags & KEPT) != 0
    split = ((flags & _NOT_SPLIT) == 0) & (typesize <= _MAX_SPLITS) & ~kept
    split &= blocksize >= _MIN_SPLIT_PLANE * np.maximum(typesize, 1)
    blocksize = np.where(kept, np.minimum(_KEPT_BLOCK, nbytes), blocksize)
    blocks = -(-nbytes // np.maximum(blocksize, 1))
    per_block = np.where(split, typesize, 1)
    streams = blocks * per_block

    sound = whole & (version == 2) & ((flags & _RESERVED) == 0) & (typesize > 0)
    sound &= (flags & (BYTE_SHUFFLE | BIT_SHUFFLE)) != (BYTE_SHUFFLE | BIT_SHUFFLE)
    sound &= (nbytes == contents) & (nbytes > 0) & (nbytes <= _MAX_NBYTES) & (cbytes <= sizes)
    sound &= (blocksize > 0) & (blocksize <= nbytes) & (blocksize <= _MAX_BLOCKSIZE)
    sound &= np.where(
        kept,
        cbytes == nbytes + _HEADER,
        ((flags >> 5) == _LZ4) & (codec_version == 1) & (cbytes >= _HEADER + 4 * blocks),
    )
    sound &= ~split | (blocksize % np.maximum(typesize, 1) == 0)
    sound &= (streams * _LEAST_STREAM <= nbytes) | (streams <= 16)

    rows = np.flatnonzero(sound)
    table = np.zeros(len(rows), CHUNK)
    for name, values in (
        ("frame", offsets),
        ("cbytes", cbytes),
        ("nbytes", nbytes),
        ("blocksize", blocksize),
        ("typesize", typesize),
        ("flags", flags),
        ("streams_per_block", per_block),
    ):
        table[name] = values[rows]
    # A ragged last block has one stream; its row stands where the first of a full block would.
    table["first_block"] = np.cumsum(blocks[rows]) - blocks[rows]
    table["first_stream"] = np.cumsum(streams[rows]) - streams[rows]
    return ParsedFrames(table, rows, np.flatnonzero(~sound))


def count_blocks(table: NDArray[Any]) -> tuple[int, int]:
    """Blocks and rows of streams of a table as `parse_frames` numbers them."""
    if not len(table):
        return 0, 0
    last = table[-1]
    blocks = -(-int(last["nbytes"]) // int(last["blocksize"]))
    return int(last["first_block"]) + blocks, int(last["first_stream"]) + blocks * int(last["streams_per_block"])
