"""What every test of the tree starts from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tree_bench import Bench, in_shared_memory


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A source, an empty store, and tiers; whatever is mounted at the end is let go."""
    with in_shared_memory() as ram:
        made = Bench(tmp_path, ram)
        yield made
        made.unmount()
