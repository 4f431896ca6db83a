"""A store's images for older programs: the same arrays, in Zarr v2, as everybody reads them; the chunks as they were."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import trio
import zarr
from blackbox.stores import judging
from plate_bench import Bench, pixels, plate_path, tiff

from vfsd.errors import FlushIncomplete, UnfitError
from vfsd.flush import export_ome_zarr as exporting
from vfsd.flush import placing
from vfsd.flush.export_ome_zarr import export_ome_zarr
from vfsd.store import pyramid

SHAPE = (90, 70)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plates with a hole and a label image, stacks of every kind of chunk: colour both ways, pages, tiles, floats."""
    bench = Bench(tmp_path_factory.mktemp("stored"))
    files: dict[bytes, bytes] = {}
    for well in ("A01", "B12"):
        for site in (1, 2):
            for channel in (1, 2):
                files[b"pl/" + plate_path(well, site, channel)] = tiff(pixels(site + channel, SHAPE))
                files[b"pl/" + plate_path(well, site, channel, time=2)] = tiff(pixels(7 * site + channel, SHAPE))
    del files[b"pl/" + plate_path("B12", 2, 2)]
    label = b"pl/" + plate_path("A01", 1, 1).removesuffix(b".TIF") + b"_label.tif"
    files[label] = tiff(np.arange(90 * 70, dtype="uint16").reshape(SHAPE))
    for planar in ("contig", "separate"):
        for number in range(4):
            shape = (*SHAPE, 3) if planar == "contig" else (3, *SHAPE)
            colours = pixels(number, shape, "uint8")
            files[b"%s/%d.tif" % (planar.encode(), number)] = tiff(colours, photometric="rgb", planarconfig=planar)
    files[b"p/pages.tif"] = tiff(np.stack([pixels(n, SHAPE) for n in range(20)]), photometric="minisblack")
    files |= {b"f/%d.tif" % n: tiff(pixels(n, (200, 300), "float32")) for n in range(16)}
    files[b"big/slide.tif"] = tiff(np.tile(pixels(3, (150, 2600)), (28, 2)))

    async def fill() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()

    with pytest.MonkeyPatch.context() as patch:  # as in `conftest`, whose fixtures begin later
        patch.setattr(placing, "FEWEST_PLANES", 4)
        patch.setattr(placing, "FEWEST_BYTES", 1)
        patch.setattr(pyramid, "SMALLEST_SIDE", 40)
        trio.run(fill)
    return bench.store


def arrays_of(root: Path) -> dict[str, Path]:
    """Every array below a folder, of either format, by its path."""
    documents = [path for name in (".zarray", "zarr.json") for path in root.rglob(name)]
    found = [path for path in documents if json.loads(path.read_text()).get("node_type") != "group"]
    return {str(path.parent.relative_to(root)): path.parent for path in found}


def by_tensorstore(folder: Path) -> Any:
    opened = tensorstore.open(
        {"driver": "zarr", "kvstore": {"driver": "file", "path": str(folder)}}, open=True, read=True
    )
    return np.asarray(opened.result().read().result())


def test_every_array_is_the_same_and_every_group_valid(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = export_ome_zarr(store, out)
    assert report.failed == ()
    assert report.found == 0
    before, after = arrays_of(store / "images"), arrays_of(out)
    assert set(after) == set(before)
    assert report.arrays == len(before) > 15
    for name, folder in before.items():
        expected = zarr.open_array(folder, mode="r")[...]
        found = zarr.open_array(after[name], mode="r", zarr_format=2)
        assert found.metadata.zarr_format == 2
        np.testing.assert_array_equal(found[...], expected, err_msg=name)
        np.testing.assert_array_equal(by_tensorstore(after[name]), expected, err_msg=name)
    kinds = {json.loads((folder / ".zarray").read_text())["dtype"] for folder in after.values()}
    assert kinds == {"<u2", "|u1", "<f4"}
    assert any(len(json.loads((folder / ".zarray").read_text())["chunks"]) == 3 for folder in after.values())
    assert not (out / ".vfsd-export").exists()
    with judging():
        from ome_zarr_models import open_ome_zarr

        groups = sorted(path.parent for path in out.rglob(".zattrs"))
        kinds = set()
        for folder in groups:
            group = zarr.open_group(folder, mode="r", zarr_format=2)
            kinds.add(type(open_ome_zarr(group, version="0.4")).__name__)
            assert list(group.members(max_depth=None)), f"{folder}: an empty group"
    assert {"HCS", "Well", "Image"} <= kinds, kinds
    assert any("label" in kind.lower() for kind in kinds), kinds


def test_chunks_are_copied_and_absent_ones_stay_absent(store: Path, tmp_path: Path) -> None:
    export_ome_zarr(store, tmp_path / "out")
    stored = b"".join(path.read_bytes() for path in (store / "images" / "pl.ome.zarr").rglob("c.*"))
    out = tmp_path / "out" / "pl.ome.zarr"
    chunks = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith(".z")]
    assert len(chunks) > 30
    for path in chunks:
        assert path.read_bytes() in stored, f"{path}: no chunk of the store"
    assert {path.name for path in (out / "B/12/2/0/0").iterdir()} == {"0"}, "the plane that is missing"
    assert {path.name for path in (out / "B/12/2/0/1").iterdir()} == {"0", "1"}


def test_napari_opens_the_plate(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_ome_zarr(store, out)
    with judging():
        from napari_ome_zarr._reader import napari_get_reader

        folder = str(out / "pl.ome.zarr")
        reader = napari_get_reader(folder)
        assert reader is not None
        layers = [layer for layer in reader(folder) if layer[2] == "image"]
        shown = np.asarray(layers[0][0][0][..., :90, :70])
    np.testing.assert_array_equal(shown, zarr.open_array(out / "pl.ome.zarr/A/1/1/0", mode="r")[...])


def test_an_export_that_stopped_goes_on(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up half-way: what has its name is whole; the same again does the rest, and no more."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    report = export_ome_zarr(store, whole)
    renamed = 0

    def rename(old: bytes, new: bytes) -> None:
        nonlocal renamed
        renamed += b".vfsd-export" not in new  # its own note is none of the files
        if renamed > report.files // 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), new)
        os.replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(exporting.os, "rename", rename)
        with pytest.raises(FlushIncomplete, match="goes on from there"):
            export_ome_zarr(store, out)
    assert (out / ".vfsd-export").is_dir()
    for path in out.rglob("*"):
        if path.is_file() and ".vfsd-export" not in path.parts:
            assert path.read_bytes() == (whole / path.relative_to(out)).read_bytes()
    again = export_ome_zarr(store, out)
    assert (again.found, again.files, again.failed) == (report.files // 2, report.files, ())
    assert {path.relative_to(out) for path in out.rglob("*")} == {path.relative_to(whole) for path in whole.rglob("*")}
    with pytest.raises(UnfitError, match="not empty"):
        export_ome_zarr(store, out)


def test_what_is_damaged_is_named_and_the_rest_is_written(store: Path, tmp_path: Path) -> None:
    import shutil

    ruined, out = tmp_path / "ruined.vfs", tmp_path / "out"
    shutil.copytree(store, ruined)
    images = ruined / "images" / "pl.ome.zarr"
    shard = next((images / "A/1/1/0").glob("c.*"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    (images / "B/12/1/0/zarr.json").write_text("{")
    (images / "B/12/2/0/zarr.json").write_text('{"zarr_format": 3, "node_type": "array", "shape": [-1]}')
    report = export_ome_zarr(ruined, out)
    assert {os.fsdecode(one.path).removeprefix("images/pl.ome.zarr/") for one in report.failed} == {
        f"A/1/1/0/{shard.name}",
        "B/12/1/0",
        "B/12/2/0",
    }
    np.testing.assert_array_equal(
        zarr.open_array(out / "pl.ome.zarr/A/1/2/0", mode="r")[...], zarr.open_array(images / "A/1/2/0", mode="r")[...]
    )


def test_where_it_may_not_go(store: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    for folder, reason in ((tmp_path / "full", "not empty"), (store / "images" / "x", "inside the store")):
        with pytest.raises(UnfitError, match=reason):
            export_ome_zarr(store, folder)
    assert os.listdir(tmp_path / "full") == ["mine"]
