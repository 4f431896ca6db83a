"""OME-Zarr that others wrote, version 0.4 or 0.5, shown as TIFFs; read only.

    view = ZarrView(Path("plate.ome.zarr"))       # ForeignError: why not
    view.names(b"A/01")                           # {b"A01_f0.ome.tif": VirtualFile, …}
    view.find(b"A/01/A01_f0.tif").read_range(0, 4096)

- `folder`: the folder, which nothing leads out of; its JSON documents
- `codecs`: how chunks are encoded, Zarr v2 and v3
- `array`: an array's metadata, and where its chunks lie
- `reading`: pixels out of its chunks, through a bounded cache
- `image`: an image's metadata
- `virtual_file`: a TIFF that is made while it is read
- `view`: the tree of TIFFs

Nothing here is imported before an OME-Zarr is mounted or looked at, and zarr-python never. Callable from any thread; the
locks (in `Recent`, `ChunkReader`, `ZarrView`) are named where they are, and protect tables and memory, never the disk.
"""

from vfsd.store.foreign.folder import ForeignError
from vfsd.store.foreign.view import Folder, RealFile, ZarrView, is_ome_zarr
from vfsd.store.foreign.virtual_file import VirtualFile

__all__ = ["Folder", "ForeignError", "RealFile", "VirtualFile", "ZarrView", "is_ome_zarr"]
