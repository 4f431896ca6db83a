"""What is made before anybody asks has a limit, is counted as hit or waste, and stops where it is mostly waste."""

from __future__ import annotations

from vfsd.tiers.ahead import JUDGED, MOST_BYTES, OVERDUE, PAUSE, Ahead

MIB = 1 << 20


def test_expected_files_take_a_part_of_ram_at_most() -> None:
    ahead = Ahead()
    for number in range(4):
        assert ahead.may(8 * MIB, 128 * MIB)
        ahead.made(number, 8 * MIB)
    assert not ahead.may(8 * MIB, 128 * MIB)
    assert ahead.opened(0)
    assert ahead.may(8 * MIB, 128 * MIB)


def test_one_file_may_be_larger_than_that_part_but_not_than_half_of_ram() -> None:
    assert Ahead().may(50 * MIB, 128 * MIB)
    assert not Ahead().may(65 * MIB, 128 * MIB)
    assert not Ahead().may(1, 0)


def test_much_ram_is_not_filled_with_guesses() -> None:
    ahead = Ahead()
    ahead.made(1, MOST_BYTES)
    assert not ahead.may(1, 1 << 40)


def test_files_are_hits_or_waste() -> None:
    ahead = Ahead()
    for number in range(4):
        ahead.made(number, MIB)
    assert ahead.opened(0)
    assert not ahead.opened(0)
    ahead.lost(1)
    ahead.lost(1)
    ahead.made(9, MIB, in_use=True)
    assert (ahead.hits, ahead.waste, ahead.bytes) == (2, 1, 2 * MIB)
    assert ahead.expects(2)
    assert not ahead.expects(1)
    assert ahead.status()["expected_files"] == 2


def test_overdue_files_are_waste() -> None:
    ahead = Ahead()
    ahead.made(1, MIB)
    for _ in range(OVERDUE + 1):
        ahead.opened(2)
    assert not ahead.expects(1)
    assert ahead.waste == 1


def test_mostly_waste_is_a_pause() -> None:
    ahead = Ahead()
    for number in range(JUDGED):
        ahead.made(number, MIB)
        if number % 2:
            ahead.lost(number)
        else:
            ahead.opened(number)
    assert ahead.paused
    for _ in range(PAUSE):
        ahead.opened(-1)
    assert not ahead.paused


def test_few_mistakes_are_no_pause() -> None:
    ahead = Ahead()
    for number in range(200):
        ahead.made(number, MIB)
        if number % 5 == 0:
            ahead.lost(number)
        else:
            ahead.opened(number)
        assert not ahead.paused
