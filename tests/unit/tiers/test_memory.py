"""Memory limits of control groups, both versions, with what presses and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfsd.tiers.memory import available_bytes, cgroup_headroom, default_ram_budget


def group_v2(folder: Path, limit: str, usage: int, file: int, shmem: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\nfile {file}\nshmem {shmem}\n")


def membership(folder: Path, text: str) -> Path:
    path = folder / "cgroup"
    path.write_text(text)
    return path


def test_page_cache_does_not_press_and_tmpfs_does(tmp_path: Path) -> None:
    group_v2(tmp_path / "sys" / "user", "1000", usage=800, file=500, shmem=100)
    assert cgroup_headroom(membership(tmp_path, "0::/user\n"), tmp_path / "sys") == 1000 - (800 - 500 + 100)


def test_the_tightest_group_up_to_the_root_counts(tmp_path: Path) -> None:
    group_v2(tmp_path / "sys" / "a", "500", 100, 0, 0)
    group_v2(tmp_path / "sys" / "a" / "b", "max", 100, 0, 0)
    group_v2(tmp_path / "sys" / "a" / "b" / "c", "10000", 100, 0, 0)
    assert cgroup_headroom(membership(tmp_path, "0::/a/b/c\n"), tmp_path / "sys") == 400


def test_version_1(tmp_path: Path) -> None:
    folder = tmp_path / "sys" / "memory" / "job"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("1000\n")
    (folder / "memory.usage_in_bytes").write_text("900\n")
    (folder / "memory.stat").write_text("total_cache 600\ntotal_shmem 200\n")
    (folder.parent / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (folder.parent / "memory.usage_in_bytes").write_text("900\n")
    text = "4:memory:/job\n3:cpuset:/\n0::/\n"
    assert cgroup_headroom(membership(tmp_path, text), tmp_path / "sys") == 500


@pytest.mark.parametrize("text", ["", "garbage\n", "0::/../../x\n", "1:name=systemd:/\n", "0::/gone\n"])
def test_no_limit_where_none_can_be_read(tmp_path: Path, text: str) -> None:
    assert cgroup_headroom(membership(tmp_path, text), tmp_path / "sys") is None
    assert cgroup_headroom(tmp_path / "missing", tmp_path) is None


def test_a_full_group_leaves_nothing(tmp_path: Path) -> None:
    group_v2(tmp_path / "sys", "100", 500, 0, 0)
    assert cgroup_headroom(membership(tmp_path, "0::/\n"), tmp_path / "sys") == 0


def test_half_of_what_is_available_within_the_tmpfs() -> None:
    assert default_ram_budget(1000, None) == 500
    assert default_ram_budget(1000, 300) == 300
    assert available_bytes() > 0
