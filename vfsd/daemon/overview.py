"""What there is on this machine: mounts, daemons that still finish, and what dead ones left (`vfsd status`).

Each mount is described by its daemon's own figures if that answers within three seconds, else by what its
record and mountinfo say, with a `state` that tells why: "not answering", "dead", "of another user".
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vfsd.daemon.client import DaemonClient, DaemonGone, DaemonSilent
from vfsd.daemon.recovery import Leftover, find_leftovers
from vfsd.daemon.registry import KnownMount, find_mount, known_mounts
from vfsd.errors import UnfitError

# Several daemons that hang must not add up their three seconds.
MOST_AT_ONCE = 16


def describe_mount(path: Path) -> dict[str, Any]:
    """The figures of the mount at `path` (UnfitError if there is none)."""
    return _describe(find_mount(path))


def describe_everything() -> tuple[list[dict[str, Any]], list[Leftover]]:
    """All mounts and living daemons, and what is left of dead ones that have no mount any more."""
    known = known_mounts()
    if len(known) > 1:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(len(known), MOST_AT_ONCE)) as threads:
            described = list(threads.map(_describe, known))
    else:
        described = [_describe(one) for one in known]
    listed = {facts.get("state_directory") for facts in described}
    return described, [left for left in find_leftovers() if os.fspath(left.state_directory) not in listed]


def _describe(known: KnownMount) -> dict[str, Any]:
    record, owner = known.record, None if known.mount is None else known.mount.user_id
    facts: dict[str, Any] = {
        "pid": None,
        "source": None,
        "store": None,
        "mountpoint": os.fspath(known.mountpoint),
        "transport": None,
        "state": "dead",
        "tiers": {},
        "dirty": None,
        "user": owner,
    }
    if record is None:
        if owner is not None and owner != os.geteuid():
            facts["state"] = "of another user"
        return facts
    facts |= {
        "pid": record.pid,
        "source": record.source,
        "store": record.store,
        "transport": record.transport,
        "read_only": record.read_only,
        "ingest": record.ingest,
        "state_directory": record.state_directory,
        "user": record.uid,
    }
    if not known.alive:
        return facts
    try:
        return facts | DaemonClient(Path(record.socket), record.uid).status()
    except DaemonSilent:
        return facts | {"state": "not answering"}
    except DaemonGone:
        # Alive, but not listening: before its first answer, or after its last.
        return facts | {"state": "starting" if known.mount is None else "not answering"}
    except UnfitError:
        return facts | {"state": "of another user"}
