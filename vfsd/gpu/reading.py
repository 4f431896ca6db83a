"""Reads the chunks of a batch into one buffer, on threads; neighbours in a file are read in one go.

The buffer is pinned memory that the GPU copies from. The GIL is released in every read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vfsd.gpu.chunks import Piece, open_file

# One read's most: long enough to run at the disk's speed, short enough that the last one does not keep the others waiting.
_READ_BYTES: Final = 4 << 20


def read_pieces(
    pieces: Sequence[Piece], buffer: NDArray[np.uint8], begin: int, threads: ThreadPoolExecutor
) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Read pieces one behind the other.

    Parameters
    ----------
    pieces : sequence of Piece
        What to read.
    buffer : ndarray of uint8
        Where to; must have room for all from `begin` on.
    threads : ThreadPoolExecutor
        Who reads.

    Returns
    -------
    offsets : ndarray of int64
        Where each piece begins in the buffer.
    failures : dict
        What went wrong, by the piece's number. Its bytes in the buffer are zero from where the file ended.
    """
    sizes = np.array([piece.size for piece in pieces], np.int64)
    offsets = begin + np.cumsum(sizes) - sizes
    failures: dict[int, str] = {}
    view = memoryview(buffer)  # type: ignore[arg-type]  # numpy 2's stubs say ndarray is a Buffer from Python 3.12 on only
    runs: list[Future[dict[int, str]]] = []
    first = 0
    while first < len(pieces):
        last, total = first + 1, pieces[first].size
        while (
            last < len(pieces)
            and pieces[last].path == pieces[first].path
            and pieces[last].offset == pieces[last - 1].offset + pieces[last - 1].size
            and total + pieces[last].size <= _READ_BYTES
        ):
            total += pieces[last].size
            last += 1
        runs.append(threads.submit(_read_run, pieces[first:last], first, view, int(offsets[first]), total))
        first = last
    for run in runs:
        failures.update(run.result())
    return offsets, failures


def _read_run(pieces: Sequence[Piece], number: int, view: memoryview, begin: int, total: int) -> dict[int, str]:
    """One run of neighbours; what of it failed, by number."""
    done = 0
    reason = "the file ends inside it"
    try:
        fd = open_file(pieces[0].path)
    except OSError as error:
        reason = str(error)
    else:
        try:
            while done < total:
                step = min(total - done, _READ_BYTES)
                count = os.preadv(fd, [view[begin + done : begin + done + step]], pieces[0].offset + done)
                if count == 0:
                    break
                done += count
        except OSError as error:
            reason = str(error)
        finally:
            os.close(fd)
    failures: dict[int, str] = {}
    if done < total:
        view[begin + done : begin + total] = bytes(total - done)
        end = 0
        for offset, piece in enumerate(pieces):
            end += piece.size
            if end > done:
                failures[number + offset] = reason
    return failures
