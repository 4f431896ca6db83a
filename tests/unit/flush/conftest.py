"""Stacks of a few small planes: what there is to see in a stack of sixteen large ones, these show in a tenth of the time."""

from __future__ import annotations

import pytest

from vfsd.flush import placing


@pytest.fixture(autouse=True)
def small_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four planes of any size make a stack."""
    monkeypatch.setattr(placing, "FEWEST_PLANES", 4)
    monkeypatch.setattr(placing, "FEWEST_BYTES", 1)
