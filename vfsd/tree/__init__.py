"""The logical tree: inodes, entries, layers, whiteouts, open files, the journal.

`Tree` is one mount's tree without FUSE: its operations take and return plain typed values and raise `OSError` with the
errno that ext4 would give, or `StoredDataDamaged`.

All state of this package belongs to the trio thread, and code between two `await`s is atomic; journal and memory change
together (`Recording.change`). The only locks are the gates of single nodes (`Layers.gate`): held while a directory's
layers are read, while a file's `data` is made, or while extended attributes are read and replaced; never two at once.
Threads get descriptors, paths and buffers, never nodes.
"""

from vfsd.tree.attributes import Changes, SpaceFigures, without_privileges
from vfsd.tree.backing import Backing
from vfsd.tree.contents import OpenFile
from vfsd.tree.names import RENAME_EXCHANGE, RENAME_NOREPLACE, Caller
from vfsd.tree.node import Attributes, Node
from vfsd.tree.tree import DirtyTotals, Tree

__all__ = [
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "Attributes",
    "Backing",
    "Caller",
    "Changes",
    "DirtyTotals",
    "Node",
    "OpenFile",
    "SpaceFigures",
    "Tree",
    "without_privileges",
]
