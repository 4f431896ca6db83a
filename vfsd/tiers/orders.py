"""In which order a program walks over files that have places, and which it will want next. Pure: numbers in, numbers out.

A *grid* is the places that files can have: axes (row, column, field, time, channel, z of a plate, or one axis of names) with so
many values each. A walk takes them as an odometer does, some axis fastest, some next, forwards or backwards, in steps of one or
more; which, is found from the last few places:

- In each order of the axes every place has a number (its *rank*). Of a walk's own order the last ranks lie on a short line with
  a constant step. The order with the smallest step explains the walk; where several do, the one that explained it before, else
  the first of `_axis_orders`.
- Several threads of one program take places not quite in order: what counts is that the last places fill the line, not that
  each follows the one before.
- Several walks at once are told apart: a place that lies just ahead of a walk belongs to it, what belongs to none may begin one.

What is expected grows with every place that was expected, and is nothing after one that was not, until the walk is found again.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Place = tuple[int, ...]
"""An index along each axis of a grid."""

REMEMBERED: Final = 8
"""Places from which an order is found: enough to see a step from one run of the fastest axis to the next in most plates."""

FEWEST: Final = 3
"""Places that make a walk: two are on a line in any order."""

FULL: Final = 0.6
"""How much of its line the last places must fill. Threads that are a few places apart leave gaps; chance fills far less."""

FIRST_AHEAD: Final = 2
MOST_AHEAD: Final = 32
"""How many places are expected of a walk just found, and at most: doubled with each that came."""

SLACK: Final = 8
"""Steps by which a place may be before or beyond the last one and still belong to the walk: threads overtake each other."""

MOST_TURNS: Final = 2
"""Programs that begin to walk at the same time and are told apart; each needs places enough of those remembered."""

MOST_WALKS: Final = 8
"""Walks told apart in one grid; a program with more readers than that reads at random for all we can see."""

MOST_PATIENCE: Final = 64
"""Looking for an order costs some ten microseconds; after as many places without one it is done for every 64th only."""


@functools.cache
def _axis_orders(moving: tuple[int, ...]) -> NDArray[np.int64]:
    """Every order of the axes that have more than one value, slowest first; likely ones first: the axes as they stand, then
    those that differ from it least."""
    orders = sorted(itertools.permutations(range(len(moving))), key=_disorder)
    return np.array([[moving[axis] for axis in order] for order in orders], np.int64).reshape(len(orders), len(moving))


def _disorder(order: tuple[int, ...]) -> int:
    return sum(abs(place - axis) for place, axis in enumerate(order))


@final
class Grid:
    """How many values each axis has, slowest in the order of names first; ranks of places in each order of the axes."""

    def __init__(self, extents: Sequence[int]) -> None:
        self.extents = tuple(max(1, int(extent)) for extent in extents)
        moving = tuple(axis for axis, extent in enumerate(self.extents) if extent > 1)
        self.orders = _axis_orders(moving)
        self.weights = np.zeros((len(self.orders), len(self.extents)), np.int64)
        for number, order in enumerate(self.orders):
            weight = 1
            for axis in reversed(order.tolist()):
                self.weights[number, axis] = weight
                weight *= self.extents[axis]
        self.size = 1
        for extent in self.extents:
            self.size *= extent
        # as numbers of Python: one rank at a time is needed with every file that is opened
        self._weights = [tuple(row) for row in self.weights.tolist()]

    def rank(self, order: int, place: Place) -> int:
        """The number of a place in an order."""
        return sum(weight * index for weight, index in zip(self._weights[order], place, strict=True))

    def place(self, order: int, rank: int) -> Place:
        """The place of a number."""
        found = [0] * len(self.extents)
        for axis in reversed(self.orders[order].tolist()):
            rank, found[axis] = divmod(rank, self.extents[axis])
        return tuple(found)


@dataclass(slots=True)
class _Walk:
    """An order that was found: the rank that it has come to, its step, which is negative backwards, and its last places."""

    order: int
    step: int
    last: int
    recent: list[Place]
    ahead: int = FIRST_AHEAD
    used: int = 0
    told: int = 0

    def reaches(self, rank: int) -> bool:
        """Whether a rank lies where the walk is about to be."""
        steps, rest = divmod(rank - self.last, self.step)
        return rest == 0 and -SLACK <= steps <= SLACK

    def move_to(self, rank: int, place: Place) -> None:
        self.recent.append(place)
        del self.recent[: -REMEMBERED + 1]
        if (rank - self.last) // self.step > 0:
            self.last = rank
        self.ahead = min(MOST_AHEAD, 2 * self.ahead)


@final
class Walks:
    """The walks over one grid.

    Example
    -------
    >>> walks = Walks(Grid((8, 12, 4)))                                   # rows, columns, fields
    >>> [list(walks.note((0, 0, field)) or ()) for field in range(3)][-1]
    [(0, 0, 3), (0, 1, 0)]
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._walks: list[_Walk] = []
        self._unclaimed: list[Place] = []
        self._noted = 0
        self._missed = 0
        self._liked: list[int] = []

    def note(self, place: Place) -> Iterator[Place] | None:
        """A program took a place; those that it will take next, the nearest first, unless they were said before.

        None where that cannot be said. They may be asked for one after the other, or not at all.
        """
        self._noted += 1
        if len(place) != len(self.grid.extents) or self.grid.size < 2:
            return None
        walk = self._claim(place)
        if walk is None:
            walk = self._begin(place)
        if walk is None:
            return None
        walk.used = self._noted
        return self._expected(walk)

    def discourage(self) -> None:
        """What was expected did not come: expect little of every walk again."""
        for walk in self._walks:
            walk.ahead = FIRST_AHEAD

    def _claim(self, place: Place) -> _Walk | None:
        for walk in self._walks:
            rank = self.grid.rank(walk.order, place)
            if walk.reaches(rank):
                walk.move_to(rank, place)
                return walk
        return None

    def _begin(self, place: Place) -> _Walk | None:
        """A place that no walk expected: does it make one with the last of its kind?"""
        if not self._unclaimed and self._walks:
            # the walk that came last may have turned here: what it turned around is in its last places
            self._unclaimed = list(max(self._walks, key=lambda walk: walk.used).recent)
        if place in self._unclaimed:
            self._unclaimed.remove(place)
        self._unclaimed.append(place)
        del self._unclaimed[:-REMEMBERED]
        self._missed += 1
        if len(self._unclaimed) < FEWEST or not self._is_worth_looking():
            return None
        found = self._find()
        if found is None:
            return None
        self._missed = 0
        self._unclaimed = [place for place in self._unclaimed if place not in found.recent]
        if len(self._walks) >= MOST_WALKS:
            self._walks.remove(min(self._walks, key=lambda walk: walk.used))
        # the one that lost its way goes on here
        self._walks = [
            walk for walk in self._walks if walk.used < self._noted - SLACK or walk.recent[-1] not in found.recent
        ]
        self._walks.append(found)
        if found.order in self._liked:
            self._liked.remove(found.order)
        self._liked.insert(0, found.order)
        return found

    def _is_worth_looking(self) -> bool:
        return self._missed <= MOST_PATIENCE or self._missed % MOST_PATIENCE < FEWEST

    def _find(self) -> _Walk | None:
        for turns in range(1, MOST_TURNS + 1):  # several programs that began at the same time take turns
            places = self._unclaimed[::-turns][::-1]
            for count in range(len(places), FEWEST - 1 + (turns > 1), -1):
                walk = self._fit(places[-count:])
                if walk is not None:
                    walk.recent = places[-count:][-REMEMBERED + 1 :]
                    return walk
        return None

    def _fit(self, places: list[Place]) -> _Walk | None:
        """The order in which these places are a walk, if there is one."""
        ranks = self.grid.weights @ np.array(places, np.int64).T
        differences = ranks[:, 1:] - ranks[:, :-1]
        steps = np.gcd.reduce(np.abs(differences), axis=1)
        spread = ranks.max(axis=1) - ranks.min(axis=1)
        fits = steps * (len(places) - 1) >= FULL * spread
        if len(places) == FEWEST:  # three places fill a line by chance: they must follow each other as well
            fits &= (differences == differences[:, :1]).all(axis=1)
        candidates = np.flatnonzero(fits & (steps > 0)).tolist()
        if not candidates:
            return None
        order = min(candidates, key=lambda one: (int(steps[one]), self._dislike(one), one))
        line = ranks[order].tolist()
        forwards = sum(1 if late > early else -1 for early, late in itertools.pairwise(line))
        if forwards == 0:
            return None
        step = int(steps[order]) * (1 if forwards > 0 else -1)
        last = max(line) if step > 0 else min(line)
        return _Walk(order, step, last, [], told=last)

    def _dislike(self, order: int) -> int:
        return self._liked.index(order) if order in self._liked else len(self._liked)

    def _expected(self, walk: _Walk) -> Iterator[Place]:
        for number in range(1, walk.ahead + 1):
            rank = walk.last + number * walk.step
            if not 0 <= rank < self.grid.size:
                return
            if (rank - walk.told) // walk.step > 0:
                walk.told = rank
                yield self.grid.place(walk.order, rank)
