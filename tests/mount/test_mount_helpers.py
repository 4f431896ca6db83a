"""mount(8), umount(8) and fstab, with our helpers in their place: in a mount namespace of the test's own.

Each test is a shell script that sees /sbin with the helpers over it, and an fstab that it may write. It prints what
the test looks at; nothing of it is seen outside.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from blackbox.daemons import Vfsd
from blackbox.trees import read_tree

from vfsd.daemon.installation import install

pytestmark = [pytest.mark.fuse, pytest.mark.root]

PRELUDE = r"""
mount -t tmpfs none /run/mount;
mount -t tmpfs none "$T/layer" && mkdir "$T/layer/upper" "$T/layer/work" &&
mount -t overlay overlay -o "lowerdir=$SBIN,upperdir=$T/layer/upper,workdir=$T/layer/work" "$SBIN" &&
cp "$T"/root/sbin/* "$SBIN/" &&
mount --bind "$T/fstab" /etc/fstab || exit 99
say() { echo "$1=$2"; }
daemon() { grep -l "\"$T/mnt\"" /run/vfsd/mounts/* | xargs sed -n 's/.*"pid": \([0-9]*\).*/\1/p'; }
mounted() { grep -q " $T/mnt .* fuse.vfsd " /proc/self/mountinfo; }
"""


@dataclass
class Namespace:
    """Runs scripts in mount namespaces, where `$T` is the test's folder, `$T/plate` a plate and `$T/mnt` for the mount."""

    folder: Path
    vfsd: Vfsd

    def run(self, script: str) -> tuple[dict[str, str], str]:
        """What the script said, and what the programs printed on standard error."""
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "bash", "-c", PRELUDE + script],
            env={**self.vfsd.environment, "T": os.fspath(self.folder), "SBIN": os.path.realpath("/sbin")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode == 99:
            pytest.skip(f"no overlay in a mount namespace here: {done.stderr.strip()[:200]}")
        said = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        return said, done.stderr


@pytest.fixture
def namespace(tmp_path: Path, vfsd: Vfsd) -> Namespace:
    if shutil.which("unshare") is None:
        pytest.skip("no unshare(1)")
    for name in ("plate", "mnt", "layer"):
        (tmp_path / name).mkdir()
    (tmp_path / "fstab").touch()
    (tmp_path / "plate/a.txt").write_bytes(b"of the source")
    install(tmp_path / "root")
    if "PYTHONPATH" in os.environ:  # then vfsd is not where an isolated Python looks
        for helper in (tmp_path / "root/sbin").iterdir():
            helper.write_text(helper.read_text().replace(" -I ", " "))
    return Namespace(tmp_path, vfsd)


def test_a_line_of_fstab_and_a_plain_umount_that_waits_for_the_flush(namespace: Namespace) -> None:
    said, err = namespace.run("""
        echo "$T/plate $T/mnt fuse.vfsd ram=64M,noatime,nofail,x-systemd.automount,_netdev 0 0" > "$T/fstab"
        mount "$T/mnt"; say mount $?
        say options "$(grep " $T/mnt " /proc/self/mountinfo)"
        say read "$(cat "$T/mnt/a.txt")"
        echo of the mount > "$T/mnt/new.txt"
        umount "$T/mnt"; say umount $?
        mounted; say mounted $?
    """)
    assert (said["mount"], said["umount"], said["mounted"]) == ("0", "0", "1"), err
    assert said["read"] == "of the source"
    assert "noatime" in said["options"]
    # In the store as soon as umount has returned.
    assert (namespace.folder / "plate.vfs/files/new.txt").read_bytes() == b"of the mount\n"
    assert list(read_tree(namespace.folder / "plate")) == list(read_tree(namespace.folder / "plate"))


def test_mount_by_type_with_odd_orders_of_arguments(namespace: Namespace) -> None:
    said, err = namespace.run("""
        mount -v -o ro -t fuse.vfsd -o ram=32M "$T/plate" "$T/mnt"; say mount $?
        touch "$T/mnt/no"; say touch $?
        mount -o remount,rw "$T/mnt"; say remount $?
        umount -v "$T/mnt"; say umount $?
        mount.fuse.vfsd -o ram=32M "$T/plate" -n "$T/mnt" -s -o errors=remount-ro; say direct $?
        umount.fuse.vfsd -n -v "$T/mnt"; say direct_umount $?
        mount -f -t fuse.vfsd "$T/plate" "$T/mnt"; say fake $?
        mounted; say mounted $?
        say table "$(cat /run/mount/utab)"
    """)
    assert said == {
        "table": "",
        "mount": "0",
        "touch": "1",
        "remount": "32",
        "umount": "0",
        "direct": "0",
        "direct_umount": "0",
        "fake": "0",
        "mounted": "1",
    }, err
    assert "cannot be changed while it is mounted" in err


def test_refusals_have_the_codes_of_mount(namespace: Namespace) -> None:
    said, err = namespace.run("""
        mount -t fuse.vfsd "$T/none" "$T/mnt"; say no_source $?
        mount -t fuse.vfsd "$T/plate" "$T/none"; say no_mountpoint $?
        mount -t fuse.vfsd -o rams=8G "$T/plate" "$T/mnt"; say misspelt $?
        mount -t fuse.vfsd -o setuid=no-such-user "$T/plate" "$T/mnt"; say no_user $?
        mount.fuse.vfsd "$T/plate"; say one_operand $?
        mount.fuse.vfsd -t ext4 "$T/plate" "$T/mnt"; say other_type $?
        umount.fuse.vfsd; say umount_nothing $?
        umount.fuse.vfsd "$T/plate"; say umount_no_mount $?
    """)
    assert said == {
        "no_source": "32",
        "no_mountpoint": "32",
        "misspelt": "1",
        "no_user": "1",
        "one_operand": "1",
        "other_type": "1",
        "umount_nothing": "32",
        "umount_no_mount": "32",
    }, err
    assert "Did you mean ram" in err
    assert "Traceback" not in err


def test_a_busy_mount_stays_and_the_program_is_named(namespace: Namespace) -> None:
    said, err = namespace.run("""
        mount -t fuse.vfsd "$T/plate" "$T/mnt"
        sleep 1000 < "$T/mnt/a.txt" & holder=$!
        umount "$T/mnt"; say busy $?
        mounted; say mounted $?
        kill $holder; wait $holder
        umount "$T/mnt"; say umount $?
    """)
    assert said == {"busy": "32", "mounted": "0", "umount": "0"}, err
    assert "is in use by sleep" in err


def test_lazy_and_forced_umounts_lose_nothing(namespace: Namespace) -> None:
    said, err = namespace.run("""
        mount -t fuse.vfsd "$T/plate" "$T/mnt"
        echo lazy > "$T/mnt/lazy.txt"
        umount -l "$T/mnt"; say lazy $?
        mounted; say mounted_after_lazy $?
        for i in $(seq 600); do [ -e "$T/plate.vfs/files/lazy.txt" ] && break; sleep 0.1; done
        for i in $(seq 600); do mount -t fuse.vfsd "$T/plate" "$T/mnt" 2>"$T/said" && break; sleep 0.1; done
        echo forced > "$T/mnt/forced.txt"
        sleep 1000 < "$T/mnt/a.txt" & holder=$!
        umount -f "$T/mnt"; say busy $?
        kill -STOP "$(daemon)"
        umount -f "$T/mnt"; say forced $?
        mounted; say mounted_after_force $?
        kill $holder; kill -CONT "$(daemon)"
        for i in $(seq 600); do [ -e "$T/plate.vfs/files/forced.txt" ] && break; sleep 0.1; done
    """)
    codes = {"lazy": "0", "mounted_after_lazy": "1", "busy": "32", "forced": "0", "mounted_after_force": "1"}
    assert said == codes, err
    assert (namespace.folder / "plate.vfs/files/lazy.txt").read_bytes() == b"lazy\n"
    assert (namespace.folder / "plate.vfs/files/forced.txt").read_bytes() == b"forced\n"
    assert "is detached" in err


def test_umount_of_a_killed_daemon_says_that_its_files_are_kept(namespace: Namespace) -> None:
    said, err = namespace.run("""
        mount -t fuse.vfsd "$T/plate" "$T/mnt"
        echo kept > "$T/mnt/kept.txt"
        kill -9 "$(daemon)"
        sleep 0.2
        umount "$T/mnt"; say umount $?
        mounted; say mounted $?
        mount -t fuse.vfsd "$T/plate" "$T/mnt"; say again $?
        say kept "$(cat "$T/mnt/kept.txt")"
        umount "$T/mnt"; say umount_again $?
    """)
    assert said == {"umount": "32", "mounted": "1", "again": "0", "kept": "kept", "umount_again": "0"}, err
    assert "everything written is kept" in err
