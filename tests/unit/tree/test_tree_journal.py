"""The journal: what is durable when, and what a full or failing disk does to it."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio
from tree_bench import run

from vfsd.errors import UnfitError
from vfsd.store import InodeRecord, Kind
from vfsd.tree import journal as journal_module
from vfsd.tree import rows
from vfsd.tree.changelog import Operation
from vfsd.tree.journal import INO_BLOCK, Journal


def record(ino: int, size: int = 0) -> InodeRecord:
    return InodeRecord(ino, Kind.PLAIN, 0o644, 0, 0, 1, size, 0, 0, 0)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.sqlite", "s" * 32)


def test_an_action_waits_for_its_own_change_to_be_durable(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is unlinked while another program's fsync is already under way: that sync does not cover it."""
    done: list[str] = []
    under_way, may_end = threading.Event(), threading.Event()
    fsync = journal._fsync

    def fsync_slowly() -> None:
        fsync()
        under_way.set()
        may_end.wait(20)

    async def act() -> None:
        journal.put_inode(record(5), None, False)
        monkeypatch.setattr(journal, "_fsync", fsync_slowly)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.sync)
            await trio.to_thread.run_sync(under_way.wait, 20)
            with journal.change():
                journal.drop_inode(5)
                journal.after_sync(lambda: done.append("inside"))
            journal.after_sync(lambda: done.append("after"))
            may_end.set()
        assert done == []
        assert journal.waiting
        await journal.sync()
        assert done == ["inside", "after"]
        assert not journal.waiting

    run(act)
    journal.close()


def test_a_failed_sync_is_not_followed_by_one_that_claims_success(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def act() -> None:
        with journal.change():
            journal.put_inode(record(5), None, False)
        journal.after_sync(lambda: done.append("too early"))
        monkeypatch.setattr(journal, "_fsync", fail)
        for _ in range(2):
            with pytest.raises(OSError, match=r".*"):
                await journal.sync()
            monkeypatch.undo()
        assert done == []

    run(act)
    journal.close()


def test_one_failing_action_does_not_keep_others_or_the_sync_from_ending(journal: Journal) -> None:
    done: list[str] = []

    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def act() -> None:
        with journal.change():
            journal.put_inode(record(5), None, False)
        journal.after_sync(fail)
        journal.after_sync(lambda: done.append("done"))
        await journal.sync()
        assert done == ["done"]

    run(act)
    journal.close()


def test_the_log_is_copied_back_and_starts_anew(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "CHECKPOINT_BYTES", 1 << 20)
    monkeypatch.setattr(rows, "COMMIT_OPERATIONS", 1)
    journal._rows.db.execute(f"PRAGMA journal_size_limit = {1 << 20}")
    log = journal.path.with_name("journal.sqlite-wal")

    async def act() -> None:
        number = 5
        while log.stat().st_size <= 3 << 20:
            with journal.change():
                for _ in range(200):
                    number += 1
                    journal.put_inode(record(number), None, False)
        await journal.sync()
        await journal.shorten_log()
        with journal.change():
            journal.put_inode(record(4), None, False)
        journal._rows.commit()
        assert log.stat().st_size <= 1 << 20
        assert len(journal.inodes()) == number - 4

    run(act)
    journal.close()


def test_the_log_stays_short_although_nobody_syncs(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that never call fsync may make files for days."""
    monkeypatch.setattr(journal_module, "CHECKPOINT_BYTES", 1 << 16)
    monkeypatch.setattr(rows, "COMMIT_OPERATIONS", 1)
    log = Path(f"{journal.path}-wal")
    longest = 0

    async def act() -> None:
        nonlocal longest
        for number in range(2000):
            with journal.change():
                journal.put_inode(record(number), None, False)
            if number % 10 == 0:
                await journal.shorten_log()
            longest = max(longest, log.stat().st_size)

    run(act)
    assert longest < 1 << 18
    journal.close()


def test_sqlites_locks_survive_a_sync(journal: Journal) -> None:
    """Another process that opens and closes the database must not take the log for left over and delete it."""

    async def act() -> None:
        with journal.change():
            journal.put_inode(record(5), None, False)
        await journal.sync()
        program = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); print(db.execute('SELECT ino FROM inode').fetchall())"
        done = subprocess.run([sys.executable, "-c", program, journal.path], capture_output=True, text=True, check=True)
        assert done.stdout == "[(5,)]\n"
        assert journal.path.with_name("journal.sqlite-wal").exists()
        with journal.change():
            journal.put_inode(record(6), None, False)

    run(act)
    path = journal.path
    journal.close()
    again = Journal(path, "s" * 32)
    assert [row.record.ino for row in again.inodes()] == [5, 6]
    again.close()


def test_numbers_are_not_given_out_before_they_are_recorded(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    first = journal.new_ino()
    for _ in range(INO_BLOCK - 1):
        journal.new_ino()
    monkeypatch.setattr(journal._rows._log, "_fd", os.open(os.devnull, os.O_RDONLY))
    for _ in range(3):
        with pytest.raises(OSError, match="Bad file descriptor"):
            journal.new_ino()
    monkeypatch.undo()
    assert journal.new_ino() == first + INO_BLOCK
    assert journal.next_ino > first + INO_BLOCK
    journal.close()


@pytest.mark.root
def test_a_full_disk_is_enospc_and_not_the_end(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", small], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("no tmpfs may be mounted here")
    try:
        journal = Journal(small / "journal.sqlite", "s" * 32)
        number = 5
        with pytest.raises(OSError, match="journal cannot be written") as caught:
            while True:
                with journal.change():
                    for _ in range(20):
                        number += 1
                        journal.put_inode(record(number), None, False)
        assert caught.value.errno == errno.ENOSPC
        before = len(journal.inodes())
        assert before % 20 == 0
        subprocess.run(["mount", "-o", "remount,size=4m", small], check=True)
        with journal.change():
            journal.put_inode(record(4), None, False)
        assert len(journal.inodes()) == before + 1
        journal.close()
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def _copy(journal: Journal, folder: Path, *, torn: int = 0) -> Journal:
    """What the next daemon finds after kill -9, with the newest record cut short by `torn` bytes."""
    folder.mkdir()
    for end in ("", "-wal", "-changes"):
        data = journal.path.with_name(journal.path.name + end).read_bytes()
        if end == "-changes":
            data = data[: journal._rows._log.size - torn]
        (folder / (journal.path.name + end)).write_bytes(data)
    return Journal(folder / journal.path.name, "s" * 32)


def test_what_was_answered_is_there_after_a_kill(journal: Journal, tmp_path: Path) -> None:
    """However much of it the database had taken; twice, since the second daemon begins with the first one's log."""
    for count in (1, 200, rows.COMMIT_OPERATIONS, 3):
        for _ in range(count):
            with journal.change():
                ino = journal.new_ino()
                journal.put_inode(record(ino), None, True)
                journal.put_entry(1, b"%d" % ino, ino)
                journal.set_xattrs(ino, {b"user.x": b"%d" % ino, b"user.y": b""})
        journal.drop_inode(ino)
        journal.drop_entries_of(2)
        journal.put_entry(2, b"late", ino)
        for size in range(3):
            journal.drop_entry(3, b"back and forth")
            journal.drop_inode(3)
            journal.put_inode(record(3, size), None, False)
            journal.put_entry(3, b"back and forth", 3)
            journal.put_inode(record(4, size), None, False)
            journal.put_entry(4, b"there and gone", 4)
            journal.drop_entry(4, b"there and gone")
            journal.drop_inode(4)
        again = _copy(journal, tmp_path / f"after-{count}")
        third = _copy(again, tmp_path / f"after-{count}-again")
        for other in (again, third):
            assert other.inodes() == journal.inodes()
            assert other.all_entries() == journal.all_entries()
            assert other.xattrs(ino - 1) == journal.xattrs(ino - 1)
            assert other.xattrs(ino) == {}
            assert other.next_ino == journal.next_ino
            other.close()
    journal.close()


def test_a_torn_record_is_a_change_that_has_not_happened(journal: Journal, tmp_path: Path) -> None:
    for ino in (5, 6):
        with journal.change():
            journal.put_inode(record(ino), None, False)
            journal.put_entry(1, b"x", ino)
    for torn in (1, 20, 60):
        again = _copy(journal, tmp_path / f"torn-{torn}", torn=torn)
        assert [row.record.ino for row in again.inodes()] == [5]
        assert again.entry(1, b"x") == 5
        with again.change():
            again.put_inode(record(7), None, False)
        third = _copy(again, tmp_path / f"torn-{torn}-again")
        assert [row.record.ino for row in third.inodes()] == [5, 7]
        third.close()
        again.close()
    journal.close()


def test_a_damaged_record_before_whole_ones_is_no_torn_end(journal: Journal, tmp_path: Path) -> None:
    """To go on without those behind it would be to delete the files that they name. After a power failure it is the end."""
    journal.note_boot()
    journal._rows.commit()
    for ino in range(5, 9):
        journal.put_inode(record(ino), None, False)
    whole = journal.path.with_name("journal.sqlite-changes").read_bytes()[: journal._rows._log.size]
    one = len(whole) // 4
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for end in ("", "-wal"):
        (damaged / f"journal.sqlite{end}").write_bytes(journal.path.with_name(f"journal.sqlite{end}").read_bytes())
    log = damaged / "journal.sqlite-changes"
    for place in (0, one + 30, 3 * one - 5):
        log.write_bytes(whole[:place] + b"?" + whole[place + 1 :])
        with pytest.raises(UnfitError, match="log is damaged"):
            Journal(damaged / "journal.sqlite", "s" * 32)
        assert log.stat().st_size == len(whole)
    log.write_bytes(whole)
    again = Journal(damaged / "journal.sqlite", "s" * 32)
    assert [row.record.ino for row in again.inodes()] == [5, 6, 7, 8]
    again.close()
    journal.close()


def test_what_is_read_within_a_change_is_undone_with_it(journal: Journal, tmp_path: Path) -> None:
    with journal.change():
        journal.put_inode(record(5, size=1), None, False)
    with pytest.raises(ValueError, match="undo"), journal.change():
        journal.put_inode(record(5, size=2), None, False)
        found = journal.inode(5)
        assert found is not None
        assert found.record.size == 2
        journal.put_inode(record(5, size=3), None, False)
        raise ValueError("undo")
    for known in (journal, _copy(journal, tmp_path / "after")):
        found = known.inode(5)
        assert found is not None
        assert found.record.size == 1
        known.close()


def test_a_database_that_cannot_be_written_refuses_changes_and_loses_none(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.put_inode(record(5), None, False)
    monkeypatch.setattr(rows, "COMMIT_OPERATIONS", 1)
    journal._rows.db.execute("PRAGMA max_page_count = 1")
    number = 5
    with pytest.raises(OSError, match="full") as caught:
        while number < 5000:
            with journal.change():
                number += 1
                journal.put_inode(record(number), None, False)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="full"), journal.change():
        journal.put_inode(record(number), None, False)
    journal._rows.db.execute("PRAGMA max_page_count = 100000")
    known = [row.record.ino for row in journal.inodes()]
    assert known == list(range(5, number + 1))
    journal.put_inode(record(number + 1), None, False)
    assert len(journal.inodes()) == number - 3
    journal.close()


def test_a_journal_of_another_store_or_a_newer_version_is_refused(journal: Journal, tmp_path: Path) -> None:
    path = journal.path
    journal.close()
    with pytest.raises(Exception, match="another store"):
        Journal(path, "t" * 32)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(Exception, match="newer"):
        Journal(path, "s" * 32)


def test_a_damaged_database_is_refused_with_a_way_out_and_nothing_is_touched(journal: Journal, tmp_path: Path) -> None:
    for ino in range(2000):
        journal.put_inode(record(ino), None, False)
        journal.put_entry(1, b"%d" % ino, ino)
    path = journal.path
    journal.close()
    whole = path.read_bytes()
    half = len(whole) // 2 // 4096 * 4096
    for damaged in (os.urandom(8192), whole[:half], whole[:half] + bytes(8192) + whole[half + 8192 :], b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(UnfitError) as caught:
            Journal(path, "s" * 32)
        assert "cannot be used" in str(caught.value)
        assert "recover --rescue" in str(caught.value.remedy)
        assert path.read_bytes() == damaged
        for other in tmp_path.glob("journal.sqlite-*"):
            other.unlink()
    path.write_bytes(whole)
    again = Journal(path, "s" * 32)
    assert len(again.inodes()) == 2000
    again.close()


def test_no_change_waits_for_the_database_to_take_many_others(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit of all at once would keep one change in a few hundred waiting for milliseconds."""
    recorded, performed = journal._rows, [0]
    perform = recorded._perform

    def count(operations: Iterable[Operation]) -> None:
        taken = list(operations)
        performed[-1] += len(taken)
        perform(taken)

    monkeypatch.setattr(recorded, "_perform", count)
    for number in range(4 * rows.COMMIT_OPERATIONS):
        performed.append(0)
        with journal.change():
            journal.put_inode(record(number), None, False)
            journal.put_inode(record(10**6 + number // 100), None, False)
            journal.put_entry(1, b"%d" % number, number)
    assert sum(performed) > 2 * rows.COMMIT_OPERATIONS
    assert max(performed) <= rows.A_FEW
    assert len(journal.inodes()) == 4 * rows.COMMIT_OPERATIONS + 11
    journal.close()


def test_a_change_that_reads_between_its_rows_performs_each_row_once(journal: Journal) -> None:
    """Releasing a flush of ten thousand files is one change: the database must not do all of it again at each look."""
    for ino in range(100, 300):
        journal.put_inode(record(ino), None, False)
    journal.inodes()
    statements: list[str] = []
    journal._rows.db.set_trace_callback(statements.append)
    with journal.change():
        for ino in range(100, 300):
            assert journal.inode(ino) is not None
            journal.drop_inode(ino)
            assert journal.inode(ino) is None
    journal.inodes()
    journal._rows.db.set_trace_callback(None)
    assert len([line for line in statements if line.startswith("DELETE FROM inode")]) == 200
    with pytest.raises(KeyError), journal.change():
        journal.put_inode(record(500), None, False)
        assert journal.inode(500) is not None
        journal.put_inode(record(501), None, False)
        raise KeyError
    assert journal.inodes() == []
