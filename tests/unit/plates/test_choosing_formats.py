"""Forced formats, patterns of the user's own, and instruments of other packages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plate_listings import no_file, only_plate, plates_in, table

from vfsd.errors import UsageProblem
from vfsd.plates import (
    Plate,
    PlateFacts,
    PlateFormats,
    PlatePosition,
    choose_formats,
    known_instruments,
    recognise_plates,
    registry,
)
from vfsd.plates.instrument import Claim, Evidence, Listing, ReadFile


def of_pattern(pattern: str, *paths: bytes) -> list[Plate]:
    return plates_in(paths, formats=choose_formats(pattern=pattern))


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        ("{row}{column}_s{field}_w{channel}.tif", "B02_s3_w4.tif | B02 | 3 | 1 | 4 | 1"),
        ("{row}{column}_s{field}_w{channel}.tif", "AF48_S03_W4.TIF | AF48 | 3 | 1 | 4 | 1"),
        ("{well}_s{field}_w{channel}.tif", "b02_s3_w4.tif | B02 | 3 | 1 | 4 | 1"),
        ("r{row}c{column}t{time}z{z}.tif", "r02c03t4z5.tif | B03 | 1 | 4 | 1 | 5"),
        ("{well:24}_{field}.tif", "25_7.tif | B01 | 7 | 1 | 1 | 1"),
        ("{any}_{well}_run{acquisition}.tif", "x_y_C03_run2.tif | C03 | 1 | 1 | 1 | 1 | acquisition 2"),
        ("{well}/t{time}/f{field}_{channel}.tif", "B02/t3/f4_5.tif | B02 | 4 | 3 | 5 | 1"),
        ("({well})+[{field}].tif", "(B02)+[3].tif | B02 | 3 | 1 | 1 | 1"),
    ],
)
def test_a_pattern_takes_names_apart(pattern: str, line: str) -> None:
    (plate,) = of_pattern(pattern, *table(line))
    assert (plate.instrument, plate.root) == ("pattern", b"")
    assert plate.images == table(line)


def test_a_pattern_is_rooted_above_the_folders_that_it_names() -> None:
    (plate,) = of_pattern("{well}/{field}.tif", b"a/b/B02/1.tif", b"a/b/C03/2.tif")
    assert (plate.root, len(plate.images)) == (b"a/b", 2)


def test_channels_of_a_pattern_may_be_names_and_plates_too() -> None:
    plates = of_pattern("{plate}_{well}_{channel}.tif", b"P1_B02_DAPI.tif", b"P1_B02_GFP.tif", b"P2_B02_DAPI.tif")
    assert [(plate.key, [channel.name for channel in plate.facts.channels]) for plate in plates] == [
        ("p1", ["DAPI", "GFP"]),
        ("p2", ["DAPI"]),
    ]


def test_a_channel_is_not_mistaken_for_what_follows_it() -> None:
    (plate,) = of_pattern("{well}_w{channel}.tif", b"B02_w1.tif", b"B02_w1_thumb.tif")
    assert set(plate.images) == {b"B02_w1.tif"}


def test_what_does_not_fit_the_pattern_is_left_with_a_reason() -> None:
    (plate,) = of_pattern("{well}_{field}.tif", b"B02_1.tif", b"B99_1.tif", b"notes.txt")
    assert plate.others == {
        b"B99_1.tif": "well B99 lies outside a plate of 32 x 48 wells",
        b"notes.txt": "its name does not fit the pattern",
    }


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("", "says no well"),
        ("{row}_s{field}.tif", "says no well"),
        ("{well}{row}{column}.tif", "says the well twice"),
        ("{well}_{site}.tif", "unknown part {site}; known are {row}, {column}, {well}"),
        ("{well}_{field}_{field}.tif", "has {field} twice"),
        ("{well}_{field.tif", "brace without its partner"),
        ("{well}}.tif", "brace without its partner"),
        ("{well:0}.tif", "1 to 48 columns"),
        ("{well:x}.tif", "1 to 48 columns"),
        ("{field:3}{well}.tif", "unknown part"),
        ("{any}{any}{any}{any}{any}{well}", "more than 4 parts of any length"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(pattern: str, problem: str) -> None:
    with pytest.raises(UsageProblem) as raised:
        choose_formats(pattern=pattern)
    assert problem in str(raised.value)


@given(st.text(max_size=60), st.lists(st.binary(max_size=60), max_size=5))
def test_any_pattern_is_refused_or_used(pattern: str, paths: list[bytes]) -> None:
    try:
        formats = choose_formats(pattern=pattern)
    except UsageProblem:
        return
    recognise_plates(paths, no_file, formats=formats)


@given(st.text("{}wellanyfieldchannel:_24*.[](", max_size=40), st.lists(st.text("a1_.", max_size=200), max_size=5))
def test_patterns_are_no_expressions(pattern: str, names: list[str]) -> None:
    try:
        formats = choose_formats(pattern=pattern)
    except UsageProblem:
        return
    recognise_plates([name.encode() for name in names], no_file, formats=formats)


def test_a_forced_instrument_is_the_only_one_asked() -> None:
    both = [b"a/p_B02_s1_w1.TIF", b"b/Images/r01c01f01p01-ch1sk1fk1fl1.tiff"]
    assert {plate.instrument for plate in plates_in(both)} == {"imagexpress", "harmony"}
    assert only_plate(both, formats=choose_formats("harmony")).instrument == "harmony"
    assert only_plate(both, formats=choose_formats("HARMONY")).instrument == "harmony"


def test_a_forced_instrument_needs_nobody_to_vouch_for_its_names() -> None:
    assert plates_in([b"foo_B02.tif"]) == []
    assert only_plate([b"foo_B02.tif"], formats=choose_formats("imagexpress")).images


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(UsageProblem) as raised:
        choose_formats("nikon")
    assert raised.value.exit_code == 1
    for name in known_instruments():
        assert name in str(raised.value)


def test_a_format_and_a_pattern_are_one_too_many() -> None:
    with pytest.raises(UsageProblem, match="one of them"):
        choose_formats("harmony", "{well}.tif")


# --- instruments of other packages


class Oddscope:
    """An instrument as another package would bring it."""

    name = "oddscope"

    def claim(self, listing: Listing, read_file: ReadFile) -> list[Claim]:
        images = {
            path: PlatePosition(0, n, 1, 1, 1, 1) for n, path in enumerate(listing.paths) if path.endswith(b".odd")
        }
        return [Claim(Plate(b"", "odd", self.name, images, {}, PlateFacts()), Evidence.NAMES)] if images else []


class Liar(Oddscope):
    name = "liar"

    def claim(self, listing: Listing, read_file: ReadFile) -> list[Claim]:
        images = {b"not/listed.odd": PlatePosition(0, 0, 1, 1, 1, 1)}
        return [Claim(Plate(b"", "odd", self.name, images, {}, PlateFacts()), Evidence.METADATA)]


class Confused(Oddscope):
    name = "confused"

    def claim(self, listing: Listing, read_file: ReadFile) -> list[Claim]:
        images = {listing.paths[0]: PlatePosition(0, 0, 1, 1, 1, 1)}
        facts = PlateFacts(stage_um={(1, 2): (0.0, 0.0)})  # type: ignore[dict-item]  # as a careless package might
        return [Claim(Plate(b"", "odd", self.name, images, {}, facts), Evidence.METADATA)]


class Failing(Oddscope):
    name = "failing"

    def claim(self, listing: Listing, read_file: ReadFile) -> list[Claim]:
        raise RuntimeError("not today")


class Usurper(Oddscope):
    name = "harmony"


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    found: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == "vfsd.plates" else [])
    known_instruments.cache_clear()
    yield found
    known_instruments.cache_clear()


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, value, "vfsd.plates")


def test_an_instrument_of_another_package_is_asked(entry_points: list[EntryPoint]) -> None:
    entry_points.append(entry("oddscope", f"{__name__}:Oddscope"))
    assert only_plate([b"a.odd"]).instrument == "oddscope"
    assert only_plate([b"a.odd", b"p_B02_s1_w1.TIF"], formats=choose_formats("oddscope")).instrument == "oddscope"


def test_foreign_packages_that_fail_are_named_and_left_out(
    entry_points: list[EntryPoint], caplog: pytest.LogCaptureFixture
) -> None:
    entry_points += [entry("gone", "no_such_package:X"), entry("text", f"{__name__}:__name__")]
    entry_points += [entry("failing", f"{__name__}:Failing"), entry("liar", f"{__name__}:Liar")]
    entry_points.append(entry("confused", f"{__name__}:Confused"))
    with caplog.at_level(logging.WARNING, logger="vfsd.plates"):
        assert only_plate([b"p_B02_s1_w1.TIF"]).instrument == "imagexpress"
    said = caplog.text
    assert "gone" in said
    assert "text" in said
    assert "instrument=failing failed" in said


def test_of_two_foreign_instruments_of_one_name_ours_counts(entry_points: list[EntryPoint]) -> None:
    entry_points.append(entry("harmony", f"{__name__}:Usurper"))
    assert only_plate([b"Images/r01c01f01p01-ch1sk1fk1fl1.tiff", b"a.odd"]).instrument == "harmony"


def test_formats_are_plain_values() -> None:
    assert PlateFormats((Oddscope(),)).forced is False
