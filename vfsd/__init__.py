"""vfsd: one tree over a microscope plate; new files in RAM, flushed to verified OME-Zarr, every file back byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vfsd.client import FileManager, StorageBackend, StorageRegistry, register_codec
    from vfsd.errors import DamagedFile, MissingPackage, StorageResolutionError, UnfitData, VfsdError
    from vfsd.gpu import iterate, load, save

__all__ = [
    "DamagedFile",
    "FileManager",
    "MissingPackage",
    "StorageBackend",
    "StorageRegistry",
    "StorageResolutionError",
    "UnfitData",
    "VfsdError",
    "__version__",
    "iterate",
    "load",
    "register_codec",
    "save",
]

__version__: str


def __getattr__(name: str) -> Any:
    """What is looked up only when somebody asks.

    Importing the package's metadata for `__version__` takes 25 ms, a tenth of a mount; `load` and its kin bring the store
    and the codecs.
    """
    if name in ("load", "iterate", "save"):
        import vfsd.gpu

        return getattr(vfsd.gpu, name)
    if name in ("FileManager", "StorageBackend", "StorageRegistry", "register_codec"):
        import vfsd.client

        return getattr(vfsd.client, name)
    if name in __all__ and name != "__version__":
        import vfsd.errors

        return getattr(vfsd.errors, name)
    if name != "__version__":
        raise AttributeError(f"module 'vfsd' has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("vfsd")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
