"""The images of a simulated plate as peers see them: files whose pixels lie in one piece behind a header of eight bytes.

A peer gets what it needs for its best: the place of the pixels, so that it need not parse a TIFF, and whole fields at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import make_demo_plate
from vfsd.plates.demo_tiff import PIXELS_AT

# A plane of a current camera: 2160 x 2160 pixels of 16 bits. A field of 4 channels and 6 slices is a shard of 24 planes.
SIDE = 2160
PLANE_BYTES = 2 * SIDE**2
CHANNELS, SLICES = 4, 6
PLANES_A_FIELD = CHANNELS * SLICES

NAME = re.compile(
    r"(?:TimePoint_(?P<t>\d+)/)?(?:ZStep_(?P<z>\d+)/)?.*_(?P<well>[A-Z]+\d+)_s(?P<s>\d+)_w(?P<w>\d+)\.TIF"
)

Pixels = NDArray[np.uint16]


@dataclass(frozen=True, slots=True, order=True)
class Image:
    """One file of the plate: its well and field, and its plane (t, c, z) in the field's array."""

    well: str
    field: int
    plane: tuple[int, int, int]
    path: Path


def images_of(plate: Path) -> list[Image]:
    """The plate's images, field by field."""
    images = []
    for path in plate.rglob("*.TIF"):
        found = NAME.fullmatch(path.relative_to(plate).as_posix())
        if found is not None:
            plane = (int(found["t"] or 1) - 1, int(found["w"]) - 1, int(found["z"] or 1) - 1)
            images.append(Image(found["well"], int(found["s"]), plane, path))
    return sorted(images)


def fields_of(images: Sequence[Image]) -> Iterator[list[Image]]:
    """The images of each field."""
    for _, group in groupby(images, key=lambda image: (image.well, image.field)):
        yield list(group)


def extents_of(images: Sequence[Image]) -> tuple[int, int, int]:
    """Time points, channels and slices of a field."""
    t, c, z = (max(image.plane[axis] for image in images) + 1 for axis in range(3))
    return t, c, z


def pixels_of(image: Image, side: int = SIDE) -> Pixels:
    """The pixels of one file."""
    return np.fromfile(image.path, "<u2", side * side, offset=PIXELS_AT).reshape(side, side)


def block_of(images: Sequence[Image], side: int = SIDE) -> Pixels:
    """All planes of a field: (t, c, z, y, x)."""
    block: Pixels = np.empty((*extents_of(images), side, side), "<u2")
    for image in images:
        block[image.plane] = pixels_of(image, side)
    return block


def make_plate(folder: Path, megabytes: float, *, side: int = SIDE, **shape: int) -> dict[str, int]:
    """A plate of about so many megabytes, at least one well; what it was made of. `shape` replaces what fields hold."""
    made: dict[str, Any] = {"fields": 1, "channels": CHANNELS, "z": SLICES, **shape}
    planes = made["fields"] * made["channels"] * made["z"]
    made |= {"wells": max(1, round(megabytes * 1e6 / (2 * side**2) / planes)), "size": side}
    make_demo_plate(folder, made)
    return made
