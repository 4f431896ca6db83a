"""Who serves which mount: small JSON records that anyone who may ask can find.

A daemon writes its `MountRecord` into its state folder and into the runtime folder of its user, where root,
another login of the same user and a session without the right environment look too. A record is believed only
if its folder and file belong to the user who made the mount (or root); a daemon is alive exactly as long as
the lock in its state folder is held. Nothing here asks a daemon or touches a mount point.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from vfsd.daemon.folders import ensure_private_tree, is_private_to
from vfsd.daemon.mountinfo import VFSD_TYPE, Mount, mount_at, read_mounts, resolve_mountpoint
from vfsd.daemon.places import Roots, own_roots, roots_of
from vfsd.errors import UnfitError, shown_path

# A record has a dozen short fields; anything larger was not written by us.
LARGEST_RECORD = 64 << 10


@dataclass(frozen=True, slots=True)
class MountRecord:
    """One daemon and its mount. Paths are text as os.fsdecode gives it, so that JSON keeps any bytes."""

    mount_id: str
    uid: int
    pid: int
    process_started: int
    """Field 22 of /proc/<pid>/stat: tells this process from a later one with the same number."""
    started: str
    """UTC, ISO 8601."""
    version: str
    source: str | None
    store: str
    mountpoint: str
    transport: str
    read_only: bool
    ingest: bool
    state_directory: str
    socket: str
    ram_directory: str
    ram_budget: int
    cache_directory: str
    cache_budget: int
    plate_format: str | None = None
    pattern: str | None = None
    labels: str | None = None
    """What names of plates mean, so that a flush after a crash takes them as the mount did."""
    levels: int | None = None
    verify: str = "full"
    device: str | None = None
    """"major:minor" of the mount while it is there."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @property
    def registry_name(self) -> str:
        """Its file in the registry: by device while mounted, by mount id before and after."""
        return f"{self.device or self.mount_id}.json"

    def mounted_as(self, device: str | None) -> MountRecord:
        return replace(self, device=device)


def parse_record(text: bytes) -> MountRecord | None:
    """The record in `text`; None if it is anything else."""
    try:
        document = json.loads(text)
        names = {field.name for field in fields(MountRecord)}
        # Keys of a newer version are passed over, so that an older `vfsd status` still finds the daemon.
        record = MountRecord(**{key: value for key, value in document.items() if key in names})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    optional = dict.fromkeys(("source", "device", "plate_format", "pattern", "labels"), str | None) | {
        "levels": int | None
    }
    kinds: dict[str, type] = {
        "uid": int,
        "pid": int,
        "process_started": int,
        "ram_budget": int,
        "cache_budget": int,
    }
    kinds |= {"read_only": bool, "ingest": bool}
    for field in fields(MountRecord):
        if not isinstance(getattr(record, field.name), optional.get(field.name, kinds.get(field.name, str))):
            return None
    names_inside = (record.mount_id, record.device or "")
    return None if any("/" in name or "\0" in name for name in names_inside) else record


def read_record(path: Path, owners: Iterable[int]) -> MountRecord | None:
    """The record in a file, if one of `owners` wrote it; None for anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in owners or found.st_size > LARGEST_RECORD:
            return None
        record = parse_record(os.read(descriptor, LARGEST_RECORD))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return record if record is not None and record.uid == found.st_uid else None


def write_file_durably(path: Path, text: str) -> None:
    """Replace `path` as a whole: after a crash it holds the old text or the new. Mode 0644."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def register(record: MountRecord, roots: Roots) -> None:
    """Put the record where everybody looks. Its folder may be readable by others: mountinfo tells as much."""
    if roots.uid == 0:
        roots.registry.mkdir(mode=0o755, parents=True, exist_ok=True)
    else:
        ensure_private_tree(roots.runtime, roots.registry.name)
    write_file_durably(roots.registry / record.registry_name, record.to_json())
    _forget_the_dead(roots)


def _forget_the_dead(roots: Roots) -> None:
    """Remove records of daemons that died and whose mount is gone. Their state folders have a copy."""
    devices = {mount.device for mount in read_mounts() if mount.filesystem == VFSD_TYPE}
    for path in roots.registry.glob("*.json"):
        found = read_record(path, (roots.uid,))
        if found is not None and found.device not in devices and not is_alive(found):
            path.unlink(missing_ok=True)


def unregister(record: MountRecord, roots: Roots) -> None:
    """Take the record away, unless the same device number by now belongs to another daemon."""
    path = roots.registry / record.registry_name
    found = read_record(path, (roots.uid,))
    if found is not None and found.pid == record.pid:
        path.unlink(missing_ok=True)


def process_start(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if there is none or it has ended (a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command's name is in parentheses and may hold anything, so count from the last one (proc(5)).
    fields_after_name = text[text.rindex(b")") + 2 :].split()
    # A zombie holds nothing any more; how soon its parent takes note is the parent's affair.
    return None if fields_after_name[0] in (b"Z", b"X") else int(fields_after_name[19])


def lock_is_held(path: Path) -> bool | None:
    """Whether some process holds the lock file; None if we may not look."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def is_alive(record: MountRecord) -> bool:
    """Whether the daemon of this record still runs."""
    held = lock_is_held(Path(record.state_directory) / "lock")
    same_process = process_start(record.pid) == record.process_started
    # The lock decides; after a fork of its holder, or where we may not open it, the process must be the same
    # one.
    return same_process if held is None else held and same_process


@dataclass(frozen=True, slots=True)
class KnownMount:
    """A vfsd mount, a daemon, or both: a daemon may still flush after its mount is gone, or be dead."""

    mountpoint: Path
    mount: Mount | None
    record: MountRecord | None
    alive: bool


def known_mounts(mounts: list[Mount] | None = None, roots: Roots | None = None) -> list[KnownMount]:
    """Every vfsd mount of this machine that we see, and every living vfsd daemon, ordered by mount point."""
    mounts = read_mounts() if mounts is None else mounts
    roots = own_roots() if roots is None else roots
    served = [mount for mount in mounts if mount.filesystem == VFSD_TYPE]
    records = {record.state_directory: record for record in _all_records(served, roots)}
    known = []
    matched = set()
    for mount in served:
        record = _record_of(mount, records.values())
        if record is not None:
            matched.add(record.state_directory)
        alive = record is not None and is_alive(record)
        known.append(KnownMount(Path(os.fsdecode(mount.mountpoint)), mount, record, alive))
    for state, record in records.items():
        if state not in matched and is_alive(record):
            known.append(KnownMount(Path(record.mountpoint), None, record, True))
    return sorted(known, key=lambda one: os.fsencode(one.mountpoint))


def find_mount(path: Path) -> KnownMount:
    """The mount at `path`, or the daemon that has just lost it and still flushes.

    Raises
    ------
    UnfitError
        If there is neither.
    """
    mounts = read_mounts()
    resolved = resolve_mountpoint(path, mounts)
    known = [one for one in known_mounts(mounts) if one.mountpoint == resolved]
    top = mount_at(os.fsencode(resolved), mounts)
    for one in known:
        if one.mount is not None and one.mount == top:
            return one
    for one in known:
        if one.mount is None:
            return one
    raise UnfitError("is not a vfsd mount", path=path, remedy=_elsewhere(resolved, mounts))


def _elsewhere(path: Path, mounts: list[Mount]) -> str:
    """A hint: the mount that the path lies in, or how to see all of them."""
    for mount in mounts:
        point = Path(os.fsdecode(mount.mountpoint))
        if mount.filesystem == VFSD_TYPE and path.is_relative_to(point):
            return f"It lies in the mount {shown_path(point)}: name that"
    return "'vfsd status' lists the mounts there are"


def _record_of(mount: Mount, records: Iterable[MountRecord]) -> MountRecord | None:
    """The record of a mount: same device, same user; for a reused number the living one."""
    point = os.fsdecode(mount.mountpoint)
    candidates = [
        record
        for record in records
        if record.device == mount.device and record.uid in (mount.user_id, 0) and mount.user_id is not None
    ]
    for record in candidates:
        if record.mountpoint == point:
            return record
    return next((record for record in candidates if is_alive(record)), None)


def _all_records(served: list[Mount], roots: Roots) -> Iterator[MountRecord]:
    uids = {0, roots.uid, *(mount.user_id for mount in served if mount.user_id is not None)}
    if roots.uid == 0:
        uids |= _users_with_shared_memory()
    for uid in sorted(uids):
        place = roots if uid == roots.uid else roots_of(uid)
        if is_private_to(place.registry, (uid, 0)):
            for path in sorted(place.registry.glob("*.json")):
                if (record := read_record(path, (uid, 0))) is not None:
                    yield record
        # Also where a logout emptied the runtime folder, the state folders are still there.
        if is_private_to(place.state, (uid, 0)):
            for path in sorted(place.state.glob("*/mount.json")):
                if (record := read_record(path, (uid, 0))) is not None:
                    yield record


def _users_with_shared_memory() -> set[int]:
    """The users who have a vfsd folder in /dev/shm: only root may look into them."""
    names = (path.name.removeprefix("vfsd-") for path in Path("/dev/shm").glob("vfsd-*"))
    return {int(name) for name in names if name.isdigit() and len(name) < 11}
