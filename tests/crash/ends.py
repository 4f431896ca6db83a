"""How a round of the crash test ends: at which stage, at which point of the program, and what the daemon is asked besides."""

from __future__ import annotations

import random
from dataclasses import dataclass

from crash.faults import KILL, KILL_AFTER, Fault

STAGES = {"moment": 6, "write": 5, "spill": 3, "flush": 7, "commit": 8, "unmount": 3, "clean": 2, "stop": 3}
"""How rounds end, and how often: killed at any moment, or at a point of a stage; unmounted; or told to stop while in use."""

POINTS = {
    "write": (
        "*@thread:",
        "journal.change", "journal.commit", "journal.sync", "file.copy_up", "file.sync", "file.hydrate",
        "*@vfsd.tree.changelog:*",
        "f*sync@vfsd.tree.journal:*", "pwrite@vfsd.tiers.files:*", "open@vfsd.tiers.folders:*", "unlink@vfsd.tiers.folders:*",
        "*@vfsd.tiers.*", "*@vfsd.tree.*",
    ),
    "spill": ("spill.copy", "spill.switch", "*copy_to_cache", "*@vfsd.tiers.copying:*"),
    "flush": (
        "flush.plan", "flush.analyse", "flush.write_shard", "flush.write_plain", "flush.sync", "flush.verify", "flush.catalogue",
        "flush.receipt", "*@vfsd.store.transaction:*", "*@vfsd.store.*", "*@vfsd.codec.shard:*", "*@vfsd.flush.*", "flush.*",
    ),
    "commit": (
        "flush.publish", "flush.intents", "flush.carry_out", "flush.adopt", "flush.release", "flush.finish",
        "*@vfsd.store.intents:*", "rename@vfsd.store.*", "link@vfsd.store.*", "fsync@vfsd.store.*",
        "*@vfsd.store.intents:carry_out",
        "*@vfsd.store.intents:finish", "*@vfsd.store.transaction:Transaction.publish",
    ),
    "unmount": ("umount.finish", "umount.remove", "*@vfsd.daemon.stack:Stack.remove_folders", "*@vfsd.daemon.ram_folder:*"),
    "recovery": (
        "mount.open_stack", "recovery.store", "recovery.journal", "recovery.tree", "recovery.strangers", "mount.ready",
        "flush.undo", "flush.finish", "*@vfsd.store.intents:*", "*@vfsd.tree.*", "*@vfsd.tiers.*", "*@vfsd.store.*", "*",
    ),
}  # fmt: skip
"""Points at which a daemon is killed, by stage; each as likely as the others of its stage."""


@dataclass(frozen=True, slots=True)
class End:
    """How a round is to end: the stage, the point (none: any moment), and what is asked of the daemon besides."""

    stage: str
    fault: Fault | None
    ask: str


def choose_end(chance: random.Random) -> End:
    """How the next round ends."""
    stage = chance.choices(list(STAGES), list(STAGES.values()))[0]
    ask = {"flush": chance.choice(("flush", "flush", "umount")), "commit": chance.choice(("flush", "flush", "umount"))}
    asked = ask.get(stage, "")
    if stage == "moment":
        asked = chance.choice(("", "", "flush", "umount"))
    if stage in ("unmount", "clean"):
        asked = "umount"
    return End(stage, choose_fault(chance, stage) if stage in POINTS else None, asked)


def choose_fault(chance: random.Random, stage: str) -> Fault:
    """A kill at one of a stage's points."""
    at = chance.choice(POINTS[stage])
    # What is passed once in a round must be met the first time; what is passed often, anywhere.
    nth = 1 if chance.random() < 0.5 else 1 + int(chance.expovariate(1 / (1 if "@" not in at else 5)))
    after = "" if stage == "recovery" else "mount.ready"
    return Fault(at, chance.choice((KILL, KILL, KILL_AFTER)), nth=nth, after=after)
