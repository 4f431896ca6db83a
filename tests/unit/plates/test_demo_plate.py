"""The simulated plate: its files, what readers see in them, and what happens when it cannot be written."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numcodecs import blosc

from vfsd.errors import UnfitError, UsageProblem, VfsdError
from vfsd.plates.demo import DemoPlate, write_demo_plate
from vfsd.plates.demo_plan import plan_demo_plate
from vfsd.plates.metaseries import pixel_size_from_description
from vfsd.plates.model import ChannelFacts, row_name
from vfsd.plates.recognise import recognise_plates

# Small enough for hundreds a second; one cell still fits.
SMALL: dict[str, Any] = {"wells": 2, "fields": 1, "channels": 2, "size": 48}


def digests(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoPlate:
    """The default plate."""
    return write_demo_plate(tmp_path_factory.mktemp("demo") / "plate1")


def test_the_default_plate_is_small_and_complete(demo: DemoPlate) -> None:
    files = digests(demo.directory)
    assert len(files) == demo.files == 74
    assert demo.images == 72
    assert sum((demo.directory / name).stat().st_size for name in files) == demo.bytes < 40_000_000
    assert demo.wells == ("B02", "B03", "B04", "B05", "C02", "C03", "C04", "C05", "D02", "D03", "D04", "D05")
    assert "TimePoint_1/demo_D05_s2_w3.TIF" in files
    assert {name for name in files if name.endswith(".HTD")} == {"demo.HTD", "TimePoint_1/demo.HTD"}


def test_readers_see_a_metaseries_image(demo: DemoPlate) -> None:
    with tifffile.TiffFile(demo.directory / "TimePoint_1/demo_C03_s2_w2.TIF") as tiff:
        (series,) = tiff.series
        assert (series.axes, series.shape, series.dtype) == ("YX", (512, 512), np.uint16)
        assert tiff.is_metaseries
        assert tiff.byteorder == "<"
        page = tiff.pages.first
        assert (page.dataoffsets, page.databytecounts) == ((8,), (512 * 512 * 2,))
        assert page.offset == 8 + 512 * 512 * 2
        assert page.compression == 1
        assert tiff.pages.first.is_final
        said = tiff.metaseries_metadata["PlaneInfo"]
        assert said["spatial-calibration-x"] == 0.65
        assert said["stage-label"] == "C03 : Site 2"
        assert said["_IllumSetting_"] == "FITC"
        assert pixel_size_from_description(page.description) == (0.65, 0.65)


def test_the_plate_is_recognised_completely(tmp_path: Path) -> None:
    written = write_demo_plate(tmp_path / "p", wells=["A01", "P24"], fields=2, channels=2, z=3, time_points=2, size=16)
    paths = [os.fsencode(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    (plate,) = recognise_plates(
        paths, lambda path, offset, size: (tmp_path / os.fsdecode(path)).read_bytes()[offset : offset + size]
    )
    assert (plate.root, plate.name, plate.facts.name) == (b"p", "p", "demo")
    assert len(plate.images) == written.images == 2 * 2 * 2 * 3 * 2
    assert {at.well for at in plate.images.values()} == {"A01", "P24"}
    assert {at.z for at in plate.images.values()} == {1, 2, 3}
    assert {at.time for at in plate.images.values()} == {1, 2}
    assert set(plate.others.values()) == {"it is the plate's HTD"}
    assert len(plate.others) == 1 + 2 + 6
    facts = plate.facts
    assert (facts.rows, facts.columns, facts.time_points, facts.z_steps) == (16, 24, 2, 3)
    assert facts.channels == (ChannelFacts(1, "DAPI"), ChannelFacts(2, "FITC"))


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    sizes = SMALL | {"z": 2, "time_points": 2}
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_demo_plate(tmp_path / name, seed=seed, **sizes)
    first, again, other = (digests(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    assert not any(first[name] == other[name] for name in first if name.endswith(".TIF"))


def test_no_two_planes_are_alike(demo: DemoPlate) -> None:
    images = [digest for name, digest in digests(demo.directory).items() if name.endswith(".TIF")]
    assert len(set(images)) == demo.images


def test_planes_compress_like_real_ones(demo: DemoPlate) -> None:
    ratios = []
    for path in sorted(demo.directory.rglob("*.TIF")):
        pixels = tifffile.imread(path)
        frame = blosc.compress(np.ascontiguousarray(pixels), b"lz4", 5, blosc.SHUFFLE, 32768)
        ratios.append(pixels.nbytes / len(frame))
    assert min(ratios) > 1.5
    assert max(ratios) < 2.1


def test_images_look_like_cells_with_camera_noise(demo: DemoPlate) -> None:
    bright = {}
    for well in ("B02", "B05"):
        pixels = tifffile.imread(demo.directory / f"TimePoint_1/demo_{well}_s1_w1.TIF").astype(float)
        background = pixels[pixels < np.median(pixels) + 60]
        differences = np.diff(pixels, axis=1)
        noise = 1.4826 * np.median(np.abs(differences)) / np.sqrt(2)
        assert 260 < background.mean() < 450
        assert 8 < noise < 20
        assert pixels.max() > 1000
        bright[well] = (pixels > 800).mean()
    assert bright["B05"] < 0.5 * bright["B02"] < 0.1


@pytest.mark.parametrize(("dtype", "size"), [("uint8", 33), ("uint8", 64), ("uint16", 33), ("uint16", 300)])
def test_both_pixel_types_and_odd_sizes(tmp_path: Path, dtype: str, size: int) -> None:
    write_demo_plate(tmp_path / "p", **SMALL | {"size": size, "dtype": dtype})
    with tifffile.TiffFile(tmp_path / "p/TimePoint_1/demo_B02_s1_w1.TIF") as tiff:
        pixels = tiff.asarray()
        assert (pixels.shape, pixels.dtype) == ((size, size), np.dtype(dtype))
        assert tiff.pages.first.offset % 2 == 0
        assert 0 < pixels.min() < pixels.mean() < pixels.max()


def test_more_channels_than_stains_have_names_of_their_own(tmp_path: Path) -> None:
    write_demo_plate(tmp_path / "p", **SMALL | {"wells": 1, "channels": 13})
    htd = (tmp_path / "p/demo.HTD").read_text("latin-1")
    names = [line.split('"')[3] for line in htd.splitlines() if line.startswith('"WaveName')]
    assert len(set(names)) == 13


@pytest.mark.parametrize(
    ("wells", "first", "last", "rows"),
    [
        (1, "B02", "B02", 8),
        (12, "B02", "D05", 8),
        (60, "B02", "G11", 8),
        (96, "A01", "H12", 8),
        (97, "B02", None, 16),
        (308, "B02", "O23", 16),
        (384, "A01", "P24", 16),
        (1536, "A01", "AF48", 32),
        (["b2", "AF48"], "B02", "AF48", 32),
    ],
)
def test_wells_are_a_block_on_a_plate_that_exists(
    wells: int | list[str], first: str, last: str | None, rows: int
) -> None:
    plan = plan_demo_plate(wells, 1, 1, 1, 16, "uint16", 1, 0, "demo")
    names = [f"{row_name(row)}{column + 1:02d}" for row, column in plan.wells]
    assert len(set(names)) == (wells if isinstance(wells, int) else len(wells))
    assert names[0] == first
    assert last is None or names[-1] == last
    assert plan.plate_format[0] == rows
    assert f'"YWells", {rows}\r\n'.encode() in plan.htd()


def test_progress_is_told_and_ends_at_all(tmp_path: Path) -> None:
    told: list[tuple[int, int, int]] = []
    written = write_demo_plate(tmp_path / "p", on_progress=lambda *done: told.append(done), **SMALL)
    assert [total for _, total, _ in told] == [written.files] * len(told)
    assert told == sorted(told)
    assert told[-1] == (written.files, written.files, written.bytes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"wells": 0},
        {"wells": 1537},
        {"wells": []},
        {"wells": ["Z99"]},
        {"wells": ["AG01"]},
        {"wells": ["../x"]},
        {"fields": 0},
        {"channels": 100},
        {"z": -1},
        {"size": 8},
        {"size": 100_000},
        {"dtype": "float32"},
        {"time_points": 0},
        {"seed": -1},
        {"name": "../x"},
        {"name": ""},
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageProblem):
        write_demo_plate(tmp_path / "p", **SMALL | wrong)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_ever_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UnfitError, match="not empty"):
        write_demo_plate(tmp_path, **SMALL)
    with pytest.raises(UnfitError, match="File exists"):
        write_demo_plate(tmp_path / "mine.txt", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert write_demo_plate(tmp_path, **SMALL).files == 6


def test_a_plate_larger_than_the_disk_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match="are free there"):
        write_demo_plate(tmp_path / "p", wells=1536, fields=9_999, channels=99, size=8192)
    assert list((tmp_path / "p").iterdir()) == []


def test_a_file_that_cannot_be_written_ends_with_a_clear_error(tmp_path: Path) -> None:
    def forbid_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, 6_000))

    script = (
        "import sys\nfrom pathlib import Path\nfrom vfsd.errors import VfsdError\n"
        "from vfsd.plates.demo import write_demo_plate\n"
        "try: write_demo_plate(Path(sys.argv[1]), size=64)\nexcept VfsdError as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "p")]
    done = subprocess.run(command, preexec_fn=forbid_large_files, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{tmp_path / 'p'}: writing failed: File too large; the demo plate is not")
    assert "Delete this folder" in done.stdout
    assert done.stderr == ""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "vfsd-test", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.root
def test_a_disk_that_fills_up_ends_with_a_clear_error(small_disk: Path) -> None:
    def fill(files: int, total: int, size: int) -> None:
        with (small_disk / "filler").open("ab") as filler:
            filler.write(bytes(1 << 20))

    with pytest.raises(VfsdError, match="the disk is full; the demo plate is not complete") as caught:
        write_demo_plate(small_disk / "p", size=128, on_progress=fill, wells=24, fields=1)
    assert caught.value.path == small_disk / "p"
    assert "Delete this folder" in str(caught.value)
