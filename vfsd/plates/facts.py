"""Numbers and texts out of vendors' metadata, believed only where they could be true.

Each function gives None for what no microscope says. Time is bounded, nothing is raised.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median

# A light microscope's pixels lie between a nanometre and a centimetre; anything else is not a pixel size.
SMALLEST_UM = 1e-3
LARGEST_UM = 1e4
# A stage moves within a metre, in µm.
STAGE_UM = 1e6
# Light from deep ultraviolet to infrared, in nm.
WAVELENGTHS_NM = (100.0, 3000.0)
# From a microsecond to an hour, in ms.
EXPOSURES_MS = (1e-3, 3.6e6)

# Names longer than this are damage; people see them in menus.
MAX_NAME_LENGTH = 100

_DECIMAL = re.compile(r"[+-]?(\d{1,17}(\.\d{0,20})?|\.\d{1,20})([eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE = re.compile(r"\d{1,9}", re.ASCII)
_BAND = re.compile(r"(?<!\d)(\d{3,4})\s?[/-]\s?(\d{1,3})(?!\d)", re.ASCII)
_COLOUR = re.compile(r"#?(?:[0-9a-f]{2})?([0-9a-f]{6})", re.IGNORECASE | re.ASCII)

_LENGTHS_UM = {"m": 1e6, "mm": 1e3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "microns": 1.0, "nm": 1e-3}
_TIMES_S = {"s": 1.0, "ms": 1e-3, "min": 60.0, "h": 3600.0}


def decimal(text: str | None) -> float | None:
    """A finite number; a comma is a point where it is the only one."""
    value = (text or "").strip()
    if "." not in value:
        value = value.replace(",", ".", 1)
    if not _DECIMAL.fullmatch(value):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def whole(text: str | None, largest: int, smallest: int = 0) -> int | None:
    """A whole number within bounds."""
    value = (text or "").strip()
    if not _WHOLE.fullmatch(value):
        return None
    number = int(value)
    return number if smallest <= number <= largest else None


def length_um(text: str | None, unit: str | None, *, default: str = "um") -> float | None:
    """A length in µm, of either sign."""
    number, factor = decimal(text), _LENGTHS_UM.get((unit or default).strip().lower())
    return None if number is None or factor is None else number * factor


def pixel_um(text: str | None, unit: str | None = None, *, default: str = "um") -> float | None:
    """The size of a pixel or of a step in µm."""
    size = length_um(text, unit, default=default)
    return size if size is not None and SMALLEST_UM <= size <= LARGEST_UM else None


def stage_um(text: str | None, unit: str | None = None, *, default: str = "um") -> float | None:
    """A position of the stage in µm."""
    size = length_um(text, unit, default=default)
    return size if size is not None and abs(size) <= STAGE_UM else None


def seconds(text: str | None, unit: str | None = None) -> float | None:
    """A time in seconds, not negative."""
    number, factor = decimal(text), _TIMES_S.get((unit or "s").strip().lower())
    return None if number is None or factor is None or number < 0 else number * factor


def exposure_ms(text: str | None, unit: str | None = "ms") -> float | None:
    """An exposure time in ms."""
    time = seconds(text, unit)
    if time is None or not EXPOSURES_MS[0] <= time * 1e3 <= EXPOSURES_MS[1]:
        return None
    return round(time * 1e3, 6)


def wavelength_nm(text: str | None) -> float | None:
    """A wavelength in nm; vendors write 0 for none."""
    number = decimal(text)
    return number if number is not None and WAVELENGTHS_NM[0] <= number <= WAVELENGTHS_NM[1] else None


def band_nm(name: str | None) -> float | None:
    """The middle of the band that a filter's name says: "BP525/50" → 525."""
    match = _BAND.search((name or "")[:MAX_NAME_LENGTH])
    return wavelength_nm(match[1]) if match else None


def colour(text: str | None) -> str | None:
    """RRGGBB of "#RRGGBB" or "#AARRGGBB"."""
    match = _COLOUR.fullmatch((text or "").strip())
    return match[1].upper() if match else None


def shown_name(text: str | None) -> str | None:
    """A name fit to be shown: printable, of sensible length."""
    kept = "".join(character for character in (text or "")[: 4 * MAX_NAME_LENGTH] if character.isprintable())
    return kept[:MAX_NAME_LENGTH].strip() or None


def moment(text: str | None) -> datetime | None:
    """A time stamp; with a fraction of any length, and with or without a zone."""
    value = (text or "").strip()[:64]
    value = re.sub(r"(\.\d{6})\d+", r"\1", value)
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return None


def timestamp(text: str | None) -> str | None:
    """A time stamp as the vendor writes it, if it is one."""
    return (text or "").strip() if moment(text) is not None else None


def step_between(places: Mapping[int, float]) -> float | None:
    """The usual distance of neighbours: index → place; None where there is none, or they do not differ."""
    ordered: Sequence[int] = sorted(places)
    steps = [abs(places[b] - places[a]) / (b - a) for a, b in pairwise(ordered)]
    step = median(steps) if steps else 0.0
    return round(step, 6) or None
