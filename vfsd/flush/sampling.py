"""How the pixels of a new array are compressed: tried on pieces of a few of its planes, and then the same for the whole array.

LZ4 after a byte shuffle is right for what cameras give. Another shuffle is taken only where the sample shows that it pays:

- none where the byte shuffle gains nothing: masks, noise, numbers that were rounded. It costs less, both ways;
- of bits where it saves a tenth of the raw bytes more: 8-bit images, 12 bits of noise, dark images, floats. It decodes at a third
  of the speed, and the disk has fewer bytes to read and to write.

For an archive it is zstd instead, with the shuffle that gives fewer bytes: four times slower to decode, ten times to write, 10 to
50 % smaller. Runs in a worker thread; reads items, and never fails: what cannot be read is compressed as ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from vfsd.codec.blosc import BloscParameters, Compressor, Shuffle, compress
from vfsd.errors import VfsdError
from vfsd.flush.items import Item
from vfsd.images import load_plane

# Planes that are looked at (the first, the middle and the last of the array's), pieces of each, and bytes of a piece: a hundredth
# of a second for a new array.
PLANES: Final = 3
PIECES: Final = 4
PIECE: Final = 128 << 10
# What the shuffle of bits must save of the raw bytes, and how much more than the best none at all may leave.
WORTH_BITS: Final = 0.10
AS_GOOD: Final = 1.01
# A plane that is larger than this is not read for a sample.
LARGEST: Final = 256 << 20
# zstd's own levels 3 to 5 differ by a few per cent in size; Blosc's 3 is the fastest of these.
ARCHIVE_LEVEL: Final = 3


def choose_parameters(sample: Sequence[memoryview | bytes], itemsize: int, *, archive: bool = False) -> BloscParameters:
    """How planes like these pieces are compressed; the default where there are none.

    Parameters
    ----------
    sample : sequence of bytes-like
        Little-endian pixels of `itemsize` bytes, whole ones, C-contiguous.
    archive : bool
        For few bytes rather than for speed.
    """
    cname: Compressor = "zstd" if archive else "lz4"
    level = ARCHIVE_LEVEL if archive else 5
    default = BloscParameters(itemsize, cname, level)
    total = sum(len(piece) for piece in sample)
    if not total:
        return default

    def share(shuffle: Shuffle) -> float:
        parameters = BloscParameters(itemsize, cname, level, shuffle)
        return sum(len(compress(piece, parameters)) for piece in sample) / total

    by_bytes, by_bits, plain = share("shuffle"), share("bitshuffle"), share("noshuffle")
    if archive:
        sizes: dict[Shuffle, float] = {"shuffle": by_bytes, "bitshuffle": by_bits, "noshuffle": plain}
        return BloscParameters(itemsize, cname, level, min(sizes, key=lambda shuffle: sizes[shuffle]))
    if min(by_bytes, plain) - by_bits >= WORTH_BITS:
        return BloscParameters(itemsize, shuffle="bitshuffle")
    if plain <= by_bytes * AS_GOOD:
        return BloscParameters(itemsize, shuffle="noshuffle")
    return default


def sample_of(items: Iterable[Item]) -> list[bytes]:
    """Pieces of the first planes of a few of these items; fewer, or none, where they cannot be read."""
    known = [item for item in items if item.layout is not None and item.stored is None]
    chosen = known if len(known) <= PLANES else [known[0], known[len(known) // 2], known[-1]]
    pieces: list[bytes] = []
    for item in chosen:
        try:
            pieces += _pieces_of(item)
        except (OSError, VfsdError, ValueError):
            continue  # whoever stores it will say so
    return pieces


def _pieces_of(item: Item) -> list[bytes]:
    assert item.layout is not None
    page = item.layout.pages[0]
    if page.nbytes > LARGEST:
        return []
    with item.opened() as fd:
        plane = load_plane(fd, item.layout, 0)
    itemsize = page.dtype.itemsize
    length = min(PIECE, len(plane)) // itemsize * itemsize
    places = (
        np.linspace(0, len(plane) - length, PIECES if len(plane) > length else 1).astype(int) // itemsize * itemsize
    )
    return [bytes(plane[place : place + length]) for place in places.tolist()]
