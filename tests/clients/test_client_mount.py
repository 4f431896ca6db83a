"""`vfsd.FileManager` on a mount: what a script saves is there for every program, and what it loads is the mount's own memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from blackbox.daemons import Mounted, Plate
from blackbox.trees import part_of, read_tree

import vfsd
from vfsd.client.paths import TEMPORARY_PREFIX

pytestmark = pytest.mark.fuse


def is_view(array: np.ndarray) -> bool:
    return not array.flags.owndata and not array.flags.writeable


def no_leftovers(folder: Path) -> bool:
    return not [name for name in os.listdir(os.fsencode(folder)) if name.startswith(TEMPORARY_PREFIX)]


def test_a_script_on_a_mount(plate: Plate, mounted: Mounted) -> None:
    import zarr

    source = plate("demo")
    image = next(path for path in sorted(source.rglob("*")) if path.suffix.lower() == ".tif")
    with mounted(source) as mount:
        manager = vfsd.FileManager(mount.path)
        pixels = np.arange(64 * 80, dtype=np.uint16).reshape(64, 80)

        # the plate itself, by its own names and by absolute ones
        name = str(image.relative_to(source))
        assert np.array_equal(manager.load(name), tifffile.imread(image))
        assert np.array_equal(manager.load(mount.path / name, copy=True), tifffile.imread(image))
        assert manager.tier(name) == "source"
        assert name in manager.list_files(extensions=".tif", recursive=True)

        # nothing is there, nothing is made
        with pytest.raises(FileNotFoundError, match="masks"):
            manager.save(pixels, "masks/one.npy")
        assert manager.ensure_directory("masks/deep") == "masks/deep"
        assert manager.ensure_directory("masks/deep") == "masks/deep"

        # every file type is the one that other programs read
        manager.save(pixels, "masks/one.npy")
        assert np.array_equal(np.load(mount.path / "masks/one.npy"), pixels)
        manager.save(pixels, "masks/two.tif", "memory")
        assert np.array_equal(tifffile.imread(mount.path / "masks/two.tif"), pixels)
        manager.save({"a": [1, None]}, "masks/facts.json")
        assert json.loads((mount.path / "masks/facts.json").read_text()) == {"a": [1, None]}
        manager.save("é\r\n", "masks/note.txt", "disk")
        assert (mount.path / "masks/note.txt").read_bytes() == "é\r\n".encode()
        manager.save(pixels, "masks/plain")
        assert np.array_equal(manager.load("masks/plain"), pixels)
        assert manager.load("masks/note.txt") == "é\r\n"
        assert manager.tier("masks/note.txt") == "cache"

        # views, and copies of them
        for view in (manager.load("masks/one.npy"), manager.load("masks/two.tif", "memory")):
            assert is_view(view)
            assert np.array_equal(view, pixels)
        private = manager.load("masks/one.npy", copy=True)
        private[0, 0] = 7
        assert manager.load("masks/one.npy")[0, 0] == 0

        # a view outlives its file's name, and a replacement
        view = manager.load("masks/one.npy")
        with pytest.raises(FileExistsError, match=r"masks/one\.npy"):
            manager.save(pixels + 1, "masks/one.npy")
        with pytest.raises(FileExistsError):
            manager.save(pixels, "masks/one.npy")
        manager.save(pixels + 1, "masks/one.npy", overwrite=True)
        assert np.array_equal(view, pixels)
        assert np.array_equal(manager.load("masks/one.npy"), pixels + 1)

        # the same bytes for another backend move; others do not
        manager.save(pixels, "masks/two.tif", "disk")
        assert manager.tier("masks/two.tif") == "cache"
        with pytest.raises(FileExistsError):
            manager.save(pixels + 1, "masks/two.tif", "zarr")
        manager.save(pixels, "masks/two.tif", "zarr")
        assert manager.tier("masks/two.tif") == "store"
        lazy = manager.load("masks/two.tif", "zarr")
        assert isinstance(lazy, zarr.Array)
        assert np.array_equal(lazy[...], pixels)
        assert np.array_equal(manager.load("masks/two.tif", "memory"), pixels)
        assert manager.tier("masks/two.tif") == "ram"

        # a stack is the store's own array, lazily
        stack = np.random.default_rng(0).integers(0, 4000, (16, 256, 256), dtype=np.uint16)
        manager.save(stack, "masks/stack.tif", "zarr", metadata={"axes": "ZYX"})
        lazy = manager.load("masks/stack.tif", "zarr")
        assert isinstance(lazy, zarr.Array)
        assert np.array_equal(lazy[3], stack[3])
        assert np.array_equal(manager.load("masks/stack.tif", as_="numpy"), stack)

        # batches: one flush for all that go into the store
        many = {f"masks/deep/b{number}.tif": pixels + number for number in range(20)}
        manager.save_batch(many, backend="zarr")
        assert {manager.tier(name) for name in many} == {"store"}
        loaded = manager.load_batch(list(many))
        assert all(np.array_equal(one, other) for one, other in zip(loaded, many.values(), strict=True))
        assert manager.list_files("masks/deep", pattern="b1*")[:3] == [f"masks/deep/b{n}.tif" for n in (1, 10, 11)]
        with pytest.raises(FileExistsError) as failed:
            manager.save_batch({"masks/deep/new.npy": pixels, "masks/deep/b1.tif": pixels})
        assert failed.value.__notes__ == ["1 of the 2 of the batch were saved"]

        # another process sees what is in memory at once, and leaves something there
        other = (
            "import sys, vfsd; m = vfsd.FileManager(sys.argv[1]); m.save(m.load('masks/plain') + 1, 'masks/more.npy')"
        )
        done = subprocess.run([sys.executable, "-c", other, mount.path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert np.array_equal(manager.load("masks/more.npy"), pixels + 1)
        assert manager.tier("masks/more.npy") == "ram"
        # what it cannot save leaves nothing
        with pytest.raises(vfsd.UnfitData, match=r"masks/none\.npy"):
            manager.save(np.array([None]), "masks/none.npy")
        assert not manager.exists("masks/none.npy")

        # names
        manager.copy("masks/note.txt", "masks/copy.txt")
        manager.move("masks/copy.txt", "masks/moved.txt")
        assert not manager.exists("masks/copy.txt")
        with pytest.raises(FileExistsError):
            manager.move("masks/moved.txt", "masks/note.txt")
        with pytest.raises(FileNotFoundError, match="folder"):
            manager.move("masks/moved.txt", "nowhere/moved.txt")
        manager.create_symlink("masks/note.txt", "masks/deep/link.txt")
        assert manager.load("masks/deep/link.txt") == "é\r\n"
        manager.create_symlink("masks/moved.txt", "masks/deep/link.txt", overwrite=True)
        manager.delete("masks/note.txt")
        assert manager.load("masks/deep/link.txt") == "é\r\n"
        with pytest.raises(FileNotFoundError):
            manager.delete("masks/note.txt")
        assert manager.stat("masks/moved.txt").st_size == 4
        assert no_leftovers(mount.path / "masks")
        before = part_of(read_tree(mount.path), b"masks")
        del view, lazy, loaded  # what is mapped keeps the mount busy
        mount.umount()
    with mounted(mount.store) as alone:
        assert part_of(read_tree(alone.path), b"masks") == before


def test_a_folder_that_is_no_mount_is_refused(tmp_path: Path) -> None:
    with pytest.raises(vfsd.VfsdError, match="no vfsd mount"):
        vfsd.FileManager(tmp_path)


def test_the_daemon_dies_in_the_middle_of_a_batch(plate: Plate, mounted: Mounted) -> None:
    source = plate("demo")
    with mounted(source) as mount:
        manager = vfsd.FileManager(mount.path)
        saved = {f"{number}.npy": np.full(1000, number) for number in range(8)}
        manager.save_batch(saved)
        os.kill(mount.pid, signal.SIGKILL)
        mount.wait_for_daemon()
        with pytest.raises(OSError, match=r"more0\.npy"):
            manager.save_batch({f"more{number}.npy": np.zeros(10) for number in range(4)})
    with mounted(source) as again:
        manager = vfsd.FileManager(again.path)
        assert all(np.array_equal(manager.load(name), array) for name, array in saved.items())
        assert no_leftovers(again.path)
        assert not manager.list_files(pattern="more*")
