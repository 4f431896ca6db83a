"""Names of the user's own: `{row}{column}_s{field}_w{channel}.tif`.

A pattern is matched against the end of the path, as many folders as it names, without regard to case; the plate is
rooted above them. `{part}` takes a part of the name, everything else stands for itself:

    {row} letters or a number from 1    {column} a number from 1    {well} both ("B02"), or {well:24}: a number that
    counts along rows of 24 columns    {field} {time} {z} {acquisition} numbers    {channel} a number, or a name
    without _    {plate} a name: of several in one folder each is a plate    {any} anything
"""

from __future__ import annotations

import re
from typing import final

from vfsd.errors import UsageProblem, shown_path
from vfsd.plates.instrument import Listing
from vfsd.plates.metadata import MetadataReader
from vfsd.plates.model import MAX_COLUMNS, PlateFacts, PlatePosition
from vfsd.plates.naming import (
    MAX_CHANNEL,
    Well,
    channel_of_name,
    number_of,
    numbers_of,
    text_of,
    well_at,
    well_of,
    well_of_number,
)
from vfsd.plates.scheme import Document, ImageName, NameReader, PlateGroup

_NUMBER = rb"\d+"
_NAME = rb"[^/]+?"
_PARTS = {
    "row": rb"(?:[a-z]{1,2}|\d+)",
    "column": _NUMBER,
    "well": rb"[a-z]{1,2}\d+",
    "field": _NUMBER,
    "time": _NUMBER,
    "z": _NUMBER,
    "acquisition": _NUMBER,
    "channel": rb"[^/_]+?",
    "plate": _NAME,
    "any": rb"[^/]*?",
}
_TOKEN = re.compile(r"\{([^{}]*)\}")

# Each part of unknown length multiplies the time that a name may take.
_MAX_LOOSE = 4
_LOOSE = ("any", "channel", "plate")
# The longest name that Linux file systems have.
_MAX_NAME = 255

_UNMATCHED = "its name does not fit the pattern"


@final
class PatternScheme:
    """The scheme of a user's pattern.

    Raises
    ------
    UsageProblem
        The pattern cannot be understood, or does not say the well.
    """

    name = "pattern"
    hint = b""

    def __init__(self, pattern: str) -> None:
        self._columns: int | None = None
        self._expression = self._compile(pattern)
        self._depth = pattern.strip("/").count("/")

    def _compile(self, pattern: str) -> re.Pattern[bytes]:
        pieces: list[bytes] = []
        seen: set[str] = set()
        place = 0
        text = pattern.strip("/")
        for token in _TOKEN.finditer(text):
            pieces.append(re.escape(_encoded(text[place : token.start()])))
            pieces.append(self._part(token[1], seen, pattern))
            place = token.end()
        rest = text[place:]
        if "{" in _TOKEN.sub("", text) or "}" in _TOKEN.sub("", text):
            raise UsageProblem(f"the pattern {shown_path(pattern)!r} has a brace without its partner")
        pieces.append(re.escape(_encoded(rest)))
        if "well" not in seen and not {"row", "column"} <= seen:
            raise UsageProblem(
                f"the pattern {shown_path(pattern)!r} says no well: it needs {{row}} and {{column}}, or {{well}}"
            )
        if "well" in seen and seen & {"row", "column"}:
            raise UsageProblem(f"the pattern {shown_path(pattern)!r} says the well twice")
        if sum(text.count("{" + part) for part in _LOOSE) > _MAX_LOOSE:
            raise UsageProblem(f"the pattern {shown_path(pattern)!r} has more than {_MAX_LOOSE} parts of any length")
        return re.compile(b"".join(pieces), re.IGNORECASE | re.DOTALL)

    def _part(self, token: str, seen: set[str], pattern: str) -> bytes:
        name, colon, columns = token.partition(":")
        if name not in _PARTS or (colon and name != "well"):
            known = ", ".join(f"{{{part}}}" for part in (*_PARTS, "well:24"))
            raise UsageProblem(
                f"the pattern {shown_path(pattern)!r} has an unknown part {{{shown_path(token)}}}; known are {known}"
            )
        expression = _PARTS[name]
        if name == "any":
            return expression
        if name in seen:
            raise UsageProblem(f"the pattern {shown_path(pattern)!r} has {{{name}}} twice")
        seen.add(name)
        if colon:
            if not columns.isascii() or not columns.isdigit() or not 1 <= int(columns[:9]) <= MAX_COLUMNS:
                raise UsageProblem(
                    f"the pattern {shown_path(pattern)!r} counts wells along 1 to {MAX_COLUMNS} columns, as in {{well:24}}"
                )
            self._columns = int(columns)
            expression = _NUMBER
        return b"(?P<%s>%s)" % (name.encode(), expression)

    def reader(self, listing: Listing, metadata: MetadataReader) -> NameReader:
        expression, depth = self._expression, self._depth

        def read(path: bytes, directory: bytes, file_name: bytes) -> ImageName | None:
            parts = path.rsplit(b"/", depth + 1)
            if len(parts) == depth + 2:
                root, end = parts[0], b"/".join(parts[1:])
            elif len(parts) == depth + 1:
                root, end = b"", path
            else:
                return None
            match = None if len(end) > _MAX_NAME * (depth + 1) else expression.fullmatch(end)
            if match is None:
                return None
            groups = match.groupdict()
            plate = groups.get("plate") or b""
            position = self._position(groups)
            if isinstance(position, str):
                return ImageName(path, root, plate, None, position, None, depth > 0)
            channel = groups.get("channel")
            name = None if channel is None or channel.isdigit() else channel
            return ImageName(path, root, plate, position, None, None, depth > 0, name)

        return read

    def _position(self, groups: dict[str, bytes]) -> PlatePosition | str:
        well = self._well(groups)
        if isinstance(well, str):
            return well
        numbers = numbers_of({part: groups.get(part) for part in ("field", "time", "z", "acquisition")})
        if isinstance(numbers, str):
            return numbers
        text = groups.get("channel", b"1")
        channel = number_of(text, MAX_CHANNEL) if text.isdigit() else channel_of_name(text)
        if channel is None:
            return f"its channel number is above {MAX_CHANNEL}"
        field, time, z = (numbers.get(part, 1) for part in ("field", "time", "z"))
        return PlatePosition(*well, field, time, channel, z, numbers.get("acquisition", 0))

    def _well(self, groups: dict[str, bytes]) -> Well | str:
        if self._columns is not None:
            return well_of_number(groups["well"], self._columns)
        if "well" in groups:
            return well_of(groups["well"])
        return well_at(groups["row"], groups["column"])

    def document(self, directory: bytes, file_name: bytes) -> Document | None:
        return None

    def find(self, group: PlateGroup, metadata: MetadataReader) -> None:
        return None

    def describe(self, group: PlateGroup, metadata: MetadataReader) -> None:
        group.facts = PlateFacts(channels=group.channels(lambda number: None), name=text_of(group.spelled) or None)

    def reason(self, path: bytes) -> str:
        return _UNMATCHED


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
