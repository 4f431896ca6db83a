"""TIFFs for the tests: believable pictures, label images, and files that only claim to be TIFFs.

The damaged ones are written byte by byte after the TIFF 6.0 specification (section 2), so that no library
repairs what is to be broken. Everything is reproducible: the same arguments give the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

# TIFF 6.0 section 2: type number and the struct code of one value.
SHORT, LONG, ASCII = 3, 4, 2
TYPE_CODES = {SHORT: "H", LONG: "I", ASCII: "B"}

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_COUNTS = 273, 277, 278, 279

HEADER_SIZE = 8
HUGE = 2_000_000_000
"""Pixels along each side that nobody can hold in memory; within a LONG."""


def noisy_picture(shape: tuple[int, ...], dtype: Any = "uint16", *, seed: int = 0) -> np.ndarray[Any, np.dtype[Any]]:
    """Camera-like noise on an offset: compresses as real pictures do, each seed its own."""
    random = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return random.normal(100.0, 12.0, shape).astype(kind)
    top = min(np.iinfo(kind).max, 4095)
    return np.clip(random.normal(top / 8, top / 64, shape), 0, top).astype(kind)


def label_picture(shape: tuple[int, int], dtype: Any, *, seed: int = 0) -> np.ndarray[Any, np.dtype[Any]]:
    """A mask as segmentation leaves it: background 0 and round objects numbered from 1."""
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, dtype)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    for number in range(1, 12):
        row, column = random.integers(0, shape[0]), random.integers(0, shape[1])
        labels[(rows - row) ** 2 + (columns - column) ** 2 < int(random.integers(20, 120))] = number
    return labels


def write_tiff(path: Path, picture: np.ndarray[Any, np.dtype[Any]], **options: Any) -> Path:
    """One TIFF through tifffile, without a time of writing: the same picture gives the same bytes."""
    import tifffile

    tifffile.imwrite(path, picture, software="test", metadata=None, **options)
    return path


def read_tiff(path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    """A TIFF's first series, read by the library that everyone trusts."""
    import tifffile

    return np.asarray(tifffile.imread(path))


def directory_bytes(tags: Iterable[tuple[int, int, list[int]]], at: int, following: int = 0) -> bytes:
    """One little-endian image file directory placed at file offset `at`, its long values behind it."""
    entries = sorted(tags)
    tail_at = at + 2 + 12 * len(entries) + 4
    body, tail = struct.pack("<H", len(entries)), b""
    for number, kind, values in entries:
        packed = struct.pack(f"<{len(values)}{TYPE_CODES[kind]}", *values)
        if len(packed) <= 4:
            field = packed.ljust(4, b"\0")
        else:
            field = struct.pack("<I", tail_at + len(tail))
            tail += packed
        body += struct.pack("<HHI", number, kind, len(values)) + field
    return body + struct.pack("<I", following) + tail


def plain_tags(
    width: int, height: int, offsets: list[int], counts: list[int], *, bits: int = 16, compression: int = 1
) -> list[tuple[int, int, list[int]]]:
    """The tags of a one-channel picture."""
    return [
        (WIDTH, LONG, [width]),
        (HEIGHT, LONG, [height]),
        (BITS, SHORT, [bits]),
        (COMPRESSION, SHORT, [compression]),
        (PHOTOMETRIC, SHORT, [1]),
        (STRIP_OFFSETS, LONG, offsets),
        (SAMPLES, SHORT, [1]),
        (ROWS_PER_STRIP, LONG, [height]),
        (STRIP_COUNTS, LONG, counts),
    ]


def simple_tiff(picture: np.ndarray[Any, np.dtype[np.uint16]]) -> bytes:
    """A correct TIFF: header, pixels from byte 8, directory last, as acquisition software writes it."""
    height, width = picture.shape
    pixels = picture.astype("<u2").tobytes()
    at = HEADER_SIZE + len(pixels)
    tags = plain_tags(width, height, [HEADER_SIZE], [len(pixels)])
    return b"II*\0" + struct.pack("<I", at) + pixels + directory_bytes(tags, at)


def tiff_around(tags: list[tuple[int, int, list[int]]], pixels: bytes, *, following: int | None = None) -> bytes:
    """A TIFF with these tags; `following` is the next directory's offset, by default none."""
    at = HEADER_SIZE + len(pixels)
    return b"II*\0" + struct.pack("<I", at) + pixels + directory_bytes(tags, at, following or 0)


def hostile_tiffs() -> dict[str, bytes]:
    """Files that end in .tif and must be kept byte for byte, whatever they make a reader believe."""
    picture = noisy_picture((32, 48), seed=5)
    good = simple_tiff(picture)
    pixels = picture.astype("<u2").tobytes()
    end = HEADER_SIZE + len(pixels)
    count = len(pixels)
    return {
        "empty": b"",
        "one_byte": b"I",
        "header_only": b"II*\0\x08\0\0\0",
        "header_cut": b"II*\0\x08",
        "cut_in_pixels": good[: HEADER_SIZE + count // 2],
        "cut_in_directory": good[:-40],
        "cut_by_one_byte": good[:-1],
        "directory_past_end": b"II*\0" + struct.pack("<I", 0xFFFFFFF0) + pixels,
        "directory_follows_itself": tiff_around(plain_tags(48, 32, [8], [count]), pixels, following=end),
        "directories_in_a_circle": directories_in_a_circle(pixels),
        "strip_past_end": tiff_around(plain_tags(48, 32, [0x7FFFFFF0], [count]), pixels),
        "strip_longer_than_file": tiff_around(plain_tags(48, 32, [8], [0xFFFFFFFF]), pixels),
        "strip_over_header": tiff_around(plain_tags(48, 32, [0], [count]), pixels),
        "strips_overlap": tiff_around(
            [
                tag if tag[0] != ROWS_PER_STRIP else (ROWS_PER_STRIP, LONG, [16])
                for tag in plain_tags(48, 32, [8, 16], [count // 2] * 2)
            ],
            pixels,
        ),
        "strip_count_wrong": tiff_around(plain_tags(48, 32, [8], [count // 3]), pixels),
        "two_billion_square": tiff_around(plain_tags(HUGE, HUGE, [8], [count]), pixels),
        "two_billion_square_deflate": tiff_around(plain_tags(HUGE, HUGE, [8], [count], compression=8), pixels),
        "two_billion_square_lzw": tiff_around(plain_tags(HUGE, HUGE, [8], [count], compression=5), pixels),
        "no_pixels_at_all": tiff_around(plain_tags(0, 0, [8], [0]), pixels),
        "no_strips": tiff_around(plain_tags(48, 32, [8], [count])[:5], pixels),
        "unknown_compression": tiff_around(plain_tags(48, 32, [8], [count], compression=65000), pixels),
        "endless_tag": tiff_with_endless_tag(pixels),
        "big_tiff_cut": b"II+\0\x08\0\0\0" + struct.pack("<Q", 1 << 62),
        "text": b"this is no picture\n" * 50,
        "png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        "zeros": bytes(5000),
        "big_endian_noise": b"MM\0*" + bytes(range(255, 0, -1)) * 8,
        "good_with_tail": good + b"appended by some other program",
    }


def directories_in_a_circle(pixels: bytes) -> bytes:
    """Two directories, each naming the other as the next one."""
    tags = plain_tags(48, 32, [HEADER_SIZE], [len(pixels)])
    first_at = HEADER_SIZE + len(pixels)
    second_at = first_at + len(directory_bytes(tags, first_at))
    head = b"II*\0" + struct.pack("<I", first_at) + pixels
    return head + directory_bytes(tags, first_at, second_at) + directory_bytes(tags, second_at, first_at)


def tiff_with_endless_tag(pixels: bytes) -> bytes:
    """An ImageDescription that claims four billion characters."""
    tags = plain_tags(48, 32, [HEADER_SIZE], [len(pixels)])
    whole = bytearray(tiff_around([*tags, (270, ASCII, [65, 0])], pixels))
    entry = whole.index(struct.pack("<HHI", 270, ASCII, 2))
    whole[entry + 4 : entry + 8] = struct.pack("<I", 0xFFFFFFFF)
    return bytes(whole)
