"""Names of MetaXpress exports: every part of them, absent or absurd, and whole plates with gaps."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vfsd.plates.instrument import ReadFile
from vfsd.plates.model import ChannelFacts, Plate, PlatePosition
from vfsd.plates.recognise import recognise_plates

HTD = b'"HTSInfoFile", Version 1.0\r\n'


def tree(files: Mapping[bytes, bytes]) -> ReadFile:
    """Reads from a few files; all others are absent."""
    return lambda path, offset, size: files[path][offset : offset + size]


def plates_of(*paths: bytes, files: Mapping[bytes, bytes] | None = None) -> list[Plate]:
    return recognise_plates(paths, tree(files or {}))


def only_plate(*paths: bytes, files: Mapping[bytes, bytes] | None = None) -> Plate:
    (plate,) = plates_of(*paths, files=files)
    return plate


@pytest.mark.parametrize(
    ("path", "root", "well", "field", "time", "channel", "z", "projection"),
    [
        (b"p_B02_s1_w1.TIF", b"", "B02", 1, 1, 1, 1, False),
        (b"p_B02_s3.TIF", b"", "B02", 3, 1, 1, 1, False),
        (b"p_B02_w2.TIF", b"", "B02", 1, 1, 2, 1, False),
        (b"p_B02_w12.TIF", b"", "B02", 1, 1, 12, 1, False),
        (b"p_B02_s10_w10.TIF", b"", "B02", 10, 1, 10, 1, False),
        (b"p_B02_s01_w02.TIF", b"", "B02", 1, 1, 2, 1, False),
        (b"p_s10_s10_w10.TIF", b"", "S10", 10, 1, 10, 1, False),
        (b"p_w10_w10.TIF", b"", "W10", 1, 1, 10, 1, False),
        (b"P_b02_S1_W1.tif", b"", "B02", 1, 1, 1, 1, False),
        (b"p_H12_s9.tiff", b"", "H12", 9, 1, 1, 1, False),
        (b"p_AF48_s1.TIFF", b"", "AF48", 1, 1, 1, 1, False),
        (b"p_af48_s1.Tif", b"", "AF48", 1, 1, 1, 1, False),
        (b"p_B02_C03_s1.tif", b"", "C03", 1, 1, 1, 1, False),
        (b"a_B02.c_d_E05_s1.tif", b"", "E05", 1, 1, 1, 1, False),
        (b"my plate [1]_B02_s1.tif", b"", "B02", 1, 1, 1, 1, False),
        (b"new\nline_B02_s1.tif", b"", "B02", 1, 1, 1, 1, False),
        (b"\xff\xfe_B02_s1.tif", b"", "B02", 1, 1, 1, 1, False),
        (b"TimePoint_3/p_B02_s1.tif", b"", "B02", 1, 3, 1, 1, False),
        (b"ZStep_5/p_B02_s1.tif", b"", "B02", 1, 1, 1, 5, False),
        (b"TimePoint_3/ZStep_5/p_B02_s1.tif", b"", "B02", 1, 3, 1, 5, False),
        (b"ZStep_5/TimePoint_3/p_B02_s1.tif", b"", "B02", 1, 3, 1, 5, False),
        (b"TimePoint_3/ZStep_0/p_B02_s1.tif", b"", "B02", 1, 3, 1, 0, True),
        (b"timepoint_3/ZSTEP_5/p_B02_s1.tif", b"", "B02", 1, 3, 1, 5, False),
        (b"a/b/TimePoint_3/p_B02_s1.tif", b"a/b", "B02", 1, 3, 1, 1, False),
        (b"a/b/p_B02_s1.tif", b"a/b", "B02", 1, 1, 1, 1, False),
        (b"TimePoint_1/sub/TimePoint_2/p_B02_s1.tif", b"TimePoint_1/sub", "B02", 1, 2, 1, 1, False),
        (b"TimePoint_9/TimePoint_3/p_B02_s1.tif", b"TimePoint_9", "B02", 1, 3, 1, 1, False),
        (b"p_B02_s0_w0.TIF", b"", "B02", 0, 1, 0, 1, False),
        (b"p_B02_s99999_w999.TIF", b"", "B02", 99_999, 1, 999, 1, False),
        (b"p_B02_s000000000000001.TIF", b"", "B02", 1, 1, 1, 1, False),
    ],
)
def test_a_name_gives_its_position(
    path: bytes, root: bytes, well: str, field: int, time: int, channel: int, z: int, projection: bool
) -> None:
    plate = only_plate(path)
    position = plate.images[path]
    assert plate.root == root
    assert plate.instrument == "imagexpress"
    assert position.well == well
    assert (position.field, position.time, position.channel, position.z) == (field, time, channel, z)
    assert (position.acquisition, position.projection) == (0, projection)


@pytest.mark.parametrize(
    "path",
    [
        b"p_B02.tif",
        b"foo_B02.tif",
        b"p_s1_w1.tif",
        b"exp_w1_s1.TIF",
        b"p_B2_s1.tif",
        b"p_B02_s1",
        b"p_B02_s1.tif.bak",
        b"p_B02_s1.png",
        b"_B02_s1.tif",
        b"B02_s1.tif",
        b"pB02_s1.tif",
        b"p_B02s1.tif",
        b"p_B02_s1_w1_t1.tif",
        b"p_B02_w1_s1.tif",
        b"p_B02_sx_w1.tif",
        b"p_B02_s1_w1_mask.tif",
        b"p_B02_s1_w1_thumb.tif",
        b"p_B02_s1_w1E94C24BD-45E4-450A-9919.tif",
        b"p_B02_s1_w1_thumb4BFD4018-E675-475E-B5AB-2E959E6B6DA1.tif",
        b"SC_BP600-37_20x v2_M01_CH03.tif",
        b"p_AG01_s1.tif",
        b"p_B00_s1.tif",
        b"p_B49_s1.tif",
        b"p_B02_s1000000000000.tif",
        b"p_B02_w1000.tif",
        b"TimePoint_100000/p_B02_s1.tif",
        b"ZStep_" + b"9" * 5000 + b"/p_B02_s1.tif",
    ],
)
def test_other_names_are_claimed_by_nobody(path: bytes) -> None:
    assert plates_of(path) == []


def test_an_htd_vouches_for_names_without_site_and_wavelength() -> None:
    bare = b"foo_B02.tif"
    assert only_plate(bare, b"foo.HTD").images.keys() == {bare}
    assert only_plate(bare, b"TimePoint_1/FOO.htd").images.keys() == {bare}
    assert only_plate(bare, files={b"foo.HTD": HTD}).images.keys() == {bare}
    assert only_plate(b"a/TimePoint_1/" + bare, files={b"a/TimePoint_1/foo.htd": HTD}).root == b"a"
    assert plates_of(bare, b"bar.HTD") == []
    assert plates_of(bare, b"sub/foo.HTD") == []


def test_a_name_without_site_and_wavelength_is_not_vouched_for_by_its_neighbours() -> None:
    plate = only_plate(b"foo_B02.tif", b"foo_B02_s2.tif")
    assert plate.images.keys() == {b"foo_B02_s2.tif"}
    assert "neither site nor wavelength" in plate.others[b"foo_B02.tif"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (b"p_B02_s1_w1_mask.tif", "its name goes on after the position (_mask)"),
        (b"masks/p_B02_s1_w1_label.tif", "its name goes on after the position (_label)"),
        (b"p_B02_s1_w1_thumb.tif", "it is a thumbnail"),
        (b"p_B02_S1_THUMB.TIF", "it is a thumbnail"),
        (b"p_B02_s1_w1_thumb4BFD4018-E675-475E-B5AB-2E959E6B6DA1.tif", "it is a thumbnail"),
        (b"p_B02_s1_w1E94C24BD-45E4-450A-9919.tif", "its name goes on after the position"),
        (b"p.HTD", "it is the plate's HTD"),
        (b"TimePoint_1/p.HTD", "it is the plate's HTD"),
        (b"other.HTD", "it is an HTD of no plate found here"),
        (b"results.csv", "it is no TIFF"),
        (b"results/p_B02.csv", "it is no TIFF"),
        (b"overview.tif", "its name gives no position on the plate"),
        (b"q_B02.tif", "its name has the form of an image, but of no plate found here"),
        (b"p_B99_s1_w1.tif", "well B99 lies outside a plate of 32 x 48 wells"),
        (b"p_B00_s1_w1.tif", "well B00 lies outside"),
        (b"p_AG01_s1_w1.tif", "well AG01 lies outside"),
        (b"p_B" + b"1" * 200 + b"_s1.tif", "well B1111111… lies outside"),
        (b"p_B02_s1000000000000_w1.tif", "its site number is above 99999"),
        (b"p_B02_s1_w1000000000000.tif", "its wavelength number is above 999"),
        (b"TimePoint_123456/p_B02_s1_w1.tif", "the number of its TimePoint or ZStep folder is above 99999"),
    ],
)
def test_whatever_is_no_image_has_a_reason(path: bytes, reason: str) -> None:
    image = b"TimePoint_1/p_A01_s1_w1.tif"
    plate = only_plate(image, path, files={b"p.HTD": HTD, b"TimePoint_1/p.HTD": HTD})
    assert plate.images.keys() == {image}
    assert plate.others.keys() == {path}
    assert plate.others[path].startswith(reason)


def test_of_two_files_for_one_position_the_first_in_natural_order_is_the_image() -> None:
    plate = only_plate(b"p_B02_s1.tif", b"p_B02_s01.tif", b"p_B02_s1.TIFF", b"P_b02_s1_w1.tif")
    assert plate.images == {b"p_B02_s01.tif": PlatePosition(1, 1, 1, 1, 1, 1)}
    assert plate.others == dict.fromkeys(
        (b"p_B02_s1.tif", b"p_B02_s1.TIFF", b"P_b02_s1_w1.tif"),
        "its position on the plate is taken by p_B02_s01.tif",
    )


def test_a_stack_is_not_displaced_by_a_file_beside_it() -> None:
    plate = only_plate(b"ZStep_1/p_B02_s1.tif", b"p_B02_s1.tif")
    assert plate.images.keys() == {b"ZStep_1/p_B02_s1.tif"}
    assert plate.others == {b"p_B02_s1.tif": "its position on the plate is taken by ZStep_1/p_B02_s1.tif"}


def test_a_projection_does_not_take_a_planes_position() -> None:
    assert len(only_plate(b"ZStep_0/p_B02_s1.tif", b"ZStep_1/p_B02_s1.tif").images) == 2


def test_two_plates_in_one_folder_are_two_plates() -> None:
    one, two = plates_of(b"d/P1_B02_s1.tif", b"d/P2_B02_s1.tif", b"d/P2_notes.txt", b"d/notes.txt", b"d/P2.HTD")
    assert (one.root, one.facts.name, one.name) == (b"d", "P2", "d")
    assert (two.root, two.facts.name, two.name) == (b"d", "P1", "d_P1")
    assert one.others.keys() == {b"d/P2_notes.txt", b"d/notes.txt", b"d/P2.HTD"}
    assert two.others == {}


def test_results_beside_a_plate_do_not_take_its_name() -> None:
    plates = plates_of(b"9987_Plate_1/9987_B02_s1.tif", b"9987_Plate_1/1Overlay_B02_s1.tif")
    assert {plate.facts.name: plate.name for plate in plates} == {
        "9987": "9987_Plate_1",
        "1Overlay": "9987_Plate_1_1Overlay",
    }


def test_nested_plates_keep_their_own_files() -> None:
    outer, inner = plates_of(b"p_B02_s1.tif", b"sub/q_B02_s1.tif", b"sub/notes.txt", b"notes.txt")
    assert (outer.root, set(outer.others)) == (b"", {b"notes.txt"})
    assert (inner.root, set(inner.others)) == (b"sub", {b"sub/notes.txt"})


def test_one_spelling_of_the_plates_name_is_as_good_as_another() -> None:
    plate = only_plate(b"Plate_B02_s1.tif", b"PLATE_B02_s2.TIF", b"plate.htd", files={b"plate.htd": HTD})
    assert len(plate.images) == 2
    assert plate.facts.name == "PLATE"


FULL_HTD = (
    HTD + b'"TimePoints", 2\r\n"ZSeries", TRUE\r\n"ZSteps", 3\r\n"XWells", 12\r\n"YWells", 8\r\n'
    b'"NWavelengths", 3\r\n"WaveName1", "DAPI"\r\n"WaveName2", "GFP"\r\n"WaveName3", "Cy5"\r\n'
)


def test_the_htd_gives_the_facts() -> None:
    files = {b"p.HTD": FULL_HTD}
    facts = only_plate(b"ZStep_1/p_B02_s1_w1.tif", b"ZStep_1/p_B02_s1_w3.tif", files=files).facts
    assert (facts.rows, facts.columns, facts.time_points, facts.z_steps) == (8, 12, 2, 3)
    assert facts.channels == (ChannelFacts(1, "DAPI"), ChannelFacts(3, "Cy5"))
    assert (facts.name, facts.pixel_size_um, facts.z_step_um) == ("p", None, None)


def test_without_an_htd_the_names_are_all_there_is() -> None:
    facts = only_plate(b"p_B02_s1_w2.tif").facts
    assert (facts.rows, facts.columns, facts.time_points, facts.z_steps) == (None, None, None, None)
    assert facts.channels == (ChannelFacts(2),)


@pytest.mark.parametrize(
    ("path", "fact", "said"),
    [
        (b"p_P01_s1.tif", "rows", "8 rows declared, number 16 seen"),
        (b"p_A24_s1.tif", "columns", "12 columns declared, number 24 seen"),
        (b"TimePoint_3/p_A01_s1.tif", "time_points", "2 time points declared, number 3 seen"),
        (b"ZStep_4/p_A01_s1.tif", "z_steps", "3 z steps declared, number 4 seen"),
    ],
)
def test_where_names_contradict_the_htd_the_names_are_believed(path: bytes, fact: str, said: str) -> None:
    plate = only_plate(path, b"p.HTD", files={b"p.HTD": FULL_HTD})
    assert plate.images.keys() == {path}
    assert getattr(plate.facts, fact) is None
    others = {"rows": 8, "columns": 12, "time_points": 2, "z_steps": 3}
    assert all(getattr(plate.facts, name) == value for name, value in others.items() if name != fact)
    assert plate.others[b"p.HTD"].endswith(said)


def test_the_roots_own_htd_comes_first_and_damaged_ones_are_passed_over() -> None:
    paths = (b"TimePoint_1/p_A01_s1.tif", b"TimePoint_1/p.HTD", b"p.HTD")
    other = HTD + b'"XWells", 24\r\n'
    both = {b"p.HTD": FULL_HTD, b"TimePoint_1/p.HTD": other}
    assert only_plate(*paths, files=both).facts.columns == 12
    assert only_plate(*paths, files=both | {b"p.HTD": b""}).facts.columns == 24
    broken = only_plate(*paths, files=dict.fromkeys(both, b"\0" * 100))
    assert broken.facts.columns is None
    assert broken.others[b"p.HTD"] == "it is the plate's HTD, and not understood: it is empty"


def test_a_huge_htd_is_cut_off() -> None:
    plate = only_plate(b"p_A01_s1.tif", b"p.HTD", files={b"p.HTD": FULL_HTD + b"x" * 30_000_000})
    assert plate.facts.columns == 12


ROWS = [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "AA", "AB", "AC", "AD", "AE", "AF"]
Planes = st.sets(
    st.tuples(
        st.integers(0, 31),  # row
        st.integers(1, 48),  # column
        st.integers(1, 120),  # site
        st.integers(1, 12),  # time
        st.integers(1, 12),  # channel
        st.integers(0, 12),  # z
    ),
    min_size=1,
    max_size=30,
)
# No underscore: `x_B02` could be read in two ways, and test_a_name_gives_its_position has such names.
PlateNames = st.binary(min_size=1, max_size=12).filter(lambda name: not set(name) & set(b"/_"))
Roots = st.sampled_from([b"", b"run 1", b"a/b", b"\xff\xfe"])


@example(planes={(0, 1, 1, 1, 1, 0)}, plate=b".HTD", root=b"", timed=False, stacked=True, htd=True, shout=False)
@given(
    planes=Planes,
    plate=PlateNames,
    root=Roots,
    timed=st.booleans(),
    stacked=st.booleans(),
    htd=st.booleans(),
    shout=st.booleans(),
)
def test_a_plate_with_gaps_is_recognised_whole_and_file_by_file(
    planes: set[tuple[int, int, int, int, int, int]],
    plate: bytes,
    root: bytes,
    timed: bool,
    stacked: bool,
    htd: bool,
    shout: bool,
) -> None:
    expected: dict[bytes, PlatePosition] = {}
    for row, column, site, time, channel, z in planes:
        folders = [root] if root else []
        folders += [b"TimePoint_%d" % time] if timed else []
        folders += [b"ZStep_%d" % z] if stacked else []
        name = b"%s_%s%02d_s%d_w%d.tif" % (plate, ROWS[row].encode(), column, site, channel)
        path = b"/".join([*folders, name.upper() if shout else name])
        expected[path] = PlatePosition(
            row,
            column - 1,
            site,
            time if timed else 1,
            channel,
            z if stacked else 1,
            projection=stacked and z == 0,
        )
    prefix = root + b"/" if root else b""
    files = {prefix + plate + b".HTD": FULL_HTD} if htd else {}
    listed = [*expected, *files, prefix + b"notes.txt"]
    (whole,) = recognise_plates(listed, tree(files), directory_name="d")
    assert whole.root == root
    assert whole.images == expected
    assert set(whole.others) == set(listed) - set(expected)
    for path, position in expected.items():
        (alone,) = recognise_plates([path], tree(files), directory_name="d")
        assert (alone.root, alone.images, alone.others) == (root, {path: position}, {})
        assert (alone.name, alone.facts.name) == (whole.name, whole.facts.name)


Names = st.from_regex(rb"(timepoint_\d{1,6}/)?(zstep_\d/)?[pq]_[ab]0[123](_s\d)?(_w\d)?\.tiff?", fullmatch=True)


@given(st.lists(Names))
def test_every_listed_file_below_a_root_is_an_image_or_has_a_reason(paths: list[bytes]) -> None:
    plates = recognise_plates(paths, tree({}))
    assert len({plate.name for plate in plates}) == len(plates)
    images = [path for plate in plates for path in plate.images]
    others = [path for plate in plates for path in plate.others]
    assert len(images + others) == len(set(images + others))
    assert not plates or set(images + others) == set(paths)
    for plate in plates:
        assert len(set(plate.images.values())) == len(plate.images)
        assert all(plate.others.values())
