"""The logical tree of one mount, put together: layers, names, contents, attributes.

Transports call `tree.names`, `tree.contents` and `tree.attributes`; flush uses `tree.pending` (what is not in the store)
and `tree.adopt_commit`. Nothing here knows of FUSE: a test can drive a tree without a mount.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import final

import trio

from vfsd.store import Store
from vfsd.store.views import TIFFS
from vfsd.tiers import TierFiles
from vfsd.tree.attributes import AttributeOperations
from vfsd.tree.backing import Backings
from vfsd.tree.contents import Contents
from vfsd.tree.durability import Durability
from vfsd.tree.extents import Extents
from vfsd.tree.hard_links import HardLinks
from vfsd.tree.journal import Journal
from vfsd.tree.layers import Layers
from vfsd.tree.names import Names
from vfsd.tree.node import Node
from vfsd.tree.prefetching import Prefetcher
from vfsd.tree.recording import Recording
from vfsd.tree.recovery import Losses, Recovery
from vfsd.tree.source import AnySource, Source

log = logging.getLogger("vfsd.tree")

JOURNAL_NAME = "journal.sqlite"
# Seconds between looks at what waits for a durability point, so that deleted files of the cache tier give their room back
# although nobody calls fsync.
SYNC_INTERVAL = 5.0
# In between, the length of SQLite's log is looked at: what is recorded in a second is little beside what it may grow to.
LOOKS_AT_THE_LOG = 5


@dataclass(frozen=True, slots=True)
class DirtyTotals:
    """What is not in the store yet: files with dirty bytes, and those bytes."""

    files: int
    bytes: int


def _open_source(root: Path, store: Store) -> AnySource:
    """The source as the store has it: its files, or TIFFs of its OME-Zarr (imported only then)."""
    if store.source_view != TIFFS:
        return Source(root)
    from vfsd.tree.zarr_source import ZarrSource

    return ZarrSource(root)


@final
class Tree:
    """See the module.

    Parameters
    ----------
    source : Path or None
        The plate; None mounts the store alone.
    store : Store
        Open for writing, unless `read_only`.
    state_directory : Path
        Where the journal lies.
    tiers : TierFiles
        Theirs alone.

    Example
    -------
    >>> tree = Tree(plate, store, state, tiers, read_only=False)       # doctest: +SKIP
    >>> await tree.start()                                             # doctest: +SKIP
    >>> found = await tree.names.lookup(ROOT_INO, b"TimePoint_1")      # doctest: +SKIP
    """

    def __init__(
        self, source: Path | None, store: Store, state_directory: Path, tiers: TierFiles, *, read_only: bool
    ) -> None:
        self.store = store
        self.tiers = tiers
        self.read_only = read_only
        self.source = None if source is None else _open_source(source, store)
        self.journal = Journal(state_directory / JOURNAL_NAME, store.id)
        self.journal.raise_next_ino(int(store.catalogue.meta("next_ino")))
        self.losses = Losses()
        self.flush_lock = trio.Lock()
        self.layers = Layers(self.source, store, self.journal)
        recording, links = Recording(self.layers), HardLinks(self.layers)
        self.durability = Durability(self.layers, recording, tiers)
        self.contents = Contents(self.layers, recording, links, tiers, self.durability, read_only=read_only)
        self.extents = Extents(self.contents, tiers)
        self.backings = Backings(self.layers, self.contents, tiers)
        self.prefetcher = Prefetcher(self.layers, self.contents, tiers)
        self.names = Names(self.layers, recording, links, self.contents, read_only=read_only)
        self.attributes = AttributeOperations(self.layers, recording, links, self.contents, tiers, read_only=read_only)

    async def start(self) -> None:
        """Carry on from what an earlier daemon left; `losses` then names files whose bytes are gone (RAM, after a reboot)."""
        await Recovery(self.layers, self.durability, self.tiers, self.losses).run()

    @property
    def lost(self) -> list[bytes]:
        """The paths of files whose newest bytes are gone."""
        return self.losses.lost

    def told_of_losses(self) -> None:
        """Somebody knows what is lost; until then each mount says it again."""
        try:
            self.journal.note_losses("")
        except OSError as error:
            log.warning("losses_stay_noted error=%s", error)

    async def housekeep(self) -> None:
        """Runs for the life of the mount: durability points for what waits for one (see `Durability.settle`).

        The journal's log is kept short here as well: programs may make files for days and never call fsync.
        """
        while True:
            for _ in range(LOOKS_AT_THE_LOG):
                await trio.sleep(SYNC_INTERVAL / LOOKS_AT_THE_LOG)
                await self.journal.shorten_log()
            self.contents.look_for_survivors()
            await self.durability.settle()
            if self.journal.waiting:
                try:
                    await self.journal.sync()
                except OSError as error:
                    log.error("journal_sync_failed error=%s", error)

    async def secure(self) -> int:
        """The machine may stop in seconds: nothing is opened any more, and what is only in RAM is copied to disk and synced.

        Returns
        -------
        int
            Files that stay in RAM, for want of room or because the disk failed.
        """
        self.contents.closing = True
        return await self.durability.secure()

    def close(self) -> None:
        """Let go of everything; what is dirty stays in its tier files and in the journal."""
        self.journal.close()
        if self.source is not None:
            self.source.close()

    # --- what is not in the store

    def dirty(self) -> DirtyTotals:
        """Files with bytes that are not in the store, and those bytes."""
        files = [node for node in self.layers.nodes.values() if node.dirty and node.record.nlink > 0]
        return DirtyTotals(len(files), sum(node.size() for node in files))

    def dirty_nodes(self) -> list[Node]:
        """The nodes with dirty bytes that still have a name."""
        return [node for node in self.layers.nodes.values() if node.dirty and node.record.nlink > 0]

    def open_handles(self) -> int:
        """Handles that programs hold on files."""
        return sum(node.opens for node in self.layers.nodes.values())

    def path_of(self, ino: int) -> bytes:
        """A path of an inode from the journal's and the catalogue's entries; b"?" when no name leads to it."""
        return self.layers.path_of(ino)
