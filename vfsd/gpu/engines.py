"""The ways to decode that the kernels offer, by name: what `make gpu` measures against each other.

All give the same bytes and the same errors. `DEFAULT` is the one that is used; the figures that choose it are in docs/gpu.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to decode.

    Parameters
    ----------
    by_window : bool
        Whether a warp takes a stream's sequences 32 at a time, or one after the other (lz4_decode.cuh).
    resolve : bool
        By window: whether matches of many short sequences are traced byte by byte, instead of waiting for each other.
    fused_streams : int
        Blosc blocks with up to so many compressed streams are decoded in shared memory and interleaved from there; 0: none.
    apart : bool
        Whether the streams of other blocks are written into the result at once, their bytes the size of an element apart.
        Where not, they go to planes in global memory, which another kernel interleaves.
    nvcomp : bool
        Whether nvCOMP decodes the LZ4 streams, and only the interleaving is ours.
    """

    by_window: bool = True
    fused_streams: int = 1
    apart: bool = False
    nvcomp: bool = False
    resolve: bool = True


ENGINES: Final = {
    "window-fused": Engine(True, 1),
    "window-fused-all": Engine(True, 8),
    "window-fused-waiting": Engine(True, 1, resolve=False),
    "window": Engine(True, 0),
    "window-waiting": Engine(True, 0, resolve=False),
    "window-apart": Engine(True, 0, apart=True),
    "window-fused-apart": Engine(True, 1, apart=True),
    "sequence-fused": Engine(False, 1),
    "sequence-fused-all": Engine(False, 8),
    "sequence": Engine(False, 0),
    "sequence-apart": Engine(False, 0, apart=True),
    "nvcomp": Engine(False, 0, nvcomp=True),
}

DEFAULT: Final = "window-fused"
