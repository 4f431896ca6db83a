"""ImageJ on the mount does what it does on the source folder: opens, measures, saves; and its results stay.

Debian's ImageJ under a virtual X server, with a macro that measures every image of a folder and saves a mask
of each and a table. It knows nothing of mounts.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from blackbox.daemons import DONE, Mounted, Plate, Vfsd
from blackbox.pictures import read_tiff
from blackbox.trees import Tree, assert_same_tree, part_of, read_tree

MACRO = Path(__file__).with_name("measure_folder.ijm")
IMAGEJ_SECONDS = 120

missing = [program for program in ("imagej", "xvfb-run", "java") if shutil.which(program) is None]
pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
]

PLATES = ["imagexpress_exported/9987_Plate_3435", "scanr_plateviewer", "cellomics_arrayscan_AS_09047", "demo"]


def run_imagej(source: Path, results: Path, home: Path) -> str:
    """Run the macro; what ImageJ printed. Its wrapper exits with 1 even when all is well (a trap in it)."""
    home.mkdir(exist_ok=True)
    finished = subprocess.run(
        ["xvfb-run", "-a", "imagej", "-x", "512", "-b", MACRO, source, results],
        env={**os.environ, "HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=IMAGEJ_SECONDS,
        check=False,
    )
    return finished.stdout + finished.stderr


def measure(source: Path, results: Path, home: Path) -> Tree:
    """Measure a folder into another; the saved files."""
    images = [p for p in source.rglob("*") if p.suffix.lower() == ".tif"]
    results.mkdir()
    said = run_imagej(source, results, home)
    assert f"measured {len(images)} images" in said, said
    saved = read_tree(results)
    assert len(saved) == len(images) + 1, said
    return saved


@pytest.mark.parametrize("name", PLATES)
def test_imagej_measures_and_saves_on_the_mount_as_on_the_source(
    name: str, plate: Plate, mounted: Mounted, vfsd: Vfsd, tmp_path: Path
) -> None:
    source, home = plate(name), tmp_path / "home"
    expected = measure(source, tmp_path / "results", home)
    before = read_tree(source)
    with mounted(source) as mount:
        results = mount.path / "results"
        # Results first go beside the mount: what is read must be the plate, not its own results.
        plain = measure(mount.path, tmp_path / "results of the mount", home)
        assert_same_tree(plain, expected, "measured on the mount", ignore=["mtime_ns"])
        shutil.copytree(source, mount.path / "again", copy_function=shutil.copy2)
        saved = measure(mount.path / "again", results, home)
        assert_same_tree(saved, expected, "saved into the mount", ignore=["mtime_ns"])
        assert_same_tree(read_tree(source), before, "the source")
        mount.umount()
    vfsd.expect(DONE, "verify", mount.store)
    with mounted(mount.store) as alone:
        kept = part_of(read_tree(alone.path), b"results")
        assert_same_tree(kept, saved, "the saved results in the store")
        again = measure(alone.path / "again", alone.path / "measured again", home)
        assert_same_tree(again, expected, "measured on the mounted store", ignore=["mtime_ns"])
        alone.umount()
    vfsd.expect(DONE, "verify", mount.store)


def test_imagej_measures_what_numpy_measures(plate: Plate, tmp_path: Path) -> None:
    """The macro itself is right: without it being so, equal results would mean nothing."""
    source = plate("imagexpress_exported/9987_Plate_3435")
    measure(source, tmp_path / "results", tmp_path / "home")
    with (tmp_path / "results" / "measurements.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert len(rows) == 16
    for row in rows:
        pixels = read_tiff(source / row["Name"])
        assert int(row["Min"]) == pixels.min()
        assert int(row["Max"]) == pixels.max()
        assert abs(float(row["Mean"]) - pixels.mean()) < 0.001
        mask = read_tiff(tmp_path / "results" / f"mask_{row['Name'].replace('/', '_')[:-4]}.tif")
        assert set(np.unique(mask)) == {0, 255}
