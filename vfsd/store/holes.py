"""Holes: long runs of zeros in a file that are not written, so that they take no room on the disk.

A file of the store is as sparse as the one that was stored, and its rebuilt copy as the one in the store: what is a hole is
decided by the bytes alone, since neither a pipe nor an object storage can be asked. Bytes never change by it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

# A hole is at least so long and lies at a multiple of it: shorter ones save nothing worth another extent on the disk.
HOLE = 64 << 10
_WORD = 8


def write_around_holes(fd: int, data: memoryview, offset: int) -> None:
    """Write what is not a hole of `data`, at `offset`, into a file that is nothing but hole there.

    The file is not extended over a hole at its end: the caller cuts it to size.
    """
    for start, end in _runs(data):
        while start < end:
            start += os.pwrite(fd, data[start:end], offset + start)


def _runs(data: memoryview) -> Iterator[tuple[int, int]]:
    """(start, end) of each run that is to be written."""
    start = 0
    for hole in _holes(data):
        if start < hole:
            yield start, hole
        start = hole + HOLE
    if start < len(data):
        yield start, len(data)


def _holes(data: memoryview) -> list[int]:
    """Where whole blocks of zeros begin."""
    whole = len(data) // HOLE * HOLE
    if whole == 0:
        return []
    blocks = np.frombuffer(data[:whole], np.uint64).reshape(-1, HOLE // _WORD)
    # nearly every block of data shows in its first bytes that it is none; only the others are looked through
    likely = np.flatnonzero(blocks[:, 0] == 0)
    return [int(block) * HOLE for block in likely if not blocks[block].any()]
