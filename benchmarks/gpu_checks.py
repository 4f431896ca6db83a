"""Is the GPU right: `benchmarks.gpu`'s first section.

Random frames by numcodecs over all parameters, decoded by every engine into poisoned memory; damaged frames among sound ones,
refused exactly where the CPU decoder refuses them; frames compressed on the GPU, decoded by numcodecs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vfsd.codec import _inner
from vfsd.codec.blosc import FrameError, decompress_into
from vfsd.gpu.decoder import BatchDecoder
from vfsd.gpu.encoder import FrameEncoder
from vfsd.gpu.engines import ENGINES
from vfsd.gpu.frames import parse_frames

if TYPE_CHECKING:
    from benchmarks.gpu import Run

POISON = 0xA6
# numcodecs in the place of the C extension (gpu_machine.py) takes some damage that our own decoders refuse.
STANDS_IN = getattr(_inner, "stands_in", False)
DAMAGED_SHARE = 4  # one in so many frames


def check_everything(run: Run) -> dict[str, Any]:
    """RuntimeError at the first thing that is wrong; how much was checked."""
    rng = np.random.default_rng(run.seed)
    frames, contents = _random_frames(rng, run.sizes.check_frames)
    damaged = [_damaged(rng, frame) if n % DAMAGED_SHARE == 0 else frame for n, frame in enumerate(frames)]
    expected = [_on_cpu(frame, len(content)) for frame, content in zip(damaged, contents, strict=True)]
    result: dict[str, Any] = {"frames": len(frames), "refused_by_cpu": sum(e is None for e in expected), "engines": []}
    for name, engine in ENGINES.items():
        if engine.nvcomp and run.machine.has_nvcomp():
            continue
        _check_decoding(run, name, frames, list(contents), sound=True)
        if not engine.nvcomp:  # what nvCOMP does with damaged streams is its own affair
            _check_decoding(run, name, damaged, expected, sound=False)
        result["engines"].append(name)
    result["compressed"] = _check_encoding(run, rng)
    return result


def _random_frames(rng: np.random.Generator, count: int) -> tuple[list[bytes], list[bytes]]:
    from numcodecs import blosc

    blosc.use_threads = False
    makers = (
        lambda n: rng.bytes(n),
        lambda n: bytes([int(rng.integers(256))]) * n,
        lambda n: rng.poisson(256, n // 2 + 1).astype("<u2").tobytes()[:n],
        lambda n: rng.poisson(3, n).astype("u1").tobytes(),
        lambda n: (np.arange(n // 4 + 1, dtype="<u4") // 7).tobytes()[:n],
        lambda n: (rng.bytes(int(rng.integers(1, 300))) * n)[:n],
    )
    frames, contents = [], []
    for number in range(count):
        size = int(rng.integers(1, (300, 5000, 70_000, 400_000)[number % 4]))
        content = makers[int(rng.integers(len(makers)))](size)
        typesize = int(rng.choice([1, 2, 2, 2, 3, 4, 4, 5, 6, 7, 8, 8, 16]))
        blocksize = int(rng.choice([0, 4096, 32768, 32768, 65536]))
        clevel, shuffle = int(rng.integers(0, 10)), int(rng.integers(0, 3))
        frames.append(blosc.compress(content, b"lz4", clevel, shuffle, blocksize, typesize))
        contents.append(content)
    return frames, contents


def _damaged(rng: np.random.Generator, frame: bytes) -> bytes:
    """Up to four bytes behind the header changed."""
    changed = bytearray(frame)
    for _ in range(int(rng.integers(1, 5))):
        near = rng.random() < 0.5
        at = int(rng.integers(16, min(len(frame), 120) if near else len(frame)))
        changed[at] = int(rng.choice([0, 255, int(rng.integers(256))]))
    return bytes(changed)


def _on_cpu(frame: bytes, size: int) -> bytes | None:
    out = np.empty(size, np.uint8)
    try:
        decompress_into(frame, out.data)
    except FrameError:
        return None
    return out.tobytes()


def _check_decoding(run: Run, name: str, frames: list[bytes], expected: list[Any], *, sound: bool) -> None:
    device = run.machine.device
    stream = device.stream()
    sizes = np.array([len(frame) for frame in frames], np.int64)
    contents = np.array([int.from_bytes(frame[4:8], "little") for frame in frames], np.int64)
    offsets = np.cumsum(sizes + 1) - sizes  # everywhere, not at multiples of anything
    host = device.pinned((int(offsets[-1] + sizes[-1]) + 15) // 16 * 16)
    for offset, frame in zip(offsets, frames, strict=True):
        host[offset : offset + len(frame)] = np.frombuffer(frame, np.uint8)
    parsed = parse_frames(host, offsets, sizes, contents)
    table = parsed.table
    room = (contents + 31) // 16 * 16
    places = np.cumsum(room) - room
    table["out"] = places[parsed.rows]
    decoder = BatchDecoder(device, ENGINES[name], stream)
    planes_bytes = decoder.place_planes(table)
    source, out = device.empty((host.size,), np.uint8), device.empty((int(room.sum()),), np.uint8)
    rows, errors = device.empty((table.nbytes,), np.uint8), device.empty((len(table),), np.uint32)
    device.upload(host, source, stream)
    device.upload(np.ascontiguousarray(table).view(np.uint8), rows, stream)
    with device.on(stream):
        errors[...] = 0
        out[...] = POISON
    decoder.decode(table, planes_bytes, device.address(source), device.address(rows), errors, device.address(out))
    result, found = device.pinned(out.nbytes), device.pinned(4 * len(table))
    device.download(out, result, stream)
    device.download(errors.view(np.uint8), found, stream)
    device.synchronize()
    numbers = found.view("<u4")
    if sound and numbers.any():
        raise RuntimeError(f"{name}: a sound frame was refused")
    for row, error in zip(parsed.rows, numbers, strict=True):
        content = result[places[row] : places[row] + contents[row]].tobytes()
        behind = result[places[row] + contents[row] : places[row] + room[row]]
        if (expected[row] is None) != (error != 0) and (sound or not STANDS_IN):
            raise RuntimeError(f"{name}: frame {row} is refused by one of CPU and GPU alone ({error:#x})")
        if error == 0 and expected[row] is not None and content != expected[row]:
            raise RuntimeError(f"{name}: frame {row} was decoded to other bytes")
        if (behind != POISON).any():
            raise RuntimeError(f"{name}: something was written behind frame {row}")


def _check_encoding(run: Run, rng: np.random.Generator) -> int:
    from numcodecs import blosc

    device = run.machine.device
    checked = 0
    for typesize in range(1, 9):
        nbytes = int(rng.integers(1, 300_000))
        parts = [
            rng.poisson(9, nbytes).astype("u1").tobytes(),
            rng.bytes(nbytes),
            bytes(nbytes),
            rng.poisson(256, nbytes // 2 + 1).astype("<u2").tobytes()[:nbytes],
        ]
        stream = device.stream()
        data = device.empty((nbytes * len(parts),), np.uint8)
        device.upload(np.frombuffer(b"".join(parts), np.uint8), data, stream)
        frames = FrameEncoder(device, stream).encode(data, len(parts), typesize)
        host = device.pinned(int(frames.data.nbytes))
        device.download(frames.data, host, stream)
        device.synchronize()
        for part, begin, size in zip(parts, frames.offsets, frames.sizes, strict=True):
            if blosc.decompress(host[begin : begin + size].tobytes()) != part:
                raise RuntimeError(f"a frame compressed on the GPU holds other bytes (elements of {typesize})")
            checked += 1
    return checked
