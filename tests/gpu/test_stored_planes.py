"""Image files by their names, from a mounted tree and from a store that nobody mounted."""

from __future__ import annotations

import ctypes
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile
from blackbox.daemons import DONE, Mounted, Plate, Vfsd
from cpu_device import CpuDevice

import vfsd as package
from vfsd.gpu import CpuPathWarning, loading

pytestmark = pytest.mark.fuse


def test_planes_come_by_file_name_in_the_given_order(
    kernels: ctypes.CDLL, plate: Plate, vfsd: Vfsd, mounted: Mounted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = CpuDevice(kernels, 2)
    monkeypatch.setattr(loading, "_gpu", lambda name: device)
    source = plate("demo")
    store = tmp_path / "plate.vfs"
    vfsd.expect(DONE, "convert", source, store)
    names = sorted(p.relative_to(source) for p in source.rglob("*.[tT][iI][fF]"))[::-2]
    assert len(names) > 2
    expected = np.stack([tifffile.imread(source / name) for name in names])
    with warnings.catch_warnings():
        warnings.simplefilter("error", CpuPathWarning)
        np.testing.assert_array_equal(package.load([store / name for name in names]), expected)
        part = package.load([store / name for name in names], (slice(10, 40), slice(None, None, 3)))
        np.testing.assert_array_equal(part, expected[:, 10:40, ::3])
        with mounted(store) as mount:
            np.testing.assert_array_equal(package.load([mount.path / name for name in names]), expected)
            # Read as a file it lies in RAM as well; its pixels are in the store all the same.
            assert (mount.path / names[0]).read_bytes() == (source / names[0]).read_bytes()
            np.testing.assert_array_equal(package.load(mount.path / names[0]), expected[0])
            (mount.path / names[0]).write_bytes((source / names[1]).read_bytes())
            loading._said.clear()
            with pytest.warns(CpuPathWarning, match="tier"):
                result = package.load([mount.path / name for name in names[:2]])
            np.testing.assert_array_equal(result, expected[[1, 1]])
    assert any("fused" in launch for launch in device.launches)
    for missing in (store / "no.tif", source / "no.tif"):
        with pytest.raises(FileNotFoundError):
            package.load(missing)
