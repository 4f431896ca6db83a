"""The main job on real plates: read through the mount, write into it, unmount, and have every byte again.

Each shared set goes the whole way: mounted, copied inside the mount together with masks and a table, flushed,
verified, mounted as a store without its source, exported. What comes back is compared by SHA-256, mode and
mtime.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import xxhash
from blackbox.daemons import DONE, Mounted, Plate, Vfsd
from blackbox.pictures import label_picture, noisy_picture, write_tiff
from blackbox.stores import (
    Pixels,
    assert_napari_shows,
    assert_plate_holds,
    export_planes,
    export_position,
    group_attributes,
    ome_groups,
    read_image,
    receipts,
    records_of,
    stored_plates,
    validate_groups,
)
from blackbox.trees import Tree, assert_same_tree, digest_file, files_of, part_of, read_tree

pytestmark = pytest.mark.fuse

INSTRUMENTS = [
    "imagexpress_projection-mix",
    "imagexpress_exported/9987_Plate_3434",
    "imagexpress_exported/9987_Plate_3435",
    "cellvoyager_cv8000",
    "opera_phenix_pe2loaddata_v5",
    "scanr_plateviewer",
    "leica_matrixscreener",
    "cellomics_arrayscan_AS_09047",
]
OTHERS = [
    "omezarr/v0.4",
    "omezarr/v0.5-resaved",
    "omezarr/v0.5-metadata-only",
    "tiff_variants/tlnagy_shapes",
    "tiff_variants/image-tiff_seq",
    "tiff_variants/image-tiff_bigtiff",
]
EXPORTS = ["imagexpress_exported/9987_Plate_3434", "imagexpress_exported/9987_Plate_3435", "demo"]

# What acquisition software, network shares and careful people leave: no two neighbours have the same.
MODES = (0o644, 0o640, 0o444, 0o755, 0o600, 0o664)
FIRST_MTIME_NS = 1_500_000_000_123_456_789

# Enough equal masks for the stack form (16 planes and 1 MiB), and too few for it.
MANY, FEW = 20, 3
MASK_SHAPE = (256, 256)

COPY = b"again"


def dress_files(folder: Path) -> None:
    """Give files and folders modes and times to the nanosecond of their own, children first."""
    for number, path in enumerate(sorted(folder.rglob("*"), reverse=True)):
        if not path.is_dir():
            path.chmod(MODES[number % len(MODES)])
        mtime_ns = FIRST_MTIME_NS + number * 86_400_000_000_007
        os.utime(path, ns=(mtime_ns, mtime_ns))


def add_results(folder: Path) -> None:
    """Masks and a table, as an analysis leaves them."""
    for name, dtype, count in (("cells", "uint8", MANY), ("nuclei", "uint16", FEW)):
        (folder / "masks" / name).mkdir(parents=True)
        for number in range(count):
            mask = label_picture(MASK_SHAPE, dtype, seed=number)
            write_tiff(folder / "masks" / name / f"{name}_{number:02}.tif", mask)
    rows = [f"{number},{number * number / 7:.6f}" for number in range(500)]
    (folder / "measurements.csv").write_text("object,area\n" + "\n".join(rows) + "\n")


def written_part(live: Tree, source: Tree) -> dict[bytes, object]:
    """What the store must hold by itself: everything in the mount that the source does not have."""
    return {path: entry for path, entry in live.items() if path not in source}


@pytest.mark.parametrize("name", [*INSTRUMENTS, *OTHERS, "demo"])
def test_every_file_comes_back_byte_for_byte(
    name: str, plate: Plate, mounted: Mounted, vfsd: Vfsd, tmp_path: Path
) -> None:
    source = plate(name)
    dress_files(source)
    original = read_tree(source)
    as_it_is = ["--zarr-as", "files"] if name.startswith("omezarr") else []
    with mounted(source, *as_it_is) as mount:
        assert_same_tree(read_tree(mount.path), original, "the mounted source")
        again = mount.path / os.fsdecode(COPY)
        subprocess.run(["cp", "-a", source, again], check=True)
        add_results(again)
        (mount.path / "summary.csv").write_text("plate,cells\n1,4711\n")
        live = read_tree(mount.path)
        copied = {path: entry for path, entry in part_of(live, COPY).items() if path in original}
        assert_same_tree(copied, original, "the copy in the mount")
        result = mount.umount("--json").json()
    assert result["flush"]["complete"] is True, result
    store = mount.store
    vfsd.expect(DONE, "verify", store)
    report = vfsd.expect(DONE, "verify", store, "--json").json()
    assert not report["damaged"], report

    written = written_part(live, original)
    assert_receipts_name(store, live, written)
    for path in (store / "images").rglob("*.tif*"):
        raise AssertionError(f"{path}: images/ holds only OME-Zarr")

    with mounted(store) as alone:
        assert_same_tree(read_tree(alone.path), written, "the mounted store")
    exported = tmp_path / "exported"
    vfsd.expect(DONE, "export", store, exported)
    assert_same_tree(read_tree(exported), written, "the export")
    with mounted(source) as both:
        assert_same_tree(read_tree(both.path), live, "source and store mounted again")


def assert_receipts_name(store: Path, live: Tree, written: Tree) -> None:
    """Every file that was written stands in a receipt with its size and its xxh3-128 digest."""
    found = receipts(store)
    assert found, f"{store}: no receipt"
    for path, entry in files_of(written).items():
        records = [record for receipt in found for record in records_of(receipt, path)]
        assert records, f"no receipt names {path!r}"
        values = [value for record in records for value in record.values()]
        assert entry.size in values, f"no receipt gives the size of {path!r}: {records}"


@pytest.mark.parametrize("name", [*EXPORTS, "cellomics_arrayscan_AS_09047"])
def test_receipt_gives_digests_that_others_can_compute(name: str, plate: Plate, mounted: Mounted) -> None:
    source = plate(name)
    with mounted(source) as mount:
        subprocess.run(["cp", "-a", source, mount.path / "again"], check=True)
        mount.umount()
    found = receipts(mount.store)
    for path in source.rglob("*"):
        if path.is_file():
            digest = xxhash.xxh3_128(path.read_bytes()).hexdigest()
            inside = b"again/" + os.fsencode(path.relative_to(source))
            records = [record for receipt in found for record in records_of(receipt, inside)]
            assert digest in [value for record in records for value in record.values()], (inside, records)


@pytest.mark.parametrize("name", EXPORTS)
def test_plate_copied_into_the_mount_becomes_a_plate_that_others_read(
    name: str, plate: Plate, mounted: Mounted
) -> None:
    source = plate(name)
    with mounted(source) as mount:
        subprocess.run(["cp", "-a", source, mount.path / "again"], check=True)
        mount.umount()
    images = mount.store / "images"
    found = {stored.folder: stored for stored in stored_plates(mount.store)}
    expected = {images / "again.ome.zarr": export_planes(source, projection=False)}
    if projections := export_planes(source, projection=True):
        expected[images / "again_projection.ome.zarr"] = projections
    assert set(found) == set(expected)
    for folder, planes in expected.items():
        assert_plate_holds(found[folder], planes)
        assert_napari_shows(found[folder])
    # A plate, its wells and its images, each a group of its own.
    wells = sum(len({key[:2] for key in stored.images}) for stored in found.values())
    fields = sum(len(stored.images) for stored in found.values())
    assert validate_groups(mount.store) == len(found) + wells + fields


def test_absent_plane_stays_absent(plate: Plate, mounted: Mounted) -> None:
    source = plate()
    planes = export_planes(source, projection=False)
    missing = sorted(source.rglob("*_s2_w2.TIF"))[-2:]
    lost = {export_position(path.relative_to(source).as_posix()) for path in missing}
    assert len(lost) == 2
    assert lost < set(planes)
    with mounted(source) as mount:
        subprocess.run(["cp", "-a", source, mount.path / "again"], check=True)
        for path in missing:
            (mount.path / "again" / path.relative_to(source)).unlink()
        mount.umount()
    (stored,) = stored_plates(mount.store)
    assert_plate_holds(stored, {position: plane for position, plane in planes.items() if position not in lost})
    assert_napari_shows(stored)
    validate_groups(mount.store)


def test_equal_tiffs_become_one_stack(tmp_path: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    source = tmp_path / "results"
    source.mkdir()
    pictures = {f"picture {number:02}.tif": noisy_picture((200, 300), seed=number) for number in range(24)}
    colours = {f"colour_{number:02}.tif": noisy_picture((160, 160, 3), "uint8", seed=number) for number in range(18)}
    with mounted(source) as mount:
        (mount.path / "day 1").mkdir()
        for name, picture in pictures.items():
            write_tiff(mount.path / "day 1" / name, picture)
        for name, picture in colours.items():
            write_tiff(mount.path / "day 1" / name, picture, photometric="rgb")
        live = read_tree(mount.path)
        mount.umount()
    stacks = mount.store / "images" / "day 1.stacks"
    groups = [folder for folder in ome_groups(mount.store) if "multiscales" in group_attributes(folder)]
    assert groups, "no stack"
    assert all(folder.parent == stacks for folder in groups), groups
    stored = sorted(fingerprint(plane) for folder in groups for plane in planes_of_stack(folder))
    assert stored == sorted(fingerprint(picture) for picture in [*pictures.values(), *colours.values()])
    assert validate_groups(mount.store) >= len(groups)
    vfsd.expect(DONE, "verify", mount.store)
    with mounted(mount.store) as alone:
        assert_same_tree(read_tree(alone.path), live, "the mounted store")


def fingerprint(picture: Pixels) -> tuple[tuple[int, ...], str, str]:
    return picture.shape, picture.dtype.name, xxhash.xxh3_128_hexdigest(np.ascontiguousarray(picture))


def planes_of_stack(folder: Path) -> list[Pixels]:
    """The pictures of one stack group, colour last, as zarr-python and tensorstore agree on them."""
    image = read_image(folder)
    pixels = image.by_zarr()
    assert np.array_equal(pixels, image.by_tensorstore())
    colour = [axis for axis in image.axes[1:] if axis not in "yx"]
    assert {"y", "x"} < set(image.axes)
    assert len(colour) <= 1
    if colour:
        pixels = np.moveaxis(pixels, image.axes.index(colour[0]), -1)
    return list(pixels)


def test_ingest_takes_the_source_in(plate: Plate, mounted: Mounted, vfsd: Vfsd, tmp_path: Path) -> None:
    source = plate()
    dress_files(source)
    with mounted(source, "--ingest") as mount:
        (mount.path / "notes.txt").write_text("stained on Monday\n")
        live = read_tree(mount.path)
        result = mount.umount("--json").json()
    assert result["flush"]["source_replaceable"] is True, result
    vfsd.expect(DONE, "verify", mount.store)
    (stored,) = stored_plates(mount.store)
    assert_plate_holds(stored, export_planes(source, projection=False))
    with mounted(mount.store) as alone:
        assert_same_tree(read_tree(alone.path), live, "the mounted store")
    vfsd.expect(DONE, "export", mount.store, tmp_path / "exported")
    assert_same_tree(read_tree(tmp_path / "exported"), live, "the export")


def test_flush_keeps_the_mount_and_releases_the_ram(plate: Plate, mounted: Mounted) -> None:
    source = plate()
    with mounted(source) as mount:
        subprocess.run(["cp", "-a", source, mount.path / "again"], check=True)
        live = read_tree(mount.path)
        mount.flush()
        assert receipts(mount.store)
        assert_same_tree(read_tree(mount.path), live, "the mount after a flush")
        (mount.path / "again" / "more.txt").write_text("written after the flush\n")
        live = read_tree(mount.path)
        mount.umount()
    with mounted(source) as mount:
        assert_same_tree(read_tree(mount.path), live, "the mount after another unmount")


def test_reading_alone_leaves_an_empty_store(plate: Plate, mounted: Mounted, vfsd: Vfsd) -> None:
    source = plate()
    with mounted(source) as mount:
        for path in sorted(mount.path.rglob("*")):
            if path.is_file():
                digest_file(path)
        mount.umount()
    assert not list(ome_groups(mount.store))
    assert not [path for path in (mount.store / "files").rglob("*") if path.is_file()]
    vfsd.expect(DONE, "verify", mount.store)
