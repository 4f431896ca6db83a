"""rsync and tar carry a tree into a mount and out of it: links, holes, attributes, odd names, and nothing left to do."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from blackbox.acts import EARLY_NS, LATE_NS, MIB, own_attributes, some_bytes, write_at
from blackbox.daemons import DONE, Mounted, Vfsd
from blackbox.trees import assert_same_tree, read_tree

pytestmark = pytest.mark.fuse

needs_rsync = pytest.mark.skipif(shutil.which("rsync") is None, reason="no rsync")

# What a plain copy would lose. With ACLs and all namespaces of extended attributes that the mount has.
RSYNC = ("rsync", "-aHAX", "--checksum", "--itemize-changes")


def run(*command: str | Path) -> str:
    done = subprocess.run([*command], capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, f"{command}: {done.stdout!r} {done.stderr!r}"
    return os.fsdecode(done.stdout)


def lay_out(folder: Path) -> None:
    """One of everything that a copy can get wrong."""
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "plain.bin").write_bytes(some_bytes(300_000, 1))
    (folder / "nothing").touch()
    for name in ("linked", "deep/linked too", "deep/deeper/third"):
        os.link(folder / "plain.bin", folder / name)
    (folder / "sparse").touch()
    write_at(folder / "sparse", 30 * MIB, b"far out")
    os.truncate(folder / "sparse", 40 * MIB)
    (folder / "relative").symlink_to("deep/linked too")
    (folder / "dangling").symlink_to("/nowhere/at all")
    os.link(folder / "dangling", folder / "dangling too", follow_symlinks=False)
    os.mkfifo(folder / "pipe", 0o640)
    for name in (b"\xff\xfe no utf-8", b"two\nlines", " täglich µm ".encode(), b"-rf", b"back\\slash", b"n" * 255):
        Path(os.fsdecode(os.fsencode(folder / "deep") + b"/" + name)).write_bytes(name)
    (folder / "deep" / "deeper").chmod(0o2750)
    (folder / "nothing").chmod(0o6711)
    for name in ("plain.bin", "deep", "nothing"):
        os.setxattr(folder / name, "user.comment", b"seen by \xff\0 me")
    if os.geteuid() == 0:
        os.chown(folder / "nothing", 1234, 4321)
        os.chown(folder / "relative", 1234, 4321, follow_symlinks=False)
        (folder / "nothing").chmod(0o6711)
    for number, path in enumerate(sorted(folder.rglob("*"), reverse=True)):
        time = (LATE_NS if number % 2 else EARLY_NS) + number
        os.utime(path, ns=(time, time), follow_symlinks=False)


def assert_copied(copy: Path, original: Path, where: str) -> None:
    assert_same_tree(read_tree(copy), read_tree(original), where)
    assert own_attributes(copy) == own_attributes(original)
    assert (copy / "plain.bin").samefile(copy / "deep" / "deeper" / "third")


def assert_nothing_to_do(origin: Path, target: Path) -> None:
    """A second run of rsync finds that all is there."""
    said = run(*RSYNC, f"{origin}/", f"{target}/")
    assert said == "", f"rsync would change:\n{said}"


@needs_rsync
def test_rsync_into_the_mount_and_out_of_it(tmp_path: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    original, source = tmp_path / "original", tmp_path / "plate"
    lay_out(original)
    shutil.copytree(original, source / "in the source", symlinks=True, ignore=shutil.ignore_patterns("pipe", "sparse"))
    with mounted(source) as mount:
        into = mount.path / "copied"
        for target in (into, mount.path / "in the source"):  # one new, one where half is there already
            run(*RSYNC, f"{original}/", f"{target}/")
            assert_copied(target, original, f"the copy {target.name}")
            assert_nothing_to_do(original, target)
        run(*RSYNC, f"{into}/", f"{tmp_path / 'back'}/")
        assert_copied(tmp_path / "back", original, "the copy of the copy")
        mount.flush()
        assert_nothing_to_do(original, into)
        (into / "deep" / "-rf").unlink()
        (original / "deep" / "-rf").unlink()
        os.utime(original / "deep", ns=(EARLY_NS, EARLY_NS))
        said = run(*RSYNC, "--delete", f"{original}/", f"{into}/")
        assert said == ".d..t...... deep/\n"
        mount.umount()
    vfsd.expect(DONE, "verify", mount.store)
    with mounted(source) as again:
        assert_copied(again.path / "copied", original, "the copy after a remount")
        assert_nothing_to_do(original, again.path / "copied")
        run(*RSYNC, f"{again.path / 'copied'}/", f"{tmp_path / 'last'}/")
        assert_nothing_to_do(original, tmp_path / "last")


def test_tar_into_the_mount_and_out_of_it(tmp_path: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    original, source = tmp_path / "original", tmp_path / "plate"
    lay_out(original)
    source.mkdir()
    options = ("--xattrs", "--sparse", "--numeric-owner", "--preserve-permissions")
    run("tar", *options, "-cf", tmp_path / "original.tar", "-C", original, ".")
    with mounted(source) as mount:
        copied = mount.path / "copied"
        copied.mkdir()
        run("tar", *options, "-xf", tmp_path / "original.tar", "-C", copied)
        assert_copied(copied, original, "what tar unpacked")
        assert (copied / "sparse").stat().st_blocks * 512 < MIB
        run("tar", *options, "-df", tmp_path / "original.tar", "-C", copied)
        run("tar", *options, "-cf", mount.path / "again.tar", "-C", copied, ".")
        mount.umount()
    vfsd.expect(DONE, "verify", mount.store)
    with mounted(source) as again:
        assert_copied(again.path / "copied", original, "what tar unpacked, after a remount")
        run("tar", *options, "-df", tmp_path / "original.tar", "-C", again.path / "copied")
        out = tmp_path / "out"
        out.mkdir()
        run("tar", *options, "-xf", again.path / "again.tar", "-C", out)
    assert_copied(out, original, "what tar packed on the mount")
