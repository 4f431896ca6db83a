"""A store read as strangers read it: OME-Zarr through its metadata, receipts as JSON, plain files as files.

The way to an image is only plate -> well -> image -> multiscales path, as NGFF 0.5 has it; no shard layout
and no catalogue is looked into. The positions of ImageXpress files come from a parser written here, by hand,
so that an error in the program's own parser cannot hide.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Pixels = np.ndarray[Any, np.dtype[Any]]

EXPORT_NAME = re.compile(
    r"(?:TimePoint_(?P<t>\d+)/)?(?:ZStep_(?P<z>\d+)/)?"
    r"[^/]+_(?P<row>[A-Z]{1,2})(?P<column>\d{2})(?:_s(?P<s>\d+))?(?:_w(?P<w>\d+))?\.(?:TIF|tif)"
)


@dataclass(frozen=True, slots=True)
class ExportPosition:
    """Where one file of a MetaXpress export belongs; t, c and z count from 0, the field is the vendor's."""

    row: str
    column: str
    field: str
    t: int
    c: int
    z: int
    projection: bool


def export_position(path: str) -> ExportPosition | None:
    """The position that a path relative to the plate's folder stands for; None for any other file."""
    found = EXPORT_NAME.fullmatch(path)
    if found is None:
        return None
    step = int(found["z"] or 1)
    return ExportPosition(
        row=found["row"],
        column=str(int(found["column"])),
        field=str(int(found["s"] or 1)),
        t=int(found["t"] or 1) - 1,
        c=int(found["w"] or 1) - 1,
        z=max(step - 1, 0),
        projection=step == 0,
    )


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One multiscale image: its folder, the folder of its full-resolution array, and its axes' names."""

    folder: Path
    array: Path
    axes: tuple[str, ...]

    def index(self, **wanted: int) -> tuple[int | slice, ...]:
        """An index of one plane; axes that the image lacks must be asked for at 0."""
        lacking = {axis: at for axis, at in wanted.items() if axis not in self.axes and at != 0}
        assert not lacking, f"{self.folder}: no axis for {lacking}"
        return tuple(wanted.get(axis, 0) if axis not in "yx" else slice(None) for axis in self.axes)

    def by_zarr(self) -> Pixels:
        import zarr

        return np.asarray(zarr.open_array(self.array, mode="r")[...])

    def by_tensorstore(self) -> Pixels:
        import tensorstore

        kvstore = {"driver": "file", "path": str(self.array)}
        opened = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, open=True, read=True).result()
        return np.asarray(opened.read().result())


@dataclass(frozen=True, slots=True)
class StoredPlate:
    """One HCS plate: its folder, the grid it declares, and its images by row, column and field."""

    folder: Path
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    images: Mapping[tuple[str, str, str], StoredImage]


def group_attributes(folder: Path) -> dict[str, Any]:
    """The `ome` attributes of a Zarr v3 group; empty for anything else."""
    try:
        document = json.loads((folder / "zarr.json").read_text())
    except FileNotFoundError:
        return {}
    if document.get("node_type") != "group":
        return {}
    ome = document.get("attributes", {}).get("ome", {})
    assert isinstance(ome, dict)
    return ome


def ome_groups(store: Path) -> Iterator[Path]:
    """Every folder below images/ that carries OME metadata."""
    for document in sorted((store / "images").rglob("zarr.json")):
        if group_attributes(document.parent):
            yield document.parent


def read_image(folder: Path) -> StoredImage:
    multiscale = group_attributes(folder)["multiscales"][0]
    return StoredImage(
        folder=folder,
        array=folder / multiscale["datasets"][0]["path"],
        axes=tuple(axis["name"] for axis in multiscale["axes"]),
    )


def read_plate(folder: Path) -> StoredPlate:
    plate = group_attributes(folder)["plate"]
    images = {}
    for well in plate["wells"]:
        row = plate["rows"][well["rowIndex"]]["name"]
        column = plate["columns"][well["columnIndex"]]["name"]
        assert well["path"] == f"{row}/{column}", f"{folder}: well {well} is not where its indices say"
        for image in group_attributes(folder / well["path"])["well"]["images"]:
            images[row, column, str(image["path"])] = read_image(folder / well["path"] / image["path"])
    return StoredPlate(
        folder=folder,
        rows=tuple(row["name"] for row in plate["rows"]),
        columns=tuple(column["name"] for column in plate["columns"]),
        images=images,
    )


def stored_plates(store: Path) -> list[StoredPlate]:
    """Every plate of a store."""
    return [read_plate(folder) for folder in ome_groups(store) if "plate" in group_attributes(folder)]


def export_planes(folder: Path, *, projection: bool) -> dict[ExportPosition, Pixels]:
    """The planes of a MetaXpress export as tifffile reads them: stacks, or projections (ZStep_0)."""
    import tifffile

    planes = {}
    for path in sorted(folder.rglob("*")):
        position = export_position(path.relative_to(folder).as_posix())
        if path.is_file() and position is not None and position.projection == projection:
            planes[position] = np.asarray(tifffile.imread(path))
    return planes


def assert_plate_holds(plate: StoredPlate, planes: Mapping[ExportPosition, Pixels]) -> None:
    """Each plane lies at its position, as zarr-python and tensorstore read it; all else is empty."""
    wanted = {(p.row, p.column, p.field) for p in planes}
    assert set(plate.images) == wanted, f"{plate.folder}: fields {set(plate.images)}, should be {wanted}"
    for well, image in plate.images.items():
        pixels, again = image.by_zarr(), image.by_tensorstore()
        assert np.array_equal(pixels, again), f"{image.array}: zarr-python and tensorstore disagree"
        unclaimed = np.ones(pixels.shape, bool)
        for position, plane in planes.items():
            if (position.row, position.column, position.field) == well:
                index = image.index(t=position.t, c=position.c, z=position.z)
                assert pixels.dtype == plane.dtype, f"{image.array}: not {plane.dtype}"
                assert np.array_equal(pixels[index], plane), f"{image.array}: not {position}"
                unclaimed[index] = False
        assert not pixels[unclaimed].any(), f"{image.array}: pixels where the source has no plane"


@contextlib.contextmanager
def judging() -> Iterator[None]:
    """Turns what the judges warn of into errors, once they are imported: their own imports warn of each other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("ome_zarr_models")
        importlib.import_module("napari_ome_zarr._reader")
        warnings.simplefilter("error")
        yield


def assert_strict(folder: Path) -> None:
    """What the strict schemas of NGFF 0.5 ask of one group, and what its text says a document MUST have.

    Of the strict schemas one line is left out: `colors` of a label image. napari-ome-zarr shows no label but those listed
    there, and the values are as many as objects were found.
    """
    document = json.loads((folder / "zarr.json").read_text())
    assert (document["zarr_format"], document["node_type"]) == (3, "group"), folder
    ome = document["attributes"]["ome"]
    assert ome["version"] == "0.5", folder
    known = {"version", "plate", "well", "multiscales", "omero", "labels", "image-label"}
    assert set(ome) <= known, f"{folder}: {set(ome) - known}"
    for multiscale in ome.get("multiscales", []):
        _assert_strict_image(folder, multiscale, ome.get("omero"))
    if "plate" in ome:
        _assert_strict_plate(folder, ome["plate"])
    if "well" in ome:
        images = ome["well"]["images"]
        assert ome["well"]["version"] == "0.5", folder
        assert images, folder
        assert len({image["path"] for image in images}) == len(images), folder
        assert all(NAME.fullmatch(image["path"]) for image in images), folder
        assert all(image.get("acquisition", 0) >= 0 for image in images), folder
    if "labels" in ome:
        assert ome["labels"], folder
        for path in ome["labels"]:
            label = group_attributes(folder / path)
            levels = [
                label["multiscales"][0]["datasets"],
                group_attributes(folder.parent)["multiscales"][0]["datasets"],
            ]
            assert len(levels[0]) == len(levels[1]), f"{folder}: other levels than the image"
            assert label["image-label"]["source"] == {"image": "../../"}, folder


NAME = re.compile("[A-Za-z0-9]+")


def _assert_strict_image(folder: Path, multiscale: dict[str, Any], omero: dict[str, Any] | None) -> None:
    assert isinstance(multiscale["name"], str), folder
    assert isinstance(multiscale["type"], str), folder
    assert isinstance(multiscale["metadata"], dict), folder
    axes = multiscale["axes"]
    assert 2 <= len(axes) <= 5, folder
    assert len({axis["name"] for axis in axes}) == len(axes), folder
    kinds = [axis.get("type") for axis in axes]
    order = [0 if kind == "time" else 2 if kind == "space" else 1 for kind in kinds]
    assert order == sorted(order), f"{folder}: axes {kinds}"
    assert 2 <= order.count(2) <= 3, folder
    assert order.count(0) <= 1, folder
    assert order.count(1) <= 1, folder
    assert multiscale["datasets"], folder
    sizes = []
    for dataset in multiscale["datasets"]:
        steps = dataset["coordinateTransformations"]
        assert [step["type"] for step in steps] in (["scale"], ["scale", "translation"]), folder
        assert all(len(step[step["type"]]) == len(axes) for step in steps), folder
        assert all(factor > 0 for factor in steps[0]["scale"]), folder
        array = json.loads((folder / dataset["path"] / "zarr.json").read_text())
        assert array["dimension_names"] == [axis["name"] for axis in axes], folder
        sizes.append(array["shape"])
    assert sizes == sorted(sizes, reverse=True), f"{folder}: the largest comes first"
    if omero is not None:
        channels = omero["channels"]
        assert len(channels) == sizes[0][[axis["name"] for axis in axes].index("c")], folder
        for channel in channels:
            assert set(channel["window"]) == {"min", "max", "start", "end"}, folder
            assert re.fullmatch("[0-9A-Fa-f]{6}", channel["color"]), folder


def _assert_strict_plate(folder: Path, plate: dict[str, Any]) -> None:
    assert isinstance(plate["name"], str), folder
    assert plate["version"] == "0.5", folder
    assert plate["field_count"] > 0, folder
    for acquisition in plate.get("acquisitions", []):
        assert acquisition["id"] >= 0, folder
        assert acquisition["maximumfieldcount"] > 0, folder
        assert isinstance(acquisition["name"], str), folder
    for part in ("rows", "columns"):
        names = [one["name"] for one in plate[part]]
        assert names, folder
        assert len(set(names)) == len(names), folder
        assert all(map(NAME.fullmatch, names)), folder
    assert plate["wells"], folder
    assert len({well["path"] for well in plate["wells"]}) == len(plate["wells"]), folder


def validate_groups(store: Path) -> int:
    """Have ome-zarr-models validate every OME group of a store, without a warning; how many there were."""
    import zarr

    count = 0
    with judging():
        from ome_zarr_models import open_ome_zarr

        for folder in ome_groups(store):
            assert_strict(folder)
            group = zarr.open_group(folder, mode="r")
            open_ome_zarr(group, version="0.5")
            # Whatever does not belong into a Zarr hierarchy makes zarr-python warn.
            assert list(group.members(max_depth=None)), f"{folder}: an empty group"
            count += 1
    return count


def assert_napari_shows(plate: StoredPlate) -> None:
    """napari-ome-zarr's reader opens the plate and gives the first field of each well in its place."""
    with judging():
        from napari_ome_zarr._reader import napari_get_reader

        reader = napari_get_reader(str(plate.folder))
        assert reader is not None, f"{plate.folder}: napari-ome-zarr does not know it"
        layers = [layer for layer in reader(str(plate.folder)) if layer[2] == "image"]
        assert layers, f"{plate.folder}: napari-ome-zarr found no image"
        mosaic = layers[0][0][0]
        # The reader shows one field: the first well's first one, in each well that has it.
        wells = sorted({(row, column) for row, column, _ in plate.images})
        fields = [field for row, column, field in plate.images if (row, column) == wells[0]]
        for row, column in wells:
            if (row, column, fields[0]) in plate.images:
                pixels = plate.images[row, column, fields[0]].by_zarr()
                height, width = pixels.shape[-2:]
                top, left = plate.rows.index(row) * height, plate.columns.index(column) * width
                tile = np.asarray(mosaic[..., top : top + height, left : left + width])
                assert np.array_equal(tile, pixels), f"{plate.folder}: other pixels shown in {row}/{column}"


def receipts(store: Path) -> list[Any]:
    """Every receipt, oldest first: their names are UTC times."""
    return [json.loads(path.read_bytes()) for path in sorted((store / "receipts").glob("*.json"))]


def records_of(document: Any, path: bytes) -> list[dict[str, Any]]:
    """The JSON objects of a receipt that speak of one file, named below the mount's root."""
    name = os.fsdecode(path)
    found = []
    if isinstance(document, dict):
        if any(isinstance(value, str) and value.lstrip("/") == name for value in document.values()):
            found.append(document)
        for key, value in document.items():
            if isinstance(value, dict) and key.lstrip("/") == name:
                found.append(value)
            found += records_of(value, path)
    elif isinstance(document, list):
        for value in document:
            found += records_of(value, path)
    return found
