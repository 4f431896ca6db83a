"""Thermo Cellomics ArrayScan and CellInsight, as exported.

    AS_09047_050428030001_O01f00d2.TIF      <plate's barcode>_<well>f<field>d<channel>

Fields and channels count from 0. Object masks (`…o2.TIF`) and the vendor's own `.C01` and `.DIB` are no images of
this plate. Facts lie in databases that are not read.
"""

from __future__ import annotations

import re
from typing import final

from vfsd.plates.instrument import Listing
from vfsd.plates.metadata import MetadataReader
from vfsd.plates.model import ChannelFacts, PlateFacts, PlatePosition
from vfsd.plates.naming import MAX_CHANNEL, NO_POSITION, NO_TIFF, TIFF_NAME, number_of, split_path, text_of, well_of
from vfsd.plates.scheme import Document, NameReader, PlateGroup, reader_of

_NAME = re.compile(
    rb"(?P<plate>.+)_(?P<well>[a-z]{1,2}\d{2})f(?P<field>\d+)d(?P<channel>\d+)\.tiff?", re.IGNORECASE | re.DOTALL
)
_MASK = re.compile(rb".+_[a-z]{1,2}\d{2}f\d+o\d+\.tiff?", re.IGNORECASE | re.DOTALL)
_OWN = re.compile(rb".+_[a-z]{1,2}\d{2}f\d+d\d+\.(c\d\d|dib)", re.IGNORECASE | re.DOTALL)


@final
class Cellomics:
    """The scheme of Cellomics' exports."""

    name = "cellomics"
    hint = b".tif"

    def reader(self, listing: Listing, metadata: MetadataReader) -> NameReader:
        return reader_of(_NAME, _position)

    def document(self, directory: bytes, file_name: bytes) -> Document | None:
        return None

    def find(self, group: PlateGroup, metadata: MetadataReader) -> None:
        return None

    def describe(self, group: PlateGroup, metadata: MetadataReader) -> None:
        group.facts = PlateFacts(channels=group.channels(ChannelFacts), name=text_of(group.spelled))

    def reason(self, path: bytes) -> str:
        file_name = split_path(path)[1]
        if _OWN.fullmatch(file_name) is not None:
            return "it is an image in the vendor's own format, and no TIFF"
        if TIFF_NAME.fullmatch(file_name) is None:
            return NO_TIFF
        return "it is a mask of objects, made from an image" if _MASK.fullmatch(file_name) else NO_POSITION


def _position(match: re.Match[bytes]) -> PlatePosition | str:
    at = well_of(match["well"])
    field, channel = number_of(match["field"]), number_of(match["channel"], MAX_CHANNEL)
    if isinstance(at, str):
        return at
    if field is None or channel is None:
        return "its field or channel number is absurd"
    return PlatePosition(*at, field, 0, channel, 0)
