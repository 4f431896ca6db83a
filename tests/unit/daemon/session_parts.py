"""Stand-ins for the rooms below the daemon, small enough to see through: they hold no file system, only facts.

What is tested with them is the session's own: in which order it flushes, unmounts, keeps and removes. Folders, records, locks
and `Stack.close` are real.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from vfsd.daemon.places import Places, Roots, places_for
from vfsd.daemon.registry import MountRecord, process_start
from vfsd.daemon.session import Session
from vfsd.daemon.stack import Stack
from vfsd.errors import BusyError


@dataclass
class Totals:
    files: int = 0
    bytes: int = 0
    budget: int = 0


@dataclass
class Kept:
    path: bytes
    reason: str


@dataclass
class Flushed:
    """The shape of a FlushResult."""

    files: int = 0
    bytes: int = 0
    stored_bytes: int = 0
    seconds: float = 0.0
    receipt: Path | None = None
    kept: tuple[Kept, ...] = ()
    source_replaceable: bool | None = None
    obstacles: tuple[Kept, ...] = ()
    verify: str = "full"

    @property
    def complete(self) -> bool:
        return not self.kept


@dataclass
class Progress:
    stage: str = "writing"
    files_done: int = 1
    files_total: int = 2
    bytes_done: int = 10
    bytes_total: int = 20


class SmallStore:
    def usage(self) -> Totals:
        return Totals(3, 300)


class SmallTiers:
    def usage(self) -> dict[str, Totals]:
        return {"ram": Totals(1, 10, 100), "cache": Totals(0, 0, 1000)}

    def pressure(self) -> dict[str, str]:
        return {"state": "calm"}

    async def run(self) -> None:
        await trio.sleep_forever()

    def close(self) -> None:
        pass


class SmallTree:
    def __init__(self) -> None:
        self.files = 0
        self.closed = False
        self.secured = 0

    async def secure(self) -> int:
        self.secured += 1
        await trio.lowlevel.checkpoint()
        return 0

    def dirty(self) -> Totals:
        return Totals(self.files, self.files * 10)

    def open_handles(self) -> int:
        return 0

    async def housekeep(self) -> None:
        await trio.sleep_forever()

    def close(self) -> None:
        self.closed = True


class SmallTransport:
    """Mounted until told otherwise; `busy` holds the kernel's answers to come."""

    name = "small"

    def __init__(self) -> None:
        self.mounted = False
        self.busy = 0
        self.detached = False
        self.error: Exception | None = None
        self._gone = trio.Event()

    def mount(self) -> None:
        self.mounted = True

    async def serve(self) -> None:
        await self._gone.wait()
        if self.error is not None:
            raise self.error

    async def request_unmount(self) -> None:
        if self.busy:
            self.busy -= 1
            raise BusyError("the kernel says busy")
        self.leave()

    def leave(self) -> None:
        """What the kernel does when anybody unmounts."""
        self.mounted = False
        self._gone.set()

    def unmount_lazily(self) -> None:
        self.detached = True
        self.leave()


@dataclass
class Scene:
    """A session and what it works with; `flushes` are the results to come, `flushed` the paths that were asked."""

    session: Session
    tree: SmallTree
    transport: SmallTransport
    places: Places
    flushes: list[Flushed | Exception]
    flushed: list[Sequence[bytes] | None] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    hold: trio.Event | None = None
    """Set, a flush waits for it."""


def make_record(places: Places, **changes: Any) -> MountRecord:
    values: dict[str, Any] = {
        "mount_id": places.mount_id,
        "uid": os.geteuid(),
        "pid": os.getpid(),
        "process_started": process_start(os.getpid()),
        "started": "2026-01-01T00:00:00+00:00",
        "version": "0",
        "source": "/data/plate1",
        "store": "/data/plate1.vfs",
        "mountpoint": "/mnt/plate1",
        "transport": "small",
        "read_only": False,
        "ingest": False,
        "state_directory": os.fspath(places.state),
        "socket": os.fspath(places.socket),
        "ram_directory": os.fspath(places.ram),
        "ram_budget": 100,
        "cache_directory": os.fspath(places.cache),
        "cache_budget": 1000,
    }
    return MountRecord(**{**values, **changes})


def make_places(folder: Path, mount_id: str = "0123abcd") -> Places:
    """Private folders of a user whose roots all lie in `folder`, which exist and hold a file each."""
    roots = Roots(os.geteuid(), folder / "state", folder / "run", folder / "shm")
    places = places_for(mount_id, roots)
    for place in (places.state, places.ram, places.cache):
        place.mkdir(parents=True, mode=0o700)
        (place / "bytes").write_bytes(b"x" * 10)
    return places


def make_scene(
    folder: Path,
    *,
    flushes: Sequence[Flushed | Exception] = (),
    read_only: bool = False,
    continued: bool = False,
    serve_control: Callable[..., Any] | None = None,
) -> Scene:
    """Call it inside trio: events belong to a running loop."""
    places = make_places(folder)
    (folder / "mnt").mkdir()
    tree, transport = SmallTree(), SmallTransport()
    record = make_record(places, mountpoint=os.fspath(folder / "mnt"), read_only=read_only)
    stack = Stack(
        SmallStore(),  # type: ignore[arg-type]  # stand-ins for the rooms below
        SmallTiers(),  # type: ignore[arg-type]
        tree,  # type: ignore[arg-type]
        places,
        record,
        continued=continued,
        release=ExitStack(),
        throwaway=None,
    )

    async def flush(paths: Sequence[bytes] | None, on_progress: Callable[[Any], None]) -> Any:
        scene.flushed.append(paths)
        on_progress(Progress())
        if scene.hold is not None:
            await scene.hold.wait()
        await trio.lowlevel.checkpoint()
        result = scene.flushes.pop(0) if scene.flushes else Flushed()
        if isinstance(result, Exception):
            raise result
        return result

    session = Session(
        stack,
        transport,  # type: ignore[arg-type]
        flush,
        serve_control=serve_control,
        leave=lambda code: scene.left.append(code),
    )
    scene = Scene(session, tree, transport, places, list(flushes))
    return scene
