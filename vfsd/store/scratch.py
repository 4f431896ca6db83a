"""Memory that a thread uses again and again for what it holds only for a moment: a file, a chunk, a rebuilt image.

New memory of the size of an image costs a page fault for every 4 KiB, half as much time as reading or decoding into it. What
is borrowed here is valid until the same thread borrows under the same name again; nobody else ever sees it. It goes with its
thread.
"""

from __future__ import annotations

import threading
from typing import Literal

import numpy as np
from numpy.typing import NDArray

# Images of cameras fit; what is larger is rare and would be held by every thread.
KEPT = 24 << 20

Use = Literal["file", "chunk", "rebuilt"]


class _Own(threading.local):
    def __init__(self) -> None:
        self.memory: dict[Use, NDArray[np.uint8]] = {}


_own = _Own()


def borrow(use: Use, size: int) -> memoryview:
    """`size` bytes of any content."""
    if size > KEPT:
        return np.empty(size, np.uint8).data
    found = _own.memory.get(use)
    if found is None or len(found) < size:
        found = _own.memory[use] = np.empty(size, np.uint8)
    return found.data[:size]
