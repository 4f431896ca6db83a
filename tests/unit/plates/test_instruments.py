"""Names and metadata of instruments of which no set is at hand, as their documentation and users show them."""

from __future__ import annotations

import pytest
from plate_listings import format_named, only_plate, plates_in, table

from vfsd.plates import ChannelFacts, Plate


def channel_names(plate: Plate) -> dict[bytes, str | None]:
    names = {channel.number: channel.name for channel in plate.facts.channels}
    return {path: names[at.channel] for path, at in plate.images.items()}


# --- Harmony

HARMONY = """
Images/r01c01f01p01-ch1sk1fk1fl1.tiff      | A01  | 1   | 1 | 1 | 1
Images/r16c24f09p12-ch4sk3fk1fl1.tiff      | P24  | 9   | 3 | 4 | 12
Images/R02C03F04P05-CH6SK7FK1FL1.TIFF      | B03  | 4   | 7 | 6 | 5
Images/r32c48f001p01-ch1sk1fk1fl1.tiff     | AF48 | 1   | 1 | 1 | 1
Images/flex_r01c01f87p01-ch2t01.tiff       | A01  | 87  | 1 | 2 | 1
Images/r01c02f01p01-ch1sk1fk2fl1.tiff      | A02  | 1   | 100001 | 1 | 1
"""


def test_harmony_names() -> None:
    plate = only_plate(table(HARMONY))
    assert (plate.root, plate.instrument, plate.key) == (b"", "harmony", "")
    assert plate.images == table(HARMONY)


@pytest.mark.parametrize("folder", [b"Images", b"images", b"IMAGES"])
def test_harmony_is_rooted_above_its_images(folder: bytes) -> None:
    assert only_plate([b"m 1/" + folder + b"/r01c01f01p01-ch1sk1fk1fl1.tiff"]).root == b"m 1"
    assert only_plate([b"m 1/other/r01c01f01p01-ch1sk1fk1fl1.tiff"]).root == b"m 1/other"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"r33c01f01p01-ch1sk1fk1fl1.tiff", "well 33-01 lies outside"),
        (b"r01c49f01p01-ch1sk1fk1fl1.tiff", "well 01-49 lies outside"),
        (b"r00c01f01p01-ch1sk1fk1fl1.tiff", "well 00-01 lies outside"),
        (b"r01c01f01p01-ch1sk1fk1fl2.tiff", "it is a frame of a fluorescence lifetime"),
        (b"r01c01f999999p01-ch1sk1fk1fl1.tiff", "its field number is above 99999"),
        (b"r01c01f01p01-ch1000sk1fk1fl1.tiff", "its channel number is above 999"),
        (b"r01c01f01p01.tiff", "its name gives no position"),
        (b"notes.txt", "it is no TIFF"),
    ],
)
def test_harmony_leaves_what_has_no_place(name: bytes, reason: str) -> None:
    plate = only_plate([b"Images/r01c01f01p01-ch1sk1fk1fl1.tiff", b"Images/" + name])
    assert list(plate.others) == [b"Images/" + name]
    assert plate.others[b"Images/" + name].startswith(reason)


def index_image(url: str, row: int, column: int, field: int, plane: int, channel: int, extra: str = "") -> str:
    return (
        f"<Image Version='1'><id>x</id><URL>{url}</URL><Row>{row}</Row><Col>{column}</Col><FieldID>{field}</FieldID>"
        f"<PlaneID>{plane}</PlaneID><TimepointID>0</TimepointID><ChannelID>{channel}</ChannelID>{extra}</Image>"
    )


def index(namespace: str, images: str, maps: str = "") -> bytes:
    return (
        f"<?xml version='1.0' encoding='utf-8'?><EvaluationInputData Version='1' "
        f"xmlns='http://www.perkinelmer.com/PEHH/{namespace}'><Plates><Plate><PlateID>P7</PlateID>"
        "<MeasurementStartTime>2024-01-02T03:04:05.6+01:00</MeasurementStartTime><Name>P seven</Name>"
        "<PlateRows>8</PlateRows><PlateColumns>12</PlateColumns><Well id='0101'/></Plate></Plates>"
        f"<Maps><Map>{maps}</Map></Maps><Images>{images}</Images></EvaluationInputData>"
    ).encode("utf-8-sig")


CHANNEL_MAP = (
    "<Entry ChannelID='1'><ChannelName>HOECHST 33342</ChannelName><ChannelType>Fluorescence</ChannelType>"
    "<ImageResolutionX Unit='m'>2.9667e-07</ImageResolutionX><ImageResolutionY Unit='m'>2.9667e-07</ImageResolutionY>"
    "<MainExcitationWavelength Unit='nm'>375</MainExcitationWavelength>"
    "<MainEmissionWavelength Unit='nm'>456</MainEmissionWavelength><ExposureTime Unit='s'>0.1</ExposureTime></Entry>"
)
NAMES = [b"Images/r01c01f01p0%d-ch1sk%dfk1fl1.tiff" % (plane, time) for plane in (1, 2, 3) for time in (1, 2)]


@pytest.mark.parametrize("file_name", [b"Index.xml", b"Index.idx.xml", b"INDEX.IDX.XML"])
@pytest.mark.parametrize("namespace", ["HarmonyV1", "HarmonyV5", "HarmonyV6", "HarmonyV7"])
def test_an_index_of_any_version_gives_facts(file_name: bytes, namespace: str) -> None:
    images = "".join(
        index_image(
            f"r01c01f01p0{plane}-ch1sk{time}fk1fl1.tiff", 1, 1, 1, plane, 1,
            f"<PositionX Unit='m'>0.0001</PositionX><PositionY Unit='m'>0.0002</PositionY>"
            f"<PositionZ Unit='m'>{plane * 1.5e-6}</PositionZ>"
            f"<MeasurementTimeOffset Unit='s'>{(time - 1) * 600 + plane}</MeasurementTimeOffset>",
        )
        for plane in (1, 2, 3) for time in (1, 2)
    )  # fmt: skip
    plate = only_plate(NAMES, {b"Images/" + file_name: index(namespace, images, CHANNEL_MAP)})
    facts = plate.facts
    assert (facts.rows, facts.columns, facts.name) == (8, 12, "P seven")
    assert facts.started == "2024-01-02T03:04:05.6+01:00"
    assert facts.channels == (ChannelFacts(1, "HOECHST 33342", None, 375, 456, 100),)
    assert facts.pixel_size_um == pytest.approx((0.29667, 0.29667))
    assert (facts.z_step_um, facts.time_step_s) == (pytest.approx(1.5), 600)
    assert facts.stage_um == {(0, 0, 0, 1): (-200, 100)}
    assert plate.notes == ()


def test_an_index_may_list_images_that_were_never_written() -> None:
    images = index_image("r01c01f01p01-ch1sk1fk1fl1.tiff", 1, 1, 1, 1, 1) + index_image(
        "r08c12f01p01.tiff", 8, 12, 1, 1, 1
    )
    plate = only_plate(NAMES[:1], {b"Images/Index.xml": index("HarmonyV6", images)})
    assert plate.others[b"Images/Index.xml"] == "it is the plate's index; 2 images are listed, 1 are here"


def test_names_are_believed_where_an_index_contradicts_them() -> None:
    images = index_image("r01c01f01p01-ch1sk1fk1fl1.tiff", 5, 6, 1, 1, 1, "<AbsTime>2024-01-01T00:00:00</AbsTime>")
    plate = only_plate(NAMES[:1], {b"Images/Index.xml": index("HarmonyV5", images)})
    assert [at.well for at in plate.images.values()] == ["A01"]
    assert plate.facts.taken_at == {}
    (note,) = plate.notes
    assert note == (
        "Images/Index.xml: file names contradict it and are believed: 1 images, first r01c01f01p01-ch1sk1fk1fl1.tiff"
    )


def test_a_well_outside_the_plate_that_an_index_declares_is_believed() -> None:
    plate = only_plate([b"Images/r16c24f01p01-ch1sk1fk1fl1.tiff"], {b"Images/Index.xml": index("HarmonyV6", "")})
    assert (plate.facts.rows, plate.facts.columns) == (None, None)
    assert "well P24 is not on a plate of 8 x 12" in plate.notes[0]


# --- CellVoyager

CV = """
p/My_Plate_A01_T0001F001L01A01Z01C01.tif        | A01  | 1 | 1    | 1 | 1
p/My_Plate_P24_T0123F045L01A02Z67C04.tif        | P24  | 45 | 123 | 4 | 67
p/My_Plate_AF48_T0001F001L01A01Z01C01.tif       | AF48 | 1 | 1    | 1 | 1
p/My_Plate_A01_T0001F001L02A01Z01C01.tif        | A01  | 1 | 1    | 1 | 1 | acquisition 1
"""


def test_cellvoyager_names() -> None:
    plate = only_plate(table(CV))
    assert (plate.root, plate.instrument, plate.key) == (b"p", "cellvoyager", "my_plate")
    assert plate.images == table(CV)


def test_records_of_errors_are_counted_and_said() -> None:
    name = "P_A01_T0001F001L01A01Z01C01.tif"
    records = (
        "<?xml version='1.0' encoding='utf-8'?><bts:MeasurementData xmlns:bts='http://www.yokogawa.co.jp/BTS/BTSSchema/1.0'>"
        "<bts:MeasurementRecord bts:Type='ERR' bts:Time='2024-01-01T00:00:00+00:00'>Autofocus failed</bts:MeasurementRecord>"
        "<bts:MeasurementRecord bts:Type='ERR'>again</bts:MeasurementRecord>"
        f"<bts:MeasurementRecord bts:Type='IMG' bts:Row='1' bts:Column='2' bts:X='1' bts:Y='2' bts:Ch='1'>{name}"
        "</bts:MeasurementRecord></bts:MeasurementData>"
    )
    plate = only_plate([name.encode()], {b"MeasurementData.mlf": records.encode()})
    assert plate.notes == (
        "MeasurementData.mlf: 2 records of errors, first: Autofocus failed",
        f"MeasurementData.mlf: file names contradict it and are believed: 1 images, first {name.lower()}",
    )
    assert (0, 0, 0, 1) not in plate.facts.stage_um


def test_two_actions_of_one_channel_are_two_files_for_one_position() -> None:
    one, two = b"P_A01_T0001F001L01A01Z01C01.tif", b"P_A01_T0001F001L01A02Z01C01.tif"
    plate = only_plate([one, two])
    assert set(plate.images) == {one}
    assert plate.others == {two: f"its position on the plate is taken by {one.decode()}"}


# --- ScanR and the EMBL's names

DESCRIPTOR = (
    "<?xml version='1.0'?><LVData><Cluster><String><Name>plate name</Name><Val>Plat\xe9 5</Val></String>"
    "<DBL><Name>conversion factor um/pixel</Name><Val>0.3225</Val></DBL>"
    "<DBL><Name>slices distance</Name><Val>2.00000</Val></DBL>"
    "<DBL><Name>timeloop delay [ms]</Name><Val>600000</Val></DBL>"
    "<Cluster><String><Name>name</Name><Val>GFP</Val></String><U32><Name>exposure time</Name><Val>40</Val></U32></Cluster>"
    "</Cluster></LVData>"
).encode("latin-1")


def test_scanr_with_its_descriptor() -> None:
    names = [
        b"x/data/B3--W00015--P00002--Z00004--T00006--GFP.tif",
        b"x/data/B3--W00015--P00002--Z00004--T00006--RFP.tif",
    ]
    plate = only_plate(names, {b"x/experiment_descriptor.xml": DESCRIPTOR})
    assert (plate.root, plate.instrument) == (b"x", "scanr")
    at = plate.images[names[0]]
    assert (at.well, at.field, at.z, at.time) == ("B03", 2, 4, 6)
    facts = plate.facts
    assert (facts.pixel_size_um, facts.z_step_um, facts.time_step_s) == ((0.3225, 0.3225), 2, 600)
    assert facts.name == "Platé 5"
    assert [(channel.name, channel.exposure_ms) for channel in facts.channels] == [("GFP", 40), ("RFP", None)]


EMBL = """
--W0002--P001--Z002--T003--C04.tif      | A02 | 1 | 3 | 4 | 2
siRNA 12--W0013--P002.tif               | B01 | 2 | 0 | 0 | 0
x--W0384--P001--T000--C01.ome.tif       | AF12 | 1 | 0 | 1 | 0
"""


def test_numbered_wells_count_along_rows_of_twelve() -> None:
    plate = only_plate(table(EMBL))
    assert (plate.instrument, plate.key) == ("embl", "")
    assert plate.images == table(EMBL)
    assert "{well:24}" in plate.notes[0]


@pytest.mark.parametrize("number", [b"0000", b"0385", b"99999999999999999999"])
def test_numbers_of_no_well_are_left(number: bytes) -> None:
    plate = only_plate([b"--W0001--P001.tif", b"--W%s--P001.tif" % number])
    assert plate.others[b"--W%s--P001.tif" % number].startswith("there is no well of number")


# --- MatrixScreener: several slides, loops and jobs

LEICA = """
slide--S00/chamber--U01--V02/field--X03--Y04/image--L00--S00--U01--V02--J08--E00--O00--X03--Y04--T05--Z06--C07.ome.tif | C02 | 4003 | 5 | 807 | 6
slide--S00/chamber--U01--V02/field--X03--Y04/image--L01--S00--U01--V02--J09--E00--O00--X03--Y04--T05--Z06--C00.ome.tif | C02 | 4003 | 5 | 900 | 6 | acquisition 1
"""  # noqa: E501  # the vendor's names are that long


def test_each_slide_is_a_plate() -> None:
    folder = b"slide--S01/chamber--U00--V00/field--X00--Y00/"
    other = folder + b"image--L00--S01--U00--V00--J08--E00--O00--X00--Y00--T00--Z00--C00.ome.tif"
    first, second = plates_in([b"exp/" + path for path in (*table(LEICA), other)])
    assert (first.root, first.key, first.name) == (b"exp", "s00", "exp")
    assert (second.root, second.key, second.name) == (b"exp", "s01", "exp_S01")
    assert first.images == {b"exp/" + path: at for path, at in table(LEICA).items()}
    assert set(second.images) == {b"exp/" + other}


# --- BioTek

BIOTEK = """
D6_01_1_4_DAPI_001.tif           | D06 | 4 | 1 | 1 | 0
D6_01_2_4_GFP_001.tif            | D06 | 4 | 1 | 2 | 0
P24_02_1_1Z3_Bright Field_012.tif | P24 | 1 | 12 | 1 | 3 | acquisition 1
AF48_01_1_1_DAPI_001.tif         | AF48 | 1 | 1 | 1 | 0
"""


def test_biotek_names() -> None:
    plate = only_plate([*table(BIOTEK), b"D6_-1_1_1_Stitched[DAPI]_001.tif"])
    assert plate.instrument == "biotek"
    assert plate.images == table(BIOTEK)
    assert plate.others == {b"D6_-1_1_1_Stitched[DAPI]_001.tif": "it was made from other images (a negative read step)"}
    assert channel_names(plate)[b"D6_01_2_4_GFP_001.tif"] == "GFP"


def test_other_names_with_many_numbers_are_not_bioteks() -> None:
    assert plates_in([b"t1_2_3_4_mask_5.tif", b"s1_02_3_4_mask_5.tif", b"a1_2_3_4_mask_005.tif"]) == []


# --- IN Cell

XDCE = b"""<?xml version="1.0"?><ImageStack><Creation date="2020-05-06" time="07:08:09"/>
<AutoLeadAcquisitionProtocol><Plate name="96 well" rows="8" columns="12"/>
<ObjectiveCalibration magnification="20" pixel_width="0.325" pixel_height="0.325"/>
<Wavelengths><Wavelength index="0"><ExcitationFilter name="UV" wavelength="390"/><EmissionFilter name="DAPI" wavelength="432"/>
<Exposure time="50"/></Wavelength></Wavelengths>
<PlateMap><offset_point index="0" x="-100" y="200"/><offset_point index="1" x="100" y="200"/></PlateMap>
</AutoLeadAcquisitionProtocol></ImageStack>"""


def test_incell_names_and_metadata() -> None:
    names = [
        b"A - 1(fld 1 wv UV - DAPI).tif",
        b"B - 02(fld 2 wv UV - DAPI z 3).tif",
        b"H - 12(fld 1 wv Green - dsRed z 2 time 5 - 600000 ms).tif",
        b"A - 1(fld 1 wv Cy3 - Cy3 wix 1).tif",
    ]
    plate = only_plate(names, {b"My plate.xdce": XDCE})
    assert (plate.instrument, plate.facts.rows, plate.facts.columns) == ("incell", 8, 12)
    places = {path: (at.well, at.field, at.z, at.time) for path, at in plate.images.items()}
    assert places == {
        names[0]: ("A01", 1, 1, 1),
        names[1]: ("B02", 2, 3, 1),
        names[2]: ("H12", 1, 2, 5),
        names[3]: ("A01", 1, 1, 1),
    }
    assert channel_names(plate) == dict(
        zip(names, ("UV - DAPI", "UV - DAPI", "Green - dsRed", "Cy3 - Cy3"), strict=True)
    )
    uv = next(channel for channel in plate.facts.channels if channel.name == "UV - DAPI")
    assert (uv.excitation_nm, uv.emission_nm, uv.exposure_ms) == (390, 432, 50)
    assert plate.facts.pixel_size_um == (0.325, 0.325)
    assert plate.facts.stage_um[(0, 1, 1, 2)] == (-200, 100)
    assert plate.facts.started == "2020-05-06T07:08:09"


# --- MetaMorph

ND = (
    b'"NDInfoFile", Version 1.0\r\n"Description", File recreated\r\n"DoTimelapse", TRUE\r\n"NTimePoints", 3\r\n'
    b'"DoStage", TRUE\r\n"NStagePositions", 2\r\n"Stage1", "%s"\r\n"Stage2", "%s"\r\n"DoWave", TRUE\r\n'
    b'"NWavelengths", 2\r\n"WaveName1", "CSU405"\r\n"WaveName2", "CSU488"\r\n"DoZSeries", FALSE\r\n"NZSteps", 11\r\n'
    b'"ZStepSize", 0.3\r\n"WaveInFileName", TRUE\r\n"EndFile"\r\n'
)


@pytest.mark.parametrize(
    ("labels", "wells"),
    [
        ((b"B02", b"C11"), ("B02", "C11")),
        ((b"Row:B, Column:2", b"Row:C, Column:11"), ("B02", "C11")),
        ((b"B02 : Site 1", b"B02 : Site 2"), ("B02", "B02")),
        ((b"Position1", b"Position2"), ("A01", "A01")),
    ],
)
def test_stage_labels_of_metamorph_are_wells_where_all_are(labels: tuple[bytes, bytes], wells: tuple[str, str]) -> None:
    names = [b"exp1_w1CSU405_s1_t1.TIF", b"exp1_w2CSU488_s2_t3.tif"]
    plate = only_plate([*names, b"exp1_w1CSU405_s1_t1.stk"], {b"exp1.nd": ND % labels})
    assert (plate.instrument, plate.key) == ("metamorph", "exp1")
    places = [(at.well, at.field, at.time, at.channel) for at in (plate.images[name] for name in names)]
    assert places == [(wells[0], 1, 1, 1), (wells[1], 2, 3, 2)]
    assert [channel.name for channel in plate.facts.channels] == ["CSU405", "CSU488"]
    assert (plate.facts.z_step_um, plate.facts.time_points) == (0.3, 3)
    assert plate.others[b"exp1_w1CSU405_s1_t1.stk"] == "it is a stack in MetaMorph's own form"
    assert bool(plate.notes) == (labels[0] == b"Position1")


def test_metamorphs_names_count_only_with_an_nd_or_when_forced() -> None:
    names = [b"exp1_w1CSU405_t1.TIF", b"exp1_w1CSU405_t2.TIF"]
    assert plates_in(names) == []
    plate = only_plate(names, formats=format_named("metamorph"))
    assert [(at.well, at.field, at.time) for at in plate.images.values()] == [("A01", 1, 1), ("A01", 1, 2)]


# --- Cellomics


def test_cellomics_leaves_masks_and_its_own_formats() -> None:
    image, mask, own = b"MFGTMP_12_A01f00d0.TIF", b"MFGTMP_12_A01f00o1.TIF", b"MFGTMP_12_A01f00d0.C01"
    plate = only_plate([image, mask, own])
    assert set(plate.images) == {image}
    assert plate.others == {
        mask: "it is a mask of objects, made from an image",
        own: "it is an image in the vendor's own format, and no TIFF",
    }
