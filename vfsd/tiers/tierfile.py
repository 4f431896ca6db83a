"""One file of the RAM or the cache tier: where it is, and what it takes.

Named by inode and data version, never by path, so that rename, link and unlink touch no tier. The object lives as long
as somebody holds the data; its file on disk goes when the last holder lets go (`TierFiles.discard`).
"""

from __future__ import annotations

import re
import threading
from typing import Literal, final

import trio

TierName = Literal["ram", "cache"]

_NAME = re.compile(r"([0-9a-f]+)\.([0-9a-f]+)")


def tier_file_name(ino: int, version: int) -> str:
    """The name of a tier file: inode and version, hexadecimal."""
    return f"{ino:x}.{version:x}"


def parse_tier_file_name(name: str) -> tuple[int, int] | None:
    """(inode, version) of a tier file's name, or None for a foreign file."""
    match = _NAME.fullmatch(name)
    return None if match is None else (int(match[1], 16), int(match[2], 16))


@final
class Spill:
    """A copy to the cache that is under way without holding the file: worthless once the file changes.

    Attributes
    ----------
    over : trio.Event
        Set when it has ended, either way.
    void : threading.Event
        Set by whoever changes the file: the copying thread stops at the next piece.
    """

    __slots__ = ("over", "void")

    def __init__(self) -> None:
        self.over = trio.Event()
        self.void = threading.Event()


@final
class Hold:
    """Somebody outside reads the very file that a tier file is now (a kernel does, for a program that has it open).

    As long as it lasts the file is neither dropped nor spilled, and its room counts as taken, also when its bytes are moved
    by somebody's wish (then `kept` says how much of RAM it still takes) or are not needed any more.
    """

    __slots__ = ("count", "file", "kept")

    def __init__(self, file: TierFile) -> None:
        self.file = file
        self.count = 0
        self.kept = 0


@final
class TierFile:
    """See the module. `size`, `mtime` and `allocated` are those of the last fstat, taken after every change of ours.

    Attributes
    ----------
    clean : bool
        The bytes exist elsewhere too (store): it may be dropped at any time.
    busy : trio.Event or None
        Set while its bytes move to another tier or a long cut runs in a thread: writers and moves wait for the event,
        readers go on, and the file is neither dropped nor renamed.
    changes : int
        Counts the beginnings and the ends of changes of the contents: a flush that sees the same number before and after
        it stored the bytes knows that they are what is here, and that nothing was on its way.
    changed_at : float
        When the contents last changed (trio time); 0 for a file that an earlier daemon left.
    spill : Spill or None
        A copy to the cache that is under way.
    named : bool
        Its name in the cache's folder is durable.
    sync_failure : int or None
        The errno of a sync that failed: no later one could be believed. Storing the file is the way out.
    survivor : bool
        A program opened it through an earlier daemon's passthrough, outlived that daemon and may still write: the inode
        must stay the file's, so that it is neither moved nor flushed nor released.
    hold : Hold or None
        Who reads the file from outside.
    """

    __slots__ = (
        "allocated",
        "busy",
        "changed_at",
        "changes",
        "clean",
        "discarded",
        "hold",
        "ino",
        "mtime",
        "named",
        "size",
        "spill",
        "survivor",
        "sync_failure",
        "tier",
        "version",
    )

    def __init__(self, ino: int, version: int, tier: TierName) -> None:
        self.ino = ino
        self.version = version
        self.tier: TierName = tier
        self.size = 0
        self.mtime = 0
        self.allocated = 0
        self.changes = 0
        self.changed_at = 0.0
        self.clean = False
        self.discarded = False
        self.busy: trio.Event | None = None
        self.spill: Spill | None = None
        self.named = False
        self.sync_failure: int | None = None
        self.survivor = False
        self.hold: Hold | None = None

    @property
    def settled(self) -> bool:
        """Whether it may be dropped or moved for somebody else's sake: nothing is done with it, and nobody outside reads it."""
        return self.busy is None and self.hold is None

    def void_spill(self) -> None:
        """The file changes: a copy of it that is under way is worth nothing."""
        if self.spill is not None:
            self.spill.void.set()

    @property
    def name(self) -> str:
        """Its file name in the tier's folder."""
        return tier_file_name(self.ino, self.version)
