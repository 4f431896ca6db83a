"""The pixel size in a TIFF's description."""

from __future__ import annotations

from pathlib import Path

import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from vfsd.plates import ChannelFacts, channel_from_description, stage_from_description
from vfsd.plates.metaseries import pixel_size_from_description


def described(x: str = "0.65", y: str = "0.65", units: str = "um", state: str = "on") -> str:
    return (
        '<MetaData>\n<prop id="Description" type="string" value="a &#38; b"/>\n<PlaneInfo>\n'
        f'<prop id="spatial-calibration-state" type="bool" value="{state}"/>\n'
        f'<prop id="spatial-calibration-x" type="float" value="{x}"/>\n'
        f'<prop id="spatial-calibration-y" type="float" value="{y}"/>\n'
        f'<prop id="spatial-calibration-units" type="string" value="{units}"/>\n</PlaneInfo>\n</MetaData>'
    )


def test_a_real_file_says_its_pixel_size(shared_data: Path) -> None:
    path = shared_data / "imagexpress_exported/9987_Plate_3434/TimePoint_1/ZStep_1/9987_B02_s1_w1.TIF"
    with tifffile.TiffFile(path) as tiff:
        description = tiff.pages[0].tags["ImageDescription"].value
    assert pixel_size_from_description(description) == (1.3672, 1.3672)
    assert pixel_size_from_description(description.encode("latin-1")) == (1.3672, 1.3672)


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (described(), (0.65, 0.65)),
        (described(x="0.5", y="0.25"), (0.25, 0.5)),
        (described(units="µm"), (0.65, 0.65)),
        (described(units="µm").encode("latin-1"), (0.65, 0.65)),
        (described(units="\u03bcm"), (0.65, 0.65)),
        (described(x="650", y="650", units="nm"), (0.65, 0.65)),
        (described(x="1e-1", y="1E-1"), (0.1, 0.1)),
        (described().replace("spatial-calibration-y", "spatial-calibration-z"), (0.65, 0.65)),
        (described().replace('"', "'"), (0.65, 0.65)),
        (described().encode()[:-40], None),
        (described(units="pixel"), None),
        (described(units=""), None),
        (described(state="off"), None),
        (described(x="0"), None),
        (described(x="-0.65"), None),
        (described(x="nan"), None),
        (described(x="inf"), None),
        (described(x="1e400"), None),
        (described(x="1e30"), None),
        (described(x="0,65"), None),
        (described(x="&pixel;"), None),
        (described(x="9" * 5000), None),
        ("", None),
        (b"", None),
        ("ImageJ=1.53\nunit=um", None),
        ("<MetaData><PlaneInfo>", None),
        ("\ud800" + described(), (0.65, 0.65)),
    ],
)
def test_descriptions(description: str | bytes, expected: tuple[float, float] | None) -> None:
    assert pixel_size_from_description(description) == pytest.approx(expected)


def test_entities_are_never_expanded() -> None:
    bomb = '<!DOCTYPE b [<!ENTITY a "0.65"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>' + described(x="&b;", y="&b;")
    assert pixel_size_from_description(bomb) is None


def test_much_text_costs_little() -> None:
    assert pixel_size_from_description(b"<prop id=" * 3_000_000) is None


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300)))
def test_any_description_has_a_size_or_none(description: str | bytes) -> None:
    size = pixel_size_from_description(description)
    assert size is None or all(1e-3 <= side <= 1e4 for side in size)


def description_of(path: Path) -> bytes:
    with tifffile.TiffFile(path) as tiff:
        value = tiff.pages[0].tags["ImageDescription"].value
    assert isinstance(value, str)
    return value.encode()


def test_real_files_say_channel_and_place(shared_data: Path) -> None:
    folder = shared_data / "imagexpress_exported/9987_Plate_3434/TimePoint_1/ZStep_1"
    first, second = (description_of(folder / f"9987_B02_s{site}_w2.TIF") for site in (1, 2))
    assert channel_from_description(2, first) == ChannelFacts(2, "FITC", None, None, 520, 100)
    assert stage_from_description(first) == (-314.98, -315.02)
    assert stage_from_description(second) == (-314.98, 0.04)


def test_the_stage_counts_where_no_well_is_known() -> None:
    said = b'<prop id="stage-position-x" type="float" value="80513.3"/><prop id="stage-position-y" type="float" value="-4"/>'
    assert stage_from_description(said) == (-4, 80513.3)
    assert stage_from_description(said.replace(b"80513.3", b"1e99")) is None
    assert stage_from_description(b"") is None


@given(st.binary())
def test_any_description_says_channel_and_place_or_not(description: bytes) -> None:
    assert channel_from_description(1, description).number == 1
    stage_from_description(description)
