"""BioTek (Agilent) Cytation and Lionheart, as Gen5 names its images.

    D6_01_2_4_GFP_001.tif       <well>_<read step>_<channel>_<field>[Z<slice>]_<channel's name>_<time point>

Each read step is an acquisition of its own; a negative step means an image that Gen5 made (stitched, transformed). Names
do not say the plate's name, and there is no metadata but in the images.
"""

from __future__ import annotations

import re
from typing import final

from vfsd.plates.instrument import Listing
from vfsd.plates.metadata import MetadataReader
from vfsd.plates.model import PlateFacts, PlatePosition
from vfsd.plates.naming import MAX_CHANNEL, NO_POSITION, NO_TIFF, TIFF_NAME, number_of, numbers_of, well_of
from vfsd.plates.scheme import Document, NameReader, PlateGroup, reader_of

# Gen5 pads the read step to two digits and the time point to three; fewer would claim anybody's `t1_2_3_4_mask_5.tif`.
_NAME = re.compile(
    rb"(?P<well>[a-z]{1,2}\d{1,2})_(?P<step>\d{2,}|-\d+)_(?P<channel>\d+)_(?P<field>\d+)(?:Z(?P<z>\d+))?"
    rb"_(?P<name>[^/]+)_(?P<time>\d{3,})\.tiff?",
    re.IGNORECASE | re.DOTALL,
)


@final
class BioTek:
    """The scheme of Gen5's images."""

    name = "biotek"
    hint = b".tif"

    def reader(self, listing: Listing, metadata: MetadataReader) -> NameReader:
        return reader_of(_NAME, _position)

    def document(self, directory: bytes, file_name: bytes) -> Document | None:
        return None

    def find(self, group: PlateGroup, metadata: MetadataReader) -> None:
        return None

    def describe(self, group: PlateGroup, metadata: MetadataReader) -> None:
        group.facts = PlateFacts(channels=group.channels(lambda number: None))

    def reason(self, path: bytes) -> str:
        return NO_POSITION if TIFF_NAME.fullmatch(path) else NO_TIFF


def _position(match: re.Match[bytes]) -> PlatePosition | str:
    if match["step"].startswith(b"-"):
        return "it was made from other images (a negative read step)"
    well = well_of(match["well"])
    if isinstance(well, str):
        return well
    numbers = numbers_of({part: match[part] for part in ("step", "field", "z", "time")})
    if isinstance(numbers, str):
        return numbers
    channel = number_of(match["channel"], MAX_CHANNEL)
    if channel is None:
        return f"its channel number is above {MAX_CHANNEL}"
    acquisition = max(0, numbers["step"] - 1)
    return PlatePosition(*well, numbers["field"], numbers["time"], channel, numbers.get("z", 0), acquisition)
