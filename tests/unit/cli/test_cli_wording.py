"""Results and figures in words."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from vfsd.cli import progress
from vfsd.cli.progress import ProgressDisplay
from vfsd.cli.status import _in_a_line, _in_full
from vfsd.cli.wording import format_duration, receipt_lines
from vfsd.daemon.sizes import format_count

FLUSH: dict[str, Any] = {
    "files": 1234,
    "bytes": 8_300_000_000,
    "stored_bytes": 4_150_000_000,
    "seconds": 34.2,
    "receipts": ["/data/plate1.vfs/receipts/x.json"],
    "kept_files": 0,
    "kept": [],
    "complete": True,
    "source_replaceable": None,
    "obstacles": [],
}


def outcome(code: int = 0, **changes: Any) -> dict[str, Any]:
    return {"exit_code": code, "store": "/data/plate1.vfs", "flush": {**FLUSH, **changes}}


def test_receipt_is_two_lines() -> None:
    first, second = receipt_lines(outcome())
    assert first == (
        "1,234 files, 8.3 GB, stored as 4.2 GB (ratio 2.0) in /data/plate1.vfs in 34 s; "
        "each rebuilt from there and compared."
    )
    assert second.startswith("Receipt: /data/plate1.vfs/receipts/x.json. ")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source_replaceable": True}, "can replace the source"),
        ({"source_replaceable": None}, "still needed"),
        (
            {"source_replaceable": False, "obstacles": [{"path": "a\x1b.tif", "reason": "changed"}]},
            "a\\x1b.tif: changed",
        ),
        ({"kept_files": 3}, "3 files did not reach the store"),
    ],
)
def test_verdict(changes: dict[str, Any], words: str) -> None:
    assert words in receipt_lines(outcome(**changes))[1]


def test_nothing_to_store_is_one_line_and_a_failure_none() -> None:
    assert len(receipt_lines(outcome(files=0, receipts=[]))) == 1
    assert receipt_lines({"exit_code": 3, "store": None, "flush": None}) == []
    assert "No new bytes" in receipt_lines(outcome(files=0))[0]
    assert "read-only" in receipt_lines({**outcome(), "read_only": True})[0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (310, "5 min 10 s"), (7500, "2 h 5 min"), (3e5, "3 days")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_counts() -> None:
    assert format_count(1, "file") == "1 file"
    assert format_count(12345, "file") == "12,345 files"


FACTS: dict[str, Any] = {
    "mountpoint": "/mnt/\x1b[2Jplate",
    "source": "/data/\udcffplate",
    "store": "/data/plate.vfs",
    "state": "flushing",
    "dirty": {"files": 2, "bytes": 2000},
    "operation": {"kind": "umount", "stage": "writing", "bytes_done": 25, "bytes_total": 100},
    "pid": 123,
    "transport": "pyfuse3",
    "tiers": {"ram": {"bytes": 2000, "files": 2, "budget": 10_000}, "store": {"bytes": 5, "files": 1, "budget": None}},
}


def test_status_lines_are_printable_whatever_the_names() -> None:
    line = _in_a_line(FACTS)
    assert line.isprintable()
    for part in (
        "\\x1b[2Jplate",
        "\\udcffplate",
        "flushing",
        "2 files, 2.0 kB to flush",
        "umount: writing 25 %",
        "pid 123",
    ):
        assert part in line
    for text in _in_full(FACTS):
        assert text.isprintable()


def test_dead_and_hanging_daemons_come_with_advice() -> None:
    for state, word in (("dead", "died"), ("not answering", "does not answer")):
        facts = {**FACTS, "state": state, "dirty": None, "operation": None, "tiers": {}}
        assert word in _in_a_line(facts)
        assert any(word in text for text in _in_full(facts))


def test_progress_without_a_terminal_is_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setattr(progress, "QUIET_SECONDS", -1.0)
    with ProgressDisplay() as display:
        for stage in ("writing", "verifying"):
            for done in range(100):
                display.show(
                    {"stage": stage, "files_done": done, "files_total": 100, "bytes_done": done, "bytes_total": 100}
                )
    lines = written.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("vfsd: writing: 0 of 100 files, 0 B of 100 B")


def test_short_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setattr(progress, "QUIET_SECONDS", 3600.0)
    with ProgressDisplay() as display:
        display.show({"stage": "writing"})
    assert written.getvalue() == ""


def test_progress_on_a_terminal_is_drawn_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    written = Terminal()
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "QUIET_SECONDS", -1.0)
    with ProgressDisplay() as display:
        display.show({"stage": "[red]writing", "files_done": 1, "files_total": 2, "bytes_done": 1, "bytes_total": 2})
        display.show({"stage": "planning"})
        display.notice("[link]still waiting")
    assert "[red]writing" in written.getvalue() or "planning" in written.getvalue()
    assert "[link]still waiting" in written.getvalue()
