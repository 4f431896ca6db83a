"""A walk over a grid is found from a few places, in whatever order the axes turn, and chance is not taken for one."""

from __future__ import annotations

import itertools
import random

from hypothesis import assume, given
from hypothesis import strategies as st

from vfsd.tiers.orders import MOST_AHEAD, REMEMBERED, Grid, Place, Walks


def walk_of(extents: tuple[int, ...], order: tuple[int, ...], step: int, backwards: bool) -> list[Place]:
    """Every `step`-th place, the last axis of `order` fastest."""
    turned = itertools.product(*(range(extents[axis]) for axis in order))
    places = [tuple(turn[order.index(axis)] for axis in range(len(extents))) for turn in turned][::step]
    return places[::-1] if backwards else places


def predictions(extents: tuple[int, ...], places: list[Place]) -> list[list[Place]]:
    walks = Walks(Grid(extents))
    return [list(walks.note(place) or ()) for place in places]


def share_foretold(extents: tuple[int, ...], places: list[Place]) -> float:
    """How many places had been expected before they came."""
    expected: set[Place] = set()
    hits = 0
    for place, ahead in zip(places, predictions(extents, places), strict=True):
        hits += place in expected
        expected.update(ahead)
    return hits / len(places)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6).map(tuple), st.randoms(use_true_random=False))
def test_ranks_and_places_are_each_others_inverse(extents: tuple[int, ...], chance: random.Random) -> None:
    grid = Grid(extents)
    place = tuple(chance.randrange(extent) for extent in extents)
    for order in range(len(grid.orders)):
        rank = grid.rank(order, place)
        assert 0 <= rank < grid.size
        assert grid.place(order, rank) == place


@given(
    st.lists(st.integers(2, 5), min_size=2, max_size=4).map(tuple),
    st.data(),
    st.booleans(),
    st.integers(1, 3),
)
def test_a_walk_in_any_order_is_foretold(
    extents: tuple[int, ...], data: st.DataObject, backwards: bool, step: int
) -> None:
    order = tuple(data.draw(st.permutations(range(len(extents)))))
    places = walk_of(extents, order, step, backwards)
    assume(len(places) >= 40)
    assert share_foretold(extents, places) > 0.5


def test_the_walks_of_a_plate() -> None:
    extents = (8, 12, 4, 3, 5)  # row, column, field, channel, z
    row, column, field, channel, z = range(5)
    for order in (
        (row, column, field, z, channel),
        (row, column, field, channel, z),
        (row, column, channel, z, field),
        (channel, z, field, row, column),
        (channel, z, field, column, row),
    ):
        for backwards in (False, True):
            assert share_foretold(extents, walk_of(extents, order, 1, backwards)) > 0.95, (order, backwards)


def test_every_second_file_backwards() -> None:
    assert share_foretold((1000,), walk_of((1000,), (0,), 2, True)) > 0.97


def test_threads_that_overtake_each_other_are_one_walk() -> None:
    chance = random.Random(3)
    places = [(number,) for number in range(400)]
    for number in range(0, 396, 4):
        some = places[number : number + 4]
        chance.shuffle(some)
        places[number : number + 4] = some
    assert share_foretold((400,), places) > 0.9


def test_two_programs_walk_at_once() -> None:
    extents = (16, 24, 4)
    one, other = walk_of(extents, (0, 1, 2), 1, False)[:400], walk_of(extents, (2, 0, 1), 1, False)[700:1100]
    places = [place for pair in zip(one, other, strict=True) for place in pair]
    assert share_foretold(extents, places) > 0.8


def test_reading_by_chance_is_rarely_taken_for_a_walk() -> None:
    chance = random.Random(1)
    extents = (16, 24, 9, 4)
    places = [tuple(chance.randrange(extent) for extent in extents) for _ in range(2000)]
    assert sum(map(len, predictions(extents, places))) < 0.25 * len(places)


def test_little_is_expected_at_first_and_more_with_each_hit() -> None:
    ahead = predictions((1000,), [(number,) for number in range(12)])
    furthest = [places[-1][0] - number for number, places in enumerate(ahead) if places]
    assert furthest == [2, 4, 8, 16, 32, 32, 32, 32, 32, 32]
    assert furthest[-1] == MOST_AHEAD
    said = [place for places in ahead for place in places]
    assert said == [(number,) for number in range(3, 44)]


def test_what_was_not_asked_for_is_said_again() -> None:
    walks = Walks(Grid((1000,)))
    for number in range(6):
        walks.note((number,))
    assert next(walks.note((6,)) or iter(())) == (7,)
    assert next(walks.note((7,)) or iter(())) == (8,)


def test_nothing_is_expected_beyond_the_end() -> None:
    assert predictions((6,), [(number,) for number in range(6)])[-1] == []
    assert predictions((6,), [(number,) for number in range(5, -1, -1)])[-1] == []


def test_a_walk_that_turns_is_found_again() -> None:
    there = [(number,) for number in range(50)]
    assert share_foretold((50,), [*there, *there[::-1]]) > 0.8


def test_discouraged_walks_begin_small_again() -> None:
    walks = Walks(Grid((1000,)))
    for number in range(10):
        list(walks.note((number,)) or ())
    walks.discourage()
    assert len(list(walks.note((10,)) or ())) <= 4


@given(st.lists(st.lists(st.integers(0, 5), min_size=2, max_size=2).map(tuple), max_size=3 * REMEMBERED))
def test_what_is_expected_lies_on_the_grid(places: list[Place]) -> None:
    for ahead in predictions((6, 6), places):
        assert all(0 <= index < 6 for place in ahead for index in place)
        assert len(set(ahead)) == len(ahead)


def test_places_of_another_grid_are_no_places() -> None:
    walks = Walks(Grid((5, 5)))
    assert walks.note((1,)) is None
    assert Walks(Grid((1, 1))).note((0, 0)) is None
