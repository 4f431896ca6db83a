"""Every TIFF of the shared plates: rebuilt byte for byte, or refused for the reason that the table shows."""

from __future__ import annotations

import csv
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rebuild_check import check_range, check_rebuild, take_apart

from vfsd.images import NotRebuildable, UndecodableImage, analyse_tiff, decode_tiff

COMPRESSION_REASONS = {
    "DEFLATE": "compressed (deflate)",
    "ADOBE_DEFLATE": "compressed (deflate)",
    "JPEG": "compressed (JPEG)",
    "PACKBITS": "compressed (PackBits)",
    "ZSTD": "compressed (Zstandard)",
    "CCITTFAX3": "compressed (CCITT fax 3)",
}


def expected_reason(row: dict[str, str]) -> str | None:
    """Why a file cannot be rebuilt, from the table that tifffile made; None if it has to be."""
    if row["compression"] == "LZW":
        return unfit_for_lzw(row)
    if row["compression"] in COMPRESSION_REASONS:
        return COMPRESSION_REASONS[row["compression"]]
    if int(row["bits"]) not in (8, 16, 32, 64):
        return f"{row['bits']} bit{'s' if row['bits'] != '1' else ''} a sample"
    if int(row["tiled"]) and int(row["strips_p0"]) > 1:
        return "tiled"
    if not int(row["all_pages_uncompressed"]):
        return "image 4: compressed (LZW: 12 bits a sample)"
    return None


def unfit_for_lzw(row: dict[str, str]) -> str | None:
    """Why an LZW file is not rebuilt from its pixels, if it is not."""
    if int(row["bits"]) not in (8, 16, 32, 64):
        return f"compressed (LZW: {row['bits']} bits a sample)"
    if row["predictor"] == "FLOATINGPOINT":
        return "compressed (LZW: predictor 3)"
    return "compressed (LZW: tiled)" if int(row["tiled"]) else None


@pytest.fixture(scope="module")
def table(shared_data: Path) -> list[dict[str, str]]:
    with (shared_data / "tiffs.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def distinct(shared_data: Path, table: list[dict[str, str]]) -> dict[Path, dict[str, str]]:
    """One file of each content."""
    return {shared_data / row["path"]: row for row in {row["sha256_16"]: row for row in table}.values()}


def pages_by_tifffile(path: Path) -> list[np.ndarray[Any, Any]]:
    with tifffile.TiffFile(path) as tiff:
        return [page.asarray() for page in tiff.pages]


def test_each_is_rebuilt_or_refused_as_the_table_says(distinct: dict[Path, dict[str, str]]) -> None:
    rebuilt = 0
    for path, row in distinct.items():
        reason = expected_reason(row)
        if reason is not None:
            with pytest.raises(NotRebuildable, match=f"^{re.escape(reason)}$"):
                check_rebuild(path.read_bytes())
            continue
        _, planes = check_rebuild(path.read_bytes())
        rebuilt += 1
        pages = pages_by_tifffile(path)
        assert len(planes) == len(pages) == int(row["n_pages"]), path
        for plane, page in zip(planes, pages, strict=True):
            assert plane.dtype == page.dtype.newbyteorder("<"), path
            assert plane.shape == page.shape, path
            assert plane.tobytes() == page.astype(plane.dtype).tobytes(), path
    assert rebuilt > 80


def test_the_uncompressed_instruments_are_rebuildable(shared_data: Path, table: list[dict[str, str]]) -> None:
    kept = {"imagexpress_exported": 52, "scanr_plateviewer": 4, "leica_matrixscreener": 4}
    for folder, count in {**kept, "cellomics_arrayscan_AS_09047": 12}.items():
        paths = [shared_data / row["path"] for row in table if row["path"].startswith(folder)]
        assert len(paths) == count
        for path in paths:
            fd = os.open(path, os.O_RDONLY)
            try:
                assert analyse_tiff(fd).plane_count == 1
            finally:
                os.close(fd)


def test_the_lzw_instruments_are_rebuilt_from_a_small_skeleton(shared_data: Path) -> None:
    paths = sorted((shared_data / "opera_phenix_pe2loaddata_v5").glob("**/*.tiff"))
    assert len(paths) == 6
    for path in paths:
        content = path.read_bytes()
        layout, planes = check_rebuild(content)
        assert [plane.shape for plane in planes] == [(1080, 1080)]
        assert layout.compressed
        skeleton, _ = take_apart(content)
        assert len(skeleton.to_bytes()) < 24_000  # PerkinElmer's own tags are 80 KiB, and mostly XML
        check_range(content, skeleton, len(content) // 2, 5000)


def test_the_others_are_decoded_as_tifffile_does(distinct: dict[Path, dict[str, str]]) -> None:
    decoded = 0
    for path, row in distinct.items():
        if expected_reason(row) is None:
            continue
        planes = decode_tiff(path)
        pages = pages_by_tifffile(path)
        assert len(planes) == len(pages), path
        for plane, page in zip(planes, pages, strict=True):
            assert plane.flags.c_contiguous
            assert plane.dtype == (page.dtype if page.dtype != bool else np.uint8), path
            assert np.array_equal(plane, page), path
        decoded += 1
    assert decoded > 60


def seeds(shared_data: Path) -> list[bytes]:
    """Small files of many kinds, to be broken."""
    folder = shared_data / "tiff_variants"
    return [path.read_bytes() for path in sorted(folder.glob("**/*.tif*")) if path.stat().st_size < 15_000]


CHANGED = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 16, 0x7F, 0x80, 0xFE, 0xFF]) | st.integers(0, 255)


def broken(data: st.DataObject, content: bytes) -> bytearray:
    """A real file with some bytes changed, mostly in the directories, and perhaps cut."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 5))):
        near_the_ends = st.integers(0, 300) | st.integers(len(changed) - 300, len(changed) - 1)
        position = data.draw(near_the_ends | st.integers(0, len(changed) - 1)) % len(changed)
        changed[position] = data.draw(CHANGED)
    if data.draw(st.integers(0, 3)) == 0:
        del changed[data.draw(st.integers(0, len(changed))) :]
    return changed


@given(data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_broken_files_are_refused_or_rebuilt(shared_data: Path, data: st.DataObject) -> None:
    content = broken(data, data.draw(st.sampled_from(seeds(shared_data))))
    with suppress(NotRebuildable):
        check_rebuild(content)


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_broken_files_are_undecodable_or_decoded(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "broken.tif"
    path.write_bytes(broken(data, data.draw(st.sampled_from(seeds(shared_data)))))
    with suppress(UndecodableImage):
        assert all(plane.flags.c_contiguous for plane in decode_tiff(path, max_bytes=64 * 1024 * 1024))


def test_ranges_of_real_files(shared_data: Path) -> None:
    for content in seeds(shared_data)[::6]:
        try:
            skeleton, _ = take_apart(content)
        except NotRebuildable:
            continue
        for offset in range(0, len(content), 397):
            check_range(content, skeleton, offset, 1024)
