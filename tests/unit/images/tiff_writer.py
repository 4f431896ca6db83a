"""TIFFs for tests, byte by byte: any tag of any type, strips anywhere, and as wrong as a test wants them.

It shares no code with what it tests, and checks nothing.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

BYTE, ASCII, SHORT, LONG, RATIONAL, SLONG, LONG8 = 1, 2, 3, 4, 5, 9, 16
CODES = {BYTE: "B", ASCII: "B", SHORT: "H", LONG: "I", SLONG: "i", LONG8: "Q"}


@dataclass(frozen=True)
class Tag:
    """One entry of a directory; `count` and `position` override what follows from the values."""

    number: int
    kind: int
    values: Sequence[int]
    count: int | None = None
    position: int | None = None


class TiffWriter:
    """A TIFF that grows at its end; `data` is the file."""

    def __init__(self, *, big_endian: bool = False, bigtiff: bool = False) -> None:
        self.order = ">" if big_endian else "<"
        self.bigtiff = bigtiff
        mark = b"MM" if big_endian else b"II"
        if bigtiff:
            self.data = bytearray(mark + struct.pack(self.order + "HHHQ", 43, 8, 0, 0))
            self.link = 8
        else:
            self.data = bytearray(mark + struct.pack(self.order + "HI", 42, 0))
            self.link = 4

    def append(self, data: bytes) -> int:
        """Put bytes at the end; where they are."""
        position = len(self.data)
        self.data += data
        return position

    def add_directory(self, tags: Sequence[Tag]) -> int:
        """Put a directory behind its long values at the end and link it into the chain; where it is."""
        word, room, head = ("Q", 8, "HHQ") if self.bigtiff else ("I", 4, "HHI")
        entries = []
        for tag in sorted(tags, key=lambda tag: tag.number):
            packed = struct.pack(f"{self.order}{len(tag.values)}{CODES[tag.kind]}", *tag.values)
            if tag.position is not None or len(packed) > room:
                position = self.append(packed) if tag.position is None else tag.position
                packed = struct.pack(self.order + word, position)
            count = len(tag.values) if tag.count is None else tag.count
            entries.append(struct.pack(self.order + head, tag.number, tag.kind, count) + packed.ljust(room, b"\0"))
        position = self.append(struct.pack(self.order + ("Q" if self.bigtiff else "H"), len(entries)))
        self.append(b"".join(entries))
        self.set_link(position)
        self.link = self.append(bytes(room))
        return position

    def set_link(self, position: int) -> None:
        """Let the last link of the chain point somewhere."""
        struct.pack_into(self.order + ("Q" if self.bigtiff else "I"), self.data, self.link, position)


def plain_tags(
    height: int,
    width: int,
    offsets: Sequence[int],
    counts: Sequence[int] | None,
    *,
    bits: int = 8,
    rows: int | None = None,
) -> list[Tag]:
    """The tags of a simple grey image."""
    tags = [
        Tag(256, LONG, [width]),
        Tag(257, LONG, [height]),
        Tag(258, SHORT, [bits]),
        Tag(262, SHORT, [1]),
        Tag(273, LONG, offsets),
        Tag(277, SHORT, [1]),
        Tag(278, LONG, [height if rows is None else rows]),
    ]
    return tags if counts is None else [*tags, Tag(279, LONG, counts)]


def simple_tiff(height: int = 4, width: int = 5, *extra: Tag, without: Sequence[int] = ()) -> bytes:
    """An 8-bit image in one strip; `extra` tags replace those of the same number."""
    writer = TiffWriter()
    offset = writer.append(bytes(range(256))[: height * width])
    replaced = {*without, *(tag.number for tag in extra)}
    tags = [tag for tag in plain_tags(height, width, [offset], [height * width]) if tag.number not in replaced]
    writer.add_directory([*tags, *extra])
    return bytes(writer.data)


@contextmanager
def as_file(data: bytes | bytearray) -> Iterator[int]:
    """A real file with these bytes, by descriptor."""
    fd = os.memfd_create("tiff")
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        yield fd
    finally:
        os.close(fd)
