"""OME-Zarr that others wrote, as TIFFs: every pixel is zarr-python's, and what is wrong with one image is said of that one."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from blackbox.ome_zarrs import AXES, multiscales, write_array, write_group, write_image, write_plate
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import BZ2, LZ4, Blosc, Delta, GZip, Shuffle, Zlib, Zstd

from vfsd.store.foreign import Folder, ForeignError, VirtualFile, ZarrView, is_ome_zarr

VERSIONS = ["0.4", "0.5"]


def files(view: ZarrView, path: bytes = b"") -> Iterator[tuple[bytes, VirtualFile]]:
    """Every TIFF of a view, by its path."""
    for name, shown in view.names(path, fresh=True).items():
        at = path + b"/" + name if path else name
        if isinstance(shown, Folder):
            yield from files(view, at)
        elif isinstance(shown, VirtualFile):
            yield at, shown


def pixels_of(file: VirtualFile) -> np.ndarray[Any, Any]:
    """What tifffile reads of a file, with all of TCZYX (or, from ImageJ, TZCYX)."""
    data = file.read_range(0, file.size)
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        stack = file.tiff.stack
        sizes = dict(zip("TCZYX", (stack.times, stack.channels, stack.slices, stack.height, stack.width), strict=True))
        axes = "TZCYX" if opened.is_imagej else "TCZYX"
        return opened.series[0].asarray().reshape([sizes[axis] for axis in axes])


def assert_shows(folder: Path, pixels: np.ndarray[Any, Any], axes: str = "tczyx") -> None:
    """Both TIFFs of the one image in a folder have these pixels, and any range is that part of the whole."""
    view = ZarrView(folder)
    try:
        shown = dict(files(view))
        assert view.problems == []
        full = pixels.reshape([pixels.shape[axes.index(axis)] if axis in axes else 1 for axis in "tczyx"])
        for name, file in shown.items():
            expected = full if name.endswith(b".ome.tif") else full.swapaxes(1, 2)
            np.testing.assert_array_equal(pixels_of(file), expected, err_msg=repr(name))
        assert len(shown) == (1 if pixels.dtype.str[1:] in ("i1", "f8") else 2)
        file = next(iter(shown.values()))
        whole = file.read_range(0, file.size)
        for offset in range(0, file.size, 997):
            assert file.read_range(offset, 1501) == whole[offset : offset + 1501]
    finally:
        view.close()


def picture(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(seed)
    return (random.integers(0, 100, shape) + 17).astype(dtype)


V3_CODECS: list[dict[str, Any]] = [
    {"compressors": None},
    {"compressors": [zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle")]},
    {"compressors": [zarr.codecs.BloscCodec(cname="zstd", shuffle="bitshuffle")]},
    {"compressors": [zarr.codecs.BloscCodec(cname="zlib", shuffle="noshuffle")]},
    {"compressors": [zarr.codecs.ZstdCodec(level=3)]},
    {"compressors": [zarr.codecs.GzipCodec()]},
    {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]},
    {"compressors": [zarr.codecs.Crc32cCodec()]},
    {"filters": [zarr.codecs.TransposeCodec(order=(4, 2, 0, 1, 3))], "compressors": [zarr.codecs.ZstdCodec()]},
    {"filters": [zarr.codecs.TransposeCodec(order=(4, 3, 2, 1, 0))], "compressors": None},
    {"filters": [zarr.codecs.TransposeCodec(order=(0, 1, 2, 4, 3))], "compressors": [zarr.codecs.BloscCodec()]},
    {"serializer": zarr.codecs.BytesCodec(endian="big"), "compressors": [zarr.codecs.BloscCodec(cname="lz4")]},
    {"shards": (2, 2, 2, 32, 32), "compressors": [zarr.codecs.BloscCodec(cname="lz4")]},
    {"shards": (1, 2, 4, 16, 64), "compressors": [zarr.codecs.ZstdCodec()]},
    {"shards": (2, 2, 2, 32, 32), "compressors": None, "chunk_key_encoding": {"name": "default", "separator": "."}},
    {"chunk_key_encoding": {"name": "v2", "separator": "/"}},
]
V2_CODECS: list[dict[str, Any]] = [
    {"compressors": None},
    {"compressors": Blosc(cname="lz4", shuffle=Blosc.SHUFFLE)},
    {"compressors": Blosc(cname="zstd", shuffle=Blosc.BITSHUFFLE), "order": "F"},
    {"compressors": Blosc(cname="blosclz", shuffle=Blosc.NOSHUFFLE)},
    {"compressors": Zlib()},
    {"compressors": GZip()},
    {"compressors": BZ2()},
    {"compressors": LZ4()},
    {"compressors": Zstd(), "order": "F"},
    {"compressors": None, "order": "F", "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    {"compressors": Zlib(), "filters": [Shuffle(elementsize=2)]},
    {"compressors": Zstd(), "filters": [Delta(dtype="<u2")]},
]


@pytest.mark.parametrize("number", range(len(V3_CODECS)))
def test_every_encoding_of_zarr_v3(number: int, tmp_path: Path) -> None:
    pixels = picture((2, 3, 4, 40, 50), "u2", number)
    write_image(tmp_path / "i.ome.zarr", pixels, "tczyx", "0.5", **{"chunks": (1, 1, 2, 16, 32), **V3_CODECS[number]})
    assert_shows(tmp_path / "i.ome.zarr", pixels)


@pytest.mark.parametrize("number", range(len(V2_CODECS)))
def test_every_encoding_of_zarr_v2(number: int, tmp_path: Path) -> None:
    pixels = picture((2, 3, 4, 40, 50), "u2", number)
    write_image(tmp_path / "i.ome.zarr", pixels, "tczyx", "0.4", **{"chunks": (1, 1, 2, 16, 32), **V2_CODECS[number]})
    assert_shows(tmp_path / "i.ome.zarr", pixels)


@settings(max_examples=40)
@given(
    st.sampled_from(VERSIONS),
    st.sampled_from(["yx", "cyx", "zyx", "tyx", "czyx", "tcyx", "tzyx", "tczyx"]),
    st.sampled_from(["u1", "u2", "u4", "i1", "i2", "i4", "f4", "f8", ">u2", ">f4", ">i4"]),
    st.data(),
)
def test_axes_types_and_holes(version: str, axes: str, dtype: str, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.integers(1, 9 if axis in "yx" else 3)) for axis in axes)
    chunks = tuple(data.draw(st.integers(1, size + 1)) for size in shape)
    fill = data.draw(st.sampled_from([0, 1, 100] + ([float("nan"), float("-inf"), 0.5] if "f" in dtype else [])))
    pixels = picture(shape, dtype if version == "0.4" else dtype.removeprefix(">"), data.draw(st.integers(0, 99)))
    if data.draw(st.booleans()):
        pixels[(..., slice(0, chunks[-1]))] = fill  # chunks that are not there
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "image.zarr"
        write_image(folder, pixels, axes, version, chunks=chunks, fill_value=fill)
        assert_shows(folder, pixels.astype(pixels.dtype.newbyteorder("<")), axes)


def test_space_in_another_order_and_an_axis_of_one(tmp_path: Path) -> None:
    pixels = picture((3, 1, 7, 5), "u2")
    write_image(tmp_path / "i.zarr", pixels, "czyx", "0.5", chunks=(2, 1, 3, 2))
    document = json.loads((tmp_path / "i.zarr" / "zarr.json").read_text())
    axes = document["attributes"]["ome"]["multiscales"][0]["axes"]
    axes[1:] = [{"name": "phase", "type": "angle"}, {"name": "x", "type": "space"}, {"name": "y", "type": "space"}]
    (tmp_path / "i.zarr" / "zarr.json").write_text(json.dumps(document))
    assert_shows(tmp_path / "i.zarr", pixels[:, 0].swapaxes(1, 2), "cyx")


def test_fills_of_both_formats(tmp_path: Path) -> None:
    """Numbers, names, bits and nothing: what absent chunks hold."""
    for number, (version, dtype, text, value) in enumerate(
        [
            ("0.4", "<f4", '"NaN"', np.nan),
            ("0.4", "<f4", '"-Infinity"', -np.inf),
            ("0.4", "<u2", "null", 0),
            ("0.4", ">u2", "513", 513),
            ("0.5", "float32", '"0x3fc00000"', 1.5),
            ("0.5", "float64", '"Infinity"', np.inf),
            ("0.5", "int16", "-2", -2),
        ]
    ):
        folder = tmp_path / f"{number}.zarr"
        pixels = np.zeros((4, 4), np.dtype(dtype))
        write_image(folder, pixels, "yx", version, fill_value=0)
        document = folder / "0" / (".zarray" if version == "0.4" else "zarr.json")
        shown = json.loads(document.read_text())
        document.write_text(json.dumps({**shown, "fill_value": 12345}).replace("12345", text))
        assert_shows(folder, np.full((4, 4), value, np.dtype(dtype).newbyteorder("<")), "yx")


def test_the_real_plates_agree_with_zarr_python(shared_data: Path) -> None:
    seen = 0
    for root in (shared_data / "omezarr" / "v0.4", shared_data / "omezarr" / "v0.5-resaved"):
        view = ZarrView(root)
        for name, file in files(view):
            array = zarr.open_array(root / os.fsdecode(file.image.array.path), mode="r")[...]
            np.testing.assert_array_equal(pixels_of(file).reshape(array.shape), array, err_msg=repr(name))
            seen += 1
        assert view.problems == []
        assert set(view.names(b"single-plane-hcs/E/07")) == {b"E07_f0.ome.tif", b"E07_f0.tif"}
        view.close()
    assert seen == 8


# --- names


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plate_has_a_file_for_each_field_and_label(version: str, tmp_path: Path) -> None:
    root = tmp_path / "plate.ome.zarr"
    wells = {"A/1": ["0", "3"], "A/12": ["a1f2"], "AB/2": ["0"]}
    write_plate(root, version, wells)
    for well, fields in wells.items():
        for field in fields:
            write_image(root / well / field, picture((2, 8, 8), "u2"), "cyx", version, channels=["DAPI", "GFP"])
    labels = root / "A/1/0/labels"
    write_group(labels, version, {"labels": ["cells", "nuclei/small"]})
    write_image(labels / "cells", picture((8, 8), "i4"), "yx", version)
    write_image(labels / "nuclei" / "small", picture((8, 8), "u4"), "yx", version)
    assert is_ome_zarr(root)
    view = ZarrView(root)
    names = [
        *(f"A/01/A01_f0{more}" for more in ("", "_label_cells", "_label_nuclei_small")),
        *("A/01/A01_f3", "A/12/A12_a1f2", "AB/02/AB02_f0"),
    ]
    shown = dict(files(view))
    assert sorted(shown) == sorted(os.fsencode(name + suffix) for name in names for suffix in (".tif", ".ome.tif"))
    assert view.problems == []
    facts = shown[b"A/01/A01_f0.ome.tif"].image.facts
    assert [channel.name for channel in facts.channels] == ["DAPI", "GFP"]
    assert facts.pixel_size_um == (0.65, 0.65)
    assert (shown[b"A/01/A01_f0.tif"].mtime) > 0
    with pytest.raises(FileNotFoundError):
        view.find(b"A/02")
    with pytest.raises(NotADirectoryError):
        view.names(b"A/01/A01_f0.tif")
    view.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_series_and_folders_of_several(version: str, tmp_path: Path) -> None:
    one, several, plate = tmp_path / "one.zarr", tmp_path / "several.zarr", tmp_path / "plate.ome.zarr"
    write_image(one, picture((8, 8), "u2"), "yx", version)
    write_group(several, version, {"bioformats2raw.layout": 3})
    for number in range(2):
        write_image(several / str(number), picture((8, 8), "u2"), "yx", version)
    (several / "OME").mkdir()
    (several / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    write_plate(plate, version, {"A/1": ["0"]})
    write_image(plate / "A/1/0", picture((8, 8), "u2"), "yx", version)
    (tmp_path / "notes.txt").write_text("mine")
    assert is_ome_zarr(tmp_path)
    view = ZarrView(tmp_path)
    expected = ["one", "several_s0", "several_s1", "plate/A/01/A01_f0"]
    assert sorted(dict(files(view))) == sorted(os.fsencode(n + s) for n in expected for s in (".tif", ".ome.tif"))
    assert {b"notes.txt", b"several_METADATA.ome.xml"} <= set(view.names(b""))
    view.close()
    (tmp_path / "image.tif").write_bytes(b"mine")
    assert not is_ome_zarr(tmp_path), "a folder with images of its own is shown as it is"


# --- what is wrong


def edit(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **changes}))


def ome(path: Path, **changes: Any) -> None:
    """Change the metadata of a group of version 0.5."""
    document = json.loads(path.read_text())
    document["attributes"]["ome"].update(changes)
    path.write_text(json.dumps(document))


def dataset(folder: Path, path: Any) -> None:
    ome(
        folder / "zarr.json", multiscales=[{**multiscales("yx", "0.5")["multiscales"][0], "datasets": [{"path": path}]}]
    )


def outside(folder: Path) -> None:
    shutil.move(folder / "0", folder.parents[3] / "elsewhere")
    (folder / "0").symlink_to(folder.parents[3] / "elsewhere")


def bytes_instead(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def many_attributes(folder: Path) -> None:
    with (folder / "zarr.json").open("w") as file:
        file.write('{"zarr_format": 3, "node_type": "group", "attributes": {"x": "')
        file.truncate(300 << 20)


NO_CHUNKS = {"name": "regular", "configuration": {"chunk_shape": [0, 8]}}
DAMAGE: Mapping[str, tuple[Any, str]] = {
    "no zarr.json": (lambda f: (f / "zarr.json").unlink(), "neither zarr.json nor"),
    "no JSON": (lambda f: bytes_instead(f / "zarr.json", b'{"a": '), "no JSON"),
    "not UTF-8": (lambda f: bytes_instead(f / "zarr.json", b'{"a": "\xff\xfe"}'), "not UTF-8"),
    "no object": (lambda f: bytes_instead(f / "zarr.json", b"[1, 2]"), "no JSON object"),
    "too deep": (lambda f: bytes_instead(f / "zarr.json", b"[" * 200_000), "too deep"),
    "300 MB": (many_attributes, "bytes of metadata"),
    "a folder": (lambda f: ((f / "zarr.json").unlink(), (f / "zarr.json").mkdir()), "no file"),
    "another version": (lambda f: ome(f / "zarr.json", version="0.9"), "0.9"),
    "no multiscales": (lambda f: ome(f / "zarr.json", multiscales=[]), "no multiscales"),
    "no axes": (lambda f: ome(f / "zarr.json", multiscales=[{"datasets": [{"path": "0"}]}]), "axes"),
    "no datasets": (lambda f: ome(f / "zarr.json", multiscales=[{"axes": [AXES["y"], AXES["x"]]}]), "datasets"),
    "axes do not fit": (lambda f: ome(f / "zarr.json", **multiscales("cyx", "0.5")), "2 axes where"),
    "a dataset that is not there": (lambda f: dataset(f, "7"), "no Zarr array"),
    "a path upwards": (lambda f: dataset(f, "../0/0"), "leads out"),
    "an absolute path": (lambda f: dataset(f, "/etc/passwd"), "leads out"),
    "no path": (lambda f: dataset(f, 3), "none"),
    "a path with a NUL": (lambda f: dataset(f, "0\0"), "none"),
    "a link out": (outside, "leads out"),
    "shape": (lambda f: edit(f / "0" / "zarr.json", shape=[8, -8]), "shape"),
    "shape of words": (lambda f: edit(f / "0" / "zarr.json", shape="8x8"), "shape"),
    "shape of nothing": (lambda f: edit(f / "0" / "zarr.json", shape=[8, 0]), "no pixels"),
    "absurd": (lambda f: edit(f / "0" / "zarr.json", shape=[1 << 60, 1 << 60]), "more than"),
    "dtype": (lambda f: edit(f / "0" / "zarr.json", data_type="complex64"), "complex64"),
    "bool": (lambda f: edit(f / "0" / "zarr.json", data_type="bool"), "bool"),
    "64 bit": (lambda f: edit(f / "0" / "zarr.json", data_type="uint64"), "no 64-bit integers"),
    "chunk grid": (lambda f: edit(f / "0" / "zarr.json", chunk_grid={"name": "rectangular"}), "rectangular"),
    "chunks of nothing": (lambda f: edit(f / "0" / "zarr.json", chunk_grid=NO_CHUNKS), "chunk_shape"),
    "fill": (lambda f: edit(f / "0" / "zarr.json", fill_value={"a": 1}), "fill value"),
    "fill too large": (lambda f: edit(f / "0" / "zarr.json", fill_value=1 << 70), "fill value"),
    "group for an array": (lambda f: edit(f / "0" / "zarr.json", node_type="group"), "not that of a Zarr v3 array"),
    "transformers": (lambda f: edit(f / "0" / "zarr.json", storage_transformers=[{"name": "x"}]), "storage transformers"),
    "extension": (lambda f: edit(f / "0" / "zarr.json", beyond={"must_understand": True}), "beyond"),
}  # fmt: skip


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    """A plate of two fields; what is damaged is the second."""
    root = tmp_path / "plate.ome.zarr"
    write_plate(root, "0.5", {"A/1": ["0", "1"]})
    for field in ("0", "1"):
        write_image(root / "A/1" / field, picture((8, 8), "u2"), "yx", "0.5", chunks=(8, 8))
    return root


@pytest.mark.parametrize("what", DAMAGE)
def test_what_is_wrong_is_said_of_the_image_concerned(what: str, plate: Path) -> None:
    damage, reason = DAMAGE[what]
    damage(plate / "A/1/1")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    view = ZarrView(plate)
    shown = dict(files(view))
    assert set(shown) == {b"A/01/A01_f0.ome.tif", b"A/01/A01_f0.tif"}
    for file in shown.values():
        assert pixels_of(file).sum() == picture((8, 8), "u2").sum()
    assert any(reason in said for _, said in view.problems), view.problems
    assert all(path.startswith(b"A/1/1") for path, _ in view.problems), "the path of what is wrong"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10, "bounded memory"
    view.close()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 70)
    | st.sampled_from(
        [1 << 62, 1 << 70, -(1 << 70), 0.5, float("nan"), float("inf"), "", "..", "/", "0", "x", "zarr", "F", "end"]
    )
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "path", "id", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def places_in(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield place
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from places_in(inner, (*place, key))


def with_changes(value: Any, changes: list[tuple[tuple[Any, ...], Any]]) -> Any:
    """The value with others at some places, as far as these are still there."""
    for place, other in changes:
        if not place:
            value = other
            continue
        above = value
        try:
            for key in place[:-1]:
                above = above[key]
            above[place[-1]] = other
        except (LookupError, TypeError):
            continue
    return value


@pytest.fixture(scope="module")
def two_plates(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A small plate of each version, with a label image."""
    roots = []
    for version in VERSIONS:
        root = tmp_path_factory.mktemp("fuzzed") / "plate.zarr"
        write_plate(root, version, {"A/1": ["0"]})
        more = {"shards": (2, 8, 8)} if version == "0.5" else {}
        write_image(
            root / "A/1/0", picture((2, 8, 8), "u2"), "cyx", version, channels=["a", "b"], chunks=(1, 4, 8), **more
        )
        write_group(root / "A/1/0/labels", version, {"labels": ["cells"]})
        write_image(root / "A/1/0/labels/cells", picture((8, 8), "i4"), "yx", version, chunks=(8, 8))
        roots.append(root)
    return roots


@settings(max_examples=150)
@given(st.data())
def test_documents_of_any_kind_end_no_view(two_plates: list[Path], data: st.DataObject) -> None:
    """Whatever a document says: files with their size, readable or with an error that says why, or a problem said."""
    root = data.draw(st.sampled_from(two_plates))
    documents = sorted(path for path in root.rglob("*") if path.name in ("zarr.json", ".zarray", ".zattrs", ".zgroup"))
    chosen = data.draw(st.sampled_from(documents))
    text = chosen.read_bytes()
    value = json.loads(text)
    places = st.sampled_from(sorted(places_in(value), key=str))
    changes = data.draw(st.lists(st.tuples(places, JSON), min_size=1, max_size=3))
    try:
        chosen.write_text(json.dumps(with_changes(value, changes)))
        try:
            view = ZarrView(root)
        except ForeignError as error:
            assert str(error)
            return
        for _, file in files(view):
            for offset in (0, file.tiff.pixels - 100, file.size // 2, file.size - 200):
                try:
                    assert len(file.read_range(max(0, offset), 300)) == min(300, file.size - max(0, offset))
                except OSError as error:
                    assert error.errno == 5
        view.close()
    finally:
        chosen.write_bytes(text)


def test_scales_and_displays_that_make_no_sense_are_left_out(plate: Path) -> None:
    document = json.loads((plate / "A/1/1/zarr.json").read_text())
    metadata = document["attributes"]["ome"]
    metadata["multiscales"][0]["datasets"][0]["coordinateTransformations"] = [
        {"type": "scale", "scale": [float("nan"), -1]}, {"type": "scale"}, "nonsense"
    ]  # fmt: skip
    metadata["omero"] = {"channels": [{"label": 3, "color": "blue", "window": {"start": 1e400, "end": "x"}}, 7] * 3}
    (plate / "A/1/1/zarr.json").write_text(json.dumps(document))
    view = ZarrView(plate)
    facts = dict(files(view))[b"A/01/A01_f1.tif"].image.facts
    assert (facts.pixel_size_um, facts.z_step_um) == (None, None)
    assert all(channel.name is channel.colour is channel.window is None for channel in facts.channels)
    assert view.problems == []
    view.close()


def test_wells_and_images_that_are_listed_but_not_there(plate: Path) -> None:
    wells = [{"path": path} for path in ("A/1", "A/2", "A/3", "../x", "A/../1", "A", "/etc", "")]
    ome(plate / "zarr.json", plate={"wells": [*wells, 3, {"path": 4}]})
    ome(plate / "A/1/zarr.json", well={"images": [{"path": "0"}, {"path": "0"}, {"path": "9"}, {"path": "../../x"}, 5]})
    view = ZarrView(plate)
    assert set(dict(files(view))) == {b"A/01/A01_f0.ome.tif", b"A/01/A01_f0.tif"}
    said = " ".join(said for _, said in view.problems)
    for words in ("2 wells of row A are listed, but not there", "leads out", "no row and column", "neither zarr.json"):
        assert words in said
    view.close()


def test_a_folder_that_cannot_be_shown_says_why(tmp_path: Path) -> None:
    for number, (text, reason) in enumerate([("{", "no JSON"), ('{"zarr_format": 3}', "not that of a Zarr v3 group")]):
        root = tmp_path / f"{number}.zarr"
        root.mkdir()
        (root / "zarr.json").write_text(text)
        assert is_ome_zarr(root)
        with pytest.raises(ForeignError, match=reason):
            ZarrView(root)
    write_group(tmp_path / "other", "0.5", {"something": "else"})
    assert not is_ome_zarr(tmp_path / "other")


# --- damaged chunks


def chunk_of(folder: Path) -> Path:
    return next(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith((".z", "zarr")))


BLOSC, ZSTD = {"compressors": [zarr.codecs.BloscCodec(cname="lz4")]}, {"compressors": [zarr.codecs.ZstdCodec()]}
SHARDED = {"shards": (32, 32), **BLOSC}


@pytest.mark.parametrize(
    ("encoding", "damage"),
    [
        *((encoding, damage) for encoding in (BLOSC, ZSTD, SHARDED, {"compressors": None}) for damage in ("cut", "empty")),
        *((encoding, damage) for encoding in (BLOSC, ZSTD, SHARDED) for damage in ("zeros", "ones", "noise")),
        ({"compressors": [zarr.codecs.GzipCodec()]}, "bomb"),
        ({"compressors": [zarr.codecs.Crc32cCodec()]}, "noise"),
        (BLOSC, "link"),
        (BLOSC, "codec"),
    ],
)  # fmt: skip
def test_damaged_chunks_are_errors_with_their_path(encoding: Any, damage: str, tmp_path: Path) -> None:
    import gzip

    folder = tmp_path / "i.zarr"
    write_image(folder, picture((32, 32), "u2"), "yx", "0.5", **{"chunks": (16, 16), **encoding})
    chunk = chunk_of(folder / "0")
    data = chunk.read_bytes()
    outside = tmp_path / "secret"
    outside.write_bytes(data)
    if damage == "link":
        chunk.unlink()
        chunk.symlink_to(outside)
    elif damage == "codec":
        edit(folder / "0" / "zarr.json", codecs=[{"name": "bytes"}, {"name": "jetraw"}])
    else:
        ruined = {
            "cut": data[: len(data) // 2],
            "empty": b"",
            "zeros": bytes(len(data)),
            "ones": b"\xff" * len(data),
            "noise": np.random.default_rng(1).bytes(len(data)),
            "bomb": gzip.compress(bytes(100 << 20)),
        }[damage]
        chunk.write_bytes(ruined)
    view = ZarrView(folder)
    shown = dict(files(view))
    assert len(shown) == 2
    file = shown[b"i.tif"]
    assert len(file.read_range(0, 2048)) == 2048, "the header needs no chunk"
    with pytest.raises(OSError, match=r"0/c/.*: .+|jetraw") as caught:
        file.read_range(0, file.size)
    assert caught.value.errno == 5
    assert (damage == "codec") == bool(view.problems)
    view.close()


def test_metadata_without_chunks_say_what_is_missing(shared_data: Path) -> None:
    view = ZarrView(shared_data / "omezarr" / "v0.5-metadata-only")
    assert dict(files(view)) == {}
    said = dict(view.problems)
    assert "30 wells of row A are listed, but not there" in said[b"76-45.ome.zarr/A/10"]
    assert said[b"76-45.ome.zarr/A/1/0/0"] == "is no Zarr array: it has neither zarr.json nor .zarray"
    view.close()


def test_reading_needs_no_library_of_others(tmp_path: Path) -> None:
    """What the daemon holds in memory for this: no zarr-python; for LZ4 not even numcodecs."""
    write_image(tmp_path / "i.zarr", picture((8, 8), "u2"), "yx", "0.5", **BLOSC)
    program = (
        "import sys\nfrom pathlib import Path\nfrom vfsd.store.foreign import ZarrView\n"
        "file = ZarrView(Path(sys.argv[1])).find(b'i.tif')\nassert file.read_range(0, file.size)\n"
        "print([name for name in ('zarr', 'numcodecs', 'tifffile', 'imagecodecs') if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "i.zarr"], capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("[]\n", "")


def test_only_the_chunks_touched_are_read(tmp_path: Path) -> None:
    pixels = picture((4, 64, 64), "u2")
    write_image(tmp_path / "i.zarr", pixels, "cyx", "0.5", chunks=(1, 64, 64), **ZSTD)
    for path in (tmp_path / "i.zarr" / "0" / "c").rglob("*"):
        if path.is_file() and path.relative_to(tmp_path / "i.zarr" / "0" / "c").parts[0] != "2":
            path.write_bytes(b"not to be read")
    view = ZarrView(tmp_path / "i.zarr")
    file = dict(files(view))[b"i.ome.tif"]
    plane = file.read_range(file.tiff.pixels + 2 * 8192, 8192)
    assert plane == pixels[2].tobytes()
    view.close()


def test_a_chunk_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    folder = tmp_path / "i.zarr"
    first, second = picture((16, 16), "u2", 1), picture((16, 16), "u2", 2)
    write_image(folder, first, "yx", "0.5", **ZSTD)
    view = ZarrView(folder)
    file = dict(files(view))[b"i.ome.tif"]
    assert pixels_of(file).tobytes() == first.tobytes()
    write_array(tmp_path / "other", second, "0.5", **ZSTD)
    os.replace(chunk_of(tmp_path / "other"), chunk_of(folder / "0"))
    assert pixels_of(file).tobytes() == second.tobytes()
    view.close()
