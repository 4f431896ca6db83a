"""The colour to show a channel in, from the wavelength of its light.

For screens, not for physics: what people call blue, green and red dyes come out blue, green and red, and light
beyond red is magenta, to be told from red.
"""

from __future__ import annotations

from bisect import bisect_right

# Wavelength in nm → red, green, blue; between two of them colours are mixed.
_ANCHORS = (
    (440.0, (0, 0, 255)),
    (490.0, (0, 255, 255)),
    (510.0, (0, 255, 0)),
    (545.0, (0, 255, 0)),
    (580.0, (255, 255, 0)),
    (645.0, (255, 0, 0)),
    (660.0, (255, 0, 0)),
    (700.0, (255, 0, 255)),
)

# How far emission lies above excitation where only that is known: the usual Stokes shift of dyes for microscopy.
_SHIFT_NM = 25.0


def colour_of_light(emission_nm: float | None, excitation_nm: float | None = None) -> str | None:
    """RRGGBB of a channel's light; None where neither wavelength is known."""
    if emission_nm is None:
        if excitation_nm is None:
            return None
        emission_nm = excitation_nm + _SHIFT_NM
    rgb: tuple[int, ...]
    place = bisect_right([anchor[0] for anchor in _ANCHORS], emission_nm)
    if place in (0, len(_ANCHORS)):
        rgb = _ANCHORS[min(place, len(_ANCHORS) - 1)][1]
    else:
        (below, low), (above, high) = _ANCHORS[place - 1], _ANCHORS[place]
        part = (emission_nm - below) / (above - below)
        rgb = tuple(round(a + (b - a) * part) for a, b in zip(low, high, strict=True))
    return "".join(f"{value:02X}" for value in rgb)
