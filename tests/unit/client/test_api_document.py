"""docs/api.md: every example in it runs, in its order; and so do the lines that users of such an API write."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import vfsd
from vfsd.plates.demo import write_demo_plate

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/api.md"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a plate in it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    write_demo_plate(tmp_path / "plate1", wells=["B02", "B03"], fields=2, channels=2, z=1, size=64)
    return tmp_path


def test_every_example_runs(folder: Path) -> None:
    examples = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(examples) >= 6
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, str(DOCUMENT), "exec"), names)
    assert (folder / "plate1.vfs/vfs.json").exists()


def test_the_lines_that_users_expect_to_work(folder: Path) -> None:
    """Location transparency, automatic type conversion, failing loudly, the registry."""
    import zarr

    data = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    with vfsd.FileManager.open("plate1") as filemanager:
        filemanager.ensure_directory("processed")
        filemanager.save(data, "processed/image.tif", "memory")
        filemanager.save(data, "processed/image.tif", "disk")
        filemanager.save(data, "processed/image.tif", "zarr")
        loaded = filemanager.load("processed/image.tif", "memory")
        assert isinstance(loaded, np.ndarray)
        assert np.array_equal(loaded, data)
        loaded = filemanager.load("processed/image.tif", "zarr")
        assert isinstance(loaded, zarr.Array)
        assert np.array_equal(loaded[...], data)

        filemanager.ensure_directory("/pipeline/step1/output")
        filemanager.save(data, "/pipeline/step1/output/processed_images", "memory")
        assert filemanager.exists("/pipeline/step1/output/processed_images")

        filemanager.save(data, "data.npy", "disk")
        filemanager.save(data, "data", "memory")
        filemanager.save(data, "image.tif", "disk")
        filemanager.save(data, "image", "zarr")
        assert isinstance(filemanager.load("image", "zarr"), zarr.Array)
        for name in ("data.npy", "data", "image.tif", "image"):
            assert np.array_equal(filemanager.load(name, as_="numpy"), data)

        with pytest.raises(FileNotFoundError):
            filemanager.save(data, "nowhere/image.tif", "memory")
        with pytest.raises(FileExistsError):
            filemanager.save(data + 1, "data", "memory")
        with pytest.raises(vfsd.StorageResolutionError):
            filemanager.registry.get_backend("unknown")

        # combine an original with the result so far, and keep the sum compressed
        original = filemanager.load("TimePoint_1/demo_B02_s1_w1.TIF", "disk")
        current = filemanager.load("data", "memory")
        filemanager.save(original + current, "combined.tif", "zarr")
        assert filemanager.tier("combined.tif") == "store"
