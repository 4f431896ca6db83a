"""Nodes of the tree in memory: one object an inode, and what a transport may see of it.

A node is its record (attributes, and where committed bytes are) plus what only a running mount knows: the tier file that
holds newer or hydrated bytes, who has it open, and for a directory the names below it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, final

import trio

from vfsd.store import InodeRecord, Kind
from vfsd.store.catalogue import format_of_kind
from vfsd.tiers import TierFile


class Attributes(NamedTuple):
    """What `stat` shows; times in ns, size in bytes.

    `stable` says that only this mount can change what is seen, so that a kernel may cache it for long; otherwise the
    source may change underneath, and it may be cached for seconds.
    """

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    stable: bool


@final
class Node:
    """See the module.

    Attributes
    ----------
    record : InodeRecord
        Attributes; for a file whose bytes are in `data` its size and mtime follow the tier file.
    data : TierFile or None
        Bytes in a tier: dirty (`data.clean` is False: newer than anything committed) or hydrated.
    unsettled : bool
        `data` was never synced: after a restart of the machine what it took the place of counts, if there was anything.
    replaced : TierFile or None
        The durable bytes, where they were a tier file's; kept until `data` is synced or stored.
    recorded : bool
        The journal has a row for it.
    parent, name :
        The way up from here; for a file with several links the one that was looked up last. None for the root and
        for a node that has no name any more.
    lookups, opens, writers : int
        References of the kernel; open handles, and those of them that can write.
    from_source : bool
        No layer above the source knows it: attributes are the source's own and follow it.
    places : set of (directory, name), or None
        Of a source file with hard links: the names by which it was found, as long as it is `from_source`.
    opened : tuple or None
        Device, inode, size and mtime of the source file that was last opened for it.
    checked : float
        When its own attributes were last looked at in the source (time.monotonic).
    names_checked, names_read : float
        For a directory: when it was last asked whether its names there changed, and when they were last read.
    shown, shown_of :
        What a transport made of the attributes, and the record that they were; right as long as the node is
        `from_source` and has that record, since its attributes then are the record's alone.
    below : set of bytes, or None
        For a directory: names that its source directory has, but that do not show the source's object as it is.
    """

    __slots__ = (
        "allocated",
        "below",
        "checked",
        "children",
        "data",
        "from_source",
        "gate",
        "lookups",
        "name",
        "names_checked",
        "names_read",
        "opened",
        "opens",
        "own_xattrs",
        "parent",
        "places",
        "record",
        "recorded",
        "replaced",
        "shown",
        "shown_of",
        "source_mtime",
        "unsettled",
        "writers",
    )

    def __init__(self, record: InodeRecord) -> None:
        self.record = record
        self.data: TierFile | None = None
        self.unsettled = False
        self.replaced: TierFile | None = None
        self.recorded = False
        self.own_xattrs = False
        self.from_source = False
        self.parent: Node | None = None
        self.name = b""
        self.lookups = 0
        self.opens = 0
        self.writers = 0
        self.places: set[tuple[Node, bytes]] | None = None
        self.opened: tuple[int, int, int, int] | None = None
        self.checked = 0.0
        self.names_checked = 0.0
        self.names_read = 0.0
        self.allocated = 0
        self.shown: object = None
        self.shown_of: InodeRecord | None = None
        self.gate: trio.Lock | None = None
        self.children: dict[bytes, Node] | None = None
        self.below: set[bytes] | None = None
        self.source_mtime = 0

    def restorer(self) -> Callable[[], None]:
        """What puts back all that a recorded change may touch (names in directories apart)."""
        record, recorded, own_xattrs, from_source = self.record, self.recorded, self.own_xattrs, self.from_source
        parent, name, children, unsettled = self.parent, self.name, self.children, self.unsettled
        places = None if self.places is None else set(self.places)

        def restore() -> None:
            self.record, self.recorded, self.own_xattrs, self.from_source = record, recorded, own_xattrs, from_source
            self.parent, self.name, self.children, self.unsettled = parent, name, children, unsettled
            self.places = places

        return restore

    def leave_source(self) -> list[tuple[Node, bytes]]:
        """It does not follow the source any more; returns the names under which the source has it."""
        if not self.from_source:
            return []
        self.from_source = False
        places = [] if self.parent is None else [(self.parent, self.name)]
        if self.places is not None:
            places, self.places = list(self.places), None
        for directory, name in places:
            directory.add_below(name)
        return places

    def add_below(self, name: bytes) -> None:
        """The source has this name in this directory; something else is shown under it, or nothing."""
        if self.below is None:
            self.below = set()
        self.below.add(name)

    @property
    def ino(self) -> int:
        """Its inode number."""
        return self.record.ino

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.record.kind is Kind.DIRECTORY

    @property
    def dirty(self) -> bool:
        """Whether a tier holds bytes of it that exist nowhere else."""
        return self.data is not None and not self.data.clean

    @property
    def mode(self) -> int:
        """`st_mode`: format and permission bits."""
        return format_of_kind(self.record.kind) | self.record.mode

    def size(self) -> int:
        """Its size in bytes, wherever the bytes are."""
        return self.data.size if self.dirty and self.data is not None else self.record.size

    def mtime(self) -> int:
        """Its modification time in ns."""
        return self.data.mtime if self.dirty and self.data is not None else self.record.mtime

    def ctime(self) -> int:
        """When bytes or attributes last changed, in ns: a tier file with another mtime than was recorded was written since."""
        return max(self.record.ctime, self.mtime()) if self.mtime() != self.record.mtime else self.record.ctime

    def attributes(self) -> Attributes:
        """What `stat` shows now."""
        record, data, from_source = self.record, self.data, self.from_source
        kind, size, mtime, ctime = record.kind, record.size, record.mtime, record.ctime
        if data is not None and not data.clean:
            size, mtime, blocks = data.size, data.mtime, data.allocated // 512
            if mtime != record.mtime:
                ctime = max(ctime, mtime)
        else:
            blocks = self.allocated if from_source else -(-size // 512)
        if kind is Kind.DIRECTORY:
            size = size or 4096
            stable = record.origin is None or record.opaque  # else its times move with names in the source
        else:
            stable = not from_source and (kind is not Kind.SOURCE or data is not None)
        return Attributes(
            record.ino,
            format_of_kind(kind) | record.mode,
            record.nlink,
            record.uid,
            record.gid,
            record.rdev,
            size,
            blocks,
            record.atime,
            mtime,
            ctime,
            stable,
        )

    def path(self) -> bytes:
        """Its path from the root, for messages and for placing it in the store; b"" is the root."""
        parts = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return b"/".join(reversed(parts))
