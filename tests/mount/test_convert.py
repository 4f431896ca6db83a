"""`vfsd convert`, and mounting with --ingest: a whole plate taken in, so that the store alone replaces it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from blackbox.daemons import DONE, UNFIT, Mounted, Plate, Vfsd
from blackbox.stores import (
    assert_napari_shows,
    assert_plate_holds,
    export_planes,
    receipts,
    records_of,
    stored_plates,
    validate_groups,
)
from blackbox.trees import assert_same_tree, files_of, read_tree

PLATES = [
    "imagexpress_exported/9987_Plate_3434",
    "imagexpress_exported/9987_Plate_3435",
    "imagexpress_projection-mix",
    "cellomics_arrayscan_AS_09047",
    "opera_phenix_pe2loaddata_v5/Version5",
    "demo",
]
EXPORTS = ("9987", "demo")


def assert_export_is_the_plate(vfsd: Vfsd, store: Path, source: Path, to: Path) -> None:
    vfsd.expect(DONE, "export", store, to)
    assert_same_tree(read_tree(to), read_tree(source), "the export")


def assert_plates_hold_the_source(store: Path, source: Path) -> None:
    """For MetaXpress exports: every plane of the source, and nothing else, lies in the store's plates."""
    stacks = export_planes(source, projection=False)
    projections = export_planes(source, projection=True)
    stored = stored_plates(store)
    assert len(stored) == (2 if projections else 1)
    for plate in stored:
        is_projection = plate.folder.name.endswith("_projection.ome.zarr")
        assert_plate_holds(plate, projections if is_projection else stacks)
        assert_napari_shows(plate)


@pytest.mark.parametrize("name", PLATES)
def test_converted_plate_comes_back(name: str, plate: Plate, vfsd: Vfsd, tmp_path: Path) -> None:
    source, store = plate(name), tmp_path / "kept.vfs"
    before = read_tree(source)
    outcome = vfsd.expect(DONE, "convert", source, store)
    assert "Traceback" not in outcome.err
    report = vfsd.expect(DONE, "verify", store, "--json").json()
    assert report["files"] == len(files_of(before))
    assert not report["damaged"]
    assert_export_is_the_plate(vfsd, store, source, tmp_path / "exported")
    assert_same_tree(read_tree(source), before, "the source")
    for path in files_of(before):
        assert any(records_of(receipt, path) for receipt in receipts(store)), f"no receipt names {path!r}"
    if any(word in name for word in EXPORTS):
        assert_plates_hold_the_source(store, source)
    validate_groups(store)


@pytest.mark.fuse
@pytest.mark.parametrize("name", PLATES)
def test_ingested_plate_comes_back(name: str, plate: Plate, mounted: Mounted, vfsd: Vfsd, tmp_path: Path) -> None:
    source = plate(name)
    before = read_tree(source)
    with mounted(source, "--ingest") as mount:
        assert_same_tree(read_tree(mount.path), before, "the mount")
        mount.umount()
    vfsd.expect(DONE, "verify", mount.store)
    assert_export_is_the_plate(vfsd, mount.store, source, tmp_path / "exported")
    if any(word in name for word in EXPORTS):
        assert_plates_hold_the_source(mount.store, source)
    with mounted(mount.store) as alone:
        assert_same_tree(read_tree(alone.path), before, "the mounted store")


def test_lzw_compressed_plates_are_kept_once(plate: Plate, vfsd: Vfsd, tmp_path: Path) -> None:
    """The files are encoded again from the array: nothing of them lies in the store besides."""
    source, store = plate("opera_phenix_pe2loaddata_v5/Version5"), tmp_path / "kept.vfs"
    vfsd.expect(DONE, "convert", source, store, "--levels", "0")
    assert not list((store / "files").rglob("*.tif*"))
    images = sum(path.stat().st_size for path in (store / "images").rglob("*") if path.is_file())
    compressed = sum(path.stat().st_size for path in source.rglob("*.tiff"))
    assert images < compressed  # LZ4 with byte shuffle is better than LZW on these
    (stored,) = stored_plates(store)
    assert {folder.name for folder in stored.folder.glob("A/1/1/*") if folder.is_dir()} == {"0"}


@pytest.mark.fuse
@pytest.mark.parametrize(("option", "levels"), [(("--levels", "3"), 3), (("-o", "levels=1"), 1), ((), 0)])
def test_a_mount_gives_new_images_as_many_levels_as_it_was_told(
    option: tuple[str, ...], levels: int, plate: Plate, mounted: Mounted
) -> None:
    with mounted(plate(), "--ingest", *option) as mount:
        mount.umount()
    folders = {path.name for path in (mount.store / "images").glob("*/*/*/*/*") if path.is_dir()}
    assert folders == {str(level) for level in range(levels + 1)}  # images of 256 pixels get none by themselves
    validate_groups(mount.store)


@pytest.mark.fuse
def test_converted_store_is_mounted_alone(plate: Plate, mounted: Mounted, vfsd: Vfsd, tmp_path: Path) -> None:
    source, store = plate(), tmp_path / "kept.vfs"
    vfsd.expect(DONE, "convert", source, store)
    with mounted(store) as alone:
        assert alone.status()["source"] is None
        assert_same_tree(read_tree(alone.path), read_tree(source), "the mounted store")


def test_converting_again_changes_nothing(plate: Plate, vfsd: Vfsd, tmp_path: Path) -> None:
    source, store = plate(), tmp_path / "kept.vfs"
    vfsd.expect(DONE, "convert", source, store)
    images = read_tree(store / "images")
    vfsd.expect(DONE, "convert", source, store)
    vfsd.expect(DONE, "verify", store)
    again = read_tree(store / "images")
    assert {path: entry.digest for path, entry in again.items()} == {
        path: entry.digest for path, entry in images.items()
    }


def test_store_is_smaller_than_the_plate(vfsd: Vfsd, tmp_path: Path) -> None:
    source, store = tmp_path / "plate", tmp_path / "kept.vfs"
    vfsd.expect(
        DONE,
        "demo-plate",
        source,
        "--wells",
        "1",
        "--fields",
        "2",
        "--channels",
        "2",
        "--z",
        "1",
        "--size",
        "1024",
    )
    vfsd.expect(DONE, "convert", source, store)
    raw = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    kept = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    assert kept < 0.8 * raw


def test_export_does_not_write_over_anything(plate: Plate, vfsd: Vfsd, tmp_path: Path) -> None:
    source, store, out = plate(), tmp_path / "kept.vfs", tmp_path / "out"
    vfsd.expect(DONE, "convert", source, store)
    out.mkdir()
    mine = out / os.fsdecode(sorted(files_of(read_tree(source)))[0])
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    before = read_tree(out)
    outcome = vfsd.expect(UNFIT, "export", store, out)
    assert str(out) in outcome.err
    assert_same_tree(read_tree(out), before, "somebody's folder")


def test_convert_refuses_what_is_no_plate_folder(vfsd: Vfsd, tmp_path: Path) -> None:
    outcome = vfsd.expect(UNFIT, "convert", tmp_path / "missing", tmp_path / "kept.vfs")
    outcome.must_name(tmp_path / "missing")
    assert not (tmp_path / "kept.vfs").exists()
    vfsd.expect(UNFIT, "verify", tmp_path / "missing.vfs")
    vfsd.expect(UNFIT, "export", tmp_path / "missing.vfs", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_empty_plate(vfsd: Vfsd, tmp_path: Path) -> None:
    source, store = tmp_path / "plate", tmp_path / "kept.vfs"
    source.mkdir()
    vfsd.expect(DONE, "convert", source, store)
    vfsd.expect(DONE, "verify", store)
    assert_export_is_the_plate(vfsd, store, source, tmp_path / "out")


def test_same_seed_same_demo_plate(vfsd: Vfsd, tmp_path: Path) -> None:
    shape = (
        "--wells",
        "2",
        "--fields",
        "1",
        "--channels",
        "2",
        "--z",
        "2",
        "--size",
        "64",
        "--dtype",
        "uint16",
    )
    for name in ("one", "two"):
        vfsd.expect(DONE, "demo-plate", tmp_path / name, *shape)
    first, second = files_of(read_tree(tmp_path / "one")), files_of(read_tree(tmp_path / "two"))
    # Only the folder's own name may stand in names of files.
    digests = [
        [entry.digest for path, entry in sorted(tree.items()) if path.endswith(b".TIF")] for tree in (first, second)
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 2 * 1 * 2 * 2
    planes = export_planes(tmp_path / "one", projection=False)
    assert len(planes) == len(digests[0])
    assert all(plane.shape == (64, 64) and plane.dtype == "uint16" for plane in planes.values())
    assert all(plane.std() > 0 for plane in planes.values())
    assert any(path.upper().endswith(b".HTD") for path in first)
