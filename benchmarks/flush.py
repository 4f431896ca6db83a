"""Flushing new images, verified, against the limit of disk and codec, other writers of Zarr, and a plain copy.

Ours: the images of a simulated plate are copied into an empty mount (not counted), then `vfsd umount` is timed as a user
sees it: start of the command, compression, shards, sync, read back, rebuild, compare, catalogue, receipt. With levels for
viewers and without.

The limit is the slower of two (benchmarks/limits.py): the disk writing, syncing and giving back as many bytes as the flush
stored, and two threads that compress and decode the same planes.

The peers get the same planes from the page cache and write arrays of the same layout and codec; what they leave in memory is
synced, and that is counted. None of them verifies. zarr-python writing plane by plane is slow, since it rewrites the shard
for each: it gets some fields only, and its time follows from these. `cp` copies the files to the same disk, synced.

    python -m benchmarks.flush [--quick] [--size MB] [--plane-fields N] [--rounds N] [--only NAME,…] [--json FILE]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.cold import make_warm
from benchmarks.limits import codec_seconds_a_plane, disk_seconds
from benchmarks.measure import (
    Goal,
    MemoryPeak,
    Report,
    median,
    mounted,
    parser,
    run_vfsd,
    take_turns,
    watch_memory,
)
from benchmarks.planes import PLANES_A_FIELD, fields_of, images_of, make_plate
from benchmarks.writers import Writer, write_with_tensorstore, write_with_zarr, write_with_zarr_by_planes
from vfsd.codec.blosc import BloscParameters

FULL_MB, QUICK_MB = 8000, 230
FULL_ROUNDS, QUICK_ROUNDS = 3, 1
FULL_PLANE_FIELDS, QUICK_PLANE_FIELDS = 2, 1
# RAM for the mount, as a part of what is flushed: all of it stays in RAM until the flush.
RAM = 1.6

PLAIN, LEVELS = "vfsd, no levels", "vfsd, levels"
DISK, CODEC = "limit: disk", "limit: codec"


def main() -> None:
    options = parser("Flush of new images, verified, against limits and peers.")
    options.add_argument("--size", type=int, metavar="MB", help="how much to flush")
    options.add_argument("--plane-fields", type=int, metavar="N", help="fields that zarr-python writes plane by plane")
    options.add_argument("--only", metavar="NAME,…", help="only contestants whose name has one of these words")
    chosen = options.parse_args()
    megabytes = chosen.size or (QUICK_MB if chosen.quick else FULL_MB)
    rounds = chosen.rounds or (QUICK_ROUNDS if chosen.quick else FULL_ROUNDS)
    plane_fields = chosen.plane_fields or (QUICK_PLANE_FIELDS if chosen.quick else FULL_PLANE_FIELDS)
    report = Report("flush")
    stored: dict[str, int] = {}
    returned: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=chosen.work) as folder:
        work = Path(folder)
        plate = work / "plate"
        shape = make_plate(plate, megabytes)
        images = images_of(plate)
        fields = list(fields_of(images))
        total = sum(image.path.stat().st_size for image in images)

        def ours(levels: str) -> Callable[[], float]:
            def flush() -> float:
                seconds, told = flush_once(plate, work, levels, int(RAM * total), report.memory)
                stored[levels] = told["stored_bytes"]
                return seconds

            return flush

        def peer(name: str, write: Writer, part: int, levels: bool) -> Callable[[], float]:
            def run() -> float:
                make_warm(image.path for image in images)
                begun = time.perf_counter()
                write(work / "peer", fields[:part], levels)
                returned.setdefault(name, []).append((time.perf_counter() - begun) * len(fields) / part)
                os.sync()
                seconds = time.perf_counter() - begun
                shutil.rmtree(work / "peer")
                return seconds * len(fields) / part

            return run

        def copy() -> float:
            make_warm(image.path for image in images)
            begun = time.perf_counter()
            subprocess.run(["cp", "-r", plate, work / "copy"], check=True)
            os.sync()
            seconds = time.perf_counter() - begun
            shutil.rmtree(work / "copy")
            return seconds

        contestants: dict[str, Callable[[], float]] = {PLAIN: ours("0"), LEVELS: ours("auto")}
        contestants[DISK] = lambda: disk_seconds(work / "raw", stored.get("0", total // 2))
        contestants[CODEC] = lambda: codec_seconds_a_plane(images, BloscParameters(2)) * len(images)
        for name, write, part, levels in (
            ("zarr-python, whole shards", write_with_zarr, len(fields), False),
            ("zarr-python, whole shards, levels", write_with_zarr, len(fields), True),
            ("tensorstore, whole shards", write_with_tensorstore, len(fields), False),
            ("tensorstore, whole shards, levels", write_with_tensorstore, len(fields), True),
            ("zarr-python, plane by plane", write_with_zarr_by_planes, min(plane_fields, len(fields)), False),
        ):
            contestants[name] = peer(name, write, part, levels)
        contestants["cp, synced"] = copy
        if chosen.only:
            words = chosen.only.split(",")
            contestants = {name: run for name, run in contestants.items() if any(word in name for word in words)}
        os.sync()
        times = take_turns(contestants, rounds)
    add_goals(report, times, len(images))
    report.details = {
        "planes": len(images),
        "planes a shard": PLANES_A_FIELD,
        "bytes": total,
        "stored bytes": stored,
        "rounds": rounds,
        "ms a plane": {name: [1e3 * value / len(images) for value in values] for name, values in times.items()},
        "ms a plane, peers before the sync": {
            name: 1e3 * median(values) / len(images) for name, values in returned.items()
        },
        "GB/s": {name: total / median(values) / 1e9 for name, values in times.items()},
        "plate": shape,
    }
    report.publish(chosen.json)


def add_goals(report: Report, times: dict[str, list[float]], planes: int) -> None:
    """The lines of the goal, for what took part."""
    took = {name: 1e3 * median(values) / planes for name, values in times.items()}
    if DISK in took and CODEC in took:
        took["limit"] = max(took[DISK], took[CODEC])
    lines = [
        (PLAIN, "limit", 0.6),
        (LEVELS, "limit", 0.6),
        (PLAIN, "zarr-python, whole shards", 2.0),
        (LEVELS, "zarr-python, whole shards, levels", 1.3),
        (PLAIN, "tensorstore, whole shards", 0.7),
        (LEVELS, "tensorstore, whole shards, levels", 0.7),
        (PLAIN, "zarr-python, plane by plane", 10.0),
        (PLAIN, "cp, synced", 1.0),
        (LEVELS, "cp, synced", 1.0),
    ]
    for ours, peer, target in lines:
        if ours in took and peer in took:
            name = f"flush ({ours.removeprefix('vfsd, ')}) against {peer}"
            report.goals.append(Goal(name, "ms a plane", took[ours], took[peer], took[peer] / took[ours], target))


def flush_once(plate: Path, work: Path, levels: str, ram: int, memory: MemoryPeak) -> tuple[float, dict[str, Any]]:
    """Copy the plate into a new mount and unmount; the seconds of that, and what the command said."""
    source, store, mountpoint = (work / name for name in ("empty", "empty.vfs", "mnt"))
    source.mkdir(exist_ok=True)
    settings = ("--levels", levels, "--ram", str(ram), "--keep-in-ram", str(ram), "--stream-above", str(ram))
    with mounted(source, mountpoint, *settings) as pid, watch_memory(pid, memory):
        shutil.copytree(plate, mountpoint / "plate", copy_function=shutil.copyfile)
        os.sync()
        begun = time.perf_counter()
        told: dict[str, Any] = json.loads(run_vfsd("umount", mountpoint, "--json"))["flush"]
        seconds = time.perf_counter() - begun
    shutil.rmtree(store)
    return seconds, told


if __name__ == "__main__":
    main()
