"""Label images: inside the image that they label, wherever that is now, as strangers read it and byte for byte."""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
import zarr
from blackbox.stores import validate_groups
from plate_bench import Bench, Session, assert_sound, group_locations, pixels, plate_path, tiff

from vfsd.flush import flush_tree
from vfsd.plates import choose_formats
from vfsd.store import Store

PLATE = b"images/plate.ome.zarr"
ALONE = b"images/plate.labels.ome.zarr"


def mask(seed: int, shape: tuple[int, ...] = (40, 50), dtype: str = "uint16") -> np.ndarray[Any, Any]:
    """Objects with numbers of which no mean is another object's."""
    rows, columns = np.indices(shape[-2:])
    return (((rows // 7) * 8 + columns // 7) * 3 * (1 + seed % 5) % 251).astype(dtype)


def image(well: str = "B02", site: int = 1, channel: int = 1, **place: Any) -> dict[bytes, bytes]:
    """One image of a plate."""
    return {plate_path(well, site, channel, **place): tiff(pixels(site + 10 * channel))}


def name(path: bytes, suffix: bytes) -> bytes:
    return path[: -len(b".TIF")] + suffix + b".tif"


def labels_of(image_group: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every label image that an image lists, as zarr-python reads its full size; checks what NGFF 0.5 asks of each."""
    above = json.loads((image_group / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
    listing = json.loads((image_group / "labels/zarr.json").read_text())
    assert (listing["zarr_format"], listing["node_type"], list(listing["attributes"])) == (3, "group", ["ome"])
    assert listing["attributes"]["ome"]["version"] == "0.5"
    found = {}
    for path in listing["attributes"]["ome"]["labels"]:
        ome = json.loads((image_group / "labels" / path / "zarr.json").read_text())["attributes"]["ome"]
        assert ome["image-label"] == {"version": "0.5", "source": {"image": "../../"}}
        assert "omero" not in ome
        (multiscale,) = ome["multiscales"]
        assert [axis["name"] for axis in multiscale["axes"]] == ["t", "z", "y", "x"]
        assert len(multiscale["datasets"]) == len(above["datasets"])
        kept = [0, 2, 3, 4]  # without channels
        for ours, of_image in zip(multiscale["datasets"], above["datasets"], strict=True):
            for mine, its in zip(ours["coordinateTransformations"], of_image["coordinateTransformations"], strict=True):
                assert mine[mine["type"]] == [its[its["type"]][axis] for axis in kept]
        levels = [
            np.asarray(zarr.open_array(image_group / "labels" / path / level["path"], mode="r")[...])
            for level in multiscale["datasets"]
        ]
        assert levels[0].dtype.kind in "iu"
        for upper, lower in itertools.pairwise(levels):
            height, width = lower.shape[-2:]
            assert np.array_equal(lower, upper[..., : 2 * height : 2, : 2 * width : 2]), "labels are never averaged"
        found[path] = levels[0]
    listed = {entry.name for entry in (image_group / "labels").iterdir()} - {"zarr.json"}
    assert listed == set(found)
    return found


def tree_of(store: Path, field: str = "B/2/1") -> Path:
    return store / PLATE.decode() / field


def run(bench: Bench, act: Any) -> None:
    async def mounted() -> None:
        async with bench.mounted() as session:
            await act(session)

    trio.run(mounted)


def check(bench: Bench, files: Mapping[bytes, bytes]) -> None:
    """Sound, valid, and every byte there."""
    assert_sound(bench.store, dict(files))
    validate_groups(bench.store)
    assert bench.stored_alone()[0] == files


async def check_now(bench: Bench, files: Mapping[bytes, bytes]) -> None:
    """The same while a session is open."""
    await trio.to_thread.run_sync(check, bench, dict(files))


def test_labels_of_an_image_lie_inside_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (first,) = image()
    names = {
        "mask": name(first, b"_mask"),
        "nuclei_labels": name(first, b"_nuclei_labels"),
        "cp_masks": name(first, b"_cp_masks"),
        "segmentation": b"segmentation/" + first,
        "cells": b"masks/" + name(first, b"_cells"),
    }
    masks = {path: tiff(mask(number)) for number, path in enumerate(names.values())}
    files = {**image(), **image(channel=2), **masks}

    async def store(session: Session) -> None:
        await session.write_all(files)
        await session.flush_all()

    run(bench, store)
    check(bench, files)
    found = labels_of(tree_of(bench.store))
    assert found.keys() == names.keys()
    for number, label in enumerate(names):
        assert np.array_equal(found[label], mask(number)[None, None])


def test_masks_beside_images_of_the_source_move_in_when_these_are_ingested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, source=True)
    assert bench.source is not None
    images = {path: data for site in (1, 2) for z in (1, 2) for path, data in image(site=site, z=z).items()}
    for path, data in images.items():
        target = bench.source / path.decode()
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
    masks = {name(path, b"_mask"): tiff(mask(number)) for number, path in enumerate(images)}

    async def segment(session: Session) -> None:
        for path, data in masks.items():
            assert await session.read(path.replace(b"_mask.tif", b".TIF"))
            await session.write(path, data)
            await session.flush_all()

    run(bench, segment)
    assert group_locations(bench.store) == {ALONE: 4}
    document = json.loads((bench.store / ALONE.decode() / "B/2/2/zarr.json").read_text())["attributes"]
    assert document["ome"]["image-label"] == {"version": "0.5"}
    assert_sound(bench.store)
    validate_groups(bench.store)

    encoded = count_encodings(monkeypatch)

    async def ingest(session: Session) -> None:
        await session.flush(ingest=True)

    run(bench, ingest)
    assert group_locations(bench.store) == {PLATE: 4, PLATE + b"/*/labels/mask": 4}
    assert sorted(encoded) == sorted((40, 50) for _ in images), "masks were compressed before"
    check(bench, {**images, **masks})
    for site in (1, 2):
        expected = np.stack([mask(2 * (site - 1) + z) for z in (0, 1)])
        assert np.array_equal(labels_of(tree_of(bench.store, f"B/2/{site}"))["mask"], expected[None])


def count_encodings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The full-size planes that are compressed from now on."""
    from vfsd.flush import writing

    encoded: list[tuple[int, int]] = []
    original = writing.encode_plane

    def counting(pixels: Any, geometry: Any) -> Any:
        encoded.append((geometry.height, geometry.width))
        return original(pixels, geometry)

    monkeypatch.setattr(writing, "encode_plane", counting)
    return encoded


def test_labels_stay_when_their_image_goes_and_return_when_it_does(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    first, second = image(site=1), image(site=2)
    masks = {name(path, b"_mask"): tiff(mask(number)) for number, path in enumerate({**first, **second})}
    files = {**first, **second, **masks}

    async def act(session: Session) -> None:
        await session.write_all(files)
        await session.flush_all()
        await check_now(bench, files)
        (gone,) = first
        await session.unlink(gone)
        del files[gone]
        await session.flush_all()
        await check_now(bench, files)
        assert group_locations(bench.store) == {PLATE: 1, PLATE + b"/*/labels/mask": 1, ALONE: 1}
        assert not tree_of(bench.store).exists()
        await session.write_all(first)
        files.update(first)
        await session.flush_all()
        await check_now(bench, files)
        assert group_locations(bench.store) == {PLATE: 2, PLATE + b"/*/labels/mask": 2}
        for path in {**first, **second}:
            await session.unlink(path)
            del files[path]
        await session.flush_all()
        await check_now(bench, files)
        assert group_locations(bench.store) == {ALONE: 2}

    run(bench, act)


def test_labels_are_replaced_renamed_and_removed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (first,) = image()
    files = {b"pl/" + first: image()[first], b"pl/" + name(first, b"_mask"): tiff(mask(1))}

    async def act(session: Session) -> None:
        await session.write_all(files)
        await session.flush_all()
        path = b"pl/" + name(first, b"_mask")
        files[path] = tiff(mask(2), byteorder=">", rowsperstrip=3)
        await session.write(path, files[path])
        await session.flush_all()
        await check_now(bench, files)
        field = bench.store / "images/pl.ome.zarr/B/2/1"
        assert np.array_equal(labels_of(field)["mask"][0, 0], mask(2))
        await session.rename(path, b"pl/" + name(first, b"_nuclei_mask"))
        files[b"pl/" + name(first, b"_nuclei_mask")] = files.pop(path)
        await session.flush_all()
        await check_now(bench, files)
        assert list(labels_of(field)) == ["nuclei_mask"]
        await session.rename(b"pl", b"moved")
        moved = {other.replace(b"pl/", b"moved/", 1): data for other, data in files.items()}
        await session.flush_all()
        await check_now(bench, moved)
        field = bench.store / "images/moved.ome.zarr/B/2/1"
        assert list(labels_of(field)) == ["nuclei_mask"]
        await session.unlink(b"moved/" + name(first, b"_nuclei_mask"))
        await session.flush_all()
        await check_now(bench, {b"moved/" + first: image()[first]})
        assert not (field / "labels").exists()

    run(bench, act)


def test_labels_that_wait_move_with_their_folder(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (first,) = image()
    files = {b"pl/" + name(first, b"_mask"): tiff(mask(1))}

    async def act(session: Session) -> None:
        await session.write_all(files)
        await session.flush_all()
        assert group_locations(bench.store) == {b"images/pl.labels.ome.zarr": 1}
        await session.rename(b"pl", b"moved")
        await session.flush_all()

    run(bench, act)
    assert group_locations(bench.store) == {b"images/moved.labels.ome.zarr": 1}
    check(bench, {b"moved/" + name(first, b"_mask"): tiff(mask(1))})


def test_a_label_array_grows_with_its_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    files: dict[bytes, bytes] = {}

    async def act(session: Session) -> None:
        for time, z in ((2, 1), (2, 2), (1, 1), (3, 3)):
            (path,) = image(time=time, z=z)
            more = {path: tiff(pixels(10 * time + z))}
            if time != 1:
                more[name(path, b"_mask")] = tiff(mask(time + z))
            await session.write_all(more)
            files.update(more)
            await session.flush_all()
            await check_now(bench, files)

    run(bench, act)
    found = labels_of(tree_of(bench.store))["mask"]
    assert found.shape == (3, 3, 40, 50)
    for (time, z), number in {(0, 0): 3, (0, 1): 4, (2, 2): 6}.items():
        assert np.array_equal(found[time, z], mask(number))
    assert not found[1].any(), "what nobody segmented is absent"
    attributes = json.loads((tree_of(bench.store) / "labels/mask/zarr.json").read_text())["attributes"]
    assert attributes["vfsd"]["missing_planes"] == 6
    assert {"t": 1, "z": 1} in attributes["vfsd"]["missing"]


def test_labels_that_waited_out_of_order_come_into_order(tmp_path: Path) -> None:
    """Other numbers come first while they wait, another number of levels is wanted, and one plane has no image."""
    bench = Bench(tmp_path)
    paths = {time: next(iter(image(time=time))) for time in (1, 2, 3)}
    files: dict[bytes, bytes] = {}

    async def act(session: Session) -> None:
        for time in (3, 1, 2):
            more = {name(paths[time], b"_mask"): tiff(mask(time))}
            await session.write_all(more)
            files.update(more)
            await flush_tree(session.tree, levels=0)
        more = {paths[time]: tiff(pixels(time)) for time in (1, 2)}
        await session.write_all(more)
        files.update(more)
        await flush_tree(session.tree, levels=2)

    run(bench, act)
    check(bench, files)
    assert group_locations(bench.store) == {PLATE: 2, PLATE + b"/*/labels/mask": 2, ALONE: 1}
    found = labels_of(tree_of(bench.store))["mask"]
    assert [np.array_equal(found[n, 0], mask(n + 1)) for n in (0, 1)] == [True, True]
    assert np.array_equal(zarr.open_array(bench.store / ALONE.decode() / "B/2/1/0", mode="r")[0, 0], mask(3))


def test_labels_of_several_channels_types_and_encodings(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    w1, w2 = (next(iter(image(channel=channel))) for channel in (1, 2))
    other = next(iter(image("C03")))
    files = {**image(), **image(channel=2), **image("C03")}
    files[name(w1, b"_mask")] = tiff(mask(1))
    files[name(w2, b"_mask")] = tiff(mask(2), compression="zlib")
    files[name(other, b"_mask")] = tiff(mask(3, dtype="uint8"), compression="lzw")

    async def store(session: Session) -> None:
        await session.write_all(files)
        await session.flush_all()

    run(bench, store)
    check(bench, files)
    found = labels_of(tree_of(bench.store))
    assert {
        label: np.array_equal(array[0, 0], mask(1 if label == "mask" else 2)) for label, array in found.items()
    } == {
        "mask": True,
        "mask_c2": True,
    }
    assert labels_of(tree_of(bench.store, "C/3/1"))["mask_uint8"].dtype == np.uint8


def test_a_stack_of_masks_in_one_file_fills_its_slices(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    planes = np.stack([mask(z) for z in range(3)])
    stack = tiff(np.stack([pixels(z) for z in range(3)]), photometric="minisblack")
    files = {b"P_B02_s1_w1.tif": stack, b"P_B02_s1_w1_labels.tif": tiff(planes, photometric="minisblack")}

    async def store(session: Session) -> None:
        await session.write_all(files)
        await session.flush_all()

    run(bench, store)
    check(bench, files)
    assert np.array_equal(labels_of(tree_of(bench.store))["labels"][0], planes)


def notes_of(store: Path) -> dict[str, list[str]]:
    """What the receipts say of files, by path."""
    found: dict[str, list[str]] = {}
    for receipt in sorted((store / "receipts").glob("*.json")):
        for record in json.loads(receipt.read_text())["files"]:
            found[record["path"]] = record.get("notes", [])
    return found


def test_what_cannot_be_a_label_is_stored_otherwise_and_said(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (first,) = image()
    begin = "no label image of P_B02_s1_w1.TIF: "
    odd = {
        b"_size_mask": (tiff(mask(1, (20, 25))), "it has 20 x 25 pixels, and the image 40 x 50"),
        b"_float_mask": (tiff(mask(2, dtype="float32")), "its pixels are no whole numbers (40x50 float32)"),
        b"_rgb_mask": (
            tiff(np.stack([mask(3, dtype="uint8")] * 3, -1), photometric="rgb"),
            "its pixels are no whole numbers (40x50x3 uint8)",
        ),
        b"_pages_mask": (
            tiff(np.stack([mask(4)] * 3), photometric="minisblack", description="ImageJ=1.5\nchannels=3\n"),
            "its pages are several channels, and a label has none",
        ),
    }
    files = {**image(), **{name(first, suffix): data for suffix, (data, _) in odd.items()}}
    files[b"masks/Q_B02_s1_w1.tif"] = tiff(mask(5))  # no image of that name is there

    async def store(session: Session) -> None:
        await session.write_all(files)
        await session.flush_all()

    run(bench, store)
    assert bench.stored_alone()[0] == files
    validate_groups(bench.store)
    notes = notes_of(bench.store)
    for suffix, (_, why) in odd.items():
        assert notes[name(first, suffix).decode()] == [begin + why]
    assert not (tree_of(bench.store) / "labels").exists()
    assert b"images/masks.ome.zarr" in group_locations(bench.store), "a plate of its own"


def test_of_two_files_for_one_label_the_second_stays_a_file(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (first,) = image()
    files = {**image(), name(first, b"_mask"): tiff(mask(1)), name(first, b"-mask"): tiff(mask(2))}

    async def store(session: Session) -> None:
        await session.write_all(files)
        await session.flush_all()

    run(bench, store)
    assert bench.stored_alone()[0] == files
    second = max(name(first, b"_mask"), name(first, b"-mask")).decode()
    assert notes_of(bench.store)[second] == ["another file is the label image of this name and place"]
    assert len(labels_of(tree_of(bench.store))) == 1


def test_a_label_whose_size_fits_no_image_that_comes_later_waits_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (first,) = image()
    small = {name(first, b"_mask"): tiff(mask(1, (20, 25)))}

    async def act(session: Session) -> None:
        await session.write_all(small)
        await session.flush_all()
        await session.write_all(image())
        await session.flush_all()

    run(bench, act)
    assert group_locations(bench.store) == {ALONE: 1, PLATE: 1}
    check(bench, {**small, **image()})


def test_labels_of_a_damaged_shard_stay_where_they_are(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    one, other = (next(iter(image(site=site))) for site in (1, 2))
    masks = {name(path, b"_mask"): tiff(mask(number)) for number, path in enumerate((one, other))}
    images = {**image(site=1), **image(site=2)}

    async def segment(session: Session) -> None:
        await session.write_all(masks)
        await session.flush_all()

    run(bench, segment)
    (shard,) = (bench.store / ALONE.decode() / "B/2/1/0").glob("c.*")
    content = bytearray(shard.read_bytes())
    content[-10] ^= 1
    shard.write_bytes(content)

    async def add_images(session: Session) -> None:
        await session.write_all(images)
        await session.flush_all()

    run(bench, add_images)
    assert group_locations(bench.store) == {ALONE: 1, PLATE: 2, PLATE + b"/*/labels/mask": 1}
    with contextlib.closing(Store.open(bench.store, writable=False)):
        assert shard.read_bytes() == content, "what of it can be rescued is not touched"
    assert list(labels_of(tree_of(bench.store, "B/2/2"))) == ["mask"]


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("{image}.cells.tif", {"P_B02_s1_w1.cells.tif": "cells"}),
        ("{label}/{image}.tif", {"nuclei/P_B02_s1_w1.tif": "nuclei", "cyto/P_B02_s1_w1.tif": "cyto"}),
        ("out/{image}-{any}-{label}.tiff", {"out/P_B02_s1_w1-v2-Nuclei (n).tiff": "nuclei_n"}),
        ("none", {}),
    ],
)
def test_names_of_the_users_own(tmp_path: Path, pattern: str, paths: dict[str, str]) -> None:
    bench = Bench(tmp_path)
    (first,) = image()
    usual = name(first, b"_mask")
    files = {**image(), usual: tiff(mask(9)), **{path.encode(): tiff(mask(1)) for path in paths}}

    async def store(session: Session) -> None:
        await session.write_all(files)
        await flush_tree(session.tree, formats=choose_formats(labels=pattern))

    run(bench, store)
    assert bench.stored_alone()[0] == files
    validate_groups(bench.store)
    if paths:
        assert set(labels_of(tree_of(bench.store))) == set(paths.values())
    else:
        assert not (tree_of(bench.store) / "labels").exists()


def test_others_read_labels(tmp_path: Path) -> None:
    import tensorstore
    from napari_ome_zarr import napari_get_reader
    from ome_zarr_models.v05.image_label import ImageLabel
    from ome_zarr_models.v05.labels import Labels

    bench = Bench(tmp_path)
    (first,) = image()
    files = {**image(), **image(channel=2), name(first, b"_mask"): tiff(mask(1))}

    async def store(session: Session) -> None:
        await session.write_all(files)
        await session.flush_all()

    run(bench, store)
    field = tree_of(bench.store)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        listing = Labels.from_zarr(zarr.open_group(field / "labels", mode="r"))
        assert listing.ome_attributes.labels == ["mask"]
        label = ImageLabel.from_zarr(zarr.open_group(field / "labels/mask", mode="r"))
        assert label.ome_attributes.image_label is not None
        for path, shown in ((field, mask(1)), (field.parents[2], mask(1))):
            reader = napari_get_reader(str(path))
            assert reader is not None
            layers = [layer for layer in reader(str(path)) if layer[2] == "labels"]
            assert len(layers) == 1
            data = layers[0][0]
            full = np.asarray(data[0] if isinstance(data, list | tuple) else data)
            corner = (0, 0) if path == field else (40, 50)  # well B2 of the whole plate
            assert np.array_equal(full[0, 0, corner[0] :, corner[1] :][:40, :50], shown)
    kvstore = {"driver": "file", "path": str(field / "labels/mask/0")}
    opened = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, open=True, read=True).result()
    assert np.array_equal(np.asarray(opened.read().result())[0, 0], mask(1))


def test_a_row_of_labels_needs_no_columns_that_older_stores_lack(tmp_path: Path) -> None:
    """A group of labels is an ordinary row: its place inside a plate stands in its key."""
    bench = Bench(tmp_path)
    (first,) = image()

    async def store(session: Session) -> None:
        await session.write_all({**image(), name(first, b"_mask"): tiff(mask(1))})
        await session.flush_all()

    run(bench, store)
    with contextlib.closing(sqlite3.connect(bench.store / "catalog.sqlite")) as db:
        rows = dict(db.execute("SELECT form, location FROM image_group").fetchall())
    assert rows == {"plate": PLATE, "labels": PLATE + b"/*/labels/mask"}
