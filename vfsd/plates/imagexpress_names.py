"""The names of an ImageXpress plate, taken apart: MetaXpress' export and its database layout.

    [TimePoint_<n>/][ZStep_<n>/]<plate>_<well>[_s<site>][_w<wavelength>].TIF           and <plate>.HTD
    [TimePoint_<n>/][ZStep_<n>/]<plate>_<well>[_s<site>][_w<wavelength>]<GUID>.tif     in <plate>/<date>/<number>/

Case does not count. What a name leaves out is 1: site, wavelength, time point, and z step too, so that a
plate without ZStep folders and the first step of a stack are the same plane. Projections that were computed along
z have z 0: in the export they lie in `ZStep_0`, in the database layout beside the ZStep folders. Names may hold any
byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from vfsd.plates.model import PlatePosition
from vfsd.plates.naming import (
    MAX_CHANNEL,
    MAX_NUMBER,
    NO_POSITION,
    NO_TIFF,
    TIFF_NAME,
    Well,
    join_path,
    number_of,
    split_path,
    text_of,
    well_of,
)
from vfsd.plates.scheme import ImageName

HTD_SUFFIX = b".htd"

_GUID = rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

# MetaXpress pads the column to two digits. One digit would claim MetaMorph's `exp_w1_s1.tif` as well W01.
# The plate's name is as short as possible: in `P_B02_w12.TIF` the well is B02, not W12. A GUID follows the numbers
# at once, so their digits are as few as possible.
_EXPORTED = rb"(?:_s(?P<site>\d+))?(?:_w(?P<channel>\d+))?"
_IN_DATABASE = rb"(?:_s(?P<db_site>\d+?))?(?:_w(?P<db_channel>\d+?))?(?P<guid>" + _GUID + rb")"
_IMAGE = re.compile(
    rb"(?P<plate>.+?)_(?P<well>[a-z]{1,2}\d{2,}?)(?:" + _EXPORTED + rb"|" + _IN_DATABASE + rb")\.tiff?",
    re.IGNORECASE | re.DOTALL,
)
_BEGINS_LIKE_IMAGE = re.compile(
    rb".+?_[a-z]{1,2}\d{2,}(?=[_.])(?:_s\d+)?(?:_w\d+)?(?P<rest>.*)\.tiff?", re.IGNORECASE | re.DOTALL
)
_FOLDER = re.compile(rb"(timepoint|zstep)_(\d+)", re.IGNORECASE)

_BARE = "its name says neither site nor wavelength, and its plate has no HTD to vouch for it"


@dataclass(frozen=True, slots=True)
class Place:
    """What a directory says: the plate's root, and the numbers of its TimePoint and ZStep folders."""

    root: bytes
    time: int
    z: int
    has_step: bool
    problem: str | None


@final
class NameReader:
    """Reads the paths of one listing; remembers the folders and wells it has met, of which there are few.

    Parameters
    ----------
    is_stack : callable
        Whether a directory has ZStep folders, listed or not.
    """

    __slots__ = ("_is_stack", "_places", "_stacks", "_wells")

    def __init__(self, is_stack: Callable[[bytes], bool] = lambda directory: False) -> None:
        self._is_stack = is_stack
        self._places: dict[bytes, Place] = {}
        self._wells: dict[bytes, Well | str] = {}
        self._stacks: dict[bytes, bool] = {}

    def place(self, directory: bytes) -> Place:
        """What a directory says about the files in it."""
        place = self._places.get(directory)
        if place is None:
            place = self._places[directory] = _place_of(directory)
        return place

    def __call__(self, path: bytes, directory: bytes, file_name: bytes) -> ImageName | None:
        """The path as an image, or None where its name has another form."""
        match = _IMAGE.fullmatch(file_name)
        if match is None:
            return None
        plate, well, site, channel, db_site, db_channel, guid = match.groups()
        at = self._wells.get(well)
        if at is None:
            at = self._wells[well] = well_of(well)
        place = self.place(directory)
        z = place.z
        if guid is not None:
            site, channel = db_site, db_channel
            if not place.has_step and self._lies_beside_stack(directory):
                z = 0
        position = _position_of(at, site, channel, place, z)
        bare = _BARE if guid is None and site is None and channel is None else None
        in_folders = directory != place.root or guid is not None
        if isinstance(position, str):
            return ImageName(path, place.root, plate, None, position, bare, in_folders)
        return ImageName(path, place.root, plate, position, None, bare, in_folders)

    def _lies_beside_stack(self, directory: bytes) -> bool:
        known = self._stacks.get(directory)
        if known is None:
            known = self._stacks[directory] = self._is_stack(directory)
        return known


def is_step_folder(name: bytes) -> bool:
    """Whether a folder is one of those that hold a plane of each stack."""
    match = _FOLDER.fullmatch(name)
    return match is not None and match[1].lower() == b"zstep"


def first_step_folders(directory: bytes) -> list[bytes]:
    """The folders of which one is there where a directory has stacks."""
    return [join_path(directory, b"ZStep_1")]


def htd_stem(file_name: bytes) -> bytes | None:
    """The plate that an HTD is named after, or None where the name is not that of an HTD."""
    stem, suffix = file_name[: -len(HTD_SUFFIX)], file_name[-len(HTD_SUFFIX) :]
    return stem if stem and suffix.lower() == HTD_SUFFIX else None


def reason_for_stray(path: bytes) -> str:
    """Why a file below a plate's root is none of its images."""
    file_name = split_path(path)[1]
    if TIFF_NAME.fullmatch(file_name) is None:
        return NO_TIFF
    if _IMAGE.fullmatch(file_name) is not None:
        return "its name has the form of an image, but of no plate found here"
    match = _BEGINS_LIKE_IMAGE.fullmatch(file_name)
    if match is None:
        return NO_POSITION
    if match["rest"].lower().startswith(b"_thumb"):
        return "it is a thumbnail"
    return (
        f"its name goes on after the position ({text_of(match['rest'][:40])}): made from an image, or of another layout"
    )


def _place_of(directory: bytes) -> Place:
    numbers: dict[bytes, bytes] = {}
    root = directory
    while True:
        parent, _, last = root.rpartition(b"/")
        folder = _FOLDER.fullmatch(last)
        if folder is None or folder[1].lower() in numbers:
            break
        numbers[folder[1].lower()] = folder[2]
        root = parent
    has_step = b"zstep" in numbers
    time = number_of(numbers.get(b"timepoint", b"1"))
    z = number_of(numbers.get(b"zstep", b"1"))
    if time is None or z is None:
        problem = f"the number of its TimePoint or ZStep folder is above {MAX_NUMBER}"
        return Place(root, 1, 1, has_step, problem)
    return Place(root, time, z, has_step, None)


def _position_of(
    at: Well | str, site: bytes | None, channel: bytes | None, place: Place, z: int
) -> PlatePosition | str:
    """The position, or why there is none."""
    if isinstance(at, str):
        return at
    if place.problem is not None:
        return place.problem
    field = number_of(site or b"1")
    if field is None:
        return f"its site number is above {MAX_NUMBER}"
    wavelength = number_of(channel or b"1", MAX_CHANNEL)
    if wavelength is None:
        return f"its wavelength number is above {MAX_CHANNEL}"
    return PlatePosition(at[0], at[1], field, place.time, wavelength, z, 0, z == 0)
