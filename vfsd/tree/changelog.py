"""The journal's newest changes, each one record appended to a file before it is answered.

A commit of SQLite writes several pages a change; a record here is one `pwrite` of some hundred bytes, and the database takes
many changes with one commit. Promises: a record whose `append` returned is read back by `replay` after kill -9; of what
a power failure left, exactly the changes up to some moment after those that the database has. It never decides what a change
means: the journal does.

Records are numbered. The journal keeps in its database, in the same commit as the changes, the number of the last one it has
(`applied`); the file then begins anew at its start, and whatever older records lie behind the new ones is told by its numbers
and checksums.
"""

from __future__ import annotations

import errno
import marshal
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

# Payload's length, checksum of number and payload, number.
_HEAD = struct.Struct("<IIQ")
_NUMBER = struct.Struct("<Q")
# marshal's format since Python 2.5, which every later version reads.
_FORM = 2
# Records behind a damaged one that are looked for: one bad page hides no more than its 4096 bytes have, of some 80 bytes each.
LOOKED_FOR = 64

Operation = tuple[int, tuple[Any, ...]]
"""A statement's number and its values."""


@final
class ChangeLog:
    """See the module."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.size = 0

    def close(self) -> None:
        """Let go of the file; what is in it stays."""
        os.close(self._fd)

    def append(self, number: int, operations: list[Operation]) -> None:
        """Add a change; an exception leaves the log as it was, since the next record takes the same place.

        Raises
        ------
        OSError
            From the disk; ENOSPC above all.
        """
        payload = marshal.dumps(operations, _FORM)
        checksum = zlib.crc32(payload, zlib.crc32(_NUMBER.pack(number)))
        record = _HEAD.pack(len(payload), checksum, number) + payload
        if os.pwrite(self._fd, record, self.size) < len(record):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += len(record)

    def begin_anew(self) -> None:
        """All records are in the database, and so is the last one's number."""
        self.size = 0

    def clear(self) -> None:
        """As `begin_anew`, and nothing is left in the file: the numbers of records behind a torn one come again."""
        os.ftruncate(self._fd, 0)
        self.size = 0

    def is_damaged(self, applied: int) -> bool:
        """Whether a whole record lies behind one that `replay` ends at: no killed daemon leaves that, since records are written
        one after the other. A power failure may, as their pages reach the disk in any order."""
        last = max((number for number, _ in self.replay(applied)), default=applied)
        data = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        for number in range(last + 2, last + 2 + LOOKED_FOR):
            position = data.find(_NUMBER.pack(number)) - (_HEAD.size - _NUMBER.size)
            if position >= 0 and _payload_at(memoryview(data), position, number) is not None:
                return True
        return False

    def replay(self, applied: int, *, whatever: bool = False) -> Iterator[tuple[int, list[Operation]]]:
        """(number, operations) of each record after number `applied`; ends where one is missing or torn.

        `whatever` takes records also where some are missing before them: for looking at what a damaged journal left.
        """
        data = memoryview(os.pread(self._fd, os.fstat(self._fd).st_size, 0))
        position, expected = 0, None
        while len(data) - position >= _HEAD.size:
            _, _, number = _HEAD.unpack_from(data, position)
            payload = _payload_at(data, position, number)
            if payload is None or number != (expected or number):
                return
            if number > applied + 1 and expected is None and not whatever:
                return
            if number > applied:
                yield number, marshal.loads(payload)
            position, expected = position + _HEAD.size + len(payload), number + 1


def _payload_at(data: memoryview, position: int, number: int) -> memoryview | None:
    """The payload of a whole record with this number, or None."""
    if len(data) - position < _HEAD.size:
        return None
    length, checksum, _ = _HEAD.unpack_from(data, position)
    payload = data[position + _HEAD.size : position + _HEAD.size + length]
    whole = len(payload) == length and zlib.crc32(payload, zlib.crc32(_NUMBER.pack(number))) == checksum
    return payload if whole else None
