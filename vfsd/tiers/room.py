"""Who may take how much of a tier, who makes place for others, and who waits.

Room is reserved here before bytes are written, so a tier never holds more than its limit. Clean files give way first, in the
order of the policy. What is dirty is moved by the spiller (`tiers.spilling`), which asks here when and whom: from `HIGH` of
the limit down to `LOW`; writers are slowed from `SLOW`, so that they meet the spiller's speed before they meet the limit.

Touched only by the trio thread; nothing here sleeps but `changed`, and no file is opened or removed here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import final

import trio

from vfsd.tiers.budget import Budget, TierUsage
from vfsd.tiers.policy import Policy, PredictedUse, Warmth
from vfsd.tiers.tierfile import TierFile, TierName

# Parts of the RAM tier's limit, of dirty bytes: where spilling starts, where it ends, and where writers are slowed. The gap
# between the first two makes spills large and rare.
HIGH, LOW, SLOW = 0.80, 0.60, 0.90
# Up to this much dirty data stays in RAM although it is more than `HIGH` of the limit: small plates never touch the disk.
KEEP_IN_RAM = 1 << 30
# ... if it fits there with some place left for what comes while the spiller starts; otherwise `HIGH` counts.
KEEP_AT_MOST = 0.95
# The longest a single write is slowed down, seconds: programs that write see a slow disk, not a hanging one.
LONGEST_DELAY = 0.25
# Clean files are dropped a little ahead, this part of the limit, so that not every write looks for one.
AHEAD = 1 / 64
# Clean files are copied to the cache before RAM drops them where making them again is slower than that disk by this factor.
# A store on a local disk never is: its compressed bytes come from the same disk, and decoding is faster than any.
SLOWER = 2.0
# Before anything was measured: what a plain hard disk writes, bytes a second.
FIRST_RATE = 100e6
# How much the newest measurement counts in a rate.
NEWEST = 0.2


@final
class Rate:
    """Bytes a second, smoothed over the last few measurements."""

    __slots__ = ("known", "value")

    def __init__(self, first: float = FIRST_RATE) -> None:
        self.value = first
        self.known = False

    def add(self, amount: int, seconds: float) -> None:
        """`amount` bytes took `seconds`."""
        if amount <= 0 or seconds <= 0:
            return
        now = amount / seconds
        self.value = now if not self.known else (1 - NEWEST) * self.value + NEWEST * now
        self.known = True


@final
class Room:
    """See the module.

    Attributes
    ----------
    members : dict
        Every file of a tier; `clean` are those of them that could be dropped.
    drop : callable
        Removes a clean file and tells its owner.
    warmth_of : callable
        What the tree knows of a file beyond its use: that it is a companion, open, or open for writing; else None.
    writers_waiting : int
        Writes that wait for room now.
    """

    def __init__(self, ram: int, cache: int, *, keep_in_ram: int = KEEP_IN_RAM, policy: Policy | None = None) -> None:
        self.budgets: dict[TierName, Budget] = {"ram": Budget(ram), "cache": Budget(cache)}
        self.members: dict[TierName, set[TierFile]] = {"ram": set(), "cache": set()}
        self.clean: dict[TierName, set[TierFile]] = {"ram": set(), "cache": set()}
        self.policy: Policy = PredictedUse() if policy is None else policy
        self.drop: Callable[[TierFile], None] = lambda file: None
        self.warmth_of: Callable[[TierFile], Warmth | None] = lambda file: None
        self.wanted = trio.Event()
        self.spill_rate = Rate()
        self.hydrate_rate = Rate()
        self.writers_waiting = 0
        self._keep_in_ram = keep_in_ram
        self._changed = trio.Event()
        self._listeners = 0

    # --- accounts

    def enter(self, file: TierFile) -> None:
        """A file is in its tier now, with nothing in it yet."""
        self.budgets[file.tier].files += 1
        self.members[file.tier].add(file)

    def leave(self, file: TierFile) -> None:
        """A file leaves its tier with all that it takes."""
        budget = self.budgets[file.tier]
        budget.files -= 1
        self.members[file.tier].discard(file)
        self.unmark(file)
        self.take(file.tier, -file.allocated)
        file.allocated = 0
        self.tell()

    def mark(self, file: TierFile) -> None:
        """A file may be dropped from now on."""
        if file not in self.clean[file.tier]:
            self.clean[file.tier].add(file)
            self.budgets[file.tier].clean += file.allocated
            self.tell()
            if self.must_demote():
                self.wanted.set()

    def unmark(self, file: TierFile) -> None:
        """A file may no longer be dropped."""
        if file in self.clean[file.tier]:
            self.clean[file.tier].discard(file)
            self.budgets[file.tier].clean -= file.allocated

    def measured(self, file: TierFile, allocated: int) -> None:
        """The kernel said what a file takes."""
        difference = allocated - file.allocated
        if file in self.clean[file.tier]:
            self.budgets[file.tier].clean += difference
        file.allocated = allocated
        self.take(file.tier, difference)
        if difference < 0:
            self.tell()

    def take(self, tier: TierName, amount: int) -> None:
        """Count `amount` more bytes (or fewer) for a tier; who takes for a write has asked `make` before."""
        self.budgets[tier].correct(amount)
        if amount > 0 and tier == "ram" and not self.wanted.is_set() and self.must_spill():
            self.wanted.set()

    def usage(self) -> dict[str, TierUsage]:
        """What each tier holds."""
        return {tier: budget.usage() for tier, budget in self.budgets.items()}

    # --- making place

    def make(self, tier: TierName, amount: int, *, only: Warmth = Warmth.BEING_WRITTEN) -> bool:
        """Whether `amount` more bytes fit into a tier, after dropping clean files where that helps, `only` up to that warmth."""
        budget = self.budgets[tier]
        if budget.fits(amount):
            return True
        missing = budget.used + amount - budget.limit
        droppable = [file for file in self.clean[tier] if file.settled and file.allocated]
        if sum(file.allocated for file in droppable) < missing:
            return False
        if only < Warmth.BEING_WRITTEN:
            going = self.coldest(droppable, missing)
            if self.rank(going[-1])[0] > only:
                return False
            for file in going:
                self.drop(file)
            return True
        self._drop_coldest(droppable, max(missing, int(budget.limit * AHEAD)))
        return True

    def press(self, limit: int) -> None:
        """The RAM tier may hold `limit` bytes from now on: clean files go at once, the rest is the spiller's."""
        budget = self.budgets["ram"]
        before = budget.limit
        budget.press(limit)
        if budget.used > budget.limit:
            droppable = [file for file in self.clean["ram"] if file.settled and file.allocated]
            self._drop_coldest(droppable, budget.used - budget.limit)
        if budget.limit > before:
            self.tell()
        if self.must_spill():
            self.wanted.set()

    def _drop_coldest(self, files: list[TierFile], amount: int) -> None:
        for file in self.coldest(files, amount):
            self.drop(file)

    def coldest(self, files: Iterable[TierFile], amount: int) -> list[TierFile]:
        """Those of `files` that go first, together at least `amount` bytes, or all."""
        heap = [(*self.rank(file), file.ino, file.version, file) for file in files]
        heapq.heapify(heap)
        chosen = []
        while heap and amount > 0:
            file = heapq.heappop(heap)[-1]
            chosen.append(file)
            amount -= file.allocated
        return chosen

    def rank(self, file: TierFile) -> tuple[Warmth, float]:
        """A file's place in the policy's order, with what the tree knows of it."""
        learned, order = self.policy.rank(file.ino)
        known = self.warmth_of(file)
        return (learned if known is None else max(known, learned)), order

    # --- the spiller's questions

    def spills_from(self) -> int:
        """Dirty bytes in RAM from which spilling starts."""
        limit = self.budgets["ram"].limit
        keep = self._keep_in_ram if self._keep_in_ram <= KEEP_AT_MOST * limit else 0
        return int(max(HIGH * limit, keep))

    def must_spill(self) -> bool:
        """Whether dirty bytes are to leave RAM; once it began, until `excess` is gone."""
        ram = self.budgets["ram"]
        return (ram.dirty > self.spills_from() or ram.used > ram.limit) and self.excess() > 0

    def must_demote(self) -> bool:
        """Whether clean bytes are to move from RAM to the cache: they are soon to be dropped, and dear to make again."""
        return self.hydrate_rate.known and self.crowding() > 0 and self.keeps_hydrated()

    def keeps_hydrated(self) -> bool:
        """Whether what was hydrated is worth the cache's disk."""
        return self.hydrate_rate.value * SLOWER < self.spill_rate.value

    def crowding(self) -> int:
        """Clean bytes by which RAM is fuller than `HIGH`."""
        ram = self.budgets["ram"]
        return min(ram.clean, ram.used - int(HIGH * ram.limit))

    def demotable(self) -> list[TierFile]:
        """Clean files of RAM whose bytes may move to the cache now."""
        return [
            file
            for file in self.clean["ram"]
            if file.settled and file.spill is None and file.allocated and not file.discarded
        ]

    def excess(self) -> int:
        """Dirty bytes by which RAM holds more than what spilling goes down to."""
        ram = self.budgets["ram"]
        return max(0, ram.dirty - int(LOW * ram.limit))

    def spillable(self, *, being_written: bool) -> list[TierFile]:
        """Dirty files whose bytes may move now; those being written only if there is no other way."""
        return [
            file
            for file in self.members["ram"]
            if not file.clean and not file.discarded and file.settled and file.spill is None and file.allocated
            if not file.survivor
            if being_written or self.rank(file)[0] < Warmth.BEING_WRITTEN
        ]

    # --- writers

    def delay(self, amount: int) -> float:
        """Seconds by which a write of `amount` bytes is slowed, so that writers fall back to the spiller's speed."""
        ram = self.budgets["ram"]
        if ram.limit <= 0 or ram.dirty <= SLOW * ram.limit or ram.dirty <= self.spills_from():
            return 0.0
        part = (ram.dirty / ram.limit - SLOW) / (1 - SLOW)
        return min(LONGEST_DELAY, min(1.0, part) * amount / self.spill_rate.value)

    def tell(self) -> None:
        """A tier got room, or may have: who waits for that looks again."""
        if self._listeners:
            self._changed.set()
            self._changed = trio.Event()

    async def changed(self) -> None:
        """Return at the next `tell`."""
        self._listeners += 1
        try:
            await self._changed.wait()
        finally:
            self._listeners -= 1
