"""What `benchmarks.gpu` measures: the machine's ceilings, kernels alone, one plane, a store, compression, parameters.

Each section returns its figures for the report and notes the goals that they belong to. Everything that is timed on the device is
timed by its own events, over input sets in turn; what includes the host by the clock on the wall.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu_machine import cores, median_seconds, wall_seconds
from benchmarks.gpu_work import (
    Batch,
    check_batch,
    compress_planes,
    count_sequences,
    demo_planes,
    make_batch,
    poisson_planes,
    upload_table,
    write_shards,
)
from vfsd.codec.blosc import decompress_into
from vfsd.gpu.chunks import Job
from vfsd.gpu.decoder import BatchDecoder
from vfsd.gpu.encoder import FrameEncoder
from vfsd.gpu.engines import DEFAULT, ENGINES
from vfsd.gpu.layout import read_layout
from vfsd.gpu.loader import Loader
from vfsd.gpu.selection import parse_selection

if TYPE_CHECKING:
    from benchmarks.gpu import Run

KINDS = {"demo": demo_planes, "poisson": poisson_planes}
READ_BYTES = 4 << 20


def planes_of(run: Run, kind: str, number: int) -> tuple[list[Any], list[bytes]]:
    """Distinct planes of one input set, and their frames; made once."""
    known = run.shared.setdefault("planes", {})
    if (kind, number) not in known:
        planes = KINDS[kind](run.sizes.distinct, run.sizes.side, run.seed + number)
        known[kind, number] = planes, compress_planes(planes)
    found: tuple[list[Any], list[bytes]] = known[kind, number]
    return found


def sequences_of(run: Run, kind: str) -> float:
    """LZ4 sequences of a plane: of the first input set's first."""
    known = run.shared.setdefault("sequences", {})
    if kind not in known:
        known[kind] = count_sequences(planes_of(run, kind, 0)[1][0])
    return float(known[kind])


def rate(nbytes: float, timing: dict[str, float]) -> dict[str, float]:
    """GB/s with the times."""
    return {"gb_per_s": nbytes / timing["seconds"] / 1e9, **timing}


def ceilings(run: Run) -> dict[str, Any]:
    """Pinned host to device, device to device (bytes copied, not read plus written), parallel pread into pinned memory."""
    device = run.machine.device
    nbytes = run.sizes.planes * run.sizes.side**2
    stream = device.stream()
    host = device.pinned(nbytes)
    host[:] = np.resize(np.frombuffer(np.random.default_rng(run.seed).bytes(1 << 20), np.uint8), nbytes)
    source, target = device.empty((nbytes,), np.uint8), device.empty((nbytes,), np.uint8)
    up = median_seconds(run.machine, [lambda: device.upload(host, source, stream)], stream, run.sizes.rounds)
    across = median_seconds(
        run.machine, [lambda: run.machine.copy_on_device(source, target, stream)], stream, run.sizes.rounds
    )
    run.shared["upload"], run.shared["device_copy"] = nbytes / up["seconds"], nbytes / across["seconds"]
    path = run.work / "ceiling"
    path.write_bytes(host.data)
    with ThreadPoolExecutor(min(cores(), 16)) as threads:
        read = wall_seconds(lambda: _read_in_parallel(path, host, threads), run.sizes.rounds)
    path.unlink()
    run.shared["read"] = nbytes / read["seconds"]
    return {"upload": rate(nbytes, up), "device_copy": rate(nbytes, across), "pread": rate(nbytes, read)}


def _read_in_parallel(path: Path, host: Any, threads: ThreadPoolExecutor) -> None:
    view = memoryview(host)
    fd = os.open(path, os.O_RDONLY)
    try:
        begins = range(0, len(view), READ_BYTES)
        list(threads.map(lambda at: os.preadv(fd, [view[at : at + READ_BYTES]], at), begins))
    finally:
        os.close(fd)


def time_engine(run: Run, engine: str, batches: Sequence[Batch]) -> dict[str, float]:
    """Kernels alone: frames in device memory → planes in device memory; the results are checked before and behind."""
    device = run.machine.device
    stream = device.stream()
    decoder = BatchDecoder(device, ENGINES[engine], stream)
    works: list[Callable[[], None]] = []
    for batch in batches:
        planes_bytes = decoder.place_planes(batch.table)
        upload_table(device, batch, stream)
        works.append(functools.partial(_decode, device, decoder, batch, planes_bytes))
        works[-1]()
        check_batch(device, batch)
    timing = median_seconds(run.machine, works, stream, run.sizes.rounds)
    upload_table(device, batches[-1], stream)
    works[-1]()
    check_batch(device, batches[-1])
    return rate(batches[0].nbytes, timing)


def _decode(device: Any, decoder: BatchDecoder, batch: Batch, planes_bytes: int) -> None:
    places = (device.address(batch.input), device.address(batch.rows))
    decoder.decode(batch.table, planes_bytes, *places, batch.errors, device.address(batch.out))


def kernels(run: Run) -> dict[str, Any]:
    """Every engine on demo planes and on Poisson noise, several input sets each; the fastest is taken from here on."""
    result: dict[str, Any] = {"default": DEFAULT}
    without = run.machine.has_nvcomp()
    if without:
        result["nvcomp"] = f"not measured: {without}"
    for kind in KINDS:
        batches = []
        for number in range(run.sizes.sets):
            planes, frames = planes_of(run, kind, number)
            batches.append(make_batch(run.machine.device, frames, [p.tobytes() for p in planes], run.sizes.planes))
        sequences = sequences_of(run, kind) * run.sizes.planes
        figures: dict[str, Any] = {"sequences": sequences, "compressed_bytes": batches[0].compressed_bytes}
        for name, engine in ENGINES.items():
            if engine.nvcomp and without:
                continue
            timing = time_engine(run, name, batches)
            timing["sequences_per_s"] = sequences / timing["seconds"]
            timing["of_device_copy"] = timing["gb_per_s"] * 1e9 / run.shared["device_copy"]
            figures[name] = timing
        result[kind] = figures
    own = [name for name, engine in ENGINES.items() if not engine.nvcomp]
    # The one that is never far behind: the least product of its times, which weighs both kinds alike.
    best = min(own, key=lambda name: float(np.prod([result[kind][name]["seconds"] for kind in KINDS])))
    result["best"] = best
    result["taken"] = run.engine = run.engine or best
    for kind, target in (("demo", 250.0), ("poisson", 60.0)):
        figures = result[kind]
        run.goal(f"kernels alone, {kind} planes", figures[run.engine]["gb_per_s"], target, "GB/s")
        if not without:
            ratio = figures["nvcomp"]["seconds"] / figures[run.engine]["seconds"]
            run.goal(f"kernels against nvCOMP, {kind} planes", ratio, 1.5, "times")
    return result


def _jobs(folders: Sequence[Path], planes: int) -> tuple[list[Job], int, np.dtype[Any]]:
    """The first planes of arrays, in order."""
    jobs, offset = [], 0
    layout = read_layout(folders[0])
    for folder in folders:
        layout = read_layout(folder)
        for number in range(layout.shape[0]):
            if len(jobs) < planes:
                jobs.append(Job(layout, parse_selection(number, layout.shape), offset))
                offset += layout.chunk_bytes
    return jobs, offset, layout.dtype


def single_plane(run: Run) -> dict[str, Any]:
    """One plane: from pinned memory (copy and kernels), and from the page cache to an array (everything)."""
    return {kind: _single_plane_of(run, kind) for kind in KINDS}


def _single_plane_of(run: Run, kind: str) -> dict[str, Any]:
    device = run.machine.device
    planes, frames = planes_of(run, kind, 0)
    batch = make_batch(device, frames[:1], [planes[0].tobytes()], 1)
    stream = device.stream()
    decoder = BatchDecoder(device, ENGINES[run.engine or DEFAULT], stream)
    planes_bytes = decoder.place_planes(batch.table)
    host = device.pinned(int(batch.input.nbytes))
    device.download(batch.input, host, stream)
    upload_table(device, batch, stream)

    def one() -> None:
        device.upload(host, batch.input, stream)
        _decode(device, decoder, batch, planes_bytes)
        device.synchronize()

    pinned = wall_seconds(one, 10 * run.sizes.rounds)
    check_batch(device, batch)
    folders = write_shards(run.work / f"single-{kind}", frames, run.sizes.side, 3)
    loader = Loader(device, engine=run.engine or DEFAULT)
    jobs, nbytes, dtype = _jobs(folders, 1)
    cached = wall_seconds(lambda: loader.load(jobs, nbytes, dtype), 10 * run.sizes.rounds)
    loader.close()
    run.goal(f"one {kind} plane from pinned memory", 1e3 * pinned["seconds"], 1.0, "ms", most=True)
    run.goal(f"one {kind} plane from the page cache", 1e3 * cached["seconds"], 2.0, "ms", most=True)
    return {"from_pinned": pinned, "from_page_cache": cached}


def store(run: Run) -> dict[str, Any]:
    """A page-cached store to an array on the device, against the machine's limit and against its CPU."""
    device = run.machine.device
    planes, frames = planes_of(run, "demo", 0)
    folders = write_shards(run.work / "store", frames, run.sizes.side, run.sizes.planes)
    jobs, nbytes, dtype = _jobs(folders, run.sizes.planes)
    compressed = sum(len(frames[number % len(frames)]) for number in range(run.sizes.planes))
    loader = Loader(device, engine=run.engine or DEFAULT)
    result = loader.load(jobs, nbytes, dtype)
    _check_planes(run, result, planes)
    del result
    ours = wall_seconds(lambda: loader.load(jobs, nbytes, dtype), max(run.sizes.rounds // 2, 1))
    loader.close()
    limit = max(compressed / run.shared["upload"], compressed / run.shared["read"])
    figures: dict[str, Any] = {"load": rate(nbytes, ours), "limit_seconds": limit, "compressed_bytes": compressed}
    figures["of_limit"] = limit / ours["seconds"]
    run.goal("store to array, of the limit", figures["of_limit"], 0.8, "times")
    for threads, target in ((cores(), 2.5), (2, 15.0)):
        cpu = wall_seconds(functools.partial(_by_cpu, run, frames, threads), 1)
        figures[f"cpu_{threads}_threads"] = rate(nbytes, cpu)
        run.goal(f"store to array, against {threads} CPU threads", cpu["seconds"] / ours["seconds"], target, "times")
    return figures


def _check_planes(run: Run, result: Any, planes: Sequence[Any]) -> None:
    device = run.machine.device
    content = result.view(np.uint8)
    size = planes[0].nbytes
    host = device.pinned(size)
    for number in range(run.sizes.planes):
        device.download(content[number * size : (number + 1) * size], host, device.stream())
        device.synchronize()
        if host.tobytes() != planes[number % len(planes)].tobytes():
            raise RuntimeError(f"plane {number} of the store was loaded wrong")


def _by_cpu(run: Run, frames: Sequence[bytes], count: int) -> None:
    """The same planes decoded from memory on threads, into pinned memory that is copied as they come; no reads even."""
    device = run.machine.device
    size = run.sizes.side**2 * 2
    whole = run.shared.setdefault("cpu_planes", None)
    if whole is None:
        whole = run.shared["cpu_planes"] = (
            device.pinned(size * run.sizes.planes),
            device.empty((size * run.sizes.planes,), np.uint8),
        )
    host, target = whole
    stream = device.stream()

    def decode(number: int) -> int:
        decompress_into(frames[number % len(frames)], host[number * size : (number + 1) * size].data)
        return number

    with ThreadPoolExecutor(count) as threads:
        for number in threads.map(decode, range(run.sizes.planes)):
            place = slice(number * size, (number + 1) * size)
            device.upload(host[place], target[place], stream)
    device.synchronize()


def compression(run: Run) -> dict[str, Any]:
    """Planes on the device to frames on the device, and how large they are against c-blosc's."""
    return {kind: _compression_of(run, kind) for kind in KINDS}


def _compression_of(run: Run, kind: str) -> dict[str, Any]:
    device = run.machine.device
    planes, frames = planes_of(run, kind, 0)
    size, count = planes[0].nbytes, run.sizes.planes
    contents = device.empty((size * count,), np.uint8)
    stream = device.stream()
    for number in range(count):
        place = contents[number * size : (number + 1) * size]
        device.upload(planes[number % len(planes)].reshape(-1).view(np.uint8), place, stream)
    device.synchronize()
    encoder = FrameEncoder(device, stream)
    made = encoder.encode(contents, count, 2)
    own_size = float(made.sizes[: len(planes)].sum()) / sum(map(len, frames))
    host = device.pinned(int(made.sizes[0]))
    device.download(made.data, host, stream)
    device.synchronize()
    out = np.empty(size, np.uint8)
    decompress_into(host.tobytes(), out.data)
    if out.tobytes() != planes[0].tobytes():
        raise RuntimeError("a plane was compressed wrong")
    del made
    timing = wall_seconds(lambda: encoder.encode(contents, count, 2), max(run.sizes.rounds // 2, 1))
    result = {**rate(size * count, timing), "size_against_cpu": own_size}
    run.goal(f"compression, {kind} planes", result["gb_per_s"], 20.0, "GB/s")
    run.goal(f"compressed size against the CPU's, {kind} planes", own_size, 1.05, "times", most=True)
    return result


def parameters(run: Run) -> list[dict[str, Any]]:
    """Which block size and shuffle a store should be written with: size, GPU and CPU, both kinds of plane."""
    device = run.machine.device
    rows = []
    for kind in KINDS:
        planes, _ = planes_of(run, kind, 0)
        for shuffle, stream_bytes in ((1, 16384), (1, 32768), (1, 65536), (1, 131072), (2, 32768), (2, 65536)):
            frames = compress_planes(planes, stream_bytes=stream_bytes, shuffle=shuffle)
            batch = make_batch(device, frames, [p.tobytes() for p in planes], run.sizes.planes)
            gpu = time_engine(run, run.engine or DEFAULT, [batch])
            out = np.empty(planes[0].nbytes, np.uint8)
            cpu = wall_seconds(functools.partial(decompress_into, frames[0], out.data), run.sizes.rounds)
            rows.append(
                {
                    "planes": kind,
                    "shuffle": ("none", "bytes", "bits")[shuffle],
                    "blocksize": int.from_bytes(frames[0][8:12], "little"),
                    "ratio": sum(p.nbytes for p in planes) / sum(map(len, frames)),
                    "gpu_gb_per_s": gpu["gb_per_s"],
                    "cpu_gb_per_s": planes[0].nbytes / cpu["seconds"] / 1e9,
                }
            )
            del batch
    return rows
