"""Buffers and Blosc parameters for the tests of this room: what images and noise look like to a codec."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from vfsd.codec import BloscParameters

KINDS = ("random", "constant", "ramp", "noise", "text")


def make_content(kind: str, size: int, seed: int) -> bytes:
    """`size` bytes: incompressible, one value, a counter, 16-bit Poisson noise, or long and short repeats."""
    rng = np.random.default_rng(seed)
    if kind == "random":
        return rng.bytes(size)
    if kind == "constant":
        return bytes([seed % 256]) * size
    if kind == "ramp":
        return np.arange(size // 4 + 1, dtype="<u4").tobytes()[:size]
    if kind == "noise":
        return rng.poisson(200 + seed % 100, size // 2 + 1).astype("<u2").tobytes()[:size]
    words = [rng.bytes(int(n)) for n in rng.integers(1, 40, 12)]
    text = b"".join(words[i] * int(n) for i, n in zip(rng.integers(0, 12, 400), rng.integers(1, 9, 400), strict=True))
    return (text * (size // len(text) + 1))[:size]


contents = st.builds(
    make_content,
    kind=st.sampled_from(KINDS),
    size=st.one_of(st.integers(0, 300), st.integers(0, 20_000), st.integers(60_000, 300_000)),
    seed=st.integers(0, 2**32 - 1),
)

lz4_parameters = st.builds(
    BloscParameters,
    typesize=st.one_of(st.integers(1, 32), st.sampled_from([2, 4, 8]), st.integers(33, 255)),
    cname=st.sampled_from(["lz4", "lz4", "lz4", "lz4hc"]),
    clevel=st.integers(0, 9),
    shuffle=st.sampled_from(["noshuffle", "shuffle", "bitshuffle"]),
    blocksize=st.sampled_from([0, 1, 128, 1000, 4096, 32768, 100_000]),
)

other_parameters = st.builds(
    BloscParameters,
    typesize=st.integers(1, 17),
    cname=st.sampled_from(["blosclz", "zlib", "zstd"]),
    clevel=st.integers(0, 9),
    shuffle=st.sampled_from(["noshuffle", "shuffle", "bitshuffle"]),
    blocksize=st.sampled_from([0, 128, 1000, 4096, 32768]),
)
