"""What an instrument's module has to offer, and what it gets to see.

An instrument looks at a listing of paths and claims the plates it knows, each with the strength of its
evidence; `recognise` settles competing claims. Most instruments are a `naming.NameScheme`, of which
`naming.SchemeInstrument` makes one of these. An instrument promises that a path's root and position follow
from the path (and from metadata it can read), never from which other paths happen to be listed: a plate is
flushed in parts. It never raises because of what a file contains and never reads an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from vfsd.plates.model import Plate

# Bytes of a path in the tree: path, offset, size → what is there, shorter only where the file ends. It raises
# OSError (IsADirectoryError for a folder), LookupError or VfsdError where there is no such file, which is an
# answer, not an accident: an instrument may ask for metadata that the listing does not have. Of no bytes it is asked only
# whether the file is there.
ReadFile = Callable[[bytes, int, int], bytes]


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
    forced : bool
        The user said that this instrument took the images: names count without metadata that vouches for them.
    lowered : bytes
        All paths in lower case, to look for a part in all of them at once.
    """

    paths: tuple[bytes, ...]
    directory_name: str
    forced: bool = False
    lowered: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lowered", b"\n".join(self.paths).lower())

    def mentions(self, part: bytes) -> bool:
        """Whether any path has this part, which is in lower case."""
        return part in self.lowered

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
