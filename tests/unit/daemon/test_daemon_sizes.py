"""Sizes: what people type, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.daemon.sizes import LARGEST, UNITS, format_size, parse_size
from vfsd.errors import UsageProblem


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("8G", 8 << 30),
        ("8g", 8 << 30),
        ("8GiB", 8 << 30),
        ("8Gi", 8 << 30),
        ("8GB", 8 * 10**9),
        ("512MiB", 512 << 20),
        ("2TB", 2 * 10**12),
        ("1.5K", 1536),
        ("0.1KB", 100),
        (" 10 MB ", 10**7),
        ("100B", 100),
    ],
)
def test_sizes_mean_what_coreutils_say(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "G",
        "-5",
        "+5",
        "8X",
        "8GG",
        "iB",
        "8 iB",
        "1e9",
        "nan",
        "0x10",
        "1,5G",
        "8G8",
        "٣G",
        "9" * 30,
        "9E",
        "1" * 5000,
    ],
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        parse_size(text)
    assert caught.value.exit_code == 1
    assert len(str(caught.value)) < 300


@given(st.text(max_size=60))
def test_no_text_does_harm(text: str) -> None:
    size, said = 0, "none"
    try:
        size = parse_size(text)
    except UsageProblem as error:
        said = str(error)
    assert 0 <= size <= LARGEST
    assert said.isprintable()


@given(st.integers(0, 2**20), st.sampled_from(UNITS[:4]))
def test_binary_and_decimal_units(number: int, unit: str) -> None:
    power = UNITS.index(unit) + 1
    assert parse_size(f"{number}{unit}") == parse_size(f"{number}{unit}iB") == number * 1024**power
    assert parse_size(f"{number}{unit}B") == number * 1000**power


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (8_300_000_000, "8.3 GB"),
    ],
)
def test_sizes_for_people(size: int, text: str) -> None:
    assert format_size(size) == text
