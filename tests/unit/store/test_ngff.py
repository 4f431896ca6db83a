"""What others make of our documents and shards: zarr-python, tensorstore, ome-zarr-models, napari-ome-zarr.

Each test writes a plate or stack as a store does, and holds what the others read against the planes that went
in. No warning may come up on the way: a user would have to think about it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vfsd.codec.shard import ShardWriter, read_index
from vfsd.store.geometry import (
    ITEM_SIZES,
    ArrayGeometry,
    Index,
    image_geometry,
    plate_geometry,
    stack_geometry,
)
from vfsd.store.ngff import (
    Acquisition,
    ChannelDisplay,
    DisplayWindow,
    Level,
    NgffError,
    WellImage,
    axis_documents,
    display_window,
    encode_document,
    group_document,
    label_attributes,
    labels_attributes,
    multiscale_attributes,
    plate_attributes,
    plate_layout,
    sample_channels,
    well_attributes,
)
from vfsd.store.planes import decode_plane, encode_plane

pytestmark = pytest.mark.filterwarnings("error")

Planes = Mapping[Index, NDArray[Any]]
WINDOW = DisplayWindow(0, 65535, 100, 4000)


def random_plane(geometry: ArrayGeometry, seed: int) -> NDArray[Any]:
    """Pixels in the file's order: (y, x), (y, x, sample) or (sample, y, x)."""
    rng = np.random.default_rng(seed)
    plane: tuple[int, ...] = (geometry.height, geometry.width)
    if geometry.samples > 1:
        plane = (geometry.samples, *plane) if geometry.planar else (*plane, geometry.samples)
    return rng.integers(0, 120, plane).astype(geometry.pixel_type)


def write_array(folder: Path, geometry: ArrayGeometry, planes: Planes) -> None:
    """Add planes to an array: its document anew, chunks that shards have already copied as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zarr.json").write_bytes(encode_document(geometry.document()))
    by_shard: dict[str, list[Index]] = {}
    for index in planes:
        by_shard.setdefault(geometry.shard_key(geometry.shard_grid_position(index)), []).append(index)
    for key, indices in by_shard.items():
        fresh = folder.parent / f"{folder.name}.{key}.new"
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            writer = ShardWriter(fd, geometry.chunks_per_shard)
            if (folder / key).exists():
                old = os.open(folder / key, os.O_RDONLY)
                try:
                    kept = read_index(old, geometry.chunks_per_shard)
                    writer.copy_from(old, kept, kept.present())
                finally:
                    os.close(old)
            for index in indices:
                chunks = encode_plane(planes[index].tobytes(), geometry)
                for position, chunk in zip(geometry.positions_in_shard(index), chunks, strict=True):
                    writer.append(position, chunk)
            writer.finish()
        finally:
            os.close(fd)
        fresh.rename(folder / key)


def write_group(folder: Path, attributes: Mapping[str, Any] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "zarr.json").write_bytes(encode_document(group_document(attributes)))


def expected(geometry: ArrayGeometry, planes: Planes) -> NDArray[Any]:
    """The whole array as a reader is to see it, put together by names of axes."""
    whole = np.zeros(geometry.shape, geometry.dtype)
    for index, plane in planes.items():
        place: list[Any] = [slice(None)] * len(geometry.axes)
        for name, i in zip(geometry.leading, index, strict=True):
            place[geometry.axes.index(name)] = i
        if geometry.samples > 1 and not geometry.planar:
            plane = np.moveaxis(plane, -1, 0)
        whole[tuple(place)] = plane
    return whole


def read_by_zarr(folder: Path) -> NDArray[Any]:
    import zarr

    return np.asarray(zarr.open_array(folder, mode="r")[...])


def read_by_tensorstore(folder: Path) -> NDArray[Any]:
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}
    store = tensorstore.open(spec, read=True, open=True).result()
    return np.asarray(store.read().result())


def assert_read_by_all(folder: Path, geometry: ArrayGeometry, planes: Planes) -> None:
    whole = expected(geometry, planes)
    for read in (read_by_zarr, read_by_tensorstore):
        array = read(folder)
        assert array.dtype == np.dtype(geometry.dtype)
        np.testing.assert_array_equal(array, whole, strict=True)


def napari_layers(path: Path, capsys: pytest.CaptureFixture[str]) -> list[tuple[Any, dict[str, Any], str]]:
    """The layers that napari would show. It is imported under its own warnings, which are not ours."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from napari_ome_zarr import napari_get_reader
    reader = napari_get_reader(str(path))
    assert reader is not None
    layers = reader()
    capsys.readouterr()  # it prints what it finds
    return layers


# Arrays


@pytest.mark.parametrize("dtype", sorted(ITEM_SIZES))
def test_a_stack_with_gaps_is_read_by_all(tmp_path: Path, dtype: str) -> None:
    geometry = stack_geometry(5, (21, 34), dtype)
    planes = {(n,): random_plane(geometry, n) for n in (0, 3, 4)}
    write_array(tmp_path / "0", geometry, planes)
    assert_read_by_all(tmp_path / "0", geometry, planes)


@pytest.mark.parametrize("value", [np.nan, -0.0, np.inf])
def test_float_pixels_keep_every_bit(tmp_path: Path, value: float) -> None:
    geometry = stack_geometry(1, (2, 3), "float32")
    plane = np.full((2, 3), value, "<f4")
    plane.view("<u4")[0, 0] ^= 1  # another NaN than numpy's own
    write_array(tmp_path / "0", geometry, {(0,): plane})
    for read in (read_by_zarr, read_by_tensorstore):
        assert read(tmp_path / "0").tobytes() == plane.tobytes()


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize(("dtype", "samples"), [("uint8", 3), ("uint16", 3), ("float32", 4), ("uint8", 2)])
@pytest.mark.parametrize("tile_limit", [1 << 20, 700])
def test_rgb_is_read_by_all_in_either_order(
    tmp_path: Path, dtype: str, samples: int, planar: bool, tile_limit: int
) -> None:
    geometry = stack_geometry(3, (21, 34), dtype, samples=samples, planar=planar, tile_limit=tile_limit)
    assert (geometry.tiles > 1) == (tile_limit == 700)
    planes = {(n,): random_plane(geometry, n) for n in (0, 2)}
    write_array(tmp_path / "0", geometry, planes)
    assert_read_by_all(tmp_path / "0", geometry, planes)


def test_rgb_pages_of_a_volume_are_read_by_all(tmp_path: Path) -> None:
    geometry = image_geometry([("t", 2), ("z", 3)], (9, 8), "uint16", samples=3)
    assert geometry.shape == (2, 3, 3, 9, 8)
    planes = {index: random_plane(geometry, n) for n, index in enumerate(np.ndindex(2, 3)) if n != 4}
    write_array(tmp_path / "0", geometry, planes)
    assert_read_by_all(tmp_path / "0", geometry, planes)


def test_a_field_grows_in_every_direction(tmp_path: Path) -> None:
    geometry = plate_geometry((1, 2, 3), (17, 19), "uint16")
    planes: dict[Index, NDArray[Any]] = {
        index: random_plane(geometry, n) for n, index in enumerate(np.ndindex(1, 2, 3)) if index != (0, 1, 1)
    }
    write_array(tmp_path / "0", geometry, planes)
    assert_read_by_all(tmp_path / "0", geometry, planes)
    grown = geometry.grown_to((3, 5, 4))  # time point 1 stays absent
    later = {(0, 1, 1): 100, (0, 4, 3): 101, (2, 0, 0): 102, (2, 3, 2): 103}
    added = {index: random_plane(grown, seed) for index, seed in later.items()}
    write_array(tmp_path / "0", grown, added)
    assert_read_by_all(tmp_path / "0", grown, planes | added)
    names = {path.name for path in (tmp_path / "0").iterdir()}
    # 0, 1, 1 went into the shard that was there; the others into shards of their own
    shards = {"c.0.0.0.0.0", "c.0.2.1.0.0", "c.2.0.0.0.0", "c.2.1.0.0.0"}
    assert names == {"zarr.json"} | shards
    document = json.loads((tmp_path / "0" / "zarr.json").read_bytes())
    assert ArrayGeometry.from_document(document) == grown


@pytest.mark.parametrize("plane", [(1, 1), (1, 300), (300, 1), (33, 65), (64, 64)])
@pytest.mark.parametrize("tile_limit", [64, 2048, 1 << 20])
def test_planes_of_any_shape_and_tiling_are_read_by_all(
    tmp_path: Path, plane: tuple[int, int], tile_limit: int
) -> None:
    geometry = plate_geometry((2, 1, 2), plane, "uint16", tile_limit=tile_limit)
    planes = {index: random_plane(geometry, n) for n, index in enumerate(np.ndindex(2, 1, 2)) if n != 2}
    write_array(tmp_path / "0", geometry, planes)
    assert_read_by_all(tmp_path / "0", geometry, planes)


def test_a_plane_over_32_mib_is_read_by_all(tmp_path: Path) -> None:
    geometry = stack_geometry(1, (4100, 4200), "uint16")
    assert geometry.tile_grid == (3, 3)
    plane = (np.arange(4100 * 4200, dtype=np.uint32) >> 3).astype("<u2").reshape(4100, 4200)
    write_array(tmp_path / "0", geometry, {(0,): plane})
    assert_read_by_all(tmp_path / "0", geometry, {(0,): plane})


def test_a_constant_plane_of_zeros_is_present(tmp_path: Path) -> None:
    """What others drop as fill value: here it must be told from a plane that was never there."""
    geometry = plate_geometry((1, 2, 1), (8, 8), "uint16")
    write_array(tmp_path / "0", geometry, {(0, 0, 0): np.zeros((8, 8), "<u2")})
    with (tmp_path / "0" / "c.0.0.0.0.0").open("rb") as shard:
        index = read_index(shard.fileno(), geometry.chunks_per_shard)
    assert index.entry(0) is not None
    assert index.entry(1) is None
    out = memoryview(bytearray(geometry.plane_bytes))
    assert decode_plane(lambda tile: None, geometry, out) == (0,)


# Images


def image_attributes(geometry: ArrayGeometry, **more: Any) -> dict[str, Any]:
    level = Level("0", [1.0] * len(geometry.axes))
    return multiscale_attributes("an image", geometry.axes, [level], **more)


def assert_valid_image(folder: Path) -> None:
    import zarr
    from ome_zarr_models.v05 import Image

    Image.from_zarr(zarr.open_group(folder, mode="r"))


STACKS = {
    "grey files": stack_geometry(4, (9, 11), "uint16"),
    "colour files": stack_geometry(4, (9, 11), "uint8", samples=3),
    "grey pages": image_geometry([("page", 4)], (9, 11), "float32"),
    "colour pages": image_geometry([("page", 4)], (9, 11), "uint16", samples=3, planar=True),
    "volume": image_geometry([("z", 4)], (9, 11), "uint16"),
    "colour volume": image_geometry([("t", 2), ("z", 2)], (9, 11), "uint8", samples=3),
    "hyperstack": image_geometry([("t", 2), ("c", 1), ("z", 2)], (9, 11), "uint8"),
}


@pytest.mark.parametrize("geometry", STACKS.values(), ids=STACKS.keys())
def test_stacks_and_multi_page_images_are_valid_and_shown(
    tmp_path: Path, geometry: ArrayGeometry, capsys: pytest.CaptureFixture[str]
) -> None:
    planes = {index: random_plane(geometry, n) for n, index in enumerate(np.ndindex(*geometry.extents))}
    channels = sample_channels(geometry.samples, geometry.dtype) if geometry.samples > 1 else ()
    facts = {"files": [os.fsdecode(b"caf\xe9.tif"), "ok.tif"], "lens": float("nan"), "na": 0.75, "n": None}
    write_group(tmp_path, image_attributes(geometry, channels=channels, facts=facts))
    write_array(tmp_path / "0", geometry, planes)
    assert_valid_image(tmp_path)
    [(pyramid, metadata, kind)] = napari_layers(tmp_path, capsys)
    assert kind == "image"
    np.testing.assert_array_equal(pyramid[0].compute(), expected(geometry, planes))
    shown_axes = tuple(axis for axis in geometry.axes if axis != "c")
    assert metadata["axis_labels"] == shown_axes
    if "c" in geometry.axes:
        assert metadata["channel_axis"] == geometry.axes.index("c")
    if geometry.samples > 1:
        assert [name.split(": ")[1] for name in metadata["name"]] == ["red", "green", "blue"]
    document = json.loads((tmp_path / "zarr.json").read_bytes())["attributes"]["vfsd"]
    assert document == {"files": ["caf\\udce9.tif", "ok.tif"], "lens": "nan", "na": 0.75, "n": None}


def test_axes_are_what_the_specification_allows() -> None:
    """Section "multiscales": at most one axis is neither time nor space; time first, space last."""
    order = ["time", "other", "space"]
    for geometry in [*STACKS.values(), plate_geometry((1, 1, 1), (5, 5), "uint8")]:
        types = [axis["type"] for axis in axis_documents(geometry.axes)]
        ranks = [order.index(kind if kind in order else "other") for kind in types]
        assert ranks == sorted(ranks)
        assert ranks.count(0) <= 1
        assert ranks.count(1) <= 1
        assert ranks.count(2) in (2, 3)
    assert [axis["type"] for axis in axis_documents(("file", "y", "x"))] == ["file", "space", "space"]
    assert axis_documents(("file", "c", "y", "x"))[0] == {"name": "file", "type": "time"}


def test_scale_units_and_translation_reach_napari(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    geometry = plate_geometry((1, 2, 3), (8, 8), "uint16")
    attributes = multiscale_attributes(
        "f",
        geometry.axes,
        [Level("0", [60, 1, 2.5, 0.325, 0.325], [0, 0, 0, 100, 200])],
        units={"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"},
        channels=[ChannelDisplay("DAPI", WINDOW), ChannelDisplay("GFP", WINDOW, "00ff00", active=False)],
    )
    write_group(tmp_path, attributes)
    write_array(tmp_path / "0", geometry, {})
    assert_valid_image(tmp_path)
    [(_, metadata, _)] = napari_layers(tmp_path, capsys)
    assert metadata["scale"] == [60, 2.5, 0.325, 0.325]
    assert metadata["units"] == ("second", "micrometer", "micrometer", "micrometer")
    assert metadata["name"] == ["f: DAPI", "f: GFP"]
    assert metadata["visible"] == [True, False]
    assert metadata["contrast_limits"] == [[100, 4000], [100, 4000]]


def test_several_levels_and_labels_are_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"0": (16, 16), "1": (8, 8)}
    levels = [Level("0", [1, 1, 1, 1, 1]), Level("1", [1, 1, 1, 2, 2], [0, 0, 0, 0.5, 0.5])]
    axes = ("t", "c", "z", "y", "x")
    write_group(tmp_path, multiscale_attributes("i", axes, levels, downscaling="2 x 2 mean"))
    write_group(tmp_path / "labels", labels_attributes(["cells"]))
    image = multiscale_attributes("cells", axes, levels)
    write_group(tmp_path / "labels" / "cells", label_attributes(image))
    for folder, dtype in ((tmp_path, "uint16"), (tmp_path / "labels" / "cells", "uint32")):
        for path, size in sizes.items():
            geometry = plate_geometry((1, 1, 1), size, dtype)
            write_array(folder / path, geometry, {(0, 0, 0): random_plane(geometry, 1)})
    assert_valid_image(tmp_path)
    assert [kind for _, _, kind in napari_layers(tmp_path, capsys)] == ["image", "labels"]


# Plates


def write_plate(
    root: Path,
    fields: Mapping[tuple[int, int, str], Planes],
    geometry: ArrayGeometry,
    *,
    acquisitions: Mapping[str, int] | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """A plate as a store lays it out: `fields` by row, column and path within the well."""
    wells = sorted({(row, column) for row, column, _ in fields})
    by_well = {well: [path for row, column, path in fields if (row, column) == well] for well in wells}
    rows, columns = plate_layout(wells, size)
    numbers = sorted(set((acquisitions or {}).values()))
    most = max(map(len, by_well.values()))
    attributes = plate_attributes(
        "plate 1", rows, columns, wells, most, [Acquisition(n) for n in numbers], {"barcode": "X1"}
    )
    write_group(root, attributes)
    channels = [ChannelDisplay(f"w{n + 1}", WINDOW) for n in range(geometry.extents[1])]
    for (row, column), paths in by_well.items():
        write_group(root / rows[row])
        well = root / rows[row] / columns[column]
        write_group(well, well_attributes([WellImage(p, (acquisitions or {}).get(p)) for p in paths]))
        for path in paths:
            write_group(well / path, image_attributes(geometry, channels=channels))
            write_array(well / path / "0", geometry, fields[row, column, path])


def assert_valid_plate(root: Path) -> None:
    import zarr
    from ome_zarr_models.v05 import HCS, Image, Well

    group = zarr.open_group(root, mode="r")
    plate = HCS.from_zarr(group)
    assert plate.ome_attributes.plate.wells
    assert plate.n_wells == len(list(plate.well_groups))
    for entry in plate.ome_attributes.plate.wells:
        well = Well.from_zarr(group[entry.path])
        for image in well.ome_attributes.well.images:
            Image.from_zarr(group[f"{entry.path}/{image.path}"])
    for _, member in group.members(max_depth=None):  # zarr-python warns of whatever is no Zarr
        assert member.metadata.zarr_format == 3


def random_fields(
    geometry: ArrayGeometry, places: Iterable[tuple[int, int, str]], *, gaps: bool = True
) -> dict[tuple[int, int, str], Planes]:
    fields = {}
    for n, place in enumerate(places):
        indices = [index for m, index in enumerate(np.ndindex(*geometry.extents)) if not gaps or (n + m) % 5]
        fields[place] = {index: random_plane(geometry, 1000 * n + m) for m, index in enumerate(indices)}
    return fields


def assert_napari_shows(
    root: Path,
    fields: Mapping[tuple[int, int, str], Planes],
    geometry: ArrayGeometry,
    first: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """napari stitches the first field of each well."""
    [(pyramid, _, kind)] = napari_layers(root, capsys)
    assert kind == "image"
    stitched = pyramid[0].compute()
    height, width = geometry.height, geometry.width
    for (row, column, path), planes in fields.items():
        if path == first:
            shown = stitched[..., row * height : (row + 1) * height, column * width : (column + 1) * width]
            np.testing.assert_array_equal(shown, expected(geometry, planes))


def test_a_plate_with_gaps_is_read_by_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    geometry = plate_geometry((2, 3, 2), (12, 10), "uint16")
    fields = random_fields(geometry, [(0, 0, "1"), (0, 0, "2"), (1, 2, "1"), (1, 1, "1"), (1, 1, "7")])
    write_plate(tmp_path, fields, geometry)
    assert_valid_plate(tmp_path)
    for (row, column, path), planes in fields.items():
        folder = tmp_path / "AB"[row] / str(column + 1) / path / "0"
        assert_read_by_all(folder, geometry, planes)
    assert_napari_shows(tmp_path, fields, geometry, "1", capsys)


def test_a_plate_that_grew_is_read_by_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A channel, a time point and a well come later: each field grows, so that all have one shape."""
    geometry = plate_geometry((1, 2, 1), (12, 10), "uint16")
    fields = random_fields(geometry, [(0, 0, "1"), (1, 1, "1")])
    write_plate(tmp_path, fields, geometry)
    grown = geometry.grown_to((2, 3, 1))
    added: dict[tuple[int, int, str], Planes] = {
        (0, 0, "1"): {(0, 2, 0): random_plane(grown, 1), (1, 0, 0): random_plane(grown, 2)},
        (1, 1, "1"): {},
        (5, 9, "1"): {(0, 0, 0): random_plane(grown, 3)},
    }
    write_plate(tmp_path, added, grown)
    whole = {place: {**fields.get(place, {}), **planes} for place, planes in added.items()}
    assert_valid_plate(tmp_path)
    for (row, column, path), planes in whole.items():
        folder = tmp_path / "ABCDEF"[row] / str(column + 1) / path / "0"
        assert_read_by_all(folder, grown, planes)
    assert_napari_shows(tmp_path, whole, grown, "1", capsys)


def test_a_plate_of_several_acquisitions_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    geometry = plate_geometry((1, 1, 1), (12, 10), "uint8")
    acquisitions = {"a0f1": 0, "a0f2": 0, "a1f1": 1}
    fields = random_fields(geometry, [(0, 0, path) for path in acquisitions], gaps=False)
    write_plate(tmp_path, fields, geometry, acquisitions=acquisitions, size=(8, 12))
    assert_valid_plate(tmp_path)
    assert_napari_shows(tmp_path, fields, geometry, "a0f1", capsys)
    plate = json.loads((tmp_path / "zarr.json").read_bytes())["attributes"]["ome"]["plate"]
    assert [a["id"] for a in plate["acquisitions"]] == [0, 1]
    assert (len(plate["rows"]), len(plate["columns"])) == (8, 12)


def test_a_plate_of_tiled_planes_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    geometry = plate_geometry((1, 2, 1), (70, 50), "float32", tile_limit=1024)
    assert geometry.tiles > 1
    fields = random_fields(geometry, [(0, 0, "1"), (0, 1, "1")])
    write_plate(tmp_path, fields, geometry)
    assert_valid_plate(tmp_path)
    assert_napari_shows(tmp_path, fields, geometry, "1", capsys)


def test_the_layout_is_the_physical_plate() -> None:
    def size(wells: list[tuple[int, int]], stated: tuple[int, int] | None = None) -> tuple[int, int]:
        rows, columns = plate_layout(wells, stated)
        return len(rows), len(columns)

    assert size([(0, 0)]) == (2, 3)
    assert size([(1, 2)]) == (2, 3)
    assert size([(2, 0)]) == (3, 4)
    assert size([(7, 11), (0, 0)]) == (8, 12)
    assert size([(8, 0)]) == (16, 24)
    assert size([(31, 47)]) == (32, 48)
    assert size([(0, 0)], (8, 12)) == (8, 12)
    assert size([(0, 0)], (1, 5)) == (1, 5)  # a slide holder
    assert size([(3, 5)], (2, 3)) == (4, 6)  # the metadata is contradicted by the images
    assert size([(0, 0)], (5000, 5000)) == (2, 3)
    rows, columns = plate_layout([(31, 47)])
    assert rows[25:28] == ["Z", "AA", "AB"]
    assert columns[:2] == ["1", "2"]
    with pytest.raises(NgffError):
        plate_layout([(32, 0)])


# Documents


def test_names_that_are_no_utf_8_make_valid_documents() -> None:
    name = os.fsdecode(b"pl\xffte\n1")
    attributes = plate_attributes(name, ["A"], ["1"], [(0, 0)], 1, facts={name: name})
    text = encode_document(group_document(attributes)).decode("ascii")
    assert "\\\\udcff" in text  # escaped for people, not a lone surrogate, which strict readers refuse
    assert "\\ud" not in text.replace("\\\\udcff", "")
    assert json.loads(text)["attributes"] == attributes


def test_documents_of_nothing_or_nonsense_are_refused() -> None:
    axes = ("t", "c", "z", "y", "x")
    one = [1.0] * 5
    refused = [
        lambda: plate_attributes("p", ["A"], ["1"], [], 1),
        lambda: plate_attributes("p", ["A"], ["1"], [(0, 1)], 1),
        lambda: plate_attributes("p", ["A"], ["1"], [(-1, 0)], 1),
        lambda: plate_attributes("p", ["A", "A"], ["1"], [(0, 0)], 1),
        lambda: plate_attributes("p", ["A"], ["1.5"], [(0, 0)], 1),
        lambda: plate_attributes("p", ["A"], ["1"], [(0, 0)], 0),
        lambda: well_attributes([]),
        lambda: well_attributes([WellImage("1"), WellImage("1")]),
        lambda: well_attributes([WellImage("field_1")]),
        lambda: well_attributes([WellImage("")]),
        lambda: multiscale_attributes("i", axes, []),
        lambda: multiscale_attributes("i", axes, [Level("0", [1, 1])]),
        lambda: multiscale_attributes("i", axes, [Level("0", [1, 1, 1, 1, 0])]),
        lambda: multiscale_attributes("i", axes, [Level("0", [1, 1, 1, 1, float("nan")])]),
        lambda: multiscale_attributes("i", axes, [Level("0", one, [0, 0])]),
        lambda: multiscale_attributes("i", axes, [Level("0", one)], units={"x": "µm"}),
        lambda: multiscale_attributes("i", axes, [Level("0", one)], units={"c": "nanometer"}),
        lambda: multiscale_attributes("i", axes, [Level("0", one)], channels=[ChannelDisplay("c", WINDOW, "red")]),
        lambda: multiscale_attributes(
            "i", axes, [Level("0", one)], channels=[ChannelDisplay("c", DisplayWindow(0, 1, 0, float("inf")))]
        ),
        lambda: multiscale_attributes(
            "i", ("file", "y", "x"), [Level("0", [1, 1, 1])], channels=[ChannelDisplay("c", WINDOW)]
        ),
        lambda: well_attributes([WellImage("1")], {"fact": object()}),
    ]
    for make in refused:
        with pytest.raises(NgffError):
            make()


def test_display_windows_enclose_what_they_show() -> None:
    rng = np.random.default_rng(3)
    samples: list[NDArray[Any]] = [
        rng.integers(200, 900, (300, 500)).astype(np.uint16),
        np.zeros((5, 5), np.uint8),
        np.full((5, 5), 65535, np.uint16),
        np.full((5, 5), 2**64 - 1, np.uint64),
        np.full((5, 5), -(2**63), np.int64),
        np.full((4, 4), np.nan, np.float32),
        np.array([[np.inf, -1e30, 1.0]], np.float64),
        np.array([[1.7e308, -1.7e308]], np.float64),
        np.full((3, 3), 1.7e308),
        np.full((3, 3), -1.7e308),
        np.array([[65504, 0.5]], np.float16),
        np.empty((0, 3), np.uint8),
    ]
    for pixels in samples:
        window = display_window(pixels)
        assert window.min <= window.start < window.end <= window.max
        assert np.isfinite([window.min, window.max]).all()
    window = display_window(samples[0])
    assert (window.min, window.max) == (0, 65535)
    assert 200 <= window.start < 210
    assert 890 < window.end <= 900


def test_documents_can_be_compared_byte_for_byte() -> None:
    """A flush that changes nothing rewrites nothing."""
    wells = [(1, 1), (0, 0), (1, 1)]
    layout = plate_layout(wells)
    first = encode_document(group_document(plate_attributes("p", *layout, wells, 2)))
    second = encode_document(group_document(plate_attributes("p", *layout, reversed(wells), 2)))
    assert first == second
    assert first.endswith(b"}\n")
