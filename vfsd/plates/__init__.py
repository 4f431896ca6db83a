"""File names and vendor metadata → plate positions, one module per instrument; and a plate to try things on.

`recognise_plates` is the way in. An instrument's module (`imagexpress`) implements `instrument.Instrument`
and is registered in `recognise.INSTRUMENTS`; what it finds are the plain values of `model`. `demo` writes a
simulated plate and is imported only by who wants one. Nothing here keeps state, takes a lock or opens an
image.
"""

from vfsd.plates.imagexpress import pixel_size_from_description
from vfsd.plates.instrument import METADATA_READ_LIMIT, Instrument
from vfsd.plates.model import ChannelFacts, Plate, PlateFacts, PlatePosition, row_index, row_name
from vfsd.plates.recognise import INSTRUMENTS, recognise_plates

__all__ = [
    "INSTRUMENTS",
    "METADATA_READ_LIMIT",
    "ChannelFacts",
    "Instrument",
    "Plate",
    "PlateFacts",
    "PlatePosition",
    "pixel_size_from_description",
    "recognise_plates",
    "row_index",
    "row_name",
]
