"""Backends: the tiers' names, those of others, and pickles, which are nobody's default."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from fractions import Fraction
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vfsd
from vfsd.client import registry as registry_module
from vfsd.errors import DamagedFile, StorageResolutionError, UsageProblem


class Dictionary(vfsd.StorageBackend):
    """A backend as somebody else would write it."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def save(self, data: Any, path: str, *, overwrite: bool = False, **options: Any) -> None:
        if path in self.kept and not overwrite:
            raise FileExistsError(path)
        self.kept[path] = data

    def load(self, path: str, **options: Any) -> Any:
        if path not in self.kept:
            raise FileNotFoundError(path)
        return self.kept[path]

    def exists(self, path: str) -> bool:
        return path in self.kept

    def delete(self, path: str) -> None:
        del self.kept[path]

    def list_files(self, directory: str) -> list[str]:
        return [path for path in self.kept if path.startswith(directory)]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[vfsd.FileManager]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "plate").mkdir()
    with vfsd.FileManager.open(tmp_path / "plate") as opened:
        yield opened


def test_an_unknown_backend_lists_the_known(manager: vfsd.FileManager) -> None:
    for act in (
        lambda: manager.save("x", "a.txt", "tape"),
        lambda: manager.load("a.txt", "tape"),
        lambda: manager.registry.get_backend("tape"),
    ):
        with pytest.raises(StorageResolutionError, match=r"'tape'.*auto, disk, memory, zarr"):
            act()
    with pytest.raises(StorageResolutionError, match="tier of a tree"):
        vfsd.StorageRegistry().get_backend("memory")


def test_the_built_in_backends_are_the_tiers(manager: vfsd.FileManager) -> None:
    pixels = np.arange(12).reshape(3, 4)
    for name, tier in (("memory", "ram"), ("disk", "cache"), ("zarr", "store")):
        backend = manager.registry.get_backend(name)
        assert backend is manager.registry.get_backend(name)
        backend.save(pixels, f"{name}.npy")
        assert manager.tier(f"{name}.npy") == tier
        assert backend.exists(f"{name}.npy")
        assert f"{name}.npy" in backend.list_files("")
        assert np.array_equal(backend.load(f"{name}.npy")[...], pixels)
        backend.delete(f"{name}.npy")
        assert not manager.exists(f"{name}.npy")


def test_a_backend_of_somebody_elses(manager: vfsd.FileManager) -> None:
    manager.registry.register_backend("dictionary", Dictionary)
    pixels = np.arange(12)
    manager.save(pixels, "a/b.npy", "dictionary")
    with pytest.raises(FileExistsError):
        manager.save(pixels, "a/b.npy", "dictionary")
    assert np.array_equal(manager.load("a/b.npy", "dictionary"), pixels)
    manager.save_batch({"a/c.npy": pixels, "a/d.txt": "d"}, backend="dictionary")
    assert manager.load_batch(["a/d.txt"], "dictionary") == ["d"]
    assert manager.list_files("a", "dictionary", extensions="npy") == ["a/b.npy", "a/c.npy"]
    assert not manager.exists("a/b.npy")
    assert manager.exists("a/b.npy", "dictionary")
    manager.delete("a/b.npy", "dictionary")
    assert not manager.exists("a/b.npy", "dictionary")
    with pytest.raises(UsageProblem):
        manager.registry.register_backend("auto", Dictionary)
    with pytest.raises(UsageProblem):
        manager.registry.register_backend("none", dict)  # type: ignore[arg-type]  # what is to be refused


def test_backends_of_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("offered", f"{__name__}:Dictionary", "vfsd.backends"),
        EntryPoint("broken", "no_such_module:Backend", "vfsd.backends"),
        EntryPoint("wrong", "os:getcwd", "vfsd.backends"),
    ]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: points if group == "vfsd.backends" else [])
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("sys").modules[__name__])
    registry = vfsd.StorageRegistry()
    assert {"offered", "broken", "wrong"} < set(registry.names())
    backend = registry.get_backend("offered")
    backend.save(1, "x")
    assert registry.get_backend("offered").load("x") == 1
    with pytest.raises(StorageResolutionError, match="no_such_module"):
        registry.get_backend("broken")
    with pytest.raises(UsageProblem, match="StorageBackend"):
        registry.get_backend("wrong")


class Trap:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.trace,)


def test_pickles_are_asked_for_on_both_sides(manager: vfsd.FileManager, tmp_path: Path) -> None:
    with pytest.raises(vfsd.UnfitData):
        manager.save(complex(1, 2), "number")
    assert not manager.exists("number")
    manager.save(complex(1, 2), "number", allow_pickle=True)
    manager.save({Fraction(1, 2)}, "set.pkl", allow_pickle=True)
    for name in ("number", "set.pkl"):
        with pytest.raises(UsageProblem, match="allow_pickle"):
            manager.load(name)
    assert manager.load("number", allow_pickle=True) == complex(1, 2)
    assert manager.load("set.pkl", allow_pickle=True) == {Fraction(1, 2)}
    # of unknown origin: never, whatever they are called
    trap = pickle.dumps(Trap(str(tmp_path / "sprung")))
    plate = tmp_path / "plate"
    (plate / "trap.pkl").write_bytes(trap)
    (plate / "trap").write_bytes(trap)
    (plate / "trap.npy").write_bytes(trap)
    manager.list_dir()  # looks at the source again, which else may take a second
    with pytest.raises(UsageProblem, match="never unpickled"):
        manager.load("trap.pkl", allow_pickle=True)
    assert manager.load("trap", allow_pickle=True) == trap
    with pytest.raises(DamagedFile, match=r"trap\.npy"):
        manager.load("trap.npy", allow_pickle=True)
    assert not (tmp_path / "sprung").exists()


def test_errors_leave_nothing_and_name_the_file(manager: vfsd.FileManager) -> None:
    before = manager.list_dir()
    for data, name in ((np.array([None]), "x.npy"), ("text", "x.tif"), (np.zeros(()), "x.tif")):
        with pytest.raises(vfsd.UnfitData, match=name):
            manager.save(data, name)
    assert manager.list_dir() == before
    manager.save(b"no array", "file.bin")
    manager.move("file.bin", "file.npy")
    with pytest.raises(DamagedFile, match=r"file\.npy"):
        manager.load("file.npy")
    assert manager.load("file.npy", as_="bytes") == b"no array"
    with pytest.raises(FileNotFoundError, match="nothing"):
        manager.load("nothing")
    with pytest.raises(IsADirectoryError):
        manager.load("")
    with pytest.raises(UsageProblem, match="twice"):
        manager.save_batch(["a", "b"], ["one.txt", "./one.txt"])
    with pytest.raises(UsageProblem, match="option"):
        manager.save("a", "one.txt", compression="zlib")
    assert not manager.exists("one.txt")
