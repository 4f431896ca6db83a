"""Decoding through tifffile: right values, bounded memory, one kind of error, and silence."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from tiff_writer import LONG, LONG8, SHORT, Tag, TiffWriter, as_file, plain_tags

from vfsd.images import UndecodableImage, decode_tiff

PICTURE = np.arange(3 * 40 * 50, dtype=np.uint16).reshape(3, 40, 50) * 3


def written(array: np.ndarray, **arguments: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **arguments)
    return stream.getvalue()


def reason_of(data: bytes, **arguments: int) -> str:
    with as_file(data) as fd, pytest.raises(UndecodableImage) as caught:
        decode_tiff(fd, **arguments)
    return caught.value.reason


@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd", "packbits", "lzma", None])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("tile", [None, (16, 32)])
def test_compressed_planes_are_decoded(compression: str | None, byteorder: str, tile: tuple[int, int] | None) -> None:
    data = written(
        PICTURE,
        compression=compression,
        byteorder=byteorder,
        tile=tile,
        photometric="minisblack",
        predictor=bool(compression),
    )
    with as_file(data) as fd:
        planes = decode_tiff(fd)
        assert os.lseek(fd, 0, os.SEEK_CUR) == len(data)
    assert len(planes) == 3
    assert all(plane.dtype == np.dtype("<u2") and plane.flags.c_contiguous for plane in planes)
    assert np.array_equal(np.stack(planes), PICTURE)


def test_jpeg_is_decoded() -> None:
    picture = np.full((64, 48, 3), 128, np.uint8)
    with as_file(written(picture, compression="jpeg", photometric="rgb")) as fd:
        (plane,) = decode_tiff(fd)
    assert plane.shape == picture.shape
    assert np.abs(plane.astype(int) - 128).max() <= 2


def test_samples_stored_apart_keep_their_axis() -> None:
    data = written(PICTURE, compression="lzw", photometric="rgb", planarconfig="separate")
    with as_file(data) as fd:
        (plane,) = decode_tiff(fd)
    assert np.array_equal(plane, PICTURE)


def test_single_bits_are_bytes() -> None:
    bits = np.eye(16, dtype=bool)
    with as_file(written(bits)) as fd:
        (plane,) = decode_tiff(fd)
    assert plane.dtype == np.uint8
    assert np.array_equal(plane, bits)


def test_a_path_is_opened_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(written(PICTURE, compression="lzw", photometric="minisblack"))
    before = len(os.listdir("/proc/self/fd"))
    for source in (path, str(path), os.fsencode(path)):
        assert np.array_equal(np.stack(decode_tiff(source)), PICTURE)
    path.write_bytes(b"II*\0")
    with pytest.raises(UndecodableImage):
        decode_tiff(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_missing_file_is_an_error_of_the_file_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        decode_tiff(tmp_path / "none.tif")


def strip_tiff(scheme: int, strip: bytes, *extra: Tag, height: int = 40, width: int = 50) -> bytes:
    writer = TiffWriter(bigtiff=True)
    offset = writer.append(strip)
    replaced = {tag.number for tag in extra}
    tags = [tag for tag in plain_tags(height, width, [offset], [len(strip)]) if tag.number not in replaced]
    writer.add_directory([*tags, Tag(259, SHORT, [scheme]), *extra])
    return bytes(writer.data)


JPEG_OF_OTHER_SIZE = imagecodecs.jpeg_encode(np.zeros((2000, 2000), np.uint8))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"nothing of the kind", "not a TIFF"),
        (strip_tiff(5, b"\xff" * 50), "damaged ("),
        (strip_tiff(8, zlib.compress(bytes(2000))[:-9]), "damaged ("),
        (strip_tiff(8, b""), "absent strips"),
        (strip_tiff(8, b"abc", Tag(273, LONG, [0])), "absent strips"),
        (strip_tiff(7, b"\xff\xd8 no JPEG at all"), "damaged (a JPEG without frame header)"),
        (strip_tiff(7, JPEG_OF_OTHER_SIZE), "a JPEG of 2000 \u00d7 2000 pixels in a strip of 2,000 bytes"),
        (strip_tiff(6, b"abc"), "compressed (old JPEG), which is not decoded"),
        (strip_tiff(50001, b"abc"), "compressed (WebP), which is not decoded"),
        (strip_tiff(4711, b"abc"), "compressed (scheme 4711), which is not decoded"),
        (strip_tiff(8, b"abc", Tag(258, SHORT, [65])), "65 bits a sample of format 1"),
        (strip_tiff(8, b"abc", Tag(339, SHORT, [5])), "8 bits a sample of format 5"),
        (
            strip_tiff(8, b"abc", Tag(257, LONG, [2**31])),
            "more than 107,374,182,400 bytes of pixels in a file of",
        ),
        (strip_tiff(8, b"abc", Tag(278, LONG, [1])), "fewer strips than the image needs"),
        (strip_tiff(8, b"abc", Tag(273, LONG8, [2**64 - 1])), "offsets past the end of the file"),
        (strip_tiff(8, b"abc", Tag(279, LONG8, [2**64 - 1])), "offsets past the end of the file"),
        (strip_tiff(8, b"abc", Tag(700, SHORT, [1], count=2**40)), "tag 700 has 1,099,511,627,776 values"),
        (strip_tiff(8, b"abc", Tag(32997, LONG, [2])), "volumes instead of planes"),
        (
            strip_tiff(8, b"abc", Tag(322, LONG, [2**20]), Tag(323, LONG, [2**20])),
            "tiles of 1048576 \u00d7 1048576",
        ),
        (strip_tiff(8, b"abc", Tag(322, LONG, [0]), Tag(323, LONG, [16])), "tiles without size"),
        (
            strip_tiff(8, b"abc", Tag(322, LONG, [1]), Tag(323, LONG, [1])),
            "fewer strips than the image needs",
        ),
    ],
)
def test_what_cannot_be_decoded_is_named(data: bytes, reason: str) -> None:
    assert reason_of(data).startswith(reason)


def test_more_than_the_caller_allows_is_refused() -> None:
    data = written(PICTURE, compression="lzw", photometric="minisblack")
    assert reason_of(data, max_bytes=PICTURE.nbytes - 1).startswith("more than 12,000 bytes of pixels")
    with as_file(data) as fd:
        assert len(decode_tiff(fd, max_bytes=PICTURE.nbytes)) == 3


def test_strips_that_share_their_bytes_over_and_over_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfsd.images.decode.FREE_READ", 1000)
    strip = zlib.compress(bytes(50))
    writer = TiffWriter()
    offset = writer.append(strip + bytes(500))
    tags = plain_tags(400, 50, [offset] * 400, [500] * 400, rows=1)
    writer.add_directory([*tags, Tag(259, SHORT, [8])])
    assert reason_of(writer.data) == "strips that are used too often"
