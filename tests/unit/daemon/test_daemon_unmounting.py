"""`umount` and `flush` from outside: the truth, whether the daemon answers, hangs, ends or is dead."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from session_parts import make_places, make_record

from vfsd.daemon import overview, unmounting
from vfsd.daemon.client import DaemonGone, DaemonSilent
from vfsd.daemon.flushing import plate_relative
from vfsd.daemon.places import Places
from vfsd.daemon.registry import KnownMount, MountRecord, write_file_durably
from vfsd.errors import UnfitError, UsageProblem


class Answers:
    """A daemon at the other end that gives these answers, one list a connection."""

    def __init__(self, *connections: list[Any]) -> None:
        self.connections = list(connections)

    def unmount(self, timeout: float | None) -> Iterator[dict[str, Any]]:
        for item in self.connections.pop(0):
            if isinstance(item, Exception):
                raise item
            yield item


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return make_places(tmp_path)


def served(
    monkeypatch: pytest.MonkeyPatch, places: Places, answers: Answers, *, alive: bool = True, **changes: Any
) -> MountRecord:
    """A living daemon with these answers, which ends with its last word (its process is none of ours)."""
    record = make_record(places, **{"pid": 2**22 + 1, "process_started": 1, **changes})
    known = KnownMount(Path(record.mountpoint), None, record, alive)
    monkeypatch.setattr(unmounting, "find_mount", lambda path: known)
    monkeypatch.setattr(unmounting, "DaemonClient", lambda path, uid: answers)
    monkeypatch.setattr(unmounting, "find_leftovers", lambda: _leftovers(places))
    return record


def _leftovers(places: Places) -> list[Any]:
    from vfsd.daemon.recovery import find_leftovers

    return find_leftovers(places.roots)


def result(code: int, state: str) -> dict[str, Any]:
    return {"event": "result", "exit_code": code, "state": state, "message": "m", "flush": None}


def ask(timeout: float | None = None) -> tuple[dict[str, Any], list[Any], list[str]]:
    shown: list[Any] = []
    notices: list[str] = []
    return unmounting.unmount(Path("/mnt/plate1"), timeout, shown.append, notices.append), shown, notices


def test_progress_and_result_are_passed_on(monkeypatch: pytest.MonkeyPatch, places: Places) -> None:
    progress = {"event": "progress", "stage": "writing"}
    served(monkeypatch, places, Answers([progress, result(0, "unmounted")]))
    outcome, shown, notices = ask()
    assert outcome == {"exit_code": 0, "state": "unmounted", "message": "m", "flush": None}
    assert shown == [progress]
    assert notices == []


def test_daemon_that_is_silent_for_a_while_is_asked_again(monkeypatch: pytest.MonkeyPatch, places: Places) -> None:
    answers = Answers([DaemonSilent("no answer")], [DaemonSilent("no answer")], [result(0, "unmounted")])
    served(monkeypatch, places, answers)
    outcome, _, notices = ask()
    assert outcome["exit_code"] == 0
    assert len(notices) == 2
    assert "does not answer" in notices[0]


def test_silence_beyond_the_time_limit_is_an_error(monkeypatch: pytest.MonkeyPatch, places: Places) -> None:
    served(monkeypatch, places, Answers([DaemonSilent("no answer")]))
    with pytest.raises(DaemonSilent):
        ask(timeout=0.0)


def test_time_limit_while_finishing_leaves_the_daemon_to_it(monkeypatch: pytest.MonkeyPatch, places: Places) -> None:
    finishing = {"event": "progress", "state": "finishing"}
    served(monkeypatch, places, Answers([finishing]))
    outcome, _, _ = ask(timeout=0.0)
    assert (outcome["exit_code"], outcome["state"]) == (3, "finishing")


def test_daemon_that_ended_in_between_left_nothing(monkeypatch: pytest.MonkeyPatch, places: Places) -> None:
    served(monkeypatch, places, Answers([DaemonGone("gone")]))
    for name in ("bytes",):
        (places.state / name).unlink()
    (places.cache / "bytes").unlink()
    places.cache.rmdir()
    outcome, _, _ = ask()
    assert outcome["exit_code"] == 0


def test_daemon_that_died_keeps_what_it_had(monkeypatch: pytest.MonkeyPatch, places: Places) -> None:
    record = served(monkeypatch, places, Answers([{"event": "progress"}, DaemonGone("gone")]))
    write_file_durably(places.record, record.to_json())
    outcome, _, _ = ask()
    assert outcome["exit_code"] == 3
    assert "kept" in outcome["message"]
    assert "vfsd recover" in outcome["message"]


def test_result_of_a_daemon_that_is_gone_is_its_own_word(monkeypatch: pytest.MonkeyPatch, places: Places) -> None:
    record = served(monkeypatch, places, Answers([DaemonGone("gone")]))
    write_file_durably(places.record, record.to_json())
    write_file_durably(places.result, json.dumps({"exit_code": 4, "message": "differs", "state": "failed"}))
    outcome, _, _ = ask()
    assert (outcome["exit_code"], outcome["message"]) == (4, "differs")


def test_daemon_that_runs_without_its_socket_is_said(monkeypatch: pytest.MonkeyPatch, places: Places) -> None:
    own = make_record(places)
    monkeypatch.setattr(unmounting, "END_SECONDS", 0.0)
    served(monkeypatch, places, Answers([DaemonGone("gone")]), pid=own.pid, process_started=own.process_started)
    with pytest.raises(UnfitError, match="fusermount3 -u"):
        ask()


def test_dead_daemons_kept_data_are_reported_when_nothing_is_mounted(
    monkeypatch: pytest.MonkeyPatch, places: Places, tmp_path: Path
) -> None:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    write_file_durably(places.record, make_record(places, mountpoint=os.fspath(mountpoint)).to_json())
    monkeypatch.setattr(unmounting, "find_leftovers", lambda: _leftovers(places))
    outcome = unmounting.unmount(mountpoint, None, lambda item: None, lambda text: None)
    assert outcome["exit_code"] == 3
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(UnfitError, match="not a vfsd mount"):
        unmounting.unmount(other, None, lambda item: None, lambda text: None)


def test_overview_says_why_it_knows_little(monkeypatch: pytest.MonkeyPatch, places: Places) -> None:
    record = make_record(places)
    known = KnownMount(Path("/mnt/plate1"), None, record, True)
    states = []
    for error in (DaemonSilent("x"), UnfitError("x")):

        class Broken:
            def __init__(self, path: Path, uid: int) -> None:
                pass

            def status(self, error: Exception = error) -> dict[str, Any]:
                raise error

        monkeypatch.setattr(overview, "DaemonClient", Broken)
        monkeypatch.setattr(overview, "find_mount", lambda path: known)
        facts = overview.describe_mount(Path("/mnt/plate1"))
        states.append(facts["state"])
        assert facts["pid"] == record.pid
        assert facts["store"] == record.store
    assert states == ["not answering", "of another user"]


@pytest.mark.parametrize(
    ("file", "found"),
    [
        ("a/b.tif", b"a/b.tif"),
        ("/mnt/plate1/a/b.tif", b"a/b.tif"),
        ("./a//b.tif", b"a/b.tif"),
        (os.fsdecode(b"\xff\n.tif"), b"\xff\n.tif"),
    ],
)
def test_files_are_named_from_here_or_from_the_plate(file: str, found: bytes) -> None:
    assert plate_relative(Path(file), Path("/mnt/plate1")) == found


@pytest.mark.parametrize("file", ["../x", "/etc/passwd", "/mnt/plate12/x", "a/../../x", "/mnt/plate1", "."])
def test_files_outside_the_mount_are_refused(file: str) -> None:
    with pytest.raises(UsageProblem):
        plate_relative(Path(file), Path("/mnt/plate1"))


def test_files_are_seen_from_the_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mnt" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mnt" / "sub")
    assert plate_relative(Path("x.tif"), (tmp_path / "mnt").resolve()) == b"sub/x.tif"
    assert plate_relative(Path("../x.tif"), (tmp_path / "mnt").resolve()) == b"x.tif"
