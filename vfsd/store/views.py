"""How a source is shown, in the words of the command line and of the catalogue's `source_view`."""

from __future__ import annotations

from typing import Final

FILES: Final = "files"
"""As the files that it has."""
TIFFS: Final = "tiff"
"""As TIFFs made of the OME-Zarr that it is."""
