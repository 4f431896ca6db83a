"""Who goes first: what was consumed, then what waits, then what returns; and a loop larger than RAM is hit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.tiers.policy import LeastRecentlyUsed, Policy, PredictedUse, Warmth, is_companion

MIB = 1 << 20
PLANE = 9 * MIB


def read(policy: Policy, ino: int, size: int = PLANE) -> None:
    for offset in range(0, size, MIB):
        policy.on_read(ino, offset, min(MIB, size - offset), size)


def coldest_first(policy: Policy, inos: list[int]) -> list[int]:
    return sorted(inos, key=policy.rank)


def test_what_the_next_step_has_read_goes_before_what_it_has_not() -> None:
    policy = PredictedUse()
    for ino in (1, 2, 3):
        policy.on_written(ino, PLANE)
    read(policy, 2)
    assert coldest_first(policy, [1, 2, 3]) == [2, 1, 3]
    assert policy.rank(2)[0] is Warmth.CONSUMED
    assert policy.rank(1)[0] is Warmth.WAITING


def test_a_written_file_waits_again() -> None:
    policy = PredictedUse()
    policy.on_written(1, PLANE)
    read(policy, 1)
    policy.on_written(1, 10)
    assert policy.rank(1)[0] is Warmth.WAITING


def test_of_files_that_return_the_one_expected_last_goes_first() -> None:
    policy = PredictedUse()
    for _ in range(2):
        for ino in range(5):
            read(policy, ino)
    assert {policy.rank(ino)[0] for ino in range(5)} == {Warmth.RETURNING}
    assert coldest_first(policy, list(range(5))) == [4, 3, 2, 1, 0]


def test_requests_of_several_readers_that_come_mixed_are_one_visit_each() -> None:
    policy = PredictedUse()
    for offset in range(0, PLANE, MIB):
        for ino in range(6):
            policy.on_read(ino, offset, MIB, PLANE)
    assert {policy.rank(ino)[0] for ino in range(6)} == {Warmth.CONSUMED}


def test_who_does_not_come_back_in_time_is_no_longer_expected() -> None:
    policy = PredictedUse()
    for _ in range(2):
        for ino in (1, 2, 3):
            read(policy, ino)
    assert policy.rank(1)[0] is Warmth.RETURNING
    for ino in range(10, 20):
        read(policy, ino)
    assert policy.rank(1)[0] is Warmth.CONSUMED


def test_what_is_remembered_is_bounded() -> None:
    policy = PredictedUse(most=10)
    for ino in range(1000):
        read(policy, ino, 100)
    assert policy.rank(1) == (Warmth.CONSUMED, 0.0)
    assert policy.rank(999)[1] > 0


def hits(policy: Policy, order: list[int], room: int) -> int:
    """Reads that found their file, with room for this many files."""
    there: set[int] = set()
    found = 0
    for ino in order:
        found += ino in there
        if ino not in there and len(there) >= room:
            there.remove(min(there, key=policy.rank))
        there.add(ino)
        read(policy, ino)
    return found


def test_a_loop_twice_as_large_as_ram_is_hit_half_of_the_time() -> None:
    order = list(range(40)) * 6
    assert hits(LeastRecentlyUsed(), order, 20) == 0
    assert hits(PredictedUse(), order, 20) >= 0.4 * len(order) - 40


def test_a_file_that_every_image_needs_survives_a_scan() -> None:
    order = [ino for plane in range(100, 400) for ino in ((1, plane) if plane % 10 == 0 else (plane,))]
    returns = sum(ino == 1 for ino in order) - 1
    assert hits(PredictedUse(), order, 5) >= returns - 2


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30), st.integers(1, 20 * MIB)), max_size=200))
def test_any_use_gives_an_order(uses: list[tuple[bool, int, int]]) -> None:
    policy = PredictedUse(most=8)
    for is_read, ino, size in uses:
        if is_read:
            policy.on_read(ino, 0, size, size)
        else:
            policy.on_written(ino, size)
    ranks = [policy.rank(ino) for ino in range(31)]
    assert sorted(ranks)
    for ino in range(31):
        policy.forget(ino)
    assert {policy.rank(ino)[0] for ino in range(31)} == {Warmth.CONSUMED}


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        (b"plate_E07_s1_w1_thumb4DD3.tif", 30_000, True),
        (b"9987.HTD", 4_000, True),
        (b"Index.idx.xml", 2 * MIB, True),
        (b"results.csv", 1_000, True),
        (b"results.csv", 2 << 30, False),
        (b"9987_B02_s1_w1.TIF", 9 * MIB, False),
        (b"9987_B02_s1_w1.TIF", 100, False),
        (b"\xff\xfe.xml", 10, True),
        (b"", 0, False),
    ],
)
def test_companions(name: bytes, size: int, expected: bool) -> None:
    assert is_companion(name, size) is expected
