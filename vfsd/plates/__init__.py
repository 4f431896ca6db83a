"""File names and vendor metadata → plate positions and facts, one module per instrument; and a plate to try things on.

`recognise_plates` is the way in; `choose_formats` says which instruments it asks. An instrument implements
`instrument.Instrument`; most are a scheme of names (`scheme.NameScheme`) and read metadata through
`metadata.MetadataReader` and `xml_stream`. Ours are listed in `registry`; other packages add theirs as entry points of
the group `vfsd.plates`. What is found are the plain values of `model`. `demo` writes a simulated plate and is
imported only by who wants one. Nothing here takes a lock
or opens an image; kept between calls are only which instruments there are, and the last large documents that were
parsed, by their digest.
"""

from vfsd.plates.colours import colour_of_light
from vfsd.plates.instrument import Instrument, ReadFile
from vfsd.plates.labels import LabelImage, find_labels
from vfsd.plates.metaseries import channel_from_description, pixel_size_from_description, stage_from_description
from vfsd.plates.model import ChannelFacts, FieldKey, Plate, PlateFacts, PlatePosition, row_index, row_name
from vfsd.plates.pages import DESCRIPTION_LIMIT, PageOffset, page_offsets
from vfsd.plates.recognise import recognise_plates
from vfsd.plates.registry import PlateFormats, choose_formats, known_instruments

__all__ = [
    "DESCRIPTION_LIMIT",
    "ChannelFacts",
    "FieldKey",
    "Instrument",
    "LabelImage",
    "PageOffset",
    "Plate",
    "PlateFacts",
    "PlateFormats",
    "PlatePosition",
    "ReadFile",
    "channel_from_description",
    "choose_formats",
    "colour_of_light",
    "find_labels",
    "known_instruments",
    "page_offsets",
    "pixel_size_from_description",
    "recognise_plates",
    "row_index",
    "row_name",
    "stage_from_description",
]
