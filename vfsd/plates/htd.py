"""The HTD file of a MetaXpress plate: what the acquisition protocol said.

A text of lines `"Key", value, …` (CRLF; Latin-1 or UTF-8), as MetaXpress 6.7 writes it. It is taken line by
line: a line that cannot be right is left out, the others still count. It describes the protocol, not what was
acquired: it may list channels and time points that no file has. Parsing is linear in at most
METADATA_READ_LIMIT bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from vfsd.plates.metadata import METADATA_READ_LIMIT
from vfsd.plates.model import MAX_COLUMNS, MAX_ROWS

# Beyond these a number is damage: the instrument offers about ten filters, and a million of anything is no
# plate.
MAX_WAVELENGTHS = 99
MAX_STEPS = 99_999

# Names longer than this are damage; people see them in menus.
MAX_NAME_LENGTH = 100

_LINE = re.compile(r'\s*"([^"]+)"\s*,?(.*)')
_WAVE_NAME = re.compile(r"wavename(\d{1,3})", re.ASCII)
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)

# Every HTD begins with this key; a file in which neither it nor any other of our keys stands is something
# else.
_FIRST_KEY = "htsinfofile"


class HtdError(ValueError):
    """These bytes are no HTD file."""


@dataclass(frozen=True, slots=True)
class Htd:
    """What an HTD declares; None where it says nothing that could be true.

    Parameters
    ----------
    rows, columns : int, optional
        The plate's format (`YWells`, `XWells`).
    time_points : int, optional
        `TimePoints`, at least 1.
    z_steps : int, optional
        Planes of a stack, at least 1: `ZSteps`, or 1 where `ZSeries` is FALSE.
    channel_names : dict of int to str
        `WaveName<n>` by n. An empty name is left out.
    """

    rows: int | None
    columns: int | None
    time_points: int | None
    z_steps: int | None
    channel_names: dict[int, str]


def parse_htd(data: bytes) -> Htd:
    """Read an HTD file.

    Raises
    ------
    HtdError
        Not one line of it is a line of an HTD.
    """
    values = _values_by_key(data[:METADATA_READ_LIMIT])
    names: dict[int, str] = {}
    for key, value in values.items():
        wave = _WAVE_NAME.fullmatch(key)
        name = _name(value)
        if wave and name and 1 <= int(wave[1]) <= MAX_WAVELENGTHS:
            names.setdefault(int(wave[1]), name)
    z_steps = _number(values.get("zsteps"), MAX_STEPS)
    if _flag(values.get("zseries")) is False:
        z_steps = 1
    htd = Htd(
        rows=_number(values.get("ywells"), MAX_ROWS),
        columns=_number(values.get("xwells"), MAX_COLUMNS),
        time_points=_number(values.get("timepoints"), MAX_STEPS),
        z_steps=z_steps,
        channel_names=names,
    )
    if _FIRST_KEY not in values and htd == Htd(None, None, None, None, {}):
        raise HtdError("it is empty" if not data.strip(b"\0 \r\n\t") else "no line of it is a line of an HTD")
    return htd


def _values_by_key(data: bytes) -> dict[str, str]:
    """Key in lower case → the rest of its line. Of a repeated key the first counts."""
    values: dict[str, str] = {}
    # Split as bytes: descriptions hold control characters such as U+0085 at which text would be split as
    # well.
    for raw in data.removeprefix(b"\xef\xbb\xbf").splitlines():
        line = _LINE.fullmatch(_decode(raw))
        if line:
            values.setdefault(line[1].strip().lower(), line[2].strip())
    return values


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _unquoted(value: str) -> str:
    """The first value of a line; a quote that is never closed ends with the line."""
    if value.startswith('"'):
        return value[1:].partition('"')[0].strip()
    return value.partition(",")[0].strip()


def _number(value: str | None, largest: int) -> int | None:
    """A whole number of 1 to `largest`, else None."""
    text = _unquoted(value or "")
    if not _NUMBER.fullmatch(text):
        return None
    number = int(text)
    return number if 1 <= number <= largest else None


def _flag(value: str | None) -> bool | None:
    return {"TRUE": True, "FALSE": False}.get(_unquoted(value or "").upper())


def _name(value: str) -> str | None:
    """A name fit to be shown: printable, of sensible length."""
    text = "".join(character for character in _unquoted(value)[: 4 * MAX_NAME_LENGTH] if character.isprintable())
    return text[:MAX_NAME_LENGTH].strip() or None
