"""ImageJ opens somebody else's OME-Zarr, version 0.4 and 0.5, as hyperstacks: dimensions, names, scales, and pixels.

Debian's ImageJ under a virtual X server. It knows neither OME-TIFF's axes nor BigTIFF: what it is given is `….tif`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from blackbox.daemons import Mounted, Plate
from blackbox.ome_zarrs import write_image, write_plate
from blackbox.pictures import noisy_picture

MACRO = Path(__file__).with_name("describe_hyperstacks.ijm")
IMAGEJ_SECONDS = 120

missing = [program for program in ("imagej", "xvfb-run", "java") if shutil.which(program) is None]
pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"),
]

# Types that ImageJ opens as they are, and the bits that it then says; it makes single floats of what it has no image for.
TYPES = {"u1": 8, "u2": 16, "i2": 16, "u4": 32, "i4": 32, "f4": 32}
PLATES = ("v0.4", "v0.5-resaved")


def described(paths: list[str], folder: Path) -> dict[str, tuple[list[str], list[list[str]]]]:
    """What ImageJ says of each image: a line for the whole, and one for each slice."""
    arguments, home = folder / "paths", folder / "home"
    arguments.write_text("\n".join(paths))
    home.mkdir()
    finished = subprocess.run(
        ["xvfb-run", "-a", "imagej", "-x", "512", "-b", MACRO, arguments],
        env={**os.environ, "HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=IMAGEJ_SECONDS,
        check=False,
    )
    said = finished.stdout + finished.stderr
    assert f"described {len(paths)} images" in said, said
    found: dict[str, tuple[list[str], list[list[str]]]] = {}
    slices: list[list[str]] = []
    for line in finished.stdout.splitlines():
        kind, *values = line.split("|")
        if kind == "image":
            slices = []
            found[values[0]] = (values[1:], slices)
        elif kind == "slice":
            slices.append(values)
    return found


def corners(plane: np.ndarray[Any, Any]) -> list[float]:
    return [float(plane[0, 0]), float(plane[0, -1]), float(plane[-1, -2])]


def test_imagej_opens_hyperstacks_over_both_versions(plate: Plate, mounted: Mounted, tmp_path: Path) -> None:
    both = tmp_path / "both"
    both.mkdir()
    for version in PLATES:
        (plate(f"omezarr/{version}", to=version) / "single-plane-hcs.zarr").rename(both / f"{version}.zarr")
    stack = noisy_picture((2, 3, 4, 30, 20))
    write_plate(both / "five.zarr", "0.5", {"A/1": ["0"]})
    write_image(
        both / "five.zarr" / "A/1/0", stack, "tczyx", "0.5", channels=["DAPI", "GFP", "Cy5"], chunks=(1, 1, 2, 16, 16)
    )
    pictures = {f"{code}.zarr": (noisy_picture((2, 30, 20)) % 200).astype(code) for code in TYPES}
    for name, pixels in pictures.items():
        write_image(both / name, pixels, "zyx", "0.4")
    long = zarr.create_array(
        store=str(both / "long.zarr" / "0"), shape=(1200, 2, 1024, 1024), chunks=(1, 1, 1024, 1024), dtype="u2", zarr_format=2
    )  # fmt: skip
    last = noisy_picture((1024, 1024), seed=5)
    long[1199, 1] = last
    write_image(tmp_path / "metadata", np.zeros((1, 1, 2, 2), "u2"), "tcyx", "0.4")
    for name in (".zgroup", ".zattrs"):
        shutil.copyfile(tmp_path / "metadata" / name, both / "long.zarr" / name)
    wells = [(version, well) for version in PLATES for well in ("07", "08")]

    with mounted(both, "--read-only") as mount:
        shown = {
            **{(version, well): mount.path / version / "E" / well / f"E{well}_f0.tif" for version, well in wells},
            "five": mount.path / "five" / "A" / "01" / "A01_f0.tif",
            **{name: mount.path / name.replace(".zarr", ".tif") for name in pictures},
        }
        large = mount.path / "long.tif"
        assert large.stat().st_size > 4 << 30
        found = described([*map(str, shown.values()), f"virtual:{large}"], tmp_path)

    for version, well in wells:
        whole, slices = found[str(shown[version, well])]
        assert whole[:6] == ["512", "256", "3", "1", "1", "16"]
        array = zarr.open_array(both / f"{version}.zarr" / "E" / well / "0" / "0", mode="r")[...]
        assert [list(map(float, values[2:])) for values in slices] == [corners(plane) for plane in array]
    whole, slices = found[str(shown["five"])]
    assert whole == ["20", "30", "3", "4", "2", "16", "0.6500", "2.0000", "microns"]
    ordered = stack.swapaxes(1, 2).reshape(24, 30, 20)
    assert [list(map(float, values[2:])) for values in slices] == [corners(plane) for plane in ordered]
    assert [values[1] for values in slices] == ["DAPI", "GFP", "Cy5"] * 8
    for name, pixels in pictures.items():
        whole, slices = found[str(shown[name])]
        assert whole[:6] == ["20", "30", "1", "2", "1", str(TYPES[name.removesuffix(".zarr")])], name
        moved = 32768 if name == "i2.zarr" else 0  # so ImageJ keeps signed numbers, and says it by a calibration
        seen = [[float(value) - moved for value in values[2:]] for values in slices]
        assert seen == [corners(plane) for plane in pixels], name
    whole, slices = found[str(large)]
    assert whole[:6] == ["1024", "1024", "2", "1", "1200", "16"]
    assert list(map(float, slices[-1][2:])) == corners(last)
    assert list(map(float, slices[0][2:])) == [0.0, 0.0, 0.0]
