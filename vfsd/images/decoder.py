"""Processes that decode TIFFs: started when needed, kept for the next file, replaced when they die.

A damaged file may crash, stall or bloat the native decoders; it does so in `decode_worker`, whose memory and time are
limited, and the caller gets `UndecodableImage`. Planes come back in shared memory, not through a pipe.

Any number of threads may call `decode_planes`; each call has a process for itself. The one lock protects the list of
idle processes and is never held while one is started, asked, or waited for.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vfsd.images.decode_worker import LENGTH

__all__ = ["DeclaredPlane", "UndecodableImage", "decode_planes"]

WORKER: Final = Path(__file__).with_name("decode_worker.py")

ALIGNMENT: Final = 64
"""Planes begin on a cache line, so that every dtype is aligned."""

SPARE_MEMORY: Final = 256 * 1024 * 1024
"""Beyond planes and file: imports and the decoders' tables, with room."""

PATIENCE: Final = 60.0
"""Seconds that any file may take, start of the process on a busy machine included."""

SLOWEST_DECODER: Final = 5_000_000
"""Bytes a second of the slowest decoder (LZMA reaches four times this on one core)."""


class UndecodableImage(Exception):
    """The pixels of this file cannot be had.

    Parameters
    ----------
    reason : str
        A few words for the receipt, without the file's name.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class DeclaredPlane:
    """What a decoded plane has to be."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded plane."""
        return prod(self.shape) * self.dtype.itemsize


class _ProcessEnded(Exception):
    """The process, being idle, ended by itself just before it was asked."""


class _DecoderProcess:
    """One running `decode_worker`."""

    def __init__(self) -> None:
        self.fresh = True
        self._link, end = socket.socketpair()
        with ExitStack() as undo, end:
            undo.callback(self._link.close)
            self._process = subprocess.Popen(
                # -P: this folder is not to be searched for modules
                [sys.executable, "-P", str(WORKER), str(end.fileno())],
                pass_fds=[end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt from the terminal is for us to handle
            )
            undo.pop_all()

    @property
    def running(self) -> bool:
        """Whether it lives; an idle process ends by itself after a while."""
        return self._process.poll() is None

    def ask(self, request: bytes, descriptors: Sequence[int], seconds: float) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises
        ------
        UndecodableImage
            The process crashed or took too long; it is gone.
        _ProcessEnded
            It had gone before.
        """
        fresh, self.fresh = self.fresh, False
        self._link.settimeout(seconds)
        try:
            socket.send_fds(self._link, [LENGTH.pack(len(request))], descriptors)
            self._link.sendall(request)
            answer: dict[str, Any] = json.loads(self._receive(LENGTH.unpack(self._receive(LENGTH.size))[0]))
            return answer
        except TimeoutError:
            self._process.kill()
            self.close()
            raise UndecodableImage(f"damaged (not decoded after {seconds:.0f} seconds)") from None
        except (EOFError, ConnectionError):
            code = self.close()
        except BaseException:
            self._process.kill()
            self.close()
            raise
        if code == 0 and not fresh:
            raise _ProcessEnded
        ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise UndecodableImage(f"damaged (the decoder crashed, {ending})")

    def _receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            more = self._link.recv(length - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def close(self) -> int:
        """End the process; its exit code."""
        self._link.close()
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


_idle: list[_DecoderProcess] = []
_idle_lock = threading.Lock()
# a forked child has its own processes, not its parent's
os.register_at_fork(after_in_child=_idle.clear)


@atexit.register
def close_idle_decoders() -> None:
    """End all processes that are not decoding."""
    while _idle:
        with suppress(IndexError):
            _idle.pop().close()


def decode_planes(fd: int, planes: Sequence[DeclaredPlane]) -> list[npt.NDArray[Any]]:
    """Decode the planes of a TIFF whose declarations were checked.

    Parameters
    ----------
    fd : int
        The TIFF; its position is neither used nor moved.
    planes : sequence of DeclaredPlane
        One for each directory, in their order.

    Returns
    -------
    list of numpy.ndarray
        C-contiguous, exactly as declared; they share one piece of memory, which is freed with the last of them.

    Raises
    ------
    UndecodableImage
        The data are damaged, or not what was declared.
    OSError
        From reading the file, or starting a process.
    """
    offsets = []
    total = 0
    for plane in planes:
        offsets.append(total)
        total += -(-plane.nbytes // ALIGNMENT) * ALIGNMENT
    target = os.memfd_create("vfsd-decoded", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(target, total)
        # of a size that cannot change, so that no process can pull mapped memory from under this one
        fcntl.fcntl(target, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        request = {
            "planes": [(plane.shape, plane.dtype.str, offset) for plane, offset in zip(planes, offsets, strict=True)],
            # the planes mapped; of one plane, and it may be the only one: the array, its decoded strip, that strip in
            # the other byte order; and the strip as it is stored
            "memory": 4 * total + os.fstat(fd).st_size + SPARE_MEMORY,
        }
        answer = _ask(json.dumps(request).encode(), (fd, target), PATIENCE + total / SLOWEST_DECODER)
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]))
        if "reason" in answer:
            raise UndecodableImage(answer["reason"])
        memory = mmap.mmap(target, total)
    finally:
        os.close(target)
    return [
        np.frombuffer(memory, plane.dtype, prod(plane.shape), offset).reshape(plane.shape)
        for plane, offset in zip(planes, offsets, strict=True)
    ]


def _ask(request: bytes, descriptors: tuple[int, int], seconds: float) -> dict[str, Any]:
    """Have a request answered by an idle process, or a new one."""
    while True:
        with _idle_lock:
            process = _idle.pop() if _idle else None
        if process is None:
            process = _DecoderProcess()
        elif not process.running:
            process.close()
            continue
        try:
            answer = process.ask(request, descriptors, seconds)
        except _ProcessEnded:
            continue
        with _idle_lock:
            _idle.append(process)
        return answer
