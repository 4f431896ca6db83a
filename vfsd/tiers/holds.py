"""Who reads tier files from outside, past us: a kernel does, for programs that have them open (passthrough).

As long as somebody does, the file is neither dropped nor spilled, and its room counts as taken, also when it is moved or not
needed any more: the kernel keeps its pages until the last reader has closed it.
"""

from __future__ import annotations

from typing import final

from vfsd.tiers.room import Room
from vfsd.tiers.tierfile import Hold, TierFile


@final
class Holds:
    """See the module. Touched only by the trio thread."""

    def __init__(self, room: Room) -> None:
        self._room = room

    def take(self, file: TierFile) -> Hold:
        """Somebody outside is to read the file that this is now; `let_go` ends it.

        What is read then nobody tells us: for the policy it counts as read through once.
        """
        self._room.policy.on_read(file.ino, 0, file.size, file.size)
        if file.hold is None:
            file.hold = Hold(file)
        file.hold.count += 1
        return file.hold

    def let_go(self, hold: Hold) -> None:
        """One of those outside reads it no more."""
        hold.count -= 1
        if hold.count:
            return
        file = hold.file
        if file.hold is not hold:  # its bytes have moved since
            self._room.take("ram", -hold.kept)
            self._room.tell()
            return
        file.hold = None
        if file.discarded and file.busy is None:
            self._room.leave(file)
        else:
            self._room.tell()
