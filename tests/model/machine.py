"""The state machine: each rule is one act on both sides, then what it touched is compared."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import Any

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from model import acts
from model.acts import EXCHANGE, NOREPLACE, Act, Side
from model.bench import Bench
from model.looking import Witness
from model.places import ANY, CONTENTS, FOLDER, NAMES, NEW, TARGETS, THERE, Place, contents, noise

ROOT = os.geteuid() == 0
# Flushes, new mounts and comparisons of everything in one example: they take a hundred times as long as another step.
RESTS = 5
SLOTS = st.integers(0, 3)
OFFSETS = st.sampled_from([0, 1, 8, 200, 4095, 4096, 5000, 65_536, 131_071, 400_000])
SIZES = st.sampled_from([0, 1, 100, 4096, 5001, 70_000, 300_000])
DATA = st.builds(lambda seed, size: noise(seed, size), st.integers(0, 9), st.sampled_from([1, 7, 100, 4096, 20_000]))
WHOLE = st.sampled_from(CONTENTS)
FILE_MODES = st.sampled_from([0o644, 0o600, 0o000, 0o777, 0o4755, 0o2644, 0o6711, 0o444])
FOLDER_MODES = st.sampled_from([0o755, 0o700, 0o1777, 0o2775, 0o3711] + [0o000, 0o555] * ROOT)
MASKS = st.sampled_from([0o022, 0o000, 0o077, 0o027])
TIMES = st.sampled_from([0, 1, 1_000_000_000_123_456_789, 999_999_999, 8_000_000_000_000_000_001, -5_000_000_001])
OWNERS = st.sampled_from([-1, 0, 1, 1000, 65_534] if ROOT else [-1, os.getuid()])
XATTRS = st.sampled_from([b"user.a", b"user.\xff\xfe", b"user." + b"n" * 250, b"user." + b"n" * 251, b"user.b"])
VALUES = st.sampled_from([b"", b"x", b"\0\xff" * 50, b"v" * 900])
XATTR_FLAGS = st.sampled_from([0, 0, os.XATTR_CREATE, os.XATTR_REPLACE])
ACCESS = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR])
OPEN_FLAGS = st.sampled_from([
    0, 0, 0, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_CREAT | os.O_APPEND,
    os.O_NOFOLLOW, os.O_DIRECTORY, os.O_CREAT | os.O_TRUNC, os.O_SYNC,
])  # fmt: skip
FLAGS = st.builds(lambda access, more: access | more, ACCESS, OPEN_FLAGS)
KINDS = st.sampled_from([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, stat.S_IFCHR])
RENAME_FLAGS = st.sampled_from([0, 0, 0, NOREPLACE, EXCHANGE, EXCHANGE, NOREPLACE | EXCHANGE])
LOCKS = st.sampled_from([fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN])
TIERS = st.sampled_from([b"ram", b"cache", b"store"])


class Counter:
    """Steps taken by all machines of a run."""

    steps = 0


class TwinMachine(RuleBasedStateMachine):
    """One example: a folder of the mount and a plain directory, and what happens to both."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench
        pair = bench.pair()
        self.mount, self.plain = Side(pair.mount), Side(pair.plain)
        self.witness = Witness(self.mount, self.plain)
        self.eager = True
        self.rests = 0
        self.failed = False

    @initialize(eager=st.booleans())
    def begin(self, eager: bool) -> None:
        """Looking at contents changes what a tree has in RAM: half of the examples look at them only now and then."""
        self.eager = eager

    def teardown(self) -> None:
        try:
            if not self.failed:
                self.look()
                self.bench.assert_untroubled()
        except BaseException:
            self.failed = True
            raise
        finally:
            self.bench.sound = self.bench.sound and not self.failed
            self.mount.close_all()
            self.plain.close_all()

    # --- both at once

    def both(self, act: Act, *arguments: Any, touched: tuple[bytes, ...] = ()) -> None:
        """Do it to both; answers, errors, and what was touched must be the same."""
        Counter.steps += 1
        shown = [f"{a[:12]!r}… ({len(a)})" if isinstance(a, bytes) and len(a) > 300 else repr(a) for a in arguments]
        note(f"  {act.__name__}({', '.join(shown)})")
        try:
            expected = self.on(self.plain, act, arguments)
            answer = self.on(self.mount, act, arguments)
            assert answer == expected, f"answered {_short(answer)}, should have answered {_short(expected)}"
            self.compare(touched)
        except BaseException:
            self.failed = True
            raise

    def on(self, side: Side, act: Act, arguments: tuple[Any, ...]) -> Any:
        try:
            return act(side, *arguments)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def compare(self, touched: tuple[bytes, ...]) -> None:
        paths = dict.fromkeys([*touched, *(os.path.dirname(path.rstrip(b"/.")) or b"." for path in touched)])
        for path in paths:
            self.witness.compare_path(path, contents=self.eager)
        for slot in self.plain.files:
            self.witness.compare_handle(slot)

    def look(self) -> None:
        try:
            self.witness.compare_all()
        except BaseException:
            self.failed = True
            raise

    def find(self, place: Place) -> bytes:
        return place.find(self.plain.root + b"/root")

    def path(self, place: Place) -> bytes:
        return b"root/" + self.find(place)

    # --- names

    @rule(place=NEW, mode=FOLDER_MODES, mask=MASKS)
    def mkdir(self, place: Place, mode: int, mask: int) -> None:
        path = self.path(place)
        self.both(acts.mkdir, path, mode, mask if ROOT else mask & 0o077, touched=(path,))

    @rule(place=FOLDER)
    def rmdir(self, place: Place) -> None:
        path = self.path(place)
        self.both(acts.rmdir, path, touched=(path,))

    @rule(place=THERE)
    def unlink(self, place: Place) -> None:
        path = self.path(place)
        self.both(acts.unlink, path, touched=(path,))

    @rule(place=FOLDER)
    def rmtree(self, place: Place) -> None:
        path = self.path(place)
        if path.rstrip(b"/.") != b"root" and b".." not in path:
            self.both(acts.rmtree, path, touched=(path,))

    @rule(old=THERE, new=NEW, flags=RENAME_FLAGS)
    def rename_file(self, old: Place, new: Place, flags: int) -> None:
        self.rename(self.path(old), self.path(new), flags)

    @rule(old=FOLDER, new=NEW, flags=RENAME_FLAGS)
    def rename_folder(self, old: Place, new: Place, flags: int) -> None:
        self.rename(self.path(old), self.path(new), flags)

    @rule(old=ANY, new=ANY, flags=RENAME_FLAGS)
    def rename_over(self, old: Place, new: Place, flags: int) -> None:
        self.rename(self.path(old), self.path(new), flags)

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        self.both(acts.rename, old, new, flags, touched=(old, new))

    @rule(old=THERE, new=NEW, follow=st.booleans())
    def link(self, old: Place, new: Place, follow: bool) -> None:
        paths = self.path(old), self.path(new)
        self.both(acts.link, *paths, follow, touched=paths)

    @rule(place=NEW, to=st.sampled_from(TARGETS))
    def symlink(self, place: Place, to: bytes) -> None:
        path = self.path(place)
        self.both(acts.symlink, to, path, touched=(path,))

    @rule(place=THERE)
    def readlink(self, place: Place) -> None:
        self.both(acts.readlink, self.path(place))

    @rule(place=NEW, kind=KINDS, mode=FILE_MODES, mask=MASKS)
    def mknod(self, place: Place, kind: int, mode: int, mask: int) -> None:
        path = self.path(place)
        self.both(acts.mknod, path, kind, mode, mask, touched=(path,))

    @rule(place=FOLDER)
    def listdir(self, place: Place) -> None:
        self.both(acts.listdir, self.path(place))

    # --- whole files

    @rule(place=NEW, content=WHOLE, mode=FILE_MODES, mask=MASKS)
    def create(self, place: Place, content: str, mode: int, mask: int) -> None:
        path = self.path(place)
        self.both(acts.create, path, contents()[content], mode, mask, touched=(path,))

    @rule(place=NEW | THERE, content=WHOLE)
    def save(self, place: Place, content: str) -> None:
        path = self.path(place)
        self.both(acts.save, path, contents()[content], touched=(path,))

    @rule(place=THERE, content=WHOLE, sync=st.booleans())
    def save_beside_and_rename(self, place: Place, content: str, sync: bool) -> None:
        path = self.path(place)
        self.both(acts.save_beside_and_rename, path, contents()[content], sync, touched=(path,))

    @rule(place=THERE, offset=OFFSETS, data=DATA)
    def overwrite(self, place: Place, offset: int, data: bytes) -> None:
        path = self.path(place)
        self.both(acts.overwrite, path, offset, data, touched=(path,))

    @rule(place=THERE, data=DATA)
    def append(self, place: Place, data: bytes) -> None:
        path = self.path(place)
        self.both(acts.append, path, data, touched=(path,))

    @rule(place=THERE, size=SIZES)
    def truncate(self, place: Place, size: int) -> None:
        path = self.path(place)
        self.both(acts.truncate, path, size, touched=(path,))

    @rule(old=THERE, new=NEW)
    def copy(self, old: Place, new: Place) -> None:
        paths = self.path(old), self.path(new)
        self.both(acts.copy, *paths, touched=paths)

    # --- attributes

    @rule(place=THERE, mode=FILE_MODES)
    def chmod(self, place: Place, mode: int) -> None:
        path = self.path(place)
        self.both(acts.chmod, path, mode if ROOT else mode | 0o700, touched=(path,))

    @rule(place=FOLDER, mode=FOLDER_MODES)
    def chmod_folder(self, place: Place, mode: int) -> None:
        path = self.path(place)
        self.both(acts.chmod, path, mode, touched=(path,))

    @rule(place=ANY, uid=OWNERS, gid=OWNERS, follow=st.booleans())
    def chown(self, place: Place, uid: int, gid: int, follow: bool) -> None:
        path = self.path(place)
        self.both(acts.chown, path, uid, gid, follow, touched=(path,))

    @rule(place=ANY, atime=TIMES, mtime=TIMES, follow=st.booleans())
    def utime(self, place: Place, atime: int, mtime: int, follow: bool) -> None:
        path = self.path(place)
        self.both(acts.utime, path, atime, mtime, follow, touched=(path,))

    @rule(place=ANY)
    def utime_now(self, place: Place) -> None:
        path = self.path(place)
        self.both(acts.utime_now, path, touched=(path,))

    @rule(place=ANY, name=XATTRS, value=VALUES, flags=XATTR_FLAGS, follow=st.booleans())
    def setxattr(self, place: Place, name: bytes, value: bytes, flags: int, follow: bool) -> None:
        path = self.path(place)
        self.both(acts.setxattr, path, name, value, flags, follow, touched=(path,))

    @rule(place=ANY, name=XATTRS, follow=st.booleans())
    def getxattr(self, place: Place, name: bytes, follow: bool) -> None:
        self.both(acts.getxattr, self.path(place), name, follow)

    @rule(place=ANY, name=XATTRS, follow=st.booleans())
    def removexattr(self, place: Place, name: bytes, follow: bool) -> None:
        path = self.path(place)
        self.both(acts.removexattr, path, name, follow, touched=(path,))

    # --- handles

    @rule(slot=SLOTS, place=THERE | NEW | FOLDER, flags=FLAGS, mode=FILE_MODES)
    def open(self, slot: int, place: Place, flags: int, mode: int) -> None:
        path = self.path(place)
        self.both(acts.open_, slot, path, flags, mode, touched=(path,))

    @rule(slot=SLOTS, place=THERE, more=st.sampled_from([0, 0, os.O_APPEND, os.O_TRUNC]))
    def open_file(self, slot: int, place: Place, more: int) -> None:
        path = self.path(place)
        self.both(acts.open_, slot, path, os.O_RDWR | more, 0o644, touched=(path,))

    def on_handle(self, act: Act, slot: int, *arguments: Any) -> None:
        """By a handle that is open: the next one that is, if this is not."""
        if self.plain.files:
            self.both(act, min(self.plain.files, key=lambda there: (there - slot) % 4), *arguments)

    handles_are_open = precondition(lambda self: bool(self.plain.files))

    @handles_are_open
    @rule(slot=SLOTS)
    def close(self, slot: int) -> None:
        self.on_handle(acts.close, slot)

    @handles_are_open
    @rule(slot=SLOTS, size=SIZES, offset=OFFSETS)
    def pread(self, slot: int, size: int, offset: int) -> None:
        self.on_handle(acts.pread, slot, size, offset)

    @handles_are_open
    @rule(slot=SLOTS, size=SIZES)
    def read(self, slot: int, size: int) -> None:
        self.on_handle(acts.read, slot, size)

    @handles_are_open
    @rule(slot=SLOTS, data=DATA, offset=OFFSETS)
    def pwrite(self, slot: int, data: bytes, offset: int) -> None:
        self.on_handle(acts.pwrite, slot, data, offset)

    @handles_are_open
    @rule(slot=SLOTS, data=DATA)
    def write(self, slot: int, data: bytes) -> None:
        self.on_handle(acts.write, slot, data)

    @handles_are_open
    @rule(slot=SLOTS, offset=OFFSETS, whence=st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END]))
    def lseek(self, slot: int, offset: int, whence: int) -> None:
        self.on_handle(acts.lseek, slot, offset, whence)

    @handles_are_open
    @rule(slot=SLOTS, offset=OFFSETS)
    def seek_data(self, slot: int, offset: int) -> None:
        self.on_handle(acts.skips_only_zeros, slot, offset)

    @handles_are_open
    @rule(slot=SLOTS, size=SIZES)
    def ftruncate(self, slot: int, size: int) -> None:
        self.on_handle(acts.ftruncate, slot, size)

    @handles_are_open
    @rule(slot=SLOTS, offset=OFFSETS, size=SIZES)
    def fallocate(self, slot: int, offset: int, size: int) -> None:
        self.on_handle(acts.fallocate, slot, offset, size)

    @handles_are_open
    @rule(slot=SLOTS, data_only=st.booleans())
    def fsync(self, slot: int, data_only: bool) -> None:
        self.on_handle(acts.fsync, slot, data_only)

    @handles_are_open
    @rule(slot=SLOTS, mode=FILE_MODES)
    def fchmod(self, slot: int, mode: int) -> None:
        self.on_handle(acts.fchmod, slot, mode if ROOT else mode | 0o700)

    @handles_are_open
    @rule(slot=SLOTS, atime=TIMES, mtime=TIMES)
    def futimens(self, slot: int, atime: int, mtime: int) -> None:
        self.on_handle(acts.futimens, slot, atime, mtime)

    @handles_are_open
    @rule(slot=SLOTS, name=XATTRS, value=VALUES)
    def fsetxattr(self, slot: int, name: bytes, value: bytes) -> None:
        self.on_handle(acts.fsetxattr, slot, name, value)

    @handles_are_open
    @rule(slot=SLOTS, how=LOCKS)
    def flock(self, slot: int, how: int) -> None:
        self.on_handle(acts.flock, slot, how)

    @handles_are_open
    @rule(slot=SLOTS, offset=OFFSETS, data=DATA, private=st.booleans())
    def map_and_write(self, slot: int, offset: int, data: bytes, private: bool) -> None:
        self.on_handle(acts.map_and_write, slot, offset, data, private)

    @handles_are_open
    @rule(slot=SLOTS, to=SLOTS, size=SIZES, offset=OFFSETS, to_offset=OFFSETS)
    def copy_range(self, slot: int, to: int, size: int, offset: int, to_offset: int) -> None:
        if slot in self.plain.files and to in self.plain.files:
            self.both(acts.copy_range, slot, to, size, offset, to_offset)

    @handles_are_open
    @rule(slot=SLOTS)
    def listdir_of(self, slot: int) -> None:
        self.on_handle(acts.listdir_of, slot)

    @handles_are_open
    @rule(slot=SLOTS, name=st.sampled_from(NAMES))
    def in_folder_of(self, slot: int, name: bytes) -> None:
        self.on_handle(acts.in_folder_of, slot, name)

    # --- what only a mount knows, and nobody may notice

    rarely = precondition(lambda self: self.rests < RESTS)

    def unnoticed(self, what: str, *arguments: Any) -> None:
        self.rests += 1
        Counter.steps += 1
        note(f"  {what}{arguments}")
        try:
            getattr(self.bench, what)(*arguments)
        except BaseException:
            self.failed = True
            raise

    def close_all(self) -> None:
        self.mount.close_all()
        self.plain.close_all()

    @rarely
    @rule()
    def compare_everything(self) -> None:
        self.rests += 1
        self.look()

    @rarely
    @rule()
    def flush(self) -> None:
        self.unnoticed("flush")
        self.look()

    @rarely
    @rule(place=ANY)
    def flush_part(self, place: Place) -> None:
        path = self.path(place)
        if os.path.lexists(self.plain.at(path)) and not os.path.islink(self.plain.at(path)):
            self.unnoticed("flush", os.fsdecode(self.mount.at(path)))
            self.look()

    @rarely
    @rule()
    def begin_flush(self) -> None:
        self.unnoticed("begin_flush")

    @rarely
    @rule()
    def mount_again(self) -> None:
        self.close_all()
        self.unnoticed("mount_again")
        self.look()

    @rarely
    @rule()
    def kill_and_mount_again(self) -> None:
        self.close_all()
        self.unnoticed("kill_and_mount_again")
        self.witness.forget_change_times()
        self.look()

    @rule(place=THERE, tier=TIERS)
    def move_to_tier(self, place: Place, tier: bytes) -> None:
        """Refused for what is in the source or in use; whatever it does, nobody notices."""
        path = self.path(place)
        note(f"  move {path!r} to {tier!r}")
        Counter.steps += 1
        try:
            os.setxattr(self.mount.at(path), b"user.vfsd.tier", tier)
        except OSError as error:
            note(f"  refused: {errno.errorcode[error.errno or 0]}")
        self.both(acts.listdir, b"root", touched=(path,))

    @rule()
    def statvfs(self) -> None:
        found = os.statvfs(self.mount.root)
        assert 0 < found.f_bavail <= found.f_bfree <= found.f_blocks
        assert 0 < found.f_ffree <= found.f_files
        assert found.f_namemax == 255


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) < 400 else f"{shown[:380]}… ({len(shown)})"
