"""Colours of light: what people call blue, green and red is shown so."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.plates import colour_of_light


@pytest.mark.parametrize(
    ("emission", "colour"),
    [
        (405, "0000FF"),
        (440, "0000FF"),
        (490, "00FFFF"),
        (520, "00FF00"),
        (580, "FFFF00"),
        (650, "FF0000"),
        (705, "FF00FF"),
        (900, "FF00FF"),
    ],
)
def test_emission(emission: float, colour: str) -> None:
    assert colour_of_light(emission) == colour


def test_excitation_counts_where_emission_is_unknown() -> None:
    assert colour_of_light(None, 488) == colour_of_light(513)
    assert colour_of_light(None, None) is None


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_wavelength_has_a_colour(wavelength: float) -> None:
    colour = colour_of_light(wavelength)
    assert colour is not None
    assert re.fullmatch("[0-9A-F]{6}", colour)
