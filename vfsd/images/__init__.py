"""TIFFs taken apart and put together again: bytes in = bytes out.

A TIFF whose pixels are uncompressed, or compressed by a greedy LZW encoder, is split into its *skeleton* (every byte
that is no pixel) and its *planes*; from both it is rebuilt exactly. How, in the order of use:

    layout = analyse_tiff(fd)                # where the pixels are; NotRebuildable: keep the file as it is
    skeleton = extract_skeleton(fd, layout)  # .to_bytes() into the catalogue, Skeleton.from_bytes() back
    plane = load_plane(fd, layout, 0)        # decoded, little-endian
    rebuild_into(target, skeleton, planes)   # the file again, byte for byte
    layout.locate(offset, length)            # or a range of it: pixels from here,
    skeleton.read_rest(offset, length)       # everything else from here

- `tags`: the numbers of the format
- `directory`: header, IFDs, tags' values
- `strips`: one LZW-compressed strip, both ways
- `layout`: where the pixels lie
- `analysis`: from directories to a layout
- `reading`: bytes from a file that may be cut meanwhile
- `skeleton`: all other bytes, and their compact form
- `pixels`: planes out of a file, and into its rebuilt copy
- `synthesis`: TIFFs that nobody wrote, over pixels that lie elsewhere
- `stack_metadata`: what such a TIFF says of its pixels, for OME and for ImageJ
- `decode`: pixels of the TIFFs that stay as they are: what may be decoded
- `decoder`, `decode_worker`: tifffile in processes of its own, since damaged data crash it

Every function may run on any thread, on descriptors that it borrows. The only state is the list of idle
decoder processes; its lock, the only one here, is held while one is taken or put back and never while another
lock is asked for. Hostile files end in `NotRebuildable`, `UndecodableImage`, `StripError` or `SkeletonError`, with
memory and time bounded; the file system's own errors pass as OSError. Files are never mapped, and nothing is written but
what the caller hands over as target.
"""

from vfsd.images.analysis import analyse_tiff, read_description
from vfsd.images.decode import UndecodableImage, decode_tiff
from vfsd.images.layout import NotRebuildable, PageLayout, PixelRun, Segment, TiffLayout
from vfsd.images.pixels import (
    encode_strip,
    is_direct,
    load_plane,
    place_plane,
    place_rest,
    read_plane,
    rebuild_into,
    swap_in_place,
    take_plane,
    write_plane,
)
from vfsd.images.reading import TruncatedImage
from vfsd.images.skeleton import Skeleton, SkeletonError, extract_skeleton
from vfsd.images.stack_metadata import (
    StackChannel,
    StackFacts,
    imagej_description,
    imagej_metadata,
    ome_xml,
    sensible,
)
from vfsd.images.strips import StripCoding, StripError
from vfsd.images.synthesis import (
    Stack,
    SynthesisError,
    SynthesizedTiff,
    synthesize_hyperstack,
    synthesize_ome_tiff,
)

__all__ = [
    "NotRebuildable",
    "PageLayout",
    "PixelRun",
    "Segment",
    "Skeleton",
    "SkeletonError",
    "Stack",
    "StackChannel",
    "StackFacts",
    "StripCoding",
    "StripError",
    "SynthesisError",
    "SynthesizedTiff",
    "TiffLayout",
    "TruncatedImage",
    "UndecodableImage",
    "analyse_tiff",
    "decode_tiff",
    "encode_strip",
    "extract_skeleton",
    "imagej_description",
    "imagej_metadata",
    "is_direct",
    "load_plane",
    "ome_xml",
    "place_plane",
    "place_rest",
    "read_description",
    "read_plane",
    "rebuild_into",
    "sensible",
    "swap_in_place",
    "synthesize_hyperstack",
    "synthesize_ome_tiff",
    "take_plane",
    "write_plane",
]
