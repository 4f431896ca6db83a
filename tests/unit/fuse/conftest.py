"""What tests of the transports start from: a tree without a mount, as the tests of the tree have it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tree"))

from tree_bench import Bench, in_shared_memory


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A source, an empty store, and tiers; whatever is mounted at the end is let go."""
    with in_shared_memory() as ram:
        made = Bench(tmp_path, ram)
        yield made
        made.unmount()
