"""Planes at half their size: exact means of every type, at its limits and at any address."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfsd.codec._inner import halve
from vfsd.codec.halve import halve_by_mean, halve_by_stride

WHOLE = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"]


def means(plane: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same by exact arithmetic on Python's integers."""
    height, width = plane.shape[0] // 2 * 2, plane.shape[1] // 2 * 2
    whole = plane[:height, :width].astype(object)
    sums = whole[::2, ::2] + whole[::2, 1::2] + whole[1::2, ::2] + whole[1::2, 1::2]
    return np.vectorize(lambda total: floor(Fraction(total, 4) + Fraction(1, 2)), otypes=[object])(sums).astype(
        plane.dtype
    )


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whole_numbers_are_rounded_half_up(data: st.DataObject) -> None:
    kind = np.dtype(data.draw(st.sampled_from(WHOLE)))
    shape = data.draw(st.tuples(st.integers(2, 19), st.integers(2, 70)))
    shape += data.draw(st.sampled_from([(), (3,), (2,)]))
    limits = np.iinfo(kind)
    draw = np.random.default_rng(data.draw(st.integers(0, 1000)))
    plane = draw.integers(limits.min, limits.max, shape, kind, endpoint=True)
    extreme = data.draw(st.sampled_from([None, limits.min, limits.max]))
    if extreme is not None:
        plane[draw.random(shape) < 0.8] = extreme
    found = halve_by_mean(plane)
    assert found.dtype == kind
    assert np.array_equal(found, means(plane))
    assert np.array_equal(halve_by_stride(plane), plane[: shape[0] // 2 * 2 : 2, : shape[1] // 2 * 2 : 2])


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_floats(kind: str) -> None:
    plane = np.random.default_rng(1).normal(size=(31, 42)).astype(kind)
    plane[4, 4], plane[10, 10] = np.nan, np.inf
    wide = plane[:30].astype(np.float64)
    expected = (wide[::2, ::2] + wide[::2, 1::2] + wide[1::2, ::2] + wide[1::2, 1::2]) / 4
    found = halve_by_mean(plane)
    assert found.dtype == plane.dtype
    np.testing.assert_allclose(found.astype(np.float64), expected, rtol=2e-3 if kind == "f2" else 1e-5, atol=1e-3)
    assert np.isnan(found[2, 2])
    assert np.isinf(found[5, 5])


def test_planes_at_odd_addresses() -> None:
    """In a file the pixels may begin anywhere."""
    plane = np.random.default_rng(1).integers(0, 65536, (20, 30), np.uint16)
    shifted = np.frombuffer(b"?" + plane.tobytes(), np.uint8)[1:].view("<u2").reshape(20, 30)
    assert np.array_equal(halve_by_mean(shifted), means(plane))


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_a_side_of_one_is_not_halved(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="not halved"):
        halve_by_mean(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("plane", "out", "height", "width", "samples"),
    [
        (8, 2, 2, 4, 2),
        (8, 3, 2, 4, 1),
        (8, 2, 1, 8, 1),
        (8, 2, 4, 4, 1),
        (8, 0, 2**62, 2**62, 2**62),
        (0, 0, 2**32, 2**32, 1),
        (8, 2, -2, -4, 1),
        (8, 2, 2, 4, 0),
        (12, 3, 3, 4, 1),
    ],
)
def test_buffers_that_do_not_fit(plane: int, out: int, height: int, width: int, samples: int) -> None:
    with pytest.raises(ValueError, match="not the planes' sizes"):
        halve(bytes(plane), bytearray(out), height, width, samples, "u", 1)
    both = bytearray(8)
    with pytest.raises(ValueError, match="overlaps"):
        halve(both, memoryview(both)[:2], 2, 4, 1, "u", 1)
    assert halve(bytes(8), bytearray(2), 2, 4, 1, "c", 1) is False
