"""Real plates of every instrument in a store: validators accept them, and sizes, places, names and colours are in them."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import trio
import zarr
from blackbox.stores import validate_groups
from plate_bench import Bench, pixels, tiff

from vfsd.flush.convert import convert_plate
from vfsd.flush.groups import GroupDocument
from vfsd.plates import ChannelFacts, choose_formats
from vfsd.store.geometry import plate_geometry


def converted(source: Path, store: Path, **chosen: str) -> Path:
    formats = choose_formats(**chosen)

    async def convert() -> None:
        result = await convert_plate(source, store, formats=formats)
        assert not result.kept

    trio.run(convert)
    validate_groups(store)
    return store / "images"


def attributes(group: Path) -> Any:
    return json.loads((group / "zarr.json").read_text())["attributes"]


def multiscale(field: Path) -> Any:
    return attributes(field)["ome"]["multiscales"][0]


def transformations(field: Path) -> dict[str, list[float]]:
    """Scale and translation of the first level."""
    return {step["type"]: step[step["type"]] for step in multiscale(field)["datasets"][0]["coordinateTransformations"]}


def units(field: Path) -> dict[str, str | None]:
    return {axis["name"]: axis.get("unit") for axis in multiscale(field)["axes"]}


def channels(field: Path) -> list[tuple[str, str]]:
    return [(channel["label"], channel["color"]) for channel in attributes(field)["ome"]["omero"]["channels"]]


def plane(field: Path, t: int, c: int, z: int) -> np.ndarray[Any, Any]:
    array = zarr.open_array(field / "0", mode="r")
    return np.asarray(array[t, c, z])


def test_opera_phenix(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "opera_phenix_pe2loaddata_v5/Version5"
    plate = converted(source, tmp_path / "s.vfs") / "Version5.ome.zarr"
    described = attributes(plate)
    assert len(described["ome"]["plate"]["rows"]) == 16
    assert len(described["ome"]["plate"]["columns"]) == 24
    assert described["vfsd"]["acquired"] == {"name": "BR00122249", "started": "2023-03-23T14:50:32.6252176-04:00"}
    assert described["vfsd"]["channels"][4] == {
        "number": 5,
        "name": "Alexa 568",
        "excitation_nm": 561,
        "emission_nm": 599,
        "exposure_ms": 40,
    }
    field = plate / "A/1/1"
    size = 0.5979760809567617
    assert transformations(field)["scale"] == pytest.approx([1, 1, 1, size, size])
    middle = 322.907
    assert transformations(field)["translation"] == pytest.approx(
        [0, 0, 0, middle - 539.5 * size, -middle - 539.5 * size], abs=1e-4
    )
    assert units(field) == {"t": None, "c": None, "z": None, "y": "micrometer", "x": "micrometer"}
    assert channels(field) == [
        ("Digital Phase Contrast", "FFFFFF"),
        ("Brightfield high", "FFFFFF"),
        ("488 650", "FF00FF"),
        ("Alexa 488", "00FF00"),
        ("Alexa 568", channels(field)[4][1]),
        ("Alexa 647", "FF00FF"),
    ]
    assert channels(field)[4][1].startswith("FF")  # 599 nm: between yellow and red
    known = attributes(field)["vfsd"]
    assert known["stage_um"] == {"y": 322.907, "x": -322.907}
    assert len(known["taken_at"]) == 6
    assert known["taken_at"][4] == {"t": 1, "c": 5, "z": 1, "at": "2023-03-23T14:52:41.417-04:00"}
    for channel in range(6):
        image = source / f"images/r01c01f01p01-ch{channel + 1}sk1fk1fl1.tiff"
        assert np.array_equal(plane(field, 0, channel, 0), tifffile.imread(image))


def test_cellvoyager(shared_data: Path, tmp_path: Path) -> None:
    name = "CV8000-Minimal-DataSet-2C-3W-4S-FP2-stack"
    whole = shared_data / "cellvoyager_cv8000" / f"{name}_20230918_135839" / name
    part = tmp_path / name
    part.mkdir()
    for entry in os.scandir(whole):
        if not entry.name.endswith(".tif") or (
            "_D08_" in entry.name and "Z03" not in entry.name and "F004" in entry.name
        ):
            shutil.copyfile(entry.path, part / entry.name)
    plate = converted(part, tmp_path / "s.vfs") / f"{name}.ome.zarr"
    field = plate / "D/8/4"
    assert transformations(field)["scale"] == [1, 1, 3, 0.325, 0.325]
    place = [0, 0, 0, 247 - 999.5 * 0.325, 82.8 - 999.5 * 0.325]
    assert transformations(field)["translation"] == pytest.approx(place)
    assert units(field)["z"] == "micrometer"
    assert channels(field) == [("405nm BP445/45", "002FFF"), ("488nm BP525/50", "00FFA1")]
    known = attributes(field)["vfsd"]
    assert known["stage_um"] == {"y": 247.0, "x": 82.8}
    assert [(one["c"], one["z"]) for one in known["taken_at"]] == [(c, z) for c in (1, 2) for z in (1, 2, 4)]
    assert known["taken_at"][-1]["at"] == "2023-09-18T13:58:53.849+02:00"
    assert zarr.open_array(field / "0", mode="r").shape == (1, 2, 3, 2000, 2000)


def test_imagexpress_with_projections(shared_data: Path, tmp_path: Path) -> None:
    images = converted(shared_data / "imagexpress_projection-mix", tmp_path / "s.vfs") / "Projection-Mix/2023-02-21"
    stacks, projections = images / "1334.ome.zarr", images / "1334_projection.ome.zarr"
    assert zarr.open_array(stacks / "E/7/1/0", mode="r").shape == (1, 3, 2, 512, 512)
    assert zarr.open_array(projections / "E/7/1/0", mode="r").shape == (1, 3, 1, 512, 512)
    root = shared_data / "imagexpress_projection-mix/Projection-Mix/2023-02-21/1334"
    of_w4 = next(root.glob("ZStep_1/*_E07_s2_w427*.tif"), None) or next(root.glob("ZStep_1/*_E07_s2_w4F*.tif"))
    numbers = attributes(stacks)["vfsd"]["numbers"]
    assert numbers == {"t": [1], "c": [1, 2, 4], "z": [1, 2]}
    assert np.array_equal(plane(stacks / "E/7/2", 0, 2, 0), tifffile.imread(of_w4))
    assert not plane(stacks / "E/7/2", 0, 2, 1).any(), "w4 has one plane; the other is absent"
    assert attributes(stacks / "E/7/2")["vfsd"] == {"missing": [{"t": 1, "c": 4, "z": 2}], "missing_planes": 1}
    assert "vfsd" not in attributes(projections / "E/7/2")


def test_metaxpress_export_takes_facts_from_its_images(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "imagexpress_exported/9987_Plate_3434"
    field = converted(source, tmp_path / "s.vfs") / "9987_Plate_3434.ome.zarr/B/2/2"
    assert transformations(field)["scale"] == [1, 1, 1, 1.3672, 1.3672]
    # OffsetFromWellCenterUm of site 2 is x 0.04, y -314.98; the set is cropped to 256 pixels
    place = [0, 0, 0, -314.98 - 127.5 * 1.3672, 0.04 - 127.5 * 1.3672]
    assert transformations(field)["translation"] == pytest.approx(place)
    assert [label for label, _ in channels(field)] == ["DAPI", "FITC", "Texas Red"]
    assert [colour for _, colour in channels(field)][1] == "00FF00"
    described = attributes(field.parents[2])["vfsd"]["channels"]
    assert described[0] == {"number": 1, "name": "DAPI", "emission_nm": 452, "exposure_ms": 100}


@pytest.mark.parametrize(
    ("folder", "plate", "fields", "names"),
    [
        ("scanr_plateviewer/SCANR-C2-S1-T1", "SCANR-C2-S1-T1", ["A/1/1", "A/2/1"], ["GFP", "mcherry"]),
        ("leica_matrixscreener/experiment--test", "experiment--test", ["A/1/0", "A/1/1000"], ["J20 C00", "J20 C01"]),
        ("cellomics_arrayscan_AS_09047", "cellomics_arrayscan_AS_09047", ["O/1/0", "O/4/2"], ["w2"]),
    ],
)
def test_other_instruments(
    shared_data: Path, tmp_path: Path, folder: str, plate: str, fields: list[str], names: list[str]
) -> None:
    images = converted(shared_data / folder, tmp_path / "s.vfs")
    for field in fields:
        assert [label for label, _ in channels(images / f"{plate}.ome.zarr" / field)] == names
        assert plane(images / f"{plate}.ome.zarr" / field, 0, len(names) - 1, 0).any()


def test_two_fields_of_a_slide_lie_where_the_stage_was(shared_data: Path, tmp_path: Path) -> None:
    plate = (
        converted(shared_data / "leica_matrixscreener/experiment--test", tmp_path / "s.vfs")
        / "experiment--test.ome.zarr"
    )
    upper, lower = (transformations(plate / f"A/1/{field}")["translation"] for field in ("0", "1000"))
    assert [b - a for a, b in zip(upper, lower, strict=True)] == pytest.approx([0, 0, 0, 232.998, 0])


def test_an_index_that_comes_after_its_images_places_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    image = (
        "<Image><URL>r02c02f0{0}p01-ch1sk1fk1fl1.tiff</URL><Row>2</Row><Col>2</Col><FieldID>{0}</FieldID>"
        "<PositionX Unit='m'>{0}e-4</PositionX><PositionY Unit='m'>0</PositionY>"
        "<ImageResolutionX Unit='m'>1e-6</ImageResolutionX><ImageResolutionY Unit='m'>1e-6</ImageResolutionY>"
        "<ChannelID>1</ChannelID></Image>"
    )

    async def two_flushes() -> None:
        async with bench.mounted() as session:
            await session.makedirs(b"Images")
            for number in (1, 2):
                if number == 2:
                    index = "<D>" + image.format(1) + image.format(2) + "</D>"
                    await session.write(b"Images/Index.xml", index.encode())
                await session.write(b"Images/r02c02f0%dp01-ch1sk1fk1fl1.tiff" % number, tiff(pixels(number)))
                await session.flush()

    trio.run(two_flushes)
    (plate,) = (bench.store / "images").glob("*.ome.zarr")
    for number in (1, 2):
        assert transformations(plate / f"B/2/{number}") == {
            "scale": [1, 1, 1, 1, 1],
            "translation": [0, 0, 0, -19.5, 100 * number - 24.5],
        }


def test_a_projection_that_comes_after_its_stack_is_one(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    guid = b"1E94C24B-D45E-450A-9919-257C714278F7"

    async def two_flushes() -> None:
        async with bench.mounted() as session:
            for path in (b"ZStep_1/", b"ZStep_2/", b""):
                name = path + b"P_B02_s1_w1" + guid + b".tif"
                await session.makedirs(path.rstrip(b"/"))
                await session.write(name, tiff(pixels(len(path))))
                await session.flush()

    trio.run(two_flushes)
    plates = sorted(path.name for path in (bench.store / "images").glob("*.ome.zarr"))
    assert plates == ["plate.ome.zarr", "plate_projection.ome.zarr"]
    assert np.array_equal(plane(bench.store / "images/plate_projection.ome.zarr/B/2/1", 0, 0, 0), pixels(0))


def small_plate(folder: Path, name: Callable[[str, int, int], str]) -> dict[str, np.ndarray[Any, Any]]:
    """Two wells, two fields, two channels."""
    written = {}
    for number, (well, field, channel) in enumerate((w, f, c) for w in ("B02", "C03") for f in (1, 2) for c in (1, 2)):
        path = folder / name(well, field, channel)
        path.parent.mkdir(parents=True, exist_ok=True)
        written[f"{well[0]}/{int(well[1:])}/{field}/{channel}"] = pixels(number)
        path.write_bytes(tiff(pixels(number)))
    return written


def test_a_pattern_makes_a_plate_of_any_names(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    written = small_plate(source, lambda well, field, channel: f"run 7 {well} f{field} ({channel}).tif")
    images = converted(source, tmp_path / "s.vfs", pattern="run 7 {well} f{field} ({channel}).tif")
    for place, array in written.items():
        image, _, channel = place.rpartition("/")
        assert np.array_equal(plane(images / "mine.ome.zarr" / image, 0, int(channel) - 1, 0), array)


def test_an_acquisition_that_comes_later_does_not_displace_the_first(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def two_flushes() -> None:
        async with bench.mounted() as session:
            for timeline in (1, 2):
                name = b"P_B02_T0001F001L%02dA01Z01C01.tif" % timeline
                await session.write(name, tiff(pixels(timeline)))
                await session.flush()

    trio.run(two_flushes)
    (plate,) = (bench.store / "images").glob("*.ome.zarr")
    validate_groups(bench.store)
    assert [one["id"] for one in attributes(plate)["ome"]["plate"]["acquisitions"]] == [0, 1]
    assert attributes(plate / "B/2")["ome"]["well"]["images"] == [
        {"path": "1", "acquisition": 0},
        {"path": "a1f1", "acquisition": 1},
    ]
    assert np.array_equal(plane(plate / "B/2/1", 0, 0, 0), pixels(1))
    assert np.array_equal(plane(plate / "B/2/a1f1", 0, 0, 0), pixels(2))


def flushed(folder: Path, files: dict[bytes, bytes]) -> tuple[Bench, dict[str, Any]]:
    """Files stored by one flush; the receipt's notes by path."""
    bench = Bench(folder)

    async def flush() -> None:
        async with bench.mounted() as session:
            await session.write_all(files)
            await session.flush_all()

    trio.run(flush)
    validate_groups(bench.store)
    (receipt,) = (bench.store / "receipts").glob("*.json")
    records = json.loads(receipt.read_text())["files"]
    return bench, {record["path"]: record.get("notes") for record in records}


def stack(planes: list[np.ndarray[Any, Any]], **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.stack(planes), photometric="minisblack", **options)
    return buffer.getvalue()


def test_a_file_that_holds_a_stack_fills_its_field(tmp_path: Path) -> None:
    planes = [pixels(z) for z in range(3)]
    files = {b"P_B02_s1_w1.tif": stack(planes), b"P_B02_s1_w2.tif": stack(planes[::-1])}
    bench, _ = flushed(tmp_path, files)
    (plate,) = (bench.store / "images").glob("*.ome.zarr")
    assert zarr.open_array(plate / "B/2/1/0", mode="r").shape == (1, 2, 3, *planes[0].shape)
    for z in range(3):
        assert np.array_equal(plane(plate / "B/2/1", 0, 0, z), planes[z])
        assert np.array_equal(plane(plate / "B/2/1", 0, 1, z), planes[2 - z])
    assert bench.stored_alone()[0] == files


@pytest.mark.parametrize("options", [{"imagej": True}, {"ome": True}], ids=["imagej", "ome"])
def test_a_file_that_holds_channels_and_times_fills_its_field(tmp_path: Path, options: dict[str, Any]) -> None:
    array = np.stack([pixels(n) for n in range(2 * 3 * 2)]).reshape(2, 3, 2, *pixels(0).shape)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, metadata={"axes": "TZCYX"}, **options)
    files = {b"P_B02_s1.tif": buffer.getvalue(), b"P_B03_s1.tif": buffer.getvalue()}
    bench, _ = flushed(tmp_path, files)
    (plate,) = (bench.store / "images").glob("*.ome.zarr")
    stored = np.asarray(zarr.open_array(plate / "B/3/1/0", mode="r")[:])
    assert np.array_equal(stored, array.swapaxes(1, 2))
    assert len(channels(plate / "B/2/1")) == 2
    assert bench.stored_alone()[0] == files


def test_pages_that_contradict_their_description_are_no_plate(tmp_path: Path) -> None:
    image = stack([pixels(z) for z in range(3)], description="ImageJ=1.53\nchannels=2\nslices=2\n", metadata=None)
    files = {b"P_B02_s1.tif": image, b"P_B03_s1.tif": tiff(pixels(1))}
    bench, notes = flushed(tmp_path, files)
    assert notes["P_B02_s1.tif"] == ["its pages are not what its description says, or more than a plate can hold"]
    (plate,) = (bench.store / "images").glob("*.ome.zarr")
    assert [well["path"] for well in attributes(plate)["ome"]["plate"]["wells"]] == ["B/3"]


def test_the_receipt_says_why_an_image_is_none_of_the_plate(tmp_path: Path) -> None:
    files = {
        b"P_B02_s1.tif": tiff(pixels(1)),
        b"P_B02_s01.tif": tiff(pixels(2)),
        b"P_B02_s1_thumb.tif": tiff(pixels(3)),
        b"notes.txt": b"!",
    }
    bench, notes = flushed(tmp_path, files)
    assert notes == {
        "P_B02_s01.tif": None,
        "P_B02_s1.tif": ["not an image of the plate: its position on the plate is taken by P_B02_s01.tif"],
        "P_B02_s1_thumb.tif": ["not an image of the plate: it is a thumbnail"],
        "notes.txt": None,
    }
    assert bench.stored_alone()[0] == files


def test_another_binning_goes_into_a_sibling_plate(tmp_path: Path) -> None:
    small = pixels(9, (20, 25))
    files = {b"P_B02_s%d.tif" % n: tiff(pixels(n)) for n in (1, 2)} | {b"P_B03_s1.tif": tiff(small)}
    bench, _ = flushed(tmp_path, files)
    plates = sorted(path.name for path in (bench.store / "images").glob("*.ome.zarr"))
    assert plates == ["plate.ome.zarr", "plate_20x25_uint16.ome.zarr"]
    assert np.array_equal(plane(bench.store / "images/plate_20x25_uint16.ome.zarr/B/3/1", 0, 0, 0), small)


def test_colour_images_of_a_plate_have_their_samples_for_channels(tmp_path: Path) -> None:
    colours = {n: np.stack([pixels(10 * n + sample, dtype="uint8") for sample in range(3)], -1) for n in range(5)}
    files = {
        b"P_B02_s1_w1.tif": tiff(colours[0], photometric="rgb"),
        b"P_B02_s1_w2.tif": tiff(colours[1], photometric="rgb"),
        b"TimePoint_2/P_B02_s1_w1.tif": tiff(colours[2], photometric="rgb", compression="lzw"),
        b"P_B03_s1_w1.tif": tiff(np.moveaxis(colours[3], -1, 0), photometric="rgb", planarconfig="separate"),
        b"P_B04_s1_w1.tif": tiff(pixels(9)),
        b"P_B02_s1_w1_mask.tif": tiff(pixels(8)),
    }
    bench, _ = flushed(tmp_path, files)
    images = bench.store / "images"
    names = sorted(path.name for path in images.glob("*.ome.zarr"))
    assert names == [
        "plate.ome.zarr",
        "plate_40x50_uint16.ome.zarr",
        "plate_40x50x3_uint8_c1.ome.zarr",
        "plate_40x50x3_uint8_c2.ome.zarr",
    ]
    field = images / "plate.ome.zarr/B/2/1"
    array = zarr.open_array(field / "0", mode="r")
    assert array.metadata.dimension_names == ("t", "c", "z", "y", "x")
    assert np.array_equal(array[:, :, 0], np.moveaxis(np.stack([colours[0], colours[2]]), -1, 1))
    assert channels(field) == [("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF")]
    for name, well, number in (("c1", "3", 3), ("c2", "2", 1)):
        shown = zarr.open_array(images / f"plate_40x50x3_uint8_{name}.ome.zarr/B/{well}/1/0", mode="r")
        assert np.array_equal(shown[0, :, 0], np.moveaxis(colours[number], -1, 0))
    assert np.array_equal(zarr.open_array(field / "labels/mask/0", mode="r")[0, 0], pixels(8))
    assert bench.stored_alone()[0] == files


def test_lzw_that_cannot_be_made_again_keeps_its_bytes_and_its_pixels(tmp_path: Path) -> None:
    """In tiles, and with the predictor for fractions: the plate has the pixels, and the file is there as it is."""
    whole, fractions = pixels(1, (64, 64)), pixels(2, (64, 64), "float32") / np.float32(7)
    files = {
        b"P_B02_s1_w1.tif": tiff(whole, compression="lzw", tile=(32, 32)),
        b"P_B02_s1_w2.tif": tiff(whole, compression="lzw", tile=(32, 32), predictor=2),
        b"P_B03_s1_w1.tif": tiff(fractions, compression="lzw", predictor=3),
    }
    bench, _ = flushed(tmp_path, files)
    (receipt,) = (bench.store / "receipts").glob("*.json")
    records = {one["path"]: one for one in json.loads(receipt.read_text())["files"]}
    assert {path: one["stored"] for path, one in records.items()} == dict.fromkeys(records, "plain")
    assert all(one["costs_bytes"] == one["size"] for one in records.values())
    assert "LZW" in records["P_B03_s1_w1.tif"]["kept_whole_because"]
    images = bench.store / "images"
    assert np.array_equal(plane(images / "plate.ome.zarr/B/2/1", 0, 0, 0), whole)
    assert np.array_equal(plane(images / "plate.ome.zarr/B/2/1", 0, 1, 0), whole)
    assert np.array_equal(plane(images / "plate_64x64_float32.ome.zarr/B/3/1", 0, 0, 0), fractions)
    assert bench.stored_alone()[0] == files


def test_a_contradiction_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = b"<D><Plates><Plate><PlateRows>2</PlateRows><PlateColumns>3</PlateColumns></Plate></Plates></D>"
    files = {b"Images/r%02dc12f01p01-ch1sk1fk1fl1.tiff" % row: tiff(pixels(row)) for row in (3, 4)}
    flushed(tmp_path, {**files, b"Images/Index.xml": index})
    said = [record.getMessage() for record in caplog.records if "contradict" in record.getMessage()]
    assert len(said) == 1
    assert "Images/Index.xml" in said[0]


def test_documents_of_earlier_stores_are_read() -> None:
    """As the first release of format version 1 wrote them: nothing of stage, times and wavelengths."""
    geometry = plate_geometry((1, 1, 1), (40, 50), "uint16")
    document = GroupDocument(
        geometry, name="p", plate="p", instrument="imagexpress", numbers={"t": [1], "c": [1], "z": [1]}
    )
    written = json.loads(document.encode())
    for later in ("stage_um", "time_step_s", "facts"):
        del written[later]
    written["channels"] = {"1": {"name": "DAPI", "colour": None}}
    read = GroupDocument.decode(json.dumps(written))
    assert (read.stage_um, read.time_step_s, read.facts) == ({}, None, {})
    read.take_channel(ChannelFacts(1, emission_nm=450))
    assert read.channels[1]["name"] == "DAPI"
    assert read.channels[1]["emission_nm"] == 450
