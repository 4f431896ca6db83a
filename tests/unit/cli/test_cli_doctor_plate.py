"""`vfsd doctor --plate`: what was recognised and what was left, for people and for programs; and wrong formats."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vfsd.cli import main

NAMES = [f"P_{well}_s{site}_w1.TIF" for well in ("B02", "B03") for site in (1, 2)] + ["P_H12_s1_w1.TIF"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plate = tmp_path / "plate 1"
    plate.mkdir()
    for name in (*NAMES, "P_B02_s1_w1_thumb.TIF", "notes.txt"):
        (plate / name).touch()
    (plate / "P.HTD").write_bytes(
        b'"HTSInfoFile", Version 1.0\r\n"XWells", 12\r\n"YWells", 8\r\n"WaveName1", "DAPI"\r\n'
    )
    (tmp_path / "elsewhere.txt").touch()
    return tmp_path


def test_a_plate_is_shown_with_its_wells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--plate", os.fspath(folder)]) == 0
    shown = capsys.readouterr().out
    for part in ("plate 1 (imagexpress)", "3 of 8 x 12", "DAPI", "it is a thumbnail", "it is no TIFF", "notes.txt"):
        assert part in shown
    assert " B · ● ● · · · · · · · · ·" in shown
    assert " H · · · · · · · · · · · ○" in shown
    assert "● 2 images   ○ 1   · none" in shown
    assert "1 files belong to no plate, first: elsewhere.txt" in shown


def test_programs_get_the_same_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--plate", os.fspath(folder), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (plate,) = document["plates"]
    assert plate["images"]["plate 1/P_H12_s1_w1.TIF"] == {
        **{"well": "H12", "field": 1, "time": 1, "channel": 1, "z": 1, "acquisition": 0, "projection": False}
    }
    assert set(plate["left"]) == {"plate 1/P.HTD", "plate 1/P_B02_s1_w1_thumb.TIF", "plate 1/notes.txt"}
    assert plate["facts"]["channels"][0]["name"] == "DAPI"
    assert document["of_no_plate"] == ["elsewhere.txt"]


def test_a_pattern_says_what_names_mean(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["doctor", "--plate", os.fspath(folder), "--pattern", "P_{well}_s{field}_w{channel}.tif", "--json"]) == 0
    )
    (plate,) = json.loads(capsys.readouterr().out)["plates"]
    assert (plate["instrument"], len(plate["images"])) == ("pattern", len(NAMES))


def test_a_folder_without_a_plate_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--plate", os.fspath(tmp_path)]) == 0
    assert "no plate was recognised" in capsys.readouterr().out


def test_names_do_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (b"\x1b[31m_B02_s1.tif", b"[bold]x_B02_s1.tif", b"\xff\n.txt"):
        (tmp_path / os.fsdecode(name)).touch()
    assert main(["doctor", "--plate", os.fspath(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "[bold]x" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor", "--plate-format", "imagexpress"],
        ["doctor", "--plate", ".", "--plate-format", "nikon"],
        ["doctor", "--plate", ".", "--pattern", "{row}.tif"],
        ["doctor", "--plate", ".", "--plate-format", "harmony", "--pattern", "{well}.tif"],
        ["convert", ".", "store", "--plate-format", "nikon"],
        ["convert", ".", "store", "--pattern", "{well"],
        ["mount", ".", "mnt", "--plate-format", "nikon"],
        ["mount", ".", "mnt", "-o", "plate_format=nikon"],
        ["mount", ".", "mnt", "-o", "pattern={nothing}"],
    ],
    ids=" ".join,
)
def test_wrong_formats_are_usage_errors(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("vfsd: ")
    if "nikon" in "".join(arguments):
        assert "the known ones are biotek, cellomics" in said
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--plate", os.fspath(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
