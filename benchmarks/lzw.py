"""LZW strips decoded and encoded, one thread, against imagecodecs doing the same.

The strips are of simulated camera planes (or of TIFFs given, as they are), encoded by imagecodecs: both decode the same
codes, and encode the same bytes. Ours also finds the Clear codes when it decodes, and puts them where they were.

    python -m benchmarks.lzw [--quick] [--rounds N] [--json FILE] [TIFF ...]
"""

from __future__ import annotations

import time
from pathlib import Path

import imagecodecs
import numpy as np

from benchmarks.measure import Goal, Report, median, parser, take_turns
from vfsd.codec.lzw import decode_strip, encode_strip

SIDE = 1080
FULL_ROUNDS, QUICK_ROUNDS = 15, 3
TARGET_RATIO = 1.0
GOAL_MB_PER_S = 80


def camera_planes() -> list[bytes]:
    """Two planes: a dim one, and one with a structure of many levels."""
    draw = np.random.default_rng(1)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    bright = 4000 * np.exp(-((rows - SIDE / 2) ** 2 + (columns - SIDE / 2) ** 2) / SIDE**2)
    return [draw.poisson(mean).astype("<u2").tobytes() for mean in (np.full((SIDE, SIDE), 20.0), bright)]


def strips_of(path: Path) -> list[bytes]:
    """The bytes of each strip of an LZW file, decoded."""
    import tifffile

    with tifffile.TiffFile(path) as tiff, path.open("rb") as file:
        strips = []
        for page in tiff.pages:
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                file.seek(offset)
                strips.append(imagecodecs.lzw_decode(file.read(count)))
    return strips


def main() -> None:
    options = parser("LZW, decoded and encoded, against imagecodecs.")
    options.add_argument("tiffs", nargs="*", type=Path, metavar="TIFF")
    chosen = options.parse_args()
    rounds = chosen.rounds or (QUICK_ROUNDS if chosen.quick else FULL_ROUNDS)
    contents = [strip for path in chosen.tiffs for strip in strips_of(path)] or camera_planes()
    strips = [imagecodecs.lzw_encode(content) for content in contents]
    gaps = [
        decode_strip(strip, bytearray_view(len(content)))[1] for strip, content in zip(strips, contents, strict=True)
    ]
    megabytes = sum(map(len, contents)) / 1e6
    room = bytearray_view(2 * max(map(len, contents)))

    def decode() -> float:
        begun = time.perf_counter()
        for strip, content in zip(strips, contents, strict=True):
            decode_strip(strip, room[: len(content)])
        return time.perf_counter() - begun

    def encode() -> float:
        begun = time.perf_counter()
        for content, clears in zip(contents, gaps, strict=True):
            encode_strip(content, clears, room)
        return time.perf_counter() - begun

    def decode_peer() -> float:
        begun = time.perf_counter()
        for strip, content in zip(strips, contents, strict=True):
            imagecodecs.lzw_decode(strip, out=len(content))
        return time.perf_counter() - begun

    def encode_peer() -> float:
        begun = time.perf_counter()
        for content in contents:
            imagecodecs.lzw_encode(content)
        return time.perf_counter() - begun

    contestants = {"decode": decode, "decode_peer": decode_peer, "encode": encode, "encode_peer": encode_peer}
    times = take_turns(contestants, rounds)
    report = Report("lzw")
    for way in ("decode", "encode"):
        ours, peer = (megabytes / median(times[name]) for name in (way, f"{way}_peer"))
        report.goals.append(Goal(f"LZW {way}", "MB/s", ours, peer, ours / peer, TARGET_RATIO))
        report.goals.append(Goal(f"LZW {way}, a thread", "MB/s", ours, GOAL_MB_PER_S, ours / GOAL_MB_PER_S, 1.0))
    report.details = {
        "megabytes": megabytes,
        "strips": len(strips),
        "compressed": sum(map(len, strips)) / megabytes / 1e6,
    }
    report.publish(chosen.json)


def bytearray_view(size: int) -> memoryview:
    return memoryview(bytearray(size))


if __name__ == "__main__":
    main()
