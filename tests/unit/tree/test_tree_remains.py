"""What a journal without a daemon says of its files, also when it is damaged; and that looking changes nothing."""

from __future__ import annotations

import os
import sqlite3

import pytest
from tree_bench import Bench, run

from vfsd.tree.remains import NamedFile, Remains, read_remains


def look(bench: Bench) -> Remains:
    before = {path.name: path.read_bytes() for path in bench.state.iterdir()}
    remains = read_remains(bench.state / "journal.sqlite", bench.store / "catalog.sqlite")
    assert {path.name: path.read_bytes() for path in bench.state.iterdir()} == before
    return remains


def by_path(remains: Remains) -> dict[bytes | None, NamedFile]:
    return {file.path: file for file in remains.files}


async def leave_files(bench: Bench) -> None:
    """Of every kind, in folders that the store or only the journal knows."""
    bench.put_source("day/source.tif", b"source")
    program = await bench.mount()
    await program.mkdir(b"stored")
    await program.create(b"stored/changed", b"stored")
    await program.create(b"stored/clean", b"clean")
    assert (await bench.flush()).complete
    await program.write(b"stored/changed", 0, b"S")
    await program.write(b"day/source.tif", 0, b"S")
    await program.create(b"stored/new-\xff", b"new")
    await program.mkdir(b"made")
    await program.create(b"made/synced", b"synced")
    await program.fsync(b"made/synced")
    await program.create(b"cut", b"synced")
    await program.fsync(b"cut")
    await program.write(b"cut", 0, b"later", os.O_TRUNC)
    await program.create(b"gone", b"gone")
    await program.unlink(b"gone")
    bench.kill()


def test_every_file_is_named_with_what_it_is_worth(bench: Bench) -> None:
    async def act() -> None:
        await leave_files(bench)
        remains = look(bench)
        assert not remains.damage
        assert not remains.restarted
        found = by_path(remains)
        worth = {path: (file.tier, file.unsettled, file.durable_below) for path, file in found.items()}
        assert worth == {
            b"stored/changed": ("ram", True, True),
            b"day/source.tif": ("ram", True, True),
            b"stored/new-\xff": ("ram", True, False),
            b"made/synced": ("cache", False, False),
            b"cut": ("ram", True, True),
        }
        assert not any(file.stored for file in remains.files)

    run(act)


def test_a_damaged_journal_still_names_what_its_log_has(bench: Bench) -> None:
    async def act() -> None:
        await leave_files(bench)
        whole = by_path(look(bench))
        (bench.state / "journal.sqlite").write_bytes(os.urandom(4096))
        assert by_path(look(bench)) == whole  # SQLite's log has it all
        (bench.state / "journal.sqlite-wal").write_bytes(os.urandom(4096))
        remains = look(bench)
        assert remains.damage
        (newest,) = remains.files  # the last change, which the database did not have yet
        assert (newest.ino, newest.version, newest.tier) == (whole[b"cut"].ino, 2, "ram")
        for path in bench.state.iterdir():
            path.write_bytes(os.urandom(3000))
        assert look(bench).files == []
        for path in bench.state.iterdir():
            path.unlink()
        assert look(bench).damage

    run(act)


@pytest.mark.parametrize("value", ["text", None, 3.5, b"bytes", -(1 << 62)])
@pytest.mark.parametrize("column", ["version", "size", "mtime", "tier", "nlink", "unsettled", "origin", "digest"])
def test_rows_of_nonsense_do_no_harm(bench: Bench, column: str, value: object) -> None:
    async def act() -> None:
        program = await bench.mount()
        await program.create(b"x", b"bytes")
        bench.kill()
        with sqlite3.connect(bench.state / "journal.sqlite") as database:
            database.execute("CREATE TABLE copy AS SELECT * FROM inode")
            database.execute("DROP TABLE inode")
            database.execute("ALTER TABLE copy RENAME TO inode")
            database.execute(f"UPDATE inode SET {column} = ?", (value,))
        database.close()
        (bench.state / "journal.sqlite-changes").unlink()
        look(bench)

    run(act)
