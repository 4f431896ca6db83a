"""What names mean, said on the command line: it holds for the mount's flushes, and for the one after a crash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from blackbox.daemons import DONE, Mounted, Plate, Vfsd, unmount_with
from blackbox.pictures import noisy_picture, write_tiff
from blackbox.stores import read_image, stored_plates, validate_groups

pytestmark = pytest.mark.fuse

PATTERN = "run 7 {well} f{field} ({channel}).tif"
NAMES = [f"run 7 {well} f{field} (DAPI).tif" for well in ("B02", "C03") for field in (1, 2)]


def write_images(folder: Path) -> None:
    for number, name in enumerate(NAMES):
        write_tiff(folder / name, noisy_picture((64, 48), seed=number))


def assert_is_a_plate(store: Path) -> None:
    validate_groups(store)
    (plate,) = stored_plates(store)
    assert set(plate.images) == {("B", "2", "1"), ("B", "2", "2"), ("C", "3", "1"), ("C", "3", "2")}


def test_a_mount_takes_names_by_a_pattern(plate: Plate, mounted: Mounted) -> None:
    source = plate("demo")
    with mounted(source, "--pattern", PATTERN) as mount:
        (mount.path / "mine").mkdir()
        write_images(mount.path / "mine")
        mount.umount()
    assert_is_a_plate(mount.store)


def test_a_flush_after_a_crash_takes_names_as_the_mount_did(plate: Plate, mounted: Mounted, vfsd: Vfsd) -> None:
    source = plate("demo")
    with mounted(source, "-o", f"pattern={PATTERN}") as mount:
        (mount.path / "mine").mkdir()
        write_images(mount.path / "mine")
        mount.kill()
        unmount_with("fusermount3", "-uz", mount.path)
    vfsd.expect(DONE, "recover", mount.store)
    assert_is_a_plate(mount.store)


def test_masks_written_through_a_mount_become_labels_of_images_ingested_later(
    plate: Plate, mounted: Mounted, tmp_path: Path
) -> None:
    source = tmp_path / "screen"
    source.mkdir()
    for field in (1, 2):
        write_tiff(source / f"P_B02_s{field}_w1.TIF", noisy_picture((64, 48), seed=field))
    with mounted(source, "--labels", "{image}.{label}.tif") as mount:
        for image in sorted(mount.path.glob("*_w1.TIF")):
            assert image.read_bytes()
            write_tiff(mount.path / f"{image.stem}.Nuclei.tif", noisy_picture((64, 48), seed=7))
        mount.umount()
    waiting = mount.store / "images/screen.labels.ome.zarr"
    assert sorted(field.name for field in (waiting / "B/2").iterdir()) == ["1", "2", "zarr.json"]
    with mounted(source, "--ingest", store=mount.store) as mount:
        masks = {mask.name: mask.read_bytes() for mask in mount.path.glob("*.tif")}
        mount.umount()
    assert not waiting.exists()
    validate_groups(mount.store)
    for field in ("1", "2"):
        (label,) = (
            path for path in (mount.store / f"images/screen.ome.zarr/B/2/{field}/labels").iterdir() if path.is_dir()
        )
        assert label.name == "nuclei"
        pixels = read_image(label).by_zarr()
        assert np.array_equal(pixels[0, 0], noisy_picture((64, 48), seed=7))
    with mounted(mount.store) as mount:
        assert {mask.name: mask.read_bytes() for mask in mount.path.glob("*.tif")} == masks


def test_convert_takes_one_instrument_only(plate: Plate, vfsd: Vfsd, tmp_path: Path) -> None:
    source, store = plate("demo"), tmp_path / "kept.vfs"
    vfsd.expect(DONE, "convert", source, store, "--plate-format", "harmony")
    assert stored_plates(store) == []
