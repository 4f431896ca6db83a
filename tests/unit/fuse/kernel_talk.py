"""The kernel's side of the protocol, without a kernel: requests to a `Dispatch`, and its answers from a socket."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from types import TracebackType

from vfsd.fuse.kernel.device import Device
from vfsd.fuse.kernel.dispatch import Dispatch
from vfsd.fuse.kernel.protocol import Opcode, fuse_entry_out, fuse_in_header, fuse_open_out, fuse_out_header
from vfsd.tree import Tree

# More than any answer here has.
MOST = 1 << 21
ROOT = 1


@dataclass(frozen=True, slots=True)
class Answer:
    unique: int
    error: int
    body: bytes


class Talk:
    """One conversation; a datagram socket keeps messages apart, as the device does."""

    def __init__(self, tree: Tree) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST)
        self._ours.setblocking(False)
        self.device = Device(theirs.detach())
        self.dispatch = Dispatch(tree, self.device, stack_depth=1)
        self._unique = 2

    def __enter__(self) -> Talk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.dispatch.release_all()
        self.device.close()
        self._ours.close()

    async def send(self, message: bytes) -> list[Answer]:
        """Whatever comes back for one message; notices are left out."""
        await self.dispatch.answer(memoryview(message))
        answers = []
        while True:
            try:
                got = self._ours.recv(MOST)
            except BlockingIOError:
                return answers
            length, error, unique = fuse_out_header.unpack_from(got)
            assert length == len(got), "an answer of another length than it says"
            if unique:
                assert -4096 < error <= 0
                assert error == 0 or length == fuse_out_header.size
                answers.append(Answer(unique, -error, got[fuse_out_header.size :]))

    async def ask(self, opcode: Opcode, nodeid: int, body: bytes = b"") -> Answer:
        """The one answer to a request."""
        self._unique += 2
        (answer,) = await self.send(message(opcode, nodeid, body, unique=self._unique))
        assert answer.unique == self._unique
        return answer

    async def entry(self, opcode: Opcode, nodeid: int, body: bytes) -> int:
        """The node id that a request for an entry gives."""
        answer = await self.ask(opcode, nodeid, body)
        assert answer.error == 0, os.strerror(answer.error)
        return int(fuse_entry_out.unpack_from(answer.body)[0])

    async def open(self, opcode: Opcode, nodeid: int, body: bytes) -> tuple[int, int]:
        """Handle and flags that an open gives."""
        answer = await self.ask(opcode, nodeid, body)
        assert answer.error == 0, os.strerror(answer.error)
        fh, flags, _ = fuse_open_out.unpack(answer.body[-fuse_open_out.size :])
        return fh, flags


def message(opcode: int, nodeid: int, body: bytes = b"", *, unique: int = 2) -> bytes:
    """A whole request, by us."""
    size = fuse_in_header.size + len(body)
    return fuse_in_header.pack(size, opcode, unique, nodeid, os.getuid(), os.getgid(), os.getpid(), 0, 0) + body
