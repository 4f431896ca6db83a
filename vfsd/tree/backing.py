"""Which real file has the bytes of an open file, for a kernel that reads them by itself.

Touched only by the trio thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import final

from vfsd.errors import VfsdError
from vfsd.store import Kind
from vfsd.tiers import TierFile, TierFiles
from vfsd.tree.contents import LARGE_FILE, Contents, OpenFile
from vfsd.tree.layers import Layers

log = logging.getLogger("vfsd.tree")


@dataclass(frozen=True, slots=True)
class Backing:
    """A real file from which an open file's bytes may be read from outside.

    Attributes
    ----------
    opened : callable
        Its descriptor, for the length of a `with` block without an `await` in it. It cannot be written through.
    key : object
        Equal for two backings that are the very same file.
    release : callable
        To be called once, when nobody reads it from outside any more: till then its room stays taken, and its bytes are
        neither dropped nor moved for somebody else's sake.
    """

    opened: Callable[[], AbstractContextManager[int]]
    key: object
    release: Callable[[], None]


def _nothing() -> None:
    return None


@final
class Backings:
    """See the module."""

    def __init__(self, layers: Layers, contents: Contents, tiers: TierFiles) -> None:
        self._layers = layers
        self._contents = contents
        self._tiers = tiers

    async def of(self, handle: OpenFile) -> Backing | None:
        """The file behind a handle that only reads, or None where its bytes are better asked for from us.

        That is: while somebody may write it, since its bytes can move then; where they move just now; where they are
        nowhere as they are (a large stored file, of which only the blocks that are read are decoded); and where nothing
        keeps the source from being written through such a file. A stored file is hydrated first.
        """
        node = handle.node
        if node.writers or handle.writable:
            return None
        self._contents.last_used = time.monotonic()
        if node.data is None and node.record.kind in (Kind.PLANES, Kind.PLAIN):
            if node.record.size > LARGE_FILE:
                return None
            try:
                await self._contents.hydrate(node)
            except (OSError, VfsdError) as error:
                log.debug("not_hydrated_at_open error=%s", error)  # the reads will tell
                return None
        if node.writers:
            return None
        data = node.data
        if data is not None:
            if data.busy is not None or data.discarded:
                return None
            hold = self._tiers.holds.take(data)
            return Backing(lambda: self._reading(data), hold, lambda: self._tiers.holds.let_go(hold))
        source = self._layers.source
        if source is None or not source.shielded or node.record.kind is not Kind.SOURCE or node.opened is None:
            return None
        known = self._tiers.descriptors.known_descriptor(node)
        return None if known is None else Backing(lambda: nullcontext(known), node.opened[:2], _nothing)

    @contextmanager
    def _reading(self, data: TierFile) -> Iterator[int]:
        """A descriptor of its own: with one that may write, whoever looks for writers after us would find one here."""
        fd = self._tiers.open_for_reading(data)
        try:
            yield fd
        finally:
            os.close(fd)
