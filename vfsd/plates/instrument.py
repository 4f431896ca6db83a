"""What an instrument's module has to offer, and what it gets to see.

An instrument looks at a listing of paths and claims the plates it knows, each with the strength of its
evidence; `recognise` settles competing claims. An instrument promises that a path's root and position follow
from the path (and from metadata it can read), never from which other paths happen to be listed: a plate is
flushed in parts. It never raises because of what a file contains and never reads an image.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from vfsd.plates.model import Plate

# What a path in the tree holds. It raises OSError, LookupError or VfsdError where there is no such file,
# which is an answer, not an accident: an instrument may ask for metadata that the listing does not have.
# Whoever provides it need not return more than METADATA_READ_LIMIT bytes.
ReadFile = Callable[[bytes], bytes]

# Metadata beyond this is cut off: a real HTD has a few kB, and 300 MB of garbage must not be parsed.
METADATA_READ_LIMIT = 1 << 20

_DIGITS = re.compile(rb"(\d+)")


class Evidence(IntEnum):
    """How sure an instrument is that a directory is a plate of its own."""

    NAMES = 1  # the names of files alone
    LAYOUT = 2  # names, in folders that this instrument makes
    METADATA = 3  # names, and the instrument's own metadata for this very plate


@dataclass(frozen=True, slots=True)
class Listing:
    """The paths to look at.

    Parameters
    ----------
    paths : tuple of bytes
        Distinct, sorted, relative to the tree, without a leading slash. Perhaps only a part of the tree.
    directory_name : str
        What the tree's own root is called.
    """

    paths: tuple[bytes, ...]
    directory_name: str

    def label(self, root: bytes) -> str:
        """The name of a directory as text that is always encodable: undecodable bytes as `\\xNN`."""
        if not root:
            return self.directory_name
        return root.rpartition(b"/")[2].decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class Claim:
    """A plate that an instrument recognises, and how surely."""

    plate: Plate
    evidence: Evidence


class Instrument(Protocol):
    """One scheme of names and metadata."""

    @property
    def name(self) -> str:
        """What users call it, for `Plate.instrument`."""

    def claim(self, listing: Listing, read_file: ReadFile) -> list[Claim]:
        """The plates of this instrument in the listing; no path is an image of two of them."""


_ComponentKey = tuple[bool, tuple[bytes | tuple[int, bytes], ...]]
NaturalKey = tuple[tuple[_ComponentKey, ...], bytes]


def natural_key(path: bytes) -> NaturalKey:
    """Sorts paths as a file browser does: folders before files, `s2` before `s10`, case ignored.

    Digits are compared by length and value, not converted: a name may hold thousands of them.
    """
    *folders, name = path.split(b"/")
    key = [(False, _chunks(folder)) for folder in folders]
    key.append((True, _chunks(name)))
    return tuple(key), path


def _chunks(component: bytes) -> tuple[bytes | tuple[int, bytes], ...]:
    pieces = _DIGITS.split(component.lower())
    return tuple(_number_key(piece) if i % 2 else piece for i, piece in enumerate(pieces))


def _number_key(digits: bytes) -> tuple[int, bytes]:
    value = digits.lstrip(b"0")
    return len(value), value
