"""Where the things of one mount lie: state folder, RAM folder, cache folder, and the shared runtime folder.

    state     /var/lib/vfsd/<id>            $XDG_STATE_HOME/vfsd/<id>      journal, lock, log, control socket
    cache     <state>/cache                 or DIR/<id> with --cache DIR   dirty and clean bytes on disk
    ram       /run/vfsd/<id>/ram            /dev/shm/vfsd-<uid>/<id>/ram   bytes in tmpfs
    runtime   /run/vfsd                     /dev/shm/vfsd-<uid>            who serves which mount

(first column root, second everybody else). The id is the store's, so the next mount of the same store finds
what the last one left. Nothing here decides when something is removed; it only knows the names and the rules
for them.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vfsd.daemon.folders import ensure_private_tree, refuse_network_filesystem

# A Unix socket's name, its final NUL included, fits into sun_path (unix(7)).
LONGEST_SOCKET_NAME = 107
LOCAL_STATE_REMEDY = "Set XDG_STATE_HOME to a folder on a local disk"


@dataclass(frozen=True, slots=True)
class Roots:
    """The folders of one user under which all of that user's mounts keep their things."""

    uid: int
    state: Path
    runtime: Path
    shared_memory: Path

    @property
    def registry(self) -> Path:
        """The folder with one small file for each mount of this user."""
        return self.runtime / "mounts"


def roots_of(uid: int, state_home: Path | None = None) -> Roots:
    """The roots of a user; `state_home` replaces ~/.local/state (for root neither is used)."""
    shared_memory = Path("/dev/shm") / f"vfsd-{uid}"
    if uid == 0:
        return Roots(0, Path("/var/lib/vfsd"), Path("/run/vfsd"), shared_memory)
    if state_home is None:
        state_home = _home_of(uid) / ".local" / "state"
    return Roots(uid, state_home / "vfsd", shared_memory, shared_memory)


def own_roots(environment: Mapping[str, str] | None = None) -> Roots:
    """The roots of whoever runs this process. A relative XDG_STATE_HOME does not count."""
    environment = os.environ if environment is None else environment
    state_home = Path(environment.get("XDG_STATE_HOME", ""))
    return roots_of(os.geteuid(), state_home if state_home.is_absolute() else None)


def _home_of(uid: int) -> Path:
    if uid == os.geteuid():
        return Path("~").expanduser()
    try:
        return Path(pwd.getpwuid(uid).pw_dir)
    except KeyError:
        return Path("/nonexistent")


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one mount."""

    mount_id: str
    roots: Roots
    state: Path
    ram: Path
    cache: Path
    ram_is_default: bool
    """Whether `ram` lies at its default place, where root gets a tmpfs of its own."""

    @property
    def lock(self) -> Path:
        """Locked (flock) by the daemon as long as it lives."""
        return self.state / "lock"

    @property
    def log(self) -> Path:
        return self.state / "daemon.log"

    @property
    def socket(self) -> Path:
        return self.state / "control.sock"

    @property
    def record(self) -> Path:
        """Who serves this mount, with what (`MountRecord`)."""
        return self.state / "mount.json"

    @property
    def result(self) -> Path:
        """How the last daemon ended, when it kept anything."""
        return self.state / "result.json"


def places_for(mount_id: str, roots: Roots, ram_dir: Path | None = None, cache_dir: Path | None = None) -> Places:
    """Where the mount `mount_id` of this user keeps its things; `ram_dir`, `cache_dir`: the user's choice."""
    state = roots.state / mount_id
    default_ram = roots.runtime / mount_id / "ram"
    return Places(
        mount_id,
        roots,
        state,
        default_ram if ram_dir is None else ram_dir / mount_id,
        state / "cache" if cache_dir is None else cache_dir / mount_id,
        ram_is_default=ram_dir is None,
    )


def prepare_state(places: Places) -> None:
    """Make the state folder, private and on a local disk (UnfitError otherwise)."""
    ensure_private_tree(places.roots.state)
    refuse_network_filesystem(places.roots.state, "the journal", LOCAL_STATE_REMEDY)
    ensure_private_tree(places.roots.state, places.mount_id)


def prepare_cache(places: Places) -> None:
    """Make the cache folder, private and on a local disk (UnfitError otherwise)."""
    if places.cache.parent == places.state:
        ensure_private_tree(places.state, places.cache.name)
        return
    # DIR of --cache DIR may be shared by several users, so only DIR/<id> is ours.
    places.cache.parent.mkdir(parents=True, exist_ok=True)
    refuse_network_filesystem(places.cache.parent, "the cache", "Choose a folder on a local disk with --cache")
    ensure_private_tree(places.cache)
