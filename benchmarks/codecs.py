"""LZ4 with byte shuffle, as vfsd stores planes, against gzip of level 1: speed on one thread, and size.

gzip gets the planes as Zarr's `gzip` codec does, unshuffled; with the shuffle in front of it is shown as well.

    python -m benchmarks.codecs [--quick] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.measure import Goal, Report, median, parser, take_turns
from benchmarks.planes import images_of, make_plate, pixels_of
from vfsd.codec.blosc import BloscParameters, compress, decompress_into

FULL_ROUNDS, QUICK_ROUNDS = 5, 1
PLANES = 8
FASTER, SIZE = 10.0, 1.1


def main() -> None:
    options = parser("LZ4 with shuffle against gzip-1.")
    chosen = options.parse_args()
    rounds = chosen.rounds or (QUICK_ROUNDS if chosen.quick else FULL_ROUNDS)
    with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=chosen.work) as folder:
        make_plate(Path(folder) / "plate", 1)
        planes = [np.ascontiguousarray(pixels_of(image)) for image in images_of(Path(folder) / "plate")[:PLANES]]
    size = sum(plane.nbytes for plane in planes)
    shuffled = [np.ascontiguousarray(plane.view(np.uint8).reshape(-1, 2).T) for plane in planes]
    out = np.empty_like(planes[0])

    def deflate(data: object) -> bytes:
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        return packer.compress(data) + packer.flush()

    coders: dict[str, tuple[list[object], Callable[[object], bytes], Callable[[bytes], object]]] = {
        "LZ4, shuffle": (
            list(planes),
            lambda plane: compress(plane, BloscParameters(2)),
            lambda frame: decompress_into(frame, out),
        ),
        "gzip-1": (list(planes), deflate, lambda data: zlib.decompress(data, 31)),
        "gzip-1 after shuffle": (list(shuffled), deflate, lambda data: zlib.decompress(data, 31)),
    }
    frames = {name: [encode(plane) for plane in given] for name, (given, encode, _) in coders.items()}

    def timed(work: Callable[[], object]) -> float:
        begun = time.perf_counter()
        work()
        return size / (time.perf_counter() - begun) / 1e6

    speeds = take_turns(
        {
            **{
                f"{name}, encode": lambda given=given, encode=encode: timed(lambda: [encode(one) for one in given])
                for name, (given, encode, _) in coders.items()
            },
            **{
                f"{name}, decode": lambda name=name, decode=decode: timed(lambda: [decode(one) for one in frames[name]])
                for name, (_, _, decode) in coders.items()
            },
        },
        rounds,
    )
    report = Report("codecs")
    for way in ("encode", "decode"):
        ours, peer = (median(speeds[f"{name}, {way}"]) for name in ("LZ4, shuffle", "gzip-1"))
        report.goals.append(Goal(f"LZ4 with shuffle against gzip-1, {way}", "MB/s", ours, peer, ours / peer, FASTER))
    sizes = {name: sum(map(len, made)) / size for name, made in frames.items()}
    ours, peer = sizes["LZ4, shuffle"], sizes["gzip-1"]
    report.goals.append(
        Goal("LZ4 with shuffle against gzip-1, size", "of the planes", ours, peer, peer / ours, 1 / SIZE)
    )
    report.details = {"MB/s": speeds, "size": sizes, "planes": len(planes)}
    report.publish(chosen.json)


if __name__ == "__main__":
    main()
