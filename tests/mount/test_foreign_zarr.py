"""OME-Zarr that others wrote, mounted: TIFFs that programs read, an overlay above them, nothing written to the source."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from blackbox.daemons import DONE, UNFIT, USAGE, Mounted, Plate, Vfsd, wait_until
from blackbox.ome_zarrs import write_group, write_image, write_plate
from blackbox.pictures import noisy_picture
from blackbox.trees import assert_same_tree, read_tree

pytestmark = pytest.mark.fuse

CHANNELS = ["DAPI", "GFP"]


def own_plate(root: Path) -> dict[str, np.ndarray[Any, Any]]:
    """A plate of two fields with times, channels and z, and a label image; its pixels by well and field."""
    pixels = {f"{field}": noisy_picture((2, 2, 3, 40, 50), seed=field) for field in range(2)}
    write_plate(root, "0.5", {"A/1": ["0", "1"], "B/2": ["0"]})
    for field, stack in pixels.items():
        write_image(
            root / "A/1" / field,
            stack,
            "tczyx",
            "0.5",
            channels=CHANNELS,
            shards=(1, 2, 3, 64, 64),
            chunks=(1, 1, 1, 64, 64),
        )
    write_image(root / "B/2/0", pixels["0"][0, 0, 0], "yx", "0.5", chunks=(16, 16))
    write_group(root / "A/1/0/labels", "0.5", {"labels": ["cells"]})
    write_image(root / "A/1/0/labels/cells", (pixels["0"][0, 0, 0] > 520).astype("i4"), "yx", "0.5")
    return pixels


def test_a_plate_is_read_and_written_above(mounted: Mounted, vfsd: Vfsd, tmp_path: Path) -> None:
    source = tmp_path / "plate.ome.zarr"
    pixels = own_plate(source)
    # a chunk that is damaged is the trouble of its file alone
    shard = source / "B" / "2" / "0" / "0" / "c" / "0" / "0"
    shard.write_bytes(b"damaged")
    with mounted(source) as mount:
        well = mount.path / "A" / "01"
        stems = ["A01_f0", "A01_f0_label_cells", "A01_f1"]
        assert sorted(os.listdir(well)) == sorted(stem + suffix for stem in stems for suffix in (".tif", ".ome.tif"))
        for field, stack in pixels.items():
            with tifffile.TiffFile(well / f"A01_f{field}.ome.tif") as opened:
                assert (opened.is_ome, opened.series[0].axes) == (True, "TCZYX")
                np.testing.assert_array_equal(opened.series[0].asarray(), stack)
                assert opened.filehandle.size == (well / f"A01_f{field}.ome.tif").stat().st_size
            with tifffile.TiffFile(well / f"A01_f{field}.tif") as opened:
                assert (len(opened.pages), opened.series[0].axes) == (1, "TZCYX")
                np.testing.assert_array_equal(opened.series[0].asarray(), stack.swapaxes(1, 2))
        label = tifffile.imread(well / "A01_f0_label_cells.tif")
        np.testing.assert_array_equal(label, (pixels["0"][0, 0, 0] > 520).astype("i4"))

        said = vfsd.expect(DONE, "info", well / "A01_f1.tif", "--json").json()
        assert said["tier"] == "source"
        assert (said["location"]["array"], said["location"]["shape"]) == ("A/1/1/0", [2, 2, 3, 40, 50])

        mount.expect_in_log("B/02/B02_f0|B/2/0/0/c/0/0")
        with pytest.raises(OSError, match="Input/output") as caught:
            (mount.path / "B" / "02" / "B02_f0.tif").read_bytes()
        assert caught.value.errno == errno.EIO

        whole = (well / "A01_f0.ome.tif").read_bytes()
        numbers = {path: (well / path).stat().st_ino for path in os.listdir(well)}
        # above it: new files, other names, fewer names, other bytes
        (well / "results.csv").write_text("cells\n4711\n")
        (well / "A01_f1.tif").rename(well / "renamed.tif")
        (well / "A01_f0_label_cells.tif").unlink()
        with (well / "A01_f0.tif").open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(b"\1\2\3\4")
        with (well / "A01_f0_label_cells.ome.tif").open("r+b") as file:
            file.truncate(1000)
        copy = (well / "A01_f0.tif").read_bytes()
        assert copy[-4:] == b"\1\2\3\4"
        os.setxattr(well / "A01_f1.ome.tif", "user.note", b"good")
        with pytest.raises(OSError, match="not supported") as caught:
            os.setxattr(well / "A01_f1.ome.tif", "user.vfsd.tier", b"store")
        live = read_tree(well)
        mount.kill()
    with mounted(source) as mount:
        mount.expect_in_log("B/02/B02_f0|B/2/0/0/c/0/0")  # the log goes on
        assert_same_tree(read_tree(well), live, "the well after a crash")
        result = mount.umount("--json").json()
        assert result["flush"]["complete"] is True, result
    vfsd.expect(DONE, "verify", mount.store)
    refused = vfsd.expect(UNFIT, "mount", source, mount.path, "--zarr-as", "files")
    refused.must_name(mount.store, "--zarr-as tiff")
    with mounted(source) as mount:
        well = mount.path / "A" / "01"
        assert_same_tree(read_tree(well), live, "the well after another mount")
        assert (well / "A01_f0.ome.tif").read_bytes() == whole
        assert (well / "A01_f0.tif").read_bytes() == copy
        np.testing.assert_array_equal(tifffile.imread(well / "renamed.tif"), pixels["1"].swapaxes(1, 2))
        assert (well / "A01_f0.ome.tif").stat().st_ino == numbers["A01_f0.ome.tif"]
        assert (well / "renamed.tif").stat().st_ino == numbers["A01_f1.tif"]
        # what grows in the source is seen, as in any other source
        kept = {path: path.stat() for path in (source / "A/1", source / "A/1/zarr.json")}
        write_image(source / "A/1/7", pixels["0"], "tczyx", "0.5")
        write_group(source / "A/1", "0.5", {"well": {"images": [{"path": path} for path in ("0", "1", "7")]}})
        wait_until(lambda: "A01_f7.tif" in os.listdir(well), "the new field is listed")
        np.testing.assert_array_equal(tifffile.imread(well / "A01_f7.ome.tif"), pixels["0"])
        shutil.rmtree(source / "A/1/7")
        well_of_two = {"well": {"version": "0.5", "images": [{"path": path} for path in ("0", "1")]}}
        write_group(source / "A/1", "0.5", well_of_two)
        for path, found in kept.items():
            os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
        wait_until(lambda: "A01_f7.tif" not in os.listdir(well), "the field is gone")


def test_the_real_plates_of_both_versions(plate: Plate, mounted: Mounted, tmp_path: Path) -> None:
    """One mount of a folder of two: the same pixels from both, and as zarr-python has them."""
    both = tmp_path / "both"
    both.mkdir()
    for version in ("v0.4", "v0.5-resaved"):
        (plate(f"omezarr/{version}", to=version) / "single-plane-hcs.zarr").rename(both / f"{version}.zarr")
    with mounted(both, "--read-only") as mount:
        assert sorted(os.listdir(mount.path)) == ["v0.4", "v0.5-resaved"]
        for well in ("07", "08"):
            array = zarr.open_array(both / "v0.4.zarr" / "E" / well / "0" / "0", mode="r")[...]
            for version in ("v0.4", "v0.5-resaved"):
                for suffix in (".ome.tif", ".tif"):
                    shown = tifffile.imread(mount.path / version / "E" / well / f"E{well}_f0{suffix}")
                    np.testing.assert_array_equal(shown, array)
        with pytest.raises(OSError, match="Read-only"):
            (mount.path / "new").write_text("x")


def test_the_size_of_what_is_huge_costs_nothing(mounted: Mounted, tmp_path: Path) -> None:
    """5 GB of a plane that is there and thousands that are not: both files have their size, and the plane its pixels."""
    source = tmp_path / "long.ome.zarr"
    write_image(source, np.zeros((1, 1, 1, 8, 8), "u2"), "tczyx", "0.4")
    shutil.rmtree(source / "0")
    stack = zarr.create_array(
        store=str(source / "0"),
        shape=(320, 2, 1, 2048, 2048),
        chunks=(1, 1, 1, 512, 512),
        dtype="u2",
        zarr_format=2,
        fill_value=7,
    )
    plane = noisy_picture((2048, 2048), seed=3)
    stack[319, 1, 0] = plane
    size = 640 * 2048 * 2048 * 2
    with mounted(source, "--ram", "64M") as mount:
        with tifffile.TiffFile(mount.path / "long.ome.tif") as opened:
            assert opened.is_bigtiff
            assert opened.series[0].shape == (320, 2, 2048, 2048)
            np.testing.assert_array_equal(opened.pages[639].asarray(), plane)
            assert (opened.pages[100].asarray() == 7).all()
        with tifffile.TiffFile(mount.path / "long.tif") as opened:
            assert not opened.is_bigtiff
            assert opened.series[0].shape == (320, 2, 2048, 2048)
        with (mount.path / "long.tif").open("rb") as file:
            file.seek(-plane.nbytes, os.SEEK_END)
            assert file.read() == plane.tobytes()
        for name in ("long.tif", "long.ome.tif"):
            assert size < (mount.path / name).stat().st_size < size + (1 << 20)
        rss = mount.daemon.memory_info().rss
        assert rss < 400 << 20, "reading decodes only what is touched, and keeps little of it"


def test_what_cannot_be_shown_is_refused_or_named(vfsd: Vfsd, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    broken = tmp_path / "broken.ome.zarr"
    broken.mkdir()
    (broken / "zarr.json").write_text("{")
    vfsd.expect(UNFIT, "mount", broken, mountpoint).must_name(broken / "zarr.json", "no JSON", "--zarr-as files")
    assert not os.listdir(mountpoint)
    plain = tmp_path / "plain"
    plain.mkdir()
    vfsd.expect(UNFIT, "mount", plain, mountpoint, "--zarr-as", "tiff").must_name(plain, "no OME-Zarr")
    good = tmp_path / "plate.ome.zarr"
    own_plate(good)
    vfsd.expect(USAGE, "mount", good, mountpoint, "--ingest").must_name(good, "--ingest")
    array = good / "A/1/1/0/zarr.json"
    document = json.loads(array.read_text())
    document["codecs"] = [{"name": "bytes"}, {"name": "jetraw"}]
    array.write_text(json.dumps(document))
    (good / "B/2/0/zarr.json").write_bytes(b"\xff")
    said = vfsd.expect(DONE, "doctor", "--plate", good)
    for words in ("A/01/A01_f0", "jetraw", "not UTF-8", "3 images"):
        assert words in said.out, said
    report = vfsd.expect(DONE, "doctor", "--plate", good, "--json").json()
    assert {one["path"] for one in report["problems"]} == {"A/1/1/0", "B/2/0/zarr.json"}
    assert report["images"]["A/01/A01_f0"]["shape"] == [2, 2, 3, 40, 50]


def test_the_way_out_is_a_way_in(plate: Plate, vfsd: Vfsd, mounted: Mounted, tmp_path: Path) -> None:
    """A plate that was converted and exported for older programs, mounted again: the same pixels, as hyperstacks."""
    source, store, out = plate("demo"), tmp_path / "demo.vfs", tmp_path / "out"
    vfsd.expect(DONE, "convert", source, store)
    said = vfsd.expect(DONE, "export", "--ome-zarr", "0.4", store, out, "--json").json()
    assert (said["exit_code"], said["failed"], said["found"]) == (0, [], 0)
    vfsd.expect(UNFIT, "export", "--ome-zarr", "0.4", store, out).must_name(out, "not empty")
    vfsd.expect(USAGE, "export", "--ome-zarr", "0.3", store, tmp_path / "other")
    (exported,) = out.iterdir()
    with mounted(exported, "--read-only") as mount:
        shown = sorted(mount.path.rglob("*.ome.tif"))
        assert len(shown) == 4
        for path in shown:
            array = zarr.open_array(store / "images" / exported.name / "/".join(_place(path)) / "0", mode="r")[...]
            np.testing.assert_array_equal(tifffile.imread(path), np.squeeze(array))


def _place(path: Path) -> tuple[str, str, str]:
    """Row, column and field of a file of the view, as the groups are called."""
    well, _, field = path.name.removesuffix(".ome.tif").rpartition("_f")
    return well[0], str(int(well[1:])), field
