"""`-o` as fstab writes it: what it sets, what it passes on, what it ignores, and that nothing misspelt passes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.cli.mount_options import GivenOptions, parse_mount_options
from vfsd.errors import UsageProblem


def test_a_line_of_fstab() -> None:
    given_options = parse_mount_options(
        ["ro,allow_other,ram=8G,cache-size=1TB,store=/s p/x.vfs,noatime", "_netdev,nofail,x-systemd.requires=/a,user"]
    )
    assert given_options == GivenOptions(
        read_only=True,
        allow_other=True,
        ram=8 << 30,
        cache_size=10**12,
        store=Path("/s p/x.vfs"),
        kernel=("noatime",),
    )


@pytest.mark.parametrize("option", ["cache-size=1M", "cache_size=1M"])
def test_dashes_and_underscores_mean_the_same(option: str) -> None:
    assert parse_mount_options([option]).cache_size == 1 << 20


def test_levels_are_a_number_or_found() -> None:
    assert parse_mount_options(["levels=2"]).levels == 2
    assert parse_mount_options(["levels=2,levels=0"]).levels == 0
    assert parse_mount_options(["levels=2,levels=auto"]).levels is None


def test_the_last_of_contradicting_options_counts() -> None:
    assert parse_mount_options(["ro,rw"]).read_only is False
    assert parse_mount_options(["rw", "ro"]).read_only is True
    assert parse_mount_options(["ram=1M,ram=2M"]).ram == 2 << 20


@pytest.mark.parametrize(
    "option", ["", ",,", "defaults", "rw,suid,dev,exec,async", "X-mine=1", "user=ada", "comment=x"]
)
def test_what_means_nothing_to_us_sets_nothing(option: str) -> None:
    found = parse_mount_options([option])
    assert found in (GivenOptions(), GivenOptions(read_only=False))


@pytest.mark.parametrize(
    "option",
    [
        "rams=8G",
        "ram",
        "ram=",
        "ram=lots",
        "levels=many",
        "levels=-1",
        "levels=31",
        "store=",
        "ro=1",
        "allow_root",
        "noatime=yes",
        "max_read=4096",
        "auto_unmount",
        "=",
    ],
)
def test_unknown_and_malformed_options_are_usage_errors(option: str) -> None:
    with pytest.raises(UsageProblem):
        parse_mount_options([option])


@given(st.text(max_size=40))
def test_no_text_does_harm(text: str) -> None:
    said = ""
    try:
        parse_mount_options([text])
    except UsageProblem as error:
        said = str(error)
    assert said == "" or said.isprintable()


def test_what_names_mean_may_stand_in_fstab() -> None:
    given_options = parse_mount_options(["plate-format=harmony", "pattern={row}{column}_s{field}.tif"])
    assert given_options == GivenOptions(plate_format="harmony", pattern="{row}{column}_s{field}.tif")
    with pytest.raises(UsageProblem, match="needs a value"):
        parse_mount_options(["plate_format"])
