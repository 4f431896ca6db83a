"""Stored files follow their names: renamed, exchanged, replaced, linked; their directories likewise."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
import trio
from plate_bench import Bench, Contents, Session, assert_sound, group_locations, pixels, plate_files, plate_path, tiff

from vfsd.flush import Damage, Verify, flush_tree, verify_store
from vfsd.store import Store
from vfsd.tree import RENAME_EXCHANGE

Act = Callable[[Session], Awaitable[None]]

PAGES = tiff(np.stack([pixels(page, (16, 18)) for page in range(5)]), photometric="minisblack")
START: Contents = {
    **plate_files(b"a"),
    **plate_files(b"b", wells=("A01",), seed=50),
    **{b"a/masks/m%02d.tif" % n: tiff(pixels(300 + n, (10, 40))) for n in range(4)},
    **{b"s/m%02d.tif" % n: tiff(pixels(400 + n, (10, 40))) for n in range(4)},
    b"a/stack.tif": PAGES,
    b"a/a.HTD": b'"HTSInfoFile", Version 1.0\n',
    b"a/compressed/" + plate_path("A01"): tiff(pixels(5), compression="zlib"),
    b"b/text": b"text",
    b"one": b"1",
    b"two": b"2",
    b"three.tif": tiff(pixels(3)),
}
A01, A01_2, B02 = plate_path("A01"), plate_path("A01", 2), plate_path("B02")


async def rename_plate(session: Session) -> None:
    await session.rename(b"a", b"c")


async def rename_plate_down(session: Session) -> None:
    await session.makedirs(b"x/y")
    await session.rename(b"a", b"x/y/z")


async def rename_and_delete_inside(session: Session) -> None:
    await session.rename(b"a", b"c")
    await session.unlink(b"c/" + A01)
    await session.unlink(b"c/masks/m03.tif")


async def rename_and_add_inside(session: Session) -> None:
    await session.rename(b"a", b"c")
    await session.write(b"c/" + plate_path("C03", 1, 3), tiff(pixels(90)))
    await session.write(b"c/" + A01, tiff(pixels(91)))


async def rename_and_refill(session: Session) -> None:
    """A new plate under the old name, in the same flush."""
    await session.rename(b"a", b"c")
    await session.write_all(plate_files(b"a", seed=600))


async def swap_plates(session: Session) -> None:
    await session.rename(b"a", b"b", RENAME_EXCHANGE)


async def turn_around(session: Session) -> None:
    """a → b → c → a."""
    await session.rename(b"b", b"c")
    await session.rename(b"a", b"b")
    await session.rename(b"s", b"a")


async def push_along(session: Session) -> None:
    await session.rename(b"b", b"z")
    await session.rename(b"a", b"b")


async def rename_inner_and_outer(session: Session) -> None:
    await session.rename(b"a/masks", b"a/labels")
    await session.rename(b"a", b"c")


async def rename_and_move_out(session: Session) -> None:
    await session.rename(b"a", b"c")
    await session.rename(b"c/" + A01, b"b/" + plate_path("B05"))
    await session.rename(b"c/masks/m00.tif", b"s/mask.tif")
    await session.rename(b"c/stack.tif", b"s/stack.tif")
    await session.rename(b"c/a.HTD", b"b/b.HTD")


async def move_out_and_back_in(session: Session) -> None:
    await session.rename(b"a", b"c")
    await session.makedirs(b"a")
    await session.rename(b"c/masks", b"a/masks")
    await session.rename(b"c/" + A01, b"a/" + A01)


async def positions_change_places(session: Session) -> None:
    await session.rename(b"a/" + A01, b"a/" + B02, RENAME_EXCHANGE)
    await session.rename(b"a/" + A01_2, b"a/t")
    await session.rename(b"a/" + plate_path("A01", 2, 2), b"a/" + A01_2)
    await session.rename(b"a/t", b"a/" + plate_path("A01", 2, 2))


async def plain_files_change_places(session: Session) -> None:
    await session.rename(b"one", b"two", RENAME_EXCHANGE)


async def new_file_under_the_old_name(session: Session) -> None:
    await session.rename(b"one", b"uno")
    await session.write(b"one", b"another one")
    await session.rename(b"a/" + A01, b"a/kept.tif")
    await session.write(b"a/" + A01, tiff(pixels(92)))
    await session.rename(b"three.tif", b"3.tif")
    await session.write(b"three.tif", tiff(pixels(93)))


async def rename_over_stored(session: Session) -> None:
    await session.rename(b"one", b"two")
    await session.rename(b"a/" + A01, b"a/" + B02)
    await session.write(b"fresh", tiff(pixels(94)))
    await session.rename(b"fresh", b"b/" + A01)
    await session.rename(b"a/stack.tif", b"three.tif")


async def rename_within_stack(session: Session) -> None:
    await session.rename(b"s/m00.tif", b"s/zz.tif")
    await session.rename(b"s/m01.tif", b"s/m00.tif")


async def into_other_stack(session: Session) -> None:
    await session.rename(b"s/m00.tif", b"a/masks/n.tif")
    await session.rename(b"a/masks/m01.tif", b"s/m00.tif")


async def rename_time_point(session: Session) -> None:
    """A folder that is a coordinate: its files move within the plate."""
    await session.makedirs(b"a/TimePoint_2")
    await session.rename(b"a/" + A01, b"a/TimePoint_2/" + A01)
    await session.rename(b"a/" + B02, b"a/TimePoint_2/" + B02)


async def folder_becomes_time_point(session: Session) -> None:
    """Copied under another name first, as careful programs do; and a time point that becomes a plate of its own."""
    await session.rename(b"b", b"a/TimePoint_2")
    await session.flush_all()
    await session.rename(b"a/TimePoint_2", b"a/TimePoint_3")
    await session.flush_all()
    await session.rename(b"a/TimePoint_3", b"b")


async def compressed_moves(session: Session) -> None:
    await session.rename(b"a/compressed", b"compressed")
    await session.rename(b"compressed/" + A01, b"compressed/" + B02)


async def hard_links(session: Session) -> None:
    await session.link(b"one", b"b/eins")
    await session.unlink(b"one")
    await session.link(b"a/" + A01, b"a/linked.tif")
    await session.link(b"s/m00.tif", b"b/m00.tif")
    await session.unlink(b"s/m00.tif")
    await session.link(b"two", b"zwei")


async def link_and_replace(session: Session) -> None:
    await session.link(b"one", b"eins")
    await session.unlink(b"one")
    await session.write(b"one", b"new one")
    await session.link(b"a/" + A01, b"a/linked.tif")
    await session.unlink(b"a/" + A01)
    await session.write(b"a/" + A01, tiff(pixels(95)))


async def folder_called_like_a_group(session: Session) -> None:
    await session.rename(b"a", b"b.ome.zarr")
    await session.rename(b"s", b"b.stacks")


async def long_names(session: Session) -> None:
    await session.rename(b"a", b"l" * 255)
    await session.rename(b"s", b"\xff" * 250)


async def unlink_all_of_a_renamed_folder(session: Session) -> None:
    await session.rename(b"a", b"c")
    await session.rmtree(b"c")


async def move_out_and_remove_the_folder(session: Session) -> None:
    """The journal forgets all names in a removed folder, also those that say that a file left it."""
    await session.rename(b"b/" + A01, b"a/" + A01)
    await session.rename(b"b/text", b"text")
    await session.link(b"b/" + A01_2, b"a/linked.tif")
    await session.rmtree(b"b")
    await session.link(b"s/m00.tif", b"a/masks/m00 too.tif")
    await session.rmtree(b"s")


async def write_what_was_linked(session: Session) -> None:
    """Of two names the one in a removed folder must not be the one that a file is stored under."""
    await session.link(b"b/text", b"a/text")
    await session.link(b"b/" + A01, b"a/linked.tif")
    await session.flush_all()
    await session.rmtree(b"b")
    await session.write(b"a/text", b"new text")
    await session.write(b"a/linked.tif", tiff(pixels(96)))


async def link_in_folders_that_change_places(session: Session) -> None:
    """A link is no move, but the folder above the first name has moved."""
    await session.makedirs(b"a/TimePoint_2")
    await session.makedirs(b"a/more")
    await session.rename(b"b/" + A01, b"a/TimePoint_2/" + A01)
    await session.flush_all()
    await session.link(b"a/TimePoint_2/" + A01, b"a/" + plate_path("F07"))
    await session.rename(b"a/TimePoint_2", b"a/more", RENAME_EXCHANGE)


ACTS: list[Act] = [
    rename_plate, rename_plate_down, rename_and_delete_inside, rename_and_add_inside, rename_and_refill,
    swap_plates, turn_around, push_along, rename_inner_and_outer, rename_and_move_out, move_out_and_back_in,
    positions_change_places, plain_files_change_places, new_file_under_the_old_name, rename_over_stored,
    rename_within_stack, into_other_stack, rename_time_point, folder_becomes_time_point, compressed_moves,
    hard_links, link_and_replace, folder_called_like_a_group, long_names, unlink_all_of_a_renamed_folder,
    move_out_and_remove_the_folder, write_what_was_linked, link_in_folders_that_change_places,
]  # fmt: skip


UNSEEN: list[Act] = [rename_plate, rename_and_move_out, new_file_under_the_old_name, hard_links]


@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
def test_store_follows(act: Act, tmp_path: Path) -> None:
    """Files were read before, so that the tree holds nodes of them that must learn where the bytes are now."""
    assert_store_follows(act, tmp_path, known=True)


@pytest.mark.parametrize("act", UNSEEN, ids=lambda act: act.__name__)
def test_store_follows_what_was_never_looked_at(act: Act, tmp_path: Path) -> None:
    assert_store_follows(act, tmp_path, known=False)


def assert_store_follows(act: Act, tmp_path: Path, *, known: bool) -> None:
    bench = Bench(tmp_path)

    async def run() -> Contents:
        async with bench.mounted() as session:
            await session.write_all(START)
            await session.flush_all()
        async with bench.mounted() as session:
            if known:
                await session.contents()
            await act(session)
            await session.flush_all()
            session.tree.tiers.drop_clean()
            return await session.contents()

    expected = trio.run(run)
    assert_sound(bench.store, expected)
    contents, shape = bench.stored_alone()
    assert contents == expected
    assert all(looks[1] == 1 for path, looks in shape.items() if path in expected) or "link" in act.__name__


def test_a_plain_file_becomes_an_image_while_another_takes_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path)

    async def act(session: Session) -> None:
        await session.rename(b"three.tif", b"a/" + plate_path("C03"))
        await session.write(b"a/" + plate_path("C03"), tiff(pixels(44)))
        await session.write(b"three.tif", b"another file")

    async def run() -> Contents:
        async with bench.mounted() as session:
            await session.write_all(START)
            await session.flush_all()
            await act(session)
            result = await session.flush_all()
            assert result.complete
            return await session.contents()

    expected = trio.run(run)
    assert_sound(bench.store, expected)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert not (bench.store / "files/a" / os.fsdecode(plate_path("C03"))).exists()


def test_groups_lie_where_their_directories_are(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def run(act: Act) -> dict[bytes, int]:
        async with bench.mounted() as session:
            await act(session)
            await session.flush_all()
        return group_locations(bench.store)

    async def fill(session: Session) -> None:
        await session.write_all(START)

    async def back(session: Session) -> None:
        await session.rename(b"a", b"b", RENAME_EXCHANGE)
        await session.rename(b"a/stack.tif", b"b/pages.tif")

    at_first = trio.run(run, fill)
    assert at_first == {
        b"images/a.ome.zarr": 8,
        b"images/b.ome.zarr": 4,
        b"images/a/compressed.ome.zarr": 1,
        b"images/a.stacks/stack.tif.ome.zarr": 5,
        b"images/a/masks.stacks/10x40_uint16.ome.zarr": 4,
        b"images/s.stacks/10x40_uint16.ome.zarr": 4,
    }
    swapped = trio.run(run, swap_plates)
    assert swapped == {
        b"images/b.ome.zarr": 8,
        b"images/a.ome.zarr": 4,
        b"images/b/compressed.ome.zarr": 1,
        b"images/b.stacks/stack.tif.ome.zarr": 5,
        b"images/b/masks.stacks/10x40_uint16.ome.zarr": 4,
        b"images/s.stacks/10x40_uint16.ome.zarr": 4,
    }

    async def swap_back(session: Session) -> None:
        await swap_plates(session)
        await session.rename(b"a/stack.tif", b"b/pages.tif")

    del at_first[b"images/a.stacks/stack.tif.ome.zarr"]
    assert trio.run(run, swap_back) == at_first | {b"images/b.stacks/pages.tif.ome.zarr": 5}
    assert_sound(bench.store)


def test_stack_tells_the_names_that_files_have_now(tmp_path: Path) -> None:
    import json

    bench = Bench(tmp_path)

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all({path: data for path, data in START.items() if path.startswith(b"s/")})
            await session.flush_all()
            await session.rename(b"s/m00.tif", b"s/renamed.tif")
            await session.flush_all()

    trio.run(run)
    document = json.loads((bench.store / "images/s.stacks/10x40_uint16.ome.zarr/zarr.json").read_text())
    assert document["attributes"]["vfsd"]["files"][0] == "renamed.tif"


def test_moving_a_large_plain_file_copies_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is linked; looking whether it is a TIFF reads its head, not the whole of it into memory."""
    bench = Bench(tmp_path)

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write(b"large", bytes(1000) * 1000)
            await session.flush_all()
            monkeypatch.delattr("os.memfd_create")
            await session.rename(b"large", b"moved")
            result = await session.flush_all()
            assert result.stored_bytes == 0

    trio.run(run)
    assert (bench.store / "files/moved").stat().st_size == 1_000_000
    assert not (bench.store / "files/large").exists()


def test_damage_is_not_given_a_new_digest_by_a_rename(tmp_path: Path) -> None:
    """A plain image that is damaged in the store and then belongs to a stack must not be stored as if it were sound."""
    bench = Bench(tmp_path)
    lone = tiff(pixels(1, (10, 40)))

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all({path: data for path, data in START.items() if path.startswith(b"s/")})
            await session.write(b"lone.tif", lone)
            await session.flush_all()
            path = bench.store / "files/lone.tif"
            path.write_bytes(path.read_bytes()[:-10] + bytes(10))
            await session.rename(b"lone.tif", b"s/lone.tif")
            result = await session.flush()
            assert [kept.path for kept in result.kept] == [b"s/lone.tif"]
        async with bench.mounted() as session:
            assert await session.read(b"s/m00.tif") == START[b"s/m00.tif"]

    trio.run(run)
    assert [damaged.path for damaged in verify_store(bench.store).damaged] == [b"s/lone.tif"]


@pytest.mark.parametrize("how", [Verify.FULL, Verify.DIGEST])
@pytest.mark.parametrize("links", [True, False], ids=["links", "no-links"])
def test_a_damaged_file_that_is_renamed_keeps_no_other_out_of_the_store(
    how: Verify, links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    async def run() -> None:
        async with bench.mounted() as session:
            await session.write_all({b"sound": b"sound", b"damaged": b"damaged"})
            await session.flush_all()
            (bench.store / "files/damaged").write_bytes(b"dAmaged")
            session.tree.tiers.drop_clean()
            await session.rename(b"damaged", b"moved")
            await session.write(b"new", b"new")
            if not links:
                monkeypatch.setattr(os, "link", refuse)
            result = await flush_tree(session.tree, verify=how)
            assert [kept.path for kept in result.kept] == [b"moved"]
            assert result.waiting == ()

    trio.run(run)
    damaged = verify_store(bench.store).damaged
    assert [one.path for one in damaged if one.kind is Damage.FILE] == [b"moved"]
    with contextlib.closing(Store.open(bench.store, writable=False)) as store:
        assert {path for path, _ in store.catalogue.walk()} == {b"sound", b"moved", b"new"}
