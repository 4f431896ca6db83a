"""Where a tree in a process keeps what is not in its store yet: the very folders that a mount of the same store would use.

    state     /var/lib/vfsd/<id>      $XDG_STATE_HOME/vfsd/<id>       journal, lock, mount.json
    cache     <state>/cache
    ram       /dev/shm/vfsd-<uid>/<id>/ram

(first column root, second everybody else.) So whatever a process that was killed leaves, the next one finds, and so do
`vfsd mount` and `vfsd recover`: mount.json says in their words (`daemon.registry.MountRecord`) what lies where. The lock is the
daemon's own, so that only one of them is at it. What is somebody else's is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, final

import vfsd
from vfsd.errors import BusyError, UnfitError
from vfsd.tiers.memory import available_bytes, default_ram_budget

_SHARED_MEMORY: Final = Path("/dev/shm")
_RECORD: Final = "mount.json"
# Others look whether the lock is held by taking it for an instant.
_PATIENCE: Final = 1.0
# SQLite's journal and flock are wrong on file systems that other machines have, too.
_REMOTE: Final = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "smb2",
    "9p",
    "afs",
    "ceph",
    "lustre",
    "gpfs",
    "beegfs",
    "glusterfs",
)
# systemd-logind empties /dev/shm of ordinary users at their last logout, unless they linger (logind.conf(5), RemoveIPC).
_LINGER: Final = Path("/var/lib/systemd/linger")
_LOGIND: Final = Path("/run/systemd/seats")
_LAST_SYSTEM_UID: Final = 999


@final
@dataclass(frozen=True, slots=True)
class StateFolder:
    """The folders of one tree, made and locked; budgets in bytes."""

    root: Path
    ram: Path
    cache: Path
    ram_budget: int
    cache_budget: int
    lock: int

    def let_go(self) -> None:
        """Keep what is in it for whoever comes next."""
        os.close(self.lock)

    def remove(self) -> None:
        """Everything of it is in the store."""
        for folder in (self.ram, self.cache, self.root):
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.ram.parent.rmdir()
        os.close(self.lock)


def open_state(store_id: str, store: Path, source: Path | None, *, ram: int | None, cache: int | None) -> StateFolder:
    """Make or find the folders of a store's tree.

    Raises
    ------
    UnfitError
        They are somebody else's, or lie on a network file system.
    BusyError
        A mount or another process uses the store.
    """
    root = _state_home() / store_id
    _make_private(root.parent)
    _refuse_remote(root.parent)
    _make_private(root)
    lock = _take_lock(root / "lock")
    if lock is None:
        raise BusyError("is in use by another process", path=store, remedy="Close it there, or use the mount there is")
    try:
        left = _record_left(root / _RECORD)
        ram_folder, cache_folder = _SHARED_MEMORY / f"vfsd-{os.geteuid()}" / store_id / "ram", root / "cache"
        for name, folder in (("ram_directory", ram_folder), ("cache_directory", cache_folder)):
            where = Path(left.get(name, folder))
            if where != folder and where.is_dir() and any(where.iterdir()):
                raise UnfitError(
                    f"an earlier mount left files in {where}", path=store, remedy="Flush them first: vfsd recover"
                )
        _make_private(ram_folder.parent.parent)
        _make_private(ram_folder.parent)
        _make_private(ram_folder)
        _make_private(cache_folder)
        figures = os.statvfs(ram_folder)
        budget = (
            default_ram_budget(available_bytes(), figures.f_blocks * figures.f_frsize or None) if ram is None else ram
        )
        if ram is None and _logout_empties_shared_memory():
            budget = 0
        room = shutil.disk_usage(cache_folder).free * 4 // 5 if cache is None else cache
        state = StateFolder(root, ram_folder, cache_folder, budget, room, lock)
        _write_record(root / _RECORD, _record(state, store_id, store, source))
        return state
    except BaseException:
        os.close(lock)
        raise


def _state_home() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/vfsd")
    chosen = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (chosen if chosen.is_absolute() else Path("~/.local/state").expanduser()) / "vfsd"


def _make_private(folder: Path) -> None:
    """A real folder of ours that nobody else may enter."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
            _sync_folder(folder.parent)  # what is synced in it later must be found after a power failure
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise UnfitError(f"cannot be made or entered ({error.strerror})", path=folder) from error
    try:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid():
            raise UnfitError(f"belongs to user {found.st_uid}, not to you", path=folder)
        if stat.S_IMODE(found.st_mode) != 0o700:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _refuse_remote(folder: Path) -> None:
    import psutil

    resolved = Path(os.path.realpath(folder))
    holding = [part for part in psutil.disk_partitions(all=True) if resolved.is_relative_to(part.mountpoint)]
    kind = max(holding, key=lambda part: len(part.mountpoint)).fstype if holding else ""
    if kind in _REMOTE or kind.removeprefix("fuse.") in ("sshfs", "s3fs", "rclone", "gcsfuse", "davfs2"):
        raise UnfitError(
            f"lies on a network file system ({kind}); the journal needs a local disk",
            path=folder,
            remedy="Set XDG_STATE_HOME to a folder on a local disk",
        )


def _take_lock(path: Path) -> int | None:
    """Lock a file that is still there under its name; None if somebody else has it."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), path.stat()):
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(fd)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.02)


def _logout_empties_shared_memory() -> bool:
    import pwd

    if os.geteuid() <= _LAST_SYSTEM_UID or not _LOGIND.exists():
        return False
    try:
        return not (_LINGER / pwd.getpwuid(os.geteuid()).pw_name).exists()
    except KeyError:
        return True


def _record_left(path: Path) -> dict[str, Any]:
    """Of whoever was here before; {} if nobody was. The folder is private, so it is one of ours."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _record(state: StateFolder, store_id: str, store: Path, source: Path | None) -> dict[str, Any]:
    with open("/proc/self/stat", "rb") as file:
        started = int(file.read().rpartition(b")")[2].split()[19])
    return {
        "mount_id": store_id,
        "uid": os.geteuid(),
        "pid": os.getpid(),
        "process_started": started,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": vfsd.__version__,
        "source": None if source is None else os.fspath(source),
        "store": os.fspath(store),
        "mountpoint": "",
        "transport": "none",
        "read_only": False,
        "ingest": False,
        "state_directory": os.fspath(state.root),
        "socket": "",
        "ram_directory": os.fspath(state.ram),
        "ram_budget": state.ram_budget,
        "cache_directory": os.fspath(state.cache),
        "cache_budget": state.cache_budget,
    }


def _write_record(path: Path, record: dict[str, Any]) -> None:
    """Replaced as a whole, and durable before the first file is made: whatever a crash leaves is found from here."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    _sync_folder(path.parent)
