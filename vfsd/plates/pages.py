"""Which page of a file is which plane: single files that hold a field's channels, slices or time points.

ImageJ's and OME's descriptions say how many of each there are and in which order; without one, pages are slices. They
are found by patterns and never handed to an XML parser; time is linear in the description's beginning. A description
that speaks of more or fewer planes than there are is not believed, and the file is none of a plate.
"""

from __future__ import annotations

import re
from itertools import product

# Sizes stand at the beginning, in OME-XML after instrument and experiment, which may have many kB.
DESCRIPTION_LIMIT = 1 << 18

_IMAGEJ = re.compile(rb"^(channels|slices|frames)=(\d{1,9})[ \t\r]*$", re.MULTILINE)
_PIXELS = re.compile(rb"<(?:\w+:)?Pixels\b([^<>]{1,4000})>")
_ATTRIBUTE = re.compile(rb"""\b(DimensionOrder|Size[CZT])\s?=\s?["']([A-Z]{5}|\d{1,9})["']""")
_IMAGEJ_AXES = {b"channels": "c", b"slices": "z", b"frames": "t"}

PageOffset = tuple[int, int, int]
"""How far a page lies from the file's first plane: channels, slices, time points."""


def page_offsets(description: bytes, pages: int) -> list[PageOffset] | None:
    """Where each of a file's pages lies, or None where its description speaks of another number of them."""
    head = description[:DESCRIPTION_LIMIT]
    if head.startswith(b"ImageJ="):
        sizes = {"c": 1, "z": 1, "t": 1}
        said = {_IMAGEJ_AXES[match[1]]: int(match[2]) for match in _IMAGEJ.finditer(head[:4096])}
        return _offsets(sizes | said, "czt", pages) if said else _offsets({"c": 1, "z": pages, "t": 1}, "czt", pages)
    found = _PIXELS.search(head)
    if found is None:
        return _offsets({"c": 1, "z": pages, "t": 1}, "czt", pages)
    attributes = {match[1]: match[2] for match in _ATTRIBUTE.finditer(found[1])}
    order = attributes.get(b"DimensionOrder", b"").decode().lower()[2:]
    sizes = {axis: int(attributes.get(b"Size" + axis.upper().encode(), b"0") or 0) for axis in "czt"}
    return _offsets(sizes, order, pages) if sorted(order) == ["c", "t", "z"] else None


def _offsets(sizes: dict[str, int], order: str, pages: int) -> list[PageOffset] | None:
    """`order`: the axis that runs fastest first."""
    if min(sizes.values()) < 1 or sizes["c"] * sizes["z"] * sizes["t"] != pages:
        return None
    slowest_first = order[::-1]
    places = product(*(range(sizes[axis]) for axis in slowest_first))
    c, z, t = (slowest_first.index(axis) for axis in "czt")
    return [(place[c], place[z], place[t]) for place in places]
