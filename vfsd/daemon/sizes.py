"""Sizes, counts and numbers of levels as people type and read them.

`parse_size` follows the convention of coreutils and mount(8): `8G` and `8GiB` are powers of 1024, `8GB` is a
power of 1000, a bare number is bytes. It never guesses: what it does not understand is a `UsageProblem` that
says what would have been understood.
"""

from __future__ import annotations

import re

from vfsd.errors import UsageProblem, shown_path

UNITS = "KMGTPE"
SIZE_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTPE]?)(I?)(B?)", re.IGNORECASE | re.ASCII)
# What a signed 64-bit file offset can hold; larger numbers cannot be a file system's size.
LARGEST = 2**63 - 1
# Longer inputs cannot be a size, and int() of a very long digit string is slow.
LONGEST_TEXT = 40
# Halvings of the largest image there can be.
MOST_LEVELS = 30


def parse_size(text: str) -> int:
    """The number of bytes that `text` names: "8G", "512MiB", "2TB", "1.5g", "4096".

    Raises
    ------
    UsageProblem
        If it is no size, or larger than a file offset can be.
    """
    match = SIZE_PATTERN.fullmatch(text.strip()) if len(text) <= LONGEST_TEXT else None
    if match is None or (match[3] and not match[2]):
        raise UsageProblem(
            f"{shown_path(text[:LONGEST_TEXT])!r} is not a size",
            remedy="Sizes look like 8G or 8GiB (powers of 1024), 8GB (powers of 1000), or plain bytes",
        )
    number, unit, binary, suffix = match.groups()
    base = 1000 if suffix and not binary else 1024
    factor = base ** (UNITS.index(unit.upper()) + 1) if unit else 1
    whole, _, fraction = number.partition(".")
    size = int(whole) * factor
    if fraction:
        size += int(fraction) * factor // 10 ** len(fraction)
    if size > LARGEST:
        raise UsageProblem(f"{shown_path(text)} is larger than any file system")
    return size


def format_size(size: int) -> str:
    """A size for people, in powers of 1000 as disks are sold: "0 B", "1.2 kB", "8.3 GB"."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        # 999.95 would be printed as "1000.0": go to the next unit before that.
        if abs(value) < 999.95 or unit == "PB":
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable: the last unit always returns")


def format_count(number: int, noun: str) -> str:
    """ "1 file", "1,234 files"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def parse_levels(text: str) -> int | None:
    """How many times images are halved for viewers; None for "auto".

    Raises
    ------
    UsageProblem
        For anything but "auto" and numbers from 0 to `MOST_LEVELS`.
    """
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 2 and int(text) <= MOST_LEVELS):
        raise UsageProblem(f"levels are a number from 0 to {MOST_LEVELS}, or auto")
    return int(text)
