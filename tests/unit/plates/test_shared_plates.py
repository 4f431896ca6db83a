"""Every real plate: the table of positions and facts as read off its files by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from plate_listings import files_below, no_file, only_plate, plate_of, reads, table

from vfsd.plates import ChannelFacts, Plate, recognise_plates

# --- ImageXpress, database layout: two wells, two sites. w1 and w2 are stacks (two of ten steps are in the set) with a
# projection, w3 is a projection only, w4 one plane. Every image has a thumbnail.

PROJECTION_MIX = """
Projection-Mix_E07_s1_w1E94C24BD-45E4-450A-9919-257C714278F7.tif        | E07 | 1 | 1 | 1 | 0 | projection
Projection-Mix_E07_s1_w2B14915F6-0679-4494-82D1-F80894B32A66.tif        | E07 | 1 | 1 | 2 | 0 | projection
Projection-Mix_E07_s1_w3BB87F860-FC67-4B3A-A740-A9EACF8A8F5F.tif        | E07 | 1 | 1 | 3 | 0 | projection
Projection-Mix_E07_s2_w1DCFD1526-D063-4F8B-9E51-F1BD2EBD9F1A.tif        | E07 | 2 | 1 | 1 | 0 | projection
Projection-Mix_E07_s2_w2607EE13F-AB5E-4E8C-BC4B-52E1118E7723.tif        | E07 | 2 | 1 | 2 | 0 | projection
Projection-Mix_E07_s2_w3B0A47337-5945-4B26-9F5F-4EBA468CDBA9.tif        | E07 | 2 | 1 | 3 | 0 | projection
Projection-Mix_E08_s1_w117654C10-92F1-4DFD-98AA-6A01BBD77557.tif        | E08 | 1 | 1 | 1 | 0 | projection
Projection-Mix_E08_s1_w281928711-999D-41F6-B88C-999513D4C092.tif        | E08 | 1 | 1 | 2 | 0 | projection
Projection-Mix_E08_s1_w3DD77D22D-07CB-4529-A1F5-DCC5473786FA.tif        | E08 | 1 | 1 | 3 | 0 | projection
Projection-Mix_E08_s2_w1B38C01F5-0D36-4A29-9F5A-BE62B6F7F73F.tif        | E08 | 2 | 1 | 1 | 0 | projection
Projection-Mix_E08_s2_w266923EBB-9960-4952-8955-D1721D112EE2.tif        | E08 | 2 | 1 | 2 | 0 | projection
Projection-Mix_E08_s2_w3CCE83D85-0912-429E-9F18-716A085BB5BC.tif        | E08 | 2 | 1 | 3 | 0 | projection
ZStep_1/Projection-Mix_E07_s1_w1E78EB128-BD0D-4D94-A6AD-3FF28BB1B105.tif | E07 | 1 | 1 | 1 | 1
ZStep_1/Projection-Mix_E07_s1_w2C0A49256-E289-4C0F-ADC9-F7728ABDB141.tif | E07 | 1 | 1 | 2 | 1
ZStep_1/Projection-Mix_E07_s1_w427CCB2E4-1BF4-45E7-8BC7-264B48EF9C4A.tif | E07 | 1 | 1 | 4 | 1
ZStep_1/Projection-Mix_E07_s2_w1AC08A410-4276-4921-9FDA-9CB1249B3156.tif | E07 | 2 | 1 | 1 | 1
ZStep_1/Projection-Mix_E07_s2_w2045200D6-DAE1-4224-AFDE-9EFD107D85EB.tif | E07 | 2 | 1 | 2 | 1
ZStep_1/Projection-Mix_E07_s2_w4F95A8A9F-0939-47C2-8D3E-F6E91AF0C4ED.tif | E07 | 2 | 1 | 4 | 1
ZStep_1/Projection-Mix_E08_s1_w1D73270D7-0918-4C49-8F3D-31C031A588ED.tif | E08 | 1 | 1 | 1 | 1
ZStep_1/Projection-Mix_E08_s1_w2E9C399F7-6BA9-41D3-9CB8-632E37269E6E.tif | E08 | 1 | 1 | 2 | 1
ZStep_1/Projection-Mix_E08_s1_w44D67DA59-1149-4181-BDFD-2FA0CCC9E573.tif | E08 | 1 | 1 | 4 | 1
ZStep_1/Projection-Mix_E08_s2_w1084F795E-D6CB-4229-8A96-B5540E18EC20.tif | E08 | 2 | 1 | 1 | 1
ZStep_1/Projection-Mix_E08_s2_w271F9FAE3-CF6E-43CE-84E0-2506B2C908E3.tif | E08 | 2 | 1 | 2 | 1
ZStep_1/Projection-Mix_E08_s2_w4D0500431-D435-4AB7-BAC9-70316FD75E2F.tif | E08 | 2 | 1 | 4 | 1
ZStep_2/Projection-Mix_E07_s1_w189A35A04-20E3-47AD-A1F9-8065B2840EFD.tif | E07 | 1 | 1 | 1 | 2
ZStep_2/Projection-Mix_E07_s1_w282ED0DF4-8188-48BB-944C-03B905E1C50A.tif | E07 | 1 | 1 | 2 | 2
ZStep_2/Projection-Mix_E07_s2_w119DACB95-CB7D-4899-9AB4-D4E10B44145D.tif | E07 | 2 | 1 | 1 | 2
ZStep_2/Projection-Mix_E07_s2_w22EED77C5-EDAC-4C4E-A6CF-ACF66B64D4C4.tif | E07 | 2 | 1 | 2 | 2
ZStep_2/Projection-Mix_E08_s1_w14864BA30-C5B9-45C7-B9F2-44179190F8AC.tif | E08 | 1 | 1 | 1 | 2
ZStep_2/Projection-Mix_E08_s1_w236A5558C-759F-4795-8F7C-66A308924F8E.tif | E08 | 1 | 1 | 2 | 2
ZStep_2/Projection-Mix_E08_s2_w1E7EC7EF1-C7B0-4CB0-8CC3-AAEEC1C5E8B2.tif | E08 | 2 | 1 | 1 | 2
ZStep_2/Projection-Mix_E08_s2_w2D953551C-C84C-4409-8FD0-B517F1FF7207.tif | E08 | 2 | 1 | 2 | 2
"""


def test_imagexpress_database_layout(shared_data: Path) -> None:
    plate = plate_of(shared_data / "imagexpress_projection-mix")
    root = b"Projection-Mix/2023-02-21/1334"
    assert (plate.root, plate.name, plate.key, plate.instrument) == (root, "1334", "projection-mix", "imagexpress")
    assert plate.images == {root + b"/" + path: at for path, at in table(PROJECTION_MIX).items()}
    assert len(plate.others) == 32
    assert set(plate.others.values()) == {"it is a thumbnail"}
    assert all(b"_thumb" in path for path in plate.others)
    assert (plate.facts.name, plate.notes) == ("Projection-Mix", ())
    assert [channel.number for channel in plate.facts.channels] == [1, 2, 3, 4]


def test_an_image_beside_steps_is_a_projection_even_when_listed_alone(shared_data: Path) -> None:
    folder = shared_data / "imagexpress_projection-mix/Projection-Mix/2023-02-21/1334"
    for path, position in table(PROJECTION_MIX).items():
        (plate,) = recognise_plates([path], reads(folder))
        assert plate.images == {path: position}


# --- Opera Phenix: one well, one field, six channels.

PHENIX = """
images/r01c01f01p01-ch1sk1fk1fl1.tiff | A01 | 1 | 1 | 1 | 1
images/r01c01f01p01-ch2sk1fk1fl1.tiff | A01 | 1 | 1 | 2 | 1
images/r01c01f01p01-ch3sk1fk1fl1.tiff | A01 | 1 | 1 | 3 | 1
images/r01c01f01p01-ch4sk1fk1fl1.tiff | A01 | 1 | 1 | 4 | 1
images/r01c01f01p01-ch5sk1fk1fl1.tiff | A01 | 1 | 1 | 5 | 1
images/r01c01f01p01-ch6sk1fk1fl1.tiff | A01 | 1 | 1 | 6 | 1
"""


def test_opera_phenix(shared_data: Path) -> None:
    plate = plate_of(shared_data / "opera_phenix_pe2loaddata_v5/Version5")
    assert (plate.root, plate.name, plate.key, plate.instrument) == (b"", "Version5", "", "harmony")
    assert plate.images == table(PHENIX)
    assert plate.others == {
        b"images/Index.idx.xml": "it is the plate's index; 6 images are listed, 6 are here",
        b"config_v5.yml": "it is no TIFF",
        b"load_data_version5.csv": "it is no TIFF",
    }
    facts = plate.facts
    assert (facts.rows, facts.columns, facts.name) == (16, 24, "BR00122249")
    assert facts.pixel_size_um == pytest.approx((0.5979760809567617,) * 2)
    assert facts.started == "2023-03-23T14:50:32.6252176-04:00"
    # one plane, one time point: no steps
    assert (facts.z_step_um, facts.time_step_s) == (None, None)
    # the vendor's y points up, the array's down
    assert facts.stage_um == {(0, 0, 0, 1): (322.907, -322.907)}
    # the vendor writes 0 nm for the emission of light that passed through; the sixth is in the file's last entry
    assert facts.channels[:5] == (
        ChannelFacts(1, "Digital Phase Contrast", "FFFFFF", 740, None, 100),
        ChannelFacts(2, "Brightfield high", "FFFFFF", 740, None, 200),
        ChannelFacts(3, "488 650", None, 488, 706, 60),
        ChannelFacts(4, "Alexa 488", None, 488, 522, 200),
        ChannelFacts(5, "Alexa 568", None, 561, 599, 40),
    )
    assert (facts.channels[5].number, facts.channels[5].name) == (6, "Alexa 647")
    assert facts.taken_at[b"images/r01c01f01p01-ch1sk1fk1fl1.tiff"] == "2023-03-23T14:52:40.42-04:00"
    assert facts.taken_at[b"images/r01c01f01p01-ch5sk1fk1fl1.tiff"] == "2023-03-23T14:52:41.417-04:00"
    assert len(facts.taken_at) == 6
    assert plate.notes == ()


# --- CellVoyager CV8000: three wells, four fields, four planes; channel 1 by action 1, channel 2 by action 2. The
# names are regular, so the table is written as the rule that the folder's listing shows.

CV8000 = "CV8000-Minimal-DataSet-2C-3W-4S-FP2-stack"


def cv8000_table() -> str:
    return "\n".join(
        f"{CV8000}_{well}_T0001F00{field}L01A0{channel}Z0{z}C0{channel}.tif | {well} | {field} | 1 | {channel} | {z}"
        for well in ("D08", "E03", "F08")
        for field in (1, 2, 3, 4)
        for channel in (1, 2)
        for z in (1, 2, 3, 4)
    )


CALIBRATION = {
    *(b"DC_DCAM#1_CAM3.tif", b"DC_DCAM#2_CAM4.tif", b"SC_BP445-45_20x v2_M01_CH01.tif"),
    *(b"SC_BP525-50_20x v2_M01_CH02.tif", b"SC_BP600-37_20x v2_M01_CH03.tif", b"SC_BP676-29_20x v2_M01_CH04.tif"),
}


def test_cellvoyager(shared_data: Path) -> None:
    plate = plate_of(shared_data / "cellvoyager_cv8000" / f"{CV8000}_20230918_135839")
    root = CV8000.encode()
    assert (plate.root, plate.name, plate.key) == (root, CV8000, CV8000.casefold())
    assert plate.instrument == "cellvoyager"
    assert plate.images == {root + b"/" + path: at for path, at in table(cv8000_table()).items()}
    others = {path.removeprefix(root + b"/"): why for path, why in plate.others.items()}
    assert {path for path, why in others.items() if "calibration" in why} == CALIBRATION
    assert others[b"MeasurementData.mlf"] == "it is the plate's metadata; 96 images are listed, 96 are here"
    metadata = {b"MeasurementDetail.mrf", b"Minimal-3C3W2S-FP2-stack.mes"}
    assert {path for path, why in others.items() if why == "it is the plate's metadata"} == metadata
    rest = {path for path, why in others.items() if why == "it is no TIFF"}
    assert rest == {
        *(b"1009680001_Cellvis_#P96-1.5H-N.wpp", root + b".wpi", b"crosstalk_parameter.xml"),
        b"geometry_parameter.xml",
    }
    facts = plate.facts
    assert (facts.rows, facts.columns, facts.time_points, facts.z_steps) == (8, 12, 1, 4)
    assert (facts.pixel_size_um, facts.z_step_um) == ((0.325, 0.325), 3.0)
    assert (facts.name, facts.started) == (CV8000, "2023-09-18T13:58:39.4014935+02:00")
    # the protocol has four channels; of two there are images
    assert facts.channels == (
        ChannelFacts(1, "405nm BP445/45", "002FFF", 405, 445, 100),
        ChannelFacts(2, "488nm BP525/50", "00FFA1", 488, 525, 100),
    )
    fields = {1: (-402.9, -567.1), 2: (-402.9, 82.8), 3: (247.0, -567.1), 4: (247.0, 82.8)}
    wells = ((3, 7), (4, 2), (5, 7))
    assert facts.stage_um == {(0, *well, field): place for well in wells for field, place in fields.items()}
    assert len(facts.taken_at) == 96
    first = root + f"/{CV8000}_D08_T0001F001L01A01Z01C01.tif".encode()
    assert facts.taken_at[first] == "2023-09-18T13:58:44.438+02:00"
    assert facts.taken_at[first.replace(b"A01Z01C01", b"A02Z04C02")] == "2023-09-18T13:58:46.200+02:00"
    assert plate.notes == ()


# --- ScanR: two wells, one field, two channels that have only names.

SCANR = [
    (b"A1--W00001--P00001--Z00000--T00000--GFP.tif", "A01", "GFP"),
    (b"A1--W00001--P00001--Z00000--T00000--mcherry.tif", "A01", "mcherry"),
    (b"A2--W00002--P00001--Z00000--T00000--GFP.tif", "A02", "GFP"),
    (b"A2--W00002--P00001--Z00000--T00000--mcherry.tif", "A02", "mcherry"),
]


def seen(plate: Plate) -> list[tuple[bytes, str, int, int, int, str | None]]:
    names = {channel.number: channel.name for channel in plate.facts.channels}
    return sorted((path, at.well, at.field, at.time, at.z, names[at.channel]) for path, at in plate.images.items())


def test_scanr(shared_data: Path) -> None:
    plate = plate_of(shared_data / "scanr_plateviewer/SCANR-C2-S1-T1")
    assert (plate.root, plate.name, plate.key, plate.instrument) == (b"", "SCANR-C2-S1-T1", "", "scanr")
    assert seen(plate) == [(path, well, 1, 0, 0, channel) for path, well, channel in SCANR]
    assert len({at.channel for at in plate.images.values()}) == 2
    assert (plate.others, plate.notes, plate.facts.pixel_size_um) == ({}, (), None)


# --- Leica MatrixScreener: one well, two fields one above the other, two channels of job 20.

LEICA = """
slide--S00/chamber--U00--V00/field--X00--Y00/image--L00--S00--U00--V00--J20--E00--O00--X00--Y00--T00--Z00--C00.ome.tif | A01 | 0 | 0 | 2000 | 0
slide--S00/chamber--U00--V00/field--X00--Y00/image--L00--S00--U00--V00--J20--E00--O00--X00--Y00--T00--Z00--C01.ome.tif | A01 | 0 | 0 | 2001 | 0
slide--S00/chamber--U00--V00/field--X00--Y01/image--L00--S00--U00--V00--J20--E00--O00--X00--Y01--T00--Z00--C00.ome.tif | A01 | 1000 | 0 | 2000 | 0
slide--S00/chamber--U00--V00/field--X00--Y01/image--L00--S00--U00--V00--J20--E00--O00--X00--Y01--T00--Z00--C01.ome.tif | A01 | 1000 | 0 | 2001 | 0
"""  # noqa: E501  # the vendor's names are that long


def test_matrixscreener(shared_data: Path) -> None:
    plate = plate_of(shared_data / "leica_matrixscreener/experiment--test")
    assert (plate.root, plate.name, plate.key) == (b"", "experiment--test", "s00")
    assert plate.instrument == "matrixscreener"
    assert plate.images == table(LEICA)
    reasons = sorted(plate.others.values())
    assert reasons.count("it is a file manager's, not the instrument's") == 5
    assert reasons.count("it is the plate's metadata") == 2
    assert {path for path, why in plate.others.items() if why == "it is no TIFF"} == {
        b"slide--S00/chamber--U00--V00/TileConfiguration.txt",
        b"slide--S00/chamber--U00--V00/TileConfiguration.registered.txt",
    }
    facts = plate.facts
    assert facts.pixel_size_um == pytest.approx((0.24050019550342, 0.24050019550342))
    # the z step is written as 0: none
    assert (facts.rows, facts.z_step_um, facts.started) == (None, None, "2014-11-20T10:22:19.3909999")
    # metres in the file; the second field lies below the first
    assert facts.stage_um == {(0, 0, 0, 0): (31916.927, 42702.127), (0, 0, 0, 1000): (32149.925, 42702.127)}
    assert facts.channels == (ChannelFacts(2000, "J20 C00"), ChannelFacts(2001, "J20 C01"))
    assert plate.notes == ()


# --- Cellomics ArrayScan: four wells, three fields, of three channels the last.

CELLOMICS = """
AS_09047_050428030001_O01f00d2.TIF | O01 | 0 | 0 | 2 | 0
AS_09047_050428030001_O01f01d2.TIF | O01 | 1 | 0 | 2 | 0
AS_09047_050428030001_O01f02d2.TIF | O01 | 2 | 0 | 2 | 0
AS_09047_050428030001_O02f00d2.TIF | O02 | 0 | 0 | 2 | 0
AS_09047_050428030001_O02f01d2.TIF | O02 | 1 | 0 | 2 | 0
AS_09047_050428030001_O02f02d2.TIF | O02 | 2 | 0 | 2 | 0
AS_09047_050428030001_O03f00d2.TIF | O03 | 0 | 0 | 2 | 0
AS_09047_050428030001_O03f01d2.TIF | O03 | 1 | 0 | 2 | 0
AS_09047_050428030001_O03f02d2.TIF | O03 | 2 | 0 | 2 | 0
AS_09047_050428030001_O04f00d2.TIF | O04 | 0 | 0 | 2 | 0
AS_09047_050428030001_O04f01d2.TIF | O04 | 1 | 0 | 2 | 0
AS_09047_050428030001_O04f02d2.TIF | O04 | 2 | 0 | 2 | 0
"""


def test_cellomics(shared_data: Path) -> None:
    plate = plate_of(shared_data / "cellomics_arrayscan_AS_09047")
    assert (plate.root, plate.key, plate.instrument) == (b"", "as_09047_050428030001", "cellomics")
    assert plate.images == table(CELLOMICS)
    assert (plate.others, plate.notes) == ({}, ())
    assert plate.facts.name == "AS_09047_050428030001"
    assert plate.facts.channels == (ChannelFacts(2),)


# --- all of them

ROOTS = [
    ("cellomics", b"cellomics_arrayscan_AS_09047", 12),
    ("cellvoyager", f"cellvoyager_cv8000/{CV8000}_20230918_135839/{CV8000}".encode(), 96),
    ("imagexpress", b"imagexpress_exported/9987_Plate_3434", 36),
    ("imagexpress", b"imagexpress_exported/9987_Plate_3435", 16),
    ("imagexpress", b"imagexpress_projection-mix/Projection-Mix/2023-02-21/1334", 32),
    ("matrixscreener", b"leica_matrixscreener/experiment--test", 4),
    ("harmony", b"opera_phenix_pe2loaddata_v5/Version5", 6),
    ("scanr", b"scanr_plateviewer/SCANR-C2-S1-T1", 4),
]


def test_every_set_below_one_folder_is_a_plate_of_its_own(shared_data: Path) -> None:
    plates = recognise_plates(files_below(shared_data), reads(shared_data))
    assert [(plate.instrument, plate.root, len(plate.images)) for plate in plates] == ROOTS


@pytest.mark.parametrize("folder", ["tiff_variants", "omezarr"])
def test_what_is_no_plate_is_none(shared_data: Path, folder: str) -> None:
    listed = files_below(shared_data / folder)
    assert listed, "the set is empty"
    assert recognise_plates(listed, reads(shared_data / folder)) == []


def test_a_file_alone_has_the_place_that_it_has_among_all(shared_data: Path) -> None:
    read = reads(shared_data)
    for whole in recognise_plates(files_below(shared_data), read):
        for path, position in list(whole.images.items())[::5]:
            (plate,) = recognise_plates([path], read)
            assert (plate.root, plate.key, plate.instrument) == (whole.root, whole.key, whole.instrument)
            assert plate.images == {path: position}


def test_names_alone_give_the_same_places(shared_data: Path) -> None:
    for whole in recognise_plates(files_below(shared_data), reads(shared_data)):
        (plate,) = recognise_plates(whole.images, no_file)
        assert (plate.root, plate.key, plate.instrument) == (whole.root, whole.key, whole.instrument)
        assert plate.images == whole.images


def test_names_in_the_other_case_give_the_same_places(shared_data: Path) -> None:
    for whole in recognise_plates(files_below(shared_data), reads(shared_data)):
        swapped = only_plate([whole.root + b"/" + path[len(whole.root) + 1 :].swapcase() for path in whole.images])
        assert sorted(swapped.images.values()) == sorted(whole.images.values())
