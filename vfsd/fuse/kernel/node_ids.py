"""The kernel's node ids, and what they may be used for.

A node id is an inode's number, as long as that will do. It will not when the kernel reads a node's backing file by itself, and
the bytes are elsewhere by now or somebody wants to write: all opens of one node id share one backing file, and while one of
them lives no open through us is possible. Then the inode gets another id (`renew`). Whoever comes with the old one is told to
look the name up again (`LookAgain`, ESTALE for the kernel, which does so by itself) and finds the new one, with the same
inode number in its attributes. Who has the file open already keeps the old id, its backing file and its bytes.

Touched only by the trio thread.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from vfsd.fuse.kernel.passthrough import Registration
    from vfsd.tree import Node

# Inode numbers are below: new ids of one inode are counted from here.
_FIRST = 1 << 63
# Seconds for which a new id is kept from readers by themselves, for the writer for whom it was made: it looks the name up
# and opens it again within microseconds.
_RESERVED = 1.0


class LookAgain(Exception):
    """The node id is out of date: the kernel is to look the name up again."""


@final
class Opens:
    """How a node id is open now: through us (`plain`), or read by the kernel itself (`direct`); never both."""

    __slots__ = ("direct", "plain", "registration", "reserved_until")

    def __init__(self) -> None:
        self.plain = 0
        self.direct = 0
        self.registration: Registration | None = None
        self.reserved_until = 0.0

    def through_us_only(self) -> bool:
        """Whether an open must go through us, since others do, or a writer is about to."""
        return self.plain > 0 or self.reserved_until > monotonic()


@final
class _Ids:
    """The ids of one inode that has had more than one: the current one, and the kernel's references to each."""

    __slots__ = ("current", "references")

    def __init__(self, ino: int, references: int) -> None:
        self.current = ino
        self.references = {ino: references}


@final
class NodeIds:
    """See the module."""

    def __init__(self) -> None:
        self._next = _FIRST
        self._inos: dict[int, int] = {}
        self._several: dict[int, _Ids] = {}
        self._opens: dict[int, Opens] = {}

    def ino(self, nodeid: int) -> int:
        """The inode of a node id."""
        return nodeid if nodeid < _FIRST else self._inos.get(nodeid, 0)

    def current(self, ino: int) -> int:
        """The node id under which an inode is to be known from now on."""
        if ino not in self._several:
            return ino
        return self._several[ino].current

    def is_current(self, nodeid: int) -> bool:
        """Whether it has not been replaced."""
        return not self._several or self.current(self.ino(nodeid)) == nodeid

    def renew(self, node: Node, *, for_writer: bool) -> int:
        """Give a node another id; returns the one it had."""
        ino = node.ino
        ids = self._several.get(ino)
        if ids is None:
            ids = self._several[ino] = _Ids(ino, node.lookups)
        old, ids.current = ids.current, self._next
        self._next += 1
        self._inos[ids.current] = ino
        ids.references[ids.current] = 0
        if for_writer:
            self.opens(ids.current).reserved_until = monotonic() + _RESERVED
        return old

    def refer(self, ino: int) -> None:
        """The kernel was told the current id once more."""
        if ino in self._several:
            ids = self._several[ino]
            ids.references[ids.current] += 1

    def forget(self, nodeid: int, count: int) -> int:
        """The kernel gives back references; returns the inode."""
        ino = self.ino(nodeid)
        ids = self._several.get(ino)
        if ids is not None and nodeid in ids.references:
            ids.references[nodeid] -= count
            if ids.references[nodeid] <= 0 and nodeid != ids.current:
                del ids.references[nodeid]
                self._inos.pop(nodeid, None)
            if sum(ids.references.values()) <= 0:
                self._inos.pop(ids.current, None)
                del self._several[ino]
        return ino

    # --- opens

    def opens(self, nodeid: int) -> Opens:
        """How a node id is open; `close` when one of them ends."""
        found = self._opens.get(nodeid)
        if found is None:
            found = self._opens[nodeid] = Opens()
        return found

    def tidy(self, nodeid: int) -> None:
        """Forget how a node id is open when it is not."""
        found = self._opens.get(nodeid)
        if found is not None and found.plain == found.direct == 0 and found.reserved_until <= monotonic():
            del self._opens[nodeid]
