"""The kernel transport mounted in both ways, in this process: by ourselves, and by fusermount3, as users without rights do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from tree_bench import Bench, run

from vfsd.errors import UnfitError
from vfsd.fuse.kernel import KernelTransport, mounting

pytestmark = pytest.mark.fuse


def make_transport(bench: Bench, mountpoint: Path) -> KernelTransport:
    assert bench.tree is not None
    return KernelTransport(bench.tree, mountpoint, filesystem_name="/data/plate, 1", options=["default_permissions"])


def use(mountpoint: Path) -> None:
    assert os.listdir(mountpoint) == ["x"]
    assert (mountpoint / "x").read_bytes() == b"of the source"
    (mountpoint / "new").write_bytes(b"new bytes")
    assert (mountpoint / "new").read_bytes() == b"new bytes"
    line = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {mountpoint} " in line)
    kind, name = line.split(" - ")[1].split()[:2]
    assert (kind, name) == ("fuse.vfsd", "/data/plate,\\0401")


@pytest.mark.parametrize("by_ourselves", [True, False], ids=["mount(2)", "fusermount3"])
def test_it_is_mounted_and_unmounted(bench: Bench, by_ourselves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_ourselves and os.geteuid() != 0:
        pytest.skip("needs root")
    if not by_ourselves:
        monkeypatch.setattr(mounting, "_mount_by_ourselves", lambda *_: None)
    mountpoint = bench.folder / "mnt"
    mountpoint.mkdir()

    async def act() -> None:
        bench.put_source("x", b"of the source")
        await bench.mount()
        transport = make_transport(bench, mountpoint)
        transport.mount()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.serve)
                await trio.to_thread.run_sync(use, mountpoint)
                await transport.request_unmount()
        except BaseException:
            transport.unmount_lazily()
            raise
        assert os.listdir(mountpoint) == []

    run(act)
    assert (bench.source / "x").read_bytes() == b"of the source"


@pytest.mark.parametrize("by_ourselves", [True, False], ids=["mount(2)", "fusermount3"])
def test_a_refusal_says_why(bench: Bench, by_ourselves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not by_ourselves:
        monkeypatch.setattr(mounting, "_mount_by_ourselves", lambda *_: None)

    async def act() -> None:
        await bench.mount()
        with pytest.raises(UnfitError) as caught:
            make_transport(bench, bench.folder / "missing").mount()
        assert "No such file" in str(caught.value)

    run(act)
