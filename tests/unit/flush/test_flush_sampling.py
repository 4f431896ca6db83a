"""How new arrays are compressed follows from what they hold; others read them, and files come back byte for byte."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
import trio

from vfsd.codec.blosc import BloscParameters
from vfsd.flush import convert_plate
from vfsd.flush.items import Item
from vfsd.flush.sampling import PIECE, choose_parameters, sample_of
from vfsd.store import InodeRecord, Kind, Store
from vfsd.store.stored import group_geometry

SIDE = 512
CHANCE = np.random.default_rng(1)


def camera() -> np.ndarray:
    return CHANCE.poisson(300, (SIDE, SIDE)).astype("<u2")


def dark() -> np.ndarray:
    return CHANCE.poisson(15, (SIDE, SIDE)).astype("<u2")


def twelve_bits_of_noise() -> np.ndarray:
    return CHANCE.integers(0, 4096, (SIDE, SIDE)).astype("<u2")


def noise() -> np.ndarray:
    return CHANCE.integers(0, 65536, (SIDE, SIDE)).astype("<u2")


def eight_bits() -> np.ndarray:
    return CHANCE.poisson(30, (SIDE, SIDE)).astype("u1")


def normalised() -> np.ndarray:
    return (CHANCE.poisson(300, (SIDE, SIDE)) / 4095).astype("<f4")


def mask() -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return ((rows // 40 * 13 + columns // 40) * (rows % 40 > 10)).astype("<u4")


@pytest.mark.parametrize(
    ("plane", "shuffle"),
    [
        (camera, "shuffle"),
        (dark, "bitshuffle"),
        (twelve_bits_of_noise, "bitshuffle"),
        (eight_bits, "bitshuffle"),
        (normalised, "bitshuffle"),
        (noise, "noshuffle"),
        (mask, "noshuffle"),
    ],
)
def test_the_shuffle_follows_the_pixels(plane: object, shuffle: str) -> None:
    pixels = plane()  # type: ignore[operator]
    chosen = choose_parameters([pixels.tobytes()], pixels.itemsize)
    assert chosen == BloscParameters(pixels.itemsize, shuffle=shuffle)  # type: ignore[arg-type]


def test_without_a_sample_it_is_as_ever() -> None:
    assert choose_parameters([], 2) == BloscParameters(2)
    assert choose_parameters([], 4, archive=True).cname == "zstd"


def test_an_archive_is_smaller() -> None:
    pixels = camera().tobytes()
    chosen = choose_parameters([pixels], 2, archive=True)
    assert (chosen.cname, chosen.typesize) == ("zstd", 2)


def test_a_sample_is_small_and_of_whole_pixels(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, CHANCE.integers(0, 9, (700, 701)).astype("<u4"))
    record = InodeRecord(2, Kind.SOURCE, 0o644, 0, 0, 1, path.stat().st_size, 0, 0, 0)
    item = Item(2, b"image.tif", path.stat().st_size, record, open_bytes=lambda: os.open(path, os.O_RDONLY))
    item.analyse()
    gone = Item(
        3, b"gone.tif", 9, record, open_bytes=lambda: os.open(tmp_path / "gone", os.O_RDONLY), layout=item.layout
    )
    pieces = sample_of([item, gone])
    assert len(pieces) == 4
    assert all(0 < len(piece) <= PIECE and len(piece) % 4 == 0 for piece in pieces)


@pytest.mark.parametrize("archive", [False, True], ids=["for speed", "for an archive"])
def test_arrays_of_each_kind_are_read_by_others(tmp_path: Path, archive: bool) -> None:
    """A stack of each kind of pixels: zarr-python and tensorstore read it, and the files are rebuilt."""
    import tensorstore
    import zarr

    plate, store_path = tmp_path / "plate", tmp_path / "plate.vfs"
    kinds = {"camera": camera, "dark": dark, "eight": eight_bits, "floats": normalised, "mask": mask}
    for name, make in kinds.items():
        (plate / name).mkdir(parents=True)
        for number in range(16):
            tifffile.imwrite(plate / name / f"{number:02d}.tif", make())
    result = trio.run(lambda: convert_plate(plate, store_path, levels=0, archive=archive))
    assert not result.kept
    store = Store.open(store_path, writable=False)
    try:
        codecs = {}
        for group in store.catalogue.groups():
            geometry = group_geometry(group)
            codecs[os.fsdecode(group.directory)] = geometry.blosc
            folder = store_path / os.fsdecode(group.location) / "0"
            expected = tifffile.imread(plate / os.fsdecode(group.directory) / "05.tif")
            array = zarr.open_array(folder, mode="r")
            assert np.array_equal(array[5], expected)
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
            assert np.array_equal(tensorstore.open(spec).result()[5].read().result(), expected)
        assert codecs.keys() == kinds.keys()
        assert {codec.cname for codec in codecs.values()} == {"zstd" if archive else "lz4"}
        if not archive:
            assert (codecs["camera"].shuffle, codecs["dark"].shuffle) == ("shuffle", "bitshuffle")
        for path, record in store.catalogue.walk():
            if record.kind is Kind.PLANES:
                store.files.describe(record).check()
                found = store.files.describe(record).read_range(1000, 70_000)
                assert found == (plate / os.fsdecode(path)).read_bytes()[1000:71_000]
    finally:
        store.close()
