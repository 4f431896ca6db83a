"""What a plate is: positions, facts, and which file is which.

Plain values that every instrument's module returns and every room above reads. They promise to be valid when
they exist: a position lies inside the largest plate that is made (1536 wells: 32 rows, 48 columns) and has no
negative number. They read no file and know no vendor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# A 1536-well plate, the largest format of ANSI/SLAS 4-2004: rows A to AF, columns 1 to 48.
MAX_ROWS = 32
MAX_COLUMNS = 48

# The plate formats that are made, as (rows, columns), smallest first.
PLATE_FORMATS = ((2, 3), (3, 4), (4, 6), (6, 8), (8, 12), (16, 24), (32, 48))

_LETTERS = 26

FieldKey = tuple[int, int, int, int]
"""A field of a plate: acquisition, row, column, the vendor's number of the field."""


def row_name(index: int) -> str:
    """The letters of a row: 0 → "A", 25 → "Z", 26 → "AA", 31 → "AF".

    Raises
    ------
    ValueError
        The index lies outside the largest plate.
    """
    if not 0 <= index < MAX_ROWS:
        raise ValueError(f"row {index} is outside a plate of {MAX_ROWS} rows")
    if index < _LETTERS:
        return chr(ord("A") + index)
    return "A" + chr(ord("A") + index - _LETTERS)


_ROW_INDICES = {row_name(index): index for index in range(MAX_ROWS)}


def row_index(name: str) -> int:
    """The 0-based row that letters name, in either case: "A" → 0, "af" → 31.

    Raises
    ------
    ValueError
        No plate has such a row.
    """
    # `upper` maps some other letters to ASCII (the dotless i): only ASCII names a row.
    index = _ROW_INDICES.get(name.upper()) if name.isascii() else None
    if index is None:
        raise ValueError(f"no plate has a row {name!r}: rows are A to Z and AA to AF")
    return index


@dataclass(frozen=True, slots=True, order=True)
class PlatePosition:
    """The coordinates of one plane on its plate; they sort by well, field, time, channel, z.

    Parameters
    ----------
    row, column : int
        0-based.
    field, time, channel, z : int
        The vendor's own numbers, as they stand in the name (most vendors count from 1). They identify; they
        are no array indices.
    acquisition : int
        Which of several acquisitions of the plate.
    projection : bool
        The plane was computed along z by the instrument; it is not part of the stack.

    Raises
    ------
    ValueError
        The well lies outside the largest plate, or a number is negative.
    """

    row: int
    column: int
    field: int
    time: int
    channel: int
    z: int
    acquisition: int = 0
    projection: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.row < MAX_ROWS and 0 <= self.column < MAX_COLUMNS):
            raise ValueError(
                f"row {self.row}, column {self.column} is outside a plate of {MAX_ROWS} x {MAX_COLUMNS} wells"
            )
        if min(self.field, self.time, self.channel, self.z, self.acquisition) < 0:
            raise ValueError("a plate position has a negative number")

    @property
    def well(self) -> str:
        """The well as people write it: "B02", "AF48"."""
        return f"{row_name(self.row)}{self.column + 1:02d}"

    @property
    def field_key(self) -> FieldKey:
        """The field that the plane belongs to."""
        return self.acquisition, self.row, self.column, self.field

    @property
    def row_path(self) -> str:
        """The row's folder in an NGFF plate: "B"."""
        return row_name(self.row)

    @property
    def column_path(self) -> str:
        """The column's folder in an NGFF plate, without leading zeros: "2"."""
        return str(self.column + 1)

    def field_path(self, *, several_acquisitions: bool = False) -> str:
        """The field's folder in an NGFF well: "1", or "a0f1" where the plate has several acquisitions.

        NGFF 0.5 allows only letters and digits here.
        """
        return f"a{self.acquisition}f{self.field}" if several_acquisitions else str(self.field)


@dataclass(frozen=True, slots=True)
class ChannelFacts:
    """What the vendor says about one channel; what it does not say is None.

    Parameters
    ----------
    number : int
        The vendor's number, the same as `PlatePosition.channel`.
    name : str, optional
        For example "DAPI".
    colour : str, optional
        Six hexadecimal digits, RRGGBB.
    excitation_nm, emission_nm : float, optional
        Wavelengths in nm, the emission's at the middle of its band.
    exposure_ms : float, optional
        Exposure time in ms.
    """

    number: int
    name: str | None = None
    colour: str | None = None
    excitation_nm: float | None = None
    emission_nm: float | None = None
    exposure_ms: float | None = None


@dataclass(frozen=True, slots=True)
class PlateFacts:
    """What the vendor's metadata says about a plate as a whole; what it does not say is None.

    A fact that the file names contradict (a plate of 8 rows with a well P24) is None as well.

    Parameters
    ----------
    rows, columns : int, optional
        The plate's format.
    channels : tuple of ChannelFacts
        One for each channel of which the plate has an image, by number. Channels that the metadata declares
        and no image has are left out.
    pixel_size_um : (float, float), optional
        Height and width of a pixel in µm, in the order of the array's axes (y, x).
    z_step_um : float, optional
        Distance of two planes of a stack in µm.
    time_points, z_steps : int, optional
        How many the protocol declares; fewer may have been acquired.
    name : str, optional
        The vendor's name of the plate, for display.
    time_step_s : float, optional
        Time between two time points in seconds.
    started : str, optional
        When the acquisition began, ISO 8601, as the vendor writes it.
    stage_um : mapping of FieldKey to (float, float)
        Where the middle of a field is, in µm (y, x), y growing downwards as in the array. The origin is the
        vendor's (the middle of the well, a corner of the stage), the same for all fields of a well. It may have
        fields of which no image is listed: metadata often comes after the images that it is about.
    taken_at : mapping of bytes to str
        Path → when the plane was taken, ISO 8601, as the vendor writes it.
    """

    rows: int | None = None
    columns: int | None = None
    channels: tuple[ChannelFacts, ...] = ()
    pixel_size_um: tuple[float, float] | None = None
    z_step_um: float | None = None
    time_points: int | None = None
    z_steps: int | None = None
    name: str | None = None
    time_step_s: float | None = None
    started: str | None = None
    stage_um: Mapping[FieldKey, tuple[float, float]] = field(default_factory=dict)
    taken_at: Mapping[bytes, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plate:
    """One plate found in a tree.

    Parameters
    ----------
    root : bytes
        The directory that the plate fills, relative to the tree; b"" is the tree's own root.
    name : str
        What to call it: the directory's name. Always encodable as UTF-8.
    instrument : str
        Which instrument's module recognised it.
    images : mapping of bytes to PlatePosition
        Path → where the plane belongs. No two paths have one position.
    others : mapping of bytes to str
        Path → why it is no image of this plate, for every other path below the root that belongs to no
        other plate.
    facts : PlateFacts
        What is known of the plate as a whole.
    key : str
        Together with `root` it identifies a plate for good: what file names alone say of it, without regard
        to case. Empty where names say nothing, for there is one plate in such a folder.
    notes : tuple of str
        What people should know, a sentence each: metadata that is damaged or contradicts the names. Each
        names the file concerned.

    The mappings are not to be changed by whoever receives them.
    """

    root: bytes
    name: str
    instrument: str
    images: Mapping[bytes, PlatePosition]
    others: Mapping[bytes, str]
    facts: PlateFacts
    key: str = ""
    notes: tuple[str, ...] = ()
