"""From a request to its handler, and from what that returns or raises to the answer.

Every request that wants an answer gets exactly one. An exception in a handler becomes an errno for its caller alone, as on
every transport (`errno_of`); what is malformed is EINVAL, what nobody here serves ENOSYS, which the kernel takes for an order
never to ask again.

A request is given up only when its caller is being killed: a program that merely got a signal finishes its call, as on a disk
(the kernel sends INTERRUPT for any signal), and so does whatever changes names. A killed one must not wait for room.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import final

from vfsd.fuse.errno_of import log_and_answer
from vfsd.fuse.handles import Handles
from vfsd.fuse.kernel.attribute_requests import AttributeRequests
from vfsd.fuse.kernel.device import Buffers, Device
from vfsd.fuse.kernel.entries import Entries
from vfsd.fuse.kernel.file_requests import FileRequests
from vfsd.fuse.kernel.name_requests import NameRequests
from vfsd.fuse.kernel.negotiation import agree
from vfsd.fuse.kernel.node_ids import LookAgain, NodeIds
from vfsd.fuse.kernel.parsing import Malformed, Request, parse_body, parse_header
from vfsd.fuse.kernel.passthrough import Passthrough
from vfsd.fuse.kernel.protocol import Opcode
from vfsd.tree import Tree

log = logging.getLogger("vfsd.fuse")

Handler = Callable[[Request], Awaitable[Buffers]]

# Requests whose subject is a handle, the first field of their structure.
_ON_HANDLES = frozenset(
    {
        Opcode.READ,
        Opcode.WRITE,
        Opcode.RELEASE,
        Opcode.FSYNC,
        Opcode.READDIR,
        Opcode.READDIRPLUS,
        Opcode.RELEASEDIR,
        Opcode.FSYNCDIR,
        Opcode.FALLOCATE,
        Opcode.LSEEK,
        Opcode.COPY_FILE_RANGE,
    }
)
# Requests that may be given up half-way: they move bytes, and nobody is left to see how far they came.
_GIVEN_UP = frozenset({Opcode.READ, Opcode.WRITE, Opcode.FALLOCATE, Opcode.COPY_FILE_RANGE})
_UNANSWERED = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})
# Names of operations that several requests have in common, for the log.
_OPERATIONS: dict[int, str] = {Opcode.RENAME2: "rename", Opcode.READDIRPLUS: "readdir", Opcode.TMPFILE: "create"}
_SIGKILL_BIT = 1 << 8


@final
class Dispatch:
    """See the module."""

    def __init__(self, tree: Tree, device: Device, *, stack_depth: int) -> None:
        self._device = device
        self._stack_depth = stack_depth
        self._ids = NodeIds()
        self._entries = Entries(self._ids)
        self.handles = Handles(tree)
        self.passthrough = Passthrough(tree, device, self._ids)
        self._names = NameRequests(tree, self.handles, self._ids, self._entries)
        self._files = FileRequests(tree, self.handles, self._ids, self._entries, self.passthrough)
        self._waiting: dict[int, tuple[Request, Callable[[], None]]] = {}
        names, files, attributes = self._names, self._files, AttributeRequests(tree, self._ids, self._entries)
        self._handlers: dict[int, Handler] = {
            Opcode.INIT: self._init,
            Opcode.LOOKUP: names.lookup,
            Opcode.GETATTR: attributes.getattr,
            Opcode.SETATTR: attributes.setattr,
            Opcode.READLINK: names.readlink,
            Opcode.SYMLINK: names.symlink,
            Opcode.MKNOD: names.mknod,
            Opcode.MKDIR: names.mkdir,
            Opcode.UNLINK: names.unlink,
            Opcode.RMDIR: names.rmdir,
            Opcode.RENAME: names.rename,
            Opcode.RENAME2: names.rename,
            Opcode.LINK: names.link,
            Opcode.OPEN: files.open,
            Opcode.CREATE: files.create,
            Opcode.READ: files.read,
            Opcode.WRITE: files.write,
            Opcode.STATFS: attributes.statfs,
            Opcode.RELEASE: files.release,
            Opcode.FSYNC: files.fsync,
            Opcode.FALLOCATE: files.fallocate,
            Opcode.LSEEK: files.lseek,
            Opcode.COPY_FILE_RANGE: files.copy_file_range,
            Opcode.TMPFILE: files.tmpfile,
            Opcode.SETXATTR: attributes.setxattr,
            Opcode.GETXATTR: attributes.getxattr,
            Opcode.LISTXATTR: attributes.listxattr,
            Opcode.REMOVEXATTR: attributes.removexattr,
            Opcode.OPENDIR: names.opendir,
            Opcode.READDIR: names.readdir,
            Opcode.READDIRPLUS: names.readdirplus,
            Opcode.RELEASEDIR: names.releasedir,
            Opcode.FSYNCDIR: names.fsyncdir,
            Opcode.DESTROY: _destroy,
        }

    async def answer(self, message: memoryview, room: memoryview | None = None) -> None:
        """Answer one request; `room` is a buffer in which the answer may be made."""
        device = self._device
        try:
            request = parse_header(message)
        except Malformed as problem:
            log.error("malformed_request cause=%s", problem)
            return
        opcode, request.room = request.opcode, room
        handler = self._handlers.get(opcode)
        if handler is None and opcode not in _UNANSWERED:
            device.fail(request.unique, errno.ENOSYS)
            return
        try:
            parse_body(request, message)
        except Malformed as problem:
            log.error("malformed_request opcode=%d cause=%s", opcode, problem)
            if opcode not in _UNANSWERED:
                device.fail(request.unique, errno.EINVAL)
            return
        if handler is None:
            self._take_notice(request)
            return
        try:
            parts = await handler(request)
        except LookAgain:
            device.fail(request.unique, errno.ESTALE)
        except Exception as problem:
            device.fail(request.unique, self._errno(request, problem))
        except BaseException:  # given up
            device.fail(request.unique, errno.EINTR)
            raise
        else:
            device.answer(request.unique, parts)
        outdated = self._entries.outdated
        while outdated:
            device.forget_attributes(outdated.pop())

    def _errno(self, request: Request, problem: Exception) -> int:
        opcode = request.opcode
        operation = _OPERATIONS.get(opcode) or Opcode(opcode).name.lower()
        subject = request.fields[0] if opcode in _ON_HANDLES else self._ids.ino(request.nodeid)
        return log_and_answer(self.handles, operation, subject, problem, request.names[0] if request.names else b"")

    async def _init(self, request: Request) -> bytes:
        agreement = agree(request.data, stack_depth=self._stack_depth)
        self.passthrough.offered(agreement.passthrough)
        return agreement.answer

    # --- what wants no answer

    def _take_notice(self, request: Request) -> None:
        if request.opcode == Opcode.INTERRUPT:
            self._interrupt(request.fields[0])
            return
        for nodeid, count in self._names.forgotten(request):
            try:
                self._names.forget(nodeid, count)
            except Exception as problem:
                log_and_answer(self.handles, "forget", self._ids.ino(nodeid), problem)

    def _interrupt(self, unique: int) -> None:
        found = self._waiting.get(unique)
        if found is None:
            return  # answered meanwhile
        request, cancel = found
        if request.opcode in _GIVEN_UP and _is_being_killed(request.pid):
            cancel()

    def waits(self, message: memoryview, cancel: Callable[[], None]) -> None:
        """This request waits for something, and could be cancelled."""
        request = parse_header(message)
        self._waiting[request.unique] = request, cancel

    def waits_no_more(self, message: memoryview) -> None:
        """It is answered."""
        self._waiting.pop(parse_header(message).unique, None)

    def release_all(self) -> None:
        """The kernel is gone: give back every handle."""
        self._files.close_all()
        self.handles.release_all()


async def _destroy(request: Request) -> bytes:
    return b""


def _is_being_killed(pid: int) -> bool:
    """Whether a signal that ends it waits for a thread: those become SIGKILL for all threads (kernel/signal.c)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True  # it is gone already
    pending = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask & _SIGKILL_BIT for mask in pending)
