"""Records and locks: whoever may look finds the daemon, and nobody else's word is believed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_parts import make_places, make_record

from vfsd.daemon.mountinfo import Mount
from vfsd.daemon.registry import (
    MountRecord,
    find_mount,
    is_alive,
    known_mounts,
    lock_is_held,
    parse_record,
    process_start,
    read_record,
    register,
    unregister,
    write_file_durably,
)
from vfsd.daemon.state_lock import take_state_lock
from vfsd.errors import UnfitError


def mount_of(record: MountRecord, device: str = "0:57", point: str | None = None) -> Mount:
    place = os.fsencode(record.mountpoint if point is None else point)
    return Mount(40, 1, device, b"/", place, "fuse.vfsd", b"x", b"rw,user_id=%d" % record.uid)


def test_record_round_trips_any_path(tmp_path: Path) -> None:
    places = make_places(tmp_path)
    name = os.fsdecode(b"/data/\xff\n plate\x1b[31m")
    record = make_record(places, source=name, mountpoint=name, device="0:57")
    write_file_durably(places.record, record.to_json())
    assert read_record(places.record, (os.geteuid(),)) == record


@given(st.binary(max_size=200))
def test_anything_else_is_no_record(text: bytes) -> None:
    assert parse_record(text) is None


@pytest.mark.parametrize("text", [b"[]", b"{}", b'{"pid": 1}', b"[" * 100_000, b"null", b"\xff"])
def test_other_json_is_no_record(text: bytes) -> None:
    assert parse_record(text) is None


def test_record_that_names_a_way_out_of_its_folder_is_none(tmp_path: Path) -> None:
    places = make_places(tmp_path)
    assert parse_record(make_record(places, device="../../x").to_json().encode()) is None
    assert parse_record(make_record(places, mount_id="a/b").to_json().encode()) is None
    assert parse_record(make_record(places, pid="1").to_json().encode()) is None


def test_only_a_plain_file_of_the_right_user_is_read(tmp_path: Path) -> None:
    places = make_places(tmp_path)
    record = make_record(places)
    path = tmp_path / "record.json"
    write_file_durably(path, record.to_json())
    assert read_record(path, (os.geteuid() + 1,)) is None
    (tmp_path / "link").symlink_to(path)
    assert read_record(tmp_path / "link", (os.geteuid(),)) is None
    os.mkfifo(tmp_path / "fifo")
    assert read_record(tmp_path / "fifo", (os.geteuid(),)) is None
    assert read_record(tmp_path, (os.geteuid(),)) is None
    write_file_durably(path, make_record(places, uid=os.geteuid() + 1).to_json())
    assert read_record(path, (os.geteuid(),)) is None


def test_lock_tells_whether_the_daemon_lives(tmp_path: Path) -> None:
    places = make_places(tmp_path)
    assert lock_is_held(places.lock) is False
    lock = take_state_lock(places.lock)
    assert lock is not None
    assert lock_is_held(places.lock) is True
    assert is_alive(make_record(places))
    assert not is_alive(make_record(places, process_started=1))
    assert take_state_lock(places.lock, patience=0.0) is None
    os.close(lock)
    assert lock_is_held(places.lock) is False
    assert not is_alive(make_record(places))


def test_lock_of_a_removed_file_is_worth_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    old = take_state_lock(path)
    assert old is not None
    path.unlink()
    new = take_state_lock(path)
    assert new is not None
    assert os.path.samestat(os.fstat(new), path.stat())
    os.close(old)
    assert lock_is_held(path) is True
    os.close(new)


def test_looking_does_not_disturb_taking(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with path.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert take_state_lock(path, patience=0.0) is None
    taken = take_state_lock(path)
    assert taken is not None
    os.close(taken)


def test_process_start_tells_processes_apart() -> None:
    assert process_start(os.getpid()) == process_start(os.getpid())
    assert process_start(2**22 + 1) is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        started = process_start(child.pid)
        assert started is not None
        assert started >= (process_start(os.getpid()) or 0)
    finally:
        child.communicate(b"\n")


def test_process_that_nobody_has_waited_for_has_ended() -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.close(writing)
    os.read(reading, 1)  # end of file: the child has closed its end, and soon is a zombie
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert process_start(pid) is None
    os.close(reading)
    os.waitpid(pid, 0)


def test_living_daemon_is_found_with_and_without_its_mount(tmp_path: Path) -> None:
    places = make_places(tmp_path)
    record = make_record(places, device="0:57")
    write_file_durably(places.record, record.to_json())
    register(record, places.roots)
    lock = take_state_lock(places.lock)
    assert lock is not None
    (found,) = known_mounts([mount_of(record)], places.roots)
    assert found.alive
    assert found.record == record
    assert found.mount is not None
    (found,) = known_mounts([], places.roots)
    assert found.alive
    assert found.mount is None
    os.close(lock)
    (found,) = known_mounts([mount_of(record)], places.roots)
    assert not found.alive
    assert found.record == record
    assert known_mounts([], places.roots) == []


def test_daemon_is_found_from_its_state_when_a_logout_emptied_the_runtime_folder(tmp_path: Path) -> None:
    places = make_places(tmp_path)
    places.roots.state.chmod(0o700)
    record = make_record(places, device="0:57")
    write_file_durably(places.record, record.to_json())
    (found,) = known_mounts([mount_of(record)], places.roots)
    assert found.record == record


def test_reused_device_number_does_not_give_a_mount_to_a_dead_daemon(tmp_path: Path) -> None:
    places = make_places(tmp_path)
    record = make_record(places, device="0:57")
    register(record, places.roots)
    (found,) = known_mounts([mount_of(record, point="/mnt/other")], places.roots)
    assert found.record is None
    assert not found.alive


def test_record_is_removed_only_by_its_own_daemon(tmp_path: Path) -> None:
    places = make_places(tmp_path)
    lock = take_state_lock(places.lock)
    assert lock is not None
    mine = make_record(places, device="0:57")
    register(mine, places.roots)
    unregister(make_record(places, device="0:57", pid=1), places.roots)
    assert len(list(places.roots.registry.iterdir())) == 1
    unregister(mine, places.roots)
    assert not list(places.roots.registry.iterdir())
    os.close(lock)


def test_records_of_dead_daemons_go_when_another_registers(tmp_path: Path) -> None:
    places = make_places(tmp_path)
    register(make_record(places, device="0:1"), places.roots)
    register(make_record(places, device="0:2"), places.roots)
    assert not [path.name for path in places.roots.registry.iterdir() if path.name == "0:1.json"]


def test_folder_that_is_no_mount(tmp_path: Path) -> None:
    with pytest.raises(UnfitError, match="not a vfsd mount") as caught:
        find_mount(tmp_path)
    assert str(tmp_path) in str(caught.value)
