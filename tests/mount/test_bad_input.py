"""Hostile files, names and limits: each is kept byte for byte, or refused to its writer; the mount lives on.

A TIFF that cannot be understood is a plain file, wherever it lies and whatever its name promises.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from blackbox.acts import MIB, some_bytes
from blackbox.daemons import DONE, Mounted, Plate, Vfsd
from blackbox.pictures import hostile_tiffs, noisy_picture, simple_tiff, write_tiff
from blackbox.stores import assert_napari_shows, export_planes, stored_plates, validate_groups
from blackbox.trees import Tree, assert_same_tree, part_of, read_tree

pytestmark = pytest.mark.fuse

# A real plate's folder, so that what lies in it is taken for planes.
WELLS = ("A01", "A02", "B01", "B02", "C01", "C02", "D01")

# No name is longer on ext4, xfs and tmpfs (NAME_MAX).
LONGEST_NAME = 255

ODD_NAMES = [
    b" leading and trailing blank ",
    b"two\nlines\nand a tab\t",
    b"[brackets] {braces} (parentheses).tif",
    b"*?%20&;$HOME`id`'\"\\.tif",
    b"-rf",
    b"#hash.tif",
    b"\xff\xfe\x80 no utf-8.tif",
    b"latin-1 \xe4\xf6\xfc.csv",
    "täglich µm 細胞.tif".encode(),
    "combining e\u0301 and \u00e9".encode(),
    b"\x1b[31mred\x07",
    b"zarr.json",
    b".zattrs",
    b".hidden",
    b"...",
    b"con.tif.",
    b"x" * LONGEST_NAME,
    b"y" * (LONGEST_NAME - 4) + b".tif",
]


def keep(mounted: Mounted, source: Path, vfsd: Vfsd, live: Tree, store: Path, *, alone: bool = False) -> None:
    """What was in the mount is in the verified store, and in the next mount."""
    vfsd.expect(DONE, "verify", store)
    with mounted(store if alone else source) as mount:
        assert_same_tree(read_tree(mount.path), live, "the next mount")


def plate_of(folder: Path, *, shape: tuple[int, int] = (32, 48)) -> Path:
    """A small plate in MetaXpress naming, one field and one channel a well."""
    folder.mkdir(parents=True)
    for number, well in enumerate(WELLS):
        (folder / f"plate_{well}_s1_w1.TIF").write_bytes(simple_tiff(noisy_picture(shape, seed=number)))
    return folder


@pytest.fixture
def empty_source(tmp_path: Path) -> Path:
    (tmp_path / "plate").mkdir()
    return tmp_path / "plate"


def test_hostile_tiffs_written_into_the_mount(empty_source: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    with mounted(empty_source) as mount:
        for name, data in hostile_tiffs().items():
            (mount.path / f"{name}.tif").write_bytes(data)
        (mount.path / "after.txt").write_text("still alive\n")
        live = read_tree(mount.path)
        mount.umount()
    keep(mounted, empty_source, vfsd, live, mount.store, alone=True)


@pytest.mark.parametrize("ingest", [False, True], ids=["as source", "ingested"])
def test_hostile_tiffs_in_the_source(ingest: bool, tmp_path: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    source = tmp_path / "plate"
    source.mkdir()
    for name, data in hostile_tiffs().items():
        (source / f"{name}.tif").write_bytes(data)
        os.utime(source / f"{name}.tif", (10**9, 10**9))  # at rest: one that is cut short stays so
    before = read_tree(source)
    with mounted(source, *(["--ingest"] if ingest else [])) as mount:
        assert_same_tree(read_tree(mount.path), before, "the mounted source")
        mount.umount()
    keep(mounted, source, vfsd, before, mount.store, alone=ingest)


def test_hostile_tiffs_among_the_images_of_a_plate(empty_source: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    """Their names say that they are planes; their neighbours must become a plate all the same."""
    with mounted(empty_source) as mount:
        folder = plate_of(mount.path / "again")
        for number, data in enumerate(hostile_tiffs().values()):
            (folder / f"plate_A01_s{number + 2}_w1.TIF").write_bytes(data)
        live = read_tree(mount.path)
        mount.umount()
    keep(mounted, empty_source, vfsd, live, mount.store, alone=True)
    (stored,) = [p for p in stored_plates(mount.store) if p.folder.name == "again.ome.zarr"]
    for number, well in enumerate(WELLS):
        pixels = stored.images[well[0], str(int(well[1:])), "1"].by_zarr()
        assert (pixels.reshape(pixels.shape[-2:]) == noisy_picture((32, 48), seed=number)).all()
    validate_groups(mount.store)


def test_damaged_metadata_of_a_plate(plate: Plate, mounted: Mounted, vfsd: Vfsd) -> None:
    source = plate("imagexpress_exported/9987_Plate_3434")
    with mounted(source) as mount:
        again = mount.path / "again"
        shutil.copytree(source, again)
        for number, path in enumerate(sorted(again.rglob("*.HTD"))):
            path.write_bytes([b"", b"\0" * 5000, b'"XWells", 999999999\r\n', bytes(range(256)) * 9][number % 4])
        live = read_tree(mount.path)
        mount.umount()
    vfsd.expect(DONE, "verify", mount.store)
    with mounted(mount.store) as alone:
        assert_same_tree(part_of(read_tree(alone.path), b"again"), part_of(live, b"again"), "the mounted store")


@pytest.mark.parametrize("where", ["source", "mount"])
def test_odd_names(where: str, tmp_path: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    source = tmp_path / "plate"
    source.mkdir()

    def fill(root: Path) -> None:
        for number, name in enumerate(ODD_NAMES):
            folder = root / f"folder {number}"
            folder.mkdir()
            path = folder / os.fsdecode(name)
            path.write_bytes(simple_tiff(noisy_picture((32, 32), seed=number)))
            (folder / "d").mkdir()
            (folder / "d" / os.fsdecode(name)).mkdir()
            (folder / "d" / os.fsdecode(name) / "inside").write_bytes(name)
            (folder / "l").symlink_to(os.fsdecode(name))

    if where == "source":
        fill(source)
    with mounted(source, "--ingest") as mount:
        if where == "mount":
            fill(mount.path)
        live = read_tree(mount.path)
        assert len(live) == 6 * len(ODD_NAMES)
        mount.umount()
    keep(mounted, source, vfsd, live, mount.store, alone=True)
    exported = tmp_path / "exported"
    vfsd.expect(DONE, "export", mount.store, exported)
    assert_same_tree(read_tree(exported), live, "the export")


def test_odd_names_of_plates_and_stacks(empty_source: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    """Names that become folders of Zarr groups: they must neither clash nor leave the store."""
    names = [b"a b [1]", b"\xff\xfe", b"..plate", b"a.ome.zarr", b"a", b"A", "µ".encode(), b"q" * 250]
    with mounted(empty_source) as mount:
        for name in names:
            folder = plate_of(mount.path / os.fsdecode(name))
            (folder / "loose").mkdir()
            for number in range(20):
                picture = noisy_picture((192, 192), seed=number)
                (folder / "loose" / f"{number}.tif").write_bytes(simple_tiff(picture))
        live = read_tree(mount.path)
        mount.umount()
    keep(mounted, empty_source, vfsd, live, mount.store, alone=True)
    stored = stored_plates(mount.store)
    assert len(stored) == len(names)
    assert all(len(found.images) == len(WELLS) for found in stored)
    inside = mount.store.resolve()
    assert all(p.resolve().is_relative_to(inside) for p in mount.store.rglob("*"))
    validate_groups(mount.store)


def test_plate_with_other_shapes_and_types_among_its_images(empty_source: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    with mounted(empty_source) as mount:
        folder = plate_of(mount.path / "again")
        write_tiff(folder / "plate_E01_s1_w1.TIF", noisy_picture((16, 24), seed=50))
        write_tiff(folder / "plate_E02_s1_w1.TIF", noisy_picture((32, 48), "uint8", seed=51))
        write_tiff(folder / "plate_E03_s1_w1.TIF", noisy_picture((32, 48), "float32", seed=52))
        write_tiff(folder / "plate_E04_s1_w1.TIF", noisy_picture((32, 48, 3), "uint8", seed=53), photometric="rgb")
        write_tiff(folder / "plate_E05_s1_w1.TIF", noisy_picture((5, 32, 48), seed=54))
        write_tiff(folder / "plate_E06_s1_w1.TIF", noisy_picture((32, 48), seed=55), byteorder=">")
        expected = export_planes(folder, projection=False)
        live = read_tree(mount.path)
        mount.umount()
    keep(mounted, empty_source, vfsd, live, mount.store, alone=True)
    stored = stored_plates(mount.store)
    found = {}
    for one in stored:
        shapes = {image.by_zarr().shape[-2:] for image in one.images.values()}
        types = {image.by_zarr().dtype for image in one.images.values()}
        assert len(shapes) == len(types) == 1, f"{one.folder}: {shapes} {types} in one group"
        found.update(one.images)
        assert_napari_shows(one)
    for position, plane in expected.items():
        if plane.shape == (32, 48) and plane.dtype in ("uint16", ">u2"):
            # the file of five pages is a stack along z, which every array of the group has room for
            stack = found[position.row, position.column, position.field].by_zarr().reshape(-1, *plane.shape)
            assert (stack[0] == plane).all(), position
            assert not stack[1:].any(), position
    validate_groups(mount.store)


def test_two_files_for_one_position(empty_source: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    with mounted(empty_source) as mount:
        folder = plate_of(mount.path / "again")
        (folder / "plate_A01_s1_w1.tif").write_bytes(simple_tiff(noisy_picture((32, 48), seed=90)))
        (folder / "plate_A1_s01_w01.tiff").write_bytes(simple_tiff(noisy_picture((32, 48), seed=91)))
        (folder / "TimePoint_1").mkdir()
        (folder / "TimePoint_1" / "plate_A01_s1_w1.TIF").write_bytes(simple_tiff(noisy_picture((32, 48), seed=92)))
        live = read_tree(mount.path)
        mount.umount()
    keep(mounted, empty_source, vfsd, live, mount.store, alone=True)


def test_positions_that_nobody_can_allocate(empty_source: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    with mounted(empty_source) as mount:
        folder = plate_of(mount.path / "again")
        for name in (
            "plate_A01_s999999999_w1.TIF",
            "plate_A01_s1_w999999999.TIF",
            "plate_ZZ99_s1_w1.TIF",
            "plate_A00_s0_w0.TIF",
            "plate_A01_s1_w99999999999999999999999.TIF",
        ):
            (folder / name).write_bytes(simple_tiff(noisy_picture((32, 48), seed=len(name))))
        far = folder / "TimePoint_4294967296" / "ZStep_99999"
        far.mkdir(parents=True)
        (far / "plate_A01_s1_w1.TIF").write_bytes(simple_tiff(noisy_picture((32, 48), seed=9)))
        live = read_tree(mount.path)
        mount.umount()
    keep(mounted, empty_source, vfsd, live, mount.store, alone=True)


def test_deep_directories(empty_source: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    depth = 120
    with mounted(empty_source) as mount:
        folder = mount.path
        for level in range(depth):
            folder = folder / f"level {level:03} of many"
            folder.mkdir()
        (folder / "bottom.tif").write_bytes(simple_tiff(noisy_picture((32, 48), seed=1)))
        live = read_tree(mount.path)
        assert len(live) == depth + 1
        mount.umount()
    keep(mounted, empty_source, vfsd, live, mount.store, alone=True)


def test_files_of_every_awkward_size(empty_source: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    sizes = [0, 1, 15, 16, 4095, 4096, 4097, 65_535, 65_536, 131_073, MIB - 1, MIB, MIB + 1, 5 * MIB + 3]
    with mounted(empty_source) as mount:
        for size in sizes:
            (mount.path / f"{size}.bin").write_bytes(some_bytes(size, size))
            width = max(1, size // 64 % 700)
            picture = noisy_picture((max(1, size // 2 // width), width), seed=size)
            (mount.path / f"{size}.tif").write_bytes(simple_tiff(picture))
        live = read_tree(mount.path)
        mount.umount()
    keep(mounted, empty_source, vfsd, live, mount.store, alone=True)


def test_more_than_the_ram_goes_to_the_cache(empty_source: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    budget = 8 * MIB
    with mounted(empty_source, "--ram", "8MiB") as mount:
        for number in range(10):
            (mount.path / f"{number}.bin").write_bytes(some_bytes(4 * MIB, number))
            tiers = mount.status()["tiers"]
            assert tiers["ram"]["bytes"] <= tiers["ram"]["budget"] == budget
        tiers = mount.status()["tiers"]
        assert tiers["cache"]["bytes"] >= 40 * MIB - budget
        live = read_tree(mount.path)
        for number in range(10):
            assert (mount.path / f"{number}.bin").read_bytes() == some_bytes(4 * MIB, number)
        mount.umount()
    keep(mounted, empty_source, vfsd, live, mount.store, alone=True)


def test_one_file_larger_than_the_ram(empty_source: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    data = some_bytes(20 * MIB, 3)
    with mounted(empty_source, "--ram", "8MiB") as mount:
        with (mount.path / "large.bin").open("wb") as file:
            for start in range(0, len(data), MIB):
                file.write(data[start : start + MIB])
        assert (mount.path / "large.bin").read_bytes() == data
        tiers = mount.status()["tiers"]
        assert tiers["ram"]["bytes"] <= tiers["ram"]["budget"]
        live = read_tree(mount.path)
        mount.umount()
    keep(mounted, empty_source, vfsd, live, mount.store, alone=True)


def test_reading_a_store_keeps_to_the_ram_budget(tmp_path: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    source, store = tmp_path / "plate", tmp_path / "kept.vfs"
    source.mkdir()
    for number in range(20):
        write_tiff(source / f"{number:02}.tif", noisy_picture((1024, 1024), seed=number))
    before = read_tree(source)
    vfsd.expect(DONE, "convert", source, store)
    with mounted(store, "--ram", "8MiB") as mount:
        for _ in range(2):
            assert_same_tree(read_tree(mount.path), before, "the mounted store")
            tiers = mount.status()["tiers"]
            assert tiers["ram"]["bytes"] <= tiers["ram"]["budget"] == 8 * MIB


def write_pieces(path: Path, count: int) -> None:
    """So many MiB, unbuffered, as a program that saves a large picture does."""
    with path.open("wb", buffering=0) as file:
        for number in range(count):
            data = some_bytes(MIB, number)
            while data:
                data = data[file.write(data) :]


@pytest.mark.root
def test_writer_is_told_when_ram_and_the_caches_disk_are_full(
    empty_source: Path, mounted: Mounted, vfsd: Vfsd, tmp_path: Path
) -> None:
    kept = some_bytes(MIB, 1)
    cache = tmp_path / "disk"
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "none", cache], check=True)
    try:
        with mounted(empty_source, "--ram", "4MiB", "--cache", cache, "--cache-size", "4MiB") as mount:
            (mount.path / "kept.bin").write_bytes(kept)
            # Larger than RAM and disk, and open: no flush could make room for it.
            with pytest.raises(OSError, match="No space left") as refusal:
                write_pieces(mount.path / "much.bin", 40)
            assert refusal.value.errno == errno.ENOSPC
            assert (mount.path / "kept.bin").read_bytes() == kept
            (mount.path / "much.bin").unlink()
            (mount.path / "small.bin").write_bytes(kept[:1000])
            live = read_tree(mount.path)
            assert set(live) == {b"kept.bin", b"small.bin"}
            mount.umount()
        keep(mounted, empty_source, vfsd, live, mount.store, alone=True)
    finally:
        subprocess.run(["umount", "-l", cache], check=False)
