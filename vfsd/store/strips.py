"""The compressed strips that were encoded last: reads of a large file come in pieces, and a strip is made whole.

What it promises: never more than `MOST_BYTES` and one strip, whoever reads how many files. Thread-safe; two readers who
miss the same strip at the same time both make it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, final

MOST_BYTES: Final = 32 << 20
"""Some strips of a few readers; a strip that is larger than this is kept alone, until the next one."""

StripKey = tuple[int, int, int, int]  # inode, data version, page, strip


@final
class RecentStrips:
    """See the module. Its lock covers the table, never the making of a strip, and is taken with no other."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._strips: OrderedDict[StripKey, bytes] = OrderedDict()
        self._bytes = 0
        self._cleared = 0

    def get(self, key: StripKey, make: Callable[[], bytes]) -> bytes:
        """A strip's bytes, made if they are not here; what is made while `clear` is called is not kept."""
        with self._lock:
            found = self._strips.get(key)
            if found is not None:
                self._strips.move_to_end(key)
                return found
            cleared = self._cleared
        made = make()
        with self._lock:
            if cleared == self._cleared and key not in self._strips:
                self._strips[key] = made
                self._bytes += len(made)
                while self._bytes > MOST_BYTES and len(self._strips) > 1:
                    _, dropped = self._strips.popitem(last=False)
                    self._bytes -= len(dropped)
        return made

    def clear(self) -> None:
        """The store has changed, or something in it was damaged: make everything anew."""
        with self._lock:
            self._strips.clear()
            self._bytes = 0
            self._cleared += 1
