"""Disks that are full under a real mount: the commands say so, where the data is and how to go on; and then it goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from blackbox.daemons import DIFFERENT, DONE, INCOMPLETE, Mounted, Plate, Vfsd
from blackbox.pictures import noisy_picture
from blackbox.trees import digest_file

pytestmark = [pytest.mark.fuse, pytest.mark.root]

MIB = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of 24 MiB of its own."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("no mkfs.ext4")
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(24 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, capture_output=True)
    folder.mkdir()
    mounted = subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no loop devices here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def take_room(disk: Path, left: int) -> Path:
    """Take all but so much of a disk."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        os.posix_fallocate(file.fileno(), 0, free - left)
    return ballast


def noise(seed: int, size: int) -> bytes:
    return noisy_picture((size,), "uint8", seed=seed).tobytes()


def test_full_store(tmp_path: Path, vfsd: Vfsd, mounted: Mounted, small_disk: Path) -> None:
    source = tmp_path / "plate"
    source.mkdir()
    (source / "first").write_bytes(b"first")
    store = small_disk / "kept.vfs"
    with mounted(source, "--ingest", store=store) as mount:
        mount.expect_in_log("No space left")
        mount.flush()
        files = {f"file{number}": noise(number, 3 * MIB) for number in range(4)}
        for name, data in files.items():
            (mount.path / name).write_bytes(data)
        ballast = take_room(small_disk, 5 * MIB)
        for command in ("flush", "umount"):
            outcome = vfsd.expect(INCOMPLETE, command, mount.path)
            outcome.must_name("No space left", "4 files", "kept in", "still mounted", "try again")
        told = json.loads(vfsd.expect(INCOMPLETE, "umount", mount.path, "--json").out)
        assert told["state"] == "mounted"
        assert told["state_directory"] in told["message"]
        assert all((mount.path / name).read_bytes() == data for name, data in files.items())
        vfsd.expect(DONE, "verify", store)
        ballast.unlink()
        told = mount.umount("--json").json()
        assert told["flush"]["files"] == 4
        assert told["flush"]["source_replaceable"] is True
    assert vfsd.expect(DONE, "verify", store, "--json").json()["files"] == 5
    assert vfsd.expect(DONE, "verify", store, "--digests", "--json").json()["ok"] is True


def test_conversion_and_repair_on_a_full_disk(tmp_path: Path, vfsd: Vfsd, small_disk: Path) -> None:
    source, store = tmp_path / "plate", small_disk / "kept.vfs"
    source.mkdir()
    for number in range(3):
        (source / f"file{number}").write_bytes(noise(number, 3 * MIB))
    ballast = take_room(small_disk, 4 * MIB)
    vfsd.expect(INCOMPLETE, "convert", source, store).must_name("No space left", source, "same command again")
    ballast.unlink()
    assert vfsd.expect(DONE, "convert", source, store, "--json").json()["flush"]["source_replaceable"] is True
    (store / "files/file1").write_bytes(b"damaged")
    ballast = take_room(small_disk, 1 * MIB)
    vfsd.expect(INCOMPLETE, "verify", store, "--repair").must_name("No space left", "as it was")
    ballast.unlink()
    vfsd.expect(DONE, "verify", store, "--repair")
    vfsd.expect(DONE, "verify", store)
    assert [json.loads(path.read_text())["repair"] for path in sorted((store / "receipts").iterdir())] == [False, True]


def test_full_cache(tmp_path: Path, vfsd: Vfsd, mounted: Mounted, small_disk: Path) -> None:
    """What has no room in RAM and on the cache's disk goes to the store at once: no program notices."""
    source, cache = tmp_path / "plate", small_disk / "cache"
    source.mkdir()
    cache.mkdir()
    take_room(small_disk, 6 * MIB)
    with mounted(source, "--ram", "8M", "--cache", cache, "--cache-size", "20M", store=tmp_path / "kept.vfs") as mount:
        mount.expect_in_log("No space left|nearly full")
        files = {f"file{number}": noise(number, 2 * MIB) for number in range(16)}
        for name, data in files.items():
            (mount.path / name).write_bytes(data)
        assert all((mount.path / name).read_bytes() == data for name, data in files.items())
        mount.umount()
    assert vfsd.expect(DONE, "verify", tmp_path / "kept.vfs", "--json").json()["files"] == 16


def test_damaged_catalogue_and_shard_under_a_mount(plate: Plate, vfsd: Vfsd, mounted: Mounted, tmp_path: Path) -> None:
    """The catalogue's copy stands in for it, what is damaged is refused, all else is read; then it is repaired."""
    source, store = plate("demo"), tmp_path / "kept.vfs"
    vfsd.expect(DONE, "convert", source, store)
    shard = sorted(store.rglob("0/c.*"))[0]
    for path in (store / "catalog.sqlite", shard):
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 4
        path.write_bytes(content)
    with mounted(store) as mount:
        mount.expect_in_log(r"\.TIF|catalog")
        refused = []
        for path in sorted(p.relative_to(source) for p in source.rglob("*") if p.is_file()):
            try:
                assert digest_file(mount.path / path) == digest_file(source / path)
            except OSError:
                refused.append(os.fspath(path))
        assert len(refused) == 1
        assert mount.is_mounted()
    # the unmount had nothing to store, so that the damage is as it was
    told = vfsd.expect(DIFFERENT, "verify", store, "--json").json()
    assert {one["path"] for one in told["damaged"] if one["kind"] == "file"} == set(refused)
    assert {one["path"] for one in told["damaged"] if one["kind"] != "file"} == {"catalog.sqlite"}
    told = vfsd.expect(DONE, "verify", store, "--repair", "--json").json()
    assert {one["path"] for one in told["repaired"]} == {"catalog.sqlite", *refused}
    assert vfsd.expect(DONE, "verify", store, "--sample", "50%", "--seed", "3").out.count("seed 3") == 1
