"""Listings of plates for the tests of instruments: from folders, or from a few files in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from vfsd.plates import Plate, PlateFormats, PlatePosition, ReadFile, choose_formats, recognise_plates, row_index


def files_below(folder: Path) -> list[bytes]:
    """Paths of all files, relative to the folder."""
    return [os.fsencode(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def reads(folder: Path) -> ReadFile:
    """Reads files of a folder in pieces."""

    def read(path: bytes, offset: int, size: int) -> bytes:
        with open(folder / os.fsdecode(path), "rb") as file:
            file.seek(offset)
            return file.read(size)

    return read


def no_file(path: bytes, offset: int, size: int) -> bytes:
    """A tree without any metadata."""
    raise FileNotFoundError(path)


def holding(files: Mapping[bytes, bytes]) -> ReadFile:
    """A tree of a few files; folders above them are folders."""
    folders = {path[:end] for path in files for end, byte in enumerate(path) if byte == ord("/")}

    def read(path: bytes, offset: int, size: int) -> bytes:
        if path in folders:
            raise IsADirectoryError(path)
        if path not in files:
            raise FileNotFoundError(path)
        return files[path][offset : offset + size]

    return read


def plates_in(
    paths: Iterable[bytes], files: Mapping[bytes, bytes] | None = None, formats: PlateFormats | None = None
) -> list[Plate]:
    """The plates in a listing of these paths and files."""
    files = files or {}
    return recognise_plates([*paths, *files], holding(files), formats=formats)


def only_plate(
    paths: Iterable[bytes], files: Mapping[bytes, bytes] | None = None, formats: PlateFormats | None = None
) -> Plate:
    """The one plate in such a listing."""
    (plate,) = plates_in(paths, files, formats)
    return plate


def plate_of(folder: Path, formats: PlateFormats | None = None) -> Plate:
    """The one plate in a folder."""
    (plate,) = recognise_plates(files_below(folder), reads(folder), directory_name=folder.name, formats=formats)
    return plate


def format_named(name: str) -> PlateFormats:
    """One instrument, forced."""
    return choose_formats(name)


def table(text: str) -> dict[bytes, PlatePosition]:
    """Lines `path | well | field | time | channel | z [| acquisition N] [| projection]` as positions."""
    positions: dict[bytes, PlatePosition] = {}
    for line in text.strip().splitlines():
        path, well, field, time, channel, z, *more = (part.strip() for part in line.split(" | "))
        letters = well.rstrip("0123456789")
        acquisition = next((int(part.split()[1]) for part in more if part.startswith("acquisition")), 0)
        positions[path.encode()] = PlatePosition(
            row_index(letters),
            int(well[len(letters) :]) - 1,
            int(field),
            int(time),
            int(channel),
            int(z),
            acquisition,
            "projection" in more,
        )
    return positions
