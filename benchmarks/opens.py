"""One file for a field instead of one for each plane, where each opening of a file costs 5 ms.

The latency of a busy network disk is injected: every opening of a chunk file or of a shard sleeps that long. A field of
36 planes is read from one shard, as vfsd stores it, and from one file a chunk, as Zarr does without shards; both by the
same decoder, one plane after the other, with nothing in the page cache. What opening costs without the latency is shown
as well.

    python -m benchmarks.opens [--quick] [--rounds N] [--latency MS] [--json FILE]
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.cold import files_below, make_cold
from benchmarks.measure import Goal, Report, median, parser, take_turns
from benchmarks.planes import images_of, make_plate, pixels_of
from vfsd.codec.blosc import BloscParameters, compress, decompress_into
from vfsd.codec.shard import ShardWriter, read_index

PLANES = 36
SIDE = 1080
"""A camera with 2 x 2 binning, as most screens use: the claim is about many planes, not about large ones."""

FULL_ROUNDS, QUICK_ROUNDS = 5, 1
LATENCY_MS = 5.0
CLAIM = 40.0
"""How many times faster the document behind the project says that it is."""


def main() -> None:
    options = parser("A field in one file, against a file for each plane, with a latency at each opening.")
    options.add_argument("--latency", type=float, default=LATENCY_MS, metavar="MS", help="what each opening costs")
    chosen = options.parse_args()
    rounds = chosen.rounds or (QUICK_ROUNDS if chosen.quick else FULL_ROUNDS)
    report = Report("opens")
    with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=chosen.work) as folder:
        work = Path(folder)
        make_plate(work / "plate", 1, side=SIDE, channels=6, z=6)
        images = images_of(work / "plate")[:PLANES]
        chunks = [work / f"c.{number}" for number in range(PLANES)]
        shard = work / "shard"
        with shard.open("wb") as target:
            writer = ShardWriter(target.fileno(), PLANES)
            for number, image in enumerate(images):
                frame = compress(pixels_of(image, SIDE), BloscParameters(2))
                chunks[number].write_bytes(frame)
                writer.append(number, frame)
            writer.finish()
        out = np.zeros((SIDE, SIDE), np.uint16)

        def opened(path: Path, latency: float) -> int:
            time.sleep(latency)  # the slow disk that this measures
            return os.open(path, os.O_RDONLY)

        def by_chunks(latency: float) -> float:
            make_cold(files_below(work))
            begun = time.perf_counter()
            for path in chunks:
                fd = opened(path, latency)
                decompress_into(os.pread(fd, os.fstat(fd).st_size, 0), out)
                os.close(fd)
            return time.perf_counter() - begun

        def by_shard(latency: float) -> float:
            make_cold(files_below(work))
            begun = time.perf_counter()
            fd = opened(shard, latency)
            index = read_index(fd, PLANES)
            for number in range(PLANES):
                entry = index.entry(number)
                assert entry is not None
                decompress_into(os.pread(fd, entry[1], entry[0]), out)
            os.close(fd)
            return time.perf_counter() - begun

        latency = chosen.latency / 1e3
        times = take_turns(
            {
                "a file for each plane": lambda: by_chunks(latency),
                "one file": lambda: by_shard(latency),
                "a file for each plane, no latency": lambda: by_chunks(0),
                "one file, no latency": lambda: by_shard(0),
            },
            rounds,
        )
    ours, peer = (1e3 * median(times[name]) for name in ("one file", "a file for each plane"))
    name = f"a field of {PLANES} planes in one file, {chosen.latency:g} ms an opening"
    report.goals.append(Goal(name, "ms", ours, peer, peer / ours, CLAIM))
    waiting = PLANES * chosen.latency
    report.details = {
        "s": times,
        "waiting alone, ms, a file for each plane : one file": [waiting, chosen.latency],
        "rounds": rounds,
    }
    report.publish(chosen.json)


if __name__ == "__main__":
    main()
