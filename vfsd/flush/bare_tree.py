"""A tree without a mount, for commands that work on a whole store: nothing is written through it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from vfsd.store import Store
from vfsd.tiers import TierFiles
from vfsd.tree import Tree


@asynccontextmanager
async def bare_tree(source: Path | None, store: Store) -> AsyncIterator[Tree]:
    """A started tree over a source and an open store; its journal is thrown away, and holds nothing that could be lost."""
    state = Path(tempfile.mkdtemp(prefix="vfsd-"))
    try:
        for tier in ("ram", "cache"):
            (state / tier).mkdir()
        tiers = TierFiles(state / "ram", state / "cache", 0, shutil.disk_usage(state).free)
        tree = Tree(source, store, state, tiers, read_only=False)
        try:
            await tree.start()
            yield tree
        finally:
            tree.close()
            tiers.close()
    finally:
        shutil.rmtree(state, ignore_errors=True)
