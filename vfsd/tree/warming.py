"""Making files ready by hand (`vfsd warm`): what lies below some paths is hydrated, or read into the page cache, in its order.

Only room that nobody needs is taken: nothing that is in use, dirty or waiting to be read goes for it, and what finds no room is
counted and left. Large stored files are left as well: their reads decode only what they touch. Runs on the trio thread.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import trio

from vfsd.errors import VfsdError, shown_path
from vfsd.store import Kind
from vfsd.tree.contents import LARGE_FILE
from vfsd.tree.node import Node
from vfsd.tree.tree import Tree

log = logging.getLogger("vfsd.tree")

# Files at a time: decoding takes every core, and a slow source is asked for several files at once.
WORKERS = max(2, min(8, os.cpu_count() or 2))


@final
@dataclass(slots=True)
class Warmed:
    """What was found, and what came of it; sizes in bytes.

    Attributes
    ----------
    ready_files, ready_bytes :
        Made ready now, or ready before.
    left_files :
        No room for them, too large, or not readable (`failed_files` of them).
    """

    files: int = 0
    bytes: int = 0
    ready_files: int = 0
    ready_bytes: int = 0
    left_files: int = 0
    failed_files: int = 0


async def warm(tree: Tree, paths: Sequence[bytes], tell: Callable[[Warmed], None] = lambda warmed: None) -> Warmed:
    """Make the files at and below these paths ready, in the order of their names; stops when the mount ends.

    Raises
    ------
    OSError
        ENOENT or ENOTDIR for a path that is not there.
    """
    warmed, nodes = Warmed(), []
    for path in paths:
        nodes += await _files_below(tree, await tree.layers.resolve(path))
    warmed.files, warmed.bytes = len(nodes), sum(node.size() for node in nodes)
    waiting = iter(nodes)

    async def work() -> None:
        for node in waiting:
            if tree.prefetcher.resting:
                return
            try:
                with tree.prefetcher.busy():
                    ready = await _make_ready(tree, node)
            except (OSError, VfsdError) as problem:
                log.warning("not_warmed path=%s error=%s", shown_path(node.path()), problem)
                warmed.failed_files += 1
                ready = False
            if ready:
                warmed.ready_files += 1
                warmed.ready_bytes += node.size()
            else:
                warmed.left_files += 1
            tell(warmed)

    async with trio.open_nursery() as nursery:
        for _ in range(WORKERS):
            nursery.start_soon(work)
    return warmed


async def _files_below(tree: Tree, top: Node) -> list[Node]:
    found: list[Node] = []
    pending = [top]
    while pending:
        node = pending.pop()
        if node.is_directory:
            children = await tree.layers.children(node)
            pending += [child for _, child in sorted(children.items(), reverse=True)]
        elif node.record.kind.is_file:
            found.append(node)
    return found


async def _make_ready(tree: Tree, node: Node) -> bool:
    if node.data is not None:
        return True
    kind, size = node.record.kind, node.record.size
    if kind is Kind.SOURCE:
        return await tree.prefetcher.read_source_ahead(node)
    if size > LARGE_FILE:
        return False
    made = await tree.contents.hydration.hydrate_ahead(node)
    if made:
        tree.prefetcher.ahead.made(node.ino, size, in_use=node.opens > 0)
    return made or node.data is not None
