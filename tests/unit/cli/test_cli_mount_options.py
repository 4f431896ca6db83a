"""`-o` as fstab writes it: what it sets, what it passes on, what it ignores, and that nothing misspelt passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.cli.mount_options import parse_mount_options
from vfsd.errors import UsageProblem


def settings_of(*arguments: str) -> dict[str, Any]:
    """The values that these `-o` set, by setting."""
    return {name: chosen.value for name, chosen in parse_mount_options(arguments).settings.values.items()}


def test_a_line_of_fstab() -> None:
    line = [
        "ro,allow_other,ram=8G,cache-size=1TB,store=/s p/x.vfs,noatime",
        "_netdev,nofail,x-systemd.requires=/a,user",
    ]
    assert settings_of(*line) == {
        "read_only": True,
        "allow_other": True,
        "ram": 8 << 30,
        "cache_size": 10**12,
        "store": Path("/s p/x.vfs"),
    }
    assert parse_mount_options(line).kernel == ("noatime",)


@pytest.mark.parametrize("option", ["cache-size=1M", "cache_size=1M"])
def test_dashes_and_underscores_mean_the_same(option: str) -> None:
    assert settings_of(option) == {"cache_size": 1 << 20}


def test_levels_are_a_number_or_found() -> None:
    assert settings_of("levels=2") == {"levels": 2}
    assert settings_of("levels=2,levels=0") == {"levels": 0}
    assert settings_of("levels=2,levels=auto") == {"levels": None}


def test_the_last_of_contradicting_options_counts() -> None:
    assert settings_of("ro,rw") == {"read_only": False}
    assert settings_of("rw", "ro") == {"read_only": True}
    assert settings_of("ram=1M,ram=2M") == {"ram": 2 << 20}
    assert settings_of("ingest,noingest") == {"ingest": False}
    assert settings_of("no_ingest,ingest=yes") == {"ingest": True}


def test_a_value_in_quotes_may_hold_commas() -> None:
    assert settings_of('ram=1M,store="/a,b/x.vfs",ro') == {
        "ram": 1 << 20,
        "store": Path("/a,b/x.vfs"),
        "read_only": True,
    }


def test_sloppy_leaves_out_what_is_not_known() -> None:
    assert set(parse_mount_options(["uid=5,errors=remount-ro,ro"], sloppy=True).settings.values) == {"read_only"}
    with pytest.raises(UsageProblem):
        parse_mount_options(["ram=lots"], sloppy=True)


def test_a_misspelt_option_is_told_its_nearest_neighbour() -> None:
    with pytest.raises(UsageProblem, match=r"Did you mean cache_size\?"):
        parse_mount_options(["cachesize=8G"])


@pytest.mark.parametrize(
    "option", ["", ",,", "defaults", "rw,suid,dev,exec,async", "X-mine=1", "user=ada", "comment=x"]
)
def test_what_means_nothing_to_us_sets_nothing(option: str) -> None:
    assert settings_of(option) in ({}, {"read_only": False})
    assert parse_mount_options([option]).kernel == ()


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
    found = settings_of("plate-format=harmony", "pattern={row}{column}_s{field}.tif")
    assert found == {"plate_format": "harmony", "pattern": "{row}{column}_s{field}.tif"}
    with pytest.raises(UsageProblem, match="needs a value"):
        parse_mount_options(["plate_format"])
