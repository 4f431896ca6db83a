"""What was made ready before anybody asked for it: how much may wait to be read, what came of it, and when to stop.

A file is *expected* from when it was made until it is opened (a hit), dropped, or long overdue (waste). Expected bytes have
a limit, so that guesses never fill the RAM tier, and where most guesses are wrong nothing is guessed for a while.

Touched only by the trio thread; no work on files here.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any, final

# The part of the RAM tier's limit that expected files may take, and the most of it: seconds of reading, on any machine.
PART, MOST_BYTES = 1 / 4, 512 << 20
# Openings of other files after which an expected one is overdue: four times what is expected of a walk at most.
OVERDUE = 128
# Of so many results the part of waste at which guessing stops, and for how many openings.
JUDGED, MOST_WASTE, PAUSE = 16, 0.5, 64


@final
class Ahead:
    """See the module; files are named by their inodes."""

    def __init__(self) -> None:
        self._expected: OrderedDict[int, tuple[int, int]] = OrderedDict()  # ino: size, and when it was made
        self._results: deque[bool] = deque(maxlen=JUDGED)
        self._opened = 0
        self._paused_until = 0
        self.bytes = 0
        self.hits = 0
        self.waste = 0
        self.made_files = 0
        self.made_bytes = 0
        self.shards = 0
        """Shards of small images that the kernel was asked to read."""

    def expects(self, ino: int) -> bool:
        """Whether a file waits to be read."""
        return ino in self._expected

    def may(self, size: int, limit: int) -> bool:
        """Whether `size` more bytes may be made while the RAM tier may hold `limit`."""
        most = min(int(PART * limit), MOST_BYTES)
        return self.bytes + size <= most or (not self.bytes and size <= limit // 2)

    @property
    def paused(self) -> bool:
        """Whether too many of the last guesses were wrong."""
        return self._opened < self._paused_until

    def made(self, ino: int, size: int, *, in_use: bool = False) -> None:
        """A file is ready, and takes `size` bytes of RAM; or its reader has come already and waited for a part of it."""
        self._forget(ino)
        self.made_files += 1
        self.made_bytes += size
        if in_use:
            self.hits += 1
            self._judge(True)
        else:
            self._expected[ino] = (size, self._opened)
            self.bytes += size

    def opened(self, ino: int) -> bool:
        """A program opened a file: whether it was expected. Others may be overdue by that."""
        self._opened += 1
        hit = self._forget(ino)
        if hit:
            self.hits += 1
            self._judge(True)
        while self._expected:
            oldest, (_, when) = next(iter(self._expected.items()))
            if self._opened - when <= OVERDUE:
                break
            self.lost(oldest)
        return hit

    def lost(self, ino: int) -> None:
        """A file is gone, or will not be read any more."""
        if self._forget(ino):
            self.waste += 1
            self._judge(False)

    def status(self) -> dict[str, Any]:
        """For `vfsd status`."""
        return {
            "hits": self.hits,
            "waste": self.waste,
            "made_files": self.made_files,
            "made_bytes": self.made_bytes,
            "shards": self.shards,
            "expected_files": len(self._expected),
            "expected_bytes": self.bytes,
            "paused": self.paused,
        }

    def _forget(self, ino: int) -> bool:
        found = self._expected.pop(ino, None)
        if found is None:
            return False
        self.bytes -= found[0]
        return True

    def _judge(self, hit: bool) -> None:
        self._results.append(hit)
        if len(self._results) == JUDGED and self._results.count(False) >= MOST_WASTE * JUDGED:
            self._results.clear()
            self._paused_until = self._opened + PAUSE
