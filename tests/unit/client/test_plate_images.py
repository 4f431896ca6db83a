"""Images by what they are: well, field, time, channel, z."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

import vfsd
from vfsd.plates.demo import write_demo_plate


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[vfsd.FileManager]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    write_demo_plate(tmp_path / "p", wells=["A01", "P24"], fields=2, channels=2, z=3, time_points=2, size=16)
    with vfsd.FileManager.open(tmp_path / "p") as opened:
        yield opened


def test_images_are_found_by_what_they_are(manager: vfsd.FileManager, tmp_path: Path) -> None:
    (plate,) = manager.plates()
    assert plate.wells == ["A01", "P24"]
    assert len(plate) == len(list(plate)) == 2 * 2 * 2 * 3 * 2
    name = plate.channels[0]
    some = list(plate.images(channel=name.lower(), well="p24", field=2))
    assert len(some) == 2 * 3
    assert {image.channel for image in some} == {name}
    assert {image.position.well for image in some} == {"P24"}
    assert [image.position for image in some] == sorted(image.position for image in some)
    for image in some:
        assert np.array_equal(image.load(), tifffile.imread(tmp_path / "p" / image.name))

    field = plate["A1"].field(1)
    assert plate["A01"].fields == [1, 2]
    assert field.shape == (2, 2, 3)
    image = field.image(1, name, 2)
    assert np.array_equal(field[1, 0, 2], tifffile.imread(tmp_path / "p" / image.name))
    assert (image.position.time, image.position.z) == (field.times[1], field.z_steps[2])


def test_what_is_absent_stays_absent(manager: vfsd.FileManager) -> None:
    (plate,) = manager.plates()
    manager.delete(plate["A01"].field(1).image(0, 0, 1).name)
    (plate,) = manager.plates()
    field = plate["A01"].field(1)
    assert field.shape == (2, 2, 3)
    with pytest.raises(KeyError, match="no image was acquired"):
        field[0, 0, 1]
    assert field[0, 0, 2].shape == (16, 16)
    with pytest.raises(IndexError):
        field[5, 0, 0]
    for well in ("B02", "nowhere", "", "A1x", "A\u0661\u0665"):
        with pytest.raises(KeyError):
            plate[well]
    with pytest.raises(KeyError, match="it has"):
        list(plate.images(channel="no such"))
    with pytest.raises(KeyError, match="field"):
        plate["A01"].field(9)
    assert list(plate.images(field=9)) == []
    manager.ensure_directory("nothing")
    assert manager.plates("nothing") == []
