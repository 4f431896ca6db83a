"""SQLite keeps its databases on a mount: with a rollback journal and with a log, written by two processes at once."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from blackbox.daemons import DONE, Mounted, Vfsd

pytestmark = pytest.mark.fuse

ROWS = 25

WRITER = """
import sqlite3, sys
path, mode, writer = sys.argv[1:]
database = sqlite3.connect(path, timeout=60, isolation_level=None)
assert database.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0] == mode
for number in range(ROWS):
    database.execute("BEGIN IMMEDIATE")
    count = database.execute("SELECT count(*) FROM wells").fetchone()[0]
    database.execute("INSERT INTO wells VALUES (?, ?, ?, ?)", (writer, number, count, bytes([number]) * 3000))
    database.execute("COMMIT")
database.close()
""".replace("ROWS", str(ROWS))


def check(path: Path) -> None:
    """Every row of both writers is there, none saw the other's half, and the file is sound."""
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = database.execute("SELECT writer, number, seen, length(picture) FROM wells ORDER BY seen").fetchall()
    assert [row[2] for row in rows] == list(range(2 * ROWS))
    for writer in ("a", "b"):
        assert [row[1] for row in rows if row[0] == writer] == list(range(ROWS))
    assert {row[3] for row in rows} == {3000}


@pytest.mark.parametrize("begins", ["new", "in the source"])
def test_two_processes_write_one_database(begins: str, tmp_path: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    source = tmp_path / "plate"
    source.mkdir()
    modes = ("delete", "truncate", "persist", "wal") if begins == "new" else ("delete", "wal")

    def create(folder: Path) -> None:
        for mode in modes:
            with closing(sqlite3.connect(folder / f"{mode}.sqlite")) as database:
                database.execute("CREATE TABLE wells (writer TEXT, number INTEGER, seen INTEGER, picture BLOB)")
                database.commit()

    if begins == "in the source":
        create(source)
    with mounted(source) as mount:
        if begins == "new":
            create(mount.path)
        for mode in modes:
            path = mount.path / f"{mode}.sqlite"
            with closing(sqlite3.connect(path)) as database:  # not while another writes: that is "locked" at once
                assert database.execute(f"PRAGMA journal_mode = {mode}").fetchone() == (mode,)
            writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, mode, writer]) for writer in "ab"]
            assert [writer.wait(120) for writer in writers] == [0, 0]
            check(path)
        mount.flush()
        with closing(sqlite3.connect(mount.path / "wal.sqlite")) as database:
            database.execute("CREATE INDEX by_writer ON wells (writer)")
            database.commit()
        check(mount.path / "wal.sqlite")
        mount.umount()
    vfsd.expect(DONE, "verify", mount.store)
    with mounted(source) as again:
        for mode in modes:
            check(again.path / f"{mode}.sqlite")


def test_a_killed_writer_s_change_is_rolled_back(tmp_path: Path, mounted: Mounted) -> None:
    source = tmp_path / "plate"
    source.mkdir()
    script = (
        "import os, sqlite3, sys\ndatabase = sqlite3.connect(sys.argv[1])\ndatabase.execute('PRAGMA cache_size = 5')\n"
        "database.execute('UPDATE wells SET value = value + 1')\nos.kill(os.getpid(), 9)\n"
    )
    with mounted(source) as mount:
        for mode in ("delete", "wal"):
            path = mount.path / f"{mode}.sqlite"
            with closing(sqlite3.connect(path)) as database:
                database.execute(f"PRAGMA journal_mode = {mode}")
                database.execute("CREATE TABLE wells (value INTEGER, filler BLOB)")
                database.executemany("INSERT INTO wells VALUES (0, ?)", [(b"x" * 1000,)] * 300)
                database.commit()
            assert subprocess.run([sys.executable, "-c", script, path], check=False).returncode == -9
            with closing(sqlite3.connect(path)) as database:
                assert database.execute("SELECT sum(value), count(*) FROM wells").fetchone() == (0, 300)
                assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
