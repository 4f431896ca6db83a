"""How many bytes a tier may hold, and how many it holds.

Hard: room is reserved before bytes are written, never checked after. Accounted in allocated bytes of tier files.
Touched only by the trio thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@dataclass(frozen=True, slots=True)
class TierUsage:
    """What a tier holds now: allocated bytes, files, and the most it may hold."""

    bytes: int
    files: int
    budget: int


@final
class Budget:
    """A limit in bytes, and what is taken of it."""

    __slots__ = ("files", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.files = 0

    def reserve(self, amount: int) -> bool:
        """Take `amount` bytes if there is room; nothing is taken otherwise."""
        if self.used + amount > self.limit:
            return False
        self.used += amount
        return True

    def correct(self, difference: int) -> None:
        """Put right an estimate after the kernel has said what was really allocated."""
        self.used = max(0, self.used + difference)

    def usage(self) -> TierUsage:
        """For `vfsd status`."""
        return TierUsage(self.used, self.files, self.limit)
