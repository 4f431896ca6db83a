"""How long a change waits for the journal: half under 50 µs, 999 in a thousand under 500 µs.

A change is what creating a file records: its row, its directory's, and the entry. The peer is plain SQLite with the same tables
and rows, WAL, `synchronous=NORMAL` and automatic checkpoints, one transaction a change; contestants take turns in the same
folder. Checkpoints run beside ours, as in a mount. Shown besides: what the changes took of the thread's own time, which is
what other programs on the machine change least, and the longest of all. Where other programs compete for the processors the rare
figures are the scheduler's; as root, `chrt -f 1 python -m benchmarks.journal --rounds 1` shows those without it.

    python -m benchmarks.journal [--quick] [--rounds N] [--work DIR] [--json FILE]
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio

from benchmarks.measure import Goal, Report, median, parser
from vfsd.store import InodeRecord, Kind
from vfsd.store.catalogue import ENTRY_COLUMNS, INODE_COLUMNS, record_values
from vfsd.tree.journal import Journal

CHANGES, QUICK_CHANGES = 100_000, 5000
ROUNDS, QUICK_ROUNDS = 5, 1
FILES_A_DIRECTORY = 500
MEDIAN_NS, RARE_NS = 50_000, 500_000
# How often the log is looked at: a mount does so every few seconds, in which it takes about as many changes.
CHANGES_A_LOOK = 10_000


def file_record(ino: int) -> InodeRecord:
    return InodeRecord(ino, Kind.FRESH, 0o644, 1000, 1000, 1, 0, 10**18, 10**18, 10**18)


def directory_record(ino: int, now: int) -> InodeRecord:
    return InodeRecord(ino, Kind.DIRECTORY, 0o755, 1000, 1000, 2, 0, now, now, now)


class Times:
    """What each change took, in ns: by the clock, and of the thread's own time."""

    def __init__(self) -> None:
        self.clock: list[int] = []
        self.own: list[int] = []

    def take(self, change: Callable[[], None]) -> None:
        own, began = time.thread_time_ns(), time.perf_counter_ns()
        change()
        self.clock.append(time.perf_counter_ns() - began)
        self.own.append(time.thread_time_ns() - own)


def part(values: list[int], share: float) -> int:
    """The value that this share of all lies below."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def record_in_journal(folder: Path, count: int) -> Times:
    times = Times()

    async def run() -> None:
        journal = Journal(folder / "journal.sqlite", "0" * 32)
        with contextlib.closing(journal):
            async with trio.open_nursery() as nursery:
                for number in range(count):
                    directory, name = 2 + number // FILES_A_DIRECTORY, b"plate1_A01_s%d_w1.TIF" % number
                    ino = 10**6 + number

                    def change(directory: int = directory, name: bytes = name, ino: int = ino) -> None:
                        with journal.change():
                            journal.put_inode(file_record(ino), "ram", False)
                            journal.put_inode(directory_record(directory, ino), None, False)
                            journal.put_entry(directory, name, ino)

                    times.take(change)
                    if number % CHANGES_A_LOOK == 0:
                        nursery.start_soon(journal.shorten_log)
                        await trio.lowlevel.checkpoint()

    trio.run(run)
    return times


def record_in_sqlite(folder: Path, count: int) -> Times:
    times = Times()
    with contextlib.closing(sqlite3.connect(folder / "peer.sqlite", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.executescript(
            f"CREATE TABLE inode ({INODE_COLUMNS}, tier TEXT, own_xattrs INTEGER);"
            f"CREATE TABLE entry ({ENTRY_COLUMNS}) WITHOUT ROWID; CREATE INDEX entry_of_inode ON entry (ino);"
        )
        marks = ",".join("?" * 20)
        for number in range(count):
            directory, name = 2 + number // FILES_A_DIRECTORY, b"plate1_A01_s%d_w1.TIF" % number
            ino = 10**6 + number

            def change(directory: int = directory, name: bytes = name, ino: int = ino) -> None:
                db.execute("BEGIN IMMEDIATE")
                put = f"INSERT OR REPLACE INTO inode VALUES ({marks})"
                db.execute(put, (*record_values(file_record(ino)), "ram", 0))
                db.execute(put, (*record_values(directory_record(directory, ino)), None, 0))
                db.execute("INSERT OR REPLACE INTO entry VALUES (?,?,?)", (directory, name, ino))
                db.execute("COMMIT")

            times.take(change)
    return times


def main() -> int:
    given = parser(__doc__ or "").parse_args()
    count = QUICK_CHANGES if given.quick else CHANGES
    rounds = given.rounds or (QUICK_ROUNDS if given.quick else ROUNDS)
    contestants = {"ours": record_in_journal, "plain SQLite": record_in_sqlite}
    found: dict[str, list[Times]] = {name: [] for name in contestants}
    for number in range(rounds):
        order = list(contestants)
        for name in reversed(order) if number % 2 else order:
            with tempfile.TemporaryDirectory(prefix="vfsd-bench-", dir=given.work) as folder:
                found[name].append(contestants[name](Path(folder), count))
    report = Report("journal")
    for title, share, most in (("median", 0.5, MEDIAN_NS), ("p99.9", 0.999, RARE_NS)):
        ours, peer = (median([part(times.clock, share) for times in found[name]]) for name in contestants)
        report.goals += [
            Goal(f"a change, {title}, peer: the limit", "µs", ours / 1e3, most / 1e3, most / ours, 1.0),
            Goal(f"a change, {title}, peer: plain SQLite", "µs", ours / 1e3, peer / 1e3, peer / ours, 1.0),
        ]
        for name in contestants:
            own = median([part(times.own, share) for times in found[name]])
            report.details[f"{title} of the thread's own time, {name}, µs"] = round(own / 1e3, 1)
    for name in contestants:
        report.details[f"longest, {name}, µs"] = round(median([max(times.clock) for times in found[name]]) / 1e3)
    report.publish(given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
