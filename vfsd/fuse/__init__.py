"""Kernel ⇄ tree: transports that serve a `vfsd.tree.Tree` through FUSE, and nothing else.

A transport translates requests into the tree's operations and its answers and errors back; it holds no file-system logic
and no state but handles. Errors become errno values in `errno_of` alone. Handlers run on the trio thread; kernel
invalidation is never called from inside one.
"""

from vfsd.fuse.pyfuse3_transport import Pyfuse3Transport

__all__ = ["Pyfuse3Transport"]
