"""The transport on the kernel's own protocol: for root on new kernels with passthrough, for everyone without.

It speaks to /dev/fuse itself, and what programs open for reading the kernel reads from the tiers' and the source's files
without us, where it can (`passthrough`). One session a `KernelTransport`; several in one process are possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import trio

from vfsd.fuse.kernel.device import Device
from vfsd.fuse.kernel.dispatch import Dispatch
from vfsd.fuse.kernel.mounting import mount
from vfsd.fuse.kernel.workers import Workers
from vfsd.fuse.mount_point import MountPoint
from vfsd.tree import Tree

# This mount and the file systems of the backing files below it: two levels, the least that there can be passthrough with,
# so that an overlay may still be mounted over this one (the kernel counts to two in all).
STACK_DEPTH = 1


@final
class KernelTransport:
    """Mounts a tree and serves it; see the module. What it promises is what `Pyfuse3Transport` promises.

    Parameters
    ----------
    filesystem_name : str
        What `df` and /proc/self/mountinfo show as the source of the mount.
    options : sequence of str
        Mount options ("default_permissions", "allow_other", "ro", …).
    """

    name = "kernel"

    def __init__(self, tree: Tree, mountpoint: Path, *, filesystem_name: str, options: Sequence[str]) -> None:
        self._tree = tree
        self._mount_point = MountPoint(mountpoint)
        self._filesystem_name = filesystem_name
        self._options = options
        self._device: Device | None = None
        self._dispatch: Dispatch | None = None

    def mount(self) -> None:
        """Mount; requests wait until `serve` runs.

        Raises
        ------
        UnfitError
            The kernel or fusermount3 refused.
        """
        self._device = Device(mount(self._mount_point.path, self._filesystem_name, self._options))
        self._dispatch = Dispatch(self._tree, self._device, stack_depth=STACK_DEPTH)

    async def serve(self) -> None:
        """Answer the kernel until the mount is gone, whoever unmounted it."""
        assert self._device is not None, "mount comes first"
        assert self._dispatch is not None
        device, self._device = self._device, None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, self._mount_point.raise_read_ahead)  # answered by us
                await Workers(device, self._dispatch).run()
                nursery.cancel_scope.cancel()
        finally:
            self._dispatch.release_all()
            device.close()

    def passthrough(self) -> str:
        """Whether the kernel reads by itself, for people: "yes", or what stands in the way."""
        if self._dispatch is None:
            return "not mounted"
        return "yes" if self._dispatch.passthrough.available else self._dispatch.passthrough.why_not

    async def request_unmount(self) -> None:
        """Unmount; `serve` returns once the kernel has let go.

        Raises
        ------
        BusyError
            Programs use the mount.
        UnfitError
            The kernel or fusermount3 refused for another reason.
        """
        await trio.to_thread.run_sync(self._mount_point.unmount)

    def unmount_lazily(self) -> None:
        """Take the mount out of the tree at once; open files go on until they are closed."""
        self._mount_point.detach()
