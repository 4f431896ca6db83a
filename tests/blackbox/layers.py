"""One mount for many tests, over files that begin in the source, in the overlay or in the store.

Each test gets a folder of its own that is there twice: on the mount, where its contents come from one of the
layers, and on the local disk. What is done to both must look the same. When the last test is through, the mount
is unmounted, and mounted again: what all of them left must be there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blackbox.acts import EARLY_NS, own_attributes, some_bytes
from blackbox.daemons import DONE, Mount, Vfsd, mount_plate, unmount_with
from blackbox.trees import Entry, assert_same_tree, read_tree

LAYERS = ["source", "overlay", "store"]

# Folders laid out before the mount, for tests to take one after the other, more than any module has tests.
FOLDERS = 40

# Of a folder's "one.bin" and its like: some pages and a bit, so that holes and page borders can be hit.
FILE_BYTES = 20_000


def lay_out(folder: Path) -> None:
    """What a test finds: files, a folder with files, an empty one, links."""
    (folder / "full").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "text").write_bytes(b"a line of text\n" * 40)
    (folder / "one.bin").write_bytes(some_bytes(FILE_BYTES, 1))
    (folder / "two.bin").write_bytes(some_bytes(FILE_BYTES, 2))
    (folder / "full" / "inside").write_bytes(b"inside\n")
    (folder / "full" / "deep").mkdir()
    (folder / "full" / "deep" / "bottom").write_bytes(b"bottom\n")
    (folder / "link").symlink_to("one.bin")
    os.link(folder / "two.bin", folder / "two too.bin")
    for path in sorted(folder.rglob("*"), reverse=True):
        os.utime(path, ns=(EARLY_NS, EARLY_NS), follow_symlinks=False)


@dataclass(slots=True)
class Stage:
    """See the module; `layer` is where the files begin."""

    layer: str
    mount: Mount
    local: Path
    taken: int = 0
    unlike: set[bytes] = field(default_factory=set)

    def folder(self) -> Both:
        """The next unused folder."""
        self.taken += 1
        assert self.taken <= FOLDERS, "FOLDERS is too small for this module"
        name = f"{self.taken:02}"
        mounted, local = self.mount.path / name, self.local / name
        if self.layer == "overlay":
            lay_out(mounted)
        lay_out(local)
        return Both(self, mounted, local)


@dataclass(frozen=True, slots=True)
class Both:
    """A folder on the mount, and the same on the local disk."""

    stage: Stage
    mounted: Path
    local: Path

    def agree(self, act: Callable[[Path], Any]) -> Any:
        """Do something to both; what it returns must be equal, and is returned."""
        expected = act(self.local)
        assert act(self.mounted) == expected
        return expected

    def not_compared(self) -> None:
        """What this folder holds is no matter of comparison with the local disk after the remount."""
        self.stage.unlike.add(os.fsencode(self.mounted.name))


def _settled(tree: dict[bytes, Entry], leave_out: set[bytes]) -> dict[bytes, Entry]:
    return {path: entry for path, entry in tree.items() if path.split(b"/")[0] not in leave_out}


@contextlib.contextmanager
def staged(vfsd: Vfsd, folder: Path, layer: str, transport: str, *options: str) -> Iterator[Stage]:
    """A stage over one layer; at its end everything must survive a remount, and the source must be untouched."""
    plate, mountpoint, local = folder / "plate", folder / "mnt", folder / "local"
    for made in (plate, mountpoint, local):
        made.mkdir()
    if layer != "overlay":
        for number in range(1, FOLDERS + 1):
            lay_out(plate / f"{number:02}")
    mounted_thing = plate
    if layer == "store":
        mounted_thing = folder / "only.vfs"
        vfsd.expect(DONE, "convert", plate, mounted_thing)
        shutil.rmtree(plate)
    before = read_tree(plate) if plate.exists() else None
    mounts = [mount_plate(vfsd, mounted_thing, mountpoint, ["--transport", transport, *options])]
    try:
        stage = Stage(layer, mounts[0], local)
        yield stage
        if stage.layer != "overlay":
            for number in range(stage.taken + 1, FOLDERS + 1):
                lay_out(local / f"{number:02}")
        live, attributes = read_tree(mountpoint), own_attributes(mountpoint)
        assert_same_tree(
            _settled(live, stage.unlike), _settled(read_tree(local), stage.unlike), "the mount", ignore=["mtime_ns"]
        )
        mounts[0].umount()
        vfsd.expect(DONE, "verify", mounts[0].store)
        mounts.append(mount_plate(vfsd, mounted_thing, mountpoint, ["--transport", transport]))
        assert_same_tree(read_tree(mountpoint), live, "the next mount")
        assert own_attributes(mountpoint) == attributes
        mounts[1].umount()
    finally:
        trouble = []
        for mount in mounts:
            mount.end()
            trouble += mount.log_trouble()
            mount.remove_state()
        unmount_with("fusermount3", "-uz", mountpoint)
    if before is not None:
        assert_same_tree(read_tree(plate), before, "the source")
    assert not trouble, "the daemon logged:\n" + "\n".join(trouble)


def run_python(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Another process that runs a few lines of Python, with `sys.argv[1:]` as its arguments."""
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
