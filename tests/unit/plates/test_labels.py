"""Names of label images: which image each is of, by every instrument's names; what only looks like one is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.errors import UsageProblem
from vfsd.plates import choose_formats, find_labels, recognise_plates
from vfsd.plates.label_names import LONGEST_NAME, MOST_WORDS, LabelNames
from vfsd.plates.survey import survey_folder

IMAGES = {
    "imagexpress": b"TimePoint_1/ZStep_2/9987_B02_s1_w1.TIF",
    "harmony": b"Images/r01c02f03p04-ch5sk1fk1fl1.tiff",
    "cellvoyager": b"P_B02_T0001F001L01A01Z01C01.tif",
    "scanr": b"data/A1--W00001--P00001--Z00000--T00000--GFP.tif",
    "embl": b"x--W0002--P001--Z000--T000--C01.tif",
    "matrixscreener": b"slide--S00/chamber--U00--V00/field--X00--Y00/"
    b"image--L00--S00--U00--V00--J20--E00--O00--X00--Y00--T00--Z00--C00.ome.tif",
    "cellomics": b"AS_09047_O01f00d2.TIF",
    "biotek": b"D6_01_1_4_DAPI_001.tif",
    "incell": b"A - 1(fld 1 wv UV - DAPI z 1).tif",
}


def there(*paths: bytes) -> object:
    def read(path: bytes, offset: int, size: int) -> bytes:
        if path in paths and size == 0:
            return b""
        raise FileNotFoundError(path)

    return read


def found(path: bytes, *images: bytes, **chosen: str) -> tuple[str, bytes] | None:
    """The label's name and the image that a path is a label of."""
    labels = find_labels([path], there(*images), formats=choose_formats(**chosen))  # type: ignore[arg-type]  # a reader
    label = labels.get(path)
    return None if label is None else (label.name, label.image)


@pytest.mark.parametrize("instrument", IMAGES)
def test_a_label_has_the_place_of_its_image(instrument: str) -> None:
    image = IMAGES[instrument]
    directory, _, file_name = image.rpartition(b"/")
    above = directory + b"/" if directory else b""
    dot = file_name.lower().index(b".ome.tif" if b".ome." in file_name else b".tif")
    stem, ending = file_name[:dot], file_name[dot:]
    (plate,) = recognise_plates([image], there())  # type: ignore[arg-type]  # a reader
    assert plate.instrument == instrument
    names = {
        "mask": above + stem + b"_mask" + ending,
        "nuclei_labels": above + stem + b"_Nuclei_labels.tif",
        "masks": above + b"masks/" + file_name,
        "cells": above + b"masks/" + stem + b"_cells" + ending,
        "cell_masks": b"cell masks/" + image,
    }
    labels = find_labels([*names.values(), image], there(image))  # type: ignore[arg-type]  # a reader
    assert {label.name: path for path, label in labels.items()} == names
    for label in labels.values():
        assert (label.plate.root, label.plate.key, label.plate.instrument) == (plate.root, plate.key, instrument)
        assert label.position == plate.images[image]


@pytest.mark.parametrize(
    "path",
    [
        b"notes_mask.txt",
        b"holiday_mask.tif",  # of no image of a plate
        b"P_B02_s1_w1_thumb.tif",
        b"P_B02_s1_w1_unmasked.tif",
        b"P_B02_s1_w1mask.tif",
        b"mask_B02_s1_w1.tif",  # the plate is called mask
        b"_mask.tif",
        b"mask.tif",
        b"masks/P_B02_s1_w1.tif",  # no such image is there
        b"labels_test/P_B02_s1_w1.tif",
        b"D6_01_1_4_Mask_001.tif",  # the channel is called Mask
        b"",
    ],
)
def test_these_are_no_labels(path: bytes) -> None:
    assert found(path) is None


def test_the_folder_counts_only_with_the_image_beside_it() -> None:
    path = b"run/masks/P_B02_s1_w1.tif"
    assert found(path, b"run/P_B02_s1_w1.TIF") == ("masks", b"run/P_B02_s1_w1.TIF")
    assert found(path, b"P_B02_s1_w1.tif") is None


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("{image}_cells.tif", b"a/P_B02_s1.tif", None),
        ("{image}_cells.tif", b"a/P_B02_s1_Cells.TIF", ("cells", b"a/P_B02_s1.TIF")),
        ("{image}_mask.tif", b"P_B02_s1_mask_2.tif", None),
        ("seg/{label}/{image} {any}.tiff", b"a/seg/Big Nuclei/P_B02_s1 v3.tiff", ("big_nuclei", b"a/P_B02_s1.tif")),
        ("{image}_{label}.tif", b"P_B02_s1_w1_big_cells.tif", ("big_cells", b"P_B02_s1_w1.tif")),
        ("none", b"P_B02_s1_mask.tif", None),
    ],
)
def test_patterns(pattern: str, path: bytes, expected: tuple[str, bytes] | None) -> None:
    assert found(path, labels=pattern) == expected


@pytest.mark.parametrize("pattern", ["", "x.tif", "{label}.tif", "{image", "{image}{image}.tif", "{image}_{well}.tif"])
def test_patterns_that_mean_nothing_are_refused(pattern: str) -> None:
    with pytest.raises(UsageProblem, match="label pattern"):
        choose_formats(labels=pattern)


@given(st.binary(max_size=80), st.sampled_from([None, "{image}_{label}.tif", "{any}/{image}.tif"]))
def test_any_path_gives_a_few_candidates(path: bytes, pattern: str | None) -> None:
    for name in (path, path + b"_mask.tif", b"masks/" + path + b".tif", path.replace(b"\0", b"_") * 20 + b".TIFF"):
        candidates = list(LabelNames(pattern).candidates(name))
        assert len(candidates) <= 1 + 2 * MOST_WORDS
        for one in candidates:
            assert 0 < len(one.label) <= LONGEST_NAME
            assert one.label.isascii()
            assert not set(one.label) & set("/.\0")
            assert name not in one.images


def test_a_survey_tells_labels_from_images(tmp_path: Path) -> None:
    for name in ("P_B02_s1_w1.TIF", "P_B02_s1_w1_mask.tif", "x.txt"):
        (tmp_path / name).write_bytes(b"")
    survey = survey_folder(tmp_path)
    assert list(survey.labels) == [b"P_B02_s1_w1_mask.tif"]
    assert list(survey.plates[0].images) == [b"P_B02_s1_w1.TIF"]
    assert list(survey.plates[0].others) == [b"x.txt"]
