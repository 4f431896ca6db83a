"""Strips of LZW-compressed TIFFs: decoded, and encoded to exactly the codes that were there.

A greedy encoder is free only in where it clears its table. `decode_strip` gives the bytes and these places (the *gaps*:
data codes before each Clear since the one before), `encode_strip` makes the same codes of them again. Whether a strip is
of a greedy encoder is not known before both were done and compared: that is the caller's to do, once.

Hostile strips and gaps end in `LzwError`; nothing is allocated by what they say. The C in `lzw.h` does the work, with
the GIL released; there is no state.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vfsd.codec._inner import LzwError, lzw_decode, lzw_encode

__all__ = ["Gaps", "LzwError", "decode_strip", "encode_strip"]

Gaps = npt.NDArray[np.uint16]

FEWEST_BYTES_A_CLEAR = 36
"""Decoded bytes for each Clear, at least, where encoders clear after some 3,800 codes (libtiff also when 10,000 bytes
gained nothing). Bounds the gaps to an eighteenth of the decoded strip."""

SPARE_GAPS = 4
"""Clears that a strip of any size may have."""


def decode_strip(strip: bytes | memoryview, out: memoryview) -> tuple[int, Gaps]:
    """Decode a strip that has exactly the bytes of `out`.

    Returns
    -------
    tuple of int and numpy.ndarray
        Bits of the strip up to and with its last data code, and its gaps, shape (clears,), uint16. What is behind these
        bits was not looked at.

    Raises
    ------
    LzwError
        It is damaged, of another size, of the old style, or clears its table in no known way.
    """
    gaps = np.empty(SPARE_GAPS + len(out) // FEWEST_BYTES_A_CLEAR, np.uint16)
    count, bits = lzw_decode(strip, out, gaps.data)
    return bits, gaps[:count].copy()


def encode_strip(pixels: bytes | memoryview, gaps: Gaps, out: memoryview) -> int:
    """Encode bytes, greedily, with these gaps; fills `out` as far as whole bytes go and returns the number of bits.

    Raises
    ------
    LzwError
        `out` is too short, or the gaps are not of these bytes.
    """
    return lzw_encode(pixels, np.ascontiguousarray(gaps).data, out)
