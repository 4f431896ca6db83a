"""Programs that know only files, on the mount: what they read and leave is what a local folder gives them.

Each is run on a local copy and on the mount, and both must agree: Python's readers of images and arrays, and
the command-line tools that move plates about.
"""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from blackbox.daemons import DONE, Mounted, Plate, Vfsd
from blackbox.pictures import noisy_picture, simple_tiff, write_tiff
from blackbox.trees import assert_same_tree, digest_file, part_of, read_tree

pytestmark = pytest.mark.fuse


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """A program that must succeed without complaint; what it printed."""
    finished = subprocess.run(
        [*command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        errors="surrogateescape",
    )
    assert finished.returncode == 0, finished.stderr
    assert not finished.stderr.strip(), finished.stderr
    return finished.stdout


def images_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() == ".tif")


def test_tifffile_reads_and_maps(plate: Plate, mounted: Mounted) -> None:
    import tifffile

    source = plate("imagexpress_exported/9987_Plate_3435")
    with mounted(source) as mount:
        for path in images_of(source):
            same = mount.path / path.relative_to(source)
            expected = tifffile.imread(path)
            assert np.array_equal(tifffile.imread(same), expected)
            with tifffile.TiffFile(same) as opened:
                assert opened.pages[0].tags["ImageWidth"].value == expected.shape[1]
        written = noisy_picture((300, 400), seed=1)
        write_tiff(mount.path / "new.tif", written)
        mapped = tifffile.memmap(mount.path / "new.tif", mode="r+")
        mapped[10:20] = 7
        mapped.flush()
        del mapped
        written[10:20] = 7
        assert np.array_equal(tifffile.imread(mount.path / "new.tif"), written)
        mount.umount()
    with mounted(mount.store) as alone:
        mapped = tifffile.memmap(alone.path / "new.tif", mode="r")
        assert np.array_equal(mapped, written)
        del mapped


def test_stored_images_are_read_by_tifffile_and_numpy(
    plate: Plate, mounted: Mounted, vfsd: Vfsd, tmp_path: Path
) -> None:
    import tifffile

    source, store = plate(), tmp_path / "kept.vfs"
    vfsd.expect(DONE, "convert", source, store)
    with mounted(store) as alone:
        for path in images_of(source):
            same = alone.path / path.relative_to(source)
            assert np.array_equal(tifffile.imread(same), tifffile.imread(path))
            assert np.array_equal(np.fromfile(same, "uint8"), np.fromfile(path, "uint8"))


def test_numpy_reads_writes_and_maps(mounted: Mounted, tmp_path: Path) -> None:
    source = tmp_path / "plate"
    source.mkdir()
    array = noisy_picture((64, 128, 32), "float32", seed=2)
    np.save(source / "array.npy", array)
    with mounted(source) as mount:
        assert np.array_equal(np.load(mount.path / "array.npy"), array)
        assert np.array_equal(np.load(mount.path / "array.npy", mmap_mode="r")[10:20], array[10:20])
        array.tofile(mount.path / "raw.bin")
        assert np.array_equal(np.fromfile(mount.path / "raw.bin", "float32").reshape(array.shape), array)
        np.savez_compressed(mount.path / "several.npz", one=array, two=array * 2)
        view = np.lib.format.open_memmap(mount.path / "made.npy", mode="w+", dtype="uint16", shape=(256, 300))
        view[:] = np.arange(300, dtype="uint16")
        view.flush()
        del view
        mount.umount()
    with mounted(source) as mount:
        with np.load(mount.path / "several.npz") as several:
            assert np.array_equal(several["two"], array * 2)
        assert np.array_equal(np.load(mount.path / "made.npy")[5], np.arange(300))


APPENDER = """
import sys
for line in sys.stdin:
    with open(sys.argv[1], "a") as file:
        file.write(line)
    print(flush=True)
"""


def test_two_processes_see_each_other(mounted: Mounted, tmp_path: Path) -> None:
    """One writes, the other reads while it is written: no stale pages, no stale sizes."""
    (tmp_path / "plate").mkdir()
    with mounted(tmp_path / "plate") as mount:
        path = mount.path / "growing.log"
        writer = subprocess.Popen(
            [sys.executable, "-c", APPENDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdin is not None
        assert writer.stdout is not None
        expected = ""
        for number in range(50):
            writer.stdin.write(f"line {number}\n")
            writer.stdin.flush()
            assert writer.stdout.readline() == "\n"
            expected += f"line {number}\n"
            assert path.stat().st_size == len(expected)
            assert path.read_text() == expected
        writer.communicate()


def test_many_readers_and_writers_at_once(plate: Plate, mounted: Mounted) -> None:
    source = plate()
    paths = [p for p in sorted(source.rglob("*")) if p.is_file()]

    with mounted(source) as mount:

        def work(number: int) -> int:
            folder = mount.path / f"worker {number}"
            folder.mkdir()
            for path in paths:
                shutil.copy2(mount.path / path.relative_to(source), folder / path.name)
                assert digest_file(folder / path.name) == digest_file(path)
            return len(list(folder.iterdir()))

        with ThreadPoolExecutor(8) as pool:
            counts = list(pool.map(work, range(8)))
        assert set(counts) == {len({path.name for path in paths})}
        live = read_tree(mount.path)
        mount.umount()
    with mounted(source) as mount:
        assert_same_tree(read_tree(mount.path), live, "the next mount")


def test_cp_and_mv(plate: Plate, mounted: Mounted, tmp_path: Path) -> None:
    source = plate()
    before = read_tree(source)
    with mounted(source) as mount:
        run("cp", "-a", mount.path, tmp_path / "out")
        assert_same_tree(read_tree(tmp_path / "out"), before, "copied out of the mount")
        # `cp -a` takes every attribute it is shown; vfsd's own must not travel.
        assert not [path for path in (tmp_path / "out").rglob("*") if os.listxattr(path)]
        run("cp", "-a", source, mount.path / "in")
        assert_same_tree(part_of(read_tree(mount.path), b"in"), before, "copied into the mount")
        run("cp", "-a", mount.path / "in", mount.path / "within")
        run("mv", mount.path / "within", mount.path / "moved")
        assert_same_tree(part_of(read_tree(mount.path), b"moved"), before, "copied and moved in the mount")
        run("mv", mount.path / "moved", tmp_path / "moved out")
        assert_same_tree(read_tree(tmp_path / "moved out"), before, "moved out of the mount")
        assert not (mount.path / "moved").exists()
        run("rm", "-r", mount.path / "in")
        assert_same_tree(read_tree(mount.path), before, "the mount at the end")


def test_tar(plate: Plate, mounted: Mounted, tmp_path: Path) -> None:
    source = plate()
    before = read_tree(source)
    with mounted(source) as mount:
        run("tar", "-cf", tmp_path / "plate.tar", "-C", mount.path, ".")
        (tmp_path / "out").mkdir()
        run("tar", "-xf", tmp_path / "plate.tar", "-C", tmp_path / "out", "--delay-directory-restore")
        assert_same_tree(read_tree(tmp_path / "out"), before, "unpacked", ignore=["mtime_ns"])
        (mount.path / "in").mkdir()
        run("tar", "-xf", tmp_path / "plate.tar", "-C", mount.path / "in", "--delay-directory-restore")
        unpacked = part_of(read_tree(mount.path), b"in")
        assert_same_tree(unpacked, before, "unpacked in the mount", ignore=["mtime_ns"])
        with tarfile.open(mount.path / "made.tar", "w") as archive:
            archive.add(mount.path / "in", "in")
        with tarfile.open(mount.path / "made.tar") as archive:
            assert len([member for member in archive if member.isfile()]) == len(
                [entry for entry in before.values() if entry.kind == "file"]
            )


@pytest.mark.skipif(shutil.which("rsync") is None, reason="not installed: rsync")
def test_rsync(plate: Plate, mounted: Mounted, tmp_path: Path) -> None:
    source = plate()
    before = read_tree(source)
    with mounted(source) as mount:
        run("rsync", "-aHX", f"{mount.path}/", tmp_path / "out")
        assert_same_tree(read_tree(tmp_path / "out"), before, "copied out of the mount")
        run("rsync", "-aHX", f"{source}/", mount.path / "in")
        assert_same_tree(part_of(read_tree(mount.path), b"in"), before, "copied into the mount")
        again = run("rsync", "-aHXi", f"{source}/", mount.path / "in")
        assert not again.strip(), f"rsync found differences: {again}"


def test_find_and_ls(plate: Plate, mounted: Mounted) -> None:
    source = plate()
    look = ["-printf", "%y %m %s %T@ %n %p\n"]
    with mounted(source) as mount:
        for below in (source, mount.path):
            assert run("find", ".", "-ls", cwd=below)
        on_source = sorted(line for line in run("find", ".", *look, cwd=source).splitlines() if line[0] == "f")
        on_mount = sorted(line for line in run("find", ".", *look, cwd=mount.path).splitlines() if line[0] == "f")
        assert on_mount == on_source
        assert run("ls", "-1R", cwd=mount.path) == run("ls", "-1R", cwd=source)
        assert int(run("du", "-sb", "--apparent-size", mount.path).split()[0]) > 0
        assert run("df", "--output=fstype", mount.path).splitlines()[1].startswith("fuse")


SHELL = """
set -e
echo first > log.txt
echo second >> log.txt
cat log.txt log.txt > twice.txt
sed -i s/first/changed/ log.txt
sort -r twice.txt -o twice.txt
dd if=/dev/zero of=zeros.bin bs=1k count=64 status=none
dd if=twice.txt of=zeros.bin bs=1 seek=1000 conv=notrunc status=none
truncate -s 100 zeros.bin
head -c 100000 /dev/zero | split -b 30000 - piece.
mkdir -p a/b/c
cp twice.txt a/b/c/
mv a/b d
ln -s d/c/twice.txt link
ln twice.txt hard.txt
( exec 3<> both.txt; echo to both >&3 )
touch -d 2001-02-03T04:05:06.789Z old.txt
install -m 755 log.txt tool
find . -name 'piece.*' | sort | xargs cat | wc -c > count.txt
rm piece.aa
rmdir a
: > log2.txt
"""


def test_shell_redirections(mounted: Mounted, tmp_path: Path) -> None:
    (tmp_path / "plate").mkdir()
    local = tmp_path / "local"
    local.mkdir()
    run("sh", "-c", SHELL, cwd=local)
    with mounted(tmp_path / "plate") as mount:
        run("sh", "-c", SHELL, cwd=mount.path)
        live = read_tree(mount.path)
        assert_same_tree(live, read_tree(local), "the mount", ignore=["mtime_ns"])
        assert live[b"old.txt"].mtime_ns == read_tree(local)[b"old.txt"].mtime_ns
        mount.umount()
    with mounted(mount.store) as alone:
        assert_same_tree(read_tree(alone.path), live, "the mounted store")


def test_a_program_runs_from_the_mount(mounted: Mounted, tmp_path: Path) -> None:
    (tmp_path / "plate").mkdir()
    with mounted(tmp_path / "plate") as mount:
        (mount.path / "analyse.py").write_text(
            f"#!{sys.executable}\nimport module\nprint(module.answer)\n", encoding="utf-8"
        )
        (mount.path / "module.py").write_text("answer = 42\n")
        (mount.path / "analyse.py").chmod(0o755)
        assert run(mount.path / "analyse.py") == "42\n"


def test_sqlite_keeps_its_promises_on_the_mount(mounted: Mounted, tmp_path: Path) -> None:
    """CellProfiler writes its measurements into SQLite: locks, syncs and journals must work."""
    import sqlite3

    (tmp_path / "plate").mkdir()
    with mounted(tmp_path / "plate") as mount:
        database = sqlite3.connect(mount.path / "measurements.db")
        database.execute("create table cell (number integer primary key, area real)")
        for start in range(0, 2000, 500):
            with database:
                database.executemany("insert into cell values (?, ?)", [(n, n / 3) for n in range(start, start + 500)])
        database.close()
        mount.umount()
    with mounted(mount.store) as alone:
        database = sqlite3.connect(alone.path / "measurements.db")
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        assert database.execute("select count(*), max(number) from cell").fetchone() == (2000, 1999)
        database.close()


def test_reading_with_every_kind_of_call(mounted: Mounted, tmp_path: Path) -> None:
    source = tmp_path / "plate"
    source.mkdir()
    data = simple_tiff(noisy_picture((700, 900), seed=4))
    (source / "image.tif").write_bytes(data)
    with mounted(source) as mount:
        descriptor = os.open(mount.path / "image.tif", os.O_RDONLY)
        try:
            assert os.pread(descriptor, 1000, 5000) == data[5000:6000]
            assert os.pread(descriptor, 100, len(data) - 10) == data[-10:]
            assert os.pread(descriptor, 100, len(data) + 10) == b""
            pieces = [bytearray(10), bytearray(3000)]
            assert os.preadv(descriptor, pieces, 77) == 3010
            assert b"".join(pieces) == data[77:3087]
            with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as view:
                assert view[-1000:] == data[-1000:]
            with (tmp_path / "out").open("wb") as out:
                sent = 0
                while sent < len(data):
                    sent += os.sendfile(out.fileno(), descriptor, sent, len(data) - sent)
            assert (tmp_path / "out").read_bytes() == data
            os.lseek(descriptor, -4, os.SEEK_END)
            assert os.read(descriptor, 100) == data[-4:]
        finally:
            os.close(descriptor)
