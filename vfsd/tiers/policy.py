"""Who goes when a tier needs room: which files will be wanted last.

The rule (`PredictedUse`), coldest first; clean files are asked before dirty ones by whoever makes room:

1. *Consumed*: read through once since the file was written or hydrated, and never seen to come back: the result of one step
   that the next has read, a plane that was looked at. Least recently used first.
2. *Waiting*: written and not read yet: some later step will. Least recently used first.
3. *Returning*: files that were read before and came back. Time is counted in bytes that all reads moved, and a file that came
   back after a gap is expected again after the same gap; the one expected last goes first. So a folder larger than RAM that
   is read round and round keeps a part that fits and is hit there, where least-recently-used would miss every time. Who is
   overdue by another gap is no longer expected, and counts as consumed.
4. *Companions*: thumbnails and metadata, small files that programs come back to for every image.
5. *In use*: files that a program has open, and then those it may still write.

What is known of a file is kept for a while after its bytes went (a *ghost*), or a loop would never be seen. Nothing here
does any work on files; touched only by the trio thread.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from enum import IntEnum
from typing import Protocol, final

# Files whose use is remembered, here or gone: a plate of 50,000 fits, at about 150 bytes each.
MOST_REMEMBERED = 65_536
# A read that follows another of the same file while at most this much (or the file's own size) moved in between continues
# it: requests of several readers come mixed, a megabyte each. More is a return.
SAME_VISIT = 8 << 20
# A companion is small: keeping a few thousand of these costs less than one plane in a hundred.
COMPANION_MOST = 4 << 20
_COMPANION = re.compile(
    rb"(_thumb.*|thumbs\.db|\.(htd|mlf|mrf|mes|mdb|xml|xdce|json|toml|ya?ml|txt|ini|csv|tsv|md|log|nd|scan|exp|lif))$",
    re.IGNORECASE,
)


def is_companion(name: bytes, size: int) -> bool:
    """Whether a file is one that programs come back to for many images, by its name and size in bytes."""
    return size <= COMPANION_MOST and _COMPANION.search(name) is not None


class Warmth(IntEnum):
    """How soon a file will be wanted; the lowest goes first. See the module."""

    CONSUMED = 1
    WAITING = 2
    RETURNING = 3
    COMPANION = 4
    IN_USE = 5
    BEING_WRITTEN = 6


class Policy(Protocol):
    """Learns from every read and write, and ranks files; a file is named by its inode."""

    def on_read(self, ino: int, offset: int, length: int, size: int) -> None:
        """`length` bytes at `offset` of a file of `size` bytes were read."""

    def on_written(self, ino: int, length: int) -> None:
        """`length` bytes were written to a file."""

    def forget(self, ino: int) -> None:
        """The file is gone for good."""

    def rank(self, ino: int) -> tuple[Warmth, float]:
        """Its place: the lowest goes first."""


@final
class _Use:
    __slots__ = ("gap", "last", "read", "start")

    def __init__(self, now: int) -> None:
        self.start = now  # when this visit began
        self.last = now  # when it was last read or written
        self.gap: int | None = None  # between the beginnings of the last two visits
        self.read = False  # read since it was written


@final
class PredictedUse:
    """The rule of this module."""

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._uses: OrderedDict[int, _Use] = OrderedDict()
        self._most = most
        self._clock = 0  # bytes that all reads and writes moved: what pushes a file out is what others bring in

    def on_read(self, ino: int, offset: int, length: int, size: int) -> None:
        """See `Policy`."""
        before = self._clock
        self._clock = now = before + length
        use = self._uses.get(ino)
        if use is None:
            use = self._remember(ino, before)
        elif before - use.last > max(SAME_VISIT, size):
            if use.read:
                use.gap = before - use.start
            use.start = before
        use.last = now
        use.read = True
        self._uses.move_to_end(ino)

    def on_written(self, ino: int, length: int) -> None:
        """See `Policy`."""
        self._clock += length
        use = self._uses.get(ino)
        if use is None:
            use = self._remember(ino, self._clock)
        use.last = self._clock
        use.read = False
        use.gap = None
        self._uses.move_to_end(ino)

    def forget(self, ino: int) -> None:
        """See `Policy`."""
        self._uses.pop(ino, None)

    def rank(self, ino: int) -> tuple[Warmth, float]:
        """See `Policy`."""
        use = self._uses.get(ino)
        if use is None:
            return Warmth.CONSUMED, 0.0
        if not use.read:
            return Warmth.WAITING, float(use.last)
        if use.gap is None or self._clock > use.start + 2 * use.gap:
            return Warmth.CONSUMED, float(use.last)
        return Warmth.RETURNING, -float(use.start + use.gap)

    def _remember(self, ino: int, now: int) -> _Use:
        if len(self._uses) >= self._most:
            self._uses.popitem(last=False)
        use = self._uses[ino] = _Use(now)
        return use


@final
class LeastRecentlyUsed:
    """The plain rule that the benchmark compares with."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}
        self._clock = 0

    def on_read(self, ino: int, offset: int, length: int, size: int) -> None:
        """See `Policy`."""
        self._clock += 1
        self._last[ino] = self._clock

    def on_written(self, ino: int, length: int) -> None:
        """See `Policy`."""
        self._clock += 1
        self._last[ino] = self._clock

    def forget(self, ino: int) -> None:
        """See `Policy`."""
        self._last.pop(ino, None)

    def rank(self, ino: int) -> tuple[Warmth, float]:
        """See `Policy`."""
        return Warmth.CONSUMED, float(self._last.get(ino, 0))
