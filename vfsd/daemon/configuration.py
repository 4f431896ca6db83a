"""Where the value of each setting comes from: default < /etc/vfsd.toml < the user's file < environment < options.

Each source is a *layer*: an origin in words and the values it gives. Everything is read before anything is
used, and whatever is not understood is an error that names the file or variable: a misspelt setting must not
pass for a set one. Nothing here looks at the machine beyond those files.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfsd.daemon.options import MountOptions
from vfsd.daemon.settings import BY_NAME, SETTINGS, Kind, Setting, nearest
from vfsd.errors import UnfitError, UsageProblem, shown_path

SYSTEM_FILE = Path("/etc/vfsd.toml")
# No file of settings is longer; what is, is another file.
LONGEST_FILE = 1 << 20
# How like a setting's a variable's name is that can be nothing else; people may have variables of their own.
SURELY_MEANT = 0.8
# Variables that mean something else.
OTHER_VARIABLES = frozenset({"VFSD_DEBUG"})


@dataclass(frozen=True, slots=True)
class Chosen:
    """One value and where it was set."""

    value: Any
    origin: str


@dataclass(frozen=True, slots=True)
class Layer:
    """What one source sets: setting name → value and origin."""

    values: Mapping[str, Chosen]


def user_file(environ: Mapping[str, str]) -> Path | None:
    """The user's own file, whether it exists or not; None without a home."""
    base = environ.get("XDG_CONFIG_HOME")
    if base and os.path.isabs(base):
        return Path(base) / "vfsd.toml"
    home = environ.get("HOME")
    return Path(home) / ".config" / "vfsd.toml" if home and os.path.isabs(home) else None


def standing_layers(environ: Mapping[str, str] | None = None, system_file: Path = SYSTEM_FILE) -> list[Layer]:
    """What holds for every mount of this user, lowest first: the files that exist, then the environment.

    Raises
    ------
    UsageProblem
        For a file that is no TOML, an unknown key, or a value that is not understood.
    UnfitError
        For a file that cannot be read.
    """
    environment = os.environ if environ is None else environ
    files = [system_file, user_file(environment)]
    return [*(read_file(path) for path in files if path is not None), read_environment(environment)]


def read_file(path: Path) -> Layer:
    """The settings of one TOML file; a missing file sets nothing."""
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST_FILE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return Layer({})
    except OSError as error:
        raise UnfitError(f"cannot be read: {error.strerror}", path=path) from error
    if len(data) > LONGEST_FILE:
        raise UsageProblem("is too long for a file of settings", path=path)
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UsageProblem(f"is not UTF-8 (byte {error.start})", path=path) from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageProblem(f"is no TOML: {error}", path=path) from error
    values = {}
    for key, value in document.items():
        setting = _known(key, path)
        if setting.one_mount:
            raise UsageProblem(f"{key} belongs to one mount: give {setting.option} with it", path=path)
        values[setting.name] = Chosen(_from_toml(setting, value, path), shown_path(path))
    return Layer(values)


def read_environment(environ: Mapping[str, str]) -> Layer:
    """The settings of `VFSD_…` variables; a name that is nearly a setting's is an error, others are not ours."""
    by_suffix = {setting.variable.removeprefix("VFSD_"): setting for setting in SETTINGS}
    values = {}
    for name, text in environ.items():
        suffix = name.removeprefix("VFSD_")
        if suffix == name or name in OTHER_VARIABLES:
            continue
        setting = by_suffix.get(suffix)
        if setting is not None:
            values[setting.name] = Chosen(_standing(setting, text, f"${name}"), f"${name}")
        elif (meant := nearest(suffix, by_suffix, likeness=SURELY_MEANT)) is not None:
            raise UsageProblem(f"the variable {shown_path(name)} is not known", remedy=f"Did you mean VFSD_{meant}?")
    return Layer(values)


def option_layer(given: Mapping[str, Any], origin: str | None = None) -> Layer:
    """Options of a command line, None or absent where not given; texts are read, flags are taken as they are.

    Parameters
    ----------
    given : mapping
        Setting name → text, truth, or None.
    origin : str, optional
        What to call them; by default their own option.
    """
    values = {}
    for name, value in given.items():
        if value is None:
            continue
        setting = BY_NAME[name]
        if isinstance(value, str):
            value = _read(setting, value, origin or setting.option)
        values[name] = Chosen(value, origin or setting.option)
    return Layer(values)


def choose(layers: Iterable[Layer]) -> dict[str, Chosen]:
    """The value of each setting that any layer sets; later layers win."""
    chosen: dict[str, Chosen] = {}
    for layer in layers:
        chosen.update(layer.values)
    return chosen


def values(names: Iterable[str], given: Layer) -> dict[str, Any]:
    """What each of these settings is for a command with these options; None where nobody sets it."""
    chosen = choose([*standing_layers(), given])
    return {name: chosen[name].value if name in chosen else None for name in names}


def make_mount_options(
    source: Path, mountpoint: Path, chosen: Mapping[str, Chosen], *, foreground: bool, fuse_options: tuple[str, ...]
) -> MountOptions:
    """The options of one mount; settings that nobody set keep their defaults."""
    fields = {BY_NAME[name].target: found.value for name, found in chosen.items()}
    return MountOptions(source, mountpoint, foreground=foreground, fuse_options=fuse_options, **fields)


def _known(key: str, path: Path) -> Setting:
    setting = BY_NAME.get(key.replace("-", "_"))
    if setting is not None:
        return setting
    meant = nearest(key.replace("-", "_"), BY_NAME)
    remedy = f"Did you mean {meant}?" if meant is not None else "'vfsd config' lists the settings"
    raise UsageProblem(f"the setting {shown_path(key)!r} is not known", path=path, remedy=remedy)


def _from_toml(setting: Setting, value: Any, path: Path) -> Any:
    if setting.kind is Kind.FLAG and isinstance(value, bool):
        return value
    if setting.kind in (Kind.SIZE, Kind.LEVELS) and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if setting.kind is Kind.FLAG or not isinstance(value, str):
        raise UsageProblem(f"{setting.name} is {setting.kind.value}", path=path)
    return _standing(setting, value, shown_path(path))


def _standing(setting: Setting, text: str, origin: str) -> Any:
    """Read a value that holds wherever a command is run: its path must not depend on the folder one is in."""
    if setting.kind is Kind.PATH and text:
        text = os.path.expanduser(text)
        if not os.path.isabs(text):
            raise UsageProblem(f"{origin}: {setting.name}: a path must begin with / or ~")
    return _read(setting, text, f"{origin}: {setting.name}")


def _read(setting: Setting, text: str, where: str) -> Any:
    try:
        return setting.read(text)
    except UsageProblem as problem:
        raise UsageProblem(f"{where}: {problem.message}", remedy=problem.remedy) from None
