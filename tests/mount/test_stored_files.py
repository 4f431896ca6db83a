"""Files that come from the store: damage is found and stays with its file, changes reach the next store."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from blackbox.daemons import DIFFERENT, DONE, Mounted, Plate, Vfsd
from blackbox.pictures import noisy_picture, read_tiff, write_tiff
from blackbox.stores import ExportPosition, assert_plate_holds, export_planes, export_position, stored_plates
from blackbox.trees import assert_same_tree, digest_file, files_of, read_tree

pytestmark = pytest.mark.fuse


def flip_byte(path: Path, at: int) -> None:
    mode = path.stat().st_mode
    path.chmod(mode | 0o200)
    with path.open("r+b") as file:
        file.seek(at)
        old = file.read(1)[0]
        file.seek(at)
        file.write(bytes([old ^ 0x5A]))
    path.chmod(mode)


def digest_or_refusal(path: Path) -> str | None:
    """A file's digest, or None where reading it is refused with EIO; any other error is a failure."""
    try:
        return digest_file(path)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_damaged_plain_file_is_found_and_refused(plate: Plate, mounted: Mounted, vfsd: Vfsd) -> None:
    source = plate()
    with mounted(source) as mount:
        (mount.path / "good.bin").write_bytes(noisy_picture((100_000,), "uint8", seed=1).tobytes())
        (mount.path / "bad.bin").write_bytes(noisy_picture((100_000,), "uint8", seed=2).tobytes())
        good = digest_file(mount.path / "good.bin")
        mount.umount()
    flip_byte(mount.store / "files" / "bad.bin", 54_321)
    outcome = vfsd.expect(DIFFERENT, "verify", mount.store)
    assert "bad.bin" in outcome.out + outcome.err
    assert "good.bin" not in outcome.out + outcome.err
    report = vfsd("verify", mount.store, "--json")
    assert report.code == DIFFERENT
    assert "bad.bin" in json.dumps(report.json()["damaged"])
    with mounted(mount.store) as alone:
        alone.expect_in_log(r"bad\.bin")
        assert digest_or_refusal(alone.path / "bad.bin") is None
        assert digest_file(alone.path / "good.bin") == good
        assert (alone.path / "bad.bin").stat().st_size == 100_000


def test_damaged_planes_are_found_and_refused(plate: Plate, vfsd: Vfsd, mounted: Mounted, tmp_path: Path) -> None:
    source, store = plate(), tmp_path / "kept.vfs"
    vfsd.expect(DONE, "convert", source, store)
    shard = largest_file(store / "images")
    flip_byte(shard, shard.stat().st_size // 3)
    outcome = vfsd.expect(DIFFERENT, "verify", store)
    images = [p for p in source.rglob("*.TIF") if p.name in outcome.out + outcome.err]
    assert images, str(outcome)
    with mounted(store) as alone:
        alone.expect_in_log(r"\.TIF")
        bad = []
        for path in sorted(p for p in source.rglob("*") if p.is_file()):
            digest = digest_or_refusal(alone.path / path.relative_to(source))
            if digest is None:
                bad.append(path.name)
            else:
                assert digest == digest_file(path), f"{path}: wrong bytes instead of an error"
        assert bad
        assert len(bad) < len(list(source.rglob("*.TIF")))
    out = tmp_path / "out"
    outcome = vfsd.expect(DIFFERENT, "export", store, out)
    assert any(name in outcome.err for name in bad)
    left = files_of(read_tree(out))
    whole = files_of(read_tree(source))
    assert len(left) == len(whole) - len(bad)
    assert all(entry == whole[path] for path, entry in left.items())


def test_missing_shard_costs_only_its_files(plate: Plate, vfsd: Vfsd, mounted: Mounted, tmp_path: Path) -> None:
    source, store = plate(), tmp_path / "kept.vfs"
    vfsd.expect(DONE, "convert", source, store)
    largest_file(store / "images").unlink()
    vfsd.expect(DIFFERENT, "verify", store)
    with mounted(store) as alone:
        alone.expect_in_log(r"\.TIF")
        paths = [p for p in source.rglob("*") if p.is_file()]
        digests = {path: digest_or_refusal(alone.path / path.relative_to(source)) for path in paths}
    readable = {path for path, digest in digests.items() if digest is not None}
    assert 0 < len(readable) < len(paths)
    assert all(digests[path] == digest_file(path) for path in readable)


def position_of(path: Path) -> ExportPosition:
    position = export_position(path.as_posix())
    assert position is not None
    return position


def test_changes_of_stored_files_reach_the_store(plate: Plate, vfsd: Vfsd, mounted: Mounted, tmp_path: Path) -> None:
    source, store = plate(), tmp_path / "kept.vfs"
    vfsd.expect(DONE, "convert", source, store)
    images = sorted(p.relative_to(source) for p in source.rglob("*_s1_w*.TIF"))
    removed, changed, renamed = images[0], images[1], images[2]
    planes = export_planes(source, projection=False)
    plain = [p for p in sorted((store / "files").rglob("*")) if p.is_file()]
    new_pixels = noisy_picture(read_tiff(source / changed).shape, read_tiff(source / changed).dtype, seed=77)
    with mounted(store) as mount:
        (mount.path / removed).unlink()
        write_tiff(mount.path / changed, new_pixels)
        (mount.path / renamed).rename(mount.path / "taken out.TIF")
        for path in plain:
            (mount.path / path.relative_to(store / "files")).unlink()
        live = read_tree(mount.path)
        mount.umount()
    vfsd.expect(DONE, "verify", store)
    for path in plain:
        assert not path.exists(), f"{path} was deleted in the mount"
    with mounted(store) as mount:
        assert_same_tree(read_tree(mount.path), live, "the store mounted again")
    (stored,) = stored_plates(store)
    for path in (removed, renamed):
        del planes[position_of(path)]
    planes[position_of(changed)] = new_pixels
    assert_plate_holds(stored, planes)
