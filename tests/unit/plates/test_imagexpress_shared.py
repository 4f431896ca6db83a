"""The real plates: positions and facts as read off the files by hand, and that no other set is claimed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vfsd.plates.instrument import ReadFile
from vfsd.plates.model import ChannelFacts, Plate, PlateFacts, PlatePosition, row_index
from vfsd.plates.recognise import recognise_plates

# path | well | field | time | channel | z | projection, each line written from the folder's listing.
# ZStep_0 is the maximum along z: its DAPI planes are nowhere below those of ZStep_1 and ZStep_2, and exceed
# both in places, since ZStep_3 was left out of the set. FITC and Texas Red, taken without z, are repeated in
# each folder.
PLATE_3434 = """
TimePoint_1/ZStep_0/9987_B02_s1_w1.TIF | B02 | 1 | 1 | 1 | 0 | projection
TimePoint_1/ZStep_0/9987_B02_s1_w2.TIF | B02 | 1 | 1 | 2 | 0 | projection
TimePoint_1/ZStep_0/9987_B02_s1_w3.TIF | B02 | 1 | 1 | 3 | 0 | projection
TimePoint_1/ZStep_0/9987_B02_s2_w1.TIF | B02 | 2 | 1 | 1 | 0 | projection
TimePoint_1/ZStep_0/9987_B02_s2_w2.TIF | B02 | 2 | 1 | 2 | 0 | projection
TimePoint_1/ZStep_0/9987_B02_s2_w3.TIF | B02 | 2 | 1 | 3 | 0 | projection
TimePoint_1/ZStep_0/9987_B03_s1_w1.TIF | B03 | 1 | 1 | 1 | 0 | projection
TimePoint_1/ZStep_0/9987_B03_s1_w2.TIF | B03 | 1 | 1 | 2 | 0 | projection
TimePoint_1/ZStep_0/9987_B03_s1_w3.TIF | B03 | 1 | 1 | 3 | 0 | projection
TimePoint_1/ZStep_0/9987_B03_s2_w1.TIF | B03 | 2 | 1 | 1 | 0 | projection
TimePoint_1/ZStep_0/9987_B03_s2_w2.TIF | B03 | 2 | 1 | 2 | 0 | projection
TimePoint_1/ZStep_0/9987_B03_s2_w3.TIF | B03 | 2 | 1 | 3 | 0 | projection
TimePoint_1/ZStep_1/9987_B02_s1_w1.TIF | B02 | 1 | 1 | 1 | 1 | plane
TimePoint_1/ZStep_1/9987_B02_s1_w2.TIF | B02 | 1 | 1 | 2 | 1 | plane
TimePoint_1/ZStep_1/9987_B02_s1_w3.TIF | B02 | 1 | 1 | 3 | 1 | plane
TimePoint_1/ZStep_1/9987_B02_s2_w1.TIF | B02 | 2 | 1 | 1 | 1 | plane
TimePoint_1/ZStep_1/9987_B02_s2_w2.TIF | B02 | 2 | 1 | 2 | 1 | plane
TimePoint_1/ZStep_1/9987_B02_s2_w3.TIF | B02 | 2 | 1 | 3 | 1 | plane
TimePoint_1/ZStep_1/9987_B03_s1_w1.TIF | B03 | 1 | 1 | 1 | 1 | plane
TimePoint_1/ZStep_1/9987_B03_s1_w2.TIF | B03 | 1 | 1 | 2 | 1 | plane
TimePoint_1/ZStep_1/9987_B03_s1_w3.TIF | B03 | 1 | 1 | 3 | 1 | plane
TimePoint_1/ZStep_1/9987_B03_s2_w1.TIF | B03 | 2 | 1 | 1 | 1 | plane
TimePoint_1/ZStep_1/9987_B03_s2_w2.TIF | B03 | 2 | 1 | 2 | 1 | plane
TimePoint_1/ZStep_1/9987_B03_s2_w3.TIF | B03 | 2 | 1 | 3 | 1 | plane
TimePoint_1/ZStep_2/9987_B02_s1_w1.TIF | B02 | 1 | 1 | 1 | 2 | plane
TimePoint_1/ZStep_2/9987_B02_s1_w2.TIF | B02 | 1 | 1 | 2 | 2 | plane
TimePoint_1/ZStep_2/9987_B02_s1_w3.TIF | B02 | 1 | 1 | 3 | 2 | plane
TimePoint_1/ZStep_2/9987_B02_s2_w1.TIF | B02 | 2 | 1 | 1 | 2 | plane
TimePoint_1/ZStep_2/9987_B02_s2_w2.TIF | B02 | 2 | 1 | 2 | 2 | plane
TimePoint_1/ZStep_2/9987_B02_s2_w3.TIF | B02 | 2 | 1 | 3 | 2 | plane
TimePoint_1/ZStep_2/9987_B03_s1_w1.TIF | B03 | 1 | 1 | 1 | 2 | plane
TimePoint_1/ZStep_2/9987_B03_s1_w2.TIF | B03 | 1 | 1 | 2 | 2 | plane
TimePoint_1/ZStep_2/9987_B03_s1_w3.TIF | B03 | 1 | 1 | 3 | 2 | plane
TimePoint_1/ZStep_2/9987_B03_s2_w1.TIF | B03 | 2 | 1 | 1 | 2 | plane
TimePoint_1/ZStep_2/9987_B03_s2_w2.TIF | B03 | 2 | 1 | 2 | 2 | plane
TimePoint_1/ZStep_2/9987_B03_s2_w3.TIF | B03 | 2 | 1 | 3 | 2 | plane
"""
OTHERS_3434 = {
    b"9987.HTD",
    b"TimePoint_1/9987.HTD",
    b"TimePoint_1/ZStep_0/9987.HTD",
    b"TimePoint_1/ZStep_1/9987.HTD",
    b"TimePoint_1/ZStep_2/9987.HTD",
}
# The HTD declares Cy5 as a fourth channel, of which there is no image.
FACTS_3434 = PlateFacts(
    rows=8,
    columns=12,
    channels=(ChannelFacts(1, "DAPI"), ChannelFacts(2, "FITC"), ChannelFacts(3, "Texas Red")),
    time_points=1,
    z_steps=3,
    name="9987",
)

PLATE_3435 = """
TimePoint_1/9987_B02_s1_w1.TIF | B02 | 1 | 1 | 1 | 1 | plane
TimePoint_1/9987_B02_s1_w2.TIF | B02 | 1 | 1 | 2 | 1 | plane
TimePoint_1/9987_B02_s2_w1.TIF | B02 | 2 | 1 | 1 | 1 | plane
TimePoint_1/9987_B02_s2_w2.TIF | B02 | 2 | 1 | 2 | 1 | plane
TimePoint_1/9987_B03_s1_w1.TIF | B03 | 1 | 1 | 1 | 1 | plane
TimePoint_1/9987_B03_s1_w2.TIF | B03 | 1 | 1 | 2 | 1 | plane
TimePoint_1/9987_B03_s2_w1.TIF | B03 | 2 | 1 | 1 | 1 | plane
TimePoint_1/9987_B03_s2_w2.TIF | B03 | 2 | 1 | 2 | 1 | plane
TimePoint_2/9987_B02_s1_w1.TIF | B02 | 1 | 2 | 1 | 1 | plane
TimePoint_2/9987_B02_s1_w2.TIF | B02 | 1 | 2 | 2 | 1 | plane
TimePoint_2/9987_B02_s2_w1.TIF | B02 | 2 | 2 | 1 | 1 | plane
TimePoint_2/9987_B02_s2_w2.TIF | B02 | 2 | 2 | 2 | 1 | plane
TimePoint_2/9987_B03_s1_w1.TIF | B03 | 1 | 2 | 1 | 1 | plane
TimePoint_2/9987_B03_s1_w2.TIF | B03 | 1 | 2 | 2 | 1 | plane
TimePoint_2/9987_B03_s2_w1.TIF | B03 | 2 | 2 | 1 | 1 | plane
TimePoint_2/9987_B03_s2_w2.TIF | B03 | 2 | 2 | 2 | 1 | plane
"""
OTHERS_3435 = {b"9987.HTD", b"TimePoint_1/9987.HTD", b"TimePoint_2/9987.HTD"}
# The protocol has six time points and four channels; two of each are here.
FACTS_3435 = PlateFacts(
    rows=8,
    columns=12,
    channels=(ChannelFacts(1, "DAPI"), ChannelFacts(2, "FITC")),
    time_points=6,
    z_steps=1,
    name="9987",
)


def table(text: str) -> dict[bytes, PlatePosition]:
    positions: dict[bytes, PlatePosition] = {}
    for line in text.strip().splitlines():
        path, well, field, time, channel, z, kind = line.split(" | ")
        positions[path.encode()] = PlatePosition(
            row=row_index(well[0]),
            column=int(well[1:]) - 1,
            field=int(field),
            time=int(time),
            channel=int(channel),
            z=int(z),
            projection=kind == "projection",
        )
    return positions


def listing(folder: Path) -> list[bytes]:
    return [os.fsencode(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def reader(folder: Path) -> ReadFile:
    return lambda path, offset, size: (folder / os.fsdecode(path)).read_bytes()[offset : offset + size]


def no_file(path: bytes, offset: int, size: int) -> bytes:
    raise FileNotFoundError(path)


def recognised(folder: Path) -> list[Plate]:
    return recognise_plates(listing(folder), reader(folder), directory_name=folder.name)


SETS = [
    ("9987_Plate_3434", PLATE_3434, OTHERS_3434, FACTS_3434),
    ("9987_Plate_3435", PLATE_3435, OTHERS_3435, FACTS_3435),
]


@pytest.mark.parametrize(("name", "text", "others", "facts"), SETS)
def test_an_exported_plate(shared_data: Path, name: str, text: str, others: set[bytes], facts: PlateFacts) -> None:
    (plate,) = recognised(shared_data / "imagexpress_exported" / name)
    assert (plate.root, plate.name, plate.instrument) == (b"", name, "imagexpress")
    assert plate.images == table(text)
    assert plate.others == dict.fromkeys(others, "it is the plate's HTD")
    assert plate.facts == facts


def test_both_plates_below_one_root(shared_data: Path) -> None:
    plates = recognised(shared_data / "imagexpress_exported")
    assert [(plate.root, plate.name) for plate in plates] == [
        (b"9987_Plate_3434", "9987_Plate_3434"),
        (b"9987_Plate_3435", "9987_Plate_3435"),
    ]
    for plate, (_, text, _, facts) in zip(plates, SETS, strict=True):
        assert plate.images == {plate.root + b"/" + path: at for path, at in table(text).items()}
        assert plate.facts == facts


@pytest.mark.parametrize(("name", "text", "others", "facts"), SETS)
@pytest.mark.parametrize("with_tree", [True, False])
def test_a_file_alone_has_the_place_that_it_has_among_all(
    shared_data: Path, name: str, text: str, others: set[bytes], facts: PlateFacts, with_tree: bool
) -> None:
    read = reader(shared_data / "imagexpress_exported" / name) if with_tree else no_file
    for path, position in table(text).items():
        (plate,) = recognise_plates([path], read, directory_name=name)
        assert (plate.root, plate.name, plate.images) == (b"", name, {path: position})
        assert plate.facts.rows == (facts.rows if with_tree else None)
        assert plate.facts.channels[0].name == (facts.channels[position.channel - 1].name if with_tree else None)
