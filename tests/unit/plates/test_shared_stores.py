"""Every real plate in a store: each pixel where the table written by hand says, for every judge; and nothing else there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import trio
from blackbox.stores import StoredPlate, assert_napari_shows, stored_plates, validate_groups
from plate_listings import table
from test_imagexpress_shared import PLATE_3434, PLATE_3435
from test_shared_plates import CELLOMICS, CV8000, LEICA, PHENIX, PROJECTION_MIX, cv8000_table

from vfsd.flush import convert_plate, verify_store
from vfsd.plates import PlatePosition
from vfsd.plates.naming import channel_of_name

SCANR = "\n".join(
    f"A{well}--W0000{well}--P00001--Z00000--T00000--{channel}.tif | A0{well} | 1 | 0 | {channel_of_name(channel.encode())} | 0"
    for well in (1, 2)
    for channel in ("GFP", "mcherry")
)
# Folder of the set, folder of the plate in it, and the table.
SETS = [
    ("imagexpress_exported/9987_Plate_3434", "", PLATE_3434.replace(" | plane", "")),
    ("imagexpress_exported/9987_Plate_3435", "", PLATE_3435.replace(" | plane", "")),
    ("imagexpress_projection-mix", "Projection-Mix/2023-02-21/1334", PROJECTION_MIX),
    ("opera_phenix_pe2loaddata_v5/Version5", "", PHENIX),
    (f"cellvoyager_cv8000/{CV8000}_20230918_135839", CV8000, cv8000_table()),
    ("scanr_plateviewer/SCANR-C2-S1-T1", "", SCANR),
    ("leica_matrixscreener/experiment--test", "", LEICA),
    ("cellomics_arrayscan_AS_09047", "", CELLOMICS),
]

# The planes of the CellVoyager's set are all the same blank picture of 8 MB: one field of each well says as much as four.
FEWER = {CV8000: ("_F002", "F003L", "F004L", "F002L")}


def assert_holds(plate: StoredPlate, planes: dict[PlatePosition, np.ndarray]) -> None:  # type: ignore[type-arg]  # of any
    """Each plane at its place, by zarr-python and tensorstore; zeros everywhere else."""
    numbers = {axis: sorted({getattr(at, name) for at in planes}) for axis, name in AXES.items()}
    fields = {(at.row_path, at.column_path, str(at.field)) for at in planes}
    assert set(plate.images) == fields
    for field, image in plate.images.items():
        pixels = image.by_zarr()
        assert np.array_equal(pixels, image.by_tensorstore())
        assert pixels.shape[:3] == tuple(len(numbers[axis]) for axis in "tcz")
        absent = np.ones(pixels.shape[:3], bool)
        for at, plane in planes.items():
            if (at.row_path, at.column_path, str(at.field)) == field:
                index = tuple(numbers[axis].index(getattr(at, name)) for axis, name in AXES.items())
                assert pixels.dtype == plane.dtype
                assert np.array_equal(pixels[index], plane), f"{field} {at}"
                absent[index] = False
        assert not pixels[absent].any()


AXES = {"t": "time", "c": "channel", "z": "z"}


@pytest.mark.parametrize(("folder", "root", "text"), SETS, ids=[folder for folder, _, _ in SETS])
def test_every_pixel_is_where_the_table_says(
    shared_data: Path, tmp_path: Path, folder: str, root: str, text: str
) -> None:
    source, store = shared_data / folder, tmp_path / "s.vfs"
    positions = {source / root / path.decode(): at for path, at in table(text).items()}
    if root in FEWER:
        skipped = FEWER[root]
        copy = tmp_path / source.name
        shutil.copytree(
            source, copy, ignore=lambda _, names: [name for name in names if any(s in name for s in skipped)]
        )
        positions = {copy / path.relative_to(source): at for path, at in positions.items()}
        positions = {path: at for path, at in positions.items() if path.exists()}
        source = copy
    result = trio.run(convert_plate, source, store)
    assert result.complete
    assert result.source_replaceable is True
    validate_groups(store)
    planes = {path: np.asarray(tifffile.imread(path)) for path in positions}
    stored = {plate.folder.name.endswith("_projection.ome.zarr"): plate for plate in stored_plates(store)}
    assert set(stored) == {at.projection for at in positions.values()}
    for projection, plate in stored.items():
        assert_holds(plate, {at: planes[path] for path, at in positions.items() if at.projection == projection})
        assert_napari_shows(plate)
    assert verify_store(store).ok
