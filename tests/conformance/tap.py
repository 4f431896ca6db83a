"""What a program that speaks TAP, the Test Anything Protocol, said of its tests; pjdfstest's files speak it.

A test that was planned and never spoken of has failed: its file died on the way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PLAN = re.compile(r"^1\.\.(\d+)")
_RESULT = re.compile(r"^(not )?ok (\d+)(.*)$")
# A test that its author expects to fail on this system (a directive of TAP) says nothing of us either way.
_TODO = re.compile(r"#\s*todo\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Results:
    """Numbers of tests by what came of them; `failed` has what each said."""

    passed: frozenset[int]
    failed: dict[int, str]
    todo: frozenset[int]


def parse_tap(text: str) -> Results:
    """Results of one file, from what it printed."""
    passed, todo = set(), set()
    failed: dict[int, str] = {}
    planned = 0
    for line in text.splitlines():
        if plan := _PLAN.match(line):
            planned = int(plan[1])
        elif result := _RESULT.match(line):
            number = int(result[2])
            if _TODO.search(result[3]):
                todo.add(number)
            elif result[1]:
                failed[number] = result[3].removeprefix(" - ").strip() or "no word of why"
            else:
                passed.add(number)
    if not planned:
        failed[0] = "no plan: the file did not run"
    for number in range(1, planned + 1):
        if number not in passed | todo | failed.keys():
            failed[number] = "was planned and never came"
    return Results(frozenset(passed), failed, frozenset(todo))
