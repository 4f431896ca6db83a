"""Settings: which of their sources wins, what each may say, and that nothing misspelt or malformed passes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.cli import main
from vfsd.daemon.configuration import (
    LONGEST_FILE,
    choose,
    make_mount_options,
    option_layer,
    read_environment,
    read_file,
    standing_layers,
    user_file,
)
from vfsd.daemon.settings import SETTINGS, Kind
from vfsd.errors import UnfitError, UsageProblem


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def settings_of(path: Path) -> dict[str, Any]:
    return {name: chosen.value for name, chosen in read_file(path).values.items()}


def test_each_layer_stands_above_the_one_before(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".config").mkdir(parents=True)
    system = write(tmp_path / "vfsd.toml", 'ram = "1G"\ncache = "/one"\nkeep_in_ram = "1M"\nlevels = 1\n')
    user = write(home / ".config/vfsd.toml", 'ram = "2G"\ncache = "~/two"\nkeep-in-ram = 2097152\n')
    environment = {"HOME": str(home), "VFSD_RAM": "3G", "VFSD_CACHE": "/three", "VFSD_DEBUG": "1", "PATH": "/bin"}
    layers = [*standing_layers(environment, system), option_layer({"ram": "4G", "store": None})]
    chosen = choose(layers)
    assert {name: (found.value, found.origin) for name, found in chosen.items()} == {
        "ram": (4 << 30, "--ram"),
        "cache": (Path("/three"), "$VFSD_CACHE"),
        "keep_in_ram": (2 << 20, str(user)),
        "levels": (1, str(system)),
    }
    options = make_mount_options(Path("/a"), Path("/b"), chosen, foreground=True, fuse_options=())
    assert (options.ram, options.cache_dir, options.keep_in_ram, options.levels) == (
        4 << 30,
        Path("/three"),
        2 << 20,
        1,
    )
    assert options.stream_above is None
    assert options.foreground


def test_the_user_file_follows_the_xdg_folder() -> None:
    assert user_file({"HOME": "/h"}) == Path("/h/.config/vfsd.toml")
    assert user_file({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}) == Path("/x/vfsd.toml")
    assert user_file({"HOME": "/h", "XDG_CONFIG_HOME": "relative"}) == Path("/h/.config/vfsd.toml")
    assert user_file({}) is None


def test_all_kinds_of_values(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.toml",
        'ram = 4096\ncache_size = "1TB"\nread_only = true\nallow-other = false\nlevels = "auto"\n'
        'cache = "~/cache"\ntransport = "pyfuse3"\nplate_format = "harmony"\n',
    )
    assert settings_of(path) == {
        "ram": 4096,
        "cache_size": 10**12,
        "read_only": True,
        "allow_other": False,
        "levels": None,
        "cache": Path.home() / "cache",
        "transport": "pyfuse3",
        "plate_format": "harmony",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('rams = "8G"', "Did you mean ram"),
        ('cache-sise = "8G"', "Did you mean cache_size"),
        ('xyz = "8G"', "vfsd config"),
        ('ram = "lots"', "not a size"),
        ("ram = -1", "not a size"),
        ("ram = 1.5", "a size"),
        ("ram = true", "a size"),
        ("ram = [1]", "a size"),
        ("[ram]\na = 1", "a size"),
        ('ram = ""', "needs a value"),
        ('read_only = "yes"', "true or false"),
        ("read_only = 1", "true or false"),
        ("cache = 5", "a path"),
        ('cache = "relative/folder"', "must begin with /"),
        ('cache = "a\\u0000b"', "must begin with /|needs a value"),
        ('transport = "pigeon"', "none of: auto, pyfuse3, kernel"),
        ("levels = 99", "from 0 to"),
        ('store = "/a"', "belongs to one mount: give --store"),
        ("ingest = true", "belongs to one mount: give --ingest"),
        ("ram = ", "is no TOML"),
        ("ram = 1\nram = 2", "is no TOML"),
        ("a = " + "[" * 100_000, "is no TOML"),
        ("# " + "x" * LONGEST_FILE, "too long"),
    ],
    ids=lambda text: text[:20],
)
def test_a_file_that_is_not_understood_is_named_with_the_cause(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path / "c.toml", text)
    with pytest.raises(UsageProblem, match=said) as found:
        read_file(path)
    assert str(path) in str(found.value)


def test_files_that_are_not_there_empty_unreadable_or_not_utf8(tmp_path: Path) -> None:
    assert not read_file(tmp_path / "none.toml").values
    assert not read_file(write(tmp_path / "empty.toml", "")).values
    assert not read_file(tmp_path / "empty.toml" / "below").values
    with pytest.raises(UnfitError, match="cannot be read"):
        read_file(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"cache = '/\xe4'\n")
    with pytest.raises(UsageProblem, match="not UTF-8"):
        read_file(tmp_path / "latin.toml")


def test_a_variable_that_is_nearly_a_setting_is_an_error_and_others_are_not_ours() -> None:
    assert not read_environment({"VFSD_MY_LAB": "x", "VFSD_DEBUG": "1", "RAM": "x"}).values
    assert read_environment({"VFSD_INGEST": "yes"}).values["ingest"].value is True
    with pytest.raises(UsageProblem, match="Did you mean VFSD_CACHE_SIZE"):
        read_environment({"VFSD_CACHESIZE": "1G"})
    with pytest.raises(UsageProblem, match=r"VFSD_RAM.*not a size"):
        read_environment({"VFSD_RAM": "lots"})


@given(st.dictionaries(st.sampled_from([setting.variable for setting in SETTINGS]), st.text(max_size=30)))
def test_no_environment_does_harm(environ: dict[str, str]) -> None:
    said = ""
    try:
        read_environment(environ)
    except UsageProblem as error:
        said = str(error)
    assert said == "" or said.isprintable()


def test_the_table_names_fields_that_options_have() -> None:
    options = make_mount_options(Path("/a"), Path("/b"), {}, foreground=False, fuse_options=())
    for setting in SETTINGS:
        assert hasattr(options, setting.target), setting.name
        assert setting.kind is Kind.FLAG or setting.metavar or setting.choices, setting.name


def test_config_shows_values_and_origins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "vfsd.toml", 'ram = "8G"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("VFSD_LEVELS", "auto")
    assert main(["config"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["ram"].split(maxsplit=1)[1] == f"{'8.6 GB':<28} {tmp_path / 'vfsd.toml'}"
    assert lines["levels"].endswith("$VFSD_LEVELS")
    assert lines["cache_size"].endswith("default")
    assert main(["config", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["settings"]["ram"]["value"] == 8 << 30
    assert document["settings"]["store"]["origin"] == "default"
    assert {"path": os.fspath(tmp_path / "vfsd.toml"), "exists": True} in document["files"]
