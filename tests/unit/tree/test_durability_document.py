"""docs/durability.md names the test of each promise: every one of them is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "durability.md").read_text()
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_every_test_that_is_named_exists() -> None:
    named = NAMED.findall(DOCUMENT)
    assert len(named) > 20
    for file, test in named:
        path = ROOT / file
        assert path.is_file(), file
        assert not test or re.search(rf"^(async )?def {test}\(", path.read_text(), re.MULTILINE), f"{file}::{test}"


def test_every_promise_names_a_test() -> None:
    _, _, table = DOCUMENT.partition("| promise | held by |\n")
    rows = [line for line in table.splitlines() if line.startswith("|")][1:]
    assert rows
    assert [row for row in rows if not NAMED.search(row)] == []
