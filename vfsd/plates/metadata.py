"""How instruments read metadata: a little at once, a bounded number of times, and never with an exception.

`MetadataReader` stands between an instrument and the tree for one recognition. A file that is missing or cannot
be read is None or an end, which the instrument puts into words; what it may not do is ask for files without end:
paths that nobody listed are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar, final

import xxhash

from vfsd.errors import VfsdError
from vfsd.plates.instrument import ReadFile

# Small metadata beyond this is cut off: a real HTD or ND has a few kB, and 300 MB of garbage must not be parsed.
METADATA_READ_LIMIT = 1 << 20

# Metadata that is streamed ends here: about 2 kB an image, for twice the images of the largest plate known.
STREAM_LIMIT = 1 << 30

# A piece of a streamed file: large enough that reading costs nothing beside parsing.
PIECE = 1 << 18

# How many paths that are not listed may be asked for in one recognition: enough for any folder of plates, few
# enough that fifty thousand stray names cost nothing.
MAX_PROBES = 256

# How many parsed documents are kept: an index and its records of the plate that is being stored, round after round.
_KEPT = 2

T = TypeVar("T")

_ABSENT = (OSError, LookupError, VfsdError)


_parsed: dict[tuple[str, bytes], object] = {}


def parse_once(kind: str, pieces: Callable[[], Iterator[bytes]], parse: Callable[[Iterator[bytes]], T]) -> T:
    """What `parse` makes of a document, from memory where the same bytes were parsed before.

    A plate is stored in many rounds, and each asks for the same hundred megabytes of XML; reading them is a tenth of
    parsing them. What is kept must not be changed. Flushes follow each other, so nothing here needs a lock.
    """
    hasher = xxhash.xxh3_128()
    try:
        for piece in pieces():
            hasher.update(piece)
    except OSError:
        return parse(pieces())  # which says why it cannot be read
    key = (kind, hasher.digest())
    known = _parsed.pop(key, None)
    result: T = parse(pieces()) if known is None else known  # type: ignore[assignment]  # `kind` says its type
    _parsed[key] = result
    while len(_parsed) > _KEPT:
        _parsed.pop(next(iter(_parsed)), None)
    return result


@final
class MetadataReader:
    """Reads files of the tree for one instrument and one recognition."""

    def __init__(self, read_file: ReadFile) -> None:
        self._read_file = read_file
        self._probes_left = MAX_PROBES

    def read(self, path: bytes, limit: int = METADATA_READ_LIMIT) -> bytes | None:
        """The beginning of a listed file, or None where it cannot be read."""
        try:
            return self._read_file(path, 0, limit)[:limit]
        except _ABSENT:
            return None

    def probe(self, path: bytes, limit: int = METADATA_READ_LIMIT) -> bytes | None:
        """The same of a file that may not be there; None as well once too many were asked for."""
        if self._probes_left == 0:
            return None
        self._probes_left -= 1
        return self.read(path, limit)

    def exists(self, path: bytes) -> bool:
        """Whether a file that is not listed is there."""
        return self.probe(path, 1) is not None

    def is_folder(self, path: bytes) -> bool:
        """Whether a path, listed or not, is a folder."""
        if self._probes_left == 0:
            return False
        self._probes_left -= 1
        try:
            self._read_file(path, 0, 1)
        except IsADirectoryError:
            return True
        except _ABSENT:
            return False
        return False

    def pieces(self, path: bytes) -> Iterator[bytes]:
        """A file in pieces, up to `STREAM_LIMIT`.

        Raises
        ------
        OSError
            It cannot be read (any more).
        """
        offset = 0
        while offset < STREAM_LIMIT:
            try:
                piece = self._read_file(path, offset, PIECE)[:PIECE]
            except (LookupError, VfsdError) as error:
                raise OSError(str(error)) from error
            if piece:
                yield piece
            if len(piece) < PIECE:
                return
            offset += len(piece)
