"""What every test of the tiers starts from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tier_bench import MIB, Tiers, shared_memory, tmpfs_of


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


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Tiers]:
    """The same, but the cache's disk is full when the cache is: no more than 16 MiB fit."""
    with shared_memory() as ram, tmpfs_of(tmp_path / "disk", 16 * MIB) as cache:
        made = Tiers(ram, cache, 4 * MIB, 16 * MIB)
        yield made
        made.assert_accounted()
        made.files.close()
