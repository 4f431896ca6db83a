"""What scripts import: one API over every tier, on a running mount and, without one, on a tree in the process itself.

    import vfsd
    plate = vfsd.FileManager("/mnt/plate1")                      # a mount
    with vfsd.FileManager.open("/data/plate1") as plate: …       # no mount, no root; flushed and verified at the end
    plate.save(mask, "masks/A01.tif")
    mask = plate.load("masks/A01.tif")                           # the tier's own memory, read-only

- `filemanager`: `FileManager`, the API
- `registry`, `backend`: names of backends to backends; what a backend of somebody else's must do
- `tree_storage`, `tier_backends`: saving and loading on a tree, and the three built-in backends, which are its tiers
- `files`: what is needed of a tree; `mounted` and `embedded` have it, of a mount and of a tree in this process
- `tree_thread`, `opening`, `state_folder`: that tree's thread, its parts, and where it keeps them
- `codecs`: objects to the bytes of files and back, by suffix and type
- `plate_images`: the images of a plate by well, field, time, channel and z
- `conversion`: arrays of one library as those of another; `paths`: names as the tree has them

What it promises: a file is seen whole or not at all; nothing that exists is replaced unless that was asked for; an error names
the file. Everything here may be called from any thread. The one piece of state that is shared is that of a tree in the process,
which belongs to a thread of its own: `TreeThread` runs what is asked of it there, one thing after another between awaits.
The lock in `StorageRegistry` is held for dictionary operations only, as is that of `CodecTable`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vfsd.client.backend import StorageBackend
    from vfsd.client.codecs import register_codec
    from vfsd.client.filemanager import FileManager
    from vfsd.client.registry import StorageRegistry

__all__ = ["FileManager", "StorageBackend", "StorageRegistry", "register_codec"]


def __getattr__(name: str) -> Any:
    """The parts when somebody asks: `vfsd --help` needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module 'vfsd.client' has no attribute {name!r}")
    from vfsd.client import backend, codecs, filemanager, registry

    rooms = {"FileManager": filemanager, "StorageBackend": backend, "StorageRegistry": registry}
    return getattr(rooms.get(name, codecs), name)
