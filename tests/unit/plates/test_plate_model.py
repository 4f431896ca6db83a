"""Positions, row names and the NGFF paths made of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from vfsd.plates.model import MAX_COLUMNS, MAX_ROWS, PlatePosition, row_index, row_name


def position(**changes: Any) -> PlatePosition:
    values: dict[str, Any] = {"row": 1, "column": 1, "field": 1, "time": 1, "channel": 1, "z": 1}
    return PlatePosition(**(values | changes))


@pytest.mark.parametrize(
    ("index", "name"),
    [(0, "A"), (1, "B"), (7, "H"), (15, "P"), (25, "Z"), (26, "AA"), (27, "AB"), (31, "AF")],
)
def test_rows_are_named_like_on_the_plate(index: int, name: str) -> None:
    assert row_name(index) == name
    assert row_index(name) == index
    assert row_index(name.lower()) == index


def test_every_row_has_one_name() -> None:
    assert [row_index(row_name(index)) for index in range(MAX_ROWS)] == list(range(MAX_ROWS))


@pytest.mark.parametrize("name", ["", "AG", "AZ", "BA", "AAA", "1", "Ä", "\u0131", "A ", "\u00e5"])
def test_rows_that_no_plate_has_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no plate has a row"):
        row_index(name)


@pytest.mark.parametrize("index", [-1, 32, 10**12])
def test_row_numbers_that_no_plate_has_are_refused(index: int) -> None:
    with pytest.raises(ValueError, match="outside a plate"):
        row_name(index)


@pytest.mark.parametrize(
    ("row", "column", "well", "row_path", "column_path"),
    [
        (0, 0, "A01", "A", "1"),
        (1, 1, "B02", "B", "2"),
        (15, 23, "P24", "P", "24"),
        (31, 47, "AF48", "AF", "48"),
    ],
)
def test_wells_are_written_as_people_and_as_ngff_write_them(
    row: int, column: int, well: str, row_path: str, column_path: str
) -> None:
    at = position(row=row, column=column)
    assert (at.well, at.row_path, at.column_path) == (well, row_path, column_path)


def test_field_paths_are_letters_and_digits() -> None:
    at = position(field=7, acquisition=2)
    assert at.field_path() == "7"
    assert at.field_path(several_acquisitions=True) == "a2f7"


def test_positions_sort_by_well_then_field_time_channel_z() -> None:
    ordered = [
        position(row=0, column=5, field=9),
        position(column=1, z=2),
        position(column=1, z=3),
        position(column=1, channel=2),
        position(column=1, time=2),
        position(column=1, field=2),
        position(column=2),
    ]
    shuffled = [*ordered[3:], *ordered[:3]]
    assert sorted(shuffled) == ordered


@pytest.mark.parametrize(
    "changes",
    [{"row": -1}, {"row": MAX_ROWS}, {"column": MAX_COLUMNS}, {"field": -1}, {"z": -1}, {"acquisition": -1}],
)
def test_impossible_positions_cannot_be_made(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"outside a plate|negative"):
        position(**changes)


def test_positions_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        position().row = 2  # type: ignore[misc]  # the point of the test
