"""A TIFF that is made while it is read: its header by synthesis, its pixels from the chunks of an image.

It has no bytes of its own; its size is known from the image's metadata. Readable from any thread.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Final, final

from vfsd.images import (
    SynthesizedTiff,
    imagej_description,
    imagej_metadata,
    ome_xml,
    synthesize_hyperstack,
    synthesize_ome_tiff,
)
from vfsd.store.foreign.folder import Identity
from vfsd.store.foreign.image import ForeignImage
from vfsd.store.foreign.reading import ChunkReader

SOFTWARE: Final = "vfsd"
# Copies of whole files are made in pieces of this size.
PIECE: Final = 4 << 20


@final
@dataclass(frozen=True, slots=True)
class VirtualFile:
    """A TIFF that is made while it is read.

    Attributes
    ----------
    versions : tuple
        Of the documents that the image's metadata were read from.
    """

    tiff: SynthesizedTiff
    image: ForeignImage
    reader: ChunkReader
    versions: tuple[Identity | None, ...]

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.tiff.size

    @property
    def mtime(self) -> int:
        """When its metadata were written, ns."""
        return self.image.mtime

    def read_range(self, offset: int, size: int) -> bytes:
        """The bytes [offset, offset + size), fewer at the end; decodes only the chunks that they touch.

        Raises
        ------
        OSError
            EIO: a chunk is damaged or its codec not known, with its path and the reason.
        """
        size = max(0, min(size, self.size - offset))
        out = memoryview(bytearray(size))
        head = self.tiff.read_head(offset, size)
        out[: len(head)] = head
        image, (_, _, _, rows, columns) = self.image, self.image.axes
        for run in self.tiff.locate(offset, size):
            place = image.place(run.time, run.channel, run.slice)
            start = run.file_offset - offset
            self.reader.read_plane(image.array, place, rows, columns, run.plane_offset, out[start : start + run.length])
        return bytes(out)

    def copy_into(self, fd: int, size: int) -> None:
        """Write its first `size` bytes into an empty file."""
        for offset in range(0, size, PIECE):
            piece = memoryview(self.read_range(offset, min(PIECE, size - offset)))
            while piece:
                written = os.pwrite(fd, piece, offset)
                piece, offset = piece[written:], offset + written

    def describe(self) -> dict[str, object]:
        """Where its pixels come from, for people and programs."""
        image = self.image
        return {"image": os.fsdecode(image.path), "array": os.fsdecode(image.array.path), **image.array.describe()}


def ome_tiff(image: ForeignImage) -> SynthesizedTiff:
    """An image as an OME-TIFF; raises SynthesisError."""
    facts = image.facts
    description = ome_xml(image.stack, facts, SOFTWARE)
    return synthesize_ome_tiff(image.stack, description, pixel_size_um=facts.pixel_size_um, software=SOFTWARE)


def hyperstack(image: ForeignImage) -> SynthesizedTiff:
    """An image as an ImageJ hyperstack; raises SynthesisError."""
    facts = image.facts
    size = facts.pixel_size_um
    if size is None and facts.z_step_um is not None:
        facts = replace(facts, z_step_um=None)  # ImageJ has one unit for all three
    return synthesize_hyperstack(
        image.stack,
        imagej_description(image.stack, facts),
        pixels_per_unit=None if size is None else (1 / size[0], 1 / size[1]),
        metadata=imagej_metadata(image.stack, facts),
    )
