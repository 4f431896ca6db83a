"""Making files cold and warm again: what a benchmark does before it reads, and does not count.

Cold means that no byte of them is in the page cache. The files are dropped one by one, so that this needs no rights and
leaves the rest of the machine alone; what is dirty is written first. Entries of directories stay known to the kernel.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

PIECE = 8 << 20


def files_below(*folders: Path) -> list[Path]:
    """Every regular file below some folders, in order."""
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())


def make_cold(paths: Iterable[Path]) -> None:
    """Drop files from the page cache; what of them is only there is written before."""
    os.sync()
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def make_warm(paths: Iterable[Path]) -> None:
    """Read files, so that they are in the page cache as far as it has room."""
    buffer = bytearray(PIECE)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
