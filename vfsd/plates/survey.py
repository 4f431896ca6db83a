"""A folder on disk, looked at as a listing: what `vfsd doctor --plate` tells of it.

Only looks: nothing is opened but metadata that an instrument asks for, links are not followed, and a folder that cannot
be read is named and passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from vfsd.errors import shown_path
from vfsd.plates.instrument import ReadFile
from vfsd.plates.labels import LabelImage, find_labels
from vfsd.plates.model import Plate
from vfsd.plates.recognise import recognise_plates
from vfsd.plates.registry import PlateFormats


@final
@dataclass(frozen=True, slots=True)
class Survey:
    """The plates of a folder, and what is left.

    Parameters
    ----------
    plates : tuple of Plate
        As `recognise_plates` gives them.
    labels : mapping of bytes to LabelImage
        As `find_labels` gives them; they are in none of the plates.
    strangers : tuple of bytes
        Files that belong to no plate, sorted.
    problems : tuple of str
        Folders that could not be read, in words.
    """

    plates: tuple[Plate, ...]
    labels: Mapping[bytes, LabelImage]
    strangers: tuple[bytes, ...]
    problems: tuple[str, ...]


def survey_folder(folder: Path, formats: PlateFormats | None = None) -> Survey:
    """Look for plates in a folder.

    Raises
    ------
    OSError
        The folder itself cannot be read.
    """
    os.scandir(folder).close()
    problems: list[str] = []
    paths = sorted(_files_below(os.fsencode(folder), b"", problems))
    read, name = _reads(os.fsencode(folder)), folder.resolve().name
    labels = find_labels(paths, read, directory_name=name, formats=formats)
    images = [path for path in paths if path not in labels]
    plates = recognise_plates(images, read, directory_name=name, formats=formats)
    known = {path for plate in plates for path in (*plate.images, *plate.others)} | labels.keys()
    return Survey(tuple(plates), labels, tuple(path for path in paths if path not in known), tuple(problems))


def _files_below(root: bytes, directory: bytes, problems: list[str]) -> Iterator[bytes]:
    pending = [directory]
    while pending:
        here = pending.pop()
        try:
            entries = list(os.scandir(os.path.join(root, here)))
        except OSError as error:
            problems.append(f"{shown_path(here)}: {error.strerror}")
            continue
        for entry in entries:
            path = here + b"/" + entry.name if here else entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
            elif entry.is_file(follow_symlinks=False):
                yield path


def _reads(root: bytes) -> ReadFile:
    def read(path: bytes, offset: int, size: int) -> bytes:
        descriptor = os.open(os.path.join(root, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)

    return read
