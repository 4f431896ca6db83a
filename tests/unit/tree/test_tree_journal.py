"""The journal: what is durable when, and what a full or failing disk does to it."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio
from tree_bench import run

from vfsd.store import InodeRecord, Kind
from vfsd.tree import journal as journal_module
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
    journal._db.execute(f"PRAGMA journal_size_limit = {1 << 20}")
    log = journal.path.with_name("journal.sqlite-wal")

    async def act() -> None:
        number = 5
        while log.stat().st_size <= 3 << 20:
            with journal.change():
                for _ in range(200):
                    number += 1
                    journal.put_inode(record(number), None, False)
        await journal.sync()
        with journal.change():
            journal.put_inode(record(4), None, False)
        assert log.stat().st_size <= 1 << 20
        assert len(journal.inodes()) == number - 4

    run(act)
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


def test_numbers_are_not_given_out_before_they_are_recorded(journal: Journal) -> None:
    first = journal.new_ino()
    for _ in range(INO_BLOCK - 1):
        journal.new_ino()
    journal._db.execute("PRAGMA query_only = 1")
    for _ in range(3):
        with pytest.raises(OSError, match="cannot be written"):
            journal.new_ino()
    journal._db.execute("PRAGMA query_only = 0")
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
        with pytest.raises(OSError, match="full") as caught:
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
    path.write_bytes(os.urandom(8192))
    with pytest.raises(Exception, match="cannot be used"):
        Journal(path, "s" * 32)
