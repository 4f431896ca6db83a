"""Reading exactly what a layout says is there, from a file that somebody may be cutting meanwhile."""

from __future__ import annotations

import os

__all__ = ["TruncatedImage", "read_into"]


class TruncatedImage(Exception):
    """The file ends before bytes that its layout has: it was cut after it was analysed."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        super().__init__(f"the file ends at or before byte {offset:,}, and was longer when it was analysed")


def read_into(fd: int, out: memoryview, offset: int) -> None:
    """Fill `out` (bytes) from the file at `offset`.

    Raises
    ------
    TruncatedImage
        The file ends earlier; what was read before is in `out`.
    """
    done = 0
    while done < len(out):
        count = os.preadv(fd, [out[done:]], offset + done)
        if count == 0:
            raise TruncatedImage(offset + done)
        done += count
