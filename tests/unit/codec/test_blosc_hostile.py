"""No frame, whatever is in it, does more than raise FrameError; nothing outside the output is touched."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sample_buffers import KINDS, lz4_parameters, make_content, other_parameters

from vfsd.codec import BloscParameters, FrameError, compress, decompress_into, decompress_range, parse_header

GUARD = bytes([0xA5]) * 256
LARGEST_TRIED = 2**20  # outputs that a damaged header asks for are given up to this size

small_contents = st.builds(make_content, st.sampled_from(KINDS), st.integers(0, 30_000), st.integers(0, 2**32 - 1))
some_parameters = st.one_of(lz4_parameters, lz4_parameters, other_parameters)
numbers = st.one_of(st.sampled_from([0, 1, 15, 16, 127, 2**31 - 1, 2**31, 2**32 - 1]), st.integers(0, 70_000))


def decode_guarded(frame: bytes, offset: int | None, size: int) -> bytes | None:
    """The decoded bytes, or None for a FrameError; the bytes around the output must stay as they were."""
    room = bytearray(GUARD + bytes(size) + GUARD)
    out = memoryview(room)[len(GUARD) : len(GUARD) + size]
    try:
        if offset is None:
            decompress_into(frame, out)
        else:
            decompress_range(frame, offset, size, out)
    except FrameError:
        decoded = None
    else:
        decoded = bytes(out)
    assert room[: len(GUARD)] == GUARD
    assert room[len(GUARD) + size :] == GUARD
    return decoded


def try_all_ways(frame: bytes, size: int) -> None:
    sizes = {size, max(0, size - 1), size + 1}
    try:
        header = parse_header(frame)
    except FrameError:
        pass
    else:
        sizes.add(min(header.nbytes, LARGEST_TRIED))
    for wanted in sizes:
        decoded = decode_guarded(frame, None, wanted)
        assert decoded is None or len(decoded) == wanted
    for offset in (0, 1, size // 2, size, 2**31, 2**63 - 1):
        decode_guarded(frame, offset, size // 3 + 1)


@settings(deadline=None, max_examples=200)
@given(content=small_contents, parameters=some_parameters, data=st.data())
def test_changed_bytes(content: bytes, parameters: BloscParameters, data: st.DataObject) -> None:
    frame = bytearray(compress(content, parameters))
    places = st.one_of(st.integers(0, len(frame) - 1), st.integers(0, min(len(frame), 64) - 1))
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)):
        frame[place] = value
    try_all_ways(bytes(frame), len(content))


@settings(deadline=None, max_examples=200)
@given(content=small_contents, parameters=some_parameters, data=st.data())
def test_changed_numbers(content: bytes, parameters: BloscParameters, data: st.DataObject) -> None:
    # Aligned words near the front: the header, where blocks begin, how long streams are.
    frame = bytearray(compress(content, parameters))
    words = st.integers(1, max(1, min(len(frame) // 4 - 1, 40)))
    for word, value in data.draw(st.lists(st.tuples(words, numbers), min_size=1, max_size=4)):
        struct.pack_into("<I", frame, 4 * word, value)
    try_all_ways(bytes(frame), len(content))


@settings(deadline=None, max_examples=150)
@given(content=small_contents, parameters=some_parameters, data=st.data())
def test_cut_off_frames_are_refused(content: bytes, parameters: BloscParameters, data: st.DataObject) -> None:
    frame = compress(content, parameters)
    short = frame[: data.draw(st.integers(0, len(frame) - 1))]
    assert decode_guarded(short, None, len(content)) is None
    assert decode_guarded(short, 0, len(content)) is None
    # The same, with a header that agrees with the size that is left.
    if len(short) >= 16:
        try_all_ways(short[:12] + struct.pack("<I", len(short)) + short[16:], len(content))


@settings(deadline=None, max_examples=200)
@given(
    streams=st.binary(max_size=200),
    flags=st.sampled_from([0x20, 0x21, 0x24, 0x30, 0x31, 0x34, 0x01, 0x61, 0x81, 0xE1]),
    typesize=st.integers(0, 255),
    nbytes=st.one_of(st.integers(0, 400), numbers),
    blocksize=st.one_of(st.integers(0, 400), numbers),
)
@example(streams=bytes(8), flags=0x21, typesize=2, nbytes=2**31 - 17, blocksize=715_827_542)
def test_made_up_frames(streams: bytes, flags: int, typesize: int, nbytes: int, blocksize: int) -> None:
    blocks = -(-nbytes // blocksize) if blocksize else 0
    starts = struct.pack("<I", 16 + 4 * min(blocks, 100)) * min(blocks, 100)
    cbytes = 16 + len(starts) + len(streams)
    frame = struct.pack("<BBBBIII", 2, 1, flags, typesize, nbytes, blocksize, cbytes) + starts + streams
    try_all_ways(frame, min(nbytes, 400))


@settings(deadline=None, max_examples=300)
@given(stream=st.binary(min_size=1, max_size=120), size=st.integers(1, 400), typesize=st.sampled_from([1, 2]))
def test_made_up_lz4_streams(stream: bytes, size: int, typesize: int) -> None:
    frame = struct.pack("<BBBBIII", 2, 1, 0x31, typesize, size, size, 24 + len(stream))
    frame += struct.pack("<II", 20, len(stream)) + stream
    try_all_ways(frame, size)


@pytest.mark.parametrize(
    ("stream", "content"),
    [
        (b"\x50hello", b"hello"),
        (b"\x40hello", None),  # ends in a byte that belongs to nothing
        (b"\x60hello", None),  # more literals than there are
        (b"\x30hel", None),  # ends before the content does
        (b"\x10a\x01\x00\x10b", None),  # a byte too many
        (b"\x10a\x01\x00", None),  # a match of four at the end, five bytes in all
        (b"\x10a\x00\x00\x00\x00", None),  # a match 0 bytes back
        (b"\x10a\x02\x00\x00\x00", None),  # a match from before the beginning
        (b"\xf0" + b"\xff" * 40, None),  # a length without an end
        (b"", None),
    ],
)
def test_lz4_streams_end_where_the_content_does(stream: bytes, content: bytes | None) -> None:
    frame = struct.pack("<BBBBIIIII", 2, 1, 0x31, 1, 5, 5, 24 + len(stream), 20, len(stream)) + stream
    assert len(stream) != 5, "a stream of the content's own size counts as not compressed"
    assert decode_guarded(frame, None, 5) == content
    assert decode_guarded(frame, 1, 3) == (None if content is None else content[1:4])


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, 1, "version"),
        (0, 5, "Blosc 2"),
        (2, 0x25, "Blosc 2"),
        (2, 0x29, "reserved"),
        (3, 0, "type size"),
        (1, 2, "unknown version of LZ4"),
        (2, 0x41, "compressed by snappy"),
        (2, 0xA1, "compressed by codec 5"),
    ],
)
def test_messages_name_what_is_wrong(place: int, value: int, message: str) -> None:
    frame = bytearray(compress(make_content("noise", 5000, 0), BloscParameters(2)))
    frame[place] = value
    with pytest.raises(FrameError, match=message):
        decompress_into(frame, bytearray(5000))


@pytest.mark.parametrize("frame", [b"", b"\x02", bytes(15), bytes(16), bytes(100), b"\xff" * 100])
def test_what_is_no_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(FrameError):
        parse_header(frame)
    with pytest.raises(FrameError):
        decompress_into(frame, bytearray(10))


def test_damage_in_one_block_leaves_the_others_readable() -> None:
    content = make_content("noise", 200_000, 8)
    frame = bytearray(compress(content, BloscParameters(2)))
    blocksize = parse_header(frame).blocksize
    (start,) = struct.unpack_from("<I", frame, 16 + 4)
    struct.pack_into("<I", frame, start, 2**31 - 1)
    first = bytearray(blocksize)
    decompress_range(frame, 0, blocksize, first)
    assert first == content[:blocksize]
    with pytest.raises(FrameError, match="block 1"):
        decompress_range(frame, blocksize, 10, bytearray(10))
    with pytest.raises(FrameError, match="block 1"):
        decompress_into(frame, bytearray(len(content)))
