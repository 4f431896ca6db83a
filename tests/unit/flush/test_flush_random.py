"""Whatever is done to a tree, in whatever order and however often it is flushed: the store holds what the tree shows."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plate_bench import Bench, Contents, Session, assert_sound, pixels, plate_path, tiff

from vfsd.tree import RENAME_EXCHANGE

FOLDERS = [b"", b"p", b"q", b"p/TimePoint_2", b"p/q", b"p.ome.zarr"]
NAMES = [
    plate_path("A01"), plate_path("A01", 1, 2), plate_path("A01", 2), plate_path("B01"), b"P_A01_s01_w1.tif",
    b"m1.tif", b"m2.tif", b"m3.tif", b"m4.tif", b"text", b"q", b"~5", b"P.HTD",
]  # fmt: skip
IMAGES = [tiff(pixels(seed, (6, 7))) for seed in range(4)]
CONTENTS = [
    *IMAGES,
    tiff(pixels(5, (6, 7)), byteorder=">"),
    tiff(pixels(6, (6, 7)), rowsperstrip=4),
    tiff(pixels(7, (9, 8))),
    tiff(pixels(8, (6, 7)), compression="zlib"),
    tiff(pixels(9, (6, 7, 3), "uint8"), photometric="rgb"),
    tiff(np.stack([pixels(seed, (6, 7)) for seed in range(4)]), photometric="minisblack"),
    tiff(np.stack([pixels(seed, (6, 7)) for seed in range(5, 7)]), photometric="minisblack"),
    b"text",
    b"",
]

paths = st.builds(
    lambda folder, name: folder + b"/" + name if folder else name, st.sampled_from(FOLDERS), st.sampled_from(NAMES)
)
steps = st.one_of(
    st.tuples(st.just("write"), paths, st.sampled_from(CONTENTS)),
    st.tuples(st.just("write"), paths, st.sampled_from(IMAGES)),
    st.tuples(st.just("delete"), st.integers(0, 99), st.none()),
    st.tuples(st.just("rename"), st.integers(0, 99), paths),
    st.tuples(st.just("exchange"), st.integers(0, 99), st.integers(0, 99)),
    st.tuples(st.just("rename folder"), st.sampled_from(FOLDERS[1:]), st.sampled_from(FOLDERS[1:])),
    st.tuples(st.just("exchange folders"), st.sampled_from(FOLDERS[1:]), st.sampled_from(FOLDERS[1:])),
    st.tuples(st.just("delete folder"), st.sampled_from(FOLDERS[1:]), st.none()),
    st.tuples(st.just("link"), st.integers(0, 99), paths),
    st.tuples(st.just("flush"), st.none(), st.none()),
    st.tuples(st.just("flush"), st.none(), st.none()),
    st.tuples(st.just("flush part"), st.sampled_from(FOLDERS[1:]), st.none()),
    st.tuples(st.just("mount again"), st.none(), st.none()),
)


async def take_step(session: Session, kind: str, one: object, other: object) -> None:
    """One change; what a file system refuses is no change."""
    files = sorted(await session.contents())

    def chosen(number: object) -> bytes:
        assert isinstance(number, int)
        return files[number % len(files)]

    try:
        match kind, one, other:
            case "write", bytes(path), bytes(data):
                await session.write(path, data)
            case "rename folder", bytes(old), bytes(new):
                await session.rename(old, new)
            case "exchange folders", bytes(old), bytes(new):
                await session.rename(old, new, RENAME_EXCHANGE)
            case "delete folder", bytes(path), _:
                await session.rmtree(path)
            case "delete", _, _ if files:
                await session.unlink(chosen(one))
            case "rename", _, bytes(new) if files:
                await session.rename(chosen(one), new)
            case "exchange", _, _ if files:
                await session.rename(chosen(one), chosen(other), RENAME_EXCHANGE)
            case "link", _, bytes(new) if files:
                await session.link(chosen(one), new)
    except OSError:
        pass


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(paths, st.sampled_from(CONTENTS)), max_size=14), st.lists(steps, min_size=4, max_size=25))
def test_store_holds_what_the_tree_shows(
    start: list[tuple[bytes, bytes]], taken: list[tuple[str, object, object]]
) -> None:
    with tempfile.TemporaryDirectory(prefix="vfsd-random-") as folder:
        bench = Bench(Path(folder))
        writes = [("write", path, data) for path, data in start]
        pending = iter([*writes, *taken, ("flush", None, None)])

        async def mounted() -> bool:
            """Go on until the next "mount again"; whether that was the end."""
            async with bench.mounted() as session:
                assert not session.tree.lost
                for kind, one, other in pending:
                    if kind == "mount again":
                        return False
                    if kind == "flush part":
                        assert isinstance(one, bytes)
                        assert (await session.flush(paths=[one])).complete
                        assert_sound(bench.store)
                    elif kind == "flush":
                        await flush_and_judge(bench, session)
                    else:
                        await take_step(session, kind, one, other)
                return True

        while not trio.run(mounted):
            pass
        assert_alone(bench, trio.run(contents_of, bench))


async def flush_and_judge(bench: Bench, session: Session) -> None:
    before = await session.contents()
    await session.flush_all()
    session.tree.tiers.drop_clean()
    assert await session.contents() == before
    assert_sound(bench.store, before)


async def contents_of(bench: Bench) -> Contents:
    async with bench.mounted() as session:
        return await session.contents()


def assert_alone(bench: Bench, expected: Contents) -> None:
    assert_sound(bench.store, expected)
    assert bench.stored_alone()[0] == expected
