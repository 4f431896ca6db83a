"""How instruments read metadata: a little at once, a bounded number of times, and never with an exception.

`MetadataReader` stands between an instrument and the tree for one recognition. A file that is missing or cannot
be read is None or an end, which the instrument puts into words; what it may not do is ask for files without end:
paths that nobody listed are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

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

_ABSENT = (OSError, LookupError, VfsdError)


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
