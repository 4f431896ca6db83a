"""HTD files: real ones, hand-made ones and damaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.plates.htd import MAX_NAME_LENGTH, Htd, HtdError, parse_htd
from vfsd.plates.metadata import METADATA_READ_LIMIT

HEADER = b'"HTSInfoFile", Version 1.0\r\n'
NOTHING = Htd(None, None, None, None, {})


def test_real_stack_plate(shared_data: Path) -> None:
    data = (shared_data / "imagexpress_exported/9987_Plate_3434/9987.HTD").read_bytes()
    names = {1: "DAPI", 2: "FITC", 3: "Texas Red", 4: "Cy5"}
    assert parse_htd(data) == Htd(rows=8, columns=12, time_points=1, z_steps=3, channel_names=names)


def test_real_time_series(shared_data: Path) -> None:
    data = (shared_data / "imagexpress_exported/9987_Plate_3435/9987.HTD").read_bytes()
    names = {1: "DAPI", 2: "FITC", 3: "Texas Red", 4: "Cy5"}
    assert parse_htd(data) == Htd(rows=8, columns=12, time_points=6, z_steps=1, channel_names=names)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b'"XWells", 24\n"YWells", 16', Htd(16, 24, None, None, {})),
        (b'"xwells",24\r"YWELLS",   "16"', Htd(16, 24, None, None, {})),
        (b'"XWells", 12, 13', Htd(None, 12, None, None, {})),
        (b'"ZSteps", 5', Htd(None, None, None, 5, {})),
        (b'"ZSeries", FALSE\n"ZSteps", 5', Htd(None, None, None, 1, {})),
        (b'"ZSeries", TRUE\n"ZSteps", 5', Htd(None, None, None, 5, {})),
        (b'"WaveName1", "Gr\xfcn"', Htd(None, None, None, None, {1: "Grün"})),
        (b'"WaveName1", "Gr\xc3\xbcn"', Htd(None, None, None, None, {1: "Grün"})),
        (b'"WaveName2", "Texas, Red"', Htd(None, None, None, None, {2: "Texas, Red"})),
        (b'"WaveName2", Cy5', Htd(None, None, None, None, {2: "Cy5"})),
        (b'"WaveName1", "A"\n"WaveName1", "B"', Htd(None, None, None, None, {1: "A"})),
    ],
)
def test_lines_are_understood(lines: bytes, expected: Htd) -> None:
    assert parse_htd(lines) == expected
    assert parse_htd(HEADER + lines) == expected


@pytest.mark.parametrize(
    "line",
    [
        b'"XWells", twelve',
        b'"XWells", TRUE',
        b'"XWells", -12',
        b'"XWells", 12.5',
        b'"XWells", 0',
        b'"XWells", 49',
        b'"YWells", 33',
        b'"XWells", 1' + b"0" * 5000,
        b'"XWells", \xd9\xa1\xd9\xa2',
        b'"XWells',
        b"XWells, 12",
        b'"TimePoints", 100000',
        b'"ZSteps", 0',
        b'"ZSteps"',
        b'"WaveName0", "X"',
        b'"WaveName1000", "X"',
        b'"WaveName1", ""',
        b'"WaveName1", "\x00\x01"',
        b'"", 5',
        b'"',
    ],
)
def test_lines_that_cannot_be_right_are_left_out(line: bytes) -> None:
    assert parse_htd(HEADER + line) == NOTHING


def test_a_byte_order_mark_is_no_damage() -> None:
    assert parse_htd(b"\xef\xbb\xbf" + HEADER) == NOTHING
    assert parse_htd(b'\xef\xbb\xbf"XWells", 12') == Htd(None, 12, None, None, {})


def test_an_unclosed_quote_costs_no_other_line() -> None:
    htd = parse_htd(HEADER + b'"Description", "no end\r\n"XWells", 12\r\n"WaveName1", "DAPI\r\n"YWells", 8\r\n')
    assert htd == Htd(8, 12, None, None, {1: "DAPI"})


def test_a_truncated_file_gives_what_it_has() -> None:
    assert parse_htd(HEADER + b'"XWells", 12\r\n"YWel') == Htd(None, 12, None, None, {})


def test_channel_names_are_fit_to_be_shown() -> None:
    htd = parse_htd(b'"WaveName1", "DA\x00PI\x1b[31m"\n"WaveName2", "' + b"x" * 10_000 + b'"')
    assert htd.channel_names == {1: "DAPI[31m", 2: "x" * MAX_NAME_LENGTH}


@pytest.mark.parametrize("data", [b"", b"\0" * 4096, b"\r\n\r\n", b"well,count\r\nB02,17\r\n", b"II*\0\x08\0\0\0"])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(HtdError):
        parse_htd(data)


def test_what_lies_beyond_the_limit_is_not_read() -> None:
    filler = b'"Description", "' + b"x" * METADATA_READ_LIMIT + b'"\r\n'
    assert parse_htd(HEADER + filler + b'"XWells", 12\r\n') == NOTHING


@given(st.binary(max_size=2000))
def test_any_bytes_are_an_htd_or_refused(data: bytes) -> None:
    try:
        htd = parse_htd(data)
    except HtdError:
        return
    assert htd.rows is None or 1 <= htd.rows <= 32


@given(st.data())
def test_a_damaged_real_file_never_declares_more_than_a_plate(data: st.DataObject) -> None:
    whole = (
        HEADER + b'"XWells", 12\r\n"YWells", 8\r\n"TimePoints", 6\r\n"ZSeries", TRUE\r\n"ZSteps", 3\r\n'
        b'"WaveName1", "DAPI"\r\n"WaveName2", "FITC"\r\n"EndFile"\r\n'
    )
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = whole[:at] + data.draw(st.binary(max_size=8)) + whole[at + data.draw(st.integers(0, 40)) :]
    try:
        htd = parse_htd(damaged)
    except HtdError:
        return
    assert htd.columns is None or 1 <= htd.columns <= 48
    assert all(name.isprintable() and 1 <= number <= 99 for number, name in htd.channel_names.items())
