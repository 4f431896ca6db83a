"""Names, contents and places to act on: few enough that operations meet, odd enough that they hurt.

A place is chosen among what the plain directory holds at that moment, so most operations find something to act on.
"""

from __future__ import annotations

import functools
import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

PLATE_NAMES = [b"P_A01_s1_w1.TIF", b"P_A01_s1_w2.TIF", b"P_A01_s2_w1.TIF", b"P_B01_s1_w1.TIF", b"P_A01_s01_w1.tif"]
ODD_NAMES = [
    b"\xff\xfe caf\xe9",
    b"n" * 255,
    b"n" * 256,
    b" line\nbreak ",
    b"p.ome.zarr",
    b"stacks",
    b"zarr.json",
    b"P.HTD",
    b"TimePoint_2",
    b"~5",
]
NAMES = [*PLATE_NAMES, *ODD_NAMES, b"a", b"b", b"m1.tif", b"m2.tif", b"Text.csv", b"text.csv"]
TARGETS = [b"a", b"../m1.tif", b"p/P_A01_s1_w1.TIF", b"nowhere", b".", b"loop", b"\xff\xfe caf\xe9", b"./" * 600 + b"a"]

# More than this many planes and bytes make a stack of a directory's images, or an image of a file's pages.
PAGES, PAGE = 16, (128, 256)


def _pixels(seed: int, shape: tuple[int, ...], dtype: str = "uint16") -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(500, 40, shape).clip(0, 60_000).astype(dtype)


def _tiff(array: np.ndarray[Any, Any], **options: Any) -> bytes:
    import tifffile

    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **{"metadata": None, "software": "test", **options})
    return buffer.getvalue()


def noise(seed: int, size: int) -> bytes:
    """Bytes that do not compress and never repeat."""
    return np.random.default_rng(seed).bytes(size)


@functools.cache
def contents() -> dict[str, bytes]:
    """What whole files may hold, by name."""
    found = {f"image {seed}": _tiff(_pixels(seed, (48, 60))) for seed in range(4)}
    return found | {
        "big-endian image": _tiff(_pixels(5, (48, 60)), byteorder=">"),
        "strips": _tiff(_pixels(6, (48, 60)), rowsperstrip=8),
        "other shape": _tiff(_pixels(7, (90, 20))),
        "zlib": _tiff(_pixels(8, (48, 60)), compression="zlib"),
        "rgb": _tiff(_pixels(9, (48, 60, 3), "uint8"), photometric="rgb"),
        "image of a stack": _tiff(_pixels(10, PAGE)),
        "pages": _tiff(_pixels(11, (PAGES, *PAGE)), photometric="minisblack"),
        "cut image": _tiff(_pixels(12, (48, 60)))[:-500],
        "text": b"well,count\nA01,17\n" * 40,
        "nothing": b"",
        "noise": noise(1, 150_001),
    }


CONTENTS = [
    *(f"image {seed}" for seed in range(4)),
    "big-endian image",
    "strips",
    "other shape",
    "zlib",
    "rgb",
    "image of a stack",
    "pages",
    "cut image",
    "text",
    "nothing",
    "noise",
]


@dataclass(frozen=True, slots=True)
class Place:
    """How a path is found: the `number`th of what is there, and perhaps a name in or behind it."""

    how: str
    number: int
    name: bytes = b""

    def find(self, root: bytes) -> bytes:
        """The path that this is now, relative to `root`."""
        directories, others = names_below(root)
        folder = directories[self.number % len(directories)]
        match self.how:
            case "there" if others:
                return others[self.number % len(others)]
            case "folder":
                return folder
            case "behind a file" if others:
                return others[self.number % len(others)] + b"/" + self.name
            case "up":
                return folder + b"/../" + self.name
            case "slash":
                return folder + b"/"
            case "slash behind a file" if others:
                return others[self.number % len(others)] + b"/"
            case "dot":
                return folder + b"/."
            case "dots":
                return folder + b"/.."
        return folder + b"/" + self.name


def names_below(root: bytes) -> tuple[list[bytes], list[bytes]]:
    """Directories (with `.`, first) and everything else below `root`, sorted."""
    directories, others, waiting = [b"."], [], [b""]
    while waiting:
        below = waiting.pop()
        with os.scandir(os.path.join(root, below)) as listing:
            for entry in listing:
                path = below + b"/" + entry.name if below else entry.name
                if entry.is_dir(follow_symlinks=False):
                    directories.append(path)
                    waiting.append(path)
                else:
                    others.append(path)
    return [b".", *sorted(directories[1:])], sorted(others)


_NUMBERS = st.integers(0, 60)
_NAMES = st.sampled_from(NAMES)


def _places(*how: str) -> st.SearchStrategy[Place]:
    return st.builds(Place, st.sampled_from(how), _NUMBERS, _NAMES)


THERE = _places(*["there"] * 9, "new", "folder", "up", "slash behind a file")
"""Mostly something that is no directory."""
FOLDER = _places(*["folder"] * 9, "there", "new", "slash", "dot", "dots")
"""Mostly a directory."""
NEW = _places(*["new"] * 9, "there", "there", "up", "folder", "behind a file")
"""Mostly a name that may still be free."""
ANY = _places("there", "there", "there", "folder", "folder", "new", "up")
