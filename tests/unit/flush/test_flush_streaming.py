"""What may be stored during a mount: whole fields that have come to rest, and what goes when room is needed badly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vfsd.flush.streaming import QUIET, QUIET_IF_UNSURE, STACK_SHARD, Candidate, Group, group

LONG = 1000.0


def candidates(*names: bytes, quiet: float = LONG, size: int = 1000) -> list[Candidate]:
    return [Candidate(100 + n, name, size, quiet, False) for n, name in enumerate(names)]


def by_names(groups: list[Group]) -> dict[frozenset[bytes], bool]:
    return {frozenset(file.path for file in one.members): one.complete for one in groups}


def plane(well: str, site: int, channel: int) -> bytes:
    return f"plate/9987_{well}_s{site}_w{channel}.TIF".encode()


def test_fields_of_a_plate_and_which_are_complete() -> None:
    names = [plane(well, site, w) for well in ("B02", "B03") for site in (1, 2) for w in (1, 2, 3)]
    missing = plane("B03", 2, 3)
    names.remove(missing)
    found = by_names(group(candidates(*names)))
    for well, site in (("B02", 1), ("B02", 2), ("B03", 1)):
        assert found[frozenset(plane(well, site, w) for w in (1, 2, 3))] is True
    assert found[frozenset(plane("B03", 2, w) for w in (1, 2))] is False


def test_the_only_field_may_still_grow() -> None:
    (only,) = group(candidates(plane("B02", 1, 1), plane("B02", 1, 2)))
    assert not only.complete
    assert only.settled(urgent=False)
    short = Group(tuple(candidates(plane("B02", 1, 1), quiet=(QUIET + QUIET_IF_UNSURE) / 2)), complete=False)
    assert not short.settled(urgent=False)
    assert short.settled(urgent=True)


def test_a_field_that_is_still_written_waits() -> None:
    members = [*candidates(plane("B02", 1, 1)), Candidate(7, plane("B02", 1, 2), 1000, 0.1, False)]
    assert not Group(tuple(members), complete=True).settled(urgent=False)


def test_images_of_no_plate_go_by_full_shards_and_small_files_wait() -> None:
    images = [f"masks/cell{n:04d}.tif".encode() for n in range(STACK_SHARD + 5)]
    large = Candidate(5000, b"movie.avi", 50 << 20, LONG, True)
    groups = group([*candidates(*images, b"notes.txt"), large])
    sizes = {len(one.members): one.complete for one in groups if len(one.members) > 1}
    assert sizes == {STACK_SHARD: True, 5: False}
    single = {one.members[0].path: one.complete for one in groups if len(one.members) == 1}
    assert single == {b"movie.avi": True, b"notes.txt": False}


@given(st.lists(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name), unique=True, max_size=30))
def test_every_file_is_in_one_group(names: list[bytes]) -> None:
    groups = group(candidates(*names))
    assert sorted(file.path for one in groups for file in one.members) == sorted(names)
