"""What a program will open next is there before it asks, in whatever order it walks over a plate; and `vfsd warm` by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from blackbox.daemons import DONE, USAGE, Mount, Mounted, Vfsd, wait_until

pytestmark = pytest.mark.fuse

# Just large enough to be made by a thread: see tree/hydration.py.
SIDE = 600
ROWS_AND_FIELDS = re.compile(r"_([A-Z])(\d+)_s(\d+)_w(\d+)\.TIF$")


@pytest.fixture
def stored(tmp_path: Path, vfsd: Vfsd) -> tuple[Path, Path]:
    """A plate of 6 wells with 2 fields of 2 channels, and its store."""
    plate, store = tmp_path / "plate", tmp_path / "plate.vfs"
    shape = ("--wells", "6", "--fields", "2", "--channels", "2", "--z", "1", f"--size={SIDE}")
    vfsd.expect(DONE, "demo-plate", plate, *shape)
    vfsd.expect(DONE, "convert", plate, store, "--levels", "0")
    return plate, store


def places(plate: Path) -> list[tuple[Path, tuple[str, int, int, int]]]:
    """The images, and their row, column, field and channel."""
    found = []
    for path in sorted(plate.rglob("*.TIF")):
        match = ROWS_AND_FIELDS.search(path.name)
        assert match is not None
        found.append((path.relative_to(plate), (match[1], int(match[2]), int(match[3]), int(match[4]))))
    return found


def figures(mount: Mount) -> dict[str, int]:
    return dict(mount.status()["prefetch"])


def walk(mount: Mount, plate: Path, paths: list[Path]) -> None:
    """Read file after file as a program does that computes now and then: what is expected is given time to be made."""

    def is_ahead() -> bool:
        told = figures(mount)  # a machine that is short of memory may have dropped what was ready
        return told["expected_files"] > 0 or told["waste"] > 0

    for count, path in enumerate(paths):
        assert (mount.path / path).read_bytes() == (plate / path).read_bytes()
        if count % 3 == 2 and count < len(paths) - 3:
            wait_until(is_ahead, "a file to be made ready")


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0)], ids=["along rows", "by channels along columns"])
def test_a_walk_over_a_plate_finds_its_files_ready(
    stored: tuple[Path, Path], mounted: Mounted, order: tuple[int, ...]
) -> None:
    plate, store = stored
    found = sorted(places(plate), key=lambda image: [image[1][axis] for axis in order])
    with mounted(store, "--read-only") as mount:
        walk(mount, plate, [path for path, _ in found])
        told = figures(mount)
        assert told["hits"] + told["waste"] > 0.3 * len(found), told
        assert told["hits"] > 0, told


def test_nothing_is_made_ready_where_that_is_switched_off(stored: tuple[Path, Path], mounted: Mounted) -> None:
    plate, store = stored
    with mounted(store, "--read-only", "--no-prefetch") as mount:
        for path, _ in places(plate)[:10]:
            assert (mount.path / path).read_bytes() == (plate / path).read_bytes()
        assert figures(mount)["made_files"] == 0
        assert mount.status()["tiers"]["ram"]["files"] == 10


def test_warm_makes_files_ready(stored: tuple[Path, Path], mounted: Mounted, vfsd: Vfsd) -> None:
    plate, store = stored
    images = [path for path, _ in places(plate)]
    with mounted(store, "--read-only", "--no-prefetch") as mount:
        told = vfsd.expect(DONE, "warm", mount.path / images[0], "--json").json()["warm"]
        assert (told["files"], told["ready_files"], told["left_files"]) == (1, 1, 0)
        assert mount.status()["tiers"]["ram"]["files"] == 1
        told = vfsd.expect(DONE, "warm", mount.path, "--json").json()["warm"]
        assert told["ready_files"] == told["files"] >= len(images)
        assert mount.status()["tiers"]["ram"]["files"] == told["files"]
        assert "ready" in vfsd.expect(DONE, "warm", mount.path).out
        assert vfsd("warm", mount.path / "no such file").code != DONE
        assert vfsd("warm", plate / images[0]).code == USAGE
        for path in images:
            assert (mount.path / path).read_bytes() == (plate / path).read_bytes()
        assert figures(mount)["hits"] == len(images)


def test_warm_takes_no_room_that_is_needed(stored: tuple[Path, Path], mounted: Mounted, vfsd: Vfsd) -> None:
    """RAM for a third of the plate: what a program has open and what it wrote stays, the rest is left."""
    plate, store = stored
    images = [path for path, _ in places(plate)]
    with mounted(plate, "--store", store, "--ram", "9M", "--no-prefetch") as mount:
        (mount.path / "mine.dat").write_bytes(bytes(5 << 20))
        told = json.loads(vfsd.expect(DONE, "warm", mount.path, "--json").out)["warm"]
        tiers = mount.status()["tiers"]
        assert told["files"] > len(images)
        assert tiers["ram"]["bytes"] <= 9 << 20
        assert (mount.path / "mine.dat").read_bytes() == bytes(5 << 20)
        (mount.path / "mine.dat").unlink()


def test_of_small_images_the_shards_are_read_ahead(tmp_path: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    plate, store = tmp_path / "plate", tmp_path / "plate.vfs"
    shape = ("--wells", "6", "--fields", "2", "--channels", "2", "--z", "1", "--size=128")
    vfsd.expect(DONE, "demo-plate", plate, *shape)
    vfsd.expect(DONE, "convert", plate, store, "--levels", "0")
    with mounted(store, "--read-only") as mount:
        for path, _ in sorted(places(plate), key=lambda image: image[1]):
            assert (mount.path / path).read_bytes() == (plate / path).read_bytes()
        wait_until(lambda: figures(mount)["shards"] >= 4, "shards to be asked for")
        assert figures(mount)["made_files"] == 0
