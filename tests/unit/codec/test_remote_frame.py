"""Parts of a frame that lies in a file: the same bytes as from the whole, read from no more than is needed, never a fault."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.codec import BloscParameters, FrameError, RemoteFrame, compress, decompress_range


class Kept:
    """A frame in memory that counts what is read of it."""

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.read_bytes = 0

    def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(self.frame)
        self.read_bytes += length
        return self.frame[offset : offset + length]


def part(remote: RemoteFrame, offset: int, length: int) -> bytes:
    out = bytearray(length)
    remote.decode_range(offset, out)
    return bytes(out)


def image(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).poisson(300, size // 2).astype("<u2").tobytes()


@given(
    st.integers(2, 400_000),
    st.sampled_from(["lz4", "zstd"]),
    st.sampled_from(["shuffle", "bitshuffle", "noshuffle"]),
    st.sampled_from([1, 2, 4, 3]),
    st.integers(0, 9),
    st.data(),
)
def test_a_part_is_what_the_whole_has_there(
    size: int, cname: str, shuffle: str, typesize: int, level: int, data: st.DataObject
) -> None:
    content = image(size) + b"z" * (size % 2)
    frame = compress(content, BloscParameters(typesize, cname, level, shuffle))  # type: ignore[arg-type]  # names of the lists
    offset = data.draw(st.integers(0, len(content)))
    length = data.draw(st.integers(0, len(content) - offset))
    remote = RemoteFrame(Kept(frame).read, len(frame))
    assert part(remote, offset, length) == content[offset : offset + length]


def test_a_small_part_reads_little() -> None:
    content = image(8 << 20)
    kept = Kept(compress(content, BloscParameters(2)))
    remote = RemoteFrame(kept.read, len(kept.frame))
    assert part(remote, 3 << 20, 128 << 10) == content[3 << 20 : (3 << 20) + (128 << 10)]
    assert kept.read_bytes < 4096 + (3 * 65536)


def test_a_frame_that_did_not_compress_is_read_where_it_lies() -> None:
    content = np.random.default_rng(1).bytes(1 << 20)
    kept = Kept(compress(content, BloscParameters(1, shuffle="noshuffle")))
    remote = RemoteFrame(kept.read, len(kept.frame))
    assert part(remote, 1000, 5000) == content[1000:6000]
    assert kept.read_bytes == 4096 + 5000


def test_ranges_outside_and_frames_cut_short_are_refused() -> None:
    content = image(300_000)
    frame = compress(content, BloscParameters(2))
    remote = RemoteFrame(Kept(frame).read, len(frame))
    for offset, length in ((0, len(content) + 1), (len(content), 1), (-1, 1)):
        with pytest.raises(FrameError):
            remote.decode_range(offset, bytearray(length))
    with pytest.raises(FrameError):
        RemoteFrame(Kept(frame[:-1]).read, len(frame) - 1)
    with pytest.raises(FrameError):
        RemoteFrame(Kept(frame[:20]).read, 20)


@given(st.binary(min_size=0, max_size=64), st.integers(0, 200), st.integers(0, 70_000), st.integers(0, 70_000))
def test_damaged_frames_are_an_error_or_other_bytes(damage: bytes, at: int, offset: int, length: int) -> None:
    frame = bytearray(compress(image(140_000), BloscParameters(2)))
    frame[at : at + len(damage)] = damage
    kept = Kept(bytes(frame))
    out = bytearray(length)
    try:
        remote = RemoteFrame(kept.read, len(frame))
        remote.decode_range(offset, out)
    except FrameError:
        return
    whole = bytearray(length)
    decompress_range(bytes(frame), offset, length, whole)
    assert out == whole
