"""Requests as they come from the device, taken apart: header, structure, names, bytes.

What is truncated or has another shape than the protocol gives it is `Malformed`, whatever its bytes: the parser raises
nothing else, and what it returns has every part that a handler looks at.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, NamedTuple, final

from vfsd.fuse.kernel import protocol as fuse
from vfsd.fuse.kernel.protocol import Opcode

_NO_BYTES = memoryview(b"")


class Malformed(Exception):
    """A request that is not as the protocol says."""


class Shape(NamedTuple):
    """What follows the header of a request: a structure, then so many names with a NUL each, then bytes."""

    structure: Struct | None = None
    names: int = 0
    data: bool = False


SHAPES: dict[int, Shape] = {
    Opcode.LOOKUP: Shape(names=1),
    Opcode.FORGET: Shape(fuse.fuse_forget_in),
    Opcode.BATCH_FORGET: Shape(fuse.fuse_batch_forget_in, data=True),
    Opcode.GETATTR: Shape(fuse.fuse_getattr_in),
    Opcode.SETATTR: Shape(fuse.fuse_setattr_in),
    Opcode.READLINK: Shape(),
    Opcode.SYMLINK: Shape(names=2),
    Opcode.MKNOD: Shape(fuse.fuse_mknod_in, names=1),
    Opcode.MKDIR: Shape(fuse.fuse_mkdir_in, names=1),
    Opcode.UNLINK: Shape(names=1),
    Opcode.RMDIR: Shape(names=1),
    Opcode.RENAME: Shape(fuse.fuse_rename_in, names=2),
    Opcode.RENAME2: Shape(fuse.fuse_rename2_in, names=2),
    Opcode.LINK: Shape(fuse.fuse_link_in, names=1),
    Opcode.OPEN: Shape(fuse.fuse_open_in),
    Opcode.CREATE: Shape(fuse.fuse_create_in, names=1),
    Opcode.TMPFILE: Shape(fuse.fuse_create_in, names=1),
    Opcode.READ: Shape(fuse.fuse_read_in),
    Opcode.WRITE: Shape(fuse.fuse_write_in, data=True),
    Opcode.STATFS: Shape(),
    Opcode.RELEASE: Shape(fuse.fuse_release_in),
    Opcode.FSYNC: Shape(fuse.fuse_fsync_in),
    Opcode.SETXATTR: Shape(fuse.fuse_setxattr_in, names=1, data=True),
    Opcode.GETXATTR: Shape(fuse.fuse_getxattr_in, names=1),
    Opcode.LISTXATTR: Shape(fuse.fuse_getxattr_in),
    Opcode.REMOVEXATTR: Shape(names=1),
    Opcode.INIT: Shape(data=True),
    Opcode.OPENDIR: Shape(fuse.fuse_open_in),
    Opcode.READDIR: Shape(fuse.fuse_read_in),
    Opcode.READDIRPLUS: Shape(fuse.fuse_read_in),
    Opcode.RELEASEDIR: Shape(fuse.fuse_release_in),
    Opcode.FSYNCDIR: Shape(fuse.fuse_fsync_in),
    Opcode.INTERRUPT: Shape(fuse.fuse_interrupt_in),
    Opcode.DESTROY: Shape(),
    Opcode.FALLOCATE: Shape(fuse.fuse_fallocate_in),
    Opcode.LSEEK: Shape(fuse.fuse_lseek_in),
    Opcode.COPY_FILE_RANGE: Shape(fuse.fuse_copy_file_range_in),
}
# Where the structure says how many bytes follow: its field.
_SIZE_FIELD: dict[int, int] = {Opcode.WRITE: 2, Opcode.SETXATTR: 0}


@final
class Request:
    """One request.

    Attributes
    ----------
    fields : tuple
        Of its structure, in the order of `protocol`; empty where it has none.
    names : list of bytes
        As many as its shape says, without their NUL.
    data : memoryview
        The bytes behind; they lie in the buffer that the request came in.
    room : memoryview or None
        A buffer in which the answer may be made; it is sent before the next request.
    """

    __slots__ = ("data", "fields", "gid", "names", "nodeid", "opcode", "pid", "room", "uid", "unique")

    def __init__(self, unique: int, opcode: int, nodeid: int, uid: int, gid: int, pid: int) -> None:
        self.unique = unique
        self.opcode = opcode
        self.nodeid = nodeid
        self.uid = uid
        self.gid = gid
        self.pid = pid
        self.fields: tuple[Any, ...] = ()
        self.names: list[bytes] = []
        self.data = _NO_BYTES
        self.room: memoryview | None = None


def parse_header(message: memoryview) -> Request:
    """The header alone, which is all that is needed to answer with an error; raises Malformed."""
    if len(message) < fuse.fuse_in_header.size:
        raise Malformed("a truncated header")
    length, opcode, unique, nodeid, uid, gid, pid, _, _ = fuse.fuse_in_header.unpack_from(message)
    if length != len(message):
        raise Malformed("another length than its header says")
    return Request(unique, opcode, nodeid, uid, gid, pid)


def parse_body(request: Request, message: memoryview) -> None:
    """Fill in what follows the header, by the shape of the request.

    Raises
    ------
    Malformed
        It has another one.
    KeyError
        Nothing is known of such requests.
    """
    structure, names, data = SHAPES[request.opcode]
    at = fuse.fuse_in_header.size
    if structure is not None:
        if len(message) - at < structure.size:
            raise Malformed("a truncated structure")
        request.fields = structure.unpack_from(message, at)
        at += structure.size
    if names:
        found = bytes(message[at:]).split(b"\0", names)
        if len(found) <= names:
            raise Malformed("a name without an end")
        request.names = found[:names]
        at += sum(map(len, request.names)) + names
    if data:
        request.data = message[at:]
        place = _SIZE_FIELD.get(request.opcode)
        if place is not None and request.fields[place] != len(request.data):
            raise Malformed("another number of bytes than it says")
