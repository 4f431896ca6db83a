"""Small planes for everything: a few make a stack, and halving begins early.

What there is to see in a stack of sixteen large planes, and in levels below 256 pixels, these show in a tenth of the time.
"""

from __future__ import annotations

import pytest

from vfsd.flush import placing
from vfsd.store import pyramid


@pytest.fixture(autouse=True)
def small_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four planes of any size make a stack."""
    monkeypatch.setattr(placing, "FEWEST_PLANES", 4)
    monkeypatch.setattr(placing, "FEWEST_BYTES", 1)


@pytest.fixture(autouse=True)
def early_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planes of 40 by 50 pixels get one level, so that whatever a test does is done to levels as well."""
    monkeypatch.setattr(pyramid, "SMALLEST_SIDE", 24)
