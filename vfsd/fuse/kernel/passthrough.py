"""Backing files: which open files the kernel reads by itself, and their registrations.

Only opens for reading: the kernel reopens a backing file with the flags of the program that opens it, so whoever may write
would write past the journal, past the budget, and into the source. The source's files are registered through a read-only
mount besides (`tree.source`). A file that somebody has open for writing is read through us as well, so that its readers see
every write, wherever the bytes move.

A registration is one a node id, shared by its opens. A file for which it fails, for want of rights, for the kind of its file
system, or because there are too many, is served by us.

Touched only by the trio thread.
"""

from __future__ import annotations

import errno
import logging
from typing import final

from vfsd.fuse.kernel.device import Device
from vfsd.fuse.kernel.node_ids import LookAgain, NodeIds, Opens
from vfsd.tree import Backing, Node, OpenFile, Tree

log = logging.getLogger("vfsd.fuse")

# Smaller files are served by us: a registration takes about as long as the one read request that it saves, their pages are
# cached by the kernel, and whoever has them open sees every change. Images are larger.
SMALLEST = 128 << 10


@final
class Registration:
    """A backing file that the kernel knows by a number."""

    __slots__ = ("backing", "number")

    def __init__(self, number: int, backing: Backing) -> None:
        self.number = number
        self.backing = backing


@final
class Passthrough:
    """See the module.

    Attributes
    ----------
    available : bool
        The kernel agreed to it, and has not refused us the right since.
    why_not : str
        What stands in the way, for people, while it is not.
    """

    def __init__(self, tree: Tree, device: Device, ids: NodeIds) -> None:
        self._tree = tree
        self._device = device
        self._ids = ids
        self.available = False
        self.why_not = "the kernel has not answered yet"

    def offered(self, agreed: bool) -> None:
        """What came of the first exchange with the kernel."""
        self.available = agreed
        self.why_not = "" if agreed else "the kernel offers none (Linux 6.9 with CONFIG_FUSE_PASSTHROUGH)"

    async def backing(self, handle: OpenFile) -> Backing | None:
        """The file from which the kernel could read what a handle reads now; to be given to `choose`, or released."""
        if not self.available or handle.node.size() < SMALLEST:
            return None
        return await self._tree.backings.of(handle)

    def choose(self, nodeid: int, opens: Opens, node: Node, backing: Backing | None) -> Registration | None:
        """How an open for reading is served: by the kernel from a registered file, or by us (None).

        Raises
        ------
        LookAgain
            Neither is possible with this node id.
        """
        if backing is None:
            if opens.direct:
                self._ids.renew(node, for_writer=False)
                raise LookAgain
            return None
        known = opens.registration
        if opens.through_us_only() or (known is not None and known.backing.key == backing.key):
            backing.release()
            return known
        if known is not None:
            backing.release()
            self._ids.renew(node, for_writer=False)
            raise LookAgain
        opens.registration = self._register(backing)
        return opens.registration

    def _register(self, backing: Backing) -> Registration | None:
        try:
            with backing.opened() as fd:
                return Registration(self._device.register(fd), backing)
        except OSError as error:
            backing.release()
            if error.errno == errno.EPERM:
                self.available, self.why_not = False, "registering a backing file needs CAP_SYS_ADMIN"
                log.warning("passthrough_refused cause=%s", self.why_not)
            else:
                log.debug("not_registered error=%s", error.strerror)
            return None

    def writes(self, nodeid: int, opens: Opens, node: Node) -> None:
        """Somebody is about to write, or to cut, through this node id: nothing that the kernel reads by itself may be in
        its way.

        Raises
        ------
        LookAgain
            It is.
        """
        if opens.direct:
            self._ids.renew(node, for_writer=True)
            raise LookAgain

    def close(self, nodeid: int, opens: Opens, *, direct: bool) -> None:
        """An open ended."""
        if not direct:
            opens.plain -= 1
        else:
            opens.direct -= 1
            if opens.direct == 0 and opens.registration is not None:
                registration, opens.registration = opens.registration, None
                self._device.unregister(registration.number)
                registration.backing.release()
        self._ids.tidy(nodeid)
