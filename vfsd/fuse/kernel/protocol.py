"""The structures, requests and flags of the FUSE protocol, under the names that the kernel gives them.

From the kernel's user interface, include/uapi/linux/fuse.h, up to protocol 7.41 (passthrough came with 7.40, Linux 6.9). Every
structure is a `struct.Struct` in the machine's own byte order and without padding of its own: what the kernel pads is
written out. Nothing here has state.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct

FUSE_KERNEL_VERSION = 7
FUSE_KERNEL_MINOR_VERSION = 41
# Since then INIT tells how many pages a request may have, and what came later is told by flags.
OLDEST_MINOR_VERSION = 31
FUSE_ROOT_ID = 1
FUSE_MIN_READ_BUFFER = 8192


class Opcode(IntEnum):
    """enum fuse_opcode"""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


class Notify(IntEnum):
    """enum fuse_notify_code: the `error` of a message that answers nothing."""

    INVAL_INODE = 2


class Init(IntFlag):
    """Flags of INIT; those from bit 32 on travel in `flags2`."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    HANDLE_KILLPRIV_V2 = 1 << 28
    INIT_EXT = 1 << 30
    PASSTHROUGH = 1 << 37


class FOpen(IntFlag):
    """Flags of what OPEN and OPENDIR answer."""

    KEEP_CACHE = 1 << 1
    CACHE_DIR = 1 << 3
    PASSTHROUGH = 1 << 7


class FAttr(IntFlag):
    """fuse_setattr_in.valid"""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    LOCKOWNER = 1 << 9
    CTIME = 1 << 10
    KILL_SUIDGID = 1 << 11


FUSE_WRITE_KILL_SUIDGID = 1 << 2
FUSE_OPEN_KILL_SUIDGID = 1 << 0
FUSE_FSYNC_FDATASYNC = 1 << 0

# len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
fuse_in_header = Struct("=IIQQIIIHH")
# len, error, unique
fuse_out_header = Struct("=IiQ")

# ino, size, blocks, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, nlink, uid, gid, rdev, blksize, flags.
# The kernel takes the three times for signed.
_ATTR = "QQQqqqIIIIIIIIII"
# nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec, attr
fuse_entry_out = Struct("=QQQQII" + _ATTR)
# attr_valid, attr_valid_nsec, dummy, attr
fuse_attr_out = Struct("=QII" + _ATTR)
# ino, off, namelen, type; then the name, padded to eight bytes
fuse_dirent = Struct("=QQII")

# nlookup
fuse_forget_in = Struct("=Q")
# nodeid, nlookup
fuse_forget_one = Struct("=QQ")
# count, dummy
fuse_batch_forget_in = Struct("=II")
# getattr_flags, dummy, fh
fuse_getattr_in = Struct("=IIQ")
# mode, rdev, umask, padding
fuse_mknod_in = Struct("=IIII")
# mode, umask
fuse_mkdir_in = Struct("=II")
# newdir
fuse_rename_in = Struct("=Q")
# newdir, flags, padding
fuse_rename2_in = Struct("=QII")
# oldnodeid
fuse_link_in = Struct("=Q")
# valid, padding, fh, size, lock_owner, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, unused4, uid, gid, unused5
fuse_setattr_in = Struct("=IIQQQqqqIIIIIIII")
# flags, open_flags
fuse_open_in = Struct("=II")
# flags, mode, umask, open_flags
fuse_create_in = Struct("=IIII")
# fh, open_flags, backing_id
fuse_open_out = Struct("=QIi")
# fh, flags, release_flags, lock_owner
fuse_release_in = Struct("=QIIQ")
# fh, offset, size, read_flags, lock_owner, flags, padding
fuse_read_in = Struct("=QQIIQII")
# fh, offset, size, write_flags, lock_owner, flags, padding; then the bytes
fuse_write_in = Struct("=QQIIQII")
# size, padding
fuse_write_out = Struct("=II")
# fh, fsync_flags, padding
fuse_fsync_in = Struct("=QII")
# size, flags
fuse_setxattr_in = Struct("=II")
# size, padding
fuse_getxattr_in = Struct("=II")
# size, padding
fuse_getxattr_out = Struct("=II")
# major, minor, max_readahead, flags, flags2, unused
fuse_init_in = Struct("=IIIII44x")
# What kernels before INIT_EXT send of it: without flags2.
fuse_init_in_before_ext = Struct("=IIII")
# major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages, map_alignment,
# flags2, max_stack_depth, request_timeout, unused
fuse_init_out = Struct("=IIIIHHIIHHIIH22x")
# unique
fuse_interrupt_in = Struct("=Q")
# blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding, spare
fuse_kstatfs = Struct("=QQQQQIIII24x")
# fh, offset, length, mode, padding
fuse_fallocate_in = Struct("=QQQII")
# fh, offset, whence, padding
fuse_lseek_in = Struct("=QQII")
# offset
fuse_lseek_out = Struct("=Q")
# fh_in, off_in, nodeid_out, fh_out, off_out, len, flags
fuse_copy_file_range_in = Struct("=QQQQQQQ")
# ino, off, len
fuse_notify_inval_inode_out = Struct("=Qqq")
# fd, flags, padding
fuse_backing_map = Struct("=iIQ")


def _iow(number: int, size: int) -> int:
    """The number of an ioctl that takes a structure of `size` bytes: asm-generic/ioctl.h, for the FUSE device (229)."""
    return 1 << 30 | size << 16 | 229 << 8 | number


FUSE_DEV_IOC_BACKING_OPEN = _iow(1, fuse_backing_map.size)
FUSE_DEV_IOC_BACKING_CLOSE = _iow(2, 4)
