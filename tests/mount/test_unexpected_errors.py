"""An unexpected exception in any handler: its caller gets EIO, the log says what and where, and the mount lives on.

The exceptions are planted in the daemon's own process by a `sitecustomize` module on its path: it wraps what the
handlers call, and raises where a file that the test writes names the operation.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
from blackbox.acts import error_of
from blackbox.daemons import Mount, Vfsd, mount_plate, wait_until

from vfsd.fuse.pyfuse3_transport import _Operations

pytestmark = pytest.mark.fuse

PLANT = """
import functools, inspect, os

wanted = os.environ["VFSD_TEST_PLANT"]

def plant(owner, method, operation):
    real = getattr(owner, method)
    def due():
        try:
            with open(wanted) as file:
                return file.read() == operation
        except FileNotFoundError:
            return False
    if inspect.iscoroutinefunction(real):
        async def wrapped(*args, **kwargs):
            if due():
                raise ValueError("planted")
            return await real(*args, **kwargs)
    else:
        def wrapped(*args, **kwargs):
            if due():
                raise ValueError("planted")
            return real(*args, **kwargs)
    setattr(owner, method, functools.wraps(real)(wrapped))

from vfsd.tree.attributes import AttributeOperations
from vfsd.tree.contents import Contents
from vfsd.tree.journal import Journal
from vfsd.tree.names import Names

plant(Names, "lookup_node", "lookup")
for name in "forget readlink mknod mkdir unlink rmdir symlink rename link create".split():
    plant(Names, name, name)
for name in "open read write fsync release".split():
    plant(Contents, name, name)
for name in "getattr setattr statfs getxattr setxattr listxattr removexattr".split():
    plant(AttributeOperations, name, name)
plant(Names, "listing", "readdir")
plant(Journal, "sync", "fsyncdir")
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[tuple[Mount, Path]]:
    """A mount whose daemon raises where the file names the operation."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(PLANT)
    path = os.pathsep.join(filter(None, [str(folder / "site"), str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    vfsd = Vfsd(
        {
            **os.environ,
            "XDG_STATE_HOME": str(folder / "state"),
            "PYTHONPATH": path,
            "VFSD_TEST_PLANT": str(folder / "operation"),
        }
    )
    (folder / "plate" / "folder").mkdir(parents=True)
    (folder / "plate" / "file").write_bytes(b"as it was")
    (folder / "plate" / "link").symlink_to("file")
    (folder / "mnt").mkdir()
    mount = mount_plate(vfsd, folder / "plate", folder / "mnt", ["--transport", transport])
    mount.expect_in_log(r"error=planted|ValueError: planted|unexpected|planted")
    try:
        yield mount, folder / "operation"
        (folder / "operation").unlink(missing_ok=True)
        mount.umount()
        assert not mount.log_trouble()
    finally:
        mount.end()
        mount.remove_state()


def open_(path: Path, flags: int = os.O_RDWR) -> int:
    return os.open(path, flags)


def after_opening(use: Callable[[int], Any], flags: int = os.O_RDWR) -> Callable[[Path, Callable[[], None]], Any]:
    """Open first, plant then, use the descriptor."""

    def act(root: Path, plant: Callable[[], None]) -> Any:
        descriptor = os.open(root / ("folder" if flags & os.O_DIRECTORY else "file"), flags)
        try:
            plant()
            use(descriptor)
        finally:
            os.close(descriptor)

    return act


def planting_first(use: Callable[[Path], Any]) -> Callable[[Path, Callable[[], None]], Any]:
    def act(root: Path, plant: Callable[[], None]) -> Any:
        plant()
        use(root)

    return act


ACTS: dict[str, Callable[[Path, Callable[[], None]], Any]] = {
    "lookup": planting_first(lambda root: os.stat(root / f"never seen {os.getpid()}")),
    "readlink": planting_first(lambda root: os.readlink(root / "link")),
    "mknod": planting_first(lambda root: os.mkfifo(root / "pipe")),
    "mkdir": planting_first(lambda root: (root / "new folder").mkdir()),
    "unlink": planting_first(lambda root: (root / "link").unlink()),
    "rmdir": planting_first(lambda root: (root / "folder").rmdir()),
    "symlink": planting_first(lambda root: (root / "sym").symlink_to("x")),
    "rename": planting_first(lambda root: (root / "file").rename(root / "moved")),
    "link": planting_first(lambda root: os.link(root / "file", root / "linked")),
    "create": planting_first(lambda root: open_(root / "created", os.O_CREAT | os.O_WRONLY)),
    "open": planting_first(lambda root: open_(root / "file")),
    "read": after_opening(lambda descriptor: os.pread(descriptor, 4, 0), os.O_RDONLY | os.O_DIRECT),
    "write": after_opening(lambda descriptor: os.pwrite(descriptor, b"x", 0)),
    "fsync": after_opening(os.fsync),
    "setattr": planting_first(lambda root: (root / "file").chmod(0o600)),
    "statfs": planting_first(os.statvfs),
    "getxattr": planting_first(lambda root: os.getxattr(root / "file", "user.x")),
    "setxattr": planting_first(lambda root: os.setxattr(root / "file", "user.x", b"")),
    "listxattr": planting_first(lambda root: os.listxattr(root / "file")),
    "removexattr": planting_first(lambda root: os.removexattr(root / "file", "user.x")),
    "readdir": planting_first(lambda root: os.listdir(root / "folder")),
    "fsyncdir": after_opening(os.fsync, os.O_RDONLY | os.O_DIRECTORY),
}


@pytest.mark.parametrize("operation", ACTS)
def test_what_nobody_foresaw_is_an_error_for_its_caller_alone(operation: str, planted: tuple[Mount, Path]) -> None:
    mount, control = planted
    descriptor = os.open(mount.path / "file", os.O_RDONLY)
    seen = mount.log.seek(0, os.SEEK_END) if mount.log else 0
    try:
        assert error_of(lambda: ACTS[operation](mount.path, lambda: assert_written(control, operation))) == "EIO"
    finally:
        control.unlink()
    assert mount.log is not None
    mount.log.seek(seen)
    logged = mount.log.read().decode()
    assert re.search(rf"unexpected.*operation={operation} path=", logged), logged
    assert "ValueError: planted" in logged
    assert os.pread(descriptor, 100, 0)[1:] == b"s it was"  # the first byte may have been written
    os.close(descriptor)
    assert sorted(os.listdir(mount.path)) == ["file", "folder", "link"]


def assert_written(path: Path, text: str) -> None:
    assert path.write_text(text) == len(text)


def test_what_nobody_waits_for_only_logs(planted: tuple[Mount, Path]) -> None:
    """`release` and `forget`: the program has its answer long before."""
    mount, control = planted
    assert mount.log is not None
    seen = mount.log.seek(0, os.SEEK_END)
    for operation in ("release", "forget"):
        path = mount.path / f"{operation}d"
        path.write_bytes(b"x")
        descriptor = os.open(path, os.O_RDONLY)
        control.write_text(operation)
        os.close(descriptor)
        path.unlink()

        def logged(operation: str = operation) -> bool:
            assert mount.log is not None
            mount.log.seek(seen)
            return f"operation={operation} path=" in mount.log.read().decode()

        wait_until(logged, f"{operation} is in the log", 20)
        control.unlink()
        assert sorted(os.listdir(mount.path)) == ["file", "folder", "link"]


def test_every_handler_has_the_guard() -> None:
    """`statfs` goes through a guarded method of its own; `forget` answers nobody, and guards itself; `flush` always says
    that there is none."""
    handlers = [
        name
        for name, value in vars(_Operations).items()
        if inspect.iscoroutinefunction(value) and hasattr(pyfuse3.Operations, name)
    ]
    unguarded = {name for name in handlers if not hasattr(getattr(_Operations, name), "__wrapped__")}
    assert unguarded == {"statfs", "forget", "flush"}
    assert len(handlers) > 25
