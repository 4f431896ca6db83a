"""The levels of an image: arrays `1`, `2`, … beside the full-size array `0`, each half as large as the one before.

A level follows from the one before it, so nothing of a file depends on it: what is lost there is made again. Its shards
have the places of those of the full-size array, with as many planes, so that both are written in one go. How many levels
a group has is settled when it is made.

Means of four pixels, or for label images every second pixel (`vfsd.codec.halve` says how they round). In both a pixel
stands for the 2 x 2 above it: its centre lies half a pixel of the finer level further, which `level_of` says to viewers.
Works on buffers; never touches a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from vfsd.codec.halve import halve_by_mean, halve_by_stride
from vfsd.store.geometry import ArrayGeometry
from vfsd.store.ngff import Level

__all__ = ["MAX_LEVELS", "MEAN", "SMALLEST_SIDE", "STRIDE", "level_count", "level_geometry", "level_of", "plane_levels"]

SMALLEST_SIDE: Final = 256
"""Levels are made until the smaller side is at most this: a tile of a well plate's overview, decoded in no time."""

MAX_LEVELS: Final = 30
"""Halvings of the largest side that an array can have."""

MEAN: Final = "mean"
STRIDE: Final = "stride"


def level_count(geometry: ArrayGeometry, wanted: int | None) -> int:
    """How many levels an image gets below the full size: `wanted`, or until `SMALLEST_SIDE`; no side becomes 0."""
    side, count = min(geometry.height, geometry.width), 0
    while side >= 2 and (side > SMALLEST_SIDE if wanted is None else count < wanted):
        side //= 2
        count += 1
    return count


def level_geometry(geometry: ArrayGeometry, level: int) -> ArrayGeometry:
    """The array of a level; level 0 is the full size. Tiles are as large as there, where the level is not smaller."""
    height, width = geometry.height >> level, geometry.width >> level
    return replace(
        geometry,
        height=height,
        width=width,
        tile_height=min(geometry.tile_height, height),
        tile_width=min(geometry.tile_width, width),
    )


def level_of(number: int, scale: Sequence[float], translation: Sequence[float] | None = None) -> Level:
    """What an image's document says of a level: `scale` and `translation` are those of the full size, y and x last.

    A pixel of level n covers 2^n by 2^n pixels, whose middle lies (2^n - 1) / 2 pixels from the first one's.
    """
    factor = 2**number
    if number == 0:
        return Level("0", scale, translation)
    offset = [0.0] * (len(scale) - 2) + [(factor - 1) / 2 * step for step in scale[-2:]]
    moved = [start + more for start, more in zip(translation or [0.0] * len(scale), offset, strict=True)]
    scaled = [*scale[:-2], *(factor * step for step in scale[-2:])]
    return Level(str(number), scaled, [round(place, 6) for place in moved])


def plane_levels(plane: memoryview, geometry: ArrayGeometry, count: int, method: str) -> Iterator[memoryview]:
    """The bytes of a plane's levels 1 to `count`, each made of the one before.

    Parameters
    ----------
    plane : memoryview
        The full-size plane, as `encode_plane` takes it.
    method : str
        `MEAN` or `STRIDE`.
    """
    halve = halve_by_stride if method == STRIDE else halve_by_mean
    shape = (geometry.bands, geometry.height, geometry.width, geometry.samples // geometry.bands)
    bands = list(np.frombuffer(plane, geometry.pixel_type).reshape(shape))
    for _ in range(count):
        bands = [halve(band) for band in bands]
        whole = bands[0] if len(bands) == 1 else np.stack(bands)
        yield whole.data.cast("B")
