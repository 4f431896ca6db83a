"""Flushing new images, verification included, against writing them plane by plane with zarr-python.

Ours: the images of a simulated plate are copied into an empty mount (not counted), then `vfsd umount` is
timed as a user sees it: start of the command, compression, shards, read back, rebuild, compare, catalogue,
receipt. The peer writes each image, read by tifffile, into arrays of the same layout: one shard a field, one
chunk a plane, the same codec. It neither syncs nor verifies. It is slow, since it rewrites the shard for each
plane, so it gets some whole fields only; both sides are compared by their seconds a plane.

    python -m benchmarks.flush [--quick] [--size MB] [--peer-fields N] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.measure import (
    Goal,
    MemoryPeak,
    Report,
    make_demo_plate,
    median,
    mounted,
    parser,
    run_vfsd,
    take_turns,
    watch_memory,
)

TARGET_RATIO = 8.0
# A plane of a current camera: 2048 x 2048 pixels of 16 bits. A field of 4 channels and 6 slices is a shard of
# 24 planes; the peer's time a plane grows with that number (12: 80 ms, 24: 140 ms, 40: 230 ms).
PLANE_SIDE = 2048
PLANE_BYTES = 2 * PLANE_SIDE**2
FIELDS, CHANNELS, SLICES = 1, 4, 6

FULL_MB, QUICK_MB = 2000, 210
FULL_ROUNDS, QUICK_ROUNDS = 3, 1
FULL_PEER_FIELDS, QUICK_PEER_FIELDS = 2, 1

NAME = re.compile(
    r"(?:TimePoint_(?P<t>\d+)/)?(?:ZStep_(?P<z>\d+)/)?.*_(?P<well>[A-Z]+\d+)_s(?P<s>\d+)_w(?P<w>\d+)\.TIF"
)


@dataclass(frozen=True, slots=True, order=True)
class Image:
    """One file of the plate: its well and field, and its plane in the field's array."""

    well: str
    field: int
    plane: tuple[int, int, int]
    path: Path


def images_of(plate: Path) -> list[Image]:
    """The plate's images, field by field."""
    images = []
    for path in plate.rglob("*.TIF"):
        found = NAME.fullmatch(path.relative_to(plate).as_posix())
        if found is not None:
            plane = (int(found["t"] or 1) - 1, int(found["w"]) - 1, int(found["z"] or 1) - 1)
            images.append(Image(found["well"], int(found["s"]), plane, path))
    return sorted(images)


def fields_of(images: list[Image]) -> Iterator[list[Image]]:
    for _, group in groupby(images, key=lambda image: (image.well, image.field)):
        yield list(group)


def write_with_zarr(folder: Path, fields: list[list[Image]]) -> float:
    """Write fields plane by plane; the seconds."""
    import tifffile
    import zarr
    from zarr.codecs import BloscCodec

    first = tifffile.imread(fields[0][0].path)
    begun = time.perf_counter()
    for number, images in enumerate(fields):
        extents = tuple(max(image.plane[axis] for image in images) + 1 for axis in range(3))
        array: Any = zarr.create_array(
            store=folder / str(number),
            shape=(*extents, *first.shape),
            shards=(1, *extents[1:], *first.shape),
            chunks=(1, 1, 1, *first.shape),
            dtype=first.dtype,
            compressors=BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", blocksize=32768),
        )
        for image in images:
            array[image.plane] = tifffile.imread(image.path)
    return time.perf_counter() - begun


def main() -> None:
    options = parser("Flush of new images, verified, against zarr-python writing them plane by plane.")
    options.add_argument("--size", type=int, metavar="MB", help="how much to flush")
    options.add_argument("--peer-fields", type=int, metavar="N", help="how many fields the peer writes")
    chosen = options.parse_args()
    megabytes = chosen.size or (QUICK_MB if chosen.quick else FULL_MB)
    rounds = chosen.rounds or (QUICK_ROUNDS if chosen.quick else FULL_ROUNDS)
    peer_fields = chosen.peer_fields or (QUICK_PEER_FIELDS if chosen.quick else FULL_PEER_FIELDS)
    report = Report("flush")
    flushes: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=chosen.work) as folder:
        work = Path(folder)
        plate, source, store, mountpoint = (work / name for name in ("plate", "empty", "empty.vfs", "mnt"))
        source.mkdir()
        wells = max(1, round(megabytes * 1e6 / PLANE_BYTES / (FIELDS * CHANNELS * SLICES)))
        shape = {"wells": wells, "fields": FIELDS, "channels": CHANNELS, "z": SLICES, "size": PLANE_SIDE}
        make_demo_plate(plate, shape)
        images = images_of(plate)
        fields = list(fields_of(images))[:peer_fields]
        peer_planes = sum(map(len, fields))

        def flush() -> float:
            seconds, told = flush_once(plate, source, store, mountpoint, report.memory)
            flushes.append(told)
            return seconds / len(images)

        def by_zarr() -> float:
            seconds = write_with_zarr(work / "peer", fields)
            shutil.rmtree(work / "peer")
            return seconds / peer_planes

        times = take_turns({"vfsd": flush, "zarr-python": by_zarr}, rounds)
    ours, peer = median(times["vfsd"]) * 1e3, median(times["zarr-python"]) * 1e3
    report.goals.append(Goal("flush, verified", "ms a plane", ours, peer, peer / ours, TARGET_RATIO))
    total = sum(told["bytes"] for told in flushes) / len(flushes)
    report.details = {
        "planes": len(images),
        "planes a shard": CHANNELS * SLICES,
        "planes that the peer wrote": peer_planes,
        "bytes": total,
        "GB/s": total / (median(times["vfsd"]) * len(images)) / 1e9,
        "rounds": rounds,
        "seconds a plane": times,
        "plate": shape,
        "flushes": flushes,
    }
    report.publish(chosen.json)


def flush_once(
    plate: Path, source: Path, store: Path, mountpoint: Path, memory: MemoryPeak
) -> tuple[float, dict[str, Any]]:
    """Copy the plate into a new mount and unmount; the seconds of that, and what the command said."""
    with mounted(source, mountpoint) as pid, watch_memory(pid, memory):
        shutil.copytree(plate, mountpoint / "plate", copy_function=shutil.copyfile)
        begun = time.perf_counter()
        told = json.loads(run_vfsd("umount", mountpoint, "--json"))["flush"]
        seconds = time.perf_counter() - begun
    shutil.rmtree(store)
    return seconds, told


if __name__ == "__main__":
    main()
