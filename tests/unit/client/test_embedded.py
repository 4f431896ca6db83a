"""`FileManager.open`: a tree in this process, its tiers, its threads, and what is left when it ends badly."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zarr

import vfsd
from vfsd.daemon.recovery import find_leftovers, flush_leftover
from vfsd.daemon.reporter import TerminalReporter
from vfsd.errors import BusyError, UnfitError
from vfsd.store import Store

PIXELS = np.arange(60 * 50, dtype=np.uint16).reshape(60, 50)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small plate; state lies in the test's own folder, root's where root's always lies."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "plate"
    (folder / "well").mkdir(parents=True)
    np.save(folder / "well/given.npy", PIXELS)
    (folder / "notes.log").write_bytes(b"caf\xe9")
    yield folder
    for left in find_leftovers():
        if left.record is not None and Path(left.record.store).is_relative_to(tmp_path):
            subprocess.run(["rm", "-rf", left.state_directory, left.ram_directory.parent], check=True)


def test_a_script_without_a_mount(source: Path, tmp_path: Path) -> None:
    with vfsd.FileManager.open(source) as manager:
        assert np.array_equal(manager.load("well/given.npy"), PIXELS)
        assert np.array_equal(manager.load(source / "well/given.npy"), PIXELS)
        assert manager.tier("well/given.npy") == "source"
        assert manager.load("notes.log") == b"caf\xe9"
        with pytest.raises(FileNotFoundError, match="folder"):
            manager.save(PIXELS, "new/a.npy")
        manager.ensure_directory("new/deep")
        manager.save(PIXELS, "new/a.npy", "memory")
        assert manager.tier("new/a.npy") == "ram"
        view = manager.load("new/a.npy")
        assert not view.flags.writeable
        assert not view.flags.owndata
        with pytest.raises(FileExistsError, match=r"new/a\.npy"):
            manager.save(PIXELS, "new/a.npy")
        with pytest.raises(FileExistsError):
            manager.save(PIXELS + 1, "new/a.npy", "zarr")
        manager.save(PIXELS + 1, "new/a.npy", overwrite=True)
        assert np.array_equal(view, PIXELS)
        assert np.array_equal(manager.load("new/a.npy"), PIXELS + 1)
        manager.save(PIXELS, "new/b.npy", "disk")
        assert manager.tier("new/b.npy") == "cache"
        manager.save(PIXELS, "new/b.npy", "zarr")
        assert manager.tier("new/b.npy") == "store"
        lazy = manager.load("new/b.npy", "zarr")
        assert isinstance(lazy, zarr.Array)
        assert np.array_equal(lazy[...], PIXELS)
        assert np.array_equal(manager.load("new/b.npy", "memory"), PIXELS)
        assert manager.tier("new/b.npy") == "ram"
        stack = np.random.default_rng(0).integers(0, 4000, (16, 256, 256), dtype=np.uint16)
        manager.save(stack, "new/stack.tif", "zarr")
        lazy = manager.load("new/stack.tif", "zarr")
        assert isinstance(lazy, zarr.Array)
        assert np.array_equal(lazy[2], stack[2])
        manager.save("text", "new/plain")
        assert manager.load("new/plain") == "text"
        manager.copy("new/plain", "new/second")
        assert manager.load("new/second") == "text"
        manager.move("new/second", "well/second")
        manager.create_symlink("well/second", "new/deep/link")
        assert manager.load("new/deep/link") == "text"
        manager.create_symlink("new", "new/deep/up")
        assert manager.load("new/deep/up/plain") == "text"
        assert manager.list_files(recursive=True, pattern="p*") == ["new/plain"]
        assert manager.list_files("new/deep") == ["new/deep/link"]
        assert manager.list_dir("new") == ["a.npy", "b.npy", "deep", "plain", "stack.tif"]
        manager.delete("well/given.npy")
        assert not manager.exists("well/given.npy")
        with pytest.raises(OSError, match="new"):
            manager.delete("new")
        found = manager.stat("new/a.npy")
        assert (found.st_size, found.st_nlink) == (128 + PIXELS.nbytes, 1)
        assert found.st_mtime_ns > 10**18
    assert np.array_equal(view, PIXELS)  # still mapped, though the tier is gone
    with pytest.raises(UnfitError, match="closed"):
        manager.load("new/a.npy")
    assert (source / "well/given.npy").exists()
    assert not find_left(source)
    # everything is in the store, and a store alone is a tree as well
    with vfsd.FileManager.open(source.with_name("plate.vfs")) as alone:
        assert np.array_equal(alone.load("new/a.npy"), PIXELS + 1)
        assert alone.load("new/plain") == "text"
        assert np.array_equal(alone.load("new/stack.tif", as_="numpy"), stack)


def find_left(source: Path) -> list[Path]:
    found = [left for left in find_leftovers() if left.record is not None]
    return [left.state_directory for left in found if left.record.source == str(source)]


def test_many_threads_share_one_tree(source: Path) -> None:
    with vfsd.FileManager.open(source) as manager:
        problems: list[BaseException] = []

        def work(number: int) -> None:
            try:
                manager.ensure_directory(f"w/{number % 3}")
                for turn in range(10):
                    name = f"w/{number % 3}/{number}_{turn}.npy"
                    manager.save(PIXELS + number + turn, name)
                    assert np.array_equal(manager.load(name), PIXELS + number + turn)
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not problems
        names = manager.list_files("w", recursive=True)
        assert len(names) == 60
        # of many that want one name one gets it
        winners: list[int] = []

        def race(number: int) -> None:
            try:
                manager.save(PIXELS + number, "w/one.npy")
                winners.append(number)
            except FileExistsError:
                return

        threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(winners) == 1
        assert np.array_equal(manager.load("w/one.npy"), PIXELS + winners[0])
        assert not [name for name in manager._files.entries(b"w") if name.name.startswith(b".")]
        batch = {f"w/batch{number}.tif": PIXELS + number for number in range(12)}
        manager.save_batch(batch, backend="zarr")
        assert {manager.tier(name) for name in batch} == {"store"}
        for one, other in zip(manager.load_batch(list(batch)), batch.values(), strict=True):
            assert np.array_equal(one, other)


def test_what_does_not_fit_into_ram_goes_to_the_disk_and_views_stay(source: Path) -> None:
    with vfsd.FileManager.open(source, ram=1 << 20) as manager:
        arrays = [np.full(100_000, number, np.uint16) for number in range(20)]
        views = []
        for number, array in enumerate(arrays):
            manager.save(array, f"{number}.npy", "memory")
            views.append(manager.load(f"{number}.npy"))
        assert {manager.tier(f"{number}.npy") for number in range(20)} == {"ram", "cache"}
        assert all(np.array_equal(view, array) for view, array in zip(views, arrays, strict=True))
        manager.flush()
        assert all(np.array_equal(view, array) for view, array in zip(views, arrays, strict=True))
        for number, array in enumerate(arrays):
            assert np.array_equal(manager.load(f"{number}.npy"), array)


SCRIPT = """
import os, sys
import numpy as np, vfsd
manager = vfsd.FileManager.open(sys.argv[1])
manager.save(np.arange(3000, dtype=np.uint16), "saved.npy")
manager.save("on disk", "text.txt", "disk")
os._exit(9)
"""


def killed_script(source: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, source], check=False, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr


def test_a_killed_script_loses_nothing(source: Path) -> None:
    killed_script(source)
    assert find_left(source)
    with vfsd.FileManager.open(source) as manager:
        assert np.array_equal(manager.load("saved.npy"), np.arange(3000))
        assert manager.load("text.txt") == "on disk"
    assert not find_left(source)


def test_a_script_that_forgets_to_close_is_told(source: Path) -> None:
    script = SCRIPT.replace("os._exit(9)", "sys.exit(9)")
    done = subprocess.run([sys.executable, "-c", script, source], check=False, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    assert "not closed" in done.stderr
    with vfsd.FileManager.open(source) as manager:
        assert np.array_equal(manager.load("saved.npy"), np.arange(3000))


HALF = """
import os, sys
import vfsd

class Parts(list):
    def __iter__(self):
        yield b"half of it"
        os._exit(9)

manager = vfsd.FileManager.open(sys.argv[1])
manager.save("whole", "whole.txt")
manager._files.write(b"half.txt", Parts(), overwrite=False, mark=None)
"""


def test_half_of_a_file_is_seen_by_nobody(source: Path) -> None:
    done = subprocess.run([sys.executable, "-c", HALF, source], check=False, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    with vfsd.FileManager.open(source) as manager:
        names = sorted(entry.name for entry in manager._files.entries(b""))
        assert names == [b"notes.log", b"well", b"whole.txt"]


def test_vfsd_recover_finds_what_a_killed_script_left(source: Path) -> None:
    killed_script(source)
    (left,) = [one for one in find_leftovers() if one.record is not None and one.record.source == str(source)]
    outcome = flush_leftover(left, TerminalReporter(), lambda progress: None)
    assert outcome.exit_code == 0, outcome
    store = Store.open(source.with_name("plate.vfs"), writable=False)
    try:
        assert store.catalogue.entry(1, b"saved.npy")
    finally:
        store.close()
    assert not find_left(source)


def test_a_flush_that_fails_at_the_end_keeps_everything(source: Path) -> None:
    store, away = source.with_name("plate.vfs"), source.with_name("away")
    manager = vfsd.FileManager.open(source)
    manager.save(PIXELS, "kept.npy")
    (store / "images").rename(away)
    (store / "images").write_text("in the way")
    files, store_files = store / "files", source.with_name("away_files")
    if files.exists():
        files.rename(store_files)
    files.write_text("in the way")
    with pytest.raises((OSError, vfsd.VfsdError)):
        manager.close()
    manager.close()  # it is closed
    for blocked, kept in ((store / "images", away), (files, store_files)):
        blocked.unlink()
        if kept.exists():
            kept.rename(blocked)
    assert find_left(source)
    with vfsd.FileManager.open(source) as again:
        assert np.array_equal(again.load("kept.npy"), PIXELS)
    assert not find_left(source)


def test_one_tree_at_a_time(source: Path) -> None:
    with vfsd.FileManager.open(source), pytest.raises(BusyError):
        vfsd.FileManager.open(source)


def test_a_forked_process_is_told(source: Path) -> None:
    with vfsd.FileManager.open(source) as manager:
        child = os.fork()
        if child == 0:
            try:
                manager.load("notes.log")
            except UnfitError:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def places(tmp_path: Path) -> dict[str, Callable[[], object]]:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/other").write_text("x")
    plate = tmp_path / "plate"
    return {
        "does not exist": lambda: vfsd.FileManager.open(tmp_path / "nowhere"),
        "is no folder": lambda: vfsd.FileManager.open(tmp_path / "file"),
        "lies inside": lambda: vfsd.FileManager.open(plate, plate / "store.vfs"),
        "is not empty": lambda: vfsd.FileManager.open(plate, tmp_path / "full"),
    }


def test_unfit_places_are_refused(source: Path, tmp_path: Path) -> None:
    for reason, act in places(tmp_path).items():
        with pytest.raises(UnfitError, match=reason):
            act()


def test_paths_cannot_leave_the_tree(source: Path) -> None:
    os.symlink("/etc/passwd", source / "out")
    os.symlink("../../etc/passwd", source / "up")
    os.symlink("loop", source / "loop")
    with vfsd.FileManager.open(source) as manager:
        for name in ("out", "up", "loop"):
            with pytest.raises(OSError, match=name):
                manager.load(name)
        for name in ("../x", "a/../../x", "a\0b"):
            with pytest.raises(vfsd.VfsdError):
                manager.load(name)
        with pytest.raises(FileNotFoundError):
            manager.load("/etc/passwd")
