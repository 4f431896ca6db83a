"""The process that decodes TIFFs with tifffile and imagecodecs; `decoder` starts it and talks to it.

It is a process of its own because the native decoders crash on damaged data: one changed byte in an LZW strip made
imagecodecs 2026.3.6 segfault. Here that ends nothing but this process. It is run as a script, imports nothing of vfsd,
and serves one request after another until its socket closes, or nothing was asked for `IDLE_SECONDS`.

A request is a length, JSON, and two descriptors: the TIFF, and memory of the size of all planes into which they are
written. The answer is a length and JSON: {} when all planes are there; `reason` when the file is at fault; `errno` when
reading it failed.
"""

from __future__ import annotations

import io
import json
import logging
import mmap
import os
import resource
import select
import socket
import struct
import sys
from typing import IO, TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

IDLE_SECONDS: Final = 60
"""An idle process holds 60 MB; starting another takes 0.3 s."""

LENGTH: Final = struct.Struct("<Q")


class BorrowedFile(io.RawIOBase):
    """A file descriptor as a stream with a position of its own, for tifffile.

    It has no `fileno`, so that tifffile maps nothing: others may cut the file. A read is never larger than what the
    file has left, so that no buffer is made for what a tag claims.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._position = 0
        self.failure: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("a position before the start")
        self._position = start + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._size - self._position, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        try:
            data = os.pread(self._fd, wanted, self._position)
        except OSError as problem:
            # tifffile takes an OSError for a broken TIFF in places: remember that it was the file
            self.failure = problem
            raise
        self._position += len(data)
        return data

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        with memoryview(buffer) as whole, whole.cast("B") as view:
            data = self.read(len(view))
            view[: len(data)] = data
            return len(data)


def decode_planes(tiff: int, target: int, planes: list[tuple[list[int], str, int]]) -> dict[str, Any]:
    """Decode every plane to its place in the target; the answer to send.

    Each plane is its declared shape, its dtype, and its offset in the target.
    """
    stream = BorrowedFile(tiff)
    reason = None
    try:
        _decode_into(target, stream, planes)
    except Exception as problem:
        # tifffile, imagecodecs and numpy raise some twenty kinds for broken files, MemoryError among them
        text = " ".join(str(problem).split()) or type(problem).__name__
        reason = f"damaged ({text[:120]})"
    if stream.failure is not None:
        return {"errno": stream.failure.errno}
    return {} if reason is None else {"reason": reason}


def _decode_into(target: int, stream: BorrowedFile, planes: list[tuple[list[int], str, int]]) -> None:
    import numpy as np
    import tifffile

    with mmap.mmap(target, 0) as memory, tifffile.TiffFile(cast("IO[bytes]", stream)) as file:
        for number, (shape, dtype, offset) in enumerate(planes):
            # one worker: vfsd decodes several files at once, each in a process of its own
            plane = file.pages[number].asarray(maxworkers=1)
            if plane.dtype == np.bool_:
                plane = plane.view(np.uint8)
            if plane.ndim == len(shape) + 1 and 1 in (plane.shape[0], plane.shape[-1]):
                plane = plane.reshape(plane.shape[:-1] if plane.shape[-1] == 1 else plane.shape[1:])
            if list(plane.shape) != shape or plane.dtype.newbyteorder("<") != np.dtype(dtype):
                raise ValueError(f"decoded to {plane.dtype} {plane.shape}, declared as {dtype} {tuple(shape)}")
            place = np.frombuffer(memory, dtype, plane.size, offset).reshape(shape)
            np.copyto(place, plane)
            del place  # or the memory could not be unmapped


def _limit_memory(more: int) -> None:
    """Let allocations fail that take `more` bytes beyond what the process has now."""
    with open("/proc/self/statm", "rb") as file:
        mapped = int(file.read().split()[0]) * mmap.PAGESIZE
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = mapped + more
    resource.setrlimit(resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def main() -> None:
    """Serve requests on the socket whose descriptor is the argument."""
    logging.disable()
    link = socket.socket(fileno=int(sys.argv[1]))
    import tifffile  # noqa: F401  (before memory is limited, so that the limit is for the decoding alone)

    while True:
        if not select.select([link], [], [], IDLE_SECONDS)[0]:
            return
        head, descriptors, _, _ = socket.recv_fds(link, LENGTH.size, 2, socket.MSG_WAITALL)
        if len(head) < LENGTH.size:
            return
        tiff, target = descriptors
        request = json.loads(link.recv(LENGTH.unpack(head)[0], socket.MSG_WAITALL))
        _limit_memory(request["memory"])
        answer = json.dumps(decode_planes(tiff, target, request["planes"])).encode()
        os.close(tiff)
        os.close(target)
        link.sendall(LENGTH.pack(len(answer)) + answer)


if __name__ == "__main__":
    main()
