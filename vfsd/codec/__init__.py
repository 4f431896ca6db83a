"""Blosc frames, Zarr shards, LZW strips and halved planes: bytes in, bytes out.

What it is for: compressing a plane into a Blosc frame and decoding it again, whole or in part, straight
into a buffer of the caller's; writing the frames of many planes into one Zarr v3 shard and finding them
there; decoding a TIFF's LZW strips and encoding them code for code (`vfsd.codec.lzw`); making a plane half
as large (`vfsd.codec.halve`).

What it promises: a frame decodes to exactly the bytes that went in, or `FrameError`; a shard's index is
checked before an entry of it is believed, or `ShardError`; a strip is decoded to its size, or `LzwError`. All
hold for any bytes at all: nothing here reads or writes outside the buffers given, allocates more than a few
blocks beside them, or runs longer than linear time.

What it never does: open, name, rename, sync or delete a file; know what a plane, a plate or a store is;
keep a cache. It imports numcodecs only when something is compressed, or decoded that is not LZ4.

Threads: there are no locks and no state. Every function is reentrant, and compressing, decoding, reading
and writing all run with the GIL released, so that threads which work on different planes use different
cores. A `ShardWriter` belongs to one thread at a time. A buffer given must not change while a call uses it
(a frame that does change gives wrong bytes or `FrameError`, never a fault). numcodecs' own threads are
switched off for the whole process at the first use: see `vfsd.codec.blosc`.
"""

from vfsd.codec.blosc import (
    MAX_BUFFERSIZE,
    BloscParameters,
    FrameError,
    FrameHeader,
    compress,
    decompress_into,
    decompress_range,
    parse_header,
)
from vfsd.codec.remote import RemoteFrame
from vfsd.codec.shard import ShardError, ShardIndex, ShardWriter, index_size, read_index

__all__ = [
    "MAX_BUFFERSIZE",
    "BloscParameters",
    "FrameError",
    "FrameHeader",
    "RemoteFrame",
    "ShardError",
    "ShardIndex",
    "ShardWriter",
    "compress",
    "decompress_into",
    "decompress_range",
    "index_size",
    "parse_header",
    "read_index",
]
