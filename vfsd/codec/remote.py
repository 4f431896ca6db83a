"""A Blosc frame that lies elsewhere, in a file above all, and is decoded in parts: only the blocks that a part touches are read.

The header and the table of blocks are read once, when the object is made; it then may be used in any thread. Damaged bytes give
`FrameError` as they do in `vfsd.codec.blosc`; a damaged table can at most make a part as large as the whole frame be read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

import numpy as np

from vfsd.codec.blosc import FrameError, FrameHeader, cut_blocks, decompress_range, parse_header

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Buffer

__all__ = ["RemoteFrame"]

_HEADER: Final = 16
_HEAD: Final = 4096
"""What is read first: header and table of a chunk of up to 64 MB in blocks of 64 KiB, in one read of a page."""

_MEMCPYED: Final = 2  # header flag: the content follows the header as it is


@final
class RemoteFrame:
    """See the module.

    Parameters
    ----------
    read : callable
        `read(offset, length)` gives exactly these bytes of the frame, counted from its first.
    size : int
        Bytes of the frame, as whoever stored it says.

    Raises
    ------
    FrameError
        No sound header, or a frame that would be longer than `size`.
    """

    __slots__ = ("_ends", "_read", "_starts", "header")

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        head = read(0, min(size, _HEAD))
        self._read = read
        self.header: FrameHeader = parse_header(head)
        if self.header.cbytes > size:
            raise FrameError("damaged Blosc frame: it ends before the size that its header gives")
        self._starts: NDArray[np.int64] | None = None
        self._ends: NDArray[np.int64] | None = None
        if self.header.flags & _MEMCPYED or not self.header.nbytes:
            return
        stop = _HEADER + 4 * self.header.block_count
        if stop > self.header.cbytes:
            raise FrameError("damaged Blosc frame: its table of blocks is longer than the frame")
        if stop > len(head):
            head += read(len(head), stop - len(head))
        self._starts = np.frombuffer(head, "<i4", self.header.block_count, _HEADER).astype(np.int64)
        if self._starts.min() < stop or self._starts.max() > self.header.cbytes:
            raise FrameError("damaged Blosc frame: a block begins outside the frame")
        # where a block ends is where the next one in the file begins: their order is free
        edges = np.append(np.unique(self._starts), self.header.cbytes)
        self._ends = edges[np.searchsorted(edges, self._starts, side="right").clip(max=len(edges) - 1)]

    def decode_range(self, offset: int, out: Buffer) -> None:
        """Decode as many bytes of the content as `out` has, from `offset` on.

        Raises
        ------
        FrameError
            The range is not within the content, or a block that it touches is damaged.
        """
        length = memoryview(out).nbytes
        header = self.header
        if not 0 <= offset <= offset + length <= header.nbytes:
            raise FrameError(f"bytes {offset} to {offset + length} are not within a content of {header.nbytes}")
        if not length:
            return
        if self._starts is None or self._ends is None:
            if header.cbytes < _HEADER + header.nbytes:
                raise FrameError("damaged Blosc frame: it ends before its content does")
            memoryview(out).cast("B")[:] = self._read(_HEADER + offset, length)
            return
        first, last = offset // header.blocksize, (offset + length - 1) // header.blocksize
        starts, begin = self._starts[first : last + 1], first * header.blocksize
        low, high = int(starts.min()), int(self._ends[first : last + 1].max())
        size = min((last + 1) * header.blocksize, header.nbytes) - begin
        frame = cut_blocks(header, starts - low, self._read(low, high - low), size)
        decompress_range(frame, offset - begin, length, out)
