"""TIFF files as MetaXpress writes them, packed by hand: pixels at byte 8, one directory behind them.

The pixels are one strip, uncompressed, little-endian; the description is MetaSeries XML, so that programs
find the pixel size. Nothing is read and no image is held: the caller writes header, pixels and tail one after
the other.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

# TIFF 6.0: "II", 42, offset of the first directory.
_HEADER = struct.Struct("<2sHI")
_ENTRY = struct.Struct("<HHII")
_SHORT, _LONG, _ASCII = 3, 4, 2
_WIDTHS = {_SHORT: 2, _LONG: 4, _ASCII: 1}

PIXELS_AT = _HEADER.size

# The software tag by which readers know MetaSeries files, followed by the NUL that ends TIFF text.
_SOFTWARE = b"MetaSeries\0"


@dataclass(frozen=True, slots=True)
class PlaneLabel:
    """What is written into one image's description.

    Lengths are in µm, the stage position is that of the image's centre, the wavelength is in nm, and
    `seconds` counts from the start of the acquisition.
    """

    plate: str
    well: str
    site: int
    channel: str
    wavelength_nm: int
    pixel_um: float
    stage_um: tuple[float, float, float]
    seconds: float
    guid: str


def pack_header(pixel_bytes: int) -> bytes:
    """The first PIXELS_AT bytes of a file with so many bytes of pixels."""
    return _HEADER.pack(b"II", 42, _directory_at(pixel_bytes))


def pack_tail(width: int, height: int, bits: int, label: PlaneLabel) -> bytes:
    """All that follows the pixels: padding, the directory and the values that it points to."""
    pixel_bytes = width * height * bits // 8
    directory_at = _directory_at(pixel_bytes)
    description = describe_plane(width, height, bits, label).encode("latin-1", "xmlcharrefreplace") + b"\0"
    taken = time_of_day(label.seconds).encode("ascii") + b"\0"
    entries: list[tuple[int, int, int | bytes]] = [
        (254, _LONG, 0),  # NewSubfileType: a full image
        (256, _SHORT, width),
        (257, _SHORT, height),
        (258, _SHORT, bits),
        (259, _SHORT, 1),  # no compression
        (262, _SHORT, 1),  # black is zero
        (270, _ASCII, description),
        (273, _LONG, PIXELS_AT),
        (274, _SHORT, 1),  # top left
        (277, _SHORT, 1),
        (278, _SHORT, height),  # all rows in one strip
        (279, _LONG, pixel_bytes),
        (305, _ASCII, _SOFTWARE),
        (306, _ASCII, taken),
    ]
    values_at = directory_at + 2 + _ENTRY.size * len(entries) + 4
    directory = [struct.pack("<H", len(entries))]
    values = bytearray()
    for tag, kind, value in entries:
        if isinstance(value, bytes):
            directory.append(_ENTRY.pack(tag, kind, len(value), values_at + len(values)))
            values += value + b"\0" * (len(value) % 2)  # values begin on a word boundary
        else:
            # A SHORT fills the first two bytes of its field, which in little-endian is the same as a LONG.
            directory.append(_ENTRY.pack(tag, kind, 1, value))
    directory.append(struct.pack("<I", 0))  # no further directory
    return b"\0" * (directory_at - PIXELS_AT - pixel_bytes) + b"".join(directory) + bytes(values)


def describe_plane(width: int, height: int, bits: int, label: PlaneLabel) -> str:
    """The description of one plane in MetaSeries' XML."""
    x, y, z = label.stage_um
    text = "\r\n".join(
        (f"Plate Name: {label.plate}", "Simulated by vfsd demo-plate", "Exposure: 100 ms", "Binning: 1 x 1")
    )
    plane = (
        ("plane-type", "string", "plane"),
        ("pixel-size-x", "int", width),
        ("pixel-size-y", "int", height),
        ("bits-per-pixel", "int", bits),
        ("spatial-calibration-state", "bool", "on"),
        ("spatial-calibration-x", "float", label.pixel_um),
        ("spatial-calibration-y", "float", label.pixel_um),
        ("spatial-calibration-units", "string", "um"),
        ("image-name", "string", label.channel),
        ("plane-guid", "guid", label.guid),
        ("acquisition-time-local", "time", time_of_day(label.seconds)),
        ("stage-position-x", "float", f"{x:.2f}"),
        ("stage-position-y", "float", f"{y:.2f}"),
        ("stage-label", "string", f"{label.well} : Site {label.site}"),
        ("z-position", "float", f"{z:.2f}"),
        ("wavelength", "float", label.wavelength_nm),
        ("camera-binning-x", "int", 1),
        ("camera-binning-y", "int", 1),
        ("_IllumSetting_", "string", label.channel),
        ("_MagNA_", "float", 0.5),
        ("_MagSetting_", "string", "10X Plan Apo Lambda"),
    )
    return "\n".join(
        (
            "<MetaData>",
            _property("Description", "string", text),
            _property("MetaDataVersion", "float", 1),
            _property("ApplicationName", "string", "MetaMorph"),
            "<PlaneInfo>",
            *(_property(*each) for each in plane),
            "</PlaneInfo>",
            "</MetaData>",
        )
    )


def time_of_day(seconds: float) -> str:
    """A time on the day of the demo plate, 2024-01-01 from nine o'clock, in MetaSeries' form."""
    ms = round(seconds * 1000) + 9 * 3_600_000
    hours, ms = divmod(ms, 3_600_000)
    minutes, ms = divmod(ms, 60_000)
    days, hours = divmod(hours, 24)
    # The day of the month only: nobody simulates more than a month.
    return f"202401{min(days, 30) + 1:02d} {hours:02d}:{minutes:02d}:{ms // 1000:02d}.{ms % 1000:03d}"


def _property(name: str, kind: str, value: object) -> str:
    text = quoteattr(str(value), {"\r": "&#13;", "\n": "&#10;", '"': "&quot;"})
    return f'<prop id="{name}" type="{kind}" value={text}/>'


def _directory_at(pixel_bytes: int) -> int:
    """The first even offset behind the pixels (TIFF 6.0, section 2: directories begin on a word boundary)."""
    return PIXELS_AT + pixel_bytes + pixel_bytes % 2
