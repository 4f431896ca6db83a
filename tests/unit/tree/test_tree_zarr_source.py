"""A source of OME-Zarr under the tree: what it makes while it is read is changed, moved, kept and lost as any other file is."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from blackbox.ome_zarrs import write_image, write_plate
from tree_bench import MIB, Bench, Program, run

from vfsd.errors import UnfitError
from vfsd.store import Store
from vfsd.store.foreign import VirtualFile, ZarrView
from vfsd.store.views import TIFFS

OME, STACK = b"A/01/A01_f0.ome.tif", b"A/01/A01_f0.tif"


def pixels(*shape: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    return np.random.default_rng(seed).integers(1, 4000, shape).astype("u2")


def zarr_bench(bench: Bench, *shape: int) -> dict[bytes, bytes]:
    """The bench's source becomes a plate of one field, shown as TIFFs; what is in these."""
    shutil.rmtree(bench.source)
    write_plate(bench.source, "0.5", {"A/1": ["0"]})
    write_image(bench.source / "A/1/0", pixels(*shape), "cyx", "0.5", chunks=(1, *shape[1:]))
    Store.create(bench.store, source=bench.source, source_view=TIFFS).close()
    return shown(bench.source)


def shown(root: Path) -> dict[bytes, bytes]:
    view = ZarrView(root)
    files = {name: view.find(name) for name in (OME, STACK)}
    found = {name: file.read_range(0, file.size) for name, file in files.items() if isinstance(file, VirtualFile)}
    view.close()
    return found


async def files_of(program: Program) -> dict[bytes, bytes]:
    return {path: data for path, data in (await program.contents()).items() if data is not None}


def test_everything_that_can_be_done_to_a_file(bench: Bench) -> None:
    files = zarr_bench(bench, 2, 40, 50)

    async def act() -> None:
        program = await bench.mount()
        assert await files_of(program) == files
        assert await program.tier(OME) == "source"
        assert bench.tier_files() == set(), "reading keeps nothing in a tier"
        ino = (await program.stat(STACK)).ino
        await program.write(OME, 5000, b"written")
        await program.rename(STACK, b"A/stack.tif")
        await program.rename(b"A/01", b"A/one")
        await program.link(b"A/stack.tif", b"A/one/again.tif")
        await program.create(b"A/new.txt", b"new")
        data = bytearray(files[OME])
        data[5000:5007] = b"written"
        expected = {
            b"A/one/A01_f0.ome.tif": bytes(data),
            b"A/stack.tif": files[STACK],
            b"A/one/again.tif": files[STACK],
            b"A/new.txt": b"new",
        }
        assert await files_of(program) == expected
        bench.kill()
        program = await bench.mount()
        assert await files_of(program) == expected, "after a crash"
        assert (await bench.flush()).complete
        bench.unmount()
        program = await bench.mount()
        assert await files_of(program) == expected, "after a flush"
        assert (await program.stat(b"A/stack.tif")).ino == ino
        bench.restart_machine()
        program = await bench.mount()
        assert await files_of(program) == expected, "after a restart"
        bench.unmount()
        program = await bench.mount(with_source=False)
        with pytest.raises(OSError, match="source, which is not mounted") as caught:
            await program.read(b"A/stack.tif")
        assert caught.value.errno == errno.ENODATA
        assert await program.read(b"A/one/A01_f0.ome.tif") == bytes(data)

    run(act)


def test_a_copy_that_fails_leaves_the_file_as_it_was(bench: Bench) -> None:
    files = zarr_bench(bench, 2, 40, 50)

    async def act() -> None:
        program = await bench.mount()
        chunk = next(path for path in (bench.source / "A/1/0/0/c").rglob("*") if path.is_file())
        sound = chunk.read_bytes()
        chunk.write_bytes(sound[:-20])
        with pytest.raises(OSError, match="0/c/") as caught:
            await program.write(STACK, 0, b"x")
        assert caught.value.errno == errno.EIO
        assert bench.tier_files() == set()
        assert await program.tier(STACK) == "source"
        assert (await program.stat(STACK)).size == len(files[STACK])
        chunk.write_bytes(sound)
        assert await program.read(STACK) == files[STACK]
        await program.truncate(STACK, 100)
        assert await program.read(STACK) == files[STACK][:100]
        await program.truncate(OME, 0)
        assert await program.read(OME) == b""

    run(act)


def test_a_copy_that_ram_has_no_room_for_goes_to_the_cache(bench: Bench) -> None:
    files = zarr_bench(bench, 3, 2048, 2048)  # 24 MiB each

    async def act() -> None:
        assert len(files[OME]) > bench.ram_budget
        program = await bench.mount()
        await program.write(OME, len(files[OME]) - 4, b"last")
        assert await program.tier(OME) == "cache"
        assert await program.read(OME) == files[OME][:-4] + b"last"
        assert sum(path.stat().st_blocks * 512 for path in bench.ram.iterdir()) < MIB

    run(act)


def test_an_image_that_grows_is_seen_by_who_opens_it_next(bench: Bench) -> None:
    files = zarr_bench(bench, 2, 40, 50)

    async def act() -> None:
        program = await bench.mount()
        before = await program.open(STACK, os.O_RDONLY)
        assert await program.read_from(before) == files[STACK]
        shutil.rmtree(bench.source / "A/1/0")
        write_image(bench.source / "A/1/0", pixels(5, 40, 50, seed=1), "cyx", "0.5")
        now = shown(bench.source)
        assert len(now[STACK]) > len(files[STACK])
        again = await program.open(STACK, os.O_RDONLY)
        assert not again.keep_cache
        assert await program.read_from(again) == now[STACK]
        assert (await program.stat(STACK)).size == len(now[STACK])
        for handle in (before, again):
            program.close(handle)

    run(act)


def test_a_source_that_is_none_says_what_to_do(bench: Bench) -> None:
    zarr_bench(bench, 1, 8, 8)
    (bench.source / "zarr.json").write_text("{}")
    with pytest.raises(UnfitError, match=r"zarr.json is not that of a Zarr v3 group.*--zarr-as files"):
        run(bench.mount)
