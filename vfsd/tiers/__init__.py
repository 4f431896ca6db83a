"""Where bytes live: the RAM and the cache tier, their budgets, and the descriptors over them.

`TierFiles` is the one thing that `tree/` uses. A tier's file is a real file in a folder of this mount alone, named by
inode and data version; whoever holds a `TierFile` may read, write and move it, and nobody else touches these folders.

All state here belongs to the trio thread; what may sleep goes to a thread, which gets descriptors, names and buffers,
never nodes. There are no locks: between two awaits everything is atomic, and a file whose bytes are moving says so
(`TierFile.busy`), which writers wait for; one that is copied behind
everybody's back (`TierFile.spill`) is not held. `open_for_reading` alone may be called in any thread.
"""

from vfsd.tiers.allocation import SUPPORTED as ALLOCATION_MODES
from vfsd.tiers.budget import TierUsage
from vfsd.tiers.copying import copy_unchanged
from vfsd.tiers.files import TierFiles
from vfsd.tiers.moves import Need, Owner
from vfsd.tiers.policy import Warmth, is_companion
from vfsd.tiers.reading import read_disk, read_memory
from vfsd.tiers.room import KEEP_IN_RAM
from vfsd.tiers.tierfile import TierFile, TierName

__all__ = [
    "ALLOCATION_MODES",
    "KEEP_IN_RAM",
    "Need",
    "Owner",
    "TierFile",
    "TierFiles",
    "TierName",
    "TierUsage",
    "Warmth",
    "copy_unchanged",
    "is_companion",
    "read_disk",
    "read_memory",
]
