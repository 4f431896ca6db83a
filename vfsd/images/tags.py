"""The numbers of TIFF that vfsd reads: tags, types of values, names of compressions.

Sources: TIFF 6.0 (Adobe, 1992) with its technical notes, BigTIFF, and the registered private numbers of
libtiff.
"""

from __future__ import annotations

from typing import Final

WIDTH: Final = 256
HEIGHT: Final = 257
BITS_PER_SAMPLE: Final = 258
COMPRESSION: Final = 259
PHOTOMETRIC: Final = 262
FILL_ORDER: Final = 266
IMAGE_DESCRIPTION: Final = 270
STRIP_OFFSETS: Final = 273
SAMPLES_PER_PIXEL: Final = 277
ROWS_PER_STRIP: Final = 278
STRIP_BYTE_COUNTS: Final = 279
PLANAR_CONFIGURATION: Final = 284
PREDICTOR: Final = 317
TILE_WIDTH: Final = 322
TILE_LENGTH: Final = 323
TILE_OFFSETS: Final = 324
TILE_BYTE_COUNTS: Final = 325
SAMPLE_FORMAT: Final = 339
SUBSAMPLING: Final = 530
IMAGE_DEPTH: Final = 32997

TYPE_SIZES: Final = {
    kind: size
    for size, kinds in ((1, (1, 2, 6, 7)), (2, (3, 8)), (4, (4, 9, 11, 13)), (8, (5, 10, 12, 16, 17, 18)))
    for kind in kinds
}
"""Bytes of one value of each type."""

UNSIGNED_CODES: Final = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
"""struct's codes of the unsigned types: BYTE, SHORT, LONG, IFD, LONG8, IFD8."""

UNCOMPRESSED: Final = 1
LZW: Final = 5
JPEG: Final = 7

YCBCR: Final = 6
"""The photometric interpretation whose colour may be subsampled."""

COMPRESSION_NAMES: Final = {
    2: "CCITT",
    3: "CCITT fax 3",
    4: "CCITT fax 4",
    5: "LZW",
    6: "old JPEG",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG",
    34925: "LZMA",
    34934: "JPEG XR",
    48124: "JETRAW",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
}


def compression_name(scheme: int) -> str:
    """A TIFF compression scheme as people call it."""
    return COMPRESSION_NAMES.get(scheme, f"scheme {scheme}")
