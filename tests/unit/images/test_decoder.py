"""The decoder's process: what it dies of stays there, and the next file is decoded as if nothing had been."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from tiff_writer import SHORT, Tag, TiffWriter, as_file, plain_tags, simple_tiff

from vfsd.images import UndecodableImage, decode_tiff, decoder
from vfsd.images.decoder import DeclaredPlane, close_idle_decoders, decode_planes

PICTURE = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50)


def written(array: np.ndarray, **arguments: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **arguments)
    return stream.getvalue()


def decode(data: bytes | bytearray) -> list[np.ndarray]:
    with as_file(data) as fd:
        return decode_tiff(fd)


def decodes_well() -> None:
    (plane,) = decode(written(PICTURE, compression="lzw"))
    assert np.array_equal(plane, PICTURE)


@pytest.fixture
def no_idle_decoders() -> Iterator[None]:
    close_idle_decoders()
    yield
    close_idle_decoders()


def test_damaged_lzw_harms_nobody_else(shared_data: Path) -> None:
    # this byte made imagecodecs 2026.3.6 crash with SIGSEGV
    data = bytearray((shared_data / "tiff_variants/tlnagy_shapes/shapes_lzw_predictor3.tif").read_bytes())
    data[9] = 0o177
    for _ in range(2):
        with suppress(UndecodableImage):
            decode(data)
        decodes_well()


@pytest.mark.parametrize(
    ("script", "ending"),
    [("import os; os.abort()", "SIGABRT"), ("import absent_module", "exit code 1"), ("", "exit code 0")],
)
def test_a_crash_is_an_undecodable_image(
    script: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_idle_decoders: None
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(script)
    with monkeypatch.context() as patched:
        patched.setattr(decoder, "WORKER", worker)
        with pytest.raises(UndecodableImage, match=re.escape(f"damaged (the decoder crashed, {ending})")):
            decodes_well()
    decodes_well()


def test_a_decoder_that_never_ends_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_idle_decoders: None
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import signal\nwhile True: signal.pause()")
    with monkeypatch.context() as patched:
        patched.setattr(decoder, "WORKER", worker)
        patched.setattr(decoder, "PATIENCE", 0.1)
        with pytest.raises(UndecodableImage, match="not decoded after"):
            decodes_well()
    decodes_well()


def test_a_decoder_that_died_while_idle_is_replaced(no_idle_decoders: None) -> None:
    decodes_well()
    (process,) = decoder._idle
    process._process.kill()
    process._process.wait()
    decodes_well()
    assert decoder._idle != [process]


def test_a_process_that_cannot_start_is_an_error_of_the_system(
    monkeypatch: pytest.MonkeyPatch, no_idle_decoders: None
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError):
        decodes_well()
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_decode_at_once() -> None:
    pictures = [np.full((100, 100), i, np.uint16) for i in range(12)]
    files = [written(picture, compression="zlib") for picture in pictures]
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(decode, files))
    for picture, (plane,) in zip(pictures, results, strict=True):
        assert np.array_equal(plane, picture)
    assert len(decoder._idle) <= 4


def test_planes_stay_when_other_files_were_decoded() -> None:
    (first,) = decode(written(PICTURE, compression="zlib"))
    (second,) = decode(written(PICTURE + 1, compression="zlib"))
    assert np.array_equal(first, PICTURE)
    assert np.array_equal(second, PICTURE + 1)
    second[:] = 0
    assert np.array_equal(first, PICTURE)


def test_nothing_is_left_open(no_idle_decoders: None) -> None:
    before = len(os.listdir("/proc/self/fd"))
    planes = decode(written(PICTURE, compression="zlib"))
    with pytest.raises(UndecodableImage):
        decode(written(PICTURE, compression="zlib")[:-20] + bytes(20))
    del planes
    close_idle_decoders()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_failing_disk_is_no_damaged_image(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            decode_planes(folder, [DeclaredPlane((4, 5), np.dtype("<u1"))])
    finally:
        os.close(folder)


def test_what_tifffile_sees_differently_is_refused() -> None:
    with (
        as_file(simple_tiff(4, 5)) as fd,
        pytest.raises(UndecodableImage, match=r"decoded to uint8 \(4, 5\), declared as \|u1 \(5, 4\)"),
    ):
        decode_planes(fd, [DeclaredPlane((5, 4), np.dtype("<u1"))])


def test_broken_files_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    # tifffile logs a tag of a type that does not exist, and reads on
    data = bytearray(simple_tiff(4, 5, Tag(305, 2, b"x\0")))
    data[data.rindex(b"\x31\x01\x02\x00") + 2] = 99
    assert len(decode(data)) == 1
    assert capfd.readouterr() == ("", "")


def memory_of(process: decoder._DecoderProcess, entry: str) -> int:
    status = Path(f"/proc/{process._process.pid}/status").read_text()
    found = re.search(rf"^{entry}:\s+([0-9]+) kB$", status, re.MULTILINE)
    assert found
    return int(found[1]) * 1024


@pytest.mark.parametrize("scheme", ["zlib", "zstd", "packbits", "lzw"])
def test_bombs_do_not_go_off(scheme: str, no_idle_decoders: None) -> None:
    """2,000 pixels are declared, 40 MB are in the strip."""
    decode(written(PICTURE, compression=scheme))
    if scheme == "packbits":
        bomb = b"\x81\0" * 320_000  # 128 zeros each
    else:
        bomb = getattr(imagecodecs, f"{scheme}_encode")(bytes(40_000_000))
    number = {"zlib": 8, "zstd": 50000, "packbits": 32773, "lzw": 5}[scheme]
    writer = TiffWriter()
    offset = writer.append(bomb)
    writer.add_directory([*plain_tags(40, 50, [offset], [len(bomb)]), Tag(259, SHORT, [number])])
    (process,) = decoder._idle
    Path(f"/proc/{process._process.pid}/clear_refs").write_text("5")  # forget the highest use
    before = memory_of(process, "VmRSS")
    with suppress(UndecodableImage):
        decode(writer.data)
    assert decoder._idle == [process]
    assert memory_of(process, "VmHWM") - before < 10_000_000
