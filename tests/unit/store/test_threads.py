"""Work in several threads: everything is done once, and the first problem reaches whoever asked."""

from __future__ import annotations

import threading

import pytest

from vfsd.store.threads import in_threads


@pytest.mark.parametrize("threads", [1, 2, 4, 40])
@pytest.mark.parametrize("count", [0, 1, 2, 37])
def test_every_number_is_worked_on_once(threads: int, count: int) -> None:
    seen: list[int] = []
    in_threads(count, seen.append, threads)
    assert sorted(seen) == list(range(count))


def test_two_threads_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=30)
    in_threads(2, lambda number: both.wait() and None, 2)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_problem_ends_the_work_and_is_raised(threads: int) -> None:
    def work(number: int) -> None:
        if number == 5:
            raise ValueError("number five")

    with pytest.raises(ValueError, match="number five"):
        in_threads(1000, work, threads)
