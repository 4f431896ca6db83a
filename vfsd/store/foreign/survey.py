"""All that a view shows, and all that it cannot: for people who ask before they mount."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vfsd.store.foreign.view import IMAGEJ_SUFFIX, OME_SUFFIX, Folder, ZarrView
from vfsd.store.foreign.virtual_file import VirtualFile


@dataclass(frozen=True, slots=True)
class ForeignSurvey:
    """Each image by its name in the view (without suffix), with what is known of it; and what cannot be shown or read."""

    images: dict[str, dict[str, object]]
    problems: list[tuple[bytes, str]]


def survey_zarr(root: Path) -> ForeignSurvey:
    """Look at every image's metadata, and at no pixels; raises ForeignError, OSError where nothing can be shown."""
    view = ZarrView(root)
    try:
        images: dict[str, dict[str, object]] = {}
        for path, file in _files(view, b""):
            name = path.removesuffix(OME_SUFFIX if path.endswith(OME_SUFFIX) else IMAGEJ_SUFFIX)
            facts = file.image.facts
            images[os.fsdecode(name)] = {
                **file.describe(),
                "channels": [channel.name for channel in facts.channels],
                "pixel_size_um": facts.pixel_size_um,
                "z_step_um": facts.z_step_um,
            }
        return ForeignSurvey(images, view.problems)
    finally:
        view.close()


def _files(view: ZarrView, path: bytes) -> Iterator[tuple[bytes, VirtualFile]]:
    for name, shown in view.names(path).items():
        at = path + b"/" + name if path else name
        if isinstance(shown, Folder):
            yield from _files(view, at)
        elif isinstance(shown, VirtualFile):
            yield at, shown
