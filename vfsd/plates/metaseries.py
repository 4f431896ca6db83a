"""The description that MetaXpress and MetaMorph write into each TIFF: MetaSeries XML.

Pixel size, stage position, and the channel's name, wavelength and exposure are taken from it. They are found by
patterns and never handed to an XML parser, so entities, nesting and broken markup cost nothing; time is linear in at
most METADATA_READ_LIMIT bytes.
"""

from __future__ import annotations

import math
import re

from vfsd.plates import facts
from vfsd.plates.metadata import METADATA_READ_LIMIT
from vfsd.plates.model import ChannelFacts

_CALIBRATION = re.compile(
    rb"<prop\s{1,4}id=[\"']spatial-calibration-(x|y|units|state)[\"'][^<>]{0,100}?\bvalue=[\"']([^<>\"']*)[\"']"
)
_PROPERTY = re.compile(
    rb"<(?:custom-)?prop\s{1,4}id=[\"'](wavelength|_IllumSetting_|Exposure Time|OffsetFromWellCenterUm[XY]|stage-position-[xy])"
    rb"[\"'][^<>]{0,100}?\bvalue=[\"']([^<>\"']*)[\"']"
)
_DECIMAL = re.compile(r"[+]?\d{1,12}(\.\d{0,20})?([eE][+-]?\d{1,3})?", re.ASCII)

# How many µm the units mean that MetaSeries files are seen with; a bare 0xB5 is Latin-1's µ.
_MICROMETRES = {
    b"um": 1.0,
    b"\xb5m": 1.0,
    "µm".encode(): 1.0,  # U+00B5
    "\u03bcm".encode(): 1.0,
    b"&#181;m": 1.0,
    b"micron": 1.0,
    b"microns": 1.0,
    b"nm": 1e-3,
    b"mm": 1e3,
}

_STAGE = ((b"OffsetFromWellCenterUmX", b"OffsetFromWellCenterUmY"), (b"stage-position-x", b"stage-position-y"))

# A light microscope's pixels lie between a nanometre and a centimetre; anything else is not a pixel size.
_SMALLEST_UM = 1e-3
_LARGEST_UM = 1e4


def pixel_size_from_description(description: bytes | str) -> tuple[float, float] | None:
    """Height and width of a pixel in µm (y, x), or None where a TIFF's description does not say.

    None as well where the calibration is switched off, has other units (MetaMorph writes "pixel" without a
    calibration), or is no number that a microscope has. Where only one of the two is given, pixels are
    square.
    """
    data = description.encode("utf-8", "replace") if isinstance(description, str) else description
    values: dict[bytes, bytes] = {}
    for match in _CALIBRATION.finditer(data[:METADATA_READ_LIMIT]):
        values.setdefault(match[1], match[2].strip())
    factor = _MICROMETRES.get(values.get(b"units", b"").lower())
    if factor is None or values.get(b"state", b"on").lower() == b"off":
        return None
    x, y = _size(values.get(b"x"), factor), _size(values.get(b"y"), factor)
    if x is None and y is None:
        return None
    if (x is None and b"x" in values) or (y is None and b"y" in values):
        return None
    return (y or x or 0.0, x or y or 0.0)


def channel_from_description(number: int, description: bytes) -> ChannelFacts:
    """What a TIFF's description says of the channel it was taken in."""
    values = _properties(description)
    exposure, _, unit = values.get(b"Exposure Time", "").partition(" ")
    return ChannelFacts(
        number,
        name=facts.shown_name(values.get(b"_IllumSetting_")),
        emission_nm=facts.wavelength_nm(values.get(b"wavelength")),
        exposure_ms=facts.exposure_ms(exposure, unit or "ms"),
    )


def stage_from_description(description: bytes) -> tuple[float, float] | None:
    """Where the middle of the image is in µm (y, x), y growing downwards: in its well, or else on the stage."""
    values = _properties(description)
    for x_name, y_name in _STAGE:
        y, x = facts.stage_um(values.get(y_name)), facts.stage_um(values.get(x_name))
        if y is not None and x is not None:
            return y, x
    return None


def _properties(description: bytes) -> dict[bytes, str]:
    found: dict[bytes, str] = {}
    for match in _PROPERTY.finditer(description[:METADATA_READ_LIMIT]):
        found.setdefault(match[1], match[2].decode("utf-8", "replace").strip())
    return found


def _size(value: bytes | None, factor: float) -> float | None:
    text = "" if value is None else value.decode("latin-1")
    if not _DECIMAL.fullmatch(text):
        return None
    size = float(text) * factor
    return size if math.isfinite(size) and _SMALLEST_UM <= size <= _LARGEST_UM else None
