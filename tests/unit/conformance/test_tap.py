"""What a file of a conformance suite says is counted right; above all, what it does not say."""

from __future__ import annotations

from conformance.tap import parse_tap


def test_results_are_counted_by_what_came_of_them() -> None:
    results = parse_tap("1..4\nok 1\nnot ok 2 - tried 'mkdir', expected 0, got EIO\nok 3 # TODO not on Linux\nok 4\n")
    assert results.passed == {1, 4}
    assert results.failed == {2: "tried 'mkdir', expected 0, got EIO"}
    assert results.todo == {3}


def test_a_file_that_dies_has_failed_all_that_it_owed() -> None:
    assert parse_tap("1..3\nok 1\n").failed == dict.fromkeys((2, 3), "was planned and never came")


def test_a_file_that_does_not_run_has_failed() -> None:
    assert parse_tap("").failed
    assert parse_tap("sh: cannot open\n").failed
