"""The names of a MetaXpress export, taken apart.

    [TimePoint_<n>/][ZStep_<n>/]<plate>_<well>[_s<site>][_w<wavelength>].TIF        and <plate>.HTD

Case does not count. What a name leaves out is 1: site, wavelength, time point, and z step too, so that a
plate without ZStep folders and the first step of a stack are the same plane. `ZStep_0` is the maximum
projection that MetaXpress computes along z. Everything here follows from one path alone; names may hold any
byte.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vfsd.plates.model import MAX_COLUMNS, MAX_ROWS, PlatePosition, row_index

# Numbers beyond these are accidents or attacks (a time stamp, a serial number). MetaXpress offers some tens
# of wavelengths and some hundreds of sites and steps; five digits leave room for long time series and tile
# scans.
MAX_WAVELENGTH = 999
MAX_NUMBER = 99_999

HTD_SUFFIX = b".htd"

# MetaXpress pads the column to two digits. One digit would claim MetaMorph's `exp_w1_s1.tif` as well W01.
# The plate's name is as short as possible: in `P_B02_w12.TIF` the well is B02, not W12.
_IMAGE = re.compile(
    rb"(?P<plate>.+?)_(?P<well>[a-z]{1,2}\d{2,})(?:_s(?P<site>\d+))?(?:_w(?P<channel>\d+))?\.tiff?",
    re.IGNORECASE | re.DOTALL,
)
_BEGINS_LIKE_IMAGE = re.compile(
    rb".+?_[a-z]{1,2}\d{2,}(?=[_.])(?:_s\d+)?(?:_w\d+)?(?P<rest>.*)\.tiff?", re.IGNORECASE | re.DOTALL
)
_TIFF = re.compile(rb".*\.tiff?", re.IGNORECASE | re.DOTALL)
_FOLDER = re.compile(rb"(timepoint|zstep)_(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Place:
    """What a directory says: the plate's root, and the numbers of its TimePoint and ZStep folders."""

    root: bytes
    time: int
    z: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class ImageName:
    """A file whose name has the form of an image.

    Parameters
    ----------
    path : bytes
        The file.
    plate : bytes
        The plate's name as it is spelled here.
    position : PlatePosition, optional
        Where the plane belongs.
    problem : str, optional
        Why it has no position: exactly one of the two is None.
    bare : bool
        The name says neither site nor wavelength: only an HTD of the plate makes it an image.
    """

    path: bytes
    plate: bytes
    position: PlatePosition | None
    problem: str | None
    bare: bool


class NameReader:
    """Reads the paths of one listing; remembers the folders and wells it has met, of which there are few."""

    __slots__ = ("_places", "_wells")

    def __init__(self) -> None:
        self._places: dict[bytes, Place] = {}
        self._wells: dict[bytes, tuple[int, int] | str] = {}

    def place(self, directory: bytes) -> Place:
        """What a directory says about the files in it."""
        place = self._places.get(directory)
        if place is None:
            place = self._places[directory] = _place_of(directory)
        return place

    def image(self, path: bytes) -> ImageName | None:
        """The path as an image, or None where its name has another form."""
        directory, _, file_name = path.rpartition(b"/")
        match = _IMAGE.fullmatch(file_name)
        if match is None:
            return None
        plate, well, site, channel = match.groups()
        at = self._wells.get(well)
        if at is None:
            at = self._wells[well] = _well_of(well)
        position = _position_of(at, site, channel, self.place(directory))
        bare = site is None and channel is None
        if isinstance(position, str):
            return ImageName(path, plate, None, position, bare)
        return ImageName(path, plate, position, None, bare)


def htd_stem(file_name: bytes) -> bytes | None:
    """The plate that an HTD is named after, or None where the name is not that of an HTD."""
    stem, suffix = file_name[: -len(HTD_SUFFIX)], file_name[-len(HTD_SUFFIX) :]
    return stem if stem and suffix.lower() == HTD_SUFFIX else None


def reason_for_stray(path: bytes) -> str:
    """Why a file below a plate's root is none of its images."""
    file_name = path.rpartition(b"/")[2]
    if _TIFF.fullmatch(file_name) is None:
        return "it is no TIFF"
    if _IMAGE.fullmatch(file_name) is not None:
        return "its name has the form of an image, but of no plate found here"
    match = _BEGINS_LIKE_IMAGE.fullmatch(file_name)
    if match is None:
        return "its name gives no position on the plate"
    if match["rest"].lower().startswith(b"_thumb"):
        return "it is a thumbnail"
    rest = match["rest"][:40].decode("utf-8", "backslashreplace")
    return f"its name goes on after the position ({rest}): made from an image, or of another layout"


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
    time = _number(numbers.get(b"timepoint", b"1"), MAX_NUMBER)
    z = _number(numbers.get(b"zstep", b"1"), MAX_NUMBER)
    if time is None or z is None:
        return Place(root, 1, 1, f"the number of its TimePoint or ZStep folder is above {MAX_NUMBER}")
    return Place(root, time, z, None)


def _position_of(
    at: tuple[int, int] | str, site: bytes | None, channel: bytes | None, place: Place
) -> PlatePosition | str:
    """The position, or why there is none."""
    if isinstance(at, str):
        return at
    if place.problem is not None:
        return place.problem
    field = _number(site or b"1", MAX_NUMBER)
    if field is None:
        return f"its site number is above {MAX_NUMBER}"
    wavelength = _number(channel or b"1", MAX_WAVELENGTH)
    if wavelength is None:
        return f"its wavelength number is above {MAX_WAVELENGTH}"
    return PlatePosition(at[0], at[1], field, place.time, wavelength, place.z, 0, place.z == 0)


def _number(digits: bytes, largest: int) -> int | None:
    """The number, or None where it is above the largest; never converts thousands of digits."""
    value = digits.lstrip(b"0")
    if len(value) > len(str(largest)):
        return None
    number = int(value or b"0")
    return number if number <= largest else None


def _well_of(well: bytes) -> tuple[int, int] | str:
    """Row and column, 0-based, or why there is no such well."""
    text = well.decode("ascii")
    letters = text.rstrip("0123456789")
    column = _number(well[len(letters) :], MAX_COLUMNS)
    try:
        row = row_index(letters)
    except ValueError:
        row = MAX_ROWS
    if row == MAX_ROWS or column is None or column == 0:
        shown = text if len(text) <= 8 else text[:8] + "…"
        return f"well {shown} lies outside a plate of {MAX_ROWS} x {MAX_COLUMNS} wells"
    return row, column - 1
