"""What may be stored while the mount is still being written to: whole fields that have come to rest.

A shard holds a field at one time point. A field is taken up when none of its files is open for writing or was changed lately,
and when it has as many planes as the plate's other fields: so a shard is not written twice. Images that belong to no plate go in
groups of a full shard. When room is needed badly (`urgent`), what is incomplete goes as well: storing twice is better than a
writer that gets no room.

Names are recognised in a thread, from paths alone; the choice is made on the trio thread.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import trio

from vfsd.flush.items import QUIET_IN_SOURCE
from vfsd.flush.paths import PresentPaths
from vfsd.plates import PlateFormats, recognise_plates
from vfsd.store import Kind
from vfsd.tree import Tree

# Seconds without a change after which a file is taken for finished: instruments and programs write an image in one go.
QUIET = 5.0
# A field that may still lack planes (there is no other to compare with) is waited for this much longer.
QUIET_IF_UNSURE = 30.0
# Planes a shard of images that belong to no plate (DESIGN, groups).
STACK_SHARD = 64
# Files of this size that are no images go alone; smaller ones wait for the end, or for want of room.
LARGE = 1 << 20
_TIFF = (b".tif", b".tiff")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A dirty file that nobody writes now: what the choice needs to know of it."""

    ino: int
    path: bytes
    bytes: int
    quiet: float  # seconds since its last change
    spilled: bool


@dataclass(frozen=True, slots=True)
class Group:
    """Files that are stored together, and whether more of them are expected."""

    members: tuple[Candidate, ...]
    complete: bool

    @property
    def bytes(self) -> int:
        """What its files take."""
        return sum(file.bytes for file in self.members)

    def settled(self, *, urgent: bool) -> bool:
        """Whether it may be stored now."""
        rest = min(file.quiet for file in self.members)
        if urgent:
            return True
        return rest >= (QUIET if self.complete else QUIET_IF_UNSURE)


async def choose(tree: Tree, most_bytes: int, *, urgent: bool, formats: PlateFormats | None = None) -> list[int]:
    """The inodes to store next, together about `most_bytes`; empty when nothing has come to rest."""
    candidates = _candidates(tree)
    groups = await trio.to_thread.run_sync(group, candidates, formats)
    now = _still(tree, candidates)
    ready = [one for one in groups if one.settled(urgent=urgent)]
    # spilled bytes first: they were the coldest, and their disk is what fills; then what rests longest
    ready.sort(key=lambda one: (not any(file.spilled for file in one.members), -min(f.quiet for f in one.members)))
    chosen: list[int] = []
    taken = 0
    for one in ready:
        inos = [file.ino for file in one.members if file.ino in now]
        if len(inos) < len(one.members) and not urgent:
            continue
        chosen += inos
        taken += one.bytes
        if taken >= most_bytes:
            break
    return chosen


async def choose_of_source(tree: Tree, *, formats: PlateFormats | None = None) -> list[Group]:
    """The source's own files that no store has yet and that have come to rest, as groups; those with a file that was
    opened lately first."""
    assert tree.source is not None
    found: list[Candidate] = []
    opened: set[int] = set()
    now = time.time()
    pending = [tree.layers.root]
    while pending:
        directory = pending.pop()
        try:
            children = dict(await tree.layers.children(directory))
        except OSError:
            continue  # the flush at the end says what cannot be read
        above = directory.path()
        for name, child in children.items():
            if child.is_directory:
                pending.append(child)
            elif child.record.kind is Kind.SOURCE and child.data is None:
                path = above + b"/" + name if above else name
                quiet = now - max(child.mtime(), child.record.ctime) / 1e9
                found.append(Candidate(child.ino, path, child.size(), quiet, False))
                if child.opened is not None:
                    opened.add(child.ino)
    groups = await trio.to_thread.run_sync(group, found, formats)
    groups = [one for one in groups if min(file.quiet for file in one.members) >= QUIET_IN_SOURCE]
    return sorted(groups, key=lambda one: (not any(file.ino in opened for file in one.members), one.members[0].path))


def _candidates(tree: Tree) -> list[Candidate]:
    present = PresentPaths(tree)
    now = trio.current_time()
    found = []
    for node in tree.dirty_nodes():
        data = node.data
        if data is None or node.writers > 0 or data.busy is not None:
            continue
        path = next(iter(present.of(node.ino)), None)
        if path is not None:
            found.append(Candidate(node.ino, path, data.allocated, now - data.changed_at, data.tier == "cache"))
    return found


def _still(tree: Tree, candidates: Iterable[Candidate]) -> set[int]:
    """Those that are dirty and at rest after the names were looked at."""
    nodes = ((file.ino, tree.layers.nodes.get(file.ino)) for file in candidates)
    return {ino for ino, node in nodes if node is not None and node.dirty and node.writers == 0}


def _nothing_to_read(path: bytes, offset: int, size: int) -> bytes:
    raise FileNotFoundError(path)


def group(candidates: Sequence[Candidate], formats: PlateFormats | None = None) -> list[Group]:
    """Put files that share a shard together. May be called in any thread."""
    by_path = {file.path: file for file in candidates}
    fields: dict[Hashable, list[Candidate]] = defaultdict(list)
    plates: dict[Hashable, Hashable] = {}
    for plate in recognise_plates(by_path, _nothing_to_read, formats=formats):
        for path, at in plate.images.items():
            file = by_path.pop(path, None)
            if file is not None:
                key = (plate.root, plate.name, at.acquisition, at.row, at.column, at.field, at.time)
                fields[key].append(file)
                plates[key] = (plate.root, plate.name)
    groups = _complete_fields(fields, plates)
    folders: dict[bytes, list[Candidate]] = defaultdict(list)
    for path, file in by_path.items():
        if path.lower().endswith(_TIFF):
            folders[path.rpartition(b"/")[0]].append(file)
        else:
            groups.append(Group((file,), file.bytes >= LARGE))
    for files in folders.values():
        files.sort(key=lambda file: file.path)
        for start in range(0, len(files), STACK_SHARD):
            part = tuple(files[start : start + STACK_SHARD])
            groups.append(Group(part, len(part) == STACK_SHARD))
    return groups


def _complete_fields(fields: dict[Hashable, list[Candidate]], plates: dict[Hashable, Hashable]) -> list[Group]:
    """Fields, and which of them have the number of planes that most of the same plate have, or more."""
    counts: dict[Hashable, Counter[int]] = defaultdict(Counter)
    for key, files in fields.items():
        counts[plates[key]][len(files)] += 1
    usual = {plate: max(count.items(), key=lambda item: (item[1], item[0]))[0] for plate, count in counts.items()}
    alone = {plate for plate, count in counts.items() if count.total() == 1}
    return [
        Group(tuple(files), len(files) >= usual[plates[key]] and plates[key] not in alone)
        for key, files in fields.items()
    ]
