"""What dead daemons left is found, described, and told apart from what living ones use."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from session_parts import make_places, make_record

from vfsd.daemon.outcome import FlushSummary, Outcome
from vfsd.daemon.places import Places
from vfsd.daemon.recovery import find_leftover, find_leftovers
from vfsd.daemon.registry import write_file_durably
from vfsd.daemon.running import run_until_done
from vfsd.daemon.state_lock import take_state_lock
from vfsd.errors import UnfitError


def leave(folder: Path, mount_id: str = "0123abcd") -> Places:
    places = make_places(folder, mount_id)
    source, store = folder / f"plate-{mount_id}", folder / f"plate-{mount_id}.vfs"
    source.mkdir()
    store.mkdir()
    record = make_record(places, source=os.fspath(source), store=os.fspath(store))
    write_file_durably(places.record, record.to_json())
    return places


def test_dead_daemons_state_is_listed_with_files_and_reason(tmp_path: Path) -> None:
    places = leave(tmp_path)
    (left,) = find_leftovers(places.roots)
    assert left.state_directory == places.state
    assert left.files == 2
    assert left.bytes > 0
    assert "died" in left.why
    assert left.age_seconds >= 0
    assert not left.ram_lost
    assert json.dumps(left.to_json())


def test_result_tells_why(tmp_path: Path) -> None:
    places = leave(tmp_path)
    write_file_durably(places.result, json.dumps({"message": "the disk was full", "exit_code": 3}))
    assert find_leftovers(places.roots)[0].why == "the disk was full"
    for text in ("", "[]", "{", "[" * 100_000, '{"message": 1}'):
        places.result.write_text(text)
        assert find_leftovers(places.roots)[0].why


def test_living_daemons_state_is_not_left_over(tmp_path: Path) -> None:
    places = leave(tmp_path)
    lock = take_state_lock(places.lock)
    assert lock is not None
    assert find_leftovers(places.roots) == []
    os.close(lock)
    assert len(find_leftovers(places.roots)) == 1


def test_memory_that_is_gone_after_a_restart_is_said(tmp_path: Path) -> None:
    places = leave(tmp_path)
    (places.ram / "bytes").unlink()
    places.ram.rmdir()
    (left,) = find_leftovers(places.roots)
    assert left.ram_lost
    assert left.files == 1


def test_folder_without_a_record_is_listed_and_empty_ones_are_not(tmp_path: Path) -> None:
    places = leave(tmp_path)
    places.record.unlink()
    (places.roots.state / "other").mkdir()
    (places.roots.state / "other" / "lock").touch()
    (places.roots.state / "other" / "daemon.log").touch()
    (places.roots.state / "read-only-xyz").mkdir()
    (places.roots.state / "read-only-xyz" / "vfs.json").touch()
    (places.roots.state / "stray file").touch()
    (left,) = find_leftovers(places.roots)
    assert left.record is None


def test_one_is_named_by_state_store_or_source(tmp_path: Path) -> None:
    places = leave(tmp_path)
    for name in (places.state, tmp_path / "plate-0123abcd", tmp_path / "plate-0123abcd.vfs"):
        assert find_leftover(name, places.roots).state_directory == places.state
    with pytest.raises(UnfitError, match="nothing was left"):
        find_leftover(tmp_path / "elsewhere", places.roots)
    assert find_leftovers(make_places(tmp_path / "fresh").roots)[0].record is None


def test_summaries_add_up_and_name_what_was_kept() -> None:
    first = FlushSummary(2, 20, 10, 1.0, ("/a",), ((b"\xff", "why"),), False, False, ((b"x", "changed"),))
    later = FlushSummary(1, 5, 4, 0.5, ("/b",), (), True, None)
    both = first.then(later)
    assert (both.files, both.bytes, both.stored_bytes, both.seconds) == (3, 25, 14, 1.5)
    assert both.receipts == ("/a", "/b")
    assert both.complete
    assert both.source_replaceable is False
    document = json.loads(json.dumps(Outcome(3, "mounted", "kept", first).to_json()))
    assert os.fsencode(document["flush"]["kept"][0]["path"]) == b"\xff"
    assert document["flush"]["obstacles"] == [{"path": "x", "reason": "changed"}]
    assert len(FlushSummary(0, 0, 0, 0, (), ((b"a", "b"),) * 5000, False, None).to_json()["kept"]) == 1000


def test_interrupted_command_is_a_plain_keyboard_interrupt() -> None:
    import trio

    async def interrupted() -> None:
        async with trio.open_nursery():
            raise KeyboardInterrupt

    async def failing() -> None:
        async with trio.open_nursery():
            raise UnfitError("alone")

    async def working() -> int:
        await trio.lowlevel.checkpoint()
        return 7

    with pytest.raises(KeyboardInterrupt):
        run_until_done(interrupted)
    with pytest.raises(UnfitError, match="alone"):
        run_until_done(failing)
    assert run_until_done(working) == 7
