"""LZW strips: decoded as imagecodecs does, encoded code for code, and hostile ones refused."""

from __future__ import annotations

from contextlib import suppress

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_buffers import KINDS, make_content

from vfsd.codec.lzw import LzwError, decode_strip, encode_strip

CLEAR, END = 256, 257


def width_after(codes: int) -> int:
    """Bits of a code after so many data codes (TIFF 6.0, section 13, in its own words: entries 511, 1023, 2047)."""
    last_entry = 257 + codes
    return 9 + (last_entry >= 511) + (last_entry >= 1023) + (last_entry >= 2047)


def pack(codes: list[int]) -> bytes:
    """The bytes of a sequence of codes."""
    bits, since = "", 0
    for code in codes:
        bits += f"{code:0{width_after(since)}b}"
        since = 0 if code == CLEAR else since + 1
    size = -(-len(bits) // 8)
    return int(bits.ljust(8 * size, "0"), 2).to_bytes(size, "big")


def greedy(content: bytes, clear_after: int) -> list[int]:
    """The codes of a textbook encoder: a dictionary of strings."""
    codes, table, string, since = [CLEAR], {bytes([n]): n for n in range(256)}, b"", 0
    for value in content:
        longer = string + bytes([value])
        if longer in table:
            string = longer
            continue
        codes.append(table[string])
        since += 1
        table[longer] = 257 + since
        string = bytes([value])
        if since == clear_after:
            codes.append(CLEAR)
            table, since = {bytes([n]): n for n in range(256)}, 0
    return [*codes, table[string], END]


def decoded(strip: bytes, size: int) -> tuple[bytes, int, np.ndarray]:
    out = np.full(size + 8, 0xA5, np.uint8)
    bits, gaps = decode_strip(strip, out[:size].data)
    assert (out[size:] == 0xA5).all()
    return out[:size].tobytes(), bits, gaps


def encoded(content: bytes, gaps: np.ndarray, size: int) -> tuple[bytes, int]:
    out = np.full(size + 8, 0xA5, np.uint8)
    bits = encode_strip(content, gaps, out[:size].data)
    assert (out[size:] == 0xA5).all()
    return out[: bits // 8].tobytes(), bits


def check_strip(strip: bytes, content: bytes) -> np.ndarray:
    """Decode, encode, compare; the gaps for further questions."""
    found, bits, gaps = decoded(strip, len(content))
    assert found == content
    again, same_bits = encoded(content, gaps, bits // 8)
    assert same_bits == bits
    assert again == strip[: bits // 8]
    assert len(strip) - bits // 8 <= 4  # the end code
    return gaps


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 300, 5000, 100_000])
def test_strips_of_another_encoder(kind: str, size: int) -> None:
    content = make_content(kind, size, 2)
    check_strip(imagecodecs.lzw_encode(content), content)


@pytest.mark.parametrize("clear_after", [40, 253, 254, 255, 765, 766, 767, 1789, 1790, 1791, 3836, 3837, 3838])
def test_strips_of_a_textbook_encoder_that_clears_anywhere(clear_after: int) -> None:
    content = np.random.default_rng(1).poisson(5, 12_000).astype(np.uint8).tobytes()
    strip = pack(greedy(content, clear_after))
    gaps = check_strip(strip, content)
    assert set(gaps[1:].tolist()) <= {clear_after}
    if clear_after <= 3836:
        assert imagecodecs.lzw_decode(strip, out=len(content)) == content


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=4), st.integers(1, 300)), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_bytes_come_back(pieces: list[tuple[bytes, int]]) -> None:
    content = b"".join(piece * count for piece, count in pieces)
    check_strip(imagecodecs.lzw_encode(content), content)
    check_strip(pack(greedy(content, 3837)), content)


def test_several_clears_in_a_row_are_kept() -> None:
    strip = pack([CLEAR, CLEAR, 7, 7, CLEAR, CLEAR, 8, END])
    content, bits, gaps = decoded(strip, 3)
    assert content == b"\7\7\x08"
    assert gaps.tolist() == [0, 0, 2, 0]
    assert encoded(content, gaps, bits // 8) == (strip[: bits // 8], bits)


@pytest.mark.parametrize(
    ("codes", "size", "reason"),
    [
        ([7, 7, END], 2, "does not begin with a Clear"),
        ([CLEAR, 7, END], 2, "does not end where"),
        ([CLEAR, 7, 7], 9, "ends too early"),
        ([CLEAR, 258], 9, "not known yet"),
        ([CLEAR, 7, 259], 9, "not known yet"),
        ([CLEAR, 7, CLEAR, 258], 9, "not known yet"),
        ([CLEAR, 7, 258, 259, 260], 9, "does not end where"),
        ([CLEAR] * 9, 1, "too many Clear"),
        ([CLEAR, *[7] * 3838, 7], 3900, "no Clear code"),
    ],
)
def test_damaged_strips_are_named(codes: list[int], size: int, reason: str) -> None:
    with pytest.raises(LzwError, match=reason):
        decoded(pack(codes), size)


def test_the_old_style_is_refused() -> None:
    """TIFF 5: least significant bit first; it begins with the bytes 00 01."""
    with pytest.raises(LzwError, match="does not begin with a Clear"):
        decoded(bytes.fromhex("0001020408"), 2)


@pytest.mark.parametrize("gaps", [[], [1], [0, 5000], [0, 4, 4, 4], [0, 9]])
def test_gaps_that_are_not_of_these_bytes(gaps: list[int]) -> None:
    with pytest.raises(LzwError, match="do not fit the bytes"):
        encoded(b"abcdefg", np.array(gaps, np.uint16), 100)


def test_too_little_room() -> None:
    content = bytes(range(256)) * 4
    _, bits = encoded(content, np.zeros(1, np.uint16), 2000)
    for room in (0, 1, 100, bits // 8 - 1):
        with pytest.raises(LzwError, match="more room"):
            encoded(content, np.zeros(1, np.uint16), room)
    assert encoded(content, np.zeros(1, np.uint16), bits // 8)[1] == bits


@given(st.data())
@settings(max_examples=500, deadline=None)
def test_hostile_strips_and_gaps(data: st.DataObject) -> None:
    content = data.draw(st.binary(min_size=1, max_size=60)) * data.draw(st.integers(1, 30))
    strip = bytearray(imagecodecs.lzw_encode(content))
    for _ in range(data.draw(st.integers(1, 3))):
        strip[data.draw(st.integers(2, max(2, len(strip) - 1))) % len(strip)] = data.draw(st.integers(0, 255))
    with suppress(LzwError):
        found, bits, gaps = decoded(bytes(strip), data.draw(st.integers(1, 2 * len(content))))
        with suppress(LzwError):
            encoded(found, gaps, bits // 8)
    with suppress(LzwError):
        gaps = np.array(data.draw(st.lists(st.integers(0, 65535) | st.integers(0, 9), max_size=20)), np.uint16)
        encoded(content, gaps, data.draw(st.integers(0, 3000)))
