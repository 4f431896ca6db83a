"""One strip of an LZW-compressed TIFF: its rows out of its codes, and exactly its codes out of its rows.

`examine_strip` finds out whether a strip can be rebuilt: it is decoded, encoded, and compared. `decode_strip_rows` and
`encode_strip_rows` are the two ways from then on; between them stand the predictor (TIFF 6.0, section 14: each sample
less the one a pixel to the left, in wrapping arithmetic, row by row) and the file's byte order.

Strips come as bytes and go as bytes; nothing here knows directories or planes. What takes time releases the GIL.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import numpy as np

from vfsd.codec.lzw import LzwError, decode_strip, encode_strip
from vfsd.images.directory import NotRebuildable

__all__ = [
    "MAX_STRIP",
    "PREDICTORS",
    "RowKind",
    "StripCoding",
    "StripError",
    "decode_strip_rows",
    "encode_strip_rows",
    "examine_strip",
]

PREDICTORS: Final = (1, 2)
"""None, and horizontal differences; 3 (floating point) shuffles bytes and is rare."""

MAX_STRIP: Final = 64 * 1024 * 1024
"""Largest strip, decoded, that is rebuilt: a read anywhere in it encodes it whole. A camera's plane of 5,600² fits."""

MOST_GROWTH: Final = 2
"""A strip of codes is at most so many times its bytes: 12 bits a byte at worst, and Clears."""


class StripError(ValueError):
    """A strip is not what it was when it was examined, or its rows are not those that it was made of."""


@dataclass(frozen=True, slots=True)
class StripCoding:
    """How a page's strips are compressed by LZW.

    Attributes
    ----------
    predictor : int
        1 (none) or 2 (horizontal differences).
    rows : int
        Rows of each strip; the last one of a page or band may have fewer.
    gaps : tuple of bytes
        For each strip its `vfsd.codec.lzw.Gaps`, as bytes (uint16, little-endian).
    """

    predictor: int
    rows: int
    gaps: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if self.predictor not in PREDICTORS or self.rows < 1:
            raise NotRebuildable(f"predictor {self.predictor}")
        if any(len(gaps) % 2 or not gaps for gaps in self.gaps):
            raise NotRebuildable("strips without Clear codes")


@dataclass(frozen=True, slots=True)
class RowKind:
    """What rows consist of: bytes of a sample, samples of a pixel that lie side by side, pixels, and the file's order."""

    itemsize: int
    samples: int
    width: int
    big_endian: bool


def examine_strip(fd: int, offset: int, count: int, size: int) -> tuple[int, bytes]:
    """Find out what a strip of `count` bytes, which are to decode to `size`, needs to be rebuilt.

    Returns
    -------
    tuple of int and bytes
        How many of its bytes follow from its rows (the others, an end code and padding, are skeleton), and its gaps.

    Raises
    ------
    NotRebuildable
        It cannot be rebuilt.
    OSError
        From the file.
    """
    if count > MOST_GROWTH * size + 64:
        raise NotRebuildable(f"a strip of {count:,} bytes for {size:,} bytes of pixels")
    data = np.empty(count, np.uint8).data
    done = 0
    while done < count:
        got = os.preadv(fd, [data[done:]], offset + done)
        if got == 0:
            raise NotRebuildable("the file became shorter while it was read")
        done += got
    decoded = np.empty(size, np.uint8).data
    try:
        bits, gaps = decode_strip(data, decoded)
        length = bits // 8
        again = np.empty(length, np.uint8)
        same = encode_strip(decoded, gaps, again.data) == bits
    except LzwError as problem:
        raise NotRebuildable(str(problem)) from None
    if not same or not np.array_equal(again, np.frombuffer(data[:length], np.uint8)):
        raise NotRebuildable("codes of another encoder")
    return length, gaps.astype("<u2").tobytes()


def decode_strip_rows(data: memoryview, coding: StripCoding, number: int, kind: RowKind, out: memoryview) -> None:
    """Decode a strip into its rows, little-endian.

    Parameters
    ----------
    data : memoryview
        The strip's bytes as `examine_strip` counted them, and the one after them: the last code may end in that.
    number : int
        Which of the page's strips.
    out : memoryview
        Writable, exactly the size of the rows.

    Raises
    ------
    StripError
        It is not the strip that was examined.
    """
    try:
        _, gaps = decode_strip(data, out)
    except LzwError as problem:
        raise StripError(f"changed since it was looked at ({problem})") from None
    if gaps.astype("<u2").tobytes() != coding.gaps[number]:
        raise StripError("changed since it was looked at")
    rows = _rows(out, kind)
    if kind.big_endian and kind.itemsize > 1:
        np.copyto(rows.view(rows.dtype.newbyteorder(">")), rows)  # equal memory: swapped item by item
    if coding.predictor == 2:
        np.add.accumulate(rows, axis=1, dtype=rows.dtype, out=rows)


def encode_strip_rows(rows: memoryview, coding: StripCoding, number: int, kind: RowKind, out: memoryview) -> None:
    """Encode little-endian rows into exactly the bytes of `out`; the rows stay as they are.

    Raises
    ------
    StripError
        These rows do not make a strip of this size with these gaps.
    """
    pixels = rows
    swap = kind.big_endian and kind.itemsize > 1
    if coding.predictor == 2 or swap:
        source = _rows(rows, kind)
        made = np.empty(source.shape, source.dtype.newbyteorder(">") if swap else source.dtype)
        if coding.predictor == 2:
            made[:, 0] = source[:, 0]
            np.subtract(source[:, 1:], source[:, :-1], out=made[:, 1:])
        else:
            made[:] = source
        pixels = made.reshape(-1).view(np.uint8).data
    gaps = np.frombuffer(coding.gaps[number], "<u2").astype(np.uint16)
    try:
        bits = encode_strip(pixels, gaps, out)
    except LzwError as problem:
        raise StripError(str(problem)) from None
    if bits // 8 != len(out):
        raise StripError(f"{bits // 8} bytes of codes instead of {len(out)}")


def _rows(buffer: memoryview, kind: RowKind) -> np.ndarray[tuple[int, ...], np.dtype[np.unsignedinteger]]:
    """View as (row, pixel, sample), unsigned: predictors work on the bits, whatever they mean."""
    return np.frombuffer(buffer, f"<u{kind.itemsize}").reshape(-1, kind.width, kind.samples)
