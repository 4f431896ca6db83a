"""How much RAM a mount may take when nobody said: half of what is free, within the control group's limit.

Files in tmpfs are charged to the control group of whoever writes them, and a group over its limit gets its
processes killed, so the smallest limit from our group up to the root counts. Page cache is not pressure: the
kernel gives it back.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
# Version 1 writes "no limit" as the largest multiple of the page size below 2^63.
UNLIMITED = 2**62


def available_bytes() -> int:
    """What new tmpfs pages may take before the machine or our control group is short of memory."""
    import psutil

    available = int(psutil.virtual_memory().available)
    headroom = cgroup_headroom(MEMBERSHIP, CGROUPS)
    return available if headroom is None else min(available, headroom)


def default_ram_budget(available: int, tmpfs_size: int | None) -> int:
    """Half of what is available, never more than the tmpfs holds (None: it is made to measure)."""
    budget = available // 2
    return budget if tmpfs_size is None else min(budget, tmpfs_size)


def cgroup_headroom(membership: Path, cgroups: Path) -> int | None:
    """Bytes until the tightest memory limit of our control groups, of either version; None without one."""
    try:
        lines = membership.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    rooms = []
    for line in lines:
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            for base in (cgroups, cgroups / "unified"):
                rooms += [room for group in _upwards(base, path) if (room := _headroom_v2(group)) is not None]
        elif "memory" in controllers.split(","):
            rooms += [room for group in _upwards(cgroups / "memory", path) if (room := _headroom_v1(group)) is not None]
    return min(rooms, default=None)


def _upwards(base: Path, path: str) -> Iterator[Path]:
    """The folder of a group and of each group above it, the hierarchy's root included.

    In a container the path may name a group that is not visible below `base`; the visible ones still count.
    """
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for length in range(len(parts), -1, -1):
        yield base.joinpath(*parts[:length])


def _headroom_v2(group: Path) -> int | None:
    limit = _number(group / "memory.max")
    usage = _number(group / "memory.current")
    return None if limit is None or usage is None else _room(group, limit, usage, "file", "shmem")


def _headroom_v1(group: Path) -> int | None:
    limit = _number(group / "memory.limit_in_bytes")
    usage = _number(group / "memory.usage_in_bytes")
    return None if limit is None or usage is None else _room(group, limit, usage, "total_cache", "total_shmem")


def _room(group: Path, limit: int, usage: int, cache_key: str, shmem_key: str) -> int | None:
    """limit - (usage - page cache + tmpfs): "file" and "cache" include shmem, which cannot be dropped."""
    if limit >= UNLIMITED:
        return None
    statistics = _statistics(group / "memory.stat")
    pressing = usage - statistics.get(cache_key, 0) + statistics.get(shmem_key, 0)
    return max(0, limit - pressing)


def _number(path: Path) -> int | None:
    """The number in a control file; None where it is missing or says "max"."""
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _statistics(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(" ") for line in lines)
    return {key: int(value) for key, _, value in pairs if value.isdigit()}
