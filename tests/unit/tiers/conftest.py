"""What every test of the tiers starts from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tier_bench import MIB, Tiers, shared_memory


@pytest.fixture
def tiers(tmp_path: Path) -> Iterator[Tiers]:
    """4 MiB of RAM and 16 MiB of cache, empty; at the end what is accounted is what is there."""
    cache = tmp_path / "cache"
    cache.mkdir()
    with shared_memory() as ram:
        made = Tiers(ram, cache, 4 * MIB, 16 * MIB)
        yield made
        made.assert_accounted()
        made.files.close()
