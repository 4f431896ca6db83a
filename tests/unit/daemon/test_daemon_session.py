"""How a mount ends: flushed first, then let go, and nothing removed that is not in the store."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from session_parts import Flushed, Kept, Scene, make_scene

from vfsd.daemon.outcome import Outcome
from vfsd.errors import UnfitError, VerificationFailed

Act = Callable[[Scene], Awaitable[Any]]


def live(folder: Path, act: Act, **options: Any) -> tuple[Scene, Outcome]:
    """Run a session; `act` is what happens once it answers."""

    async def run() -> tuple[Scene, Outcome]:
        scene = make_scene(folder, **options)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                outcome = await scene.session.run(lambda: nursery.start_soon(act, scene))
        return scene, outcome

    return trio.run(run)


async def unmount(scene: Scene) -> Outcome:
    return await scene.session.begin_unmount(None).wait()


def test_unmount_flushes_before_and_after_and_leaves_nothing(tmp_path: Path) -> None:
    results = [Flushed(5, 50, 25, 1.0, Path("/r/1")), Flushed(1, 10, 5, 0.5, Path("/r/2"))]
    scene, outcome = live(tmp_path, unmount, flushes=results)
    assert outcome.exit_code == 0
    assert outcome.state == "unmounted"
    assert outcome.flush is not None
    assert (outcome.flush.files, outcome.flush.bytes, outcome.flush.receipts) == (6, 60, ("/r/1", "/r/2"))
    assert scene.flushed == [None, None]
    assert scene.tree.closed
    assert not scene.places.state.exists()
    assert not scene.places.ram.exists()
    assert not list(scene.places.roots.registry.iterdir())


def test_incomplete_flush_leaves_it_mounted_and_a_second_try_may_succeed(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        first = await unmount(scene)
        assert first.exit_code == 3
        assert first.state == "mounted"
        assert "disk is full" in first.message
        assert scene.transport.mounted
        assert scene.session.state == "mounted"
        assert scene.places.state.exists()
        second = await unmount(scene)
        assert second.exit_code == 0

    kept = Flushed(kept=(Kept(b"a/b.tif", "the disk is full"),))
    scene, outcome = live(tmp_path, act, flushes=[kept])
    assert outcome.exit_code == 0
    assert not scene.places.state.exists()


@pytest.mark.parametrize(("error", "code"), [(UnfitError("no room"), 3), (VerificationFailed("differs"), 4)])
def test_flush_that_raises_leaves_it_mounted(tmp_path: Path, error: Exception, code: int) -> None:
    async def act(scene: Scene) -> None:
        first = await unmount(scene)
        assert first.exit_code == code
        assert str(error) in first.message
        assert scene.transport.mounted
        await unmount(scene)

    live(tmp_path, act, flushes=[error])


def test_busy_mount_stays_usable_and_says_who_holds_it(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.transport.busy = 10**9
        first = await unmount(scene)
        assert (first.exit_code, first.state) == (5, "mounted")
        assert "in use" in first.message
        scene.transport.busy = 0
        await unmount(scene)

    _, outcome = live(tmp_path, act)
    assert outcome.exit_code == 0


def test_mount_that_is_busy_for_an_instant_is_asked_again(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.transport.busy = 2
        assert (await unmount(scene)).exit_code == 0

    live(tmp_path, act)


def test_time_limit_stops_the_flush_and_leaves_it_mounted(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.hold = trio.Event()
        first = await scene.session.begin_unmount(0.05).wait()
        assert (first.exit_code, first.state) == (3, "mounted")
        assert "0.05 s" in first.message
        scene.hold.set()
        assert (await unmount(scene)).exit_code == 0

    live(tmp_path, act)


def test_second_unmount_follows_the_first(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        assert scene.session.begin_unmount(None) is scene.session.begin_unmount(1.0)

    scene, _ = live(tmp_path, act)
    assert len(scene.flushed) == 2


def test_somebody_else_unmounts(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.transport.leave()

    scene, outcome = live(tmp_path, act, flushes=[Flushed(2, 20, 10)])
    assert outcome.exit_code == 0
    assert scene.flushed == [None]
    assert not scene.places.state.exists()


def test_unmount_asked_while_finishing_gets_the_final_outcome(tmp_path: Path) -> None:
    heard: list[Outcome] = []

    async def act(scene: Scene) -> None:
        scene.hold = trio.Event()
        scene.transport.leave()
        while scene.session.state != "finishing":
            await trio.lowlevel.checkpoint()
        operation = scene.session.begin_unmount(None)
        scene.hold.set()
        heard.append(await operation.wait())

    _, outcome = live(tmp_path, act, flushes=[Flushed(2, 20, 10)])
    assert heard == [outcome]


@pytest.mark.parametrize("result", [Flushed(kept=(Kept(b"a.tif", "why"),)), OSError(28, "No space left")])
def test_failure_after_the_unmount_keeps_everything_and_says_so(tmp_path: Path, result: Any) -> None:
    async def act(scene: Scene) -> None:
        scene.transport.leave()

    scene, outcome = live(tmp_path, act, flushes=[result])
    assert outcome.exit_code == 3
    assert (scene.places.ram / "bytes").exists()
    assert (scene.places.cache / "bytes").exists()
    document = json.loads(scene.places.result.read_text())
    assert document["exit_code"] == 3
    assert document["store"] == "/data/plate1.vfs"
    assert "vfsd recover" in document["message"]
    assert document["ended"]


def test_dirty_files_after_a_complete_flush_are_kept(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.tree.files = 1
        scene.transport.leave()

    scene, outcome = live(tmp_path, act)
    assert outcome.exit_code == 3
    assert (scene.places.ram / "bytes").exists()


def test_signal_flushes_and_ends(tmp_path: Path) -> None:
    order: list[str] = []

    async def act(scene: Scene) -> None:
        async def secure() -> int:
            await trio.testing.wait_all_tasks_blocked()
            assert not scene.flushed
            order.append("secured")
            return 0

        scene.tree.secure = secure  # type: ignore[method-assign]  # the order is what is tested
        os.kill(os.getpid(), signal.SIGTERM)

    scene, outcome = live(tmp_path, act)
    assert outcome.exit_code == 0
    assert order == ["secured"]
    assert scene.flushed == [None, None]
    assert not scene.transport.mounted
    assert not scene.transport.detached


def test_signal_ends_a_busy_mount_with_everything_flushed(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.transport.busy = 10**9
        os.kill(os.getpid(), signal.SIGTERM)

    scene, outcome = live(tmp_path, act)
    assert outcome.exit_code == 0
    assert scene.transport.detached


def test_signal_ends_it_even_if_the_flush_fails(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    kept = Flushed(kept=(Kept(b"a.tif", "why"),))
    scene, outcome = live(tmp_path, act, flushes=[kept, kept])
    assert outcome.exit_code == 3
    assert not scene.transport.mounted
    assert (scene.places.ram / "bytes").exists()
    assert scene.places.result.exists()


def test_second_signal_leaves_at_once_and_keeps_everything(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.hold = trio.Event()
        os.kill(os.getpid(), signal.SIGTERM)
        while not scene.flushed:
            await trio.lowlevel.checkpoint()
        os.kill(os.getpid(), signal.SIGINT)
        while not scene.left:
            await trio.lowlevel.checkpoint()
        assert scene.left == [8]
        assert json.loads(scene.places.result.read_text())["exit_code"] == 8
        assert (scene.places.ram / "bytes").exists()
        scene.hold.set()

    live(tmp_path, act)


def test_flush_of_named_files_while_mounted(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        outcome = await scene.session.begin_flush([b"a/b.tif"]).wait()
        assert (outcome.exit_code, outcome.state) == (0, "mounted")
        assert scene.session.state == "mounted"
        await unmount(scene)
        late = await scene.session.begin_flush(None).wait()
        assert late.exit_code == 5

    scene, _ = live(tmp_path, act)
    assert scene.flushed[0] == [b"a/b.tif"]


def test_read_only_mount_flushes_nothing_and_keeps_what_was_left(tmp_path: Path) -> None:
    (tmp_path / "fresh").mkdir()
    (tmp_path / "kept").mkdir()
    fresh, outcome = live(tmp_path / "fresh", unmount, read_only=True)
    assert outcome.exit_code == 0
    assert fresh.flushed == []
    assert not fresh.places.state.exists()
    kept, outcome = live(tmp_path / "kept", unmount, read_only=True, continued=True)
    assert outcome.exit_code == 0
    assert (kept.places.ram / "bytes").exists()


def test_transport_that_breaks_ends_the_mount_with_a_flush(tmp_path: Path) -> None:
    async def act(scene: Scene) -> None:
        scene.transport.error = RuntimeError("the handler of something")
        scene.transport.leave()

    scene, outcome = live(tmp_path, act)
    assert outcome.exit_code == 0
    assert scene.flushed == [None]
    assert scene.transport.detached


def test_mount_that_ends_before_it_answers_is_an_error(tmp_path: Path) -> None:
    async def run() -> None:
        scene = make_scene(tmp_path)
        (tmp_path / "mnt").rmdir()
        with pytest.raises(ExceptionGroup) as caught:
            await scene.session.run(lambda: None)
        assert caught.group_contains(UnfitError, match="does not answer")
        assert scene.transport.detached
        assert (scene.places.ram / "bytes").exists()

    trio.run(run)


def test_status_names_what_scripts_rely_on(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    async def act(scene: Scene) -> None:
        scene.tree.files = 2
        seen.append(scene.session.status())
        scene.tree.files = 0
        await unmount(scene)
        seen.append(scene.session.status())

    live(tmp_path, act)
    status = seen[0]
    assert {"pid", "source", "store", "mountpoint", "transport", "state"} <= set(status)
    assert status["tiers"] == {
        "ram": {"bytes": 10, "files": 1, "budget": 100},
        "cache": {"bytes": 0, "files": 0, "budget": 1000},
        "store": {"bytes": 300, "files": 3, "budget": None},
    }
    assert status["dirty"] == {"files": 2, "bytes": 20}
    assert status["state"] == "mounted"
    assert json.dumps(status)
    assert seen[1]["state"] == "unmounted"


def test_error_of_the_control_server_does_not_end_the_mount(tmp_path: Path) -> None:
    async def broken(session: Any, stop: trio.Event) -> None:
        raise OSError(98, "Address already in use")

    async def act(scene: Scene) -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert scene.session.state == "mounted"
        await unmount(scene)

    _, outcome = live(tmp_path, act, serve_control=broken)
    assert outcome.exit_code == 0
