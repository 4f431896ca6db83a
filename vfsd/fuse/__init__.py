"""Kernel ⇄ tree: transports that serve a `vfsd.tree.Tree` through FUSE, and nothing else.

A transport translates requests into the tree's operations and its answers and errors back; it holds no file-system logic
and no state but handles. Errors become errno values in `errno_of` alone. Handlers run on the trio thread; kernel
invalidation is never called from inside one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from vfsd.tree import Tree

__all__ = ["Transport", "make_transport"]


class Transport(Protocol):
    """One way of serving a tree at a mount point; see `Pyfuse3Transport` for what its methods promise."""

    @property
    def name(self) -> str:
        """As `vfsd mount --transport` has it."""

    def mount(self) -> None:
        """Mount; requests wait until `serve` runs."""

    async def serve(self) -> None:
        """Answer the kernel until the mount is gone, whoever unmounted it."""

    async def request_unmount(self) -> None:
        """Unmount; `serve` returns once the kernel has let go."""

    def passthrough(self) -> str:
        """Whether the kernel reads files by itself, for people: "yes", or what stands in the way."""

    def unmount_lazily(self) -> None:
        """Take the mount out of the tree at once; open files go on until they are closed."""


def make_transport(
    name: str, tree: Tree, mountpoint: Path, *, filesystem_name: str, options: Sequence[str]
) -> Transport:
    """The transport of this name; only its own modules are imported, so that neither needs what the other needs."""
    if name == "kernel":
        from vfsd.fuse.kernel import KernelTransport

        return KernelTransport(tree, mountpoint, filesystem_name=filesystem_name, options=options)
    from vfsd.fuse.pyfuse3_transport import Pyfuse3Transport

    return Pyfuse3Transport(tree, mountpoint, filesystem_name=filesystem_name, options=options)
