"""Whether a folder may be somebody's Zarr: a first look that costs nothing, before anything that knows Zarr is imported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

# What makes a folder a group of Zarr v3, or v2.
GROUP_DOCUMENTS: Final = ("zarr.json", ".zgroup", ".zattrs")
SUFFIX: Final = ".zarr"
# A folder with images of its own is shown as it is, whatever lies beside them.
_IMAGES: Final = (".tif", ".tiff", ".flex", ".jpg", ".png")


def may_be_zarr(folder: Path) -> bool:
    """Whether a folder is Zarr by the names in it, or one whose folders are all called `….zarr`, without other images."""
    if any(os.path.lexists(folder / name) for name in GROUP_DOCUMENTS):
        return True
    found = False
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name.lower()
            if name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                if not name.endswith(SUFFIX):
                    return False
                found = True
            elif name.endswith(_IMAGES):
                return False
    return found
