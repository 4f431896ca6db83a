"""Whole plates with gaps, generated for each scheme: every name gets its place, and nothing shifts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plate_listings import holding, no_file, plates_in

from vfsd.plates import PlatePosition, choose_formats, recognise_plates, row_name
from vfsd.plates.naming import channel_of_name


@dataclass(frozen=True)
class Coordinates:
    """What a name is made of: row and column from 0, the others from 1."""

    row: int
    column: int
    field: int
    time: int
    channel: int
    z: int

    @property
    def well(self) -> str:
        return f"{row_name(self.row)}{self.column + 1:02d}"


@dataclass(frozen=True)
class Scheme:
    """How an instrument writes a name, and what we are to read in it."""

    name: str
    write: Callable[[Coordinates], str]
    read: Callable[[Coordinates], tuple[int, int, int, int]]  # field, time, channel, z


def as_written(at: Coordinates) -> tuple[int, int, int, int]:
    return at.field, at.time, at.channel, at.z


GUID = "1E94C24B-D45E-450A-9919-257C714278F7"
SCHEMES = [
    Scheme(
        "imagexpress",
        lambda at: f"TimePoint_{at.time}/ZStep_{at.z}/a_plate_{at.well}_s{at.field}_w{at.channel}.TIF",
        as_written,
    ),
    Scheme(
        "imagexpress",
        lambda at: f"TimePoint_{at.time}/ZStep_{at.z}/a_plate_{at.well}_s{at.field}_w{at.channel}{GUID}.tif",
        as_written,
    ),
    Scheme(
        "harmony",
        lambda at: (
            f"Images/r{at.row + 1:02d}c{at.column + 1:02d}f{at.field:02d}p{at.z:02d}-ch{at.channel}sk{at.time}fk1fl1.tiff"
        ),
        as_written,
    ),
    Scheme(
        "harmony",
        lambda at: (
            f"images/flex_r{at.row + 1:02d}c{at.column + 1:02d}f{at.field:02d}p{at.z:02d}-ch{at.channel}t{at.time:02d}.tiff"
        ),
        as_written,
    ),
    Scheme(
        "cellvoyager",
        lambda at: f"a_plate_{at.well}_T{at.time:04d}F{at.field:03d}L01A01Z{at.z:02d}C{at.channel:02d}.tif",
        as_written,
    ),
    Scheme(
        "scanr",
        lambda at: (
            f"data/{row_name(at.row)}{at.column + 1}--W00001--P{at.field:05d}--Z{at.z:05d}--T{at.time:05d}--dye{at.channel}.tif"
        ),
        lambda at: (at.field, at.time, channel_of_name(b"dye%d" % at.channel), at.z),
    ),
    Scheme(
        "embl",
        lambda at: (
            f"--W{at.row * 12 + at.column % 12 + 1:04d}--P{at.field:03d}--Z{at.z:03d}--T{at.time:03d}--C{at.channel:02d}.tif"
        ),
        as_written,
    ),
    Scheme(
        "matrixscreener",
        lambda at: (
            f"slide--S00/chamber--U{at.column:02d}--V{at.row:02d}/field--X{at.field:02d}--Y01/image--L00--S00--U{at.column:02d}"
            f"--V{at.row:02d}--J08--E00--O00--X{at.field:02d}--Y01--T{at.time:02d}--Z{at.z:02d}--C{at.channel:02d}.ome.tif"
        ),
        lambda at: (1000 + at.field, at.time, 800 + at.channel, at.z),
    ),
    Scheme(
        "cellomics",
        lambda at: f"AS_1_{at.well}f{at.field:02d}d{at.channel}.TIF",
        lambda at: (at.field, 0, at.channel, 0),
    ),
    Scheme(
        "biotek",
        lambda at: (
            f"{row_name(at.row)}{at.column + 1}_01_{at.channel}_{at.field}Z{at.z}_dye {at.channel}_{at.time:03d}.tif"
        ),
        as_written,
    ),
    Scheme(
        "incell",
        lambda at: (
            f"{row_name(at.row)} - {at.column + 1:02d}(fld {at.field} wv UV - dye{at.channel} z {at.z} time {at.time}).tif"
        ),
        lambda at: (at.field, at.time, channel_of_name(b"UV - dye%d" % at.channel), at.z),
    ),
]

COORDINATES = st.builds(
    Coordinates,
    st.integers(0, 31),
    st.integers(0, 47),
    st.integers(1, 99),
    st.integers(1, 99),
    st.integers(1, 9),
    st.integers(1, 99),
)


def expected(scheme: Scheme, at: Coordinates) -> PlatePosition:
    field, when, channel, z = scheme.read(at)
    column = at.column % 12 if scheme.name == "embl" else at.column
    return PlatePosition(at.row, column, field, when, channel, z)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.write(Coordinates(0, 0, 1, 1, 1, 1)))
@given(st.lists(COORDINATES, min_size=1, max_size=12, unique=True), st.sampled_from([str, str.upper, str.lower]))
def test_every_name_has_its_place_whatever_is_missing(
    scheme: Scheme, places: list[Coordinates], case: Callable[[str], str]
) -> None:
    wanted: dict[PlatePosition, bytes] = {}
    paths = {}
    for at in places:
        path = case(scheme.write(at)).encode()
        paths[path] = expected(scheme, at)
        wanted.setdefault(expected(scheme, at), path)
    (plate,) = recognise_plates([b"d/" + path for path in paths], no_file)
    assert plate.instrument == scheme.name
    assert plate.root == b"d"
    positions = set(plate.images.values())
    if case is not str.upper and case is not str.lower:
        assert positions == set(paths.values())
    for path, position in plate.images.items():
        if case is str:
            assert paths[path.removeprefix(b"d/")] == position
    assert len(plate.images) + len(plate.others) == len(paths)
    for path in plate.others:
        assert "is taken by" in plate.others[path]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.write(Coordinates(0, 0, 1, 1, 1, 1)))
def test_a_plate_of_1536_wells(scheme: Scheme) -> None:
    columns = 12 if scheme.name == "embl" else 48
    places = [Coordinates(row, column, 1, 1, 1, 1) for row in range(32) for column in range(columns)]
    (plate,) = recognise_plates([scheme.write(at).encode() for at in places], no_file)
    assert {(at.row, at.column) for at in plate.images.values()} == {(at.row, at.column) for at in places}
    assert plate.others == {}


@given(st.lists(COORDINATES, min_size=1, max_size=12, unique=True), st.sampled_from([str, str.upper, str.lower]))
def test_names_of_metamorph_have_their_place_whatever_is_missing(
    places: list[Coordinates], case: Callable[[str], str]
) -> None:
    """Without an ND the user has to say so; there are no wells then, and no slices in names."""
    wanted = {
        case(f"d/exp_w{at.channel}DAPI_s{at.field}_t{at.time}.tif").encode(): PlatePosition(
            0, 0, at.field, at.time, at.channel, 1
        )
        for at in places
    }
    (plate,) = recognise_plates(wanted, no_file, formats=choose_formats("metamorph"))
    assert (plate.instrument, plate.images, plate.others) == ("metamorph", wanted, {})


PATTERNS = [
    ("{well}/t{time}/f{field}_{channel} z{z}.tif", "{well}/t{time}/f{field}_{channel} z{z}.tif"),
    (
        "run_{row}-{column}.{field}.{time}.{z}_ch{channel}.tiff",
        "run_{row}-{column}.{field}.{time}.{z}_ch{channel}.tiff",
    ),
    ("{any}_{well:48}f{field}w{channel}t{time}z{z}.tif", "of (x)_{number}f{field}w{channel}t{time}z{z}.tif"),
]


@pytest.mark.parametrize(("pattern", "name"), PATTERNS)
@given(st.lists(COORDINATES, min_size=1, max_size=12, unique=True), st.sampled_from([str, str.upper, str.lower]))
def test_names_of_a_pattern_have_their_place_whatever_is_missing(
    pattern: str, name: str, places: list[Coordinates], case: Callable[[str], str]
) -> None:
    wanted = {}
    for at in places:
        parts = {
            "row": row_name(at.row),
            "column": at.column + 1,
            "number": at.row * 48 + at.column + 1,
            "well": at.well,
        }
        numbers = {"field": at.field, "time": at.time, "channel": at.channel, "z": at.z}
        path = "p/" + case(name.format(**parts, **numbers))
        wanted[path.encode()] = PlatePosition(at.row, at.column, at.field, at.time, at.channel, at.z)
    (plate,) = recognise_plates(wanted, no_file, formats=choose_formats(pattern=pattern))
    assert (plate.root, plate.images, plate.others) == (b"p", wanted, {})


def test_several_plates_of_several_instruments_in_one_listing() -> None:
    at = Coordinates(1, 2, 3, 1, 1, 1)
    paths = [f"plate {n}/{scheme.write(at)}".encode() for n, scheme in enumerate(SCHEMES)]
    plates = plates_in(paths)
    assert {plate.root: plate.instrument for plate in plates} == {
        b"plate %d" % n: scheme.name for n, scheme in enumerate(SCHEMES)
    }


def test_foreign_names_between_those_of_a_plate_are_left_with_a_reason() -> None:
    at = Coordinates(1, 2, 3, 1, 1, 1)
    for scheme in SCHEMES:
        path = scheme.write(at).encode()
        folder = path.rpartition(b"/")[0]
        others = [folder + b"/" * bool(folder) + name for name in (b"notes.txt", b"overview.tif", b"\xff\xfe.tif")]
        (plate,) = plates_in([path, *others])
        assert set(plate.others) == set(others)
        assert all(plate.others.values())


def test_metadata_is_looked_for_where_only_a_part_is_listed() -> None:
    index = b"<D><Plates><Plate><PlateRows>8</PlateRows><PlateColumns>12</PlateColumns></Plate></Plates></D>"
    read = holding({b"m/Images/Index.xml": index})
    (plate,) = recognise_plates([b"m/Images/r01c01f01p01-ch1sk1fk1fl1.tiff"], read)
    assert (plate.facts.rows, plate.facts.columns) == (8, 12)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.write(Coordinates(0, 0, 1, 1, 1, 1)))
def test_the_cost_of_a_name_does_not_grow(scheme: Scheme) -> None:
    """Counted in calls of functions, which do not depend on the machine."""

    def cost(fields: int) -> float:
        calls = 0

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        paths = [
            scheme.write(Coordinates(n % 16, n // 16 % 12, 1 + n // 192, 1, 1, 1)).encode() for n in range(192 * fields)
        ]
        before = sys.getprofile()
        sys.setprofile(count)
        try:
            recognise_plates(paths, no_file)
        finally:
            sys.setprofile(before)
        return calls / len(paths)

    assert cost(16) < 1.2 * cost(2)
