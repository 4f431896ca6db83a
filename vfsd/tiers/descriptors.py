"""A bounded set of open descriptors over any number of files.

The hard limit of descriptors can be as low as 20,000, a plate has 50,000 files: no file keeps a descriptor of its own.
A descriptor that a thread is using is *pinned*; the least recently used of the others is closed when there are too many.

Touched only by the trio thread. Between `descriptor()` and the next `await` the descriptor is safe to use without a pin.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import final

# A quarter of what the process may have, so that sources, store, journal and sockets have theirs; more than a few
# thousand gain nothing, since opening again costs microseconds.
_MOST = 4096


def _default_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(_MOST, soft // 4))


@final
class _Slot:
    __slots__ = ("fd", "pins", "retired")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.pins = 0
        self.retired = False


@final
class DescriptorCache:
    """Descriptors by owner; an owner is any hashable object that knows how to open itself again."""

    def __init__(self, limit: int | None = None) -> None:
        self._limit = _default_limit() if limit is None else limit
        self._slots: OrderedDict[object, _Slot] = OrderedDict()

    def __len__(self) -> int:
        return len(self._slots)

    def descriptor(self, owner: object, open_: Callable[[], int]) -> int:
        """The owner's descriptor, opened with `open_` if there is none; valid until the next `await`."""
        return self._slot(owner, open_).fd

    def known(self, owner: object) -> bool:
        """Whether the owner's descriptor is open now, so that nothing that may sleep is needed."""
        return owner in self._slots

    def known_descriptor(self, owner: object) -> int | None:
        """The owner's descriptor if it is open now; valid until the next `await`."""
        slot = self._slots.get(owner)
        return None if slot is None else slot.fd

    @contextlib.contextmanager
    def pinned(self, owner: object, open_: Callable[[], int]) -> Iterator[int]:
        """The owner's descriptor, kept open for the length of the `with` block, across awaits and in threads."""
        slot = self._slot(owner, open_)
        slot.pins += 1
        try:
            yield slot.fd
        finally:
            slot.pins -= 1
            if slot.retired and slot.pins == 0:
                os.close(slot.fd)

    def adopt(self, owner: object, fd: int) -> None:
        """Take over a descriptor that was opened elsewhere; if there is one already, this one is closed."""
        if owner in self._slots:
            os.close(fd)
        else:
            self._insert(owner, fd)

    def forget(self, owner: object) -> None:
        """The owner's file is gone or replaced: close its descriptor as soon as nobody uses it."""
        slot = self._slots.pop(owner, None)
        if slot is not None:
            self._retire(slot)

    def close(self) -> None:
        """Close everything that is not in use, and the rest when it no longer is."""
        while self._slots:
            self._retire(self._slots.popitem()[1])

    def _slot(self, owner: object, open_: Callable[[], int]) -> _Slot:
        slot = self._slots.get(owner)
        if slot is None:
            return self._insert(owner, open_())
        self._slots.move_to_end(owner)
        return slot

    def _insert(self, owner: object, fd: int) -> _Slot:
        slot = _Slot(fd)
        self._slots[owner] = slot
        if len(self._slots) > self._limit:
            self._retire(self._slots.popitem(last=False)[1])
        return slot

    @staticmethod
    def _retire(slot: _Slot) -> None:
        slot.retired = True
        if slot.pins == 0:
            os.close(slot.fd)
