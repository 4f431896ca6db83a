"""What was decoded or encoded last: reads of a large file come in pieces, and a strip or a chunk is made whole.

What it promises: never more than its limit and one value, whoever reads how many files; a value that several readers
miss at once is made by one of them, the others wait for it. Thread-safe.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar, final

MOST_BYTES: Final = 32 << 20
"""Some strips or chunks of a few readers; what is larger than this is kept alone, until the next one."""

Value = TypeVar("Value")


@final
class Recent(Generic[Value]):
    """See the module. Its lock covers the tables, never the making of a value, and is taken with no other.

    Parameters
    ----------
    weigh : callable
        The bytes that a value takes.
    """

    def __init__(self, weigh: Callable[[Value], int], most_bytes: int = MOST_BYTES) -> None:
        self._weigh = weigh
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._making: dict[Hashable, threading.Event] = {}
        self._bytes = 0
        self._cleared = 0

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """A value, made if it is not here; what is made while `clear` is called is not kept."""
        while True:
            with self._lock:
                if key in self._values:
                    self._values.move_to_end(key)
                    return self._values[key]
                cleared = self._cleared
                under_way = self._making.get(key)
                if under_way is None:
                    done = self._making[key] = threading.Event()
                    break
            under_way.wait()  # an error of the one who makes it is that one's: the next tries for itself
        try:
            made = make()
            with self._lock:
                if cleared == self._cleared:
                    self._keep(key, made)
        finally:
            with self._lock:
                del self._making[key]
            done.set()
        return made

    def find(self, key: Hashable) -> Value | None:
        """A value if it is here."""
        with self._lock:
            found = self._values.get(key)
            if found is not None:
                self._values.move_to_end(key)
            return found

    def put(self, key: Hashable, value: Value) -> None:
        """A value in the place of one that may be here."""
        with self._lock:
            replaced = self._values.pop(key, None)
            if replaced is not None:
                self._bytes -= self._weigh(replaced)
            self._keep(key, value)

    def clear(self) -> None:
        """What the values were made from has changed, or was damaged: make everything anew."""
        with self._lock:
            self._values.clear()
            self._bytes = 0
            self._cleared += 1

    def _keep(self, key: Hashable, made: Value) -> None:
        self._values[key] = made
        self._bytes += self._weigh(made)
        while self._bytes > self._most_bytes and len(self._values) > 1:
            _, dropped = self._values.popitem(last=False)
            self._bytes -= self._weigh(dropped)
