"""What goes into a frame comes out of it, whole or in part, for us and for c-blosc alike."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numcodecs.blosc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_buffers import KINDS, contents, lz4_parameters, make_content, other_parameters

from vfsd.codec import (
    MAX_BUFFERSIZE,
    BloscParameters,
    FrameError,
    compress,
    decompress_into,
    decompress_range,
    parse_header,
)

any_parameters = st.one_of(lz4_parameters, lz4_parameters, other_parameters)


def decode(frame: bytes, size: int) -> bytes:
    out = bytearray(size)
    decompress_into(frame, out)
    return bytes(out)


@settings(deadline=None, max_examples=250)
@given(content=contents, parameters=any_parameters)
def test_every_frame_decodes_to_what_went_in(content: bytes, parameters: BloscParameters) -> None:
    frame = compress(content, parameters)
    assert decode(frame, len(content)) == content
    if content:  # numcodecs cannot decode an empty frame
        assert numcodecs.blosc.decompress(frame) == content


@settings(deadline=None, max_examples=150)
@given(content=contents, parameters=any_parameters, data=st.data())
def test_a_range_equals_the_slice(content: bytes, parameters: BloscParameters, data: st.DataObject) -> None:
    frame = compress(content, parameters)
    for _ in range(4):
        offset = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, len(content) - offset))
        out = bytearray(length)
        decompress_range(frame, offset, length, out)
        assert out == content[offset : offset + length]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shuffle", ["noshuffle", "shuffle", "bitshuffle"])
@pytest.mark.parametrize("typesize", range(1, 33))
def test_all_type_sizes(typesize: int, shuffle: str, kind: str) -> None:
    # Two full blocks and a ragged one whose last element is incomplete.
    content = make_content(kind, 2 * 1024 * typesize + 333 * typesize + typesize // 2, typesize)
    parameters = BloscParameters(typesize, shuffle=shuffle, blocksize=1024)
    frame = compress(content, parameters)
    assert decode(frame, len(content)) == content


def test_ranges_at_every_block_edge() -> None:
    content = make_content("noise", 300_000, 5)
    frame = compress(content, BloscParameters(2))
    blocksize = parse_header(frame).blocksize
    edges = [0, 1, blocksize - 1, blocksize, blocksize + 1, 4 * blocksize, len(content) - 1, len(content)]
    for start in edges:
        for stop in edges:
            if start <= stop:
                out = bytearray(stop - start)
                decompress_range(frame, start, stop - start, out)
                assert out == content[start:stop]


@pytest.mark.parametrize(("typesize", "blocksize"), [(2, 65536), (4, 131072), (8, 262144)])
def test_default_streams_are_32_kib(typesize: int, blocksize: int) -> None:
    parameters = BloscParameters(typesize)
    header = parse_header(compress(make_content("noise", 2**20, 1), parameters))
    assert parameters.blocksize == 32768
    assert header.blocksize == blocksize
    assert not header.flags & 0x10, "blocks are split, one stream a byte plane"
    assert header.blocksize // header.typesize == 32768


def test_single_bytes_have_streams_of_64_kib() -> None:
    # c-blosc makes no smaller block; it is stated in BloscParameters.
    header = parse_header(compress(make_content("noise", 2**20, 1), BloscParameters(1)))
    assert header.blocksize == 65536


def test_codec_document() -> None:
    assert json.loads(json.dumps(BloscParameters(2).codec_document())) == {
        "name": "blosc",
        "configuration": {
            "cname": "lz4",
            "clevel": 5,
            "shuffle": "shuffle",
            "typesize": 2,
            "blocksize": 32768,
        },
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"typesize": 0},
        {"typesize": 256},
        {"cname": "lz5"},
        {"clevel": 10},
        {"clevel": -1},
        {"shuffle": "on"},
        {"blocksize": -1},
        {"blocksize": 2**30},
    ],
)
def test_impossible_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BloscParameters(**{"typesize": 2, **wrong})  # type: ignore[arg-type] # wrong on purpose


def test_header_says_what_went_in() -> None:
    content = make_content("noise", 100_001, 3)
    frame = compress(content, BloscParameters(4, blocksize=4096))
    header = parse_header(frame[:16])
    assert (header.version, header.versionlz, header.typesize) == (2, 1, 4)
    assert (header.nbytes, header.cbytes) == (len(content), len(frame))
    assert header.codec_name == "lz4"
    assert header.block_count == -(-len(content) // header.blocksize)


def test_arrays_and_views_are_taken_as_they_are() -> None:
    plane = np.frombuffer(make_content("noise", 20_000, 9), "<u2").reshape(100, 100)
    parameters = BloscParameters(2)
    expected = compress(plane.tobytes(), parameters)
    big_endian = plane.byteswap().view(">u2")
    assert compress(plane, parameters) == expected
    assert compress(memoryview(plane), parameters) == expected
    assert compress(bytearray(plane.tobytes()), parameters) == expected
    assert compress(big_endian, parameters) == compress(big_endian.tobytes(), parameters)
    assert compress(plane[20:40], parameters) == compress(plane[20:40].tobytes(), parameters)
    out = np.zeros((100, 100), "<u2")
    decompress_into(memoryview(expected), out)
    assert (out == plane).all()
    rows = np.zeros((10, 100), "<u2")
    decompress_range(expected, 20 * 200, 10 * 200, rows)
    assert (rows == plane[20:30]).all()


@pytest.mark.parametrize("strided", [np.zeros((8, 8))[:, ::2], memoryview(bytes(64))[::2]], ids=["array", "view"])
def test_what_is_not_contiguous_is_refused(strided: np.ndarray | memoryview) -> None:
    with pytest.raises(ValueError, match="contiguous"):
        compress(strided, BloscParameters(1))


@pytest.mark.skipif(sys.maxsize < 2**32, reason="needs a 64-bit address space")
def test_too_large_a_buffer_is_refused() -> None:
    too_much = np.zeros(MAX_BUFFERSIZE + 1, np.uint8)  # never touched, so it takes no memory
    with pytest.raises(ValueError, match="2147483632 bytes are more than a Blosc frame holds"):
        compress(too_much, BloscParameters(2))


def test_environment_does_not_change_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    content = make_content("noise", 200_000, 2)
    expected = compress(content, BloscParameters(2))
    for name, value in {"CLEVEL": "1", "BLOCKSIZE": "4096", "TYPESIZE": "8", "COMPRESSOR": "zstd"}.items():
        monkeypatch.setenv(f"BLOSC_{name}", value)
    assert compress(content, BloscParameters(2)) == expected


def test_many_threads_at_once() -> None:
    planes = [make_content(KINDS[i % len(KINDS)], 200_000 + i, i) for i in range(40)]
    parameters = BloscParameters(2)

    def there_and_back(content: bytes) -> bool:
        return decode(compress(content, parameters), len(content)) == content

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(there_and_back, planes))


def test_wrong_sizes_are_named() -> None:
    content = make_content("noise", 70_000, 4)
    frame = compress(content, BloscParameters(2))
    for size in (0, len(content) - 1, len(content) + 1):
        with pytest.raises(FrameError, match="not of the size that was expected"):
            decompress_into(frame, bytearray(size))
    with pytest.raises(FrameError, match="outside its content"):
        decompress_range(frame, 69_999, 2, bytearray(2))
    with pytest.raises(FrameError, match="outside its content"):
        decompress_range(frame, 2**62, 2, bytearray(2))
    with pytest.raises(ValueError, match="has 3 bytes for a range of 2"):
        decompress_range(frame, 0, 2, bytearray(3))
    with pytest.raises(ValueError, match="negative"):
        decompress_range(frame, -1, 2, bytearray(2))


def test_output_must_be_writable_and_elsewhere() -> None:
    content = make_content("constant", 1000, 4)
    frame = compress(content, BloscParameters(1))
    with pytest.raises(TypeError):
        decompress_into(frame, bytes(1000))
    room = bytearray(frame) + bytearray(1000)
    with pytest.raises(ValueError, match="overlaps"):
        decompress_into(memoryview(room)[: len(frame)], memoryview(room)[len(frame) - 1 : len(frame) + 999])


def test_frames_of_other_writers(shared_data: Path) -> None:
    chunks = 0
    for document in sorted(shared_data.glob("omezarr/**/.zarray")):
        if (json.loads(document.read_text()).get("compressor") or {}).get("id") != "blosc":
            continue
        for chunk in sorted(document.parent.rglob("*")):
            if chunk.is_file() and chunk.name.isdigit():
                frame = chunk.read_bytes()
                expected = numcodecs.blosc.decompress(frame)
                assert decode(frame, len(expected)) == expected
                middle = bytearray(len(expected) // 3)
                decompress_range(frame, len(expected) // 3, len(middle), middle)
                assert middle == expected[len(expected) // 3 :][: len(middle)]
                chunks += 1
    assert chunks > 0
