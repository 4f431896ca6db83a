"""The kernel's FUSE protocol, spoken on /dev/fuse itself, and FUSE passthrough.

Needs neither libfuse nor pyfuse3, and serves the same tree with the same answers. `protocol` has the structures under the
kernel's own names, `device` the descriptor, `mounting` how it comes to a mount point, `negotiation` the first exchange,
`workers` the loop that takes requests up, `requests` what is answered; `node_ids` and `passthrough` know which of the
kernel's nodes read and write without us.

All state belongs to the trio thread. Passthrough is given only to opens for reading: whoever may write asks us.
"""

from vfsd.fuse.kernel.transport import KernelTransport

__all__ = ["KernelTransport"]
