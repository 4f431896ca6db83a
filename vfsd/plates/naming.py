"""Pieces of names that all instruments share: numbers, wells, channels that have only a name.

Pure functions of bytes, linear in their length; a name may hold anything, also thousands of digits.
"""

from __future__ import annotations

import re
from functools import lru_cache
from zlib import crc32

from vfsd.plates.model import MAX_COLUMNS, MAX_ROWS, row_index

# Numbers beyond these are accidents or attacks (a time stamp, a serial number). Instruments offer some tens of
# channels and some hundreds of fields and steps; five digits leave room for long time series and tile scans.
MAX_CHANNEL = 999
MAX_NUMBER = 99_999

TIFF_NAME = re.compile(rb".*\.tiff?", re.IGNORECASE | re.DOTALL)

NO_TIFF = "it is no TIFF"
NO_POSITION = "its name gives no position on the plate"

Well = tuple[int, int]
"""Row and column of a well, from 0."""

# How much of a channel's name, and of its checksum, goes into the channel's number: together 52 bits, which JSON's
# readers keep exactly.
_NAME_BYTES = 4
_CHECK_BITS = 20


@lru_cache(maxsize=4096)  # a plate has few numbers, each of them many times
def number_of(digits: bytes, largest: int = MAX_NUMBER) -> int | None:
    """The number, or None where it is above the largest; never converts thousands of digits."""
    value = digits.lstrip(b"0")
    if len(value) > len(str(largest)):
        return None
    number = int(value or b"0")
    return number if number <= largest else None


def numbers_of(parts: dict[str, bytes | None], largest: int = MAX_NUMBER) -> dict[str, int] | str:
    """The numbers of a name's parts, or why one is none; a part that is absent (None) is left out."""
    numbers: dict[str, int] = {}
    for part, digits in parts.items():
        if digits is not None:
            number = number_of(digits, largest)
            if number is None:
                return f"its {part} number is above {largest}"
            numbers[part] = number
    return numbers


def well_of(well: bytes) -> Well | str:
    """The well that ASCII letters and digits name ("B02", "af48"), or why there is none."""
    letters = well.rstrip(b"0123456789")
    return well_at(letters, well[len(letters) :])


def well_at(row: bytes, column: bytes) -> Well | str:
    """The well of a row (letters, or its number from 1) and a column (its number from 1), or why there is none."""
    number = number_of(column, MAX_COLUMNS)
    index: int | None
    if row.isdigit():
        index = number_of(row, MAX_ROWS)
        index = None if index is None else index - 1
    else:
        try:
            index = row_index(row.decode("ascii"))
        except ValueError:
            index = None
    if index is None or index < 0 or number is None or number == 0:
        return outside((row + b"-" if row.isdigit() else row) + column)
    return index, number - 1


def well_of_number(digits: bytes, columns: int) -> Well | str:
    """The well of a number that counts from 1 along the rows of a plate of so many columns, or why there is none."""
    number = number_of(digits, MAX_ROWS * columns)
    if not number:
        return f"there is no well of number {_shown(digits)} in {MAX_ROWS} rows of {columns} columns"
    return divmod(number - 1, columns)


def outside(well: bytes) -> str:
    """Why a well is none."""
    return f"well {_shown(well)} lies outside a plate of {MAX_ROWS} x {MAX_COLUMNS} wells"


def channel_of_name(name: bytes) -> int:
    """A number for a channel that has only a name, the same whatever else is listed.

    Numbers sort as the beginnings of the names do; two names have one number only by an accident of one in a
    million, and then two files have one position, which is said.
    """
    lower = name.lower()
    begin = int.from_bytes(lower[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0"), "big")
    return (begin << _CHECK_BITS) | (crc32(lower) & ((1 << _CHECK_BITS) - 1))


def text_of(name: bytes) -> str:
    """A name as text that can always be encoded: undecodable bytes as `\\xNN`."""
    return name.decode("utf-8", "backslashreplace")


def split_path(path: bytes) -> tuple[bytes, bytes]:
    """Directory and file name."""
    directory, _, file_name = path.rpartition(b"/")
    return directory, file_name


def join_path(directory: bytes, name: bytes) -> bytes:
    """The path of a name in a directory."""
    return directory + b"/" + name if directory else name


def parent_if(directory: bytes, names: frozenset[bytes]) -> bytes:
    """The directory above, if this one has one of these names (in lower case), else the directory itself."""
    parent, _, last = directory.rpartition(b"/")
    return parent if last.lower() in names else directory


def _shown(part: bytes) -> str:
    text = text_of(part)
    return text if len(text) <= 8 else text[:8] + "…"
