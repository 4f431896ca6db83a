"""Descriptors: bounded, never closed under somebody who uses them, never left open."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vfsd.tiers.descriptors import DescriptorCache


def opener(path: Path) -> Callable[[], int]:
    return lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def is_open(fd: int) -> bool:
    return Path(f"/proc/self/fd/{fd}").exists()


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = [tmp_path / str(number) for number in range(5)]
    for path in made:
        path.write_text(path.name)
    return made


def test_the_least_recently_used_goes_first_and_is_opened_again(paths: list[Path]) -> None:
    cache = DescriptorCache(limit=3)
    for path in paths[:3]:
        cache.descriptor(path, opener(path))
    cache.descriptor(paths[0], opener(paths[0]))
    cache.descriptor(paths[3], opener(paths[3]))
    assert [cache.known(path) for path in paths[:4]] == [True, False, True, True]
    assert os.pread(cache.descriptor(paths[1], opener(paths[1])), 9, 0) == b"1"
    cache.close()


def test_a_pinned_descriptor_outlives_everything(paths: list[Path]) -> None:
    cache = DescriptorCache(limit=1)
    with cache.pinned(paths[0], opener(paths[0])) as first:
        with cache.pinned(paths[0], opener(paths[0])) as again:
            assert again == first
            for path in paths[1:]:
                cache.descriptor(path, opener(path))
            cache.forget(paths[0])
            cache.close()
            assert os.pread(first, 9, 0) == b"0"
        assert is_open(first)
    assert not is_open(first)


def test_nothing_is_left_open(paths: list[Path]) -> None:
    before = set(os.listdir("/proc/self/fd"))
    cache = DescriptorCache(limit=2)
    for path in paths * 3:
        cache.descriptor(path, opener(path))
    cache.adopt(paths[4], os.open(paths[4], os.O_RDONLY))
    cache.adopt(paths[0], os.open(paths[0], os.O_RDONLY))
    cache.forget(paths[0])
    cache.forget(paths[0])
    assert len(cache) <= 2
    cache.close()
    assert set(os.listdir("/proc/self/fd")) == before
