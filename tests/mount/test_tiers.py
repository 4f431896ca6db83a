"""RAM as a budget, through a real mount: more than it holds, more than both tiers hold, and the source taken in meanwhile."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from blackbox.daemons import DONE, Mount, Mounted, Plate, Vfsd, default_store, wait_until

pytestmark = pytest.mark.fuse

MIB = 1 << 20


def plane(seed: int) -> np.ndarray:
    """1024² pixels of 16 bit: 2 MiB that compress a little, as camera noise does."""
    return np.random.default_rng(seed).poisson(300, (1024, 1024)).astype(np.uint16)


def ram_in_use(mount: Mount) -> int:
    figures = os.statvfs(mount.status()["ram_directory"])
    return (figures.f_blocks - figures.f_bfree) * figures.f_frsize


def test_what_fits_into_ram_stays_there(mounted: Mounted, plate: Plate) -> None:
    with mounted(plate(), "--ram", "64M") as mount:
        (mount.path / "small.dat").write_bytes(os.urandom(20 * MIB))
        tiers = mount.status()["tiers"]
        assert tiers["ram"]["bytes"] >= 20 * MIB
        assert tiers["cache"]["bytes"] == 0


def test_four_writers_write_more_than_ram_and_cache_hold(mounted: Mounted, plate: Plate, vfsd: Vfsd) -> None:
    """96 MiB with 16 MiB of RAM and 24 MiB of cache: no writer fails, RAM keeps its budget, every file is there after."""
    source = plate()
    expected = [plane(number) for number in range(4)]
    with mounted(source, "--ram", "16M", "--cache-size", "24M") as mount:
        failures: list[Exception] = []
        over: list[int] = []
        done = threading.Event()
        ram = Path(mount.status()["ram_directory"])

        def write(number: int) -> None:
            try:
                folder = mount.path / f"writer{number}"
                folder.mkdir()
                for turn in range(12):
                    well, site, channel = "BCDE"[number], turn // 4 + 1, turn % 4 + 1
                    tifffile.imwrite(folder / f"9987_{well}02_s{site}_w{channel}.TIF", expected[(number + turn) % 4])
            except Exception as error:
                failures.append(error)

        def watch() -> None:
            while not done.is_set():
                used = sum(path.stat().st_blocks * 512 for path in ram.iterdir() if path.exists())
                if used > 16 * MIB:
                    over.append(used)
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(100)
        done.set()
        watcher.join()
        assert not failures
        assert not over
        assert mount.status()["streaming"]["rounds"] > 0
        for number in range(4):
            for turn in range(12):
                name = f"9987_{'BCDE'[number]}02_s{turn // 4 + 1}_w{turn % 4 + 1}.TIF"
                found = tifffile.imread(mount.path / f"writer{number}" / name)
                np.testing.assert_array_equal(found, expected[(number + turn) % 4])
        mount.umount()
    assert vfsd.expect(DONE, "verify", default_store(source), "--json").json()["ok"]


def test_a_file_that_is_appended_to_for_ever_streams_through_the_cache(mounted: Mounted, plate: Plate) -> None:
    with mounted(plate(), "--ram", "8M", "--cache-size", "16M") as mount:
        block = os.urandom(MIB)
        with (mount.path / "log.bin").open("wb") as log:
            for _ in range(32):
                log.write(block)
            log.flush()
            assert ram_in_use(mount) <= 8 * MIB
            assert mount.status()["pressure"]["cache_overdrawn"] is True
        assert (mount.path / "log.bin").read_bytes() == 32 * block


def test_thousands_of_small_files_through_little_ram(mounted: Mounted, plate: Plate) -> None:
    """Each takes a page, and RAM has room for 768."""
    with mounted(plate(), "--ram", "3M") as mount:
        for folder in range(3):
            (mount.path / f"f{folder}").mkdir()
            for number in range(1000):
                (mount.path / f"f{folder}" / f"{number}.txt").write_bytes(b"%d\n" % number)
        assert ram_in_use(mount) <= 3 * MIB
        assert (mount.path / "f2" / "777.txt").read_bytes() == b"777\n"


def test_the_source_is_taken_in_while_the_mount_rests(mounted: Mounted, plate: Plate, vfsd: Vfsd) -> None:
    source = plate()
    for path in source.rglob("*"):  # an instrument that finished long ago
        os.utime(path, (1_500_000_000, 1_500_000_000))
    originals = {path.relative_to(source): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    time.sleep(11)  # ctime says that the files changed just now, and such files are still being acquired
    with mounted(source, "--ingest") as mount:
        images = default_store(source) / "images"
        wait_until(lambda: list(images.glob("**/zarr.json")), "images in the store while mounted")
        wait_until(lambda: mount.status()["ingesting"]["left"] == 0, "the source is in the store")
        for path, data in originals.items():
            assert (mount.path / path).read_bytes() == data
        outcome = json.loads(mount.umount("--json").out)
        assert outcome["flush"]["source_replaceable"] is True
    assert vfsd.expect(DONE, "verify", default_store(source), "--json").json()["ok"]


def test_a_cache_that_cannot_be_written_is_shown_and_loses_nothing(
    mounted: Mounted, plate: Plate, tmp_path: Path
) -> None:
    """The cache folder vanishes under the daemon: what RAM held stays there, what is stored makes room."""
    cache = tmp_path / "cache"
    with mounted(plate(), "--ram", "16M", "--cache", cache) as mount:
        mount.expect_in_log("spill_failed|No such file|operation=write|streaming-failed|operation=create")
        folder = next(cache.iterdir()) if any(cache.iterdir()) else cache
        for path in (folder, cache):
            if path.is_dir():
                path.rmdir()
        first = {f"{number}.dat": os.urandom(MIB) for number in range(15)}
        for name, data in first.items():
            (mount.path / name).write_bytes(data)
        wait_until(lambda: mount.status()["pressure"]["problem"], "the trouble is shown")
        for name, data in first.items():
            assert (mount.path / name).read_bytes() == data
        second = {f"more{number}.dat": os.urandom(MIB) for number in range(12)}
        for name, data in second.items():
            (mount.path / name).write_bytes(data)
        for name, data in (first | second).items():
            assert (mount.path / name).read_bytes() == data
