"""How many bytes a tier may hold, and how many it holds.

Hard: room is reserved before bytes are written, never checked after. Accounted in allocated bytes of tier files, and for
RAM the buffers of our own copies as well. Touched only by the trio thread.
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
    """A limit in bytes, and what is taken of it.

    Attributes
    ----------
    configured : int
        The most it may ever hold.
    limit : int
        The most it may hold now: less than `configured` while something presses (`tiers.pressure`), never more.
    used : int
        What is taken, clean files included.
    clean : int
        The part of it that could be dropped at once.
    """

    __slots__ = ("clean", "configured", "files", "limit", "used")

    def __init__(self, configured: int) -> None:
        self.configured = configured
        self.limit = configured
        self.used = 0
        self.clean = 0
        self.files = 0

    @property
    def dirty(self) -> int:
        """What is taken by bytes that are nowhere else."""
        return self.used - self.clean

    @property
    def free(self) -> int:
        """What could be taken once everything clean is dropped."""
        return max(0, self.limit - self.dirty)

    def press(self, limit: int) -> None:
        """Set what it may hold now."""
        self.limit = max(0, min(limit, self.configured))

    def fits(self, amount: int) -> bool:
        """Whether `amount` more bytes may be taken now."""
        return amount <= 0 or self.used + amount <= self.limit

    def correct(self, difference: int) -> None:
        """Put right an estimate after the kernel has said what was really allocated."""
        self.used = max(0, self.used + difference)

    def usage(self) -> TierUsage:
        """For `vfsd status`."""
        return TierUsage(self.used, self.files, self.configured)
